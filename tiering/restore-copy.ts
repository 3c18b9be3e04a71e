import { attemptsOfSegment } from '../archive/attempts.js'
import { isKeyLost } from '../archive/keys.js'
import type { ListedSegment } from '../archive/listing.js'
import { contentDigestOf } from '../archive/object-index.js'
import type { ContentDigest } from '../archive/restore-digest.js'
import { openSegmentObject } from '../archive/segment-reader.js'
import type { ArchivedEntry } from '../archive/segment-writer.js'
import { encodeEnvelope } from '../src/format/entry.js'
import { entryHeaderBytes } from '../src/format/ledger-digest.js'
import { endOfStreamRecord } from '../src/format/record.js'
import type { SegmentObjectMeta } from '../src/format/segment-object-meta.js'
import { LedgerWriter } from '../src/ledger/writer.js'
import { isStratalogError, StratalogError } from '../src/model/errors.js'
import { TXID_MAX } from '../src/model/record.js'
import { NOT_CLOSED, type SegmentRow, type StreamRow } from '../src/model/segment.js'
import type { ArchiveStore } from '../src/ports/archive-store.js'
import { entriesUntil, wholeEntries } from './restore-cut.js'
import type { RestorableSegment, RestoreTarget } from './restore-types.js'

const UNDER_WAY_MAX = 8

/** Where a restored stream goes on. */
export interface RestoredEnd {
  readonly nextSequenceId: bigint
  readonly lastTxid: bigint
  readonly sealedMs: number
}

/**
 * Writes one segment's entries into a new ledger, entry ids as they were, and adopts it once its content digest is
 * the one in the object's name. A crash before that leaves a ledger nobody refers to; the next run writes another.
 * A damaged object gives way to its twins, and so does one whose key the archive has lost; rejects with `corrupt` or
 * `object_not_found` where none of them is whole, with `key_missing` or `version_unsupported` where one of them may be
 * and can't be read.
 */
export async function restoreSegment(
  target: RestoreTarget,
  archive: ArchiveStore,
  stream: StreamRow,
  planned: RestorableSegment,
  signal?: AbortSignal,
): Promise<SegmentRow> {
  let damage: unknown = null
  let unread: unknown = null
  for await (const object of objectsOf(archive, planned, signal)) {
    try {
      return await restoreFrom(target, archive, stream, planned, object, signal)
    } catch (error) {
      if (!isDamage(error) && !isKeyLost(error) && !isNewer(error)) throw error
      const { logger } = target.ledger
      logger.warn({ err: error, key: object.key }, 'an object can not be read, its twins are tried')
      if (isDamage(error)) damage ??= error
      else unread ??= error
    }
  }
  // What could not be read may be whole: it is not to become a gap (invariant 8).
  throw unread ?? damage
}

/** Those of the plan, then what has been written since: an archive in use mends and rewrites objects meanwhile. */
async function* objectsOf(
  archive: ArchiveStore,
  planned: RestorableSegment,
  signal?: AbortSignal,
): AsyncGenerator<ListedSegment> {
  const known = [planned, ...planned.twins]
  yield* known
  const { incarnation, segment, contentDigest } = planned.parsed
  const { attempts } = await attemptsOfSegment(archive, incarnation, segment, signal)
  yield* attempts.filter(
    ({ key, parsed }) => parsed.contentDigest === contentDigest && !known.some((one) => one.key === key),
  )
}

/** A flipped bit in its version makes an object look like that of a later release; a twin tells. */
function isNewer(error: unknown): error is StratalogError {
  return isStratalogError(error, 'version_unsupported')
}

/** What an object's own bytes are to blame for. An archive that does not answer says nothing about them. */
export function isDamage(error: unknown): error is StratalogError {
  return isStratalogError(error, 'corrupt') || isStratalogError(error, 'object_not_found')
}

async function restoreFrom(
  target: RestoreTarget,
  archive: ArchiveStore,
  stream: StreamRow,
  planned: RestorableSegment,
  { key, sizeBytes, parsed }: ListedSegment,
  signal?: AbortSignal,
): Promise<SegmentRow> {
  const object = await openSegmentObject(archive, { key, sizeBytes, indexBytes: parsed.indexBytes })
  const meta = await object.header(signal)
  const { restored, cut } = planned
  const ledger = await LedgerWriter.create(target.ledger, {
    quorum: target.quorum(stream.name),
    preceding: null,
    segment: {
      incarnation: stream.incarnation,
      stream: stream.name,
      segment: restored.segment,
      epoch: 0n,
      openedMs: meta.openedMs,
      firstTxid: restored.firstTxid,
      startSequenceId: restored.startSequenceId,
    },
  })
  try {
    const entries =
      cut === null ? wholeEntries(object, signal) : entriesUntil(object, restored.segment, cut, signal)
    const found = await writeEntries(entries, ledger, await contentDigestOf(archive, restored, signal))
    if (found !== restored.contentDigest) {
      throw new StratalogError(
        'corrupt',
        `${key} does not hold what its name says: restore from another copy of the archive`,
        { expected: restored.contentDigest, found },
      )
    }
  } catch (error) {
    ledger.abandon(
      error instanceof StratalogError
        ? error
        : new StratalogError('internal', 'restore was interrupted', { cause: error }),
    )
    throw error
  }
  const seal = await ledger.close()
  return target.index.adoptSegment(restoredRow(stream, planned, meta, ledger.ledgerId, seal.lengthBytes))
}

