import type { ChosenSegment, ListedSegment } from '../../archive/listing.js'
import { StratalogError } from '../model/errors.js'
import type { LedgerHeader, LedgerSeal } from '../ports/segment-store.js'
import type { FoundLedger } from './found-ledgers.js'

/** More missing segments in one hole than this are no hole but a wrong number. */
const HOLE_MAX = 1_000_000n

/** A ledger that says which segment it stores, with its end if anything told it. */
export interface SegmentLedger {
  readonly ledger: FoundLedger
  readonly header: LedgerHeader
  readonly segment: NonNullable<LedgerHeader['segment']>
  readonly end: LedgerSeal | null
}

/** What one segment of a rebuilt index is made from. */
export type PlannedSegment =
  /** Its hot copy; `object` is what the archive has of it, unverified since the index is gone. */
  | {
      readonly kind: 'hot'
      readonly segment: bigint
      readonly from: SegmentLedger
      readonly object: ListedSegment | null
      /** Nothing is known above it: still open when the log stopped, unless it has an end. */
      readonly newest: boolean
    }
  | {
      readonly kind: 'cold'
      readonly segment: bigint
      readonly chosen: ListedSegment
      readonly twins: readonly ListedSegment[]
    }
  /** Nobody has it: `why` for people. */
  | { readonly kind: 'missing'; readonly segment: bigint; readonly why: string }

/** The ledgers of one stream by segment; what is no candidate for any stays with nobody. */
export function candidatesOf(ledgers: Iterable<FoundLedger>): Map<bigint, SegmentLedger[]> {
  const all = [...ledgers]
  // A ledger's end may be told by the next one alone: the stores are told of a seal only after the metadata were.
  const told = new Map<bigint, LedgerSeal>()
  for (const { header } of all) {
    const preceding = header?.preceding ?? null
    if (preceding !== null)
      told.set(preceding.ledgerId, {
        lastEntryId: preceding.lastEntryId,
        lengthBytes: preceding.lengthBytes,
      })
  }
  const bySegment = new Map<bigint, SegmentLedger[]>()
  for (const ledger of all) {
    const { header } = ledger
    const segment = header?.segment ?? null
    if (header === null || segment === null) continue
    const end = ledger.seal ?? told.get(ledger.ledgerId) ?? null
    const of = bySegment.get(segment.segment) ?? []
    of.push({ ledger, header, segment, end })
    bySegment.set(segment.segment, of)
  }
  return bySegment
}

/**
 * Of several ledgers that claim one segment the one that holds it. The others are what a crash left before their row
 * was there: none of them held an acknowledged record (see `beginSegment`). Null: none can be it.
 */
export function chooseLedger(candidates: readonly SegmentLedger[]): SegmentLedger | null {
  const best = candidates.filter(mayHoldRecords).sort(byClaim).at(-1)
  return best ?? null
}

function mayHoldRecords({ end, segment }: SegmentLedger): boolean {
  if (end !== null) return end.lastEntryId >= 0n
  // A restore writes with epoch 0 and adopts only what it closed: an open one was interrupted, and is written anew.
  return segment.epoch > 0n
}

/** Closed above open, with entries above empty, then the later writer's. */
function byClaim(a: SegmentLedger, b: SegmentLedger): number {
  return (
    Number(a.end !== null) - Number(b.end !== null) ||
    Number(hasEntries(a)) - Number(hasEntries(b)) ||
    compare(a.segment.epoch, b.segment.epoch) ||
    compare(a.ledger.ledgerId, b.ledger.ledgerId)
  )
}

function hasEntries({ ledger }: SegmentLedger): boolean {
  return [...ledger.copies.values()].some((entries) => entries > 0)
}

function compare(a: bigint, b: bigint): number {
  return a < b ? -1 : a > b ? 1 : 0
}

/**
 * The segments of a stream from `first` on, ascending and without a hole, from what the stores and the archive have.
 * Memory is bounded by what is hot: objects pass one after another.
 */
export async function* planSegments(
  first: bigint,
  candidates: ReadonlyMap<bigint, readonly SegmentLedger[]>,
  objects: AsyncIterable<ChosenSegment>,
): AsyncGenerator<PlannedSegment> {
  const hot = new Map<bigint, SegmentLedger>()
  for (const [segment, of] of candidates) {
    const ledger = segment < first ? null : chooseLedger(of)
    if (ledger !== null) hot.set(segment, ledger)
  }
  const numbers = [...hot.keys()].sort(compare)
  const listed = objects[Symbol.asyncIterator]()
  let object = await nextFrom(listed, first)
  let at = 0
  for (let expected = first; object !== null || at < numbers.length; ) {
    const nextHot = numbers[at] ?? null
    const lowest =
      object === null || (nextHot !== null && nextHot < object.segment) ? nextHot : object.segment
    const segment = lowest ?? expected
    yield* missing(expected, segment)
    const ledger = hot.get(segment) ?? null
    const choice: ChosenSegment | null = object?.segment === segment ? object : null
    if (ledger !== null) at += 1
    if (choice !== null) object = await nextFrom(listed, first)
    const newest = at >= numbers.length && object === null
    yield planned(segment, ledger, choice, newest)
    expected = segment + 1n
  }
}

function planned(
  segment: bigint,
  from: SegmentLedger | null,
  choice: ChosenSegment | null,
  newest: boolean,
): PlannedSegment {
  const object = choice?.kind === 'chosen' ? choice.chosen : null
  // An open ledger with no entry, and something above it: its number was used again, or it never was the segment's.
  const empty = from !== null && from.end === null && !hasEntries(from) && !newest
  if (from !== null && !empty && (object === null || usable(from, object)))
    return { kind: 'hot', segment, from, object, newest }
  if (choice?.kind === 'chosen') return { kind: 'cold', segment, chosen: choice.chosen, twins: choice.twins }
  if (choice?.kind === 'conflict')
    return {
      kind: 'missing',
      segment,
      why: `the archive has it with different content (${choice.error.message})`,
    }
  return { kind: 'missing', segment, why: 'no store holds an entry of it' }
}

/** Whether the hot copy is whole as far as the stores' lists tell: a deletion may have been cut short. */
function usable({ header, ledger, end }: SegmentLedger, object: ListedSegment): boolean {
  const last = end?.lastEntryId ?? object.parsed.lastEntryId
  const whole = [...ledger.copies.values()].some((entries) => BigInt(entries) > last)
  if (header.ensembleSize === header.writeQuorum) return whole
  return ledger.ensembles.every(({ members }) => members.every((id) => ledger.copies.has(id)))
}

function* missing(from: bigint, to: bigint): Generator<PlannedSegment> {
  if (to - from > HOLE_MAX)
    throw new StratalogError(
      'corrupt',
      `segments ${from} to ${to - 1n} are nowhere: a number that high can't be right, keep stores and archive as they are`,
    )
  for (let segment = from; segment < to; segment += 1n)
    yield { kind: 'missing', segment, why: 'neither a store nor the archive has it' }
}

async function nextFrom(listed: AsyncIterator<ChosenSegment>, first: bigint): Promise<ChosenSegment | null> {
  for (;;) {
    const next = await listed.next()
    if (next.done) return null
    if (next.value.segment >= first) return next.value
  }
}
