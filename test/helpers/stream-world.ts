import type { TakenBytes } from '../../src/append/taken-bytes.js'
import { WriterHub } from '../../src/append/writer-hub.js'
import { LedgerReader } from '../../src/ledger/reader.js'
import { present } from '../../src/model/assert.js'
import type { Codec } from '../../src/model/codec.js'
import { StratalogError } from '../../src/model/errors.js'
import { BUILT_IN_POLICY, type Policy } from '../../src/model/policy.js'
import type { SegmentRow, StreamRow, TxidMode } from '../../src/model/segment.js'
import type { Clock } from '../../src/ports/clock.js'
import type { Coordination } from '../../src/ports/coordination.js'
import type { SegmentIndex } from '../../src/ports/segment-index.js'
import type { ReadContext } from '../../src/read/reader.js'
import { HotSource, type SegmentSource, type SourceEntry, userRecords } from '../../src/read/source.js'
import { Stream, type StreamServices } from '../../src/stream.js'
import type { MemoryStore } from './memory-store.js'
import { dropMetadata, type Process, World } from './protocol.js'

const bytes: Codec<Uint8Array | string> = { encode: (value) => value, decode: (payload) => payload }

/** Entries of a segment kept aside, as an archive keeps them. */
class FakeCold implements SegmentSource {
  readonly tier = 'cold'
  readonly #entries: readonly SourceEntry[]

  constructor(entries: readonly SourceEntry[]) {
    this.#entries = entries
  }

  async lastEntry(): Promise<bigint> {
    return BigInt(this.#entries.length - 1)
  }

  async readEntries(first: bigint, last: bigint, bytesMax: number): Promise<readonly SourceEntry[]> {
    const found: SourceEntry[] = []
    let size = 0
    for (let id = first; id <= last && (found.length === 0 || size < bytesMax); id += 1n) {
      const entry = present(this.#entries[Number(id)], `cold entry ${id}`)
      found.push(entry)
      size += entry.payload.length
    }
    return found
  }

  async entryForTxid(txid: bigint): Promise<bigint | null> {
    return this.#firstWith((record) => record.txid >= txid)
  }

  async entryForPosition(position: bigint): Promise<bigint | null> {
    return this.#firstWith((record) => BigInt(record.position) >= position)
  }

  #firstWith(reached: (record: { txid: bigint; position: number }) => boolean): bigint | null {
    const at = this.#entries.findIndex(({ payload }) => userRecords(payload).some(reached))
    return at < 0 ? null : BigInt(at)
  }

  waitAbove(): Promise<void> {
    return Promise.resolve()
  }
}

/** Grants every lease at once; `lose` takes all of them back. */
export function ungoverned(): Coordination & { lose(): void } {
  const granted: AbortController[] = []
  return {
    acquire: async (name) => {
      const lost = new AbortController()
      granted.push(lost)
      return { name, epoch: BigInt(granted.length), lost: lost.signal, release: async () => {} }
    },
    close: async () => {},
    lose: () => {
      for (const lost of granted.splice(0)) lost.abort()
    },
  }
}

/** A log without archive, agent and files: writers, readers and the index over stores in memory. */
export class StreamWorld {
  readonly world: World
  readonly process: Process
  readonly hub: WriterHub
  readonly read: ReadContext
  policy: Policy
  inFlightBytesMax: number = 8 * 2 ** 20
  takenBytesMax: number = 64 * 2 ** 20
  /** What all streams of this process share; null: nothing. */
  taken: TakenBytes | null = null
  /** Throws instead of opening a tier, while set. */
  failing: { hot?: Error; cold?: Error } = {}
  readonly #cold = new Map<string, readonly SourceEntry[]>()
  readonly #services: StreamServices
  readonly #creating = new Map<string, Promise<StreamRow>>()
  #made = 0

