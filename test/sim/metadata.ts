import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { SqliteDatabase } from '../../src/metadata/sqlite/database.js'
import {
  openSqliteMetadata,
  type SqliteMetadata,
  type SqliteMetadataOptions,
} from '../../src/metadata/sqlite/open.js'
import { MIGRATIONS } from '../../src/metadata/sqlite/schema.js'
import { isStratalogError, StratalogError } from '../../src/model/errors.js'
import type { SegmentRow, StreamRow } from '../../src/model/segment.js'
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
/** How often a lease that another has is asked for again by somebody who waits. */
const LEASE_RETRY_MS = 250
/** A file system in memory where there is one: the service never dies, so its syncs only cost time. */
const MEMORY = '/dev/shm'

/** Questions about one stream or one ledger, named by the first argument. */
const OF_ONE: ReadonlySet<string> = new Set([
  'stream',
  'segment',
  'listSegments',
  'listHotSegments',
  'newestSegment',
  'oldestSegment',
  'totals',
  'policyOverride',
  'holds',
  'read',
])
/** All questions: what changes nothing. */
const READS: ReadonlySet<string> = new Set([
  ...OF_ONE,
  'streamByName',
  'listStreams',
  'segmentForTxid',
  'segmentForSequenceId',
  'segmentForTime',
  'segmentsInState',
  'segmentsOwing',
  'streamsOwingHolds',
  'fact',
  'list',
])

/** An index with its tables and nothing in them: to make one takes longer than to run many a seed's faults. */
let template: Uint8Array | null = null

function emptyIndex(file: string, options: SqliteMetadataOptions): SqliteMetadata {
  if (template === null) {
    const made = `${file}.template`
    SqliteDatabase.open(made, { migrations: MIGRATIONS }).close()
    template = readFileSync(made)
  }
  writeFileSync(file, template, { mode: 0o600 })
  return openSqliteMetadata(file, options)
}

