import {
  ARCHIVE_OWNER_FACT,
  bindingOf,
  type ControlObject,
  ownerOf,
  putControl,
  readControls,
  trimmedBelow,
} from '../archive/control-objects.js'
import { isStratalogError, StratalogError } from '../src/model/errors.js'
import type { StreamRow } from '../src/model/segment.js'
import type { ArchiveStore } from '../src/ports/archive-store.js'
import type { Random } from '../src/ports/random.js'
import type { TieringContext } from './context.js'

/** One attempt for each number: of two logs that claim an archive in the same moment one finds the name taken. */
const ONLY_ATTEMPT: Random = { bytes: (count) => new Uint8Array(count), fraction: () => 0 }

/**
 * Makes sure that the archive alone can name a stream: the control objects that say who owns the log, which name the
 * incarnation has and where it begins are there before the first segment is. Done once for each stream, remembered in
 * the index; if that memory is lost, looking again finds them and writes nothing. The memory does not name the
 * archive: a log that has an owner object somewhere opens no archive without it. `refused` where the archive is
 * another log's.
 */
export async function announceStream(
  context: TieringContext,
  archive: ArchiveStore,
  stream: StreamRow,
): Promise<void> {
  const fact = `announced/${stream.incarnation}`
  if ((await context.index.fact(fact)) === stream.name) return
  await announceOwner(context, archive)
  const controls = await readControls(archive, stream.incarnation)
  await announceTrim(context, archive, stream, controls)
  if (bindingOf(controls)?.name !== stream.name) {
    const body = {
      name: stream.name,
      txidMode: stream.txidMode,
      createdMs: stream.createdMs,
      parent:
        stream.parent === null
          ? null
          : { incarnation: stream.parent.incarnation, fork: stream.parent.fork?.toString() ?? null },
    }
    const number = nextNumber(await readControls(archive, stream.incarnation))
    await putControl(archive, stream.incarnation, number, 'name', body, context.random)
  }
  await context.index.setFact(fact, stream.name)
}

/**
 * A trim from before the stream was announced: a restored one has its source's, and others were trimmed while there
 * was no archive. Without a marker the segments below would count as lost.
 */
async function announceTrim(
  context: TieringContext,
  archive: ArchiveStore,
  stream: StreamRow,
  controls: readonly ControlObject[],
): Promise<void> {
  const below = stream.trimmedBelow
  const there = trimmedBelow(controls)
  if (below === null || (there !== null && there.compare(below) >= 0)) return
  const body = { below: below.toString() }
  await putControl(archive, stream.incarnation, nextNumber(controls), 'trim', body, context.random)
}

/** An archive belongs to one log, the first; it is never taken over in silence (decision 0008). */
async function announceOwner(context: TieringContext, archive: ArchiveStore): Promise<void> {
  const { logId } = context
  let owner = await ownerOf(archive)
  if (owner === null) {
    await putControl(archive, null, 1n, 'owner', { logId, epoch: 1n }, ONLY_ATTEMPT).catch(
      (error: unknown) => {
        // Another log was quicker, or an answer of an earlier try was lost: who owns it is read below.
        if (!isStratalogError(error, 'object_exists')) throw error
      },
    )
    owner = await ownerOf(archive)
  }
  if (owner?.logId !== logId) {
    throw new StratalogError(
      'refused',
      `the archive at ${archive.location} belongs to log ${owner?.logId ?? 'unknown'}: give this log, ${logId}, an archive of its own`,
      { expected: logId, found: owner?.logId ?? null },
    )
  }
  // Before the first segment: from here on an archive without our owner object is not ours.
  await context.index.setFact(ARCHIVE_OWNER_FACT, logId)
}

/** Control objects of a stream are numbered from 1; the highest number binds. */
export function nextNumber(controls: readonly { readonly number: bigint }[]): bigint {
  return controls.reduce((highest, one) => (one.number > highest ? one.number : highest), 0n) + 1n
}
