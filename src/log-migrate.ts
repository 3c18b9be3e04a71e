import { Migration, type MigrationProgress, type MigrationReport } from '../tiering/migrate.js'
import type { MigrationFinding } from '../tiering/migrate-objects.js'
import { abortMigration, type MigrationPlan, planMigration } from '../tiering/migrate-places.js'
import { migrationOf } from '../tiering/migrate-state.js'
import { MovableArchive } from '../tiering/migrate-store.js'
import { attachedError } from './log-ownership.js'
import type { ArchivePlaces, LogParts } from './log-parts.js'
import { isStratalogError, StratalogError } from './model/errors.js'
import { parseRate } from './model/units.js'
import type { ArchiveEngine, ArchiveStore } from './ports/archive-store.js'

/** How often progress is told. */
const PROGRESS_MS = 200

export type { MigrationFinding, MigrationPlan, MigrationProgress, MigrationReport }

/** What a migration yields: how far it is, what is not as it should be, at last what it came to. */
export type MigrationPart =
  | { readonly type: 'progress'; readonly progress: MigrationProgress }
  | { readonly type: 'finding'; readonly finding: MigrationFinding }
  | { readonly type: 'end'; readonly report: MigrationReport }

/** Where the archive goes, and how. */
export interface MigrateToOptions {
  /** An empty place: a directory, `s3://…`, `hdfs://…`, or an engine of your own. */
  readonly to: string | ArchiveEngine
  /** Bytes a second, or `80 MiB/s`. @default as fast as it goes */
  readonly rate?: number | string
  /** Take damaged objects as they are, and go on without those that are missing. @default false */
  readonly allowDamaged?: boolean
  readonly signal?: AbortSignal
}

/** The migration of an archive to another place. Every method rejects with `archive_missing` where there is none. */
export interface LogMigration {
  /**
   * Copies every object of the archive to an empty place, reads it back, follows what is copied meanwhile, and goes on
   * there: while the log runs, and without a reader noticing. Interrupted, the same call goes on where it was, also in
   * a later process. The old place stays as it is, marked as left; the configuration is yours to change.
   *
   * Errors: `refused` where the place is not empty or another migration is under way, `corrupt` where something can't
   * be brought over whole (nothing is switched then), `thawing`, `archive_unavailable`, `archive_full`.
   *
   * @example
   * ```ts
   * import { openLog } from 'stratalog'
   * await using log = await openLog('./data', { archive: './archive' })
   * for await (const part of log.archive.migrate({ to: './archive-2', rate: '80 MiB/s' })) {
   *   if (part.type === 'end') console.log(`${part.report.objects} objects are in ${part.report.to} now`)
   * }
   * ```
   */
  migrate(options: MigrateToOptions): AsyncIterable<MigrationPart>
  /** What a migration would copy. Writes nothing, there neither. */
  planMigration(options: {
    readonly to: string | ArchiveEngine
    readonly signal?: AbortSignal
  }): Promise<MigrationPlan>
  /** The migration that was begun and is not over; null: there is none. */
  migration(): Promise<{ readonly from: string; readonly to: string; readonly beganMs: number } | null>
  /**
   * Ends the migration that is under way and deletes what it copied; with `leave` the copy stays, marked as not whole.
   * `not_found` where there is none. `engine`: what opens the place where it was an engine of your own.
   */
  abortMigration(options?: {
    readonly leave?: boolean
    readonly engine?: ArchiveEngine
    readonly signal?: AbortSignal
  }): Promise<{ readonly to: string; readonly deleted: number }>
}

/** Logs of this process whose archive is being moved: one migration at a time each. */
const running = new WeakSet<LogParts>()

/** @internal */
export function logMigration(parts: LogParts): LogMigration {
  const endless = new AbortController().signal
  return {
    migrate: (options) => migrate(parts, options),
    planMigration: async ({ to, signal = endless }) => {
      const archive = await movable(parts)
      refuseShared(parts, archive)
      const location = placesOf(parts).locate(to)
      await refuseOverlap(parts, archive, location)
      const target = await openIfThere(parts, typeof to === 'string' ? location : to)
      try {
        return await planMigration(parts.tiering, archive, target, target?.location ?? location, signal)
      } finally {
        await target?.close()
      }
    },
    migration: async () => {
      await movable(parts)
      const state = await migrationOf(parts.segments.index)
      return state === null ? null : { from: state.from, to: state.to, beganMs: state.beganMs }
    },
    abortMigration: (options = {}) => abort(parts, options),
  }
}

