import { decodeLedgerMetadata } from '../../src/format/ledger-metadata.js'
import { bindNamespace } from '../../src/metadata/distributedlog/binding.js'
import { DistributedLogLocks, HeldLocks } from '../../src/metadata/distributedlog/locks.js'
import { DistributedLogIndex } from '../../src/metadata/distributedlog/segment-index.js'
import type { SqliteMetadata } from '../../src/metadata/sqlite/open.js'
import { createCluster } from '../../src/metadata/zookeeper/cluster.js'
import { ZkCoordination } from '../../src/metadata/zookeeper/coordination.js'
import { ZkLedgerMetadataStore } from '../../src/metadata/zookeeper/ledger-metadata.js'
import { present } from '../../src/model/assert.js'
import { StratalogError } from '../../src/model/errors.js'
import type { SegmentRow } from '../../src/model/segment.js'
import type { Coordination } from '../../src/ports/coordination.js'
import type { LedgerMetadataStore } from '../../src/ports/ledger-metadata.js'
import type { SegmentIndex } from '../../src/ports/segment-index.js'
import type { ZkOp, ZooKeeper } from '../../src/zookeeper/client.js'
import { RenewingZooKeeper } from '../../src/zookeeper/renewing.js'
import { MemoryZooKeeper } from '../helpers/zookeeper-memory.js'
import { type MetadataClient, MetadataService } from './metadata.js'
import type { Network } from './network.js'
import type { PlantedBug } from './options.js'
import type { Oracle } from './oracle.js'
import type { SimRandom } from './random.js'
import { EPOCH_MS, type Host, HostClock, type Scheduler } from './scheduler.js'
import type { Trace } from './trace.js'
import { SimZkSession, ZK_SESSION_MS, type ZkServer } from './zk-session.js'

const LEDGERS = '/ledgers'
const NAMESPACE = '/dl/ns'
const INSTANCE = '5cc77fa7-87f4-46dd-83e6-7d324500c8d4'
const SERVERS = 'zk:2181'
const LEDGER_NODE = /^\/ledgers\/\d\d\/\d{4}\/L\d{4}$/
/** As src/open/cluster-ground.ts has it: a writer waits for the lock of one that may be dead. */
const PATIENCE_MS = 1_000
const AGAIN_MS = 500

/** What one life of a process opened. */
interface Opened {
  readonly index: DistributedLogIndex
  readonly ledgers: LedgerMetadataStore
  readonly coordination: Coordination
}

/**
 * The metadata of a cluster: DistributedLog's tree and BookKeeper's ledgers in a ZooKeeper in memory that never dies.
 * The index, the locks and the ledgers' metadata are the real ones, in each process, over a session of its own.
 */
export class ZkMetadataService extends MetadataService {
  readonly #server: ZkServer
  readonly #scheduler: Scheduler
  readonly #random: SimRandom
  readonly #trace: Trace
  readonly #oracle: Oracle
  /** The cache that each process has in its directory; a death leaves it as it is. */
  readonly #caches = new Map<Host, SqliteMetadata>()
  /** When each session was heard of, and whose it is. */
  readonly #heardMs = new Map<bigint, number>()
  readonly #sessionOf = new Map<Host, bigint>()
  #direct: DistributedLogIndex | null = null
  readonly #attacks: ((from: Host) => void)[] = []

