import { present } from '../model/assert.js'
import { isStratalogError, StratalogError } from '../model/errors.js'
import { TXID_MAX } from '../model/record.js'
import { isClosed, type SegmentRow, type StreamRow } from '../model/segment.js'
import type { Coordination } from '../ports/coordination.js'
import { loadProducers } from './load-producers.js'
import type { KnownProducers } from './producers.js'
import { finishedError } from './refusals.js'
import type { StreamTail, StreamWriterOptions } from './segment-pipe.js'
import { recoverSegment, type SegmentContext } from './segment-writer.js'
import { StreamWriter } from './stream-writer.js'

/** How often a compare-and-set of the writer epoch is tried again when another changed the row meanwhile. */
const EPOCH_ROUNDS_MAX = 8

/**
 * Becomes the writer of a stream: takes its lease, raises its epoch (so that an older writer starts no segment any
 * more), recovers what the last writer left open, then continues its numbering. Invariant 3.
 */
export async function openWriter(
  context: SegmentContext,
  coordination: Coordination,
  stream: StreamRow,
  options: StreamWriterOptions,
): Promise<StreamWriter> {
  const lease = await coordination.acquire(`writer/${stream.incarnation}`, { holder: 'writer', waitMs: 0 })
  try {
    const claimed = await raiseEpoch(context, stream)
    const newest = await recoverNewest(context, stream)
    if (newest?.lastTxid === TXID_MAX) await finishEnded(context, claimed, newest)
    refuseHalfRestored(claimed, newest)
    const producers = await loadProducers(context, newest)
    return new StreamWriter(context, options, lease, tailOf(claimed, newest, producers))
  } catch (error) {
    await lease.release()
    throw error
  }
}

async function raiseEpoch(context: SegmentContext, stream: StreamRow): Promise<StreamRow> {
  for (let round = 1; ; round += 1) {
    const row = present(await context.index.stream(stream.incarnation), `stream ${stream.name}`)
    if (row.finishedMs !== null) throw finishedError(row.name, row.finishedMs)
    try {
      return await context.index.updateStream(row.incarnation, row.version, { epoch: row.epoch + 1n })
    } catch (error) {
      if (!isStratalogError(error, 'conflict') || round >= EPOCH_ROUNDS_MAX) throw error
    }
  }
}

/** Recovers the newest segment if its writer left it open; the newest closed one, or null for a stream without any. */
async function recoverNewest(context: SegmentContext, stream: StreamRow): Promise<SegmentRow | null> {
  for (;;) {
    const newest = await context.index.newestSegment(stream.incarnation)
    if (newest === null || isClosed(newest.state)) return newest
    const recovered = await recoverSegment(context, newest)
    if (recovered !== null) return recovered
    // It was empty and is gone; its number may be used again (FORMATS.md §5.4). Look at the one before it.
  }
}

/**
 * The last writer died between the record that ends the stream and the row that says so. Readers may have seen the
 * record, so nothing may come behind it: the row is brought up to it.
 */
async function finishEnded(context: SegmentContext, stream: StreamRow, newest: SegmentRow): Promise<never> {
  const finishedMs = newest.sealedMs ?? context.ledger.clock.nowMs()
  for (let round = 1; ; round += 1) {
    const row = present(await context.index.stream(stream.incarnation), `stream ${stream.name}`)
    if (row.finishedMs !== null) throw finishedError(row.name, row.finishedMs)
    try {
      await context.index.updateStream(row.incarnation, row.version, { finishedMs })
    } catch (error) {
      if (!isStratalogError(error, 'conflict') || round >= EPOCH_ROUNDS_MAX) throw error
    }
  }
}

/**
 * A restore that was interrupted has segments to come: a record appended now would be at the position of one that is
 * in the archive, and neither of the two could be had beside the other.
 */
function refuseHalfRestored(stream: StreamRow, newest: SegmentRow | null): void {
  const fork = stream.parent?.fork ?? null
  if (fork === null) return
  const through = fork.entry === 0n && fork.slot === 0n ? fork.segment - 1n : fork.segment
  const last = newest?.segment ?? (stream.trimmedBelow?.segment ?? 1n) - 1n
  if (last >= through) return
  throw new StratalogError(
    'refused',
    `${stream.name} is restored up to segment ${last} of ${through}: run the same "stratalog restore" again to its end before you append`,
    { expected: through, found: last },
  )
}

function tailOf(stream: StreamRow, newest: SegmentRow | null, producers: KnownProducers): StreamTail {
  if (newest === null) {
    // A restored stream may have a trim point and no segment: what were written below it could not be read.
    const nextSegment = stream.trimmedBelow?.segment ?? 1n
    return { stream, newest, nextSegment, nextSequenceId: 0n, lastTxid: -1n, producers }
  }
  return {
    stream,
    newest,
    nextSegment: newest.segment + 1n,
    nextSequenceId: newest.startSequenceId + newest.recordCount,
    lastTxid: newest.lastTxid,
    producers,
  }
}
