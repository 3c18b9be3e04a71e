import type { Incarnation } from '../src/model/segment.js'
import type { SegmentIndex } from '../src/ports/segment-index.js'
import { ARCHIVE_OWNER_FACT } from './control-objects.js'

/*
 * Which archive a stream's history lies in (decision 0030): an incarnation is bound to one before the first object of
 * it is stored, for good. What says so are facts of the log that are on the stores before the index has them, so that
 * an index which is made again finds them:
 *
 *   archive-of/<incarnation>     location of its archive, or `log`: the one of the log, whatever its policy says
 *   own-archives                 JSON: locations of all archives that some stream was bound to
 *   archive-owner/<location>     the log's id, once the archive there has an owner object of this log
 *
 * An incarnation without a fact is in the log's archive, or in none yet.
 */

/** The fact that lists the archives that streams were bound to. */
export const OWN_ARCHIVES_FACT = 'own-archives'
/** What binds a stream to the archive of the log, wherever that is; no location is called so. */
export const LOG_ARCHIVE = 'log'

/** The fact that binds an incarnation. */
export function bindingFact(incarnation: Incarnation): string {
  return `archive-of/${incarnation}`
}

/** The fact that an archive has an owner object of this log; `own` null: the log's archive. */
export function ownerFactOf(own: string | null): string {
  return own === null ? ARCHIVE_OWNER_FACT : `${ARCHIVE_OWNER_FACT}/${own}`
}

/** Where the own archive of a stream is that was bound to one; null: it has none, its archive is the log's. */
export async function ownArchiveOf(
  index: Pick<SegmentIndex, 'fact'>,
  incarnation: Incarnation,
): Promise<string | null> {
  const bound = await index.fact(bindingFact(incarnation))
  return bound === null || bound === LOG_ARCHIVE ? null : bound
}

/** The fact about whose the archive of a stream is. */
export async function ownerFactFor(
  index: Pick<SegmentIndex, 'fact'>,
  incarnation: Incarnation,
): Promise<string> {
  return ownerFactOf(await ownArchiveOf(index, incarnation))
}

/** Locations of all archives that streams of a log were bound to, beside its own. */
export function locationsIn(fact: string | null): readonly string[] {
  return fact === null ? [] : (JSON.parse(fact) as string[])
}
