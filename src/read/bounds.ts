import { Dlsn } from '../model/dlsn.js'
import { StratalogError } from '../model/errors.js'
import type { Position } from '../model/position.js'
import { isClosed, type StreamRow } from '../model/segment.js'
import type { ReadContext, ReadRange } from './context.js'
import { locate, timeOf } from './locate.js'
import { locating } from './open-source.js'

/** Where a read begins and ends, as far as that is known before the first record is read. */
export interface Bounds {
  from: Dlsn
  readonly until: Dlsn | null
  /** A txid that ends the read even where its DLSN is not known yet. */
  readonly untilTxid: bigint | null
  readonly untilSequenceId: bigint | null
  /** Records below are passed over: the start lies beyond the end as it was, and only a follower gets there. */
  readonly fromTxid: bigint | null
  readonly fromSequenceId: bigint | null
  left: number
  /** The caller named a position that may lie below what is kept. */
  readonly explicit: boolean
}

/** Turns what a reader asked for into bounds. Rejects where that is nowhere in the stream. */
export async function resolveBounds(
  context: ReadContext,
  stream: StreamRow,
  range: ReadRange,
): Promise<Bounds> {
  if (range.from !== undefined && range.after !== undefined) {
    throw new StratalogError(
      'invalid_argument',
      'a read takes either from (inclusive) or after (exclusive), not both',
    )
  }
  const left = range.limit ?? Number.POSITIVE_INFINITY
  if (left !== Number.POSITIVE_INFINITY && (!Number.isSafeInteger(left) || left < 0)) {
    throw new StratalogError('invalid_argument', `limit ${left} is not a count: use a whole number from 0`, {
      found: left,
    })
  }
  range.signal?.throwIfAborted()
  const located = locating(context, range.signal)
  const start = range.after ?? range.from ?? 'earliest'
  const found = await locate(located, stream, start, range.after !== undefined)
  const from = (await isForgotten(context, stream, start, range)) ? Dlsn.first : found
  await checkInRange(context, stream, start, from, range.follow ?? false)
  const { until } = range
  const open = {
    from,
    left,
    explicit: start instanceof Dlsn || namesSequenceId(start),
    untilTxid: null,
    untilSequenceId: null,
    ...lowerBound(stream, start, range, located.nowMs()),
  }
  if (until === undefined || until === 'earliest') {
    return { ...open, until: until === undefined ? null : from }
  }
  // A position beyond the present end has no DLSN yet: such a read ends by what the records say.
  if (typeof until === 'object' && !(until instanceof Dlsn)) {
    if ('txid' in until) return { ...open, until: null, untilTxid: until.txid }
    if ('sequenceId' in until) return { ...open, until: null, untilSequenceId: until.sequenceId }
  }
  return untilTime(located, stream, until, open)
}

function namesSequenceId(start: Position): start is { readonly sequenceId: bigint } {
  return typeof start === 'object' && 'sequenceId' in start
}

/**
 * Whether a sequenceId lies below the oldest segment there is a row of: nothing tells any more where it was, only that it
 * is trimmed. Such a read begins with a gap from the first position on.
 */
async function isForgotten(
  { index }: ReadContext,
  stream: StreamRow,
  start: Position,
  range: ReadRange,
): Promise<boolean> {
  if (!namesSequenceId(start) || stream.trimmedBelow === null) return false
  const wanted = start.sequenceId + (range.after === undefined ? 0n : 1n)
  const [oldest] = await index.listSegments(stream.incarnation, 0n, 1)
  return oldest !== undefined && wanted < oldest.startSequenceId
}

/** A DLSN or sequenceId beyond the end is a mistake of the caller's, unless the end is still to come. */
export async function checkInRange(
  context: ReadContext,
  stream: StreamRow,
  start: Position,
  from: Dlsn,
  follow: boolean,
): Promise<void> {
  if (follow || typeof start !== 'object' || 'txid' in start || 'time' in start) return
  const newest = await context.index.newestSegment(stream.incarnation)
  const out = (found: string, end: string) =>
    new StratalogError(
      'position_out_of_range',
      `${found} lies beyond the end of ${stream.name} (${end}): read from "latest" or follow`,
      { expected: end, found },
    )
  if (start instanceof Dlsn) {
    const last = newest?.segment ?? 0n
    if (start.segment < 1n)
      throw new StratalogError(
        'position_out_of_range',
        `${start} lies before the first position there can be, ${Dlsn.first}: read from "earliest"`,
        { expected: Dlsn.first.toString(), found: start.toString() },
      )
    if (from.compare(new Dlsn(last + 1n, 0n, 0n)) > 0) throw out(start.toString(), `segment ${last}`)
  } else if (newest !== null && isClosed(newest.state)) {
    const end = newest.startSequenceId + newest.recordCount
    if (start.sequenceId > end) throw out(`seq:${start.sequenceId}`, `seq:${end}`)
  } else if (newest === null && start.sequenceId > 0n) throw out(`seq:${start.sequenceId}`, 'seq:0')
}

function lowerBound(
  stream: StreamRow,
  start: Position,
  range: ReadRange,
  nowMs: number,
): { fromTxid: bigint | null; fromSequenceId: bigint | null } {
  const none = { fromTxid: null, fromSequenceId: null }
  if (typeof start !== 'object' || start instanceof Dlsn) return none
  const beyond = range.after === undefined ? 0n : 1n
  if ('sequenceId' in start) return { ...none, fromSequenceId: start.sequenceId + beyond }
  if ('txid' in start) return { ...none, fromTxid: start.txid + beyond }
  return stream.txidMode === 'ms' ? { ...none, fromTxid: BigInt(timeOf(start.time, nowMs)) + beyond } : none
}

async function untilTime(
  located: Parameters<typeof locate>[0],
  stream: StreamRow,
  until: Position,
  open: Omit<Bounds, 'until'>,
): Promise<Bounds> {
  if (typeof until === 'object' && 'time' in until && stream.txidMode === 'ms') {
    return { ...open, until: null, untilTxid: BigInt(Math.max(0, timeOf(until.time, located.nowMs()))) }
  }
  return { ...open, until: await locate(located, stream, until, false) }
}
