import process from 'node:process'
import type { StreamRow } from '../../src/model/segment.js'
import type { StoreFactsKeeper } from '../../tiering/store-facts.js'
import { ArchiveTrouble } from './archive.js'
import { Client } from './client.js'
import { SimDisk } from './disk.js'
import { finalChecks } from './final-checks.js'
import { MetadataService } from './metadata.js'
import { loseOne, planAttacks } from './nemesis.js'
import { Network } from './network.js'
import { Operator } from './operator.js'
import { type FaultKind, LOSSES, type SimOptions } from './options.js'
import { Oracle } from './oracle.js'
import { Producer } from './producer.js'
import { SimRandom } from './random.js'
import { Scheduler } from './scheduler.js'
import { Steps } from './steps.js'
import { StoreNode } from './store-node.js'
import { Trace, type Violation, type Work } from './trace.js'
import { ZkMetadataService } from './zk-metadata.js'

/** Far more than any run needs: what exceeds it goes round in circles. */
const EVENTS_MAX = 400_000
const TICK_MS = 1_000
/** Longer than any call of the library waits for an answer that was lost, and a second copy of a message is under way. */
const CALM_MS = 15_000
/** Longer than any message or call that a fault made slow is under way. */
const CALM_AFTER_SLOWNESS_MS = 45_000
/** Faults that make something slow for a long time. */
const SLOW: readonly FaultKind[] = ['delay', 'stall', 'archive-delay', 'archive-late']
/** Within this time after everything is healed everything has to work. */
const LIVENESS_MS = 240_000
/** A writer waits longer for a lock in ZooKeeper than for a lease in SQLite, and a retry may come to the wrong process. */
const LIVENESS_MS_WITH_ZOOKEEPER = 4 * LIVENESS_MS

/** What came of a run. */
export interface SimResult {
  readonly options: SimOptions
  readonly violations: readonly Violation[]
  readonly faults: ReadonlyMap<FaultKind, number>
  readonly works: ReadonlyMap<Work, number>
  readonly deaths: ReadonlyMap<string, number>
  readonly hash: number
  readonly lines: readonly string[]
  readonly events: number
  readonly virtualMs: number
  /** What the run did, to see that it did something. */
  readonly acked: number
  readonly reads: number
  readonly evictions: number
  readonly trims: number
  readonly duplicates: number
  readonly conditional: number
}

/** Runs one simulation. The same options make the same run, to the last line of its trace. */
export async function simulate(options: SimOptions): Promise<SimResult> {
  const world = new SimWorld(options)
  // A promise that nobody waits for is a bug of ours wherever it fails.
  const unhandled = (error: unknown): void => world.trace.violate(0, `nobody handles ${String(error)}`)
  process.on('unhandledRejection', unhandled)
  // Faults make thousands of errors, and their stacks cost more than all the rest.
  const { stackTraceLimit } = Error
  Error.stackTraceLimit = 0
  try {
    return await world.run()
  } finally {
    Error.stackTraceLimit = stackTraceLimit
    process.off('unhandledRejection', unhandled)
    await world.end()
  }
}

/** Processes, disks and wires of one run, and its script: faults, then healing, then the reckoning. */
export class SimWorld {
  readonly options: SimOptions
  readonly random: SimRandom
  readonly scheduler: Scheduler
  readonly trace: Trace
  readonly oracle: Oracle
  readonly network: Network
  readonly metadata: MetadataService
  readonly nodes: readonly StoreNode[]
  readonly clients: readonly Client[]
  readonly archive: SimDisk | null
  readonly trouble: ArchiveTrouble
  readonly steps: Steps
  readonly streams: StreamRow[] = []
  #facts: string | null = null
  /** What is remembered of stores; on a disk of its own that loses nothing. */
  readonly keeper: StoreFactsKeeper = {
    read: async () => this.#facts,
    write: async (text) => {
      this.#facts = text
    },
  }
  readonly #producers: Producer[] = []
  #next = 0
  #safety = true
  readonly #armed: (() => void)[] = []

