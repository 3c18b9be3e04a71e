import type { Log } from './log.js'
import type { OpenArchiveOptions } from './open/archives.js'
import type { OpenOptions, SystemPorts } from './options.js'
import type { ArchiveStore } from './ports/archive-store.js'
import type { RestoreOptions, RestorePlan, RestoreReport, RestoreSelection } from './restore.js'

/*
 * The calls that begin everything, each importing what it needs when it is called: a program that imports stratalog
 * and does not open a log yet pays a few milliseconds, not the schema compiler, SQLite and the codecs.
 */

/**
 * Opens the log in `directory`, making it where there is none, recovers what an earlier process left open and starts
 * the tiering agent. One process at a time has a directory; commands work beside it through its control socket.
 *
 * Errors: `directory_in_use`, `config_invalid`, `invalid_argument`, `version_unsupported`, `corrupt`, `index_missing`,
 * `access_denied`, `disk_full`, `unsupported`.
 *
 * @example
 * ```ts
 * import { openLog } from 'stratalog'
 * await using log = await openLog('./data', { archive: './archive' })
 * const ack = await log.stream('trades').append('hello')
 * console.log(`${ack.dlsn}`)
 * ```
 */
export async function openLog(directory: string, options: OpenOptions = {}): Promise<Log> {
  const open = await import('./open.js')
  return open.openLog(directory, options)
}

/**
 * Opens an archive by itself, without a log: what a restore reads from. `archive_missing` if there is none. What is
 * encrypted in it needs its `keyRing`. How S3 or HDFS is reached say `s3` and `hdfs`: no configuration is read.
 */
export async function openArchive(
  location: string,
  system?: Partial<SystemPorts>,
  options?: OpenArchiveOptions,
): Promise<ArchiveStore> {
  const open = await import('./open.js')
  return open.openArchive(location, system, options)
}

/**
 * What a restore would bring, from an archive's names and control objects: all of it, or some streams, up to a time
 * or position, under other names. What is missing in the archive is in the plan's `gaps`.
 *
 * @example
 * ```ts
 * import { openArchive, planRestore } from 'stratalog'
 * const archive = await openArchive('./archive')
 * const plan = await planRestore(archive, { streams: ['audit/**'], until: { time: '2026-11-01' } })
 * for (const { name, records, gaps } of plan.streams) console.log(name, records, gaps.length)
 * ```
 */
export async function planRestore(
  archive: ArchiveStore,
  selection: RestoreSelection = {},
): Promise<RestorePlan> {
  const restore = await import('./restore.js')
  return restore.planRestore(archive, selection)
}

/**
 * Restores a plan into an open log, empty or living: equal DLSNs, txids and payloads, each stream a new incarnation
 * that names its parent and where it leaves it. A segment that is missing or damaged becomes a committed gap
 * (`corrupt`), which the report names, unless `strict`. Interrupted, it goes on where it was when run again.
 *
 * Errors: `refused` where the log has other streams of these names or is open with its agent (open it with
 * `tiering: 'off'`), `corrupt` if `strict`, where an object is not what its name says or a segment is missing.
 */
export async function restoreArchive(
  log: Log,
  archive: ArchiveStore,
  plan: RestorePlan,
  options: RestoreOptions = {},
): Promise<RestoreReport> {
  const restore = await import('./restore.js')
  return restore.restoreArchive(log, archive, plan, options)
}
