import type { LedgerContext } from '../ledger/context.js'
import type { BookieDto, ImpactCounts, ImpactDto, ImpactPart } from '../model/control-bookkeeper.js'
import { isStratalogError, StratalogError } from '../model/errors.js'
import type { LedgerMetadata } from '../model/ledger.js'
import { writeSet } from '../model/quorum.js'
import type { SegmentRow, StreamRow } from '../model/segment.js'
import type { SegmentIndex } from '../ports/segment-index.js'
import type { LiveBookies } from './bookies.js'

const STREAMS_PAGE = 100
const ROWS_PAGE = 1_000
/** Metadata of so many ledgers are asked for side by side. */
const LEDGERS_AT_ONCE = 64

/** What the check looks at. */
export interface ImpactParts {
  readonly ledger: Pick<LedgerContext, 'metadata'>
  readonly index: SegmentIndex
  readonly bookies: LiveBookies
  /** Stores that the largest quorum of any stream needs. */
  readonly needed: () => Promise<number>
  /** The name that an unknown one is near to, or null. */
  readonly nearest: (name: string, names: readonly string[]) => string | null
}

/** Bookies as they would be without the one in question. */
export interface Rest {
  readonly bookie: string
  /** Those that can be read. */
  readonly up: ReadonlySet<string>
  /** Those that could take copies. */
  readonly writable: readonly string[]
}

type Counts = { -readonly [K in keyof ImpactCounts]: ImpactCounts[K] }

const nothing = (): Counts => ({ ledgers: 0, open: 0, belowAck: 0, unreadable: 0, irreplaceable: 0 })

/**
 * What a ledger would be without a bookie; null: it has no copy there. Any of the flags is of some of its entries. By
 * metadata alone: that a copy the metadata name is really there is for the scrub of the bookies to say.
 */
export function impactOf(metadata: LedgerMetadata, rest: Rest): Omit<ImpactCounts, 'ledgers'> | null {
  const { ensembles, state, lastEntryId, ackQuorum } = metadata
  let found: Counts | null = null
  for (const [at, { firstEntryId, members }] of ensembles.entries()) {
    const end = ensembles[at + 1]?.firstEntryId ?? null
    const last = lesser(end === null ? null : end - 1n, state === 'CLOSED' ? lastEntryId : null)
    if (!members.includes(rest.bookie) || (last !== null && last < firstEntryId)) continue
    found ??= { ...nothing(), open: state === 'CLOSED' ? 0 : 1 }
    const left = fewestLeft(metadata, { firstEntryId, members }, last, rest)
    // The bookie may hold none of the few entries that this ensemble has.
    if (left === null) continue
    if (left < ackQuorum) found.belowAck = 1
    if (left === 0) found.unreadable = 1
    if (!rest.writable.some((id) => !members.includes(id))) found.irreplaceable = 1
  }
  return found
}

/** Null: there is no bound. */
function lesser(a: bigint | null, b: bigint | null): bigint | null {
  if (a === null || b === null) return a ?? b
  return a < b ? a : b
}

/** The fewest copies on bookies that are up, of the entries the bookie is to hold; null: it holds none. */
function fewestLeft(
  { ensembleSize, writeQuorum }: LedgerMetadata,
  { firstEntryId, members }: LedgerMetadata['ensembles'][number],
  last: bigint | null,
  { bookie, up }: Rest,
): number | null {
  let fewest: number | null = null
  // Entries are striped round-robin: after as many as there are members it begins anew.
  for (let entry = firstEntryId; entry < firstEntryId + BigInt(ensembleSize); entry += 1n) {
    if (last !== null && entry > last) break
    const holders = writeSet(entry, ensembleSize, writeQuorum).map((index) => members[index] ?? '')
    if (!holders.includes(bookie)) continue
    const left = holders.filter((id) => id !== bookie && up.has(id)).length
    fewest = Math.min(fewest ?? left, left)
  }
  return fewest
}

/**
 * What it would mean to take a bookie away: stream by stream of this namespace, then over all ledgers of the cluster,
 * whoever wrote them. Reads metadata only, in bounded memory however many there are. `not_found`: there is no such one.
 */
export async function* checkImpact(
  parts: ImpactParts,
  bookie: string,
  signal?: AbortSignal,
): AsyncGenerator<ImpactPart, void, undefined> {
  const state = await stateOf(parts, bookie)
  const all = parts.bookies.all().filter(({ id }) => id !== bookie)
  const writable = all.filter(({ readOnly }) => !readOnly).map(({ id }) => id)
  const rest = { bookie, up: new Set(all.map(({ id }) => id)), writable }
  const tally = { own: 0, checked: 0 }
  for await (const stream of streamsOf(parts.index)) {
    const found = await streamImpact(parts, stream, rest, tally, signal)
    if (found !== null) yield found
    yield { type: 'progress', checked: tally.checked, stream: stream.name }
  }
  const total = nothing()
  let unknown = 0
  for (let after = -1n; ; ) {
    signal?.throwIfAborted()
    const ids = await parts.ledger.metadata.list(after, LEDGERS_AT_ONCE)
    const last = ids.at(-1)
    if (last === undefined) break
    unknown += await addImpacts(parts, ids, rest, total)
    tally.checked += ids.length
    yield { type: 'progress', checked: tally.checked, stream: null }
    after = last
  }
  const needed = await parts.needed()
  // What was begun meanwhile may be in the one count and not in the other.
  const others = Math.max(0, total.ledgers - tally.own)
  const found = { ...total, bookie, state, writableLeft: writable.length, needed, others, unknown }
  const why = reasons(found)
  yield { type: 'done', impact: { ...found, safe: why.length === 0, why } }
}

