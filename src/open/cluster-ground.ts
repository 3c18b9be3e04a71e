import { rmSync } from 'node:fs'
import { hostname } from 'node:os'
import { join } from 'node:path'
import process from 'node:process'
import type { ForeignStreams } from '../../tiering/context.js'
import type { StoreFactsKeeper } from '../../tiering/store-facts.js'
import { bindNamespace, type NamespaceBinding, readBinding } from '../metadata/distributedlog/binding.js'
import { NamespaceFacts } from '../metadata/distributedlog/facts.js'
import { DistributedLogLocks, HeldLocks } from '../metadata/distributedlog/locks.js'
import { DistributedLogIndex } from '../metadata/distributedlog/segment-index.js'
import type { SqliteMetadata } from '../metadata/sqlite/open.js'
import { BookieRegistry } from '../metadata/zookeeper/bookies.js'
import { readCluster } from '../metadata/zookeeper/cluster.js'
import { ZkCoordination } from '../metadata/zookeeper/coordination.js'
import { ZkLedgerMetadataStore } from '../metadata/zookeeper/ledger-metadata.js'
import {
  type GroupsOf,
  isRack,
  parseGroups,
  parseRacks,
  rackDistance,
  spreadBeside,
} from '../metadata/zookeeper/racks.js'
import {
  autorecoveryOf,
  listUnderreplicated,
  markUnderreplicated,
} from '../metadata/zookeeper/under-replication.js'
import { present } from '../model/assert.js'
import { isStratalogError, StratalogError } from '../model/errors.js'
import type { Coordination } from '../ports/coordination.js'
import { openBookie } from '../store/bookie/store.js'
import { BookieDirectory, type LiveBookie } from '../stores/bookies.js'
import { bookieKeeping } from '../stores/keeping.js'
import type { ZooKeeper } from '../zookeeper/client.js'
import { openZooKeeper } from '../zookeeper/open.js'
import { archiveSettings, engineSettings } from './archive-settings.js'
import { ArchivedNames } from './archived-names.js'
import { checkArchive } from './archives.js'
import { clusterChecks } from './cluster-doctor.js'
import {
  bookieSettings,
  CACHE_FILE,
  type ClusterPlace,
  clusterLogId,
  clusterPlace,
  ledgersSettings,
  readText,
  zooKeeperSettings,
} from './cluster-place.js'
import { checkQuorums } from './configuration.js'
import type { Ground, Opening } from './ground.js'
import { groundArchives } from './ground-archives.js'
import { holdIdentity } from './identity.js'

const LEDGERS_DEFAULT = '/ledgers'
/** DistributedLog's own: logSegmentRetentionHours. */
const PURGE_AFTER_MS = 72 * 3_600_000
/** A dead writer's lock is gone with its session: who comes after it waits so much longer than that. */
const PATIENCE_MS = 1_000
/** Namespaces of others are bound, so ours are; below this node we keep what they don't know of. */
const OURS = '/stratalog/v1'

/**
 * The ground of a log that is a namespace in a cluster: streams in DistributedLog's tree, ledgers on bookies. The
 * directory holds caches only; what is decided is in ZooKeeper, and the archive is read for what is cold.
 */
