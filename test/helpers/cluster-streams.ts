import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { hostname, tmpdir } from 'node:os'
import { join } from 'node:path'
import { WriterHub } from '../../src/append/writer-hub.js'
import { readBinding } from '../../src/metadata/distributedlog/binding.js'
import { DistributedLogLocks, HeldLocks } from '../../src/metadata/distributedlog/locks.js'
import { DistributedLogIndex } from '../../src/metadata/distributedlog/segment-index.js'
import { openSqliteMetadata } from '../../src/metadata/sqlite/open.js'
import { ZkCoordination } from '../../src/metadata/zookeeper/coordination.js'
import { present } from '../../src/model/assert.js'
import type { Codec } from '../../src/model/codec.js'
import { StratalogError } from '../../src/model/errors.js'
import { BUILT_IN_POLICY } from '../../src/model/policy.js'
import type { StreamRow, TxidMode } from '../../src/model/segment.js'
import { HotSource } from '../../src/read/source.js'
import { Stream } from '../../src/stream.js'
import { realRandom } from '../../src/system/random.js'
import type { Bookies } from '../servers/bookkeeper.js'
import { type ClusterClient, openCluster } from './cluster.js'

const bytes: Codec<Uint8Array | string> = { encode: (value) => value, decode: (payload) => payload }
const noArchive = (): Promise<never> => Promise.reject(new Error('there is no archive in this test'))

/** One process of ours in a namespace of DistributedLog: writers and readers of its streams, no archive. */
export interface NamespaceClient {
  readonly client: ClusterClient
  readonly index: DistributedLogIndex
  stream(name: string): Stream<Uint8Array | string>
  create(name: string, txidMode?: TxidMode): Promise<StreamRow>
  close(): Promise<void>
}

/** Opens a namespace that is bound. `rollBytes`: where its writers begin the next segment. */
export async function openNamespace(
  cluster: Pick<Bookies, 'zk' | 'ledgersPath'>,
  namespace: string,
  options: { readonly rollBytes?: number } & Parameters<typeof openCluster>[1] = {},
): Promise<NamespaceClient> {
  const directory = mkdtempSync(join(tmpdir(), 'sl-namespace-'))
  const { rollBytes = 1 << 20, ...session } = options
  const client = await openCluster(cluster, { digest: 'CRC32', ...session })
  const { zk, context } = client
  const { clock, logger, metadata: ledgers } = context
  const random = realRandom()
  const bound = present(await readBinding(zk, namespace, cluster.zk.address), `binding of ${namespace}`)
  assert.equal(bound.binding.ledgersPath, cluster.ledgersPath)
  const cache = openSqliteMetadata(join(directory, 'cache.db'), { clock, logger })
  const held = new HeldLocks()
  const { adoptSegments } = cache
  const index = await DistributedLogIndex.open({
    ...{ zk, namespace, cache: cache.index, adoptSegments, ledgers, clock, logger, locks: held },
    instanceId: Buffer.from((await zk.get(`${cluster.ledgersPath}/INSTANCEID`))?.data ?? []).toString(),
    coldRows: async function* () {},
  })
  const others = new ZkCoordination(zk, { root: '/stratalog/v1/leases', clock, random })
  const lockPath = (incarnation: string): Promise<string> => index.lockPath(incarnation)
  const locks = new DistributedLogLocks({
    ...{ zk, clock, logger, lockPath, held, others },
    clientId: hostname(),
  })
  const policy = { ...BUILT_IN_POLICY, roll: { ...BUILT_IN_POLICY.roll, sizeBytes: rollBytes } }
  const segments = { ledger: context, index, openCold: noArchive, endRecords: true }
  const hub = new WriterHub(segments, locks, async () => ({
    policy: () => policy,
    quorum: () => ({ ensemble: 3, copies: 3, ack: 2, min: 2 }),
    inFlightBytesMax: 8 << 20,
    takenBytesMax: 64 << 20,
  }))
  const openHot: typeof readContext.openHot = async (row) =>
    HotSource.open(context, present(row.ledgerId, 'ledger'))
  const readContext: ConstructorParameters<typeof Stream>[0]['read'] = {
    ...{ index, clock, logger, openHot, openCold: noArchive },
  }
  const create = (name: string, txidMode: TxidMode = 'custom'): Promise<StreamRow> =>
    index.createStream({
      incarnation: Buffer.from(random.bytes(16)).toString('hex'),
      ...{ name, txidMode, createdMs: clock.nowMs(), parent: null },
    })
  const services: ConstructorParameters<typeof Stream>[0] = {
    hub,
    read: readContext,
    explaining: noArchive,
    find: (name) => index.streamByName(name),
    ensure: async (name) => (await index.streamByName(name)) ?? create(name),
    notFound: async (name) => new StratalogError('stream_not_found', `there is no ${name}`),
    policy: noArchive,
    setPolicy: noArchive,
    appended: () => {},
  }
  return {
    client,
    index,
    create,
    stream: (name) => new Stream(services, name, bytes),
    close: async () => {
      await hub.close()
      await locks.close()
      await index.close()
      await cache.close()
      await client.close()
      rmSync(directory, { recursive: true, force: true })
    },
  }
}
