import { existsSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { ArchiveKeys, attachKeys } from '../../archive/keys.js'
import { TieringAgent } from '../../tiering/agent.js'
import { AttachedView } from '../../tiering/attach.js'
import type { TieringContext } from '../../tiering/context.js'
import { SegmentRecoverer } from '../../tiering/recoverer.js'
import type { StoreFactsKeeper } from '../../tiering/store-facts.js'
import { Upkeep } from '../../tiering/upkeep.js'
import { WriterHub } from '../append/writer-hub.js'
import { nearest } from '../config/suggest.js'
import type { LedgerContext } from '../ledger/context.js'
import { RepairQueue } from '../ledger/repair-queue.js'
import { Log } from '../log.js'
import { attachedError } from '../log-ownership.js'
import type { LogParts } from '../log-parts.js'
import { openSqliteMetadata, type SqliteMetadata } from '../metadata/sqlite/open.js'
import { isStratalogError, StratalogError } from '../model/errors.js'
import type { ArchiveStore } from '../ports/archive-store.js'
import type { SegmentIndex } from '../ports/segment-index.js'
import type { ReadContext } from '../read/context.js'
import { StoreAdmin } from '../stores/admin.js'
import { LocalDirectory } from '../stores/directory.js'
import { archiveSettings } from './archive-settings.js'
import { openArchive } from './archives.js'
import { ColdTier } from './cold-tier.js'
import { policyResolver } from './configuration.js'
import type { Opening } from './ground.js'
import { ringsOf } from './key-rings.js'

/** The cache of an attached archive: what its names say, so that a start does not list all of them again. */
const CACHE_FILE = 'attached.db'
const LOCATION_FACT = 'attached-to'

/**
 * A log over an archive that another log owns: no stores, no agent, an index that nobody but the view of the archive
 * changes. Reads, `info` and `explain` are those of any log.
 */
export async function assembleAttached(opening: Opening): Promise<Log> {
  const { root, options, filled, system, config, live, closers, close } = opening
  refuseOwnLog(root, options)
  const { clock, logger, random } = system
  const archive = await openArchive(options.attach ?? '', system, archiveSettings(root, config))
  closers.push(() => archive.close())
  const rings = ringsOf(
    root,
    options,
    () => config,
    system,
    () => Promise.resolve(null),
  )
  attachKeys(archive, new ArchiveKeys({ store: archive, rings, random: null, clock: null }))
  const metadata = await openCache(opening, archive)
  closers.push(() => metadata.close())
  const view = new AttachedView({
    archive: () => Promise.resolve(archive),
    index: metadata.index,
    adoptSegments: (rows) => metadata.adoptSegments(rows),
    clock,
    logger,
  })
  closers.push(() => view.close())
  await view.refresh()
  view.follow()

  const refuse = () => attachedError(archive.location)
  const index = readOnlyIndex(metadata.index, refuse)
  const stores = await noStores(opening)
  const ledger: LedgerContext = { stores, metadata: metadata.ledgers, clock, logger }
  const policies = policyResolver(() => config)
  const policy = async (stream: { readonly name: string }) => policies.resolve(stream.name, null)
  const cold = await ColdTier.open({
    root,
    system,
    index,
    openArchive: () => Promise.resolve(archive),
    archiveLocation: archive.location,
    diskCacheBytes: filled.diskCacheBytes ?? config.cache.diskBytes.value,
    appendsWait: () => false,
    policy,
  })
  closers.push(() => cold.close())
  const openCold: ReadContext['openCold'] = (row, signal, ahead) => cold.source(row, signal, ahead)
  const { coordination } = metadata
  const hub = new WriterHub({ ledger, index, openCold }, coordination, () => Promise.reject(refuse()))
  const keeper = forgetful()
  const logId = '0'.repeat(32)
  const tiering: TieringContext = {
    logId,
    ledger,
    index,
    coordination,
    random,
    archive: null,
    writers: hub,
    policy,
  }
  const agent = new TieringAgent(tiering)
  const upkeep = new Upkeep({
    ledger,
    index,
    keeper,
    archive: null,
    policy,
    repairs: new RepairQueue(ledger),
  })
  const parts: LogParts = {
    logId,
    directory: root,
    segments: { ledger, index, openCold },
    hub,
    tiering,
    agent,
    upkeep,
    config: live,
    stores: new StoreAdmin({ keeper, ledger, directory: stores, storesNeeded: () => Promise.resolve(0) }),
    random,
    archive: () => Promise.resolve(archive),
    archiveLocation: archive.location,
    openAnyArchive: () => Promise.reject(refuse()),
    places: null,
    coldReads: cold.reads,
    attached: async () => {
      await view.refresh()
    },
    read: { index, clock, logger, openHot: () => Promise.reject(refuse()), openCold },
    recoverer: new SegmentRecoverer({ hub, index, clock, logger }),
    policies,
    nearest,
    close,
  }
  return new Log(parts)
}

function refuseOwnLog(root: string, { archive, stores }: Opening['options']): void {
  if (existsSync(join(root, 'log.json')))
    throw new StratalogError(
      'refused',
      `${root} holds a log of its own: attach an archive in a directory of its own, with --dir`,
      { found: root },
    )
  if (archive === undefined && stores === undefined) return
  throw new StratalogError(
    'invalid_argument',
    'attach reads an archive of another log: it goes together with neither archive nor stores',
  )
}

/** The cache, made anew where it is damaged or of another archive. */
async function openCache({ root, system }: Opening, archive: ArchiveStore): Promise<SqliteMetadata> {
  const file = join(root, CACHE_FILE)
  const { clock, logger } = system
  const open = async () => {
    const metadata = openSqliteMetadata(file, { clock, logger })
    const known = await metadata.index.fact(LOCATION_FACT)
    if (known === archive.location) return metadata
    if (known === null && metadata.created) {
      await metadata.index.setFact(LOCATION_FACT, archive.location)
      return metadata
    }
    await metadata.close()
    throw new StratalogError('corrupt', `${file} is the cache of another archive`)
  }
  try {
    return await open()
  } catch (error) {
    if (!isStratalogError(error, 'corrupt')) throw error
    logger.warn({ err: error, file }, 'the cache of an attached archive is made anew')
    for (const part of ['', '-wal', '-shm']) rmSync(`${file}${part}`, { force: true })
    return open()
  }
}

function noStores({ system, filled }: Opening): Promise<LocalDirectory> {
  const logId = '0'.repeat(32)
  return LocalDirectory.open([], { ...system, logId, fileBytes: filled.storeFileBytes, create: false })
}

function forgetful(): StoreFactsKeeper {
  return { read: () => Promise.resolve(null), write: () => Promise.resolve() }
}

/** The index as everybody but the view sees it: whatever would change it is refused. */
function readOnlyIndex(index: SegmentIndex, refuse: () => StratalogError): SegmentIndex {
  const refused = () => Promise.reject(refuse())
  return {
    createStream: refused,
    updateStream: refused,
    deleteStream: refused,
    removeStream: refused,
    beginSegment: refused,
    adoptSegment: refused,
    updateSegment: refused,
    removeSegment: refused,
    setPolicyOverride: refused,
    setFact: refused,
    putHold: refused,
    releaseHold: refused,
    holdsTold: refused,
    recordRecall: refused,
    holds: (incarnation) => index.holds(incarnation),
    streamsOwingHolds: () => Promise.resolve([]),
    streamByName: (name) => index.streamByName(name),
    stream: (incarnation) => index.stream(incarnation),
    listStreams: (after, limit) => index.listStreams(after, limit),
    segment: (incarnation, segment) => index.segment(incarnation, segment),
    listSegments: (incarnation, from, limit) => index.listSegments(incarnation, from, limit),
    listHotSegments: (incarnation, limit) => index.listHotSegments(incarnation, limit),
    newestSegment: (incarnation) => index.newestSegment(incarnation),
    oldestSegment: (incarnation) => index.oldestSegment(incarnation),
    segmentForTxid: (incarnation, txid) => index.segmentForTxid(incarnation, txid),
    segmentForSequenceId: (incarnation, id) => index.segmentForSequenceId(incarnation, id),
    segmentForTime: (incarnation, timeMs) => index.segmentForTime(incarnation, timeMs),
    segmentsInState: (states, limit) => index.segmentsInState(states, limit),
    segmentsOwing: () => Promise.resolve([]),
    totals: (incarnation) => index.totals(incarnation),
    watch: (incarnation, changed) => index.watch(incarnation, changed),
    policyOverride: (incarnation) => index.policyOverride(incarnation),
    fact: (name) => index.fact(name),
    close: () => Promise.resolve(),
  }
}