export async function openClusterGround(opening: Opening): Promise<Ground> {
  const { root, options, system, config, closers } = opening
  const { clock, logger, random } = system
  if (typeof options.archive !== 'object')
    await checkArchive(config.archive.value ?? '', archiveSettings(root, config))
  const place = clusterPlace(present(config.metadata.value, 'metadata'))
  const settings = await zooKeeperSettings(root, config, place.servers)
  const zk = await openZooKeeper(settings, { clock, logger, random })
  closers.push(() => zk.close())
  const binding = await boundNamespace(zk, place, opening)
  const ledgersZk = await zooKeeperOfLedgers(zk, place, binding, opening)
  const { ledgersPath } = binding
  const cluster = await readCluster(ledgersZk, ledgersPath)
  const { czxid } = present(await zk.exists(place.namespace), `namespace ${place.namespace}`)
  const logId = clusterLogId(cluster.instanceId, place.namespace, czxid)
  await holdIdentity(root, logId)
  const { stores, registry, groupsOf, addTimeoutMs } = await openBookies(opening, ledgersZk, ledgersPath)
  // Those that are down count: what can be read is read, and archives too, while bookies are away.
  checkQuorums(config, Math.max(stores.all().length, (await registry.known()).length))

  const ledgers = new ZkLedgerMetadataStore(ledgersZk, { ledgersPath, random })
  const cache = await openCache(opening, logId)
  closers.push(() => cache.close())
  const held = new HeldLocks()
  const facts = new NamespaceFacts({ zk, clock, namespace: place.namespace })
  const names = new ArchivedNames(opening, logId, (name) => facts.read(name))
  closers.push(() => names.close())
  const index = await DistributedLogIndex.open({
    zk,
    namespace: place.namespace,
    instanceId: cluster.instanceId,
    cache: cache.index,
    adoptSegments: (rows) => cache.adoptSegments(rows),
    ledgers,
    coldRows: (incarnation, from) => names.rows(incarnation, from),
    clock,
    logger,
    locks: held,
  })
  closers.push(() => index.close())
  const archives = groundArchives(opening, logId, index)
  const leases = `${OURS}/leases-${logId}`
  const others = new ZkCoordination(zk, { root: leases, clock, random })
  const clientId = `stratalog-${hostname()}-${process.pid}`
  const lockPath = (incarnation: string) => index.lockPath(incarnation)
  const locks = new DistributedLogLocks({ zk, clock, logger, clientId, lockPath, held, others })
  closers.push(() => locks.close())
  return {
    logId,
    coordination: ofProcess(locks, clientId, settings.sessionTimeoutMs + PATIENCE_MS),
    index,
    ledgers,
    stores,
    digestType: 'CRC32',
    keeper: forgetful,
    ...archives,
    shared: {
      askForCopies: (ledgerId, missing) => markUnderreplicated(ledgersZk, ledgersPath, ledgerId, missing),
      evicts: engineSettings(root, config, 'bookkeeper').evict === true,
      foreign: foreignStreams(index, engineSettings(root, config, 'bookkeeper')),
    },
    cluster: {
      ...{ instanceId: cluster.instanceId, zookeeper: binding.bookkeeperServers, ledgersPath },
      ...{ namespace: place.namespace, bookies: registry, ...groupsOf },
      underreplicated: (limit) => listUnderreplicated(ledgersZk, ledgersPath, limit),
      autorecovery: () => autorecoveryOf(ledgersZk, ledgersPath),
    },
    keeping: async (ledger) => bookieKeeping(ledger, forgetful),
    checks: () =>
      clusterChecks({
        ...{ zk, ledgersZk, clock, place, binding, registry, config, ...groupsOf },
        ...{ instanceId: cluster.instanceId, ours: OURS, leases },
        ...{ sessionTimeoutMs: settings.sessionTimeoutMs, addTimeoutMs },
      }),
  }
}

/** What the configuration states of Java writers: no node says what they delete. */
function foreignStreams(
  index: DistributedLogIndex,
  { purge, purgeAfterMs = PURGE_AFTER_MS, truncation }: Readonly<Record<string, unknown>>,
): ForeignStreams {
  return {
    isForeign: (incarnation) => index.isMadeByOthers(incarnation),
    purge: purge === 'never' || purge === 'truncated' ? purge : 'aged',
    purgeAfterMs: Number(purgeAfterMs),
    followsTruncation: truncation === 'follow',
    truncatedBelow: (incarnation) => index.truncatedBelow(incarnation),
  }
}

/** The binding of the namespace; one that has none is bound to the cluster the configuration names. */
async function boundNamespace(
  zk: ZooKeeper,
  place: ClusterPlace,
  { root, config }: Opening,
): Promise<NamespaceBinding> {
  const found = await readBinding(zk, place.namespace, place.authority)
  if (found !== null) return found.binding
  const { ledgers = LEDGERS_DEFAULT } = engineSettings(root, config, 'bookkeeper')
  const ledgersPath = String(ledgers)
  // A namespace is not bound to a cluster that is not there.
  await readCluster(zk, ledgersPath)
  const { authority } = place
  const binding: NamespaceBinding = {
    bookkeeperServers: authority,
    bookkeeperServersForReaders: authority,
    ledgersPath,
    servers: authority,
    serversForReaders: authority,
    sanityCheckTxid: true,
    encodeRegionId: false,
    aclRoot: null,
    firstSegment: 1n,
    federated: false,
  }
  await bindNamespace(zk, place.namespace, binding)
  return binding
}

