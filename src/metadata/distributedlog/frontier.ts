import { decodeHolds, encodeHolds } from '../../format/holds.js'
import { Dlsn } from '../../model/dlsn.js'
import { StratalogError } from '../../model/errors.js'
import type { KeptHold } from '../../model/hold.js'
import type { GapReason, Incarnation, StreamParent, TxidMode } from '../../model/segment.js'

/*
 * What we add to a stream of DistributedLog: JSON in one node outside of its tree. It does not grow with history:
 * what is cold is told by the names of its objects, and every list here holds exceptions that come and go.
 *
 *   { "format": 1, "name", "incarnation", "txidMode", "createdMs", "parent", "epoch", "archivedThrough",
 *     "trimmedBelow", "finishedMs", "deletedMs", "policy", "holds", "holdsOwed",
 *     "unverified": ["7"], "gaps": [["3","5","dropped"]], "copies": [["9","1234",null]], "hollow": ["9"],
 *     "tree": "4711", "own": "4712" }
 */

/** Segments that are decided to be a gap, both ends included. */
export interface FrontierGap {
  readonly first: bigint
  readonly last: bigint
  readonly reason: GapReason
}

/** A ledger of a segment that the tree does not name: one that is to be deleted, or one of a recalled segment. */
export interface FrontierCopy {
  readonly segment: bigint
  readonly ledgerId: bigint
  /** Until when it was recalled; null: its deletion is owed. */
  readonly untilMs: number | null
}

/** A stream as its frontier has it. */
export interface Frontier {
  readonly name: string
  readonly incarnation: Incarnation
  readonly txidMode: TxidMode
  readonly createdMs: number
  readonly parent: StreamParent | null
  /** Highest writer epoch ever given out. */
  readonly epoch: bigint
  /** Every segment up to here is in the archive, verified, or a gap, or trimmed, but for `unverified`. */
  readonly archivedThrough: bigint
  readonly trimmedBelow: Dlsn | null
  readonly finishedMs: number | null
  readonly deletedMs: number | null
  readonly policy: string | null
  readonly holds: readonly KeptHold[]
  readonly holdsOwed: boolean
  /** Segments up to `archivedThrough` that are to be copied again. */
  readonly unverified: readonly bigint[]
  readonly gaps: readonly FrontierGap[]
  readonly copies: readonly FrontierCopy[]
  /** Segments that still have a node, marked as truncated, and no hot copy any more. */
  readonly hollow: readonly bigint[]
  /** The transaction that made the stream's tree; null: not known when this was written. */
  readonly tree: bigint | null
  /** The transaction that made this node itself; null: not known when this was written. */
  readonly own: bigint | null
}

const FORMAT = 1
/** Far below the megabyte that ZooKeeper takes, and far above what exceptions ought to come to. */
const BYTES_MAX = 512 * 1024

/** What a stream begins with. */
export const FRESH_FRONTIER: Omit<Frontier, 'name' | 'incarnation' | 'txidMode' | 'createdMs' | 'parent'> = {
  epoch: 0n,
  archivedThrough: 0n,
  trimmedBelow: null,
  finishedMs: null,
  deletedMs: null,
  policy: null,
  holds: [],
  holdsOwed: false,
  unverified: [],
  gaps: [],
  copies: [],
  hollow: [],
  tree: null,
  own: null,
}

/** The node's bytes. `refused` where they are too many: somebody has to free or to archive first. */
export function encodeFrontier(frontier: Frontier): Uint8Array {
  const { parent, holds, gaps, copies } = frontier
  const text = JSON.stringify(
    {
      format: FORMAT,
      ...frontier,
      parent: parent === null ? null : { ...parent, fork: parent.fork?.toString() ?? null },
      trimmedBelow: frontier.trimmedBelow?.toString() ?? null,
      holds: holds.length === 0 ? null : encodeHolds(holds),
      gaps: gaps.map(({ first, last, reason }) => [first, last, reason]),
      copies: copies.map(({ segment, ledgerId, untilMs }) => [segment, ledgerId, untilMs]),
    },
    (_, value: unknown) => (typeof value === 'bigint' ? value.toString() : value),
  )
  const bytes = new TextEncoder().encode(text)
  if (bytes.length <= BYTES_MAX) return bytes
  throw new StratalogError(
    'refused',
    `what is to be remembered of ${frontier.name} takes ${bytes.length} bytes in ZooKeeper, ${BYTES_MAX} are the limit: let the agent free what is owed, or release holds`,
    { expected: BYTES_MAX, found: bytes.length },
  )
}

/** Reads a frontier. `version_unsupported` for a format that is not known, `corrupt` for anything that is none. */
export function decodeFrontier(bytes: Uint8Array, path: string): Frontier {
  let format: unknown
  try {
    const raw = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes)) as Record<string, unknown>
    format = raw.format
    if (format === FORMAT) return frontierOf(new Fields(raw), path)
  } catch (cause) {
    throw new StratalogError(
      'corrupt',
      `${path} is not readable: nothing of the stream is changed or deleted until it is put right`,
      { cause },
    )
  }
  throw new StratalogError(
    'version_unsupported',
    `${path} has the format ${String(format)}, ${FORMAT} is known: use the release that wrote it or a later one`,
    { expected: FORMAT, found: format },
  )
}

