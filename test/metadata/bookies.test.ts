import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import fc from 'fast-check'
import { bookieAddress } from '../../src/format/bookie-service-info.js'
import { ledgerPath, underreplicatedPath } from '../../src/format/ledger-paths.js'
import { BookieRegistry } from '../../src/metadata/zookeeper/bookies.js'
import { createCluster } from '../../src/metadata/zookeeper/cluster.js'
import { parseRacks, spreadOverRacks } from '../../src/metadata/zookeeper/racks.js'
import { markUnderreplicated } from '../../src/metadata/zookeeper/under-replication.js'
import { isStratalogError } from '../../src/model/errors.js'
import { realClock } from '../../src/system/clock.js'
import { silentLogger } from '../../src/system/logger.js'
import type { ZooKeeper } from '../../src/zookeeper/client.js'
import { seededRandom } from '../helpers/seeded-random.js'
import { MemoryZooKeeper } from '../helpers/zookeeper-memory.js'
import { text } from '../zookeeper/contract.js'

/** What a bookie 4.17.3 wrote: 127.0.0.1, port 24281. */
const SERVICE_INFO = Buffer.from(
  '32230a06626f6f6b696510d9bd011a093132372e302e302e31220a626f6f6b69652d727063',
  'hex',
)

const until = async (holds: () => boolean): Promise<void> => {
  for (let i = 0; i < 400 && !holds(); i++) await sleep(5)
  assert.ok(holds())
}

/** Paths as the Java jars 4.17.3 make them: hierarchical, long, and that of the request for copies. */
const JAVA_PATHS: readonly (readonly [bigint, string, string, string])[] = [
  [0n, '/00/0000/L0000', '/000/0000/0000/0000/L0000', '/0000/0000/0000/0000/urL0000000000'],
  [12_345n, '/00/0001/L2345', '/000/0000/0000/0001/L2345', '/0000/0000/0000/3039/urL0000012345'],
  [2_147_483_646n, '/21/4748/L3646', '/000/0000/0021/4748/L3646', '/0000/0000/7fff/fffe/urL2147483646'],
  [
    2_147_483_647n,
    '/000/0000/0021/4748/L3647',
    '/000/0000/0021/4748/L3647',
    '/0000/0000/7fff/ffff/urL2147483647',
  ],
  [
    2n ** 63n - 1n,
    '/922/3372/0368/5477/L5807',
    '/922/3372/0368/5477/L5807',
    '/7fff/ffff/ffff/ffff/urL9223372036854775807',
  ],
]

test('paths of ledgers are those of Java', () => {
  for (const [id, hierarchical, long, copies] of JAVA_PATHS) {
    assert.equal(ledgerPath('hierarchical', id), hierarchical)
    assert.equal(ledgerPath('longhierarchical', id), long)
    assert.equal(underreplicatedPath(id), copies)
  }
  assert.equal(ledgerPath('flat', 12_345n), '/L0000012345')
})

test('a bookie listens where its node says, else where its id says', () => {
  assert.deepEqual(bookieAddress('any', SERVICE_INFO), { host: '127.0.0.1', port: 24_281 })
  assert.deepEqual(bookieAddress('bk1:3181', new Uint8Array(0)), { host: 'bk1', port: 3181 })
  for (const id of ['bk1', 'bk1:0', 'bk1:99999', 'a:b:1']) {
    assert.equal(bookieAddress(id, new Uint8Array(0)), null)
  }
  assert.throws(
    () => bookieAddress('bk1:1', SERVICE_INFO.subarray(0, 20)),
    (error) => isStratalogError(error, 'corrupt'),
  )
})