async function stateOf({ bookies, nearest }: ImpactParts, bookie: string): Promise<BookieDto['state']> {
  const live = bookies.all().find(({ id }) => id === bookie)
  if (live !== undefined) return live.readOnly ? 'read-only' : 'writable'
  const known = await bookies.known()
  if (known.includes(bookie)) return 'down'
  const near = nearest(bookie, [...known, ...bookies.all().map(({ id }) => id)])
  throw new StratalogError(
    'not_found',
    `there is no bookie ${bookie} in the cluster: ${near === null ? 'see "stratalog bookkeeper status"' : `did you mean ${near}?`}`,
    { found: bookie },
  )
}

async function* streamsOf(index: SegmentIndex): AsyncGenerator<StreamRow, void, undefined> {
  for (let after = ''; ; ) {
    const page = await index.listStreams(after, STREAMS_PAGE)
    yield* page
    const last = page.at(-1)
    if (last === undefined || page.length < STREAMS_PAGE) return
    after = last.name
  }
}

/** Null: no segment of the stream has a copy there. */
async function streamImpact(
  parts: ImpactParts,
  { incarnation, name }: StreamRow,
  rest: Rest,
  tally: { own: number; checked: number },
  signal: AbortSignal | undefined,
): Promise<ImpactPart | null> {
  const counts = nothing()
  let first: bigint | undefined
  let end = 0n
  // What is cold has no copies, and there may be very much of it.
  const [oldest] = await parts.index.listHotSegments(incarnation, 1)
  for (let from: bigint | null = oldest?.segment ?? null; from !== null; ) {
    const page = await parts.index.listSegments(incarnation, from, ROWS_PAGE)
    const hot = page.filter((row): row is SegmentRow & { ledgerId: bigint } => row.ledgerId !== null)
    for (let at = 0; at < hot.length; at += LEDGERS_AT_ONCE) {
      signal?.throwIfAborted()
      const some = hot.slice(at, at + LEDGERS_AT_ONCE)
      const impacts = await Promise.all(some.map(({ ledgerId }) => impactOn(parts, ledgerId, rest)))
      for (const [i, impact] of impacts.entries()) {
        const segment = some[i]?.segment ?? 0n
        if (impact === null || impact === 'unknown') continue
        add(counts, impact)
        first ??= segment
        end = segment
      }
      tally.checked += some.length
    }
    const last = page.at(-1)
    from = last === undefined || page.length < ROWS_PAGE ? null : last.segment + 1n
  }
  tally.own += counts.ledgers
  if (first === undefined) return null
  return {
    type: 'stream',
    stream: name,
    firstSegment: `${first}`,
    lastSegment: `${end}`,
    ...counts,
  }
}

/** Adds what becomes of these ledgers; how many of them could not be looked at. */
async function addImpacts(
  parts: ImpactParts,
  ids: readonly bigint[],
  rest: Rest,
  total: Counts,
): Promise<number> {
  const impacts = await Promise.all(ids.map((id) => impactOn(parts, id, rest)))
  for (const impact of impacts) if (impact !== null && impact !== 'unknown') add(total, impact)
  return impacts.filter((impact) => impact === 'unknown').length
}

/** Unknown is no "nothing there": metadata that can't be read may name the bookie. */
async function impactOn(
  { ledger }: ImpactParts,
  ledgerId: bigint,
  rest: Rest,
): Promise<Omit<ImpactCounts, 'ledgers'> | null | 'unknown'> {
  try {
    return impactOf((await ledger.metadata.read(ledgerId)).metadata, rest)
  } catch (error) {
    // Deleted since it was listed.
    if (isStratalogError(error, 'ledger_not_found')) return null
    if (isStratalogError(error, 'corrupt') || isStratalogError(error, 'version_unsupported')) return 'unknown'
    throw error
  }
}

function add(total: Counts, impact: Omit<ImpactCounts, 'ledgers'>): void {
  total.ledgers += 1
  for (const key of ['open', 'belowAck', 'unreadable', 'irreplaceable'] as const) total[key] += impact[key]
}

function reasons(found: Omit<ImpactDto, 'safe' | 'why'>): string[] {
  const { unreadable, belowAck, irreplaceable, unknown, writableLeft, needed } = found
  const ledgers = (count: number) => `${count} ${count === 1 ? 'ledger' : 'ledgers'}`
  const why: string[] = []
  if (unreadable > 0)
    why.push(
      `entries of ${ledgers(unreadable)} would have no copy on a bookie that is up: they could not be read`,
    )
  if (belowAck > unreadable)
    why.push(
      `entries of ${ledgers(belowAck - unreadable)} would have fewer copies than their acknowledgement took: one more loss may take them`,
    )
  if (irreplaceable > 0)
    why.push(
      `no bookie that takes writes could take the copies of ${ledgers(irreplaceable)}: start another first`,
    )
  if (writableLeft < needed)
    why.push(
      `${writableLeft} bookies that take writes would be left and segments want ${needed}: they would be begun with fewer copies, or not at all`,
    )
  if (unknown > 0) why.push(`the metadata of ${ledgers(unknown)} can't be read here: they may name it`)
  return why
}
