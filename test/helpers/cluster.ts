import { Buffer } from 'node:buffer'
import { entryHeaderBytes } from '../../src/format/ledger-digest.js'
import type { LedgerContext, StoreDirectory, WriterDigest } from '../../src/ledger/context.js'
import { LedgerReader } from '../../src/ledger/reader.js'
import { StoreHealth } from '../../src/ledger/store-health.js'
import { type EntryAck, LedgerWriter } from '../../src/ledger/writer.js'
import { BookieRegistry } from '../../src/metadata/zookeeper/bookies.js'
import { ZkLedgerMetadataStore } from '../../src/metadata/zookeeper/ledger-metadata.js'
import type { Quorum } from '../../src/model/quorum.js'
import type { SegmentStore } from '../../src/ports/segment-store.js'
import { BOOKIE_DEFAULTS, type BookieSettings } from '../../src/store/bookie/settings.js'
import { type BookieStore, openBookie } from '../../src/store/bookie/store.js'
import { realClock } from '../../src/system/clock.js'
import { realRandom } from '../../src/system/random.js'
import type { ZooKeeper } from '../../src/zookeeper/client.js'
import { openZooKeeper } from '../../src/zookeeper/open.js'
import type { Bookies } from '../servers/bookkeeper.js'
import { memoryLogger } from './archive.js'
import { makePayload, PayloadDigest } from './payloads.js'

/** One client of ours of a BookKeeper cluster: the ledger protocol over its bookies and its ZooKeeper. */
export interface ClusterClient {
  readonly zk: ZooKeeper
  readonly context: LedgerContext
  readonly registry: BookieRegistry
  /** What it logged. */
  readonly log: readonly string[]
  close(): Promise<void>
}

/** Bookies by the ids that ensembles name; new ledgers go where ZooKeeper says that entries are taken. */
class BookieDirectory implements StoreDirectory {
  readonly #registry: BookieRegistry
  readonly #open: (id: string) => BookieStore
  readonly #stores = new Map<string, BookieStore>()

  constructor(registry: BookieRegistry, open: (id: string) => BookieStore) {
    this.#registry = registry
    this.#open = open
  }

  get(id: string): SegmentStore {
    const store = this.#stores.get(id) ?? this.#open(id)
    this.#stores.set(id, store)
    return store
  }

  async writable(): Promise<SegmentStore[]> {
    return this.#registry.writable().map(({ id }) => this.get(id))
  }

  all(): readonly SegmentStore[] {
    return this.#registry.all().map(({ id }) => this.get(id))
  }

  async close(): Promise<void> {
    await Promise.all([...this.#stores.values()].map((store) => store.close()))
  }
}

/** Opens a client with sessions and connections of its own. */
export async function openCluster(
  cluster: Pick<Bookies, 'zk' | 'ledgersPath'>,
  options: {
    readonly digest?: WriterDigest
    readonly settings?: Partial<BookieSettings>
    readonly sessionTimeoutMs?: number
    /** Where a bookie is reached instead: through a proxy. */
    readonly bookiePort?: (id: string) => number
  } = {},
): Promise<ClusterClient> {
  const log: string[] = []
  const ports = { clock: realClock(), logger: memoryLogger(log), random: realRandom() }
  const { ledgersPath } = cluster
  const sessionTimeoutMs = options.sessionTimeoutMs ?? 6_000
  const servers = [cluster.zk.address]
  const zk = await openZooKeeper({ servers, chroot: '', sessionTimeoutMs, connectTimeoutMs: 10_000 }, ports)
  const registry = await BookieRegistry.open(zk, { ledgersPath, ...ports })
  const settings = { ...BOOKIE_DEFAULTS, ...options.settings }
  const stores = new BookieDirectory(registry, (id) => {
    const [host = '', port] = id.split(':')
    return openBookie({ id, host, port: options.bookiePort?.(id) ?? Number(port) }, settings, ports)
  })
  const metadata = new ZkLedgerMetadataStore(zk, { ledgersPath, random: ports.random })
  const health = new StoreHealth(ports.clock, ports.logger)
  const { digest } = options
  const context = {
    stores,
    metadata,
    health,
    ...ports,
    ...(digest === undefined ? {} : { digestType: digest }),
  }
  const close = async (): Promise<void> => {
    registry.close()
    await stores.close()
    await zk.close()
  }
  return { zk, context, registry, log, close }
}

/** Entries in E3 Qw3 Qa2. */
export const QUORUM_OF_THREE: Quorum = { ensemble: 3, copies: 3, ack: 2, min: 2 }

/** A ledger that is no segment. */
export function createLedger(client: ClusterClient, quorum: Quorum = QUORUM_OF_THREE): Promise<LedgerWriter> {
  return LedgerWriter.create(client.context, { quorum, segment: null, preceding: null })
}

/** Appends entries whose payloads follow from their numbers, all at once. */
export function appendPayloads(
  writer: LedgerWriter,
  first: bigint,
  count: number,
  size: number,
): Promise<EntryAck[]> {
  return Promise.all(
    Array.from({ length: count }, (_, i) => {
      const payload = makePayload('text', first + BigInt(i), size)
      const buffer = Buffer.concat([Buffer.alloc(entryHeaderBytes(writer.digestType)), payload])
      return writer.append(buffer, payload.length)
    }),
  )
}

/** What Java's digest is of entries with the ids and numbers from 0 on. */
export function digestOfEntries(count: number, size: number): string {
  const digest = new PayloadDigest()
  for (let i = 0n; i < BigInt(count); i += 1n) digest.add(makePayload('text', i, size), i)
  return digest.hex()
}

/** Reads entries up to `last`, or to the last confirmed one; with Java's digest over them. */
export async function readLedger(
  client: ClusterClient,
  ledgerId: bigint,
  last?: bigint,
): Promise<{ readonly last: bigint; readonly count: number; readonly digest: string }> {
  const reader = await LedgerReader.open(client.context, ledgerId)
  const end = last ?? (await reader.lastConfirmed())
  const digest = new PayloadDigest()
  while (BigInt(digest.count) <= end) {
    const next = BigInt(digest.count)
    const entries = await reader.readEntries(next, end, 1 << 20)
    for (const [i, { payload }] of entries.entries()) digest.add(payload, next + BigInt(i))
  }
  const { count } = digest
  return { last: end, count, digest: digest.hex() }
}
