import { join } from 'node:path'
import { bindNamespace, type NamespaceBinding } from '../../src/metadata/distributedlog/binding.js'
import type { ColdConflict } from '../../src/metadata/distributedlog/reconcile.js'
import {
  DistributedLogIndex,
  type DistributedLogIndexParts,
} from '../../src/metadata/distributedlog/segment-index.js'
import type { SqliteMetadata } from '../../src/metadata/sqlite/open.js'
import { StratalogError } from '../../src/model/errors.js'
import type { SegmentRow } from '../../src/model/segment.js'
import { realClock } from '../../src/system/clock.js'
import type { ZooKeeper } from '../../src/zookeeper/client.js'
import { MemoryZooKeeper } from '../helpers/zookeeper-memory.js'
import { openFor, quietLogger, temporaryDirectory } from '../metadata/helpers.js'

export const NAMESPACE = '/dl/ns'

export const BINDING: NamespaceBinding = {
  bookkeeperServers: '127.0.0.1:2181',
  bookkeeperServersForReaders: '127.0.0.1:2181',
  ledgersPath: '/ledgers',
  servers: '127.0.0.1:2181',
  serversForReaders: '127.0.0.1:2181',
  sanityCheckTxid: true,
  encodeRegionId: false,
  aclRoot: null,
  firstSegment: 1n,
  federated: false,
}

/** One process with its own session and its own cache over a ZooKeeper that others share. */
export interface Process {
  readonly zk: ZooKeeper
  readonly index: DistributedLogIndex
  readonly metadata: SqliteMetadata
  stop(): Promise<void>
}

/** A bound namespace in a ZooKeeper in memory; processes come and go. */
export class World {
  readonly server: MemoryZooKeeper
  /** What the archive's names say, by incarnation. */
  readonly cold: Map<string, (SegmentRow | ColdConflict)[]> = new Map()
  /** Where ledgers end. */
  readonly ledgers: Map<bigint, { lastEntryId: bigint; lengthBytes: bigint }> = new Map()
  readonly errors: object[] = []
  readonly #removals: (() => void)[] = []
  readonly #processes: Process[] = []

  /** `nowMs`: its server's time. */
  constructor(options: { readonly nowMs?: () => number } = {}) {
    this.server = new MemoryZooKeeper(options)
  }

  async bind(): Promise<void> {
    const zk = await this.server.open()
    await bindNamespace(zk, NAMESPACE, BINDING)
    await zk.close()
  }

  /** `file`: a cache that is there already; absent: an empty one. */
  async process(
    over: Partial<DistributedLogIndexParts> = {},
    file?: string,
  ): Promise<Process & { file: string }> {
    const at = file ?? this.#file()
    const zk = over.zk ?? (await this.server.open())
    const metadata = openFor(at, { cache: true })
    const logger = { ...quietLogger(this.errors), child: () => quietLogger(this.errors) }
    const index = await DistributedLogIndex.open({
      zk,
      namespace: NAMESPACE,
      instanceId: 'instance',
      cache: metadata.index,
      adoptSegments: metadata.adoptSegments,
      ledgers: { read: (ledgerId) => this.#ledger(ledgerId) },
      coldRows: (incarnation, from) => this.#coldRows(incarnation, from),
      clock: { ...realClock(), sleep: (delayMs, signal) => realClock().sleep(delayMs / 100, signal) },
      logger,
      ...over,
    })
    let stopped = false
    const process = {
      zk,
      index,
      metadata,
      file: at,
      stop: async () => {
        if (stopped) return
        stopped = true
        await index.close()
        await metadata.close()
        await zk.close()
      },
    }
    this.#processes.push(process)
    return process
  }

  async remove(): Promise<void> {
    this.server.fault = null
    this.server.down = false
    for (const process of this.#processes) await process.stop()
    for (const remove of this.#removals) remove()
  }

  /** The tree as text, one line a node, as the golden dump has it. */
  dump(under: string): string[] {
    return [...this.server.dump()]
      .filter(([path]) => path === under || path.startsWith(`${under}/`))
      .map(([path, { data, stat }]) => `${path}\tver=${stat.version}\t${shown(data)}`)
  }

  #file(): string {
    const { directory, remove } = temporaryDirectory()
    this.#removals.push(remove)
    return join(directory, 'cache.db')
  }

  async #ledger(ledgerId: bigint): ReturnType<DistributedLogIndexParts['ledgers']['read']> {
    const end = this.ledgers.get(ledgerId)
    if (end === undefined) throw new StratalogError('ledger_not_found', `no ledger ${ledgerId}`)
    return {
      ledgerId,
      version: 1,
      metadata: {
        formatVersion: 3,
        ensembleSize: 3,
        writeQuorum: 3,
        ackQuorum: 2,
        state: 'CLOSED',
        ...end,
        ensembles: [{ firstEntryId: 0n, members: ['a', 'b', 'c'] }],
        digestType: 'CRC32',
        password: new Uint8Array(),
        ctimeMs: null,
        customMetadata: new Map(),
        cToken: 0n,
      },
    }
  }

  async *#coldRows(incarnation: string, from: bigint): AsyncGenerator<SegmentRow | ColdConflict> {
    for (const row of this.cold.get(incarnation) ?? []) if (row.segment >= from) yield row
  }
}

function shown(data: Uint8Array): string {
  const bytes = Buffer.from(data)
  const text = bytes.toString('utf8')
  return Buffer.from(text, 'utf8').equals(bytes) ? `text:${text}` : `hex:${bytes.toString('hex')}`
}
