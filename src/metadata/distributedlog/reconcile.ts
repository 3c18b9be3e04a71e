import { encodeHolds } from '../../format/holds.js'
import { Dlsn } from '../../model/dlsn.js'
import { isStratalogError, type StratalogError } from '../../model/errors.js'
import { isClosed, type SegmentRow, type StreamRow } from '../../model/segment.js'
import type { Clock } from '../../ports/clock.js'
import type { LedgerMetadataStore } from '../../ports/ledger-metadata.js'
import type { Logger } from '../../ports/logger.js'
import type { SegmentIndex, SegmentPatch } from '../../ports/segment-index.js'
import { type Frontier, gapAt } from './frontier.js'
import type { StreamMirror } from './mirror.js'
import {
  archivedFrom,
  beginning,
  closedFields,
  emptyRow,
  endOfRow,
  type LedgerEnd,
  openRowOf,
  type RowEnd,
  sealedRowOf,
} from './rows.js'
import { ENDED_TXID, type SegmentNode } from './tree.js'

/** A segment whose objects in the archive differ in content: an operator decides which is right. */
export interface ColdConflict {
  readonly segment: bigint
  readonly error: StratalogError
}

/** The rows of a stream's archived segments from a number on, ascending, from the names of its objects alone. */
export type ColdRows = (incarnation: string, from: bigint) => AsyncIterable<SegmentRow | ColdConflict>

/** What bringing the cache up to date needs. */
export interface ReconcileParts {
  /** Where rows are kept between two readings of the tree: SQLite, in a file that can be deleted. */
  readonly cache: SegmentIndex
  /** Adopts closed segments of one stream in the cache, in order, all of them or none. */
  readonly adoptSegments: (rows: readonly SegmentRow[]) => Promise<void>
  readonly ledgers: Pick<LedgerMetadataStore, 'read'>
  readonly coldRows: ColdRows
  readonly clock: Clock
  readonly logger: Logger
}

/** The fact of the cache that is the highest trimmed segment whose row was removed while its node stays. */
export function forgottenFact(incarnation: string): string {
  return `forgotten/${incarnation}`
}

/** The fact of the cache that says which holds the stream's row was last brought up to date with. */
function holdsFact(incarnation: string): string {
  return `holds/${incarnation}`
}

const HOT_MAX = 1_000_000
const ADOPTED_AT_ONCE = 1_000
/** A larger hole between two segments is no hole but a wrong number. */
const HOLE_MAX = 1_000_000n
const INT64_MAX = 2n ** 63n - 1n

/**
 * Makes the cache say what the tree, the frontier and the archive's names say. A segment with a node is hot; one
 * without is cold where the archive has it, trimmed or a gap where that was decided, and else a gap: a purge was there
 * before the copy. Running it again changes nothing.
 */
export async function reconcile(parts: ReconcileParts, mirror: StreamMirror): Promise<void> {
  await new Reconciliation(parts, mirror).run()
  mirror.settled = true
}

class Reconciliation {
  readonly #parts: ReconcileParts
  readonly #mirror: StreamMirror
  readonly #cold: ColdCursor
  readonly #hollow: ReadonlySet<bigint>
  /** Numbers of segments that tree or frontier name one by one. */
  readonly #known: readonly bigint[]
  /** Beyond it there is nothing to ask the archive for. */
  readonly #highest: bigint

