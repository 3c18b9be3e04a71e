import { listOwners, type NumberedOwner } from '../archive/control-objects.js'
import { markedError } from '../archive/marks.js'
import { StratalogError } from '../src/model/errors.js'
import type { ArchiveStore } from '../src/ports/archive-store.js'
import type { TieringContext } from './context.js'
import { isMark, ownerKey } from './migrate-moves.js'
import { type MigrationState, migrationOf, noteMigration } from './migrate-state.js'
import type { MovableArchive } from './migrate-store.js'
import { type CompareOptions, type Weighed, weighArchives } from './migrate-sweep.js'
import { otherOwner } from './ownership.js'

/** What is to be migrated, to where. */
export interface MigrationPlan extends Weighed {
  readonly from: string
  readonly to: string
  /** A migration to that place was begun before. */
  readonly begun: boolean
}

/**
 * What a migration would copy. Writes nothing. `target` null: there is nothing at that place. Rejects as the migration
 * itself would: the place is taken, or another migration is under way.
 */
export async function planMigration(
  context: TieringContext,
  archive: MovableArchive,
  target: ArchiveStore | null,
  to: string,
  signal: AbortSignal,
): Promise<MigrationPlan> {
  const source = archive.current
  const owner = await sourceOwner(context, source, signal)
  const begun = await begunBefore(context, source, target, to, signal)
  const state = await migrationOf(context.index)
  const weighed = await weighArchives(source, target, comparing(owner, state, signal))
  return { ...weighed, from: source.location, to, begun }
}

function comparing(owner: NumberedOwner, state: MigrationState | null, signal: AbortSignal): CompareOptions {
  const mark = ownerKey(owner.number + 1n)
  const unread = state?.unread === null || state === null ? null : new Set(state.unread)
  return { signal, ignored: (key) => key === mark, unread: (key) => unread?.has(key) ?? true }
}

/** The archive must be this log's. */
export async function sourceOwner(
  { logId }: TieringContext,
  source: ArchiveStore,
  signal: AbortSignal,
): Promise<NumberedOwner> {
  const owner = (await listOwners(source, signal)).at(-1)
  if (owner === undefined)
    throw new StratalogError(
      'refused',
      `nothing was copied into ${source.location} yet: there is nothing to migrate, name the new place under "archive" in stratalog.yaml`,
    )
  if (owner.logId !== logId) throw otherOwner(source, owner, logId)
  return owner
}

/** Whether this migration was begun before. Rejects where the place is not empty for another reason. */
export async function begunBefore(
  { logId, index }: TieringContext,
  source: ArchiveStore,
  target: ArchiveStore | null,
  to: string,
  signal: AbortSignal,
): Promise<boolean> {
  const state = await migrationOf(index)
  if (state !== null && state.from === source.location && state.to !== to)
    throw new StratalogError(
      'refused',
      `the archive is being moved to ${state.to}: go on with that (stratalog migrate --to ${state.to}), or end it (stratalog migrate --abort --yes)`,
      { expected: state.to, found: to },
    )
  if (target === null || (await target.listFrom('', '', 1, signal)).length === 0) return false
  const owner = (await listOwners(target, signal)).at(-1)
  if (isMark(owner, 'arriving', logId, source.location)) return true
  if (owner?.mark != null) throw markedError(target.location, owner.mark)
  throw new StratalogError(
    'refused',
    `${target.location} is not empty${owner === undefined ? '' : `: it is the archive of log ${owner.logId}`}; name an empty place to move to`,
    { found: owner?.logId ?? null },
  )
}

/**
 * Ends a migration that is under way: what it copied is deleted, the mark last, so that a crash leaves a place that
 * still says what it is. With `target` null it is only forgotten, and the copy stays, marked as not whole. Returns how
 * many objects were deleted. `not_found` where none is under way.
 */
export async function abortMigration(
  context: TieringContext,
  archive: MovableArchive,
  target: ArchiveStore | null,
  signal: AbortSignal,
): Promise<number> {
  const { index, logId } = context
  const source = archive.current
  const owner = await sourceOwner(context, source, signal)
  let deleted = 0
  if (target !== null) {
    const there = (await listOwners(target, signal)).at(-1)
    const empty = there === undefined && (await target.listFrom('', '', 1, signal)).length === 0
    // Only a copy that never became the archive: the old one does not say that it moved, this one that it is arriving.
    if (!empty && !isMark(there, 'arriving', logId, source.location))
      throw new StratalogError(
        'refused',
        `what is at ${target.location} is no unfinished copy of this archive: nothing was deleted`,
        { found: there?.logId ?? null },
      )
    const mark = ownerKey(owner.number + 1n)
    for (;;) {
      const page = (await target.listFrom('', '', 1_000, signal)).filter(({ key }) => key !== mark)
      if (page.length === 0) break
      for (const { key } of page) await target.delete(key, signal)
      deleted += page.length
    }
    await target.delete(mark, signal)
  }
  await noteMigration(index, null)
  return deleted
}
