import process from 'node:process'
import { locationsIn, OWN_ARCHIVES_FACT, ownerFactOf } from '../../archive/bindings.js'
import { ARCHIVE_OWNER_FACT, listOwners } from '../../archive/control-objects.js'
import { ArchiveKeys, attachKeys, type KeyRings } from '../../archive/keys.js'
import { markedError } from '../../archive/marks.js'
import { MovableArchive } from '../../tiering/migrate-store.js'
import type { ResolvedConfig } from '../config/resolve.js'
import type { ArchivePlaces } from '../log-parts.js'
import { isStratalogError, StratalogError } from '../model/errors.js'
import type { OpenOptions, SystemPorts } from '../options.js'
import type { ArchiveEngine, ArchiveStore } from '../ports/archive-store.js'
import type { KeyRing } from '../ports/key-ring.js'
import type { SegmentIndex } from '../ports/segment-index.js'
import { archiveLocation, refuseCredentials, schemeOf } from './archive-location.js'
import type { ArchiveSettings } from './archive-settings.js'
import { keyRings } from './key-rings.js'
import { followMark, followMoves } from './moved-archive.js'
import { systemPorts } from './system.js'

/** The archive of a log, opened when it is first needed. */
export interface ArchiveOpener {
  /** Where it is now: it may move while the log is open. */
  readonly location: string
  /** Opens the archive at the first call and after a failed one. */
  readonly open: () => Promise<ArchiveStore>
  /** Opens it whoever it belongs to, to take it over (`existing`) or to begin a new one; closed by who asked. */
  readonly openAny: (existing: boolean) => Promise<ArchiveStore>
  readonly opened: () => Promise<ArchiveStore | null>
  /** Other places that could be archives. */
  readonly places: ArchivePlaces
}

/** The log whose archive is opened. */
export interface ArchiveUser {
  readonly logId: string
  /** Knows whether the log has used its archive before. */
  readonly index: Pick<SegmentIndex, 'fact' | 'setFact'>
  readonly system: SystemPorts
  readonly signal: AbortSignal
  /** Where the keys are of what is encrypted in it. */
  readonly rings: KeyRings
  /** How archives of each engine are reached. */
  readonly settings: ArchiveSettings
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
  configured: string,
  engine: ArchiveEngine | null,
  user: ArchiveUser,
  ownerFact: string,
): ArchiveOpener {
  const { clock, random, logger, disk } = user.system
  const ports = { clock, random, logger, disk, signal: user.signal }
  const openAt = async (place: string | ArchiveEngine, existing: boolean): Promise<ArchiveStore> => {
    const found = typeof place === 'string' ? await engineFor(place, user.settings) : place
    return found.open({ ...ports, existing })
  }
  let opened: ArchiveStore | null = null
  let opening: Promise<ArchiveStore> | null = null
  const openCurrent = async (): Promise<ArchiveStore> => {
    const place = engine ?? (await followMoves({ index: user.index, logger }, configured))
    const existing = (await user.index.fact(ownerFact)) === user.logId
    if (ownerFact === ARCHIVE_OWNER_FACT && typeof place === 'string') await refuseOwn(user, place)
    const store = await openAt(place, existing)
    opened = new MovableArchive(await checkOwn(store, existing, user, (to) => openAt(to, true)), {
      clock,
      logger,
    })
    attachKeys(opened, new ArchiveKeys({ store: opened, rings: user.rings, random, clock }))
    return opened
  }
  const open = (): Promise<ArchiveStore> => {
    opening ??= openCurrent().catch((error: unknown) => {
      opening = null
      throw error
    })
    return opening
  }
  const openAny = async (existing: boolean): Promise<ArchiveStore> => {
    // A new one is begun where the configuration says, whatever was there before.
    const place = existing ? await followMoves({ index: user.index, logger }, configured) : configured
    const store = await openAt(engine ?? place, existing)
    attachKeys(store, new ArchiveKeys({ store, rings: user.rings, random, clock }))
    return store
  }
  return {
    get location() {
      return opened?.location ?? configured
    },
    open,
    openAny,
    opened: async () => opening?.catch(() => null) ?? null,
    places: {
      locate: (place) => (typeof place === 'string' ? archiveLocation(place, process.cwd()) : place.name),
      open: openAt,
    },
  }
}

/**
 * What some streams have to themselves has an owner object of this log as well: as the archive of the log it would be
 * believed, and everything that lies in the right one would be taken for lost (decisions 0008 and 0030).
 */