  constructor(parts: ReconcileParts, mirror: StreamMirror) {
    this.#parts = parts
    this.#mirror = mirror
    const { incarnation } = mirror
    this.#cold = new ColdCursor((from) => parts.coldRows(incarnation, from))
    const { tree, frontier } = mirror
    this.#hollow = new Set(frontier.hollow)
    this.#known = [
      ...(tree === null ? [] : [...tree.completed.keys(), ...tree.open.keys()]),
      ...frontier.copies.map(({ segment }) => segment),
      ...frontier.gaps.flatMap(({ first, last }) => [first, last]),
    ]
    this.#highest = this.#known.reduce(higher, frontier.archivedThrough)
  }

  async run(): Promise<void> {
    const { cache } = this.#parts
    const { incarnation } = this.#mirror
    const stream = await this.#stream()
    try {
      // Of a deleted stream the rows stay as they are, until what they name is freed.
      if (this.#mirror.frontier.deletedMs === null)
        for (const row of await cache.listHotSegments(incarnation, HOT_MAX)) await this.#settle(row)
      await this.#add(stream)
    } finally {
      await this.#cold.close()
    }
    await this.#finish()
  }

  /** The stream's row as the frontier has it. */
  async #stream(): Promise<StreamRow> {
    const { cache } = this.#parts
    const { frontier } = this.#mirror
    const { incarnation, txidMode, createdMs, parent, epoch, deletedMs } = frontier
    const name = deletedMs === null ? frontier.name : incarnation
    // Another stream had the name in a life that is over.
    const named = await cache.streamByName(name)
    if (named !== null && named.incarnation !== incarnation)
      await cache.updateStream(named.incarnation, named.version, { name: named.incarnation })
    const row =
      (await cache.stream(incarnation)) ??
      (await cache.createStream({ incarnation, name, txidMode, createdMs, parent }))
    const trimmedBelow = later(row.trimmedBelow, frontier.trimmedBelow)
    // A frontier that was made anew after ZooKeeper was filled again must not take an epoch back.
    const highest = epoch > row.epoch ? epoch : row.epoch
    // A hold counts as a change of the stream: who weighed holds before it and trims after it is refused.
    const holds = holdsText(frontier)
    const held = ((await cache.fact(holdsFact(incarnation))) ?? '') !== holds
    const same = row.name === name && row.epoch === highest && trimmedBelow === row.trimmedBelow
    if (same && !held) return row
    const changed = await cache.updateStream(incarnation, row.version, { name, epoch: highest, trimmedBelow })
    // After the row: a crash in between changes its version once more, which does no harm.
    if (held) await cache.setFact(holdsFact(incarnation), holds)
    return changed
  }

  async #finish(): Promise<void> {
    const { cache, clock } = this.#parts
    const { frontier, tree, incarnation } = this.#mirror
    const row = await cache.stream(incarnation)
    if (row === null || row.finishedMs !== null) return
    const ended = tree !== null && tree.maxTxid === ENDED_TXID
    const finishedMs =
      frontier.finishedMs ??
      (ended ? ((await cache.newestSegment(incarnation))?.sealedMs ?? clock.nowMs()) : null)
    if (finishedMs !== null) await cache.updateStream(incarnation, row.version, { finishedMs })
  }

  /** Brings a row forward that had a hot copy when the cache was last up to date. */
  async #settle(found: SegmentRow): Promise<void> {
    const { tree } = this.#mirror
    const { segment } = found
    const open = tree?.open.get(segment)
    const completed = tree?.completed.get(segment)
    let row = found
    if (!isClosed(row.state)) {
      if (completed === undefined && open !== undefined && open.metadata.ledgerId === row.ledgerId) return
      const closed = await this.#close(row, completed)
      if (closed === null) return
      row = closed
    }
    if (completed !== undefined && !this.#hollow.has(segment)) await this.#archived(row)
    else await this.#gone(row)
  }

  /** A row that was open and is not: completed, or removed because it was empty (null), or away altogether. */
  async #close(row: SegmentRow, node: SegmentNode | undefined): Promise<SegmentRow | null> {
    const { cache } = this.#parts
    const { incarnation, segment } = row
    if (node !== undefined && node.metadata.ledgerId === row.ledgerId) {
      const before = { ...endOfRow(row), nextSequenceId: row.startSequenceId }
      const fields = closedFields(node.metadata, await this.#ledgerEnd(node), before)
      const sealed = await cache.updateSegment(row, { state: 'sealed', ...fields })
      await this.#followed(sealed)
      return sealed
    }
    const newest = await cache.newestSegment(incarnation)
    // An empty segment leaves its number to the next one: what the tree has by now is another segment, and the row that
    // is not taken away would stand for it with nothing in it (invariant 1).
    const another = node !== undefined || this.#mirror.tree?.open.has(segment) === true
    if (newest?.segment === segment && (another || !this.#isAfter(segment))) {
      await cache.removeSegment(row)
      return null
    }
    const cold = await this.#cold.at(segment, this.#decided(segment) !== null)
    const { firstTxid: lastTxid, openedMs: sealedMs } = row
    const known = cold === null ? { lastTxid, sealedMs } : closedOf(cold)
    return cache.updateSegment(row, { state: 'sealed', ...known })
  }

  /** Java begins a segment before it completes the one before: only then is it known where the next one counts from. */
  async #followed(sealed: SegmentRow): Promise<void> {
    const { cache } = this.#parts
    const next = await cache.segment(sealed.incarnation, sealed.segment + 1n)
    const { nextSequenceId } = endOfRow(sealed)
    if (next === null || isClosed(next.state) || next.startSequenceId === nextSequenceId) return
    await cache.updateSegment(next, { startSequenceId: nextSequenceId })
  }

  /** Whether anybody knows of another segment with this number, or of a later one. */
  #isAfter(segment: bigint): boolean {
    return this.#highest > segment || this.#mirror.tree?.completed.has(segment) === true
  }

  async #archived(row: SegmentRow): Promise<void> {
    if (row.state !== 'sealed' || !this.#isVerified(row.segment)) return
    const cold = await this.#cold.at(row.segment, true)
    if (cold !== null) await this.#parts.cache.updateSegment(row, archivedFrom(cold))
  }

  #isVerified(segment: bigint): boolean {
    const { archivedThrough, unverified } = this.#mirror.frontier
    return segment <= archivedThrough && !unverified.includes(segment)
  }

  /** A row without a hot copy in the tree: what was decided of it, or what the archive has. */
  async #gone(found: SegmentRow): Promise<void> {
    const { cache, clock } = this.#parts
    const { frontier } = this.#mirror
    const { segment } = found
    const copy = frontier.copies.find((one) => one.segment === segment)
    // Recalled: its ledger is named by the frontier alone, and until it is given up again the row stays as it is.
    if (copy !== undefined && copy.untilMs !== null && copy.ledgerId === found.ledgerId) return
    const ledgerId = copy?.ledgerId ?? null
    let row = found
    const decided = this.#decided(segment)
    if (row.state === 'sealed' || row.state === 'archived') {
      if (decided === null && row.state === 'sealed') {
        const cold = await this.#cold.at(segment)
        if (cold !== null) row = await cache.updateSegment(row, archivedFrom(cold))
      }
      const next: SegmentPatch =
        decided ??
        (row.state === 'archived'
          ? { state: 'cold', evictedMs: clock.nowMs() }
          : { state: 'gap', gapReason: 'purged' })
      if (next.gapReason === 'purged') this.#lost(row)
      row = await cache.updateSegment(row, next)
    } else if (decided !== null && decided.state !== row.state && row.state !== 'trimmed') {
      row = await cache.updateSegment(row, decided)
    }
    // A gap that nobody decided keeps its ledger for whoever may mend it.
    const kept = row.state === 'gap' && row.gapReason !== 'dropped'
    if (!kept && row.ledgerId !== ledgerId) await cache.updateSegment(row, { ledgerId })
  }

  #decided(segment: bigint): (SegmentPatch & { readonly state: 'gap' | 'trimmed' }) | null {
    const { frontier } = this.#mirror
    if (frontier.deletedMs !== null || segment < (frontier.trimmedBelow?.segment ?? 0n))
      return { state: 'trimmed' }
    const gap = gapAt(frontier, segment)
    return gap === undefined ? null : { state: 'gap', gapReason: gap.reason }
  }

  #lost({ segment, ledgerId }: Pick<SegmentRow, 'segment' | 'ledgerId'>): void {
    const stream = this.#mirror.paths.name
    this.#parts.logger.error(
      { stream, segment: segment.toString(), ledger: ledgerId?.toString() },
      'a segment was purged before it was archived: it is a gap now; set logSegmentRetentionHours to 0 or archive sooner',
    )
  }

  /** Adds rows for the segments behind the newest row. */
  async #add(stream: StreamRow): Promise<void> {
    const { cache } = this.#parts
    const { incarnation } = this.#mirror
    const newest = await cache.newestSegment(incarnation)
    const forgotten = await cache.fact(forgottenFact(incarnation))
    const known = newest === null ? await this.#firstKnown() : newest.segment + 1n
    if (known === null) return
    const first = newest === null && forgotten !== null ? higher(known, BigInt(forgotten) + 1n) : known
    if (newest === null && first > 1n && stream.parent === null && stream.trimmedBelow === null) {
      // What Java purged before anybody looked is no part of this history.
      await cache.updateStream(incarnation, stream.version, { trimmedBelow: new Dlsn(first, 0n, 0n) })
    }
    const adding = new Adding(this.#parts, newest === null ? beginning(stream.createdMs) : endOfRow(newest))
    for (let segment = first; ; segment += 1n) {
      const row = await this.#newRow(segment, stream.epoch, adding.end)
      if (row !== null) await adding.push(row)
      else if (!this.#knownAbove(segment)) break
      else {
        this.#lost({ segment, ledgerId: null })
        adding.miss({ ...emptyRow(incarnation, segment, 'gap', adding.end, null), gapReason: 'purged' })
      }
    }
    await adding.flush()
  }

  async #firstKnown(): Promise<bigint | null> {
    const least = this.#mirror.frontier.trimmedBelow?.segment ?? 1n
    const first = this.#known.reduce(lower, INT64_MAX)
    // Nothing of a stream without a frontier was ever committed: no archive is asked for each that Java purged before.
    const asked = first > least && this.#highest > 0n && this.#mirror.hasFrontier
    const cold = asked ? await this.#cold.from(least) : null
    const lowest = lower(first, cold?.segment ?? INT64_MAX)
    return lowest === INT64_MAX ? null : lowest
  }

  #knownAbove(segment: bigint): boolean {
    return this.#highest > segment && this.#highest - segment <= HOLE_MAX
  }

  /** Null: nobody knows of the segment. */
  async #newRow(segment: bigint, epoch: bigint, before: RowEnd): Promise<SegmentRow | null> {
    const { tree, frontier, incarnation } = this.#mirror
    if (segment > this.#highest) return null
    const completed = tree?.completed.get(segment)
    const open = tree?.open.get(segment)
    const hollow = this.#hollow.has(segment)
    if (completed === undefined && open !== undefined) return openRowOf(incarnation, open, epoch, before)
    const sealed =
      completed === undefined
        ? null
        : sealedRowOf(incarnation, completed, hollow ? null : await this.#ledgerEnd(completed), before)
    if (sealed !== null && !hollow && !this.#isVerified(segment)) return sealed
    const decided = this.#decided(segment)
    const cold = await this.#cold.at(segment, decided !== null || (sealed !== null && !hollow))
    if (sealed !== null && !hollow) return cold === null ? sealed : { ...sealed, ...archivedFrom(cold) }
    const ledgerId = frontier.copies.find((copy) => copy.segment === segment)?.ledgerId ?? null
    if (decided !== null) {
      const base = cold ?? sealed ?? emptyRow(incarnation, segment, decided.state, before, ledgerId)
      return { ...base, ...decided, ledgerId }
    }
    if (cold !== null) return { ...cold, ledgerId }
    if (sealed === null) return null
    this.#lost(sealed)
    return { ...sealed, state: 'gap', gapReason: 'purged' }
  }

  /** Null: the ledger is not there any more, or not closed; then what the node says has to do. */
  async #ledgerEnd(node: SegmentNode): Promise<LedgerEnd | null> {
    const { ledgerId } = node.metadata
    try {
      const { metadata } = await this.#parts.ledgers.read(ledgerId)
      if (metadata.state !== 'CLOSED') return null
      return { lastEntryId: metadata.lastEntryId, lengthBytes: Number(metadata.lengthBytes) }
    } catch (error) {
      if (!isStratalogError(error, 'ledger_not_found')) throw error
      return null
    }
  }
}

