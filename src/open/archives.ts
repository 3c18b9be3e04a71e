import { resolve } from 'node:path'
import process from 'node:process'
import { ARCHIVE_OWNER_FACT, listOwners } from '../../archive/control-objects.js'
import { ArchiveKeys, attachKeys, type KeyRings } from '../../archive/keys.js'
import type { ResolvedConfig } from '../config/resolve.js'
import { StratalogError } from '../model/errors.js'
import type { OpenOptions, SystemPorts } from '../options.js'
import type { ArchiveEngine, ArchiveStore } from '../ports/archive-store.js'
import type { KeyRing } from '../ports/key-ring.js'
import type { SegmentIndex } from '../ports/segment-index.js'
import { keyRings } from './key-rings.js'
import { systemPorts } from './system.js'

/** The archive of a log, opened when it is first needed. */
export interface ArchiveOpener {
  readonly location: string
  /** Opens the archive at the first call and after a failed one. */
  readonly open: () => Promise<ArchiveStore>
  /** Opens it whoever it belongs to, to take it over (`existing`) or to begin a new one; closed by who asked. */
  readonly openAny: (existing: boolean) => Promise<ArchiveStore>
  readonly opened: () => Promise<ArchiveStore | null>
}

/** The log whose archive is opened. */
export interface ArchiveUser {
  readonly logId: string
  /** Knows whether the log has used its archive before. */
  readonly index: Pick<SegmentIndex, 'fact'>
  readonly system: SystemPorts
  readonly signal: AbortSignal
  /** Where the keys are of what is encrypted in it. */
  readonly rings: KeyRings
}

/** Null: none is configured. */
export function archiveOpener(
  root: string,
  options: OpenOptions,
  config: ResolvedConfig,
  user: ArchiveUser,
): ArchiveOpener | null {
  const given = options.archive
  const engine = typeof given === 'object' ? given : null
  const { value, layer } = config.archive
  if (engine === null && value === null) return null
  const location = engine?.name ?? archiveLocation(value ?? '', layer === 'file' ? root : process.cwd())
  return openerAt(location, engine, user, ARCHIVE_OWNER_FACT)
}

/** Opens the archive at a location; `ownerFact` says whether this log has used it before. */
export function openerAt(
  location: string,
  engine: ArchiveEngine | null,
  user: ArchiveUser,
  ownerFact: string,
): ArchiveOpener {
  let opening: Promise<ArchiveStore> | null = null
  const open = (): Promise<ArchiveStore> => {
    opening ??= (engine === null ? engineFor(location) : Promise.resolve(engine))
      .then((found) => openOwn(found, user, ownerFact))
      .catch((error: unknown) => {
        opening = null
        throw error
      })
    return opening
  }
  const openAny = async (existing: boolean): Promise<ArchiveStore> => {
    const { clock, random, logger, disk } = user.system
    const found = engine ?? (await engineFor(location))
    const store = await found.open({ clock, random, logger, disk, signal: user.signal, existing })
    attachKeys(store, new ArchiveKeys({ store, rings: user.rings, random, clock }))
    return store
  }
  return { location, open, openAny, opened: async () => opening?.catch(() => null) ?? null }
}

/**
 * A log that has segments in an archive gets that archive or none: in any other one, and in an empty mount point, its
 * objects would be taken for lost and new ones would be separated from them. The owner object tells (decision 0008).
 */
async function openOwn(
  engine: ArchiveEngine,
  { logId, index, system, signal, rings }: ArchiveUser,
  ownerFact: string,
): Promise<ArchiveStore> {
  const existing = (await index.fact(ownerFact)) === logId
  const { clock, random, logger, disk } = system
  const store = await engine.open({ clock, random, logger, disk, signal, existing })
  attachKeys(store, new ArchiveKeys({ store, rings, random, clock }))
  if (!existing) return store
  try {
    const owners = await listOwners(store, signal)
    const owner = owners.at(-1)
    // One that another log took over since is still read: its objects are there, and every commit asks who owns it.
    if (owners.some((one) => one.logId === logId)) return store
    throw new StratalogError(
      'archive_missing',
      `this log has segments in its archive, and what is at ${store.location} is not it: mount it, or copy the whole archive there first`,
      { expected: logId, found: owner?.logId ?? null, retryable: true },
    )
  } catch (error) {
    await store.close()
    throw error
  }
}

/** Where an archive is: addresses as they are, directories from `base` on. */
export function archiveLocation(value: string, base: string): string {
  const scheme = /^([a-z][a-z0-9+.-]+):\/\//.exec(value)?.[1]
  if (scheme === undefined) return resolve(base, value)
  return value
}

async function engineFor(location: string): Promise<ArchiveEngine> {
  const scheme = /^([a-z][a-z0-9+.-]+):\/\//.exec(location)?.[1]
  if (scheme === 's3') {
    const { s3Archive } = await import('../../archive/s3/engine.js')
    return s3Archive(location)
  }
  if (scheme === 'hdfs') {
    const { hdfsArchive } = await import('../../archive/hdfs/engine.js')
    return hdfsArchive(location)
  }
  if (scheme !== undefined) {
    throw new StratalogError(
      'unsupported',
      `the archive ${scheme}://… has no engine in this version: name a directory, or pass an engine to openLog({ archive })`,
      { found: scheme },
    )
  }
  const { directoryArchive } = await import('../../archive/directory/store.js')
  return directoryArchive(location)
}

/** How an archive is opened by itself. */
export interface OpenArchiveOptions {
  /** Where the keys are of what is encrypted in it: a file, or a ring of your own. */
  readonly keyRing?: string | KeyRing
}

/** Opens an archive by itself, without a log: what `restore` reads from. */
export async function openArchive(
  location: string | ArchiveEngine,
  ports?: Partial<SystemPorts>,
  options: OpenArchiveOptions = {},
): Promise<ArchiveStore> {
  const { clock, random, logger, disk } = await systemPorts(ports)
  const engine =
    typeof location === 'string' ? await engineFor(archiveLocation(location, process.cwd())) : location
  const { signal } = new AbortController()
  const store = await engine.open({ clock, random, logger, disk, signal, existing: true, readOnly: true })
  const given = options.keyRing ?? null
  const rings = keyRings({ root: process.cwd(), given, named: () => Promise.resolve([]), random })
  attachKeys(store, new ArchiveKeys({ store, rings, random: null, clock: null }))
  return store
}