function frontierOf(fields: Fields, path: string): Frontier {
  const mode = fields.text('txidMode')
  if (mode !== 'ms' && mode !== 'custom') throw new Error(`txidMode is ${mode}`)
  const incarnation = fields.text('incarnation')
  if (!/^[0-9a-f]{32}$/.test(incarnation)) throw new Error('incarnation is none')
  const trimmedBelow = fields.textOrNull('trimmedBelow')
  const holds = fields.textOrNull('holds')
  return {
    name: fields.text('name'),
    incarnation,
    txidMode: mode,
    createdMs: fields.time('createdMs'),
    parent: parentOf(fields.raw.parent),
    epoch: fields.integer('epoch'),
    archivedThrough: fields.integer('archivedThrough'),
    trimmedBelow: trimmedBelow === null ? null : Dlsn.parse(trimmedBelow),
    finishedMs: fields.timeOrNull('finishedMs'),
    deletedMs: fields.timeOrNull('deletedMs'),
    policy: fields.textOrNull('policy'),
    holds: holds === null ? [] : decodeHolds(holds, path),
    holdsOwed: fields.raw.holdsOwed === true,
    unverified: fields.list('unverified', integerOf),
    gaps: fields.list('gaps', gapOf),
    copies: fields.list('copies', copyOf),
    hollow: fields.list('hollow', integerOf),
    tree: fields.integerIfThere('tree'),
    own: fields.integerIfThere('own'),
  }
}

class Fields {
  readonly raw: Readonly<Record<string, unknown>>

  constructor(raw: Readonly<Record<string, unknown>>) {
    this.raw = raw
  }

  text(name: string): string {
    const value = this.textOrNull(name)
    if (value === null) throw new Error(`${name} is absent`)
    return value
  }

  textOrNull(name: string): string | null {
    const value = this.raw[name]
    if (value === null || typeof value === 'string') return value
    throw new Error(`${name} is no text`)
  }

  integer(name: string): bigint {
    return integerOf(this.raw[name])
  }

  /** Fields that came later: who writes none of them knows none of them. */
  integerIfThere(name: string): bigint | null {
    const value = this.raw[name] ?? null
    return value === null ? null : integerOf(value)
  }

  time(name: string): number {
    return timeOf(this.raw[name])
  }

  timeOrNull(name: string): number | null {
    return this.raw[name] === null ? null : this.time(name)
  }

  list<T>(name: string, of: (value: unknown) => T): T[] {
    const value = this.raw[name]
    if (!Array.isArray(value)) throw new Error(`${name} is no list`)
    return value.map(of)
  }
}

function integerOf(value: unknown): bigint {
  if (typeof value !== 'string' || !/^\d{1,19}$/.test(value)) throw new Error(`${String(value)} is no number`)
  return BigInt(value)
}

function timeOf(value: unknown): number {
  if (typeof value !== 'number' || !Number.isSafeInteger(value))
    throw new Error(`${String(value)} is no time`)
  return value
}

function parentOf(value: unknown): StreamParent | null {
  if (value === null) return null
  const { incarnation, fork, shares } = value as Record<string, unknown>
  if (typeof incarnation !== 'string' || (fork !== null && typeof fork !== 'string'))
    throw new Error('parent is none')
  return {
    incarnation,
    fork: fork === null ? null : Dlsn.parse(fork),
    ...(shares === true ? { shares } : {}),
  }
}

function gapOf(value: unknown): FrontierGap {
  const [first, last, reason] = Array.isArray(value) ? (value as unknown[]) : []
  if (reason !== 'dropped' && reason !== 'corrupt' && reason !== 'purged')
    throw new Error('a gap without reason')
  return { first: integerOf(first), last: integerOf(last), reason }
}

function copyOf(value: unknown): FrontierCopy {
  const [segment, ledgerId, untilMs = null] = Array.isArray(value) ? (value as unknown[]) : []
  return {
    segment: integerOf(segment),
    ledgerId: integerOf(ledgerId),
    untilMs: untilMs === null ? null : timeOf(untilMs),
  }
}

/**
 * Whether the tree under a stream's name is another stream's than the one the frontier is of: Java deleted that and made
 * it anew. A ZooKeeper that was filled anew has another tree too; there the frontier's node was made anew with it. Where
 * nothing tells the two apart they count as two streams: their histories must not mix (invariants 1 and 4).
 */
export function isOfAnotherTree(
  { tree, own, deletedMs }: Frontier,
  node: { readonly czxid: bigint },
  found: { readonly czxid: bigint },
): boolean {
  if (deletedMs !== null || tree === found.czxid) return false
  // It says nothing before it is changed for the first time: it was made with its tree, or after it.
  if (tree === null) return found.czxid > node.czxid
  return own === null || own === node.czxid
}

/** The gaps with one more; neighbours of one reason become one. */
export function withGap(gaps: readonly FrontierGap[], gap: FrontierGap): FrontierGap[] {
  const sorted = [...gaps, gap].sort((a, b) => (a.first < b.first ? -1 : a.first > b.first ? 1 : 0))
  const merged: FrontierGap[] = []
  for (const one of sorted) {
    const before = merged.at(-1)
    const joins = before !== undefined && before.reason === one.reason && one.first <= before.last + 1n
    if (joins) merged.splice(-1, 1, { ...before, last: one.last > before.last ? one.last : before.last })
    else merged.push(one)
  }
  return merged
}

/** The decided gap that covers a segment. */
export function gapAt(frontier: Frontier, segment: bigint): FrontierGap | undefined {
  return frontier.gaps.find(({ first, last }) => first <= segment && segment <= last)
}
