import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { openSqliteMetadata, type SqliteMetadata } from '../../src/metadata/sqlite/open.js'
import { StratalogError } from '../../src/model/errors.js'
import type { SegmentRow } from '../../src/model/segment.js'
import type { Coordination, Lease } from '../../src/ports/coordination.js'
import type { LedgerMetadataStore } from '../../src/ports/ledger-metadata.js'
import type { SegmentIndex, SegmentPatch } from '../../src/ports/segment-index.js'
import { type Network, remote } from './network.js'
import type { Oracle } from './oracle.js'
import type { SimRandom } from './random.js'
import { Host, HostClock, type Scheduler } from './scheduler.js'
import type { Trace } from './trace.js'

/** A process that is not heard of for this long loses its leases. */
const SESSION_MS = 4_000
/** A file system in memory where there is one: the service never dies, so its syncs only cost time. */
const MEMORY = '/dev/shm'

interface Held {
  readonly host: Host
  readonly instance: number
  readonly lost: AbortController
}

/** The metadata as one process sees them. */
export interface MetadataClient {
  readonly index: SegmentIndex
  readonly ledgers: LedgerMetadataStore
  readonly coordination: Coordination
}

/**
 * The metadata service: the real SQLite index in a process that never dies. What it was told is done; whether the
 * caller hears of it is another matter. Leases are sessions, and whoever loses one is the last to know.
 */
export class MetadataService {
  readonly host: Host = new Host('metadata')
  readonly sqlite: SqliteMetadata
  readonly #scheduler: Scheduler
  readonly #network: Network
  readonly #random: SimRandom
  readonly #trace: Trace
  readonly #oracle: Oracle
  readonly #directory = mkdtempSync(join(existsSync(MEMORY) ? MEMORY : tmpdir(), 'stratalog-sim-'))
  readonly #leases = new Map<string, Held>()
  readonly #epochs = new Map<string, bigint>()
  /** Since when a process has not been heard of. */
  readonly #silentSince = new Map<Host, number>()

  constructor(scheduler: Scheduler, network: Network, random: SimRandom, trace: Trace, oracle: Oracle) {
    this.#scheduler = scheduler
    this.#network = network
    this.#random = random
    this.#trace = trace
    this.#oracle = oracle
    scheduler.start(this.host)
    this.sqlite = openSqliteMetadata(join(this.#directory, 'index.db'), {
      clock: new HostClock(scheduler, this.host),
      logger: trace.logger('metadata'),
    })
  }

  async end(): Promise<void> {
    await this.sqlite.close()
    rmSync(this.#directory, { recursive: true, force: true })
  }

  client(from: Host): MetadataClient {
    const call = <T>(name: string, work: () => Promise<T>): Promise<T> =>
      this.#network.call({
        from,
        to: this.host,
        what: name,
        work,
        lostAnswer: 'metadata-lost-answer',
        mayLoseRequest: false,
        mayDuplicate: false,
      })
    const index = remote<SegmentIndex>(
      () => this.sqlite.index,
      { watch: (incarnation, changed) => this.#watch(from, incarnation, changed) },
      (name, args, work) => call(name, () => this.#observed(name, args, work)),
    )
    const ledgers = remote<LedgerMetadataStore>(
      () => this.sqlite.ledgers,
      {},
      (name, args, work) => call(name, () => this.#observed(name, args, work)),
    )
    const acquire: Coordination['acquire'] = (name) =>
      call(`acquire ${name}`, async () => this.#acquire(name, from))
    return { index, ledgers, coordination: { acquire, close: async () => {} } }
  }

  /** What changes a row or a ledger passes by the oracle, before it is done and after. */
  async #observed(name: string, args: readonly unknown[], work: () => Promise<unknown>): Promise<unknown> {
    if (name === 'updateSegment') {
      const [row, patch] = args as [SegmentRow, SegmentPatch]
      const found = await this.sqlite.index.segment(row.incarnation, row.segment)
      if (found !== null && found.version === row.version) this.#oracle.beforeUpdate(found, patch)
    }
    if (name === 'delete' && typeof args[0] === 'bigint') this.#oracle.beforeLedgerDelete(args[0])
    const done = await work()
    if (name === 'compareAndSet') this.#oracle.ledgerChanged(args[0] as bigint, args[2])
    if (name === 'updateSegment') this.#oracle.rowChanged(done as SegmentRow)
    if (name === 'beginSegment') this.#oracle.segmentBegun(done as SegmentRow)
    if (name === 'removeSegment') this.#oracle.segmentRemoved(args[0] as SegmentRow)
    return done
  }

  #watch(from: Host, incarnation: string, changed: () => void): { close(): void } {
    const { instance } = from
    return this.sqlite.index.watch(incarnation, () => {
      // Who watched may be dead, and another life of the same process not interested.
      if (from.instance === instance) this.#scheduler.after(this.#random.between(0.1, 1), from, changed)
    })
  }

  #acquire(name: string, host: Host): Lease {
    const held = this.#leases.get(name)
    if (held !== undefined && held.host.instance === held.instance) {
      throw new StratalogError('conflict', `${name} is held by ${held.host.name}`, { retryable: true })
    }
    const epoch = (this.#epochs.get(name) ?? 0n) + 1n
    this.#epochs.set(name, epoch)
    const mine: Held = { host, instance: host.instance, lost: new AbortController() }
    this.#leases.set(name, mine)
    const release = async (): Promise<void> => {
      // Fire and forget, as a session that ends: nobody waits for a service that may not be reachable.
      this.#scheduler.after(1, null, () => {
        if (this.#leases.get(name) === mine) this.#leases.delete(name)
      })
    }
    return { name, epoch, lost: mine.lost.signal, release }
  }

  /** Called now and then: sessions of processes that are silent end, and they hear of it when they can. */
  expireSessions(hosts: readonly Host[]): void {
    for (const host of hosts) {
      const silent = host.paused || this.#network.isCut(host, this.host)
      if (!silent) this.#silentSince.delete(host)
      else if (!this.#silentSince.has(host)) this.#silentSince.set(host, this.#scheduler.nowMs)
    }
    for (const [name, held] of this.#leases) {
      const since = this.#silentSince.get(held.host)
      const dead = !held.host.up || held.host.instance !== held.instance
      if (!dead && (since === undefined || this.#scheduler.nowMs - since < SESSION_MS)) continue
      this.#leases.delete(name)
      this.#trace.note(`${held.host.name} loses ${name}`)
      if (!dead) this.#tellLost(held, name)
    }
  }

  #tellLost(held: Held, name: string): void {
    this.#scheduler.after(this.#random.between(0, 8_000), held.host, () =>
      held.lost.abort(new StratalogError('lease_lost', `the lease ${name} is lost`)),
    )
  }
}
