import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { BookieRegistry } from '../../src/metadata/zookeeper/bookies.js'
import { readCluster } from '../../src/metadata/zookeeper/cluster.js'
import { ZkLedgerMetadataStore } from '../../src/metadata/zookeeper/ledger-metadata.js'
import { realClock } from '../../src/system/clock.js'
import { silentLogger } from '../../src/system/logger.js'
import { realRandom } from '../../src/system/random.js'
import { sampleMetadata } from '../contract/ledger-metadata.js'
import { startBookies } from '../servers/bookkeeper.js'
import { skipWithout } from '../servers/cache.js'
import { openAt } from '../zookeeper/helpers.js'

describe('bookies of BookKeeper itself', { skip: await skipWithout('bookkeeper') }, () => {
  test('are found, with their addresses, leave when they die, and come back', async () => {
    const cluster = await startBookies({ count: 2, sessionMs: 3_000 })
    const zk = await openAt([cluster.zk.address])
    try {
      const { ledgersPath } = cluster
      const { layout, instanceId } = await readCluster(zk, ledgersPath)
      assert.equal(layout, 'hierarchical')
      assert.match(instanceId, /^[0-9a-f-]{36}$/)
      const registry = await BookieRegistry.open(zk, {
        ledgersPath,
        clock: realClock(),
        logger: silentLogger(),
      })
      const ids = () => registry.writable().map(({ id }) => id)
      const expected = cluster.bookies.map(({ id }) => id).sort()
      const until = async (count: number): Promise<void> => {
        for (let i = 0; i < 400 && ids().length !== count; i++) await sleep(25)
        assert.equal(ids().length, count)
      }
      assert.deepEqual(ids(), expected)
      assert.deepEqual(await registry.known(), expected)
      for (const { id, host, port } of registry.all()) assert.equal(id, `${host}:${port}`)
      const [first] = cluster.bookies
      await first?.kill()
      await until(1)
      // ZooKeeper dies in between: what was known stays, and is followed again.
      await cluster.zk.restart()
      await first?.restart()
      await until(2)
      const ledgers = new ZkLedgerMetadataStore(zk, { ledgersPath, random: realRandom() })
      const id = await ledgers.allocateId()
      await ledgers.create(id, sampleMetadata())
      assert.deepEqual(await ledgers.list(-1n, 10), [id])
      registry.close()
    } finally {
      await zk.close()
      await cluster.stop()
    }
  })
})