  constructor(
    scheduler: Scheduler,
    network: Network,
    random: SimRandom,
    trace: Trace,
    oracle: Oracle,
    bug: PlantedBug | null,
  ) {
    super(scheduler, network, random, trace, oracle)
    this.#scheduler = scheduler
    this.#random = random
    this.#trace = trace
    this.#oracle = oracle
    const memory = new MemoryZooKeeper({ nowMs: () => Math.floor(EPOCH_MS + scheduler.nowMs) })
    this.#server = {
      ...{ host: this.host, memory, scheduler, network, bug },
      heard: (sessionId) => this.#heardMs.set(sessionId, scheduler.nowMs),
      changed: (op) => this.#changed(op),
      multi: (from) => this.#attacks.shift()?.(from),
    }
    memory.applied = (op) => this.#server.changed(op)
  }

  /** Past all processes and wires, for who prepares a run and looks at it. */
  override get index(): SegmentIndex {
    return present(this.#direct, 'an index')
  }

  override async prepare(): Promise<void> {
    const zk = await this.#server.memory.open()
    await createCluster(zk, LEDGERS, INSTANCE)
    await bindNamespace(zk, NAMESPACE, {
      ...{ bookkeeperServers: SERVERS, bookkeeperServersForReaders: SERVERS, ledgersPath: LEDGERS },
      ...{ servers: SERVERS, serversForReaders: SERVERS, sanityCheckTxid: true, encodeRegionId: false },
      ...{ aclRoot: null, firstSegment: 1n, federated: false },
    })
    this.#direct = await this.#openIndex(zk, this.host, await this.another('this log'))
  }

  override client(from: Host): MetadataClient {
    const opening = this.#opening(from)
    const index = lazily<SegmentIndex>(
      async () => (await opening).index,
      (name, args, done) => this.#told(name, args, done),
      { watch: (incarnation, changed) => lateWatch(opening, incarnation, changed) },
    )
    const ledgers = lazily<LedgerMetadataStore>(async () => (await opening).ledgers)
    const acquire: Coordination['acquire'] = async (name, options) => {
      const waitMs = options.holder === 'writer' ? ZK_SESSION_MS + PATIENCE_MS : options.waitMs
      return (await opening).coordination.acquire(name, { ...options, waitMs })
    }
    return { index, ledgers, coordination: { acquire, close: async () => {} } }
  }

  /** Called now and then: sessions that were not heard of for their time end. Nobody tells who had them. */
  override expireSessions(): void {
    for (const [sessionId, heardMs] of this.#heardMs) {
      if (this.#scheduler.nowMs - heardMs < ZK_SESSION_MS) continue
      this.#heardMs.delete(sessionId)
      this.#trace.note(`session ${sessionId} expires`)
      this.#server.memory.expire(sessionId)
    }
  }

  /** The server ends the session of a process that is well. */
  override expire(host: Host): void {
    const sessionId = this.#sessionOf.get(host)
    if (sessionId === undefined) return
    this.#trace.fault('session-expiry', `${host.name} ${sessionId}`)
    this.#heardMs.delete(sessionId)
    this.#server.memory.expire(sessionId)
  }

  override atNextMulti(attack: (from: Host) => void): void {
    this.#attacks.push(attack)
  }

  /** As src/open/cluster-ground.ts puts it together; tried until ZooKeeper answers. */
  async #opening(from: Host): Promise<Opened> {
    const { instance } = from
    const clock = new HostClock(this.#scheduler, from)
    const logger = this.#trace.logger(from.name)
    const random = this.#random.fork()
    const session = async (): Promise<SimZkSession> => {
      const opened = await SimZkSession.open(this.#server, from)
      if (from.instance === instance) this.#sessionOf.set(from, opened.sessionId)
      return opened
    }
    const known = this.#caches.get(from)
    const cache = known !== undefined && random.chance(0.7) ? known : await this.another('this log')
    this.#caches.set(from, cache)
    for (;;) {
      const life = { over: false }
      try {
        const zk = new RenewingZooKeeper(await session(), session)
        const held = new HeldLocks()
        const index = await this.#openIndex(zk, from, seenBy(from, life, cache), held)
        const others = new ZkCoordination(zk, { root: '/stratalog/v1/leases', clock, random })
        const lockPath = (incarnation: string): Promise<string> => index.lockPath(incarnation)
        const clientId = from.name
        const coordination = new DistributedLogLocks({ zk, clock, logger, clientId, lockPath, held, others })
        return {
          index,
          ledgers: new ZkLedgerMetadataStore(zk, { ledgersPath: LEDGERS, random }),
          coordination,
        }
      } catch (error) {
        life.over = true
        this.#trace.note(`${from.name} can't open its index: ${String(error).slice(0, 120)}`)
        await clock.sleep(AGAIN_MS)
      }
    }
  }

  #openIndex(
    zk: ZooKeeper,
    host: Host,
    cache: Pick<SqliteMetadata, 'index' | 'adoptSegments'>,
    locks?: HeldLocks,
  ): Promise<DistributedLogIndex> {
    return DistributedLogIndex.open({
      ...{ zk, namespace: NAMESPACE, instanceId: INSTANCE, cache: cache.index },
      adoptSegments: (rows) => cache.adoptSegments(rows),
      ledgers: new ZkLedgerMetadataStore(zk, { ledgersPath: LEDGERS, random: this.#random }),
      coldRows: async function* () {},
      clock: new HostClock(this.#scheduler, host),
      logger: this.#trace.logger(host.name),
      ...(locks === undefined ? {} : { locks }),
    })
  }

  /** What becomes of ledgers the oracle hears from the server, whoever hears of it else. */
  #changed(op: ZkOp): void {
    if (!LEDGER_NODE.test(op.path) || op.op === 'check') return
    const ledgerId = BigInt(op.path.slice(LEDGERS.length).replace(/[/L]/g, ''))
    if (op.op === 'delete') this.#oracle.beforeLedgerDelete(ledgerId)
    else this.#oracle.ledgerChanged(ledgerId, decodeLedgerMetadata(op.data))
  }

  #told(name: string, args: readonly unknown[], done: unknown): void {
    if (name === 'beginSegment') this.#oracle.segmentBegun(done as SegmentRow)
    if (name === 'updateSegment') this.#oracle.rowChanged(done as SegmentRow)
    if (name === 'removeSegment') this.#oracle.segmentRemoved(args[0] as SegmentRow)
  }
}

/**
 * A cache as one life of its process sees it: whoever watched in a life before is dead, and for an index that could not
 * be opened the file is closed.
 */
function seenBy(
  host: Host,
  life: { readonly over: boolean },
  cache: SqliteMetadata,
): Pick<SqliteMetadata, 'index' | 'adoptSegments'> {
  const { instance } = host
  const open = (): void => {
    if (life.over) throw new StratalogError('closed', 'the cache was closed: its index could not be opened')
  }
  const watch: SegmentIndex['watch'] = (incarnation, changed) =>
    cache.index.watch(incarnation, () => {
      if (host.instance === instance) changed()
    })
  const index = new Proxy(cache.index, {
    get: (target, name) => {
      if (name === 'watch') return watch
      const value: unknown = target[name as keyof SegmentIndex]
      if (typeof value !== 'function') return value
      return (...args: unknown[]): unknown => {
        open()
        return value.apply(target, args)
      }
    },
  })
  const adoptSegments = async (rows: readonly SegmentRow[]): Promise<void> => {
    open()
    await cache.adoptSegments(rows)
  }
  return { index, adoptSegments }
}

/** An object that is there later. */
function lazily<T extends object>(
  target: () => Promise<T>,
  told: (name: string, args: readonly unknown[], done: unknown) => void = () => {},
  own: Partial<T> = {},
): T {
  const get = (_: object, name: string | symbol): unknown => {
    if (typeof name === 'symbol' || name === 'then') return undefined
    if (name in own) return own[name as keyof T]
    return async (...args: unknown[]) => {
      const object = await target()
      const method: unknown = object[name as keyof T]
      if (typeof method !== 'function') throw new TypeError(`there is no method ${name}`)
      const done: unknown = await method.apply(object, args)
      told(name, args, done)
      return done
    }
  }
  return new Proxy(own, { get }) as T
}

function lateWatch(opening: Promise<Opened>, incarnation: string, changed: () => void): { close(): void } {
  let closed = false
  let inner: { close(): void } | null = null
  void opening.then(({ index }) => {
    if (!closed) inner = index.watch(incarnation, changed)
  })
  return {
    close: () => {
      closed = true
      inner?.close()
    },
  }
}
