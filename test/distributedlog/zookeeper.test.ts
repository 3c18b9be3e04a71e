import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { bindNamespace } from '../../src/metadata/distributedlog/binding.js'
import { present } from '../../src/model/assert.js'
import type { ZooKeeper } from '../../src/zookeeper/client.js'
import { archiving, openRow, sealedSegments, writableStream } from '../contract/segment-rows.js'
import { skipWithout } from '../servers/cache.js'
import { startZooKeeper, type ZooKeeperServer } from '../servers/zookeeper.js'
import { openAt } from '../zookeeper/helpers.js'
import { BINDING, NAMESPACE, World } from './helpers.js'

describe("DistributedLog's tree in ZooKeeper itself", { skip: await skipWithout('bookkeeper') }, () => {
  let server: ZooKeeperServer | null = null
  before(async () => {
    server = await startZooKeeper({ tickMs: 200 })
  })
  after(() => server?.stop())

  test('a life of a stream, seen by two processes', async (context) => {
    const { address } = present(server, 'server')
    const world = new World()
    const open = (): Promise<ZooKeeper> => openAt([address])
    const setUp = await open()
    context.after(async () => {
      await world.remove()
      await setUp.close()
    })
    await bindNamespace(setUp, NAMESPACE, BINDING)
    const [one, two] = [await world.process({ zk: await open() }), await world.process({ zk: await open() })]
    const { incarnation } = await writableStream(one.index, 's1')
    const rows = await sealedSegments(one.index, incarnation, 3)
    const node = async (path: string) => {
      const found = await setUp.get(`${NAMESPACE}/s1/<default>/${path}`)
      return found === null ? null : [Buffer.from(found.data).toString(), found.stat.version]
    }
    assert.deepEqual(await node('ledgers'), ['3', 6])
    assert.deepEqual(await node('maxtxid'), ['309', 3])
    assert.deepEqual(await node('ledgers/logrecs_000000000000000001'), [
      '42949672965;1001;100;109;1000;1;4;1;0;0;0',
      0,
    ])
    const newest = async () => {
      // What one process did the other hears of by its watch.
      for (let round = 0; round < 100; round += 1) {
        const row = await two.index.newestSegment(incarnation)
        if (row?.segment === 3n && row.state !== 'open') return row.state
        await new Promise((resolve) => setTimeout(resolve, 20))
      }
      return null
    }
    assert.equal(await newest(), 'sealed')
    const first = present(rows[0], 'row')
    world.cold.set(incarnation, [{ ...first, ...archiving(1n), state: 'cold', ledgerId: null }])
    const archived = await one.index.updateSegment(first, archiving(1n))
    await one.index.updateSegment(archived, { state: 'cold', evictedMs: 5 })
    assert.equal(await node('ledgers/logrecs_000000000000000001'), null)
    await one.index.removeSegment(await one.index.beginSegment(openRow(incarnation, 4n, { firstTxid: 400n })))
    assert.deepEqual((await node('ledgers'))?.[0], '3')
    const stream = present(await one.index.streamByName('s1'), 'stream')
    await one.index.deleteStream(incarnation, stream.version, 7)
    assert.equal(await setUp.exists(`${NAMESPACE}/s1`), null)
  })
})
