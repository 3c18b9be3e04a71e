import { attemptsOfSegment } from '../archive/attempts.js'
import { BlockCache } from '../archive/block-cache.js'
import { readControls } from '../archive/control-objects.js'
import { binds } from '../archive/decisions.js'
import { type ListedSegment, segmentRowFromKey } from '../archive/listing.js'
import { openSegmentObject } from '../archive/segment-reader.js'
import { verifiedDigestAs, verifySegmentObject } from '../archive/segment-verify.js'
import { haveOneDigestKey } from '../src/format/archive-names.js'
import { present } from '../src/model/assert.js'
import { StratalogError } from '../src/model/errors.js'
import type { SegmentRow, StreamRow } from '../src/model/segment.js'
import type { ArchiveStore } from '../src/ports/archive-store.js'
import { hotDigest } from './cold-mend.js'
import type { TieringContext } from './context.js'
import { weighedHolds } from './holds.js'
import { confirmOwner } from './ownership.js'

const LEASE_WAIT_MS = 10_000

/** An operator chose one of several contents: it is committed, and the others are deleted. */
export interface Resolution {
  readonly segment: bigint
  /** The key that is committed now. */
  readonly chosen: string
  readonly deleted: readonly string[]
}

/**
 * Ends a conflict by an operator's order: the attempt that is named becomes the segment, the attempts with another
 * content are deleted. The chosen one is read back whole first, and where there is a hot copy it has to be the same
 * content: what was acknowledged is not overruled by a name. Holds refuse it: what they keep is for others to look at.
 *
 * Order: commit, then delete. A crash between the two leaves the conflict as it was, with another side committed.
 */
export async function resolveConflict(
  context: TieringContext,
  stream: StreamRow,
  segment: bigint,
  attempt: string,
  signal: AbortSignal,
): Promise<Resolution> {
  const archive = await present(context.archive, 'archive')(stream.incarnation)
  const name = `tiering/${stream.incarnation}`
  const lease = await context.coordination.acquire(name, { holder: context.logId, waitMs: LEASE_WAIT_MS })
  try {
    await confirmOwner(context, archive, signal)
    const row = await closedRow(context, stream, segment)
    const { attempts } = await attemptsOfSegment(archive, stream.incarnation, segment, signal)
    const chosen = attempts.find(({ parsed }) => parsed.attempt === attempt)
    if (chosen === undefined) throw noSuchAttempt(stream.name, segment, attempts)
    await verifySegmentObject(archive, chosen.key, chosen.parsed, { signal })
    const others = await unlike(archive, chosen, attempts, signal)
    await refuseHeld(context, archive, stream, chosen, others, signal)
    await refuseUnlikeHot(context, stream, row, chosen, signal)
    lease.lost.throwIfAborted()
    if (row.object?.key !== chosen.key && row.state !== 'sealed') {
      await context.index.updateSegment(row, await patchOf(archive, row, chosen, signal))
    }
    for (const { key } of others) {
      lease.lost.throwIfAborted()
      await archive.delete(key, signal)
    }
    return { segment, chosen: chosen.key, deleted: others.map(({ key }) => key) }
  } finally {
    await lease.release()
  }
}

/** The attempts with another content than the chosen one; under other keys it is digested as they are. */
async function unlike(
  archive: ArchiveStore,
  chosen: ListedSegment,
  attempts: readonly ListedSegment[],
  signal: AbortSignal,
): Promise<ListedSegment[]> {
  const others: ListedSegment[] = []
  for (const one of attempts) {
    const digest = haveOneDigestKey(one.parsed, chosen.parsed)
      ? chosen.parsed.contentDigest
      : await verifiedDigestAs(archive, chosen, one.parsed, { signal })
    if (digest !== one.parsed.contentDigest) others.push(one)
  }
  return others
}