/** Rows on their way into the cache: closed ones many at a time, and holes once it is known how much they hold. */
class Adding {
  end: RowEnd
  readonly #parts: ReconcileParts
  readonly #rows: SegmentRow[] = []
  #missing: SegmentRow[] = []

  constructor(parts: ReconcileParts, end: RowEnd) {
    this.#parts = parts
    this.end = end
  }

  miss(row: SegmentRow): void {
    this.#missing.push(row)
  }

  async push(row: SegmentRow): Promise<void> {
    await this.#fill(row.startSequenceId)
    this.end = endOfRow(row)
    if (isClosed(row.state)) {
      this.#rows.push(row)
      if (this.#rows.length >= ADOPTED_AT_ONCE) await this.flush()
      return
    }
    await this.flush()
    await this.#parts.cache.beginSegment(row)
  }

  /** The first segment of a hole counts all that is missing. */
  async #fill(nextSequenceId: bigint): Promise<void> {
    const from = this.end.nextSequenceId
    for (const [at, row] of this.#missing.entries()) {
      const recordCount = at === 0 && nextSequenceId > from ? nextSequenceId - from : 0n
      const startSequenceId = at === 0 ? from : nextSequenceId
      this.#rows.push({ ...row, recordCount, startSequenceId })
      if (this.#rows.length >= ADOPTED_AT_ONCE) await this.flush()
    }
    this.#missing = []
  }

  async flush(): Promise<void> {
    await this.#parts.adoptSegments(this.#rows.splice(0))
  }
}

/** The archive's names, read once and only if they are needed. Asked in ascending order. */
class ColdCursor {
  readonly #list: (from: bigint) => AsyncIterable<SegmentRow | ColdConflict>
  #rows: AsyncIterator<SegmentRow | ColdConflict> | null = null
  #next: SegmentRow | ColdConflict | null = null

