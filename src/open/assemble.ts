import { TieringAgent } from '../../tiering/agent.js'
import type { ColdScrubEvent } from '../../tiering/cold-scrub.js'
import type { TieringContext } from '../../tiering/context.js'
import { SegmentRecoverer } from '../../tiering/recoverer.js'
import { Upkeep } from '../../tiering/upkeep.js'
import { withUploadLimit } from '../../tiering/upload-limit.js'
import type { SegmentContext } from '../append/segment-writer.js'
import { TakenBytes } from '../append/taken-bytes.js'
import { WriterHub } from '../append/writer-hub.js'
import { nearest } from '../config/suggest.js'
import type { LedgerContext } from '../ledger/context.js'
import { RepairMarks } from '../ledger/repair-marks.js'
import { RepairQueue } from '../ledger/repair-queue.js'
import { StoreHealth } from '../ledger/store-health.js'
import { StoreRoom } from '../ledger/store-room.js'
import { Log } from '../log.js'
import type { LogParts } from '../log-parts.js'
import { StratalogError } from '../model/errors.js'
import { policyQuorum } from '../model/quorum.js'
import type { SegmentRow } from '../model/segment.js'
import type { ColdSource } from '../read/cold.js'
import { HotSource } from '../read/source.js'
import { Bookkeeper } from '../stores/cluster.js'
import { ColdTier, type ColdTierParts } from './cold-tier.js'
import { CONFIG_FILE, isDistributed, policiesUnder, policyResolver, storesNeeded } from './configuration.js'
import { nodeChecks, ringChecks } from './doctor.js'
import { foreignChecks } from './foreign-doctor.js'
import type { Ground, Opening } from './ground.js'
import { LivePolicies } from './live-policies.js'
import { openLocalGround } from './local-ground.js'

/** A segment that was begun or sealed is looked at by the agent after this long: several often change together. */
const CHANGE_WAKES_MS = 200
/** Record bytes taken and not yet durable from which appends count as waiting for their stores. */
const APPENDS_WAIT_BYTES = 512 * 1024

/** Puts a log together from the ground up: engines, then the two tiers, then what writes, tiers, keeps and reads. */
export async function assemble(opening: Opening): Promise<Log> {
  const { root, filled, system, closers, close } = opening
  const ground = await groundOf(opening)
  const { index, keeper, coordination, logId, archive, ownArchives, stores, shared } = ground
  const storeCount = () => stores.all().length
  const taken = new TakenBytes(filled.allTakenBytesMax)
  const appendsWait = (): boolean => taken.bytes >= APPENDS_WAIT_BYTES
  const cold = await coldTier(opening, ground, appendsWait, (stream) => live.of(stream))
  const { segments, repairs } = tiersOf(opening, ground, cold)
  const { ledger, openCold } = segments

  const policies = policyResolver(() => opening.live.current)
  const live = new LivePolicies(index, policies.resolve, system.logger)
  closers.push(() => live.close())
  const policy = (stream: Parameters<LivePolicies['of']>[0]) => live.of(stream)
  const hub = new WriterHub(
    segments,
    coordination,
    async (stream) => {
      const followed = await live.follow(stream, () => agent.wake(CHANGE_WAKES_MS))
      const quorum = () => policyQuorum(followed(), storeCount())
      return {
        policy: followed,
        quorum,
        slowMs: () => agent.slowMs(followed(), quorum(), stream.incarnation),
        inFlightBytesMax: filled.inFlightBytesMax,
        takenBytesMax: filled.takenBytesMax,
        taken,
      }
    },
    shared !== null,
  )
  const open = archive?.open ?? null
  const openFor = ownArchives && ((incarnation: string) => ownArchives.of(incarnation))
  const { random, clock, logger } = system
  const tiering: TieringContext = {
    logId,
    ledger,
    index,
    coordination,
    random,
    archive: openFor && withUploadLimit(openFor, { index, ledger }),
    ...(ownArchives === null ? {} : { own: ownArchives }),
    ledgersAreShared: shared !== null,
    evictsByPolicy: shared?.evicts ?? true,
    ...(shared === null ? {} : { foreign: shared.foreign }),
    writers: hub,
    policy,
    appendsWait,
  }
  const agent: TieringAgent = new TieringAgent(tiering)
  const onColdScrub = (event: ColdScrubEvent) => agent.events.addScrub(event)
  const upkeep = new Upkeep({
    ledger,
    index,
    keeper,
    archive: openFor,
    policy,
    repairs,
    tiering,
    copiesAreKept: shared !== null,
    onColdScrub,
  })
  const needed = () => storesNeeded(index, policies.resolve)
  const keeping = await ground.keeping(ledger, needed)
  const recoverer = new SegmentRecoverer({ hub, index, clock, logger })
  closers.push(() => hub.close())
  closers.push(() => recoverer.close())
  closers.push(() => agent.close())
  closers.push(() => upkeep.close())
  opening.live.use({
    policies: (config) => policiesUnder(config, index, storeCount()),
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
    stores: keeping,
    bookkeeper:
      ground.cluster === undefined
        ? null
        : new Bookkeeper({
            ...{ cluster: ground.cluster, ledger, index, nearest },
            quorum: () => opening.live.current.policyFor('').policy.quorum,
            needed,
          }),
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
      ...(await ground.checks()),
      ...(await foreignChecks(tiering)),
    ],
    close,
  }
  return new Log(parts)
}

/** Where engines are chosen: a log is in its directory alone, or in a cluster. */
async function groundOf(opening: Opening): Promise<Ground> {
  if (!isDistributed(opening.config)) return openLocalGround(opening)
  const { openClusterGround } = await import('./cluster-ground.js')
  return openClusterGround(opening)
}

/** Null: there is no archive, so nothing is cold. */
async function coldTier(
  { root, system, config, filled, closers }: Opening,
  { index, archive, ownArchives }: Ground,
  appendsWait: ColdTierParts['appendsWait'],
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
    appendsWait,
    policy,
  })
  closers.push(() => cold.close())
  return cold
}

/** The hot tier, which mends what its readers find damaged, and the way to the cold one. */
function tiersOf(
  { root, system }: Opening,
  { stores, ledgers, index, digestType, shared }: Ground,
  cold: ColdTier | null,
): {
  readonly segments: SegmentContext & {
    openCold(row: SegmentRow, signal?: AbortSignal, ahead?: boolean): Promise<ColdSource>
  }
  readonly repairs: RepairQueue | RepairMarks
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
    ...(digestType === undefined ? {} : { digestType }),
  }
  const repairs = shared === null ? new RepairQueue(ledger) : new RepairMarks(shared.askForCopies, logger)
  const openCold = async (row: SegmentRow, signal?: AbortSignal, ahead?: boolean) => {
    if (cold === null) throw archiveNeeded(root)
    return cold.source(row, signal, ahead)
  }
  // What is shared lies in DistributedLog's tree, whose readers wait for the record.
  return { segments: { ledger, index, openCold, endRecords: shared !== null }, repairs }
}

function archiveNeeded(root: string): StratalogError {
  return new StratalogError(
    'archive_missing',
    `the records asked for are in the archive, and the log in ${root} has none configured: name it under "archive" in ${CONFIG_FILE}`,
  )
}