async function refuseOwn({ index, logId }: ArchiveUser, location: string): Promise<void> {
  if (!locationsIn(await index.fact(OWN_ARCHIVES_FACT)).includes(location)) return
  if ((await index.fact(ownerFactOf(location))) !== logId) return
  throw new StratalogError(
    'archive_missing',
    `${location} is the archive that some streams of this log have to themselves, and can't be that of the log as well: write where the others lie after "archive" in stratalog.yaml`,
    { found: location, retryable: true },
  )
}

/**
 * A log that has segments in an archive gets that archive or none: in any other one, and in an empty mount point, its
 * objects would be taken for lost and new ones would be separated from them. The owner object tells (decision 0008).
 */
async function checkOwn(
  store: ArchiveStore,
  existing: boolean,
  { logId, index, system, signal }: ArchiveUser,
  openAt: (location: string) => Promise<ArchiveStore>,
): Promise<ArchiveStore> {
  try {
    const owners = existing ? await listOwners(store, signal) : []
    // One that another log took over since is still read: its objects are there, and every commit asks who owns it.
    if (!existing || owners.some((one) => one.logId === logId))
      return await followMark({ logId, index, logger: system.logger, openAt }, store)
    const owner = owners.at(-1)
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

/**
 * Refuses an address or a setting that can't be right when the log is opened, and not when its first segment is copied.
 * The network is not asked: an archive that is down keeps no log shut.
 */
export async function checkArchive(location: string, settings: ArchiveSettings): Promise<void> {
  refuseCredentials(location)
  const scheme = schemeOf(location)
  if (scheme === 's3') {
    const { s3Place } = await import('../../archive/s3/settings.js')
    s3Place(location, settings.s3 ?? {}, process.env)
  } else if (scheme === 'hdfs') {
    const { hdfsPlace } = await import('../../archive/hdfs/settings.js')
    hdfsPlace(location, settings.hdfs ?? {})
  }
}

async function engineFor(location: string, settings: ArchiveSettings): Promise<ArchiveEngine> {
  refuseCredentials(location)
  const scheme = schemeOf(location)
  if (scheme === 's3') {
    const { s3Archive } = await import('../../archive/s3/engine.js')
    return s3Archive(location, settings.s3)
  }
  if (scheme === 'hdfs') {
    const { hdfsArchive } = await import('../../archive/hdfs/engine.js')
    return hdfsArchive(location, settings.hdfs)
  }
  if (scheme !== null) {
    throw new StratalogError(
      'unsupported',
      `the archive ${scheme}://… has no engine in this version: write s3://bucket/prefix, hdfs://namenode:9870/path or a directory, or pass an engine to openLog({ archive })`,
      { found: scheme },
    )
  }
  const { directoryArchive } = await import('../../archive/directory/store.js')
  return directoryArchive(location)
}

/** How an archive is opened by itself. */
export interface OpenArchiveOptions extends ArchiveSettings {
  /** Where the keys are of what is encrypted in it: a file, or a ring of your own. */
  readonly keyRing?: string | KeyRing
  /** Also what is left at a place that the archive moved away from. @default false */
  readonly moved?: boolean
}

/** Opens an archive by itself, without a log: what `restore` reads from. */
export async function openArchive(
  location: string | ArchiveEngine,
  ports?: Partial<SystemPorts>,
  options: OpenArchiveOptions = {},
): Promise<ArchiveStore> {
  const { clock, random, logger, disk } = await systemPorts(ports)
  const engine =
    typeof location === 'string'
      ? await engineFor(archiveLocation(location, process.cwd()), options)
      : location
  const { signal } = new AbortController()
  const store = await engine.open({ clock, random, logger, disk, signal, existing: true, readOnly: true })
  await refuseMarked(store, options.moved ?? false)
  const given = options.keyRing ?? null
  const rings = keyRings({ root: process.cwd(), given, named: () => Promise.resolve([]), random })
  attachKeys(store, new ArchiveKeys({ store, rings, random: null, clock: null }))
  return store
}

/** What an archive left behind gets no older than it is, and one that is being filled is no archive yet. */
async function refuseMarked(store: ArchiveStore, moved: boolean): Promise<void> {
  try {
    const mark = (await listOwners(store)).at(-1)?.mark ?? null
    if (mark !== null && !(moved && mark.kind === 'moved')) throw markedError(store.location, mark)
  } catch (error) {
    // Whose it was can't be read: that keeps nobody from what else is in it.
    if (isStratalogError(error, 'corrupt') || isStratalogError(error, 'version_unsupported')) return
    await store.close()
    throw error
  }
}
