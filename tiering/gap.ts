import { putControl, readControls } from '../archive/control-objects.js'
import { gapsOf } from '../archive/decisions.js'
import { assert } from '../src/model/assert.js'
import { StratalogError } from '../src/model/errors.js'
import {
  canTransition,
  type GapReason,
  type Incarnation,
  type SegmentRow,
  type StreamRow,
} from '../src/model/segment.js'
import type { ArchiveStore } from '../src/ports/archive-store.js'
import type { Lease } from '../src/ports/coordination.js'
import { rowsOf, streamsOf } from './all-rows.js'
import { announceStream, nextNumber } from './announce.js'
import type { TieringContext } from './context.js'
import { releaseLedger } from './evict.js'

/** Rows of gaps that are looked at together for what the archive has not been told. */
const GAP_ROWS_MAX = 10_000

/** Segments that are not to be had, both ends included. */
export interface GapRange {
  readonly first: bigint
  readonly last: bigint
  readonly reason: GapReason
}

/**
 * Declares a range of closed segments a gap, oldest first, and returns their rows. Each segment's decision is on the
 * stores before the index has it (`RecordedIndex`), and the row is a gap before anything of it is freed: a crash in
 * between leaves whole segments or gaps that are committed, never one that is neither. Nothing is freed here:
 * `freeDropped` does that. The archive is told when it answers (`tellGaps`), a debt that rows alone state.
 * Invariants 2, 4, 5 and 8. `refused` where a segment is open, unknown, or in the archive while the reason is that it
 * was dropped.
 */
export async function commitGap(
  context: TieringContext,
  lease: Lease,
  stream: StreamRow,
  range: GapRange,
): Promise<SegmentRow[]> {
  assert(range.first >= 1n && range.last >= range.first, `a gap from ${range.first} to ${range.last}`)
  const rows: SegmentRow[] = []
  for (let segment = range.first; segment <= range.last; segment += 1n) {
    lease.lost.throwIfAborted()
    const row = await context.index.segment(stream.incarnation, segment)
    if (row?.state === 'gap') {
      // What a try before this one came to.
      rows.push(row)
      continue
    }
    if (row === null || !mayBecome(row, range.reason)) {
      const found = row?.state ?? null
      const what = `segment ${segment} of ${stream.name} is ${found ?? 'not known'}`
      const way =
        'a gap is declared only over closed segments that nothing else keeps: look at "segment list"'
      throw new StratalogError('refused', `${what}: ${way}`, { found })
    }
    rows.push(await context.index.updateSegment(row, { state: 'gap', gapReason: range.reason }))
  }
  return rows
}

function mayBecome(row: SegmentRow, reason: GapReason): boolean {
  // Invariant 4: what the archive has is not dropped; it can be evicted, or is about to be found damaged.
  return reason === 'dropped' ? row.state === 'sealed' : canTransition(row.state, 'gap')
}

/** Frees the hot copies of gaps that were committed because they are dropped; `settleDebts` finds those a crash left. */
export async function freeDropped(context: TieringContext, rows: readonly SegmentRow[]): Promise<number> {
  let freedBytes = 0
  for (const row of rows) {
    if (row.state !== 'gap' || row.gapReason !== 'dropped' || row.ledgerId === null) continue
    await releaseLedger(context, row)
    freedBytes += row.lengthBytes
  }
  return freedBytes
}

/**
 * Tells the archive of the gaps it does not know, so that it knows alone what can't be had (invariant 7). What it was
 * told is noted in the index; where that note is lost its control objects are looked at, so nothing is told twice.
 * Resolves with how many streams were told; rejects with what the archive says.
 */
export async function tellGaps(
  context: TieringContext,
  signal: AbortSignal,
  failed: TellFailed = throwIt,
): Promise<number> {
  if (context.archive === null) return 0
  let told = 0
  for await (const [incarnation, ranges] of gapsByStream(context)) {
    signal.throwIfAborted()
    const note = ranges.map(({ first, last, reason }) => `${first}-${last} ${reason}`).join(', ')
    if ((await context.index.fact(factOf(incarnation))) === note) continue
    const stream = await context.index.stream(incarnation)
    if (stream === null) continue
    try {
      const archive = await context.archive(incarnation)
      await announceStream(context, archive, stream)
      await tell(context, archive, incarnation, ranges, signal)
    } catch (error) {
      await failed(error, incarnation)
      continue
    }
    await context.index.setFact(factOf(incarnation), note)
    told += 1
  }
  return told
}

/** The gaps of every stream that has any. Where there are very many, stream by stream: not all of them at once. */
async function* gapsByStream({ index }: TieringContext): AsyncGenerator<[string, GapRange[]]> {
  const some = await index.segmentsInState(['gap'], GAP_ROWS_MAX)
  if (some.length < GAP_ROWS_MAX) {
    const byStream = new Map<string, SegmentRow[]>()
    for (const row of some) {
      const of = byStream.get(row.incarnation) ?? []
      of.push(row)
      byStream.set(row.incarnation, of)
    }
    for (const [incarnation, rows] of byStream) yield [incarnation, rangesOf(rows)]
    return
  }
  for await (const { incarnation } of streamsOf(index)) {
    const ranges: GapRange[] = []
    for await (const row of rowsOf(index, incarnation)) if (row.state === 'gap') addTo(ranges, row)
    if (ranges.length > 0) yield [incarnation, ranges]
  }
}

/** What is done where the archive of a stream can't be told: throw, or remember it and go on with the others. */
export type TellFailed = (error: unknown, incarnation: Incarnation) => Promise<void> | void

/** The first stream that can't be told of ends it. */
export const throwIt: TellFailed = (error) => {
  throw error
}

function factOf(incarnation: string): string {
  return `gaps-told/${incarnation}`
}

async function tell(
  context: TieringContext,
  archive: ArchiveStore,
  incarnation: string,
  ranges: readonly GapRange[],
  signal: AbortSignal,
): Promise<void> {
  const controls = await readControls(archive, incarnation, undefined, signal)
  const known = gapsOf(controls)
  let number = nextNumber(controls)
  for (const range of ranges) {
    const covered = known.some(({ first, last }) => first <= range.first && range.last <= last)
    if (covered) continue
    const body = { ...range, atMs: context.ledger.clock.nowMs() }
    await putControl(archive, incarnation, number, 'gap', body, context.random)
    number += 1n
  }
}

/** Neighbours of one reason as one range. Rows come in order of their numbers. */
function rangesOf(rows: readonly SegmentRow[]): GapRange[] {
  const ranges: GapRange[] = []
  for (const row of rows) addTo(ranges, row)
  return ranges
}

function addTo(ranges: GapRange[], { segment, gapReason: reason = 'corrupt' }: SegmentRow): void {
  const before = ranges.at(-1)
  if (before !== undefined && before.last + 1n === segment && before.reason === reason)
    ranges[ranges.length - 1] = { ...before, last: segment }
  else ranges.push({ first: segment, last: segment, reason })
}
