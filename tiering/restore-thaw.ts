import { isStratalogError, StratalogError } from '../src/model/errors.js'
import type { ArchiveStore } from '../src/ports/archive-store.js'
import type { RestorableSegment, RestorePlan, RestoreTarget } from './restore-types.js'

/** The same run again brings them back within this time, a weekend included. */
const READABLE_MS = 7 * 86_400_000
/** Objects asked for at a time. */
const ASKED_AT_ONCE = 8

/**
 * A restore met an object that can't be read yet: asks for it and for all that are still to be restored, for each may
 * take hours and they take them together. What is there already is not asked for: asking costs. The error to end with.
 */
export async function thawRest(
  target: RestoreTarget,
  archive: ArchiveStore,
  plan: RestorePlan,
  cause: StratalogError,
  signal: AbortSignal | undefined,
): Promise<StratalogError> {
  if (archive.thaw === undefined) return cause
  let thawing = 0
  for (const { name, segments } of plan.streams) {
    const there = await target.index.streamByName(name)
    const newest = there === null ? null : await target.index.newestSegment(there.incarnation)
    const rest = segments.filter(({ restored }) => newest === null || restored.segment > newest.segment)
    for (let at = 0; at < rest.length; at += ASKED_AT_ONCE) {
      signal?.throwIfAborted()
      const batch = rest.slice(at, at + ASKED_AT_ONCE)
      const asked = await Promise.all(batch.map((one) => ask(archive, one, signal)))
      thawing += asked.filter((one) => one).length
    }
  }
  return new StratalogError(
    'thawing',
    `${thawing} objects of ${plan.location} are being made readable, which takes minutes to hours: run the same restore again then, it goes on behind what is restored`,
    { cause, retryable: true, details: { thawing } },
  )
}

/** Whether it can't be read yet. One that is gone is told by the restore itself, which has its twins. */
async function ask(
  archive: ArchiveStore,
  { key }: RestorableSegment,
  signal: AbortSignal | undefined,
): Promise<boolean> {
  try {
    return (await archive.thaw?.(key, READABLE_MS, signal)) === 'thawing'
  } catch (error) {
    if (isStratalogError(error, 'object_not_found')) return false
    throw error
  }
}