async function* migrate(
  parts: LogParts,
  { to, rate, allowDamaged = false, signal }: MigrateToOptions,
): AsyncGenerator<MigrationPart, void, undefined> {
  const bytesPerSecond = rate === undefined ? null : parseRate(rate)
  const archive = await movable(parts)
  refuseShared(parts, archive)
  await archive.settle()
  const { clock } = parts.segments.ledger
  const stop = new AbortController()
  const signals = signal === undefined ? [stop.signal] : [stop.signal, signal]
  const findings: MigrationFinding[] = []
  const found = (finding: MigrationFinding) => void findings.push(finding)
  const options = { signal: AbortSignal.any(signals), bytesPerSecond, allowDamaged, found }
  const work = await exclusively(parts, async () => {
    const places = placesOf(parts)
    const location = places.locate(to)
    // Before anything is made there.
    await refuseOverlap(parts, archive, location)
    const target = await places.open(typeof to === 'string' ? location : to, false)
    try {
      await refuseOverlap(parts, archive, target.location)
      return { target, migration: new Migration(parts.tiering, archive, target, options) }
    } catch (error) {
      await target.close()
      throw error
    }
  })
  const { target, migration } = work
  const run = migration.run().finally(async () => {
    running.delete(parts)
    if (!migration.handedOver) await target.close()
    parts.agent.wake(0)
  })
  run.catch(() => undefined)
  try {
    for (;;) {
      const pause = clock.sleep(PROGRESS_MS, options.signal).then(() => null)
      pause.catch(() => undefined)
      const now = Promise.race([run, pause.catch(() => run)])
      await now.catch(() => undefined)
      // Before the end, also where it failed: why it stopped is among them.
      for (const finding of findings.splice(0)) yield { type: 'finding', finding }
      const report = await now
      if (report !== null) {
        yield { type: 'end', report }
        return
      }
      yield { type: 'progress', progress: { ...migration.progress } }
    }
  } finally {
    // Who listens no more stops it: it is gone on with by the same call.
    stop.abort(new DOMException('the migration is not listened to any more', 'AbortError'))
    await run.catch(() => undefined)
  }
}

/** Leaves the log marked as being migrated when `begin` resolves. */
async function exclusively<T>(parts: LogParts, begin: () => Promise<T>): Promise<T> {
  if (running.has(parts))
    throw new StratalogError('refused', 'the archive is being moved at this moment: wait for it, or stop it')
  running.add(parts)
  try {
    return await begin()
  } catch (error) {
    running.delete(parts)
    throw error
  }
}

async function abort(
  parts: LogParts,
  {
    leave = false,
    engine,
    signal = new AbortController().signal,
  }: NonNullable<Parameters<LogMigration['abortMigration']>[0]>,
): Promise<{ readonly to: string; readonly deleted: number }> {
  const archive = await movable(parts)
  await archive.settle()
  return exclusively(parts, async () => {
    try {
      const state = leave ? await unlessDamaged(parts) : await migrationOf(parts.segments.index)
      if (state === null) throw new StratalogError('not_found', 'no migration of the archive is under way')
      const target = leave ? null : await openIfThere(parts, engine ?? state.to)
      try {
        return { to: state.to, deleted: await abortMigration(parts.tiering, archive, target, signal) }
      } finally {
        await target?.close()
      }
    } finally {
      running.delete(parts)
    }
  })
}

/** Forgetting is also the way out where the state can't be read. */
async function unlessDamaged(parts: LogParts): Promise<{ readonly to: string } | null> {
  try {
    return await migrationOf(parts.segments.index)
  } catch (error) {
    if (isStratalogError(error, 'corrupt')) return { to: 'a place that is not known any more' }
    throw error
  }
}

async function movable(parts: LogParts): Promise<MovableArchive> {
  if (parts.attached !== null) throw attachedError(parts.archiveLocation)
  const archive = (await parts.archive?.()) ?? null
  if (archive instanceof MovableArchive) return archive
  throw new StratalogError(
    'archive_missing',
    'this log has no archive to move: name one under "archive" in stratalog.yaml',
  )
}

/**
 * An archive moves while nobody writes to it, and one process can't hold the others of a namespace still: what one of
 * them stores as the archive changes place would be in the place that is left alone.
 */
function refuseShared({ tiering }: LogParts, { location }: MovableArchive): void {
  if (tiering.ledgersAreShared !== true) return
  throw new StratalogError(
    'unsupported',
    `the archive at ${location} can't be moved by one of several processes: stop all that have the namespace open, copy everything in it with the tool of your storage, write the new place after "archive" in each stratalog.yaml, and look with "stratalog archive verify"`,
  )
}

function placesOf({ places, archiveLocation }: LogParts): ArchivePlaces {
  if (places === null) throw attachedError(archiveLocation)
  return places
}

/** Null: nothing is there, and nothing is made. */
async function openIfThere(parts: LogParts, place: string | ArchiveEngine): Promise<ArchiveStore | null> {
  try {
    return await placesOf(parts).open(place, true)
  } catch (error) {
    if (isStratalogError(error, 'archive_missing')) return null
    throw error
  }
}

/**
 * A place in the archive, or around it, would be copied into itself for ever. One in or around an archive that some
 * streams have to themselves, empty or not, could not be told from that afterwards (decision 0030).
 */
async function refuseOverlap(parts: LogParts, archive: ArchiveStore, location: string): Promise<void> {
  const from = archive.location
  if (from === location)
    throw new StratalogError('refused', `the archive is at ${from} already`, { found: location })
  const inside = (outer: string, inner: string) =>
    inner === outer || inner.startsWith(outer.endsWith('/') ? outer : `${outer}/`)
  const own = (await parts.tiering.own?.locations()) ?? []
  const other = [from, ...own].find((one) => inside(one, location) || inside(location, one))
  if (other === undefined) return
  throw new StratalogError(
    'refused',
    other === location
      ? `${location} is the archive that some streams have to themselves: name a place of its own`
      : `${location} and ${other} lie one in the other: name a place of its own`,
    { found: location, expected: other },
  )
}
