import { type ArchiveOwner, type NumberedOwner, ownerOf } from '../archive/control-objects.js'
import { markedError } from '../archive/marks.js'
import { encodeControlKey } from '../src/format/archive-names.js'
import { StratalogError } from '../src/model/errors.js'
import type { ArchiveStore } from '../src/ports/archive-store.js'
import { OwnerLook } from './owner-look.js'

/** The fact of a log whose archive was another's before: streams in it that this log never had are not its own. */
export const TAKEN_OVER_FACT = 'archive-taken-over'

/** The log and its owner object that each open archive was last found to be of: while none is newer it needs no reading. */
const confirmed = new WeakMap<ArchiveStore, string>()
const looks = new WeakMap<ArchiveStore, OwnerLook>()

/** One for each open archive. */
function lookOf(archive: ArchiveStore): OwnerLook {
  const look = looks.get(archive) ?? new OwnerLook(archive)
  looks.set(archive, look)
  return look
}

/**
 * Makes sure that the archive is still this log's, before anything is committed on its strength or deleted from it:
 * another log may have taken it over since (decision 0021). One listing that begins after the call, shared by all who
 * ask at a time. Rejects with `refused`.
 */
export async function confirmOwner(
  { logId }: { readonly logId: string },
  archive: ArchiveStore,
  signal?: AbortSignal,
): Promise<void> {
  const newest = (await lookOf(archive).ask(signal)).findLast(({ kind }) => kind === 'owner')
  const known = newest === undefined ? null : `${logId} ${encodeControlKey(newest)}`
  if (known !== null && confirmed.get(archive) === known) return
  const owner = await ownerOf(archive, signal)
  if (owner?.logId !== logId) throw otherOwner(archive, owner, logId)
  if (known !== null) confirmed.set(archive, known)
}

/** As `confirmOwner`; an archive that no log owns yet is nobody else's. */
export async function refuseOtherOwner(
  context: { readonly logId: string },
  archive: ArchiveStore,
  signal?: AbortSignal,
): Promise<void> {
  if ((await ownerOf(archive, signal)) !== null) await confirmOwner(context, archive, signal)
}

/** The refusal of an archive that is another log's. */
export function otherOwner(
  archive: ArchiveStore,
  owner: ArchiveOwner | NumberedOwner | null,
  logId: string,
): StratalogError {
  if (owner !== null && 'mark' in owner && owner.mark !== null)
    return markedError(archive.location, owner.mark)
  const whose = owner === null ? 'has no owner' : `belongs to log ${owner.logId} (epoch ${owner.epoch})`
  return new StratalogError(
    'refused',
    `the archive at ${archive.location} ${whose}: give this log, ${logId}, an archive of its own, or take it over with "stratalog archive own --take-over"`,
    { expected: logId, found: owner?.logId ?? null },
  )
}
