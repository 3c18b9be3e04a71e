import { openEnvelope } from '../format/entry.js'
import { decodeProducers, type ProducersRecord } from '../format/producers.js'
import { decodeRecords } from '../format/record.js'
import { LedgerReader } from '../ledger/reader.js'
import { present } from '../model/assert.js'
import { isStratalogError, StratalogError } from '../model/errors.js'
import type { ProducerState } from '../model/producer.js'
import { isHot, type SegmentRow } from '../model/segment.js'
import { type KnownProducers, remember } from './producers.js'
import type { EntryReader, SegmentContext } from './segment-writer.js'

/** Segments that are looked back through for a snapshot; each of them had no room for one. */
const SEGMENTS_BACK_MAX = 1_000
/** How long opening a writer waits for an archive that is asked for producers. */
const LOAD_TIMEOUT_MS = 5_000
const READ_BYTES = 1024 * 1024

/**
 * What the closed history of a stream says of its producers: the last entry leads to the last snapshot, in its
 * segment or, where that had no room for one, in the segment before. Gaps are passed over, and said so. Never rejects:
 * a stream whose producers can't be known can still be appended to without them.
 */
export async function loadProducers(
  context: SegmentContext,
  newest: SegmentRow | null,
): Promise<KnownProducers> {
  try {
    return { states: await withinTime(context, load(context, newest)) }
  } catch (error) {
    if (isStratalogError(error, 'unsupported')) return { unknown: error }
    const unknown = new StratalogError(
      'store_unavailable',
      `what producers appended can't be read now (${error instanceof Error ? error.message : String(error)}): try again, or append without a producer`,
      { cause: error, retryable: true },
    )
    context.ledger.logger.warn({ err: error }, 'producers of a stream could not be read')
    return { unknown }
  }
}

/** An archive that hangs must not hold up those who append without a producer. */
function withinTime<T>(context: SegmentContext, work: Promise<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    const timer = context.ledger.clock.setTimer(LOAD_TIMEOUT_MS, () =>
      reject(new StratalogError('timeout', `no answer within ${LOAD_TIMEOUT_MS} ms`, { retryable: true })),
    )
    work.finally(() => timer.cancel()).then(resolve, reject)
  })
}

/** A segment from whose entry `from` on the states are. */
interface Part {
  readonly row: SegmentRow
  readonly entries: EntryReader
  readonly from: bigint
  /** Whether nothing older is needed. */
  readonly hasSnapshot: boolean
}

async function load(context: SegmentContext, newest: SegmentRow | null): Promise<Map<string, ProducerState>> {
  const parts: Part[] = []
  const gaps: SegmentRow[] = []
  for (let row = newest; row !== null; ) {
    // History that ended takes its producers along.
    if (row.state === 'trimmed') break
    if (parts.length >= SEGMENTS_BACK_MAX) throw noSnapshot(row)
    if (row.state === 'gap') gaps.push(row)
    else {
      const part = await openPart(context, row)
      if (part === null) break
      parts.push(part)
      if (part.hasSnapshot) break
    }
    row = await context.index.segment(row.incarnation, row.segment - 1n)
  }
  const states = new Map<string, ProducerState>()
  for (const part of parts.reverse()) await replay(part, states)
  if (gaps.length > 0) tellGaps(context, gaps, states)
  return states
}

/** The newest part of what a segment says; null: it says of no producers, and there were none before it. */
async function openPart(context: SegmentContext, row: SegmentRow): Promise<Part | null> {
  const entries = await openEntries(context, row)
  const [last] = await entries.readEntries(row.lastEntryId, row.lastEntryId, 1)
  const record = producersOf(present(last, 'last entry').payload, row)
  if (record === null) return null
  const here = record.kind === 'snapshot' ? row.lastEntryId : record.snapshotEntry
  return { row, entries, from: here < 0n ? 0n : here, hasSnapshot: here >= 0n }
}

/**
 * A gap is committed: what it held is known to be gone for good, so that waiting for it would be for ever. What is
 * older than it goes on to count, and whoever looks after the log is told what does not
 * (docs/decisions/0032-producers-past-a-gap.md).
 */
function tellGaps(
  context: SegmentContext,
  gaps: readonly SegmentRow[],
  states: ReadonlyMap<string, ProducerState>,
): void {
  context.ledger.logger.warn(
    {
      stream: present(gaps[0], 'gap').incarnation,
      segments: gaps.map(({ segment, gapReason }) => `${segment} (${gapReason ?? 'corrupt'})`),
      producers: states.size,
    },
    'what producers appended in a gap is forgotten: its records are appended again if they are sent again',
  )
}

async function replay({ row, entries, from }: Part, states: Map<string, ProducerState>): Promise<void> {
  for (let next = from; next <= row.lastEntryId; ) {
    const run = await entries.readEntries(next, row.lastEntryId, READ_BYTES)
    for (const { payload } of run) {
      const record = producersOf(payload, row)
      if (record?.kind === 'snapshot') states.clear()
      for (const state of record?.producers ?? []) remember(states, state)
    }
    next += BigInt(run.length)
  }
}

async function openEntries(context: SegmentContext, row: SegmentRow): Promise<EntryReader> {
  if (isHot(row)) return LedgerReader.open(context.ledger, present(row.ledgerId, 'ledger'))
  if (row.object !== null && context.openCold !== undefined) return context.openCold(row)
  throw new StratalogError('store_unavailable', `segment ${row.segment} is ${row.state} and can't be read`)
}

/** The producers an entry tells of; null: it has no control record. */
function producersOf(payload: Uint8Array, row: SegmentRow): ProducersRecord | null {
  const control = decodeRecords(openEnvelope(payload)).findLast((record) => record.control)
  if (control === undefined) return null
  const record = decodeProducers(control.payload)
  if (record !== null) return record
  throw new StratalogError(
    'unsupported',
    `segment ${row.segment} was written by a writer that keeps no producers: what they appended before can't be known; append without a producer, or to another stream`,
    { found: row.segment },
  )
}

function noSnapshot(row: SegmentRow): StratalogError {
  return new StratalogError(
    'unsupported',
    `the producers of the stream are in none of ${SEGMENTS_BACK_MAX} segments down to ${row.segment}: append without a producer`,
    { found: row.segment },
  )
}
