import { TieringAgent } from '../../tiering/agent.js'
import type { TieringContext } from '../../tiering/context.js'
import { SegmentRecoverer } from '../../tiering/recoverer.js'
import { readStoreFacts, type StoreFactsKeeper } from '../../tiering/store-facts.js'
import { Upkeep } from '../../tiering/upkeep.js'
import { withUploadLimit } from '../../tiering/upload-limit.js'
import type { SegmentContext } from '../append/segment-writer.js'
import { WriterHub } from '../append/writer-hub.js'
import type { ResolvedConfig } from '../config/resolve.js'
import { nearest } from '../config/suggest.js'
import type { LedgerContext } from '../ledger/context.js'
import { RepairQueue } from '../ledger/repair-queue.js'
import { StoreHealth } from '../ledger/store-health.js'
import { StoreRoom } from '../ledger/store-room.js'
import { Log } from '../log.js'
import type { LogParts } from '../log-parts.js'
import { StratalogError } from '../model/errors.js'
import { policyQuorum } from '../model/quorum.js'
import type { SegmentRow, StreamRow } from '../model/segment.js'
import type { FilledOptions, OpenOptions, SystemPorts } from '../options.js'
import type { ColdSource } from '../read/cold.js'
import { HotSource } from '../read/source.js'
import { StoreAdmin } from '../stores/admin.js'
import { LocalDirectory } from '../stores/directory.js'
import { archiveSettings } from './archive-settings.js'
import { type ArchiveOpener, archiveOpener, checkArchive } from './archives.js'
import { ColdTier, type ColdTierParts } from './cold-tier.js'
import {
  CONFIG_FILE,
  checkQuorums,
  policiesUnder,
  policyResolver,
  storeDirectories,
  storesNeeded,
} from './configuration.js'
import { nodeChecks, ringChecks } from './doctor.js'
import { readIdentity, writeIdentity } from './identity.js'
import { type OpenIndex, openIndex } from './index-open.js'
import { ringsOf } from './key-rings.js'
import type { LiveConfig } from './live-config.js'
import { LivePolicies } from './live-policies.js'
import { storeFactsFile } from './store-facts-file.js'
import { StreamArchives } from './stream-archives.js'

/** A segment that was begun or sealed is looked at by the agent after this long: several often change together. */
const CHANGE_WAKES_MS = 200

/** A log on its way: its directory is locked, its options are checked. */
export interface Opening {
  readonly root: string
  readonly options: OpenOptions
  readonly filled: FilledOptions
  readonly system: SystemPorts
  readonly config: ResolvedConfig
  /** The same, as it follows its file. */
  readonly live: LiveConfig
  /** What is open so far, to be closed in reverse. */
  readonly closers: (() => Promise<void> | void)[]
  readonly close: () => Promise<void>
}

/** What a log stands on: its stores, its index, its archive. The engines are in here, and nowhere above. */
interface Ground extends OpenIndex {
  readonly logId: string
  readonly directories: readonly string[]
  readonly keeper: StoreFactsKeeper
  readonly stores: LocalDirectory
  readonly archive: ArchiveOpener | null
  /** That and those which some streams have to themselves; null: there is none. */
  readonly ownArchives: StreamArchives | null
}

/** Puts a log together from the ground up: engines, then the two tiers, then what writes, tiers, keeps and reads. */
export async function assemble(opening: Opening): Promise<Log> {
  const { root, filled, system, closers, close } = opening
  const ground = await openGround(opening)
  const { index, keeper, metadata, logId, archive, ownArchives, directories, stores } = ground
  const cold = await coldTier(
    opening,
    ground,
    () => hub.takenBytes,
    (stream) => live.of(stream),
  )
  const { segments, repairs } = tiersOf(opening, ground, cold)
  const { ledger, openCold } = segments

  const policies = policyResolver(() => opening.live.current)
  const live = new LivePolicies(index, policies.resolve, system.logger)
  closers.push(() => live.close())
  const policy = (stream: Parameters<LivePolicies['of']>[0]) => live.of(stream)
  const hub = new WriterHub(segments, metadata.coordination, async (stream) => {
    const followed = await live.follow(stream, () => agent.wake(CHANGE_WAKES_MS))
    const quorum = () => policyQuorum(followed(), directories.length)
    return {
      policy: followed,
      quorum,
      slowMs: () => agent.slowMs(followed(), quorum(), stream.incarnation),
      inFlightBytesMax: filled.inFlightBytesMax,
      takenBytesMax: filled.takenBytesMax,
    }
  })
  const open = archive?.open ?? null
  const openFor = ownArchives && ((incarnation: string) => ownArchives.of(incarnation))
  const { coordination } = metadata
  const { random, clock, logger } = system
  const tiering: TieringContext = {
    logId,
    ledger,
    index,
    coordination,
    random,
    archive: openFor && withUploadLimit(openFor, { index, ledger }),
    ...(ownArchives === null ? {} : { own: ownArchives }),
    writers: hub,
    policy,
  }
  const agent: TieringAgent = new TieringAgent(tiering)
  const upkeep = new Upkeep({ ledger, index, keeper, archive: openFor, policy, repairs, tiering })
  const admin = new StoreAdmin({
    keeper,
    ledger,
    directory: stores,
    storesNeeded: () => storesNeeded(index, policies.resolve),
  })
  await admin.remember()
  const recoverer = new SegmentRecoverer({ hub, index, clock, logger })
  closers.push(() => hub.close())
  closers.push(() => recoverer.close())
  closers.push(() => agent.close())
  closers.push(() => upkeep.close())
  opening.live.use({
    policies: (config) => policiesUnder(config, index, directories.length),
    changed: () => {
      live.refresh()
      agent.wake(0)
    },
  })
  closers.push(() => opening.live.close())
  const openHot = (row: SegmentRow) => HotSource.open(ledger, row.ledgerId ?? -1n)
  const parts: LogParts = {
    logId,
    directory: root,
    segments,
    hub,
    agent,
    tiering,
    upkeep,
    stores: admin,
    random,
    archive: open,
    get archiveLocation() {
      return archive?.location ?? null
    },
    openAnyArchive: archive?.openAny ?? null,
    places: archive?.places ?? null,
    attached: null,
    coldReads: cold?.reads ?? null,
    read: {
      index,
      clock,
      logger,
      openHot,
      openCold,
      recover: (row, signal) => recoverer.recover(row, signal),
    },
    recoverer,
    policies,
    config: opening.live,
    nearest,
    surroundings: async () => [
      ...nodeChecks(),
      ...(await ringChecks(root, opening.live.current.keyRings, random)),
    ],
    close,
  }
  return new Log(parts)
}