/** Logs of one world share its stores, which serve a ledger once. */
const IDS_OF_A_LOG = 1n << 40n

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
  #sqlite: SqliteMetadata
  readonly #all: SqliteMetadata[] = []
  readonly #scheduler: Scheduler
  readonly #network: Network
  readonly #random: SimRandom
  readonly #trace: Trace
  readonly #oracle: Oracle
  readonly #directory = mkdtempSync(join(existsSync(MEMORY) ? MEMORY : tmpdir(), 'stratalog-sim-'))
  readonly #leases = new Map<string, Held>()
  readonly #epochs = new Map<string, bigint>()
  /**
   * What SQLite answered since the last change of a stream, of a ledger, of any ledger or (under '') of anything else:
   * most questions are asked again and again by processes that wait.
   */
  readonly #answers = new Map<string, Map<string, unknown>>()
  /** Since when a process has not been heard of. */
  readonly #silentSince = new Map<Host, number>()

  constructor(scheduler: Scheduler, network: Network, random: SimRandom, trace: Trace, oracle: Oracle) {
    this.#scheduler = scheduler
    this.#network = network
    this.#random = random
    this.#trace = trace
    this.#oracle = oracle
    scheduler.start(this.host)
    this.#sqlite = this.#empty()
  }

  get sqlite(): SqliteMetadata {
    return this.#sqlite
  }

  /** Past all processes and wires, for who prepares a run and looks at it. */
  get index(): SegmentIndex {
    return this.sqlite.index
  }

  /** Before the first process starts, in a world that needs it. */
  async prepare(): Promise<void> {}

  /** Tells of the next change that is made of several, right before it is sent, where there are such. */
  atNextMulti(_: (from: Host) => void): void {}

  /** Ends the session of a process that is well, where there are sessions to end. */
  expire(_: Host): void {}

  #empty(): SqliteMetadata {
    const sqlite = emptyIndex(join(this.#directory, `index-${this.#all.length}.db`), {
      clock: new HostClock(this.#scheduler, this.host),
      logger: this.#trace.logger('metadata'),
      // The service never dies: nothing of it has to be durable or looked at for damage.
      building: true,
      checkBytesMax: 0,
    })
    this.#all.push(sqlite)
    return sqlite
  }

  /** Empty metadata: of this log made again, or of another log, which must give out no id that this one has. */
  async another(of: 'this log' | 'another log'): Promise<SqliteMetadata> {
    const sqlite = this.#empty()
    if (of === 'another log') await sqlite.ledgers.reserveThrough(BigInt(this.#all.length) * IDS_OF_A_LOG)
    return sqlite
  }

  /** From here on these are the metadata of the log. */
  replaceBy(sqlite: SqliteMetadata): void {
    this.#sqlite = sqlite
    this.#answers.clear()
  }

  async end(): Promise<void> {
    for (const sqlite of this.#all) await sqlite.close()
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
    const acquireOnce = async (name: string): Promise<Lease> => {
      const { instance } = from
      const granted: Lease[] = []
      const grant = async (): Promise<Lease> => {
        const lease = this.#acquire(name, from, instance)
        granted.push(lease)
        return lease
      }
      try {
        return await call(`acquire ${name}`, grant)
      } catch (error) {
        // Its answer got lost. Nobody would ever release it, and the session that has it lives on.
        for (const lease of granted) await lease.release()
        throw error
      }
    }
    const acquire: Coordination['acquire'] = async (name, { waitMs }) => {
      const untilMs = this.#scheduler.nowMs + waitMs
      for (;;) {
        try {
          return await acquireOnce(name)
        } catch (error) {
          if (!isStratalogError(error, 'conflict') || this.#scheduler.nowMs >= untilMs) throw error
        }
        await new Promise<void>((resolve) => this.#scheduler.after(LEASE_RETRY_MS, from, resolve))
      }
    }
    return { index, ledgers, coordination: { acquire, close: async () => {} } }
  }

  /** What changes a row or a ledger passes by the oracle, before it is done and after. */
  async #observed(name: string, args: readonly unknown[], work: () => Promise<unknown>): Promise<unknown> {
    if (READS.has(name)) return this.#answered(name, args, work)
    this.#forget(args[0])
    if (name === 'updateSegment') {
      const [row, patch] = args as [SegmentRow, SegmentPatch]
      const found = await this.sqlite.index.segment(row.incarnation, row.segment)
      if (found !== null && found.version === row.version) this.#oracle.beforeUpdate(found, patch)
    }
    if (name === 'delete' && typeof args[0] === 'bigint') this.#oracle.beforeLedgerDelete(args[0])
    const done = await work()
    this.#forget(args[0])
    if (name === 'create') this.#oracle.ledgerChanged(args[0] as bigint, args[1])
    if (name === 'compareAndSet') this.#oracle.ledgerChanged(args[0] as bigint, args[2])
    if (name === 'updateSegment') this.#oracle.rowChanged(done as SegmentRow)
    if (name === 'updateStream') {
      const { trimmedBelow = null } = args[2] as Partial<StreamRow>
      if (trimmedBelow !== null) this.#oracle.streamTrimmed(String(args[0]), trimmedBelow)
    }
    if (name === 'beginSegment') this.#oracle.segmentBegun(done as SegmentRow)
    if (name === 'removeSegment') this.#oracle.segmentRemoved(args[0] as SegmentRow)
    return done
  }

  /** An answer belongs to all who ask: frozen, so that none of them changes what another is told. */
  async #answered(name: string, args: readonly unknown[], work: () => Promise<unknown>): Promise<unknown> {
    const about = name === 'list' ? 'ledgers' : OF_ONE.has(name) ? String(args[0]) : ''
    const answers = this.#answers.get(about) ?? new Map<string, unknown>()
    this.#answers.set(about, answers)
    const question = `${name} ${args.join()}`
    const known = answers.get(question)
    if (known !== undefined) return known
    const answer = frozen(await work())
    answers.set(question, answer)
    return answer
  }

  /** Something about a stream, a row or a ledger changes or has changed. */
  #forget(about: unknown): void {
    const one =
      typeof about === 'object' && about !== null && 'incarnation' in about ? about.incarnation : about
    this.#answers.delete(String(one))
    this.#answers.delete(typeof about === 'bigint' ? 'ledgers' : '')
  }

  #watch(from: Host, incarnation: string, changed: () => void): { close(): void } {
    const { instance } = from
    return this.sqlite.index.watch(incarnation, () => {
      // Who watched may be dead, and another life of the same process not interested.
      if (from.instance === instance) this.#scheduler.after(this.#random.between(0.1, 1), from, changed)
    })
  }

  /** For the life of the process that asked: its session ends with it, also for what arrives later. */
  #acquire(name: string, host: Host, instance: number): Lease {
    // Given to the life that came after, it would be held by a process that does not know of it.
    if (host.instance !== instance)
      throw new StratalogError('lease_lost', `the session of ${host.name} has ended`)
    const held = this.#leases.get(name)
    if (held !== undefined && held.host.instance === held.instance) {
      throw new StratalogError('conflict', `${name} is held by ${held.host.name}`, { retryable: true })
    }
    const epoch = (this.#epochs.get(name) ?? 0n) + 1n
    this.#epochs.set(name, epoch)
    const mine: Held = { host, instance, lost: new AbortController() }
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

function frozen<T>(value: T): T {
  if (typeof value !== 'object' || value === null || ArrayBuffer.isView(value)) return value
  for (const part of Object.values(value)) frozen(part)
  return Object.freeze(value)
}