  constructor(options: SimOptions) {
    this.options = options
    this.random = new SimRandom(options.seed ^ 0x5eed)
    this.scheduler = new Scheduler(this.random.fork())
    this.trace = new Trace(this.scheduler)
    this.oracle = new Oracle(this.scheduler, this.trace, options)
    this.network = new Network(this.scheduler, this.random.fork(), this.trace, options.faults)
    const { scheduler, network, trace, oracle } = this
    const itsRandom = this.random.fork()
    this.metadata =
      options.zookeeper === true
        ? new ZkMetadataService(scheduler, network, itsRandom, trace, oracle, options.bug)
        : new MetadataService(scheduler, network, itsRandom, trace, oracle)
    this.nodes = Array.from(
      { length: options.stores },
      (_, i) => new StoreNode(`store${i}`, scheduler, this.random.fork(), trace, options),
    )
    // Copies go before the metadata do (decision 0010): by the time those go it is too late to look.
    for (const node of this.nodes) {
      node.onDelete = (ledgerId) => oracle.beforeLedgerDelete(ledgerId)
      node.onAdd = (...copy) => oracle.copies.promised(...copy)
    }
    this.archive = options.archive
      ? new SimDisk('archive', scheduler, this.random.fork(), trace, options.bug)
      : null
    if (this.archive !== null) oracle.watchArchive(this.archive)
    // Numbers of their own: what tiering suffers leaves the rest as it is.
    const own = new SimRandom(options.seed ^ 0xa2c)
    this.trouble = new ArchiveTrouble(scheduler, own, trace, options.faults)
    oracle.tiering.archiveFailedMs = () => this.trouble.failedMs
    this.steps = new Steps(trace)
    this.steps.kill = (host) => {
      const client = this.clients.find((one) => one.host === host)
      client?.kill('a step')
      if (client !== undefined) this.restartClient(client, own.between(100, 5_000))
    }
    oracle.onAck = () => {
      for (const attack of this.#armed.splice(0)) scheduler.after(this.random.between(0, 8), null, attack)
    }
    this.clients = Array.from(
      { length: options.clients },
      (_, i) => new Client(`client${i}`, this, this.random.fork()),
    )
  }

  /** See `Victims` in nemesis.ts. */
  readonly atNextAck = (attack: () => void): void => {
    this.#armed.push(() => {
      if (this.#safety) attack()
    })
  }

