import { present } from '../src/model/assert.js'
import { StratalogError } from '../src/model/errors.js'
import type { Incarnation } from '../src/model/segment.js'
import type { ArchiveStore } from '../src/ports/archive-store.js'
import type { TieringContext } from './context.js'

/** What finding the archives of a log takes. */
type Archived = Pick<TieringContext, 'archive' | 'own'>

/** One archive of a log. */
export interface LogsArchive {
  /** Where it is, if some streams have it to themselves; null: it is the log's. */
  readonly own: string | null
  open(): Promise<ArchiveStore>
}

/** Every archive that a log has something in, its own first; none where none is configured. */
export async function archivesOf(context: Archived): Promise<LogsArchive[]> {
  if (context.archive === null) return []
  const locations = (await context.own?.locations()) ?? []
  return [null, ...locations].map((own) => ({ own, open: () => openAt(context, own) }))
}

/** The archive of one stream. */
export async function archiveOfStream(context: Archived, incarnation: Incarnation): Promise<LogsArchive> {
  const own = (await context.own?.locationOf(incarnation)) ?? null
  return { own, open: () => present(context.archive, 'archive')(incarnation) }
}

/** Whether a stream that has something in one of the archives belongs there: what it has in another is not its history. */
export async function belongsIn(
  context: Archived,
  incarnation: Incarnation,
  own: string | null,
): Promise<boolean> {
  return ((await context.own?.locationOf(incarnation)) ?? null) === own
}

function openAt(context: Archived, own: string | null): Promise<ArchiveStore> {
  if (own !== null) return present(context.own, 'archives of their own').open(own)
  // No stream is called so: nothing but the archive of the log can be its.
  return present(context.archive, 'archive')('')
}

/** The one of several archives that somebody named; `refused` where the log has none there. */
export async function archiveNamed(context: Archived, location: string): Promise<LogsArchive> {
  const all = await archivesOf(context)
  const own = all.find((one) => one.own === location)
  if (own !== undefined) return own
  const places = await Promise.all(all.map(async (one) => one.own ?? (await one.open()).location))
  const found = all[places.indexOf(location)]
  if (found !== undefined) return found
  throw new StratalogError(
    'refused',
    `no stream of this log lies in an archive at ${location}: there is ${places.join(', ')}`,
    { expected: places, found: location },
  )
}