describe('the bookies of a cluster', () => {
  const open = async () => {
    const server = new MemoryZooKeeper()
    const zk = await server.open()
    await createCluster(zk, '/ledgers', '5cc77fa7-87f4-46dd-83e6-7d324500c8d4')
    // Bookies have sessions of their own.
    const bookies = await server.open()
    await up(bookies, 'b1:1')
    await up(bookies, 'b2:1')
    const rackOf = parseRacks('b1 /eu/r1  # by host\n\nb2:1 /eu/r2\n', 'racks')
    const options = { ledgersPath: '/ledgers', clock: realClock(), logger: silentLogger(), rackOf }
    return { server, zk, bookies, registry: await BookieRegistry.open(zk, options) }
  }
  const up = (zk: ZooKeeper, id: string, folder = '') =>
    zk.create(`/ledgers/available${folder}/${id}`, new Uint8Array(0), { ephemeral: true })
  const ids = (found: readonly { readonly id: string }[]) => found.map(({ id }) => id)

  test('come, go, and turn read-only; the folder of those that are is none', async () => {
    const { zk, bookies, registry } = await open()
    let changes = 0
    registry.changed(() => {
      changes += 1
    })
    assert.deepEqual(registry.all(), [
      { id: 'b1:1', host: 'b1', port: 1, readOnly: false, rack: '/eu/r1' },
      { id: 'b2:1', host: 'b2', port: 1, readOnly: false, rack: '/eu/r2' },
    ])
    await up(bookies, 'b3:1')
    await until(() => registry.all().length === 3)
    await up(bookies, 'b1:1', '/readonly')
    await until(() => registry.writable().length === 2)
    await bookies.delete('/ledgers/available/b1:1', -1)
    await bookies.delete('/ledgers/available/b2:1', -1)
    await until(() => registry.all().length === 2)
    assert.deepEqual(ids(registry.all()), ['b1:1', 'b3:1'])
    assert.deepEqual(ids(registry.writable()), ['b3:1'])
    assert.ok(changes >= 3)
    await zk.create('/ledgers/cookies/b9:1', text(''))
    assert.deepEqual(await registry.known(), ['b9:1'])
    registry.close()
  })

  test('are read again by the next session; while ZooKeeper is away the last ones known stay', async () => {
    const { server, zk, bookies, registry } = await open()
    server.down = true
    server.expire(zk.sessionId)
    await sleep(20)
    assert.equal(registry.writable().length, 2)
    server.down = false
    await up(bookies, 'b3:1')
    await until(() => registry.writable().length === 3)
    await up(bookies, 'b4:1')
    await until(() => registry.writable().length === 4)
    registry.close()
  })
})

describe('racks', () => {
  test('a mapping that can not be read names its line', () => {
    assert.throws(
      () => parseRacks('b1 /r\nb2 r2\n', 'racks.txt'),
      (error) => isStratalogError(error, 'config_invalid') && /racks\.txt, line 2/.test(error.message),
    )
  })

  test('no write quorum lies within one rack where there are others to choose from', () => {
    const racks = fc.array(fc.constantFrom('/a', '/b', '/c', undefined), { minLength: 1, maxLength: 12 })
    fc.assert(
      fc.property(racks, fc.integer(), (of, seed) => {
        const bookies = of.map((rack, id) => ({ id, ...(rack === undefined ? {} : { rack }) }))
        const order = spreadOverRacks(bookies, { fraction: seededRandom(seed) })
        assert.deepEqual(ids(order), ids(bookies))
        for (let at = 1; at < order.length; at++) {
          const left = new Set(order.slice(at).map(({ rack }) => rack))
          // Two neighbours of one rack: nothing else was left.
          if (order[at]?.rack === order[at - 1]?.rack) assert.equal(left.size, 1)
        }
      }),
    )
    function ids(list: readonly { readonly id: number }[]): number[] {
      return list.map(({ id }) => id).sort((a, b) => a - b)
    }
  })

  test('different draws give different ensembles', () => {
    const bookies = Array.from({ length: 6 }, (_, id) => ({ id, rack: '/r' }))
    const firsts = new Set<number>()
    for (let seed = 0; seed < 40; seed++) {
      firsts.add(spreadOverRacks(bookies, { fraction: seededRandom(seed) })[0]?.id ?? -1)
    }
    assert.ok(firsts.size >= 4)
  })
})

test('copies are asked for as Java asks, and what others asked for stays', async () => {
  const server = new MemoryZooKeeper()
  const zk = await server.open()
  await zk.create('/ledgers', text(''))
  await markUnderreplicated(zk, '/ledgers', 12_345n, ['b1:1'])
  await markUnderreplicated(zk, '/ledgers', 12_345n, ['b1:1'])
  const path = '/ledgers/underreplication/ledgers/0000/0000/0000/3039/urL0000012345'
  const read = async () => Buffer.from((await zk.get(path))?.data ?? '').toString()
  assert.equal(await read(), 'replica: "b1:1"\n')
  await zk.set(path, text('replica: "b1:1"\nctime: 5\n'), 0)
  let lost = false
  server.fault = ({ op }) => {
    if (op !== 'set' || lost) return null
    lost = true
    return 'lost-answer'
  }
  await markUnderreplicated(zk, '/ledgers', 12_345n, ['b2:1'])
  assert.equal(await read(), 'replica: "b1:1"\nreplica: "b2:1"\nctime: 5\n')
  assert.equal(
    Buffer.from((await zk.get('/ledgers/underreplication/LAYOUT'))?.data ?? '').toString(),
    'type: "BASIC"\nversion: 1\n',
  )
})
