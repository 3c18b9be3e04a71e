import { ARCHIVE_OWNER_FACT, listControlKeys, putControl } from '../archive/control-objects.js'
import { assert, present } from '../src/model/assert.js'
import { Dlsn } from '../src/model/dlsn.js'
import { StratalogError } from '../src/model/errors.js'
import { isClosed, type SegmentRow, type StreamRow } from '../src/model/segment.js'
import type { ArchiveStore } from '../src/ports/archive-store.js'
import type { Lease } from '../src/ports/coordination.js'
import { nextNumber } from './announce.js'
import type { TieringContext } from './context.js'
import { forgetTrimmed, releaseLedger, releaseObject } from './evict.js'
import { confirmOwner } from './ownership.js'

/**
 * Ends the old end of a stream, up to and with segment `through`, in both tiers; returns how many segments that were.
 * Order: one marker in the archive, so that the archive alone knows it was ended on purpose; the index; then the
 * copies, oldest first. A crash after the marker repeats it (the largest trim wins); after the index `settleDebts`
 * deletes what is left. Invariants 5 and 8.
 */
export async function trimThrough(
  context: TieringContext,
  lease: Lease,
  stream: StreamRow,
  through: bigint,
  signal: AbortSignal,
  answered: () => void,
): Promise<number> {
  const rows = await trimmable(context, stream, through)
  if (context.archive === null && rows.some((row) => row.object !== null)) {
    throw new StratalogError(
      'archive_missing',
      `${stream.name} has history in an archive and none is configured: nothing is trimmed without its marker there; name the archive again`,
    )
  }
  const below = new Dlsn(through + 1n, 0n, 0n)
  if (context.archive !== null) await markTrimmed(context, await context.archive(), stream, below)
  answered()
  lease.lost.throwIfAborted()
  // Read again: an unreadable or changed row means that nothing is deleted.
  const fresh = present(await context.index.stream(stream.incarnation), 'stream')
  // Forward only, as in the archive: a crash may have left rows below a mark that already lies further on.
  if (fresh.trimmedBelow === null || fresh.trimmedBelow.compare(below) < 0) {
    await context.index.updateStream(stream.incarnation, fresh.version, { trimmedBelow: below })
  }
  for (const row of rows) {
    signal.throwIfAborted()
    const trimmed = await context.index.updateSegment(row, { state: 'trimmed' })
    const released = await releaseObject(context, await releaseLedger(context, trimmed), signal)
    await forgetTrimmed(context, released)
    answered()
  }
  return rows.length
}

async function trimmable(context: TieringContext, stream: StreamRow, through: bigint): Promise<SegmentRow[]> {
  const rows: SegmentRow[] = []
  for (
    let row = await context.index.oldestSegment(stream.incarnation);
    row !== null && row.segment <= through;
  ) {
    assert(isClosed(row.state), `segment ${row.segment} is ${row.state} and can't be trimmed`)
    rows.push(row)
    row = await context.index.segment(stream.incarnation, row.segment + 1n)
  }
  return rows.filter((row) => row.state !== 'trimmed')
}

async function markTrimmed(
  context: TieringContext,
  archive: ArchiveStore,
  stream: StreamRow,
  below: Dlsn,
): Promise<void> {
  // One that was taken over is another's to trim; in one that nobody owns yet a marker does no harm.
  if ((await context.index.fact(ARCHIVE_OWNER_FACT)) !== null) await confirmOwner(context, archive)
  const controls = await listControlKeys(archive, stream.incarnation)
  // This version writes no holds; one that another version wrote binds all the same (DESIGN: holds bind trims).
  const held = controls.find(({ kind }) => kind === 'hold' || kind === 'pin')
  if (held !== undefined) {
    throw new StratalogError(
      'refused',
      `${stream.name} has a ${held.kind} in ${archive.location} that this version can't weigh: nothing is trimmed, use the version that made it`,
      {
        found: held.kind,
      },
    )
  }
  await putControl(
    archive,
    stream.incarnation,
    nextNumber(controls),
    'trim',
    { below: below.toString() },
    context.random,
  )
}
