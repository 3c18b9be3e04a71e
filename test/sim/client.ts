import { directoryArchive } from '../../archive/directory/store.js'
import { ArchiveKeys, attachKeys } from '../../archive/keys.js'
import type { AppendConditions } from '../../src/append/refusals.js'
import { TakenBytes } from '../../src/append/taken-bytes.js'
import { WriterHub } from '../../src/append/writer-hub.js'
import type { LedgerContext, StoreDirectory } from '../../src/ledger/context.js'
import { RepairQueue } from '../../src/ledger/repair-queue.js'
import { StoreHealth } from '../../src/ledger/store-health.js'
import { StoreRoom } from '../../src/ledger/store-room.js'
import type { LogParts } from '../../src/log-parts.js'
import { present } from '../../src/model/assert.js'
import { isStratalogError, StratalogError } from '../../src/model/errors.js'
import { BUILT_IN_POLICY, type Policy, type ResolvedPolicy } from '../../src/model/policy.js'
import type { Ack, LogRecord } from '../../src/model/record.js'
import type { SegmentRow, StreamRow } from '../../src/model/segment.js'
import { ColdTier } from '../../src/open/cold-tier.js'
import type { SystemPorts } from '../../src/options.js'
import type { ArchiveStore } from '../../src/ports/archive-store.js'
import type { SegmentStore, StoreStatus } from '../../src/ports/segment-store.js'
import type { ColdSource } from '../../src/read/cold.js'
import { type ReadContext, readBatches } from '../../src/read/reader.js'
import { HotSource } from '../../src/read/source.js'
import { TieringAgent } from '../../tiering/agent.js'
import type { TieringContext } from '../../tiering/context.js'
import type { StoreFactsKeeper } from '../../tiering/store-facts.js'
import { Upkeep } from '../../tiering/upkeep.js'
import { type ArchiveTrouble, RemoteArchive } from './archive.js'
import { SimDisk } from './disk.js'
import { SIMULATED_KEY } from './key-ring.js'
import type { MetadataClient, MetadataService } from './metadata.js'
import { type Network, remote } from './network.js'
import type { SimOptions } from './options.js'
import type { Oracle, ReaderPlace } from './oracle.js'
import { buggyCoordination, buggyIndex } from './planted.js'
import type { SimRandom } from './random.js'
import { Host, HostClock, type Scheduler } from './scheduler.js'
import type { Steps } from './steps.js'
import type { StoreNode } from './store-node.js'
import { ARCHIVE_ROOT } from './tiering-oracle.js'
import type { Trace } from './trace.js'

const STATUS_TIMEOUT_MS = 1_000
const READER_RETRY_MS = 1_000
/** How soon the agent looks around after an append. */
const WAKE_MS = 2_000

/** What a process needs of the world around it. */
export interface Surroundings {
  readonly scheduler: Scheduler
  readonly network: Network
  readonly metadata: MetadataService
  readonly nodes: readonly StoreNode[]
  readonly clients: readonly Client[]
  readonly archive: SimDisk | null
  readonly trouble: ArchiveTrouble
  readonly steps: Steps
  readonly oracle: Oracle
  readonly trace: Trace
  readonly options: SimOptions
  readonly keeper: StoreFactsKeeper
}

/** The segment stores as a process sees them: over the network, by the ids they have now. */
class RemoteStores implements StoreDirectory {
  readonly #around: Surroundings
  readonly #from: Host
  readonly #clock: HostClock
  readonly #known = new Map<string, SegmentStore>()
  #turn = 0

  constructor(around: Surroundings, from: Host, clock: HostClock) {
    this.#around = around
    this.#from = from
    this.#clock = clock
  }

  get(id: string): SegmentStore | null {
    const node = this.#around.nodes.find(({ storeId }) => storeId === id)
    return node === undefined ? null : this.#proxy(node, id)
  }

  all(): readonly SegmentStore[] {
    return this.#around.nodes.flatMap((node) =>
      node.storeId === null ? [] : [this.#proxy(node, node.storeId)],
    )
  }