/**
 * The record that ends a stream, in a segment of its own: what a log whose readers ask the stream's row archived has
 * none, and DistributedLog's readers wait for it. As a writer of ours leaves it behind a stream that was sealed before.
 */
export async function restoreEnd(
  target: RestoreTarget,
  stream: StreamRow,
  segment: bigint,
  before: RestoredEnd,
  endedMs: number,
): Promise<SegmentRow> {
  const firstTxid = before.lastTxid < 0n ? 0n : before.lastTxid
  const start = { segment, epoch: 0n, openedMs: endedMs, firstTxid, startSequenceId: before.nextSequenceId }
  const { incarnation, name } = stream
  const ledger = await LedgerWriter.create(target.ledger, {
    quorum: target.quorum(name),
    preceding: null,
    segment: { incarnation, stream: name, ...start },
  })
  const payload = encodeEnvelope(endOfStreamRecord(0), 'none')
  const buffer = Buffer.concat([Buffer.alloc(entryHeaderBytes(ledger.digestType)), payload])
  await ledger.append(buffer, payload.length)
  const seal = await ledger.close()
  return target.index.adoptSegment({
    ...NOT_CLOSED,
    ...start,
    incarnation,
    state: 'sealed',
    ledgerId: ledger.ledgerId,
    lastTxid: TXID_MAX,
    lastEntryId: 0n,
    lastSlot: 0n,
    recordCount: 0n,
    lengthBytes: seal.lengthBytes,
    sealedMs: endedMs,
  })
}

async function writeEntries(
  entries: AsyncIterable<ArchivedEntry>,
  ledger: LedgerWriter,
  digest: ContentDigest,
): Promise<string> {
  const room = entryHeaderBytes(ledger.digestType)
  const underWay: Promise<unknown>[] = []
  for await (const { entryId, payload } of entries) {
    digest.entry(entryId, payload)
    const buffer = Buffer.allocUnsafe(room + payload.length)
    buffer.set(payload, room)
    const written = ledger.append(buffer, payload.length)
    // The rejection is seen where it is awaited; until then it must not count as unhandled.
    written.catch(() => {})
    underWay.push(written)
    while (underWay.length > UNDER_WAY_MAX) await underWay.shift()
  }
  await Promise.all(underWay)
  return digest.hex()
}

function restoredRow(
  stream: StreamRow,
  { restored }: RestorableSegment,
  meta: SegmentObjectMeta,
  ledgerId: bigint,
  lengthBytes: number,
): SegmentRow {
  return {
    ...NOT_CLOSED,
    incarnation: stream.incarnation,
    segment: restored.segment,
    state: 'sealed',
    epoch: 0n,
    ledgerId,
    firstTxid: restored.firstTxid,
    startSequenceId: restored.startSequenceId,
    openedMs: meta.openedMs,
    lastTxid: restored.lastTxid,
    lastEntryId: restored.lastEntryId,
    lastSlot: restored.lastSlot,
    recordCount: restored.recordCount,
    lengthBytes,
    sealedMs: restored.completionMs,
    // A keyed digest belongs to the stream it was read from: nothing here could be compared with it.
    contentDigest: restored.keyId === undefined ? restored.contentDigest : null,
  }
}

/** The row of a segment that is not to be had; `nextSequenceId`: where the next one begins, null where nobody knows. */
export function restoredGapRow(
  stream: StreamRow,
  segment: bigint,
  before: RestoredEnd,
  nextSequenceId: bigint | null,
): SegmentRow {
  const beyond = nextSequenceId ?? before.nextSequenceId
  return {
    ...NOT_CLOSED,
    incarnation: stream.incarnation,
    segment,
    state: 'gap',
    epoch: 0n,
    ledgerId: null,
    startSequenceId: before.nextSequenceId,
    recordCount: beyond > before.nextSequenceId ? beyond - before.nextSequenceId : 0n,
    firstTxid: before.lastTxid,
    lastTxid: before.lastTxid,
    openedMs: before.sealedMs,
    sealedMs: before.sealedMs,
  }
}
