import { Buffer } from 'node:buffer'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setImmediate } from 'node:timers/promises'
import { entryHeaderBytes } from '../../src/format/ledger-digest.js'
import type { DamagedCopy, LedgerContext, StoreDirectory } from '../../src/ledger/context.js'
import { StoreHealth } from '../../src/ledger/store-health.js'
import { type EntryAck, LedgerWriter } from '../../src/ledger/writer.js'
import { openSqliteMetadata, type SqliteMetadata } from '../../src/metadata/sqlite/open.js'
import type { LedgerMetadata } from '../../src/model/ledger.js'
import type { Quorum } from '../../src/model/quorum.js'
import type { Clock } from '../../src/ports/clock.js'
import type { LedgerMetadataStore, VersionedLedgerMetadata } from '../../src/ports/ledger-metadata.js'
import type { SegmentStore } from '../../src/ports/segment-store.js'
import { memoryLogger } from './archive.js'
import { MemoryReplica, MemoryStore } from './memory-store.js'

/** Stores of one process. */
export class MemoryDirectory implements StoreDirectory {
  readonly stores: readonly MemoryStore[]

  constructor(stores: readonly MemoryStore[]) {
    this.stores = stores
  }

  get(id: string): SegmentStore | null {
    return this.stores.find((store) => store.id === id) ?? null
  }

  all(): readonly SegmentStore[] {
    return this.stores
  }

  async writable(): Promise<SegmentStore[]> {
    return this.stores.filter((store) => store.state === 'writable')
  }
}

/** One process's way to the metadata: `before` and `after` befall a compare-and-set as a StoreFault does a call. */
export class FaultyMetadata implements LedgerMetadataStore {
  fault: { readonly before?: () => Promise<void> | void; readonly after?: () => Promise<void> | void } = {}
  readonly #store: LedgerMetadataStore

  constructor(store: LedgerMetadataStore) {
    this.#store = store
  }

  async compareAndSet(
    ledgerId: bigint,
    expectedVersion: number,
    metadata: LedgerMetadata,
  ): Promise<VersionedLedgerMetadata> {
    const { before, after } = this.fault
    await before?.()
    const changed = await this.#store.compareAndSet(ledgerId, expectedVersion, metadata)
    await after?.()
    return changed
  }

  allocateId(): Promise<bigint> {
    return this.#store.allocateId()
  }

  create(ledgerId: bigint, metadata: LedgerMetadata): Promise<VersionedLedgerMetadata> {
    return this.#store.create(ledgerId, metadata)
  }

  read(ledgerId: bigint): Promise<VersionedLedgerMetadata> {
    return this.#store.read(ledgerId)
  }

  delete(ledgerId: bigint, expectedVersion: number): Promise<void> {
    return this.#store.delete(ledgerId, expectedVersion)
  }

  list(after: bigint, limit: number): Promise<bigint[]> {
    return this.#store.list(after, limit)
  }
}

/** Deletes the metadata of a ledger, whatever they are. */
export async function dropMetadata(metadata: LedgerMetadataStore, ledgerId: bigint): Promise<void> {
  await metadata.delete(ledgerId, (await metadata.read(ledgerId)).version)
}

/** One process's view of the world: its own ways to the replicas and to the same metadata. */
export interface Process {
  readonly context: LedgerContext
  readonly stores: readonly MemoryStore[]
  readonly metadata: FaultyMetadata
  readonly health: StoreHealth
  /** Copies that its readers found damaged. */
  readonly damaged: DamagedCopy[]
}

/** A few replicas and a metadata file, with any number of processes over them. */
export class World {
  readonly clock: Clock
  readonly metadata: SqliteMetadata
  readonly replicas: readonly MemoryReplica[]
  readonly log: string[] = []
  readonly #directory = mkdtempSync(join(tmpdir(), 'stratalog-protocol-'))

  constructor(clock: Clock, stores: number) {
    this.clock = clock
    this.replicas = Array.from({ length: stores }, () => new MemoryReplica())
    this.metadata = openSqliteMetadata(join(this.#directory, 'index.db'), { clock, logger: memoryLogger() })
  }

  process(): Process {
    const stores = this.replicas.map((replica, at) => new MemoryStore(`s${at}`, this.clock, replica))
    const { clock } = this
    const logger = memoryLogger(this.log)
    const metadata = new FaultyMetadata(this.metadata.ledgers)
    const health = new StoreHealth(clock, logger)
    const damaged: DamagedCopy[] = []
    const context = {
      stores: new MemoryDirectory(stores),
      metadata,
      clock,
      logger,
      health,
      damaged: (copy: DamagedCopy) => damaged.push(copy),
    }
    return { context, stores, metadata, health, damaged }
  }

  async end(): Promise<void> {
    await this.metadata.close()
    rmSync(this.#directory, { recursive: true, force: true })
  }
}

export const QUORUM_322: Quorum = { ensemble: 3, copies: 3, ack: 2, min: 2 }

/** A ledger that is no segment. */
export function newLedger(
  context: LedgerContext,
  quorum: Quorum = QUORUM_322,
  replicaLagBytesMax: number | null = null,
): Promise<LedgerWriter> {
  return LedgerWriter.create(context, { quorum, segment: null, preceding: null, replicaLagBytesMax })
}

/** Appends a payload of text. */
export function appendText(writer: LedgerWriter, text: string): Promise<EntryAck> {
  const payload = Buffer.from(text)
  const room = entryHeaderBytes('CRC32C')
  return writer.append(Buffer.concat([Buffer.alloc(room), payload]), payload.length)
}

/** What became of a promise so far. */
export interface Outcome<T> {
  value?: T
  error?: unknown
  settled: boolean
}

/** Watches a promise, so that it can be looked at and never goes unhandled. */
export function watched<T>(promise: Promise<T>): Outcome<T> {
  const outcome: Outcome<T> = { settled: false }
  promise.then(
    (value) => {
      outcome.value = value
      outcome.settled = true
    },
    (error: unknown) => {
      outcome.error = error
      outcome.settled = true
    },
  )
  return outcome
}

/** Lets everything that can go on go on. */
export async function quiet(turns = 3): Promise<void> {
  for (let turn = 0; turn < turns; turn += 1) await setImmediate()
}
