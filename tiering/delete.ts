import { DELETIONS_FACT, putControl, readControls } from '../archive/control-objects.js'
import { deletedMs, standingHolds } from '../archive/decisions.js'
import { isShared } from '../archive/shared.js'
import { present } from '../src/model/assert.js'
import { StratalogError } from '../src/model/errors.js'
import { type Incarnation, isClosed, type SegmentRow, type StreamRow } from '../src/model/segment.js'
import type { ArchiveStore } from '../src/ports/archive-store.js'
import { rowsOf } from './all-rows.js'
import { nextNumber } from './announce.js'
import type { TieringContext } from './context.js'
import { releaseLedger, releaseObject } from './evict.js'
import { type TellFailed, throwIt } from './gap.js'
import { allHolds } from './holds.js'
import { confirmOwner } from './ownership.js'

const ROWS_AT_ONCE = 1_000

/**
 * Refuses to delete a stream that is held, or of which nobody can know that now: the archive must answer where
 * something of the stream is in it. Rejects with `refused`, `archive_missing` or what the archive says.
 */
export async function checkMayDelete(context: TieringContext, stream: StreamRow): Promise<void> {
  await archiveOf(context, stream)
  await refuseHeld(context, stream)
}

/** Null: nothing of the stream is in any archive. */
async function archiveOf(context: TieringContext, stream: StreamRow): Promise<ArchiveStore | null> {
  if (context.archive !== null) {
    const archive = await context.archive(stream.incarnation)
    return archive
  }
  if (!(await namesObjects(context, stream))) return null
  throw new StratalogError(
    'archive_missing',
    `${stream.name} has history in an archive and none is configured: nothing is deleted without its marker there; name the archive again`,
  )
}

/** Whether a row of the stream names an object that is its own: cold ones, those in both tiers, trimmed ones that owe it. */
async function namesObjects({ index }: TieringContext, { incarnation }: StreamRow): Promise<boolean> {
  for await (const row of rowsOf(index, incarnation)) if (row.object !== null && !isShared(row)) return true
  return false
}

async function refuseHeld(context: TieringContext, stream: StreamRow, signal?: AbortSignal): Promise<void> {
  const [hold] = await allHolds(context, stream, signal)
  if (hold === undefined) return
  const why = hold.kind === 'pin' ? `stream ${hold.by ?? ''} shares objects with it` : 'nothing of it may go'
  throw new StratalogError(
    'refused',
    `${stream.name} has the ${hold.kind} ${hold.id} (${hold.origin}), ${why}: release it first`,
    { found: hold.id },
  )
}

/**
 * Goes on with the deletion of a stream that was decided (the fact `deleted/<incarnation>`), at whatever step a crash
 * or an outage left it: marker in the archive, then rows and both copies, oldest first, at last the stream itself.
 * Idempotent at each step. False: the stream was not deleted.
 */
export async function settleDeletion(
  context: TieringContext,
  stream: StreamRow,
  signal: AbortSignal,
  answered: () => void = () => {},
): Promise<boolean> {
  const { index } = context
  const decided = await index.fact(`deleted/${stream.incarnation}`)
  if (decided === null) return false
  const archive = await archiveOf(context, stream)
  if (archive !== null && (await isArchived(context, archive, stream))) {
    await confirmOwner(context, archive, signal)
    // Read again: a hold that came meanwhile binds, and what can't be read deletes nothing (invariant 8).
    await refuseHeld(context, stream, signal)
    // The archive keeps the name it had: here it is called by its incarnation by now.
    const controls = await readControls(archive, stream.incarnation, undefined, signal)
    const body = { atMs: Number(decided) }
    if (deletedMs(controls) === null)
      await putControl(archive, stream.incarnation, nextNumber(controls), 'delete', body, context.random)
  }
  await removeSegments(context, stream, signal, answered)
  await index.removeStream(stream.incarnation)
  return true
}

/** Frees what a stream holds, oldest first, and forgets its rows. */
export async function removeSegments(
  context: TieringContext,
  stream: StreamRow,
  signal: AbortSignal,
  answered: () => void = () => {},
): Promise<void> {
  for (;;) {
    const rows = await context.index.listSegments(stream.incarnation, 0n, ROWS_AT_ONCE)
    if (rows.length === 0) return
    for (const row of rows) {
      signal.throwIfAborted()
      await removeSegment(context, stream, row, signal)
      answered()
    }
  }
}

/**
 * Tells the archive of streams that were deleted before the index was made again, where it does not know: its objects
 * are for the collector then, and no restore brings them back (invariant 7). One that is held stays untold.
 */
export async function tellDeletions(
  context: TieringContext,
  signal: AbortSignal,
  failed: TellFailed = throwIt,
): Promise<void> {
  const noted = JSON.parse((await context.index.fact(DELETIONS_FACT)) ?? '[]') as [Incarnation, number][]
  if (context.archive === null || noted.length === 0) return
  const left: typeof noted = []
  for (const [incarnation, atMs] of noted) {
    try {
      if (!(await tellDeletion(context, incarnation, atMs, signal))) left.push([incarnation, atMs])
    } catch (error) {
      await failed(error, incarnation)
      left.push([incarnation, atMs])
    }
  }
  await context.index.setFact(DELETIONS_FACT, JSON.stringify(left))
}

/** False: it is held, and stays untold. */
async function tellDeletion(
  context: TieringContext,
  incarnation: Incarnation,
  atMs: number,
  signal: AbortSignal,
): Promise<boolean> {
  const archive = await present(context.archive, 'archive')(incarnation)
  await confirmOwner(context, archive, signal)
  const controls = await readControls(archive, incarnation, undefined, signal)
  if (controls.length === 0 || deletedMs(controls) !== null) return true
  if (standingHolds(controls).length > 0) return false
  await putControl(archive, incarnation, nextNumber(controls), 'delete', { atMs }, context.random)
  return true
}

async function isArchived(
  context: TieringContext,
  archive: ArchiveStore,
  stream: StreamRow,
): Promise<boolean> {
  const { coldSegments } = await context.index.totals(stream.incarnation)
  return coldSegments > 0 || (await readControls(archive, stream.incarnation)).length > 0
}

async function removeSegment(
  context: TieringContext,
  stream: StreamRow,
  found: SegmentRow,
  signal: AbortSignal,
): Promise<void> {
  const { index } = context
  if (!isClosed(found.state)) await context.writers.seal(stream, found.segment)
  const row = isClosed(found.state) ? found : await index.segment(found.incarnation, found.segment)
  // One that turned out to be empty is gone with that.
  if (row === null) return
  const trimmed = row.state === 'trimmed' ? row : await index.updateSegment(row, { state: 'trimmed' })
  const released = await releaseLedger(context, trimmed)
  await index.removeSegment(await releaseObject(context, released, signal))
}
