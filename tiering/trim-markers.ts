import { ownerOf, readControls, trimmedBelow } from '../archive/control-objects.js'
import { Dlsn } from '../src/model/dlsn.js'
import type { StreamRow } from '../src/model/segment.js'
import type { ArchiveStore } from '../src/ports/archive-store.js'
import type { TieringContext } from './context.js'
import { firstHeld, weighedHolds } from './holds.js'
import { rowsIn } from './ranges.js'

const FIRST = new Dlsn(1n, 0n, 0n)

/**
 * Takes back markers that reach into a held segment and that nothing went by: the index never had them. Left over from
 * a crash between marker and index, or of a moment ago; only the owner of the archive writes markers, under the lease
 * of `decidedAlone`, in which this is called.
 */
export async function withdrawMarkers(
  context: TieringContext,
  archive: ArchiveStore,
  stream: StreamRow,
  held: { readonly segment: bigint; readonly hold: { readonly id: string } },
  signal?: AbortSignal,
): Promise<void> {
  const { index, logId, ledger } = context
  const trimmed = (await index.stream(stream.incarnation))?.trimmedBelow ?? null
  const reaches = (below: Dlsn) =>
    below.compare(new Dlsn(held.segment, 0n, 0n)) > 0 && (trimmed === null || below.compare(trimmed) > 0)
  const controls = await readControls(archive, stream.incarnation, undefined, signal)
  for (const control of controls.filter(({ kind }) => kind === 'trim')) {
    const below = trimmedBelow([control])
    if (below === null || !reaches(below)) continue
    if ((await ownerOf(archive, signal))?.logId !== logId) return
    await archive.delete(control.key, signal)
    ledger.logger.warn(
      { stream: stream.name, below: below.toString(), hold: held.hold.id },
      'a trim that was not carried out was taken back: what it would have ended is held',
    )
  }
}

/**
 * The same when holds are told: one that came after such a crash was promised all that the index has, and an archive
 * that still says "trimmed" would keep that from a restore (invariant 7).
 */
export async function withdrawHeldMarkers(
  context: TieringContext,
  archive: ArchiveStore,
  stream: StreamRow,
  signal?: AbortSignal,
): Promise<void> {
  const { index } = context
  const controls = await readControls(archive, stream.incarnation, undefined, signal)
  const until = trimmedBelow(controls)
  const trimmed = (await index.stream(stream.incarnation))?.trimmedBelow ?? null
  const from = trimmed ?? FIRST
  if (until === null || until.compare(from) <= 0) return
  const holds = await weighedHolds(context, stream, controls)
  for await (const row of rowsIn(index, stream.incarnation, { from, until })) {
    const held = row.state === 'trimmed' ? null : firstHeld(stream, [row], holds)
    if (held === null) continue
    await withdrawMarkers(context, archive, stream, { segment: row.segment, hold: held.hold }, signal)
    return
  }
}