  /** See `Victims` in nemesis.ts. */
  readonly contend = (client: Client, when?: 'at once'): void => {
    const stream = this.streams[this.clients.indexOf(client) % this.streams.length]
    const other = this.random.pick(this.clients.filter((one) => one !== client))
    for (let i = 0; i < 3; i += 1) {
      // Its session has ended by now, and it may be the last to hear of that.
      const ms = when === 'at once' ? this.random.between(0, 500) : this.random.between(4_500, 10_000)
      this.scheduler.after(ms, null, () => this.#appendBy(other, stream, 1))
      for (let n = 0; n < 4; n += 1)
        this.scheduler.after(ms + this.random.between(-5, 40), null, () => this.#appendBy(client, stream, 1))
    }
  }

  readonly restartClient = (client: Client, ms: number): void => {
    this.scheduler.after(ms, null, () => {
      if (!client.host.up) client.start(this.#followedBy(client))
    })
  }

  async run(): Promise<SimResult> {
    let done = false
    let failure: unknown = null
    void this.#script().then(
      () => {
        done = true
      },
      (error: unknown) => {
        failure = error
        done = true
      },
    )
    const bounds = { untilMs: Number.POSITIVE_INFINITY, eventsMax: EVENTS_MAX }
    const end = await this.scheduler.run(() => done || this.trace.violations.length > 0, bounds)
    if (failure !== null) this.trace.violate(0, `the script failed: ${String(failure)}`)
    if (end !== 'done') this.trace.violate(0, `the run did not end: ${end} at ${this.scheduler.nowMs} ms`)
    const { trace, oracle, scheduler, options } = this
    return {
      options,
      violations: trace.violations,
      faults: trace.faults,
      works: trace.works,
      deaths: trace.deaths,
      hash: trace.hash,
      lines: trace.lines,
      events: scheduler.fired,
      virtualMs: scheduler.nowMs,
      acked: oracle.ackedCount,
      reads: oracle.reads,
      evictions: oracle.evictions,
      trims: oracle.trims,
      duplicates: oracle.duplicates,
      conditional: oracle.conditional,
    }
  }

  async end(): Promise<void> {
    for (const client of this.clients) client.kill('the end')
    for (const node of this.nodes) node.kill('the end')
    await this.metadata.end()
  }

  async #script(): Promise<void> {
    const { options, scheduler } = this
    if (options.zookeeper === true) await this.metadata.prepare()
    for (const node of this.nodes) node.start()
    await Promise.all(this.nodes.map((node) => node.opened()))
    for (let i = 0; i < options.streams; i += 1) await this.#createStream(i)
    for (const client of this.clients) client.start(this.#followedBy(client))
    this.#tick()
    this.#planAppends(options.appends, options.safetyMs)
    this.#produce(options.produced, options.safetyMs)
    const operator = new Operator(this, new SimRandom(options.seed * 223 + 7))
    void operator.run(options.byHand, options.safetyMs)
    planAttacks(this, options)
    await scheduler.wait(options.safetyMs)
    await this.heal()
    const loss = LOSSES.find((kind) => options.faults[kind] !== undefined)
    if (loss !== undefined) await this.#lose(loss)
    operator.stop()
    await finalChecks(this, this.random.chance(0.5))
  }

  async #createStream(i: number): Promise<void> {
    const stream = await this.metadata.index.createStream({
      incarnation: `${i + 1}`.padStart(32, '0'),
      name: `s${i}`,
      txidMode: 'ms',
      createdMs: 0,
      parent: null,
    })
    this.streams.push(stream)
  }

  /** What a cluster does by itself all the time. */
  #tick(): void {
    this.metadata.expireSessions(this.clients.map(({ host }) => host))
    for (const client of this.clients) {
      if (!client.fenced || !client.host.up || client.host.paused) continue
      client.kill('fenced')
      this.restartClient(client, 1_000)
    }
    // One of them at a time: looking at a store costs it events of its own.
    void this.random
      .pick(this.nodes)
      .checkBounds()
      .catch(() => {})
    this.scheduler.after(TICK_MS, null, () => this.#tick())
  }

  #planAppends(count: number, withinMs: number): void {
    for (let left = count; left > 0; ) {
      const burst = Math.min(left, 1 + this.random.below(4))
      left -= burst
      this.scheduler.after(this.random.between(0, 1) * withinMs, null, () => this.#append(burst))
    }
  }

  #produce(records: number, withinMs: number): void {
    if (records === 0) return
    for (const stream of this.streams) {
      // Numbers of its own: without producers the rest of the run is as it was.
      const random = new SimRandom(this.options.seed * 211 + this.#producers.length)
      const producer = new Producer(this, random, stream, records)
      this.#producers.push(producer)
      void producer.run(withinMs)
    }
  }

  #append(burst: number): void {
    const stream = this.random.pick(this.streams)
    // Mostly the same process for a stream, so that there is a writer to be overtaken.
    const index = this.random.chance(0.8)
      ? this.streams.indexOf(stream)
      : this.random.below(this.clients.length)
    this.#appendBy(this.clients[index % this.clients.length], stream, burst)
  }

  #appendBy(client: Client | undefined, stream: StreamRow | undefined, burst: number): void {
    if (stream === undefined) return
    if (client === undefined || !client.host.up || client.host.paused) return
    const numbers = Array.from({ length: burst }, () => this.#next++)
    // What fails is in the trace; whether it may fail is for the phase after the faults to say.
    client.append(stream, numbers).catch(() => {})
  }