  /**
   * `coordination`: that of the world, by which its processes share their leases; `ungoverned()` for a process that
   * takes a stream over from one that believes it still has it. `endRecords`: as in DistributedLog's tree. `index`: this
   * process's way to that of the world.
   */
  constructor(
    clock: Clock,
    shared: World = new World(clock, 3),
    coordination?: Coordination,
    {
      endRecords = false,
      index: ownIndex,
    }: { readonly endRecords?: boolean; readonly index?: SegmentIndex } = {},
  ) {
    this.world = shared
    this.process = this.world.process()
    this.policy = { ...BUILT_IN_POLICY, quorum: { ensemble: 3, copies: 3, ack: 2, min: 2 } }
    const index = ownIndex ?? this.world.metadata.index
    const openCold = async (row: SegmentRow) => {
      if (this.failing.cold !== undefined) throw this.failing.cold
      return new FakeCold(present(this.#cold.get(`${row.incarnation}/${row.segment}`), 'cold copy'))
    }
    const segments = { ledger: this.process.context, index, openCold, endRecords }
    this.hub = new WriterHub(segments, coordination ?? this.world.metadata.coordination, async () => ({
      policy: () => this.policy,
      quorum: () => ({ ensemble: 3, copies: 3, ack: 2, min: 2 }),
      inFlightBytesMax: this.inFlightBytesMax,
      takenBytesMax: this.takenBytesMax,
      ...(this.taken === null ? {} : { taken: this.taken }),
    }))
    this.read = {
      index,
      clock,
      logger: this.process.context.logger,
      openHot: async (row) => {
        if (this.failing.hot !== undefined) throw this.failing.hot
        return HotSource.open(this.process.context, present(row.ledgerId, 'ledger'))
      },
      openCold,
    }
    this.#services = {
      hub: this.hub,
      read: this.read,
      explaining: async () => ({
        read: this.read,
        cold: null,
        archiveLocation: 'memory',
        coldReadBytesPerSecond: null,
      }),
      find: (name) => index.streamByName(name),
      ensure: async (name) => (await index.streamByName(name)) ?? this.#createOnce(name),
      notFound: async (name) => new StratalogError('stream_not_found', `there is no ${name}`),
      policy: () => Promise.reject(new Error('not in this world')),
      setPolicy: () => Promise.reject(new Error('not in this world')),
      appended: () => {},
    }
  }

  get stores(): readonly MemoryStore[] {
    return this.process.stores
  }

  /** Appends made together create one stream, as in a log. */
  #createOnce(name: string): Promise<StreamRow> {
    const creating = this.#creating.get(name) ?? this.create(name)
    this.#creating.set(name, creating)
    return creating
  }

  create(name: string, txidMode: TxidMode = 'ms'): Promise<StreamRow> {
    this.#made += 1
    return this.world.metadata.index.createStream({
      incarnation: `${Date.now().toString(16)}${this.#made}`.padStart(32, '0'),
      name,
      txidMode,
      createdMs: 0,
      parent: null,
    })
  }

  stream(name = 'orders'): Stream<Uint8Array | string> {
    return new Stream(this.#services, name, bytes)
  }

  codecStream<T>(codec: Codec<T>, name = 'orders'): Stream<T> {
    return new Stream(this.#services, name, codec)
  }

  async row(name = 'orders'): Promise<StreamRow> {
    return present(await this.world.metadata.index.streamByName(name), name)
  }

  async segments(name = 'orders'): Promise<SegmentRow[]> {
    return this.world.metadata.index.listSegments((await this.row(name)).incarnation, 0n, 1_000)
  }

  /** Entries smaller than this roll their segment. */
  rollAt(sizeBytes: number): void {
    this.policy = { ...this.policy, roll: { ...this.policy.roll, sizeBytes } }
  }

  /** Copies a sealed segment aside. */
  async archive(row: SegmentRow): Promise<SegmentRow> {
    const reader = await LedgerReader.open(this.process.context, present(row.ledgerId, 'ledger'))
    const entries: SourceEntry[] = []
    while (BigInt(entries.length) <= row.lastEntryId) {
      entries.push(...(await reader.readEntries(BigInt(entries.length), row.lastEntryId, 1 << 20)))
    }
    this.#cold.set(`${row.incarnation}/${row.segment}`, entries)
    return this.world.metadata.index.updateSegment(row, {
      state: 'archived',
      contentDigest: '0'.repeat(64),
      object: { key: `k${row.segment}`, sizeBytes: 1, indexBytes: 1 },
      archivedMs: 1,
    })
  }

  /** Has the same archive as another process. */
  adoptCold(from: StreamWorld): void {
    for (const [key, entries] of from.#cold) this.#cold.set(key, entries)
  }

  /** Gives up the hot copy. */
  async evict(row: SegmentRow): Promise<SegmentRow> {
    const { ledgerId } = row
    const cold = await this.world.metadata.index.updateSegment(row, { state: 'cold', evictedMs: 2 })
    await dropMetadata(this.process.context.metadata, present(ledgerId, 'ledger'))
    for (const store of this.stores) await store.deleteLedger(present(ledgerId, 'ledger'))
    return this.world.metadata.index.updateSegment(cold, { ledgerId: null })
  }

  /** Ends the processes' writers and the world. */
  async end(): Promise<void> {
    await this.hub.close()
    await this.world.end()
  }
}