/** A namespace may be bound to bookies that another ZooKeeper looks after. */
async function zooKeeperOfLedgers(
  zk: ZooKeeper,
  place: ClusterPlace,
  { bookkeeperServers }: NamespaceBinding,
  { root, config, system, closers }: Opening,
): Promise<ZooKeeper> {
  const settings = await ledgersSettings(root, config, place, bookkeeperServers)
  if (settings === null) return zk
  const other = await openZooKeeper(settings, system)
  closers.push(() => other.close())
  return other
}

async function openBookies(
  { root, config, system, closers }: Opening,
  zk: ZooKeeper,
  ledgersPath: string,
): Promise<{
  readonly stores: BookieDirectory
  readonly registry: BookieRegistry
  readonly groupsOf: { readonly groupsOf?: GroupsOf }
  readonly addTimeoutMs: number
}> {
  const { clock, logger, random } = system
  const { racksFile, groupsFile, rack } = engineSettings(root, config, 'bookkeeper')
  const here = rack === undefined ? null : rackNamed(String(rack))
  const groupsOf =
    typeof groupsFile === 'string' ? { groupsOf: parseGroups(await readText(groupsFile), groupsFile) } : {}
  const racks =
    typeof racksFile === 'string' ? { rackOf: parseRacks(await readText(racksFile), racksFile) } : {}
  const registry = await BookieRegistry.open(zk, { ledgersPath, clock, logger, ...racks })
  closers.push(() => registry.close())
  const settings = await bookieSettings(root, config)
  const stores = await BookieDirectory.open({
    bookies: registry,
    open: (bookie) => openBookie(bookie, settings, { clock, logger, random }),
    spread: (bookies, staying) => spreadBeside(bookies, staying, random),
    ...groupsOf,
    ...(here === null ? {} : { distance: (bookie: LiveBookie) => rackDistance(here, bookie.rack) }),
    logger,
  })
  closers.push(() => stores.close())
  return { stores, registry, groupsOf, addTimeoutMs: settings.addTimeoutMs }
}

function rackNamed(text: string): string {
  if (isRack(text)) return text
  throw new StratalogError('config_invalid', `bookkeeper.rack "${text}" is no rack: write /region/rack`, {
    found: text,
  })
}

/** The rows that were read last; made anew where the file is damaged or of another log. */
async function openCache({ root, system }: Opening, logId: string): Promise<SqliteMetadata> {
  const file = join(root, CACHE_FILE)
  const { clock, logger } = system
  const { openSqliteMetadata } = await import('../metadata/sqlite/open.js')
  const forget = () => {
    for (const part of ['', '-wal', '-shm']) rmSync(`${file}${part}`, { force: true })
    return openSqliteMetadata(file, { clock, logger, cache: true })
  }
  let cache: SqliteMetadata
  try {
    cache = openSqliteMetadata(file, { clock, logger, cache: true })
  } catch (error) {
    if (!isStratalogError(error, 'corrupt')) throw error
    logger.warn({ err: error, file }, 'the cache of the namespace is made anew')
    cache = forget()
  }
  if ((await cache.index.fact('log')) === logId) return cache
  if (!cache.created) {
    await cache.close()
    cache = forget()
  }
  await cache.index.setFact('log', logId)
  return cache
}

/**
 * A writer waits for the lock of one that may be dead until that one's session must have ended, and is refused then: the
 * other is alive. Whoever asks without wanting to write is told at once. Every process has the same log, so what
 * distinguishes the holders of leases is the process.
 */
function ofProcess(locks: DistributedLogLocks, clientId: string, waitMs: number): Coordination {
  return {
    acquire: (name, options) => {
      if (options.holder === 'writer') return locks.acquire(name, { ...options, waitMs })
      return locks.acquire(name, name.startsWith('writer/') ? options : { ...options, holder: clientId })
    },
    holder: (name) => locks.holder(name),
    close: () => locks.close(),
  }
}

/** Bookies tell ZooKeeper where they are, and nobody replaces one from here. */
const forgetful: StoreFactsKeeper = {
  read: () => Promise.resolve(null),
  write: () => Promise.resolve(),
}
