import { bindingOf, ownerOf, putControl, readControls } from '../archive/control-objects.js'
import type { StreamRow } from '../src/model/segment.js'
import type { ArchiveStore } from '../src/ports/archive-store.js'
import type { TieringContext } from './context.js'

/**
 * Makes sure that the archive alone can name a stream: the control objects that say who owns the log and which name
 * the incarnation has are there before the first segment is. Done once for each stream and archive, remembered in the
 * index; if that memory is lost, looking again finds them and writes nothing.
 */
export async function announceStream(
  context: TieringContext,
  archive: ArchiveStore,
  stream: StreamRow,
): Promise<void> {
  const fact = `announced/${archive.location}/${stream.incarnation}`
  if ((await context.index.fact(fact)) === stream.name) return
  await announceOwner(context, archive)
  const controls = await readControls(archive, stream.incarnation)
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
    await putControl(archive, stream.incarnation, nextNumber(controls), 'name', body, context.random)
  }
  await context.index.setFact(fact, stream.name)
}

async function announceOwner(context: TieringContext, archive: ArchiveStore): Promise<void> {
  const owner = await ownerOf(archive)
  if (owner?.logId === context.logId) return
  const epoch = (owner?.epoch ?? 0n) + 1n
  await putControl(
    archive,
    null,
    (owner?.number ?? 0n) + 1n,
    'owner',
    { logId: context.logId, epoch },
    context.random,
  )
}

/** Control objects of a stream are numbered from 1; the highest number binds. */
export function nextNumber(controls: readonly { readonly number: bigint }[]): bigint {
  return controls.reduce((highest, one) => (one.number > highest ? one.number : highest), 0n) + 1n
}