  async writable(): Promise<SegmentStore[]> {
    const states = await Promise.all(
      this.all().map(async (store) => ({ store, state: await this.#stateOf(store) })),
    )
    const writable = states.filter(({ state }) => state === 'writable').map(({ store }) => store)
    this.#turn = (this.#turn + 1) % Math.max(1, writable.length)
    return [...writable.slice(this.#turn), ...writable.slice(0, this.#turn)]
  }

  #stateOf(store: SegmentStore): Promise<StoreStatus['state']> {
    return new Promise((resolve) => {
      const timer = this.#clock.setTimer(STATUS_TIMEOUT_MS, () => resolve('unreachable'))
      store
        .status()
        .finally(() => timer.cancel())
        .then(
          ({ state }) => resolve(state),
          () => resolve('unreachable'),
        )
    })
  }

  #proxy(node: StoreNode, id: string): SegmentStore {
    const known = this.#known.get(id)
    if (known !== undefined) return known
    const { network, options } = this.#around
    const store = remote<SegmentStore>(
      () => node.served(),
      { id },
      async (name, args, work) => {
        const answer = network.call({
          from: this.#from,
          to: node.host,
          what: `${name} ${args.filter((arg) => typeof arg === 'bigint').join('/')}`,
          work: () => node.serve(name, args, work),
          lostAnswer: 'lost-answer',
          mayLoseRequest: true,
          mayDuplicate: name !== 'waitForLac' && name !== 'status',
        })
        if (options.bug !== 'error-is-missing' || name !== 'readEntry') return answer
        return answer.catch(() => ({ kind: 'missing' }))
      },
    )
    this.#known.set(id, store)
    return store
  }
}

/** What runs in one life of a process; a new life has a new one. */
interface Running {
  readonly hub: WriterHub
  readonly agent: TieringAgent
  readonly upkeep: Upkeep
  readonly tiering: TieringContext
  readonly archive: (() => Promise<ArchiveStore>) | null
  readonly ledger: LedgerContext
  readonly read: ReadContext
  readonly metadata: MetadataClient
  /** What the verbs of a stream need of a log. */
  readonly parts: LogParts
}

/** Opens the archive, to tier or to read what is cold. */
type ArchiveOpener = (tiers: boolean) => Promise<ArchiveStore>

/** An application's process: writers, an agent and readers over the stores and the metadata. */
export class Client {
  readonly host: Host
  readonly clock: HostClock
  /** Where its cache is; it loses nothing but what a death cuts off. */
  readonly disk: SimDisk
  readonly #around: Surroundings
  readonly #random: SimRandom
  #running: Running | null = null
  /** Appends of this life that have not settled. */
  pending = 0
  /** Appends this process may not make any more: another owns the stream. */
  fenced = false

  constructor(name: string, around: Surroundings, random: SimRandom) {
    this.host = new Host(name)
    this.clock = new HostClock(around.scheduler, this.host)
    this.disk = new SimDisk(name, around.scheduler, random.fork(), around.trace, null)
    this.#around = around
    this.#random = random
  }

  start(streams: readonly StreamRow[]): void {
    const { scheduler, trace } = this.#around
    scheduler.start(this.host)
    trace.note(`${this.host.name} starts`)
    this.fenced = false
    this.pending = 0
    this.#running = this.#assemble()
    this.#running.agent.follow()
    // In a log one process does this; more of them would only do it more often.
    if (this.#around.options.upkeep && this.#around.clients[0] === this) this.#running.upkeep.follow()
    for (const stream of streams) void this.#follow(stream, this.#running)
  }

  kill(why: string): void {
    if (!this.host.up) return
    const { scheduler, trace, archive } = this.#around
    trace.note(`${this.host.name} dies: ${why}`)
    scheduler.kill(this.host)
    archive?.hostDied(this.host)
    this.disk.hostDied(this.host)
    this.#running = null
  }

  get running(): Running | null {
    return this.#running
  }

  /** Composed as src/open.ts composes a log, over what this world has in place of disks and files. */
  #assemble(): Running {
    const { metadata: service, trace, options, steps } = this.#around
    const metadata = service.client(this.host)
    const logger = trace.logger(this.host.name)
    const stores = new RemoteStores(this.#around, this.host, this.clock)
    const ledger: LedgerContext = {
      stores,
      metadata: steps.watched(this.host, metadata.ledgers),
      clock: this.clock,
      logger,
      health: new StoreHealth(this.clock, logger),
      room: new StoreRoom(stores, this.clock, logger),
      damaged: (copy) => repairs.damaged(copy),
    }
    const repairs = new RepairQueue(ledger)
    const index = buggyIndex(steps.watched(this.host, metadata.index), options.bug, this.#random)
    const coordination = buggyCoordination(metadata.coordination, options.bug)
    const resolved = policyOf(options)
    const policy = async () => resolved
    const archive = this.#archiveOpener()
    const taken = new TakenBytes(1 << 22)
    const appendsWait = (): boolean => taken.bytes > 0
    const hub: WriterHub = new WriterHub(
      { ledger, index, openCold: (row) => openCold(row), endRecords: options.zookeeper === true },
      coordination,
      async ({ incarnation }) => ({
        policy: () => resolved.policy,
        quorum: () => options.quorum,
        slowMs: () => agent.slowMs(resolved.policy, options.quorum, incarnation),
        inFlightBytesMax: 4_096,
        takenBytesMax: 1 << 20,
        taken,
      }),
      options.zookeeper === true,
    )
    const openCold = this.#coldOpener(ledger, index, archive, appendsWait, resolved)
    const tiering: TieringContext = {
      logId: '5'.repeat(32),
      ledger,
      index,
      coordination,
      random: this.#random,
      archive: archive === null ? null : () => archive(true),
      writers: hub,
      policy,
      appendsWait,
      ledgersAreShared: options.zookeeper === true,
    }
    const agent = new TieringAgent(tiering)
    const { keeper } = this.#around
    const upkeep = new Upkeep({ ledger, index, keeper, archive: tiering.archive, policy, repairs, tiering })
    const read: ReadContext = {
      index,
      clock: this.clock,
      logger,
      openHot: (row) => HotSource.open(ledger, row.ledgerId ?? -1n),
      openCold,
    }
    const segments = { ledger, index, openCold }
    const parts = {
      segments,
      hub,
      read,
      agent,
      tiering,
      upkeep,
    } satisfies Partial<LogParts> as Partial<LogParts>
    return {
      hub,
      agent,
      upkeep,
      tiering,
      archive: archive === null ? null : () => archive(true),
      ledger,
      read,
      metadata,
      parts: parts as LogParts,
    }
  }

  /** As src/open/assemble.ts has it, with a cache where the run has one. */
  #coldOpener(
    ledger: LedgerContext,
    index: ReadContext['index'],
    archive: ArchiveOpener | null,
    appendsWait: () => boolean,
    policy: ResolvedPolicy,
  ): (row: SegmentRow, signal?: AbortSignal, ahead?: boolean) => Promise<ColdSource> {
    const { clock, logger } = ledger
    let tier: Promise<ColdTier> | null = null
    return async (row, signal, ahead) => {
      if (archive === null) throw new StratalogError('archive_missing', 'there is no archive in this run')
      tier ??= ColdTier.open({
        root: '/client',
        system: { disk: this.disk.mount(this.host), clock, logger } as Partial<SystemPorts> as SystemPorts,
        index,
        openArchive: () => archive(false),
        archiveLocation: ARCHIVE_ROOT,
        diskCacheBytes: this.#around.options.cacheBytes,
        appendsWait,
        policy: async () => policy,
      }).catch((error: unknown) => {
        tier = null
        throw error
      })
      return (await tier).source(row, signal, ahead)
    }
  }

  #archiveOpener(): ArchiveOpener | null {
    const { archive, trace, trouble, steps, options, oracle } = this.#around
    if (archive === null) return null
    let opening: Promise<ArchiveStore> | null = null
    const reached = new Map<boolean, ArchiveStore>()
    const { host, clock } = this
    const random = this.#random
    return async (tiers) => {
      opening ??= directoryArchive(ARCHIVE_ROOT)
        .open({
          clock: this.clock,
          random: this.#random,
          logger: trace.logger(host.name),
          disk: archive.mount(host),
          signal: new AbortController().signal,
          existing: false,
        })
        .catch((error: unknown) => {
          opening = null
          trouble.failedMs = this.#around.scheduler.nowMs
          throw error
        })
      const inner = await opening
      const known = reached.get(tiers)
      if (known !== undefined) return known
      const believes = options.bug === 'evict-before-verify'
      const store = new RemoteArchive(inner, trouble, { host, steps, tiers, believes })
      attachKeys(store, new ArchiveKeys({ store, rings: oracle.rings, random, clock }))
      reached.set(tiers, store)
      return store
    }
  }

  /** Appends some records together. Failures are told to nobody: whoever asks is the oracle. */
  async append(stream: StreamRow, numbers: readonly number[]): Promise<void> {
    await this.#appending(stream, numbers, null)
  }

  /** Appends one record on conditions; null: this process does not take it. */
  async appendIf(stream: StreamRow, n: number, conditions: AppendConditions): Promise<Ack | null> {
    return (await this.#appending(stream, [n], conditions))[0] ?? null
  }

  async #appending(
    stream: StreamRow,
    numbers: readonly number[],
    conditions: AppendConditions | null,
  ): Promise<readonly Ack[]> {
    const running = this.#running
    if (running === null || this.fenced || this.host.paused) return []
    const { oracle, trace } = this.#around
    const instance = this.host.instance
    this.pending += 1
    try {
      const writer = await running.hub.writer(stream)
      const acks = await Promise.all(
        numbers.map(async (n) => {
          oracle.sent(stream.incarnation, n)
          const ack = await writer.append(oracle.payload(stream.name, n), null, conditions)
          oracle.acked(stream.incarnation, n, ack)
          return ack
        }),
      )
      running.agent.wake(WAKE_MS)
      return acks
    } catch (error) {
      trace.note(`${this.host.name} append ${numbers.join()} failed: ${String(error).slice(0, 160)}`)
      if (!isStratalogError(error)) trace.violate(0, `append failed with ${String(error)}`)
      if (isStratalogError(error, 'fenced')) this.fenced = true
      throw error
    } finally {
      if (instance === this.host.instance) this.pending -= 1
    }
  }

  /** Ends a stream for ever, as `Stream.finish` does. */
  async finish(stream: StreamRow): Promise<void> {
    const { hub, metadata } = present(this.#running, 'a client that runs')
    const row = await metadata.index.stream(stream.incarnation)
    if (row?.finishedMs === null) await (await hub.writer(row)).finish()
  }

  /** Reads a stream once from the start, or goes on with it for as long as this life lasts. */
  async readAll(stream: StreamRow): Promise<LogRecord[]> {
    const { oracle } = this.#around
    const running = this.#running
    const records: LogRecord[] = []
    if (running === null) return records
    const place: ReaderPlace = { dlsn: null, sequenceId: null }
    for await (const batch of readBatches(running.read, stream, {}, { hot: 0, cold: 0 })) {
      if (!Array.isArray(batch)) oracle.gap(stream, batch, place)
      else
        for (const record of batch) {
          oracle.observed(stream, record, place)
          records.push(record)
        }
    }
    return records
  }

  async #follow(stream: StreamRow, running: Running): Promise<void> {
    const { oracle, trace } = this.#around
    const place: ReaderPlace = { dlsn: null, sequenceId: null }
    for (;;) {
      try {
        const range = { follow: true, ...(place.dlsn === null ? {} : { after: place.dlsn }) }
        for await (const batch of readBatches(running.read, stream, range, { hot: 0, cold: 0 })) {
          if (!Array.isArray(batch)) oracle.gap(stream, batch, place)
          else for (const record of batch) oracle.observed(stream, record, place)
        }
      } catch (error) {
        trace.note(`${this.host.name} follower of ${stream.name} failed: ${String(error).slice(0, 160)}`)
        if (!isStratalogError(error)) trace.violate(0, `a reader failed with ${String(error)}`)
        if (isStratalogError(error, 'entry_missing')) trace.violate(1, `a reader was told: ${error.message}`)
      }
      await this.clock.sleep(READER_RETRY_MS)
    }
  }
}

/** One policy for every stream of a run. */
function policyOf(options: SimOptions): ResolvedPolicy {
  const { quorum, rollBytes, hotForMs, evictLagMs, keepForMs, hotMaxBytes, keepMaxBytes, archiveDown } =
    options
  const policy: Policy = {
    ...BUILT_IN_POLICY,
    quorum,
    roll: { sizeBytes: rollBytes, ageMs: 15_000, idleMs: 10_000 },
    hot: { forMs: hotForMs, maxBytes: hotMaxBytes },
    archiveDown,
    encryption: options.encrypted ? SIMULATED_KEY : null,
    evict: { lagMs: evictLagMs },
    scrub: { fullPassMs: 60_000 },
    keep: { forMs: keepForMs, maxBytes: keepMaxBytes, by: 'completion' },
  }
  const origins = new Proxy({}, { get: () => 'simulated' }) as ResolvedPolicy['origins']
  return { policy, origins }
}