/** What the name and the header of the chosen object say of the segment, in the place of what was committed. */
async function patchOf(
  archive: ArchiveStore,
  row: SegmentRow,
  chosen: ListedSegment,
  signal: AbortSignal,
): Promise<Partial<SegmentRow>> {
  const object = { key: chosen.key, sizeBytes: chosen.sizeBytes, indexBytes: chosen.parsed.indexBytes }
  if (chosen.parsed.contentDigest === row.contentDigest) return { object }
  const reader = await openSegmentObject(archive, object, new BlockCache(0), { signal })
  const { lastTxid, lastEntryId, lastSlot, recordCount, contentDigest } = segmentRowFromKey(chosen)
  if (
    chosen.parsed.startSequenceId !== row.startSequenceId ||
    chosen.parsed.recordCount !== row.recordCount
  ) {
    throw new StratalogError(
      'refused',
      `${chosen.key} has other sequenceIds than the segments beside it: restore the stream from the archive into another log instead`,
      { expected: row.recordCount, found: chosen.parsed.recordCount },
    )
  }
  const lengthBytes = reader.footer.lengthBytes
  return { object, lastTxid, lastEntryId, lastSlot, recordCount, contentDigest, lengthBytes }
}

async function closedRow({ index }: TieringContext, stream: StreamRow, segment: bigint): Promise<SegmentRow> {
  const row = await index.segment(stream.incarnation, segment)
  if (row === null) {
    throw new StratalogError(
      'not_found',
      `${stream.name} has no segment ${segment}: see "stratalog segment list ${stream.name}"`,
      { found: segment },
    )
  }
  if (row.state === 'sealed' || row.state === 'archived' || row.state === 'cold') return row
  throw new StratalogError(
    'refused',
    `segment ${segment} of ${stream.name} is ${row.state}: there is nothing to decide about it`,
    { found: row.state },
  )
}

async function refuseHeld(
  context: TieringContext,
  archive: ArchiveStore,
  stream: StreamRow,
  { parsed }: ListedSegment,
  others: readonly ListedSegment[],
  signal: AbortSignal,
): Promise<void> {
  if (others.length === 0) return
  const { segment, firstTxid, lastTxid, completionMs: sealedMs } = parsed
  const held = { segment, firstTxid, lastTxid, openedMs: null, sealedMs }
  const controls = await readControls(archive, stream.incarnation, undefined, signal)
  const holds = await weighedHolds(context, stream, controls)
  const hold = holds.find((one) => binds(one, held, stream.txidMode))
  if (hold === undefined) return
  throw new StratalogError(
    'refused',
    `${hold.kind} ${hold.id} stands over segment ${segment} of ${stream.name}, and what is not chosen would be deleted: release it first ("stratalog hold release ${stream.name} ${hold.id}")`,
    { found: hold.id },
  )
}

async function refuseUnlikeHot(
  context: TieringContext,
  stream: StreamRow,
  row: SegmentRow,
  chosen: ListedSegment,
  signal: AbortSignal,
): Promise<void> {
  if (row.state === 'cold' || row.ledgerId === null) return
  const digest = await hotDigest(context, row, chosen.parsed, signal)
  if (digest === chosen.parsed.contentDigest) return
  throw new StratalogError(
    'refused',
    `attempt ${chosen.parsed.attempt} is not what the hot copy of segment ${row.segment} of ${stream.name} holds (${digest.slice(0, 12)}…): choose the attempt with that content`,
    { expected: digest, found: chosen.parsed.contentDigest },
  )
}

/** Refuses with what there is to choose from. */
function noSuchAttempt(stream: string, segment: bigint, attempts: readonly ListedSegment[]): StratalogError {
  const there = attempts.map(({ parsed }) => `${parsed.attempt} (${parsed.contentDigest.slice(0, 12)}…)`)
  return new StratalogError(
    'not_found',
    there.length === 0
      ? `segment ${segment} of ${stream} has no object in the archive: see "stratalog archive ls ${stream}"`
      : `segment ${segment} of ${stream} has no such attempt: choose one of ${there.join(', ')}`,
    { found: there },
  )
}