  constructor(list: (from: bigint) => AsyncIterable<SegmentRow | ColdConflict>) {
    this.#list = list
  }

  /**
   * Null: the archive has none. Throws the conflict of objects that differ: the segment is not missing (invariant 8).
   * `known`: it is hot, or was decided, so that an archive that can't be used is as good as none.
   */
  async at(segment: bigint, known = false): Promise<SegmentRow | null> {
    const next = await this.from(segment)
    if (next?.segment !== segment) return null
    if (!('error' in next)) return next
    if (!known) throw next.error
    return null
  }

  /** The first one with this number or above; it stays the next. */
  async from(segment: bigint): Promise<SegmentRow | ColdConflict | null> {
    if (this.#rows === null) {
      this.#rows = this.#list(segment)[Symbol.asyncIterator]()
      this.#next = await this.#read()
    }
    while (this.#next !== null && this.#next.segment < segment) this.#next = await this.#read()
    return this.#next
  }

  async close(): Promise<void> {
    await this.#rows?.return?.()
  }

  async #read(): Promise<SegmentRow | ColdConflict | null> {
    const read = await this.#rows?.next()
    return read === undefined || read.done === true ? null : read.value
  }
}

function holdsText({ holds }: Frontier): string {
  return holds.length === 0 ? '' : encodeHolds(holds)
}

function lower(one: bigint, other: bigint): bigint {
  return one < other ? one : other
}

function higher(one: bigint, other: bigint): bigint {
  return one > other ? one : other
}

function later(one: Dlsn | null, other: Dlsn | null): Dlsn | null {
  if (one === null || other === null) return one ?? other
  return other.compare(one) > 0 ? other : one
}

function closedOf(row: SegmentRow): SegmentPatch {
  const { firstTxid, startSequenceId, lastTxid, lastEntryId, lastSlot, recordCount, lengthBytes, sealedMs } =
    row
  return { firstTxid, startSequenceId, lastTxid, lastEntryId, lastSlot, recordCount, lengthBytes, sealedMs }
}