/** Opens the stores, then the index, which is checked against them, then what leads to the archive. */
async function openGround({
  root,
  options,
  filled,
  system,
  config,
  live,
  closers,
}: Opening): Promise<Ground> {
  const identity = await readIdentity(root)
  const { logId } = identity
  const settings = archiveSettings(root, config)
  if (typeof options.archive !== 'object') await checkArchive(config.archive.value ?? '', settings)
  const directories = storeDirectories(root, config)
  checkQuorums(config, directories.length)
  const keeper = storeFactsFile(root, system.disk)
  const stores = await LocalDirectory.open(directories, {
    ...system,
    logId,
    fileBytes: filled.storeFileBytes,
    indexBytesMax: config.cache.indexBytes.value,
    create: identity.created,
    remembered: await readStoreFacts(keeper),
  })
  closers.push(() => stores.close())
  const opened = await openIndex({ root, logId, stores, options, config, system }, identity)
  closers.push(() => opened.metadata.close())
  if (identity.created) await writeIdentity(root, logId, 'ready')
  const abort = new AbortController()
  const { index } = opened
  const current = () => live.current
  const rings = ringsOf(root, options, current, system, async (incarnation) => {
    const stream = await index.stream(incarnation)
    if (stream === null) return null
    const override = await index.policyOverride(incarnation)
    return policyResolver(current).resolve(stream.name, override).policy.encryption?.ring ?? null
  })
  const user = { logId, index, system, signal: abort.signal, rings, settings }
  const archive = archiveOpener(root, options, config, user)
  const policies = policyResolver(current)
  const policy = async (stream: StreamRow) =>
    policies.resolve(stream.name, await index.policyOverride(stream.incarnation))
  const ownArchives = archive && new StreamArchives({ root, log: archive, user, index, policy })
  closers.push(async () => {
    abort.abort(new StratalogError('closed', 'the log is closed'))
    await ownArchives?.close()
    if (archive !== null) await (await archive.opened())?.close()
  })
  return { ...opened, logId, directories, keeper, stores, archive, ownArchives }
}

/** Null: there is no archive, so nothing is cold. */
async function coldTier(
  { root, system, config, filled, closers }: Opening,
  { index, archive, ownArchives }: Ground,
  takenBytes: ColdTierParts['takenBytes'],
  policy: ColdTierParts['policy'],
): Promise<ColdTier | null> {
  if (archive === null || ownArchives === null) return null
  const cold = await ColdTier.open({
    root,
    system,
    index,
    openArchive: (incarnation) => ownArchives.of(incarnation),
    archiveLocation: archive.location,
    diskCacheBytes: filled.diskCacheBytes ?? config.cache.diskBytes.value,
    takenBytes,
    policy,
  })
  closers.push(() => cold.close())
  return cold
}

/** The hot tier, which mends what its readers find damaged, and the way to the cold one. */
function tiersOf(
  { root, system }: Opening,
  { stores, ledgers, index }: Ground,
  cold: ColdTier | null,
): {
  readonly segments: SegmentContext & {
    openCold(row: SegmentRow, signal?: AbortSignal, ahead?: boolean): Promise<ColdSource>
  }
  readonly repairs: RepairQueue
} {
  const { clock, logger } = system
  const ledger: LedgerContext = {
    stores,
    metadata: ledgers,
    clock,
    logger,
    health: new StoreHealth(clock, logger),
    room: new StoreRoom(stores, clock, logger),
    damaged: (copy) => repairs.damaged(copy),
  }
  const repairs = new RepairQueue(ledger)
  const openCold = async (row: SegmentRow, signal?: AbortSignal, ahead?: boolean) => {
    if (cold === null) throw archiveNeeded(root)
    return cold.source(row, signal, ahead)
  }
  return { segments: { ledger, index, openCold }, repairs }
}

function archiveNeeded(root: string): StratalogError {
  return new StratalogError(
    'archive_missing',
    `the records asked for are in the archive, and the log in ${root} has none configured: name it under "archive" in ${CONFIG_FILE}`,
  )
}
