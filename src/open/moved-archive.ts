import { listOwners } from '../../archive/control-objects.js'
import { markedError } from '../../archive/marks.js'
import { arrive, movedFrom } from '../../tiering/migrate-moves.js'
import type { ArchiveStore } from '../ports/archive-store.js'
import type { Logger } from '../ports/logger.js'
import type { SegmentIndex } from '../ports/segment-index.js'

/** The log whose archive is opened, and how places are opened by name. */
export interface MoveFollower {
  readonly logId: string
  readonly index: Pick<SegmentIndex, 'fact' | 'setFact'>
  readonly logger: Logger
  /** Opens what is there, and makes nothing. */
  readonly openAt: (location: string) => Promise<ArchiveStore>
}

/**
 * Where the archive is that the configuration names, as far as the log remembers. Somebody who reads an old
 * configuration must not go on in the place that was left.
 */
export async function followMoves(
  { index, logger }: Pick<MoveFollower, 'index' | 'logger'>,
  location: string,
): Promise<string> {
  const at = await movedFrom(index, location)
  if (at !== location) logger.warn({ from: location, to: at }, configure(at))
  return at
}

/**
 * The archive that counts: the one that was opened, or where its mark says that it went. A crash between the mark and
 * what follows from it is made up for here. Rejects where the mark is another log's.
 */
export async function followMark(follower: MoveFollower, store: ArchiveStore): Promise<ArchiveStore> {
  const { logId, index, logger, openAt } = follower
  const mark = (await listOwners(store)).at(-1)?.mark ?? null
  if (mark === null) return store
  if (mark.kind === 'arriving' || mark.log !== logId) throw markedError(store.location, mark)
  logger.warn({ from: store.location, to: mark.location }, configure(mark.location))
  const target = await openAt(mark.location)
  try {
    await arrive({ logId, index }, target, { from: store.location, to: target.location, atMs: mark.atMs })
    // It may have gone on from there.
    const end = await followMark(follower, target)
    await store.close()
    return end
  } catch (error) {
    await target.close()
    throw error
  }
}

function configure(location: string): string {
  return `the archive moved, and the configuration names the place it left: write "archive: ${location}" in stratalog.yaml`
}