  /** A number that no record has had yet. */
  nextRecord(): number {
    return this.#next++
  }

  /** Each stream has one follower, mostly in another process than its writer. */
  #followedBy(client: Client): StreamRow[] {
    const { clients } = this
    return this.streams.filter((_, i) => clients[(i + 1) % clients.length] === client)
  }

  /** Ends all faults; then what was asked for has to settle and every store has to open. */
  async heal(): Promise<void> {
    this.trace.note('everything is healed')
    this.#safety = false
    this.network.heal()
    this.trouble.heal()
    this.steps.disarm()
    for (const disk of [
      ...this.nodes.map((node) => node.disk),
      ...(this.archive === null ? [] : [this.archive]),
    ])
      Object.assign(disk.faults, {
        writeErrors: 0,
        syncErrors: 0,
        misdirected: 0,
        full: false,
        stalledUntilMs: 0,
        down: false,
        freeBytes: null,
      })
    for (const { host } of [...this.nodes, ...this.clients]) if (host.paused) this.scheduler.resume(host)
    const slow = SLOW.some((kind) => this.options.faults[kind] !== undefined)
    await this.scheduler.wait(slow ? CALM_AFTER_SLOWNESS_MS : CALM_MS)
    await this.until('every append settles', () => this.clients.every(({ pending }) => pending === 0))
    for (const node of this.nodes) await node.restartIfPoisoned()
    await this.until('every producer is told that all is there', () =>
      this.#producers.every(({ done }) => done),
    )
    for (const node of this.nodes) node.restartLater(0)
    await this.until('every store opens', () => this.nodes.every((node) => node.isOpen))
  }

  /** One store loses what it promised, while all others are well; appends go on and processes die. */
  async #lose(kind: FaultKind): Promise<void> {
    const node = this.random.pick(this.nodes)
    // A store that was poisoned is well again only after a restart.
    for (const other of this.nodes) await other.stop()
    for (const other of this.nodes) if (!other.host.up) other.start()
    await this.until('every store opens', () => this.nodes.every(({ isOpen }) => isOpen))
    if (kind === 'lying-sync') node.disk.faults.lies = true
    if (kind === 'misdirected-write') node.disk.faults.misdirected = 1
    this.#planAppends(12, 8_000)
    const { scheduler, clients } = this
    const victim = this.random.pick(clients)
    const lossMs = this.random.between(2_000, 8_000)
    let lost = false
    const lose = (): void => {
      if (lost) return
      lost = true
      loseOne(kind, node, this.random, this.trace)
    }
    // Right behind an acknowledgement, before anything marks it as durable: the worst moment to have lied.
    scheduler.after(lossMs, null, () => this.#armed.push(lose))
    scheduler.after(lossMs + this.random.between(-50, 500), null, () => victim.kill('loss'))
    this.restartClient(victim, lossMs + 2_000)
    await scheduler.wait(20_000)
    if (!lost) {
      // Nothing was acknowledged any more. Left armed, it would come in the reckoning, which takes it for done.
      lose()
      await scheduler.wait(10_000)
    }
    Object.assign(node.disk.faults, { lies: false, misdirected: 0 })
  }

  /** Waits until something holds that has to hold now that everything works. */
  async until(what: string, holds: () => boolean): Promise<void> {
    const withinMs = this.options.zookeeper === true ? LIVENESS_MS_WITH_ZOOKEEPER : LIVENESS_MS
    const deadlineMs = this.scheduler.nowMs + withinMs
    while (!holds()) {
      if (this.scheduler.nowMs > deadlineMs) {
        this.trace.violate(0, `liveness: not within ${withinMs} ms: ${what}`)
        return
      }
      await this.scheduler.wait(500)
    }
  }
}
