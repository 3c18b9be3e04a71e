import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { resolveConfig } from '../../src/config/resolve.js'
import { BookieRegistry } from '../../src/metadata/zookeeper/bookies.js'
import { createCluster } from '../../src/metadata/zookeeper/cluster.js'
import { ZkCoordination } from '../../src/metadata/zookeeper/coordination.js'
import { parseGroups } from '../../src/metadata/zookeeper/racks.js'
import { listUnderreplicated, markUnderreplicated } from '../../src/metadata/zookeeper/under-replication.js'
import type { DoctorCheck } from '../../src/model/control-doctor.js'
import type { PolicyInput } from '../../src/model/policy-input.js'
import { type ClusterParts, clusterChecks } from '../../src/open/cluster-doctor.js'
import { realClock } from '../../src/system/clock.js'
import { silentLogger } from '../../src/system/logger.js'
import { realRandom } from '../../src/system/random.js'
import { BINDING, NAMESPACE } from '../distributedlog/helpers.js'
import { MemoryZooKeeper } from '../helpers/zookeeper-memory.js'

const INSTANCE = '5cc77fa7-87f4-46dd-83e6-7d324500c8d4'
const NOTHING = new Uint8Array(0)

/** A cluster of as many bookies, whose ZooKeeper is ahead by that. */
async function opened(bookies: number, aheadMs = 0, defaults: PolicyInput = {}) {
  const server = new MemoryZooKeeper({ nowMs: () => Date.now() + aheadMs })
  const zk = await server.open()
  await createCluster(zk, '/ledgers', INSTANCE)
  for (let i = 1; i <= bookies; i += 1)
    await zk.create(`/ledgers/available/b${i}:1`, NOTHING, { ephemeral: true })
  const [clock, logger] = [realClock(), silentLogger()]
  const parts: ClusterParts = {
    ...{ zk, ledgersZk: zk, clock, binding: BINDING, instanceId: INSTANCE },
    place: { servers: ['zk1:2181'], authority: 'zk1:2181', namespace: NAMESPACE },
    registry: await BookieRegistry.open(zk, { ledgersPath: '/ledgers', clock, logger }),
    config: resolveConfig({ code: defaults }),
    ...{
      sessionTimeoutMs: 10_000,
      addTimeoutMs: 5_000,
      ours: '/stratalog/v1',
      leases: '/stratalog/v1/leases',
    },
  }
  return { server, zk, parts, clock }
}

async function checkOf(parts: ClusterParts, name: string): Promise<DoctorCheck> {
  const found = (await clusterChecks(parts)).find((one) => one.name === name)
  assert.ok(found !== undefined, name)
  return found
}

describe('what doctor says of a cluster', () => {
  test('clocks that are apart are told with how far and which way, and the node that tells it goes', async () => {
    for (const [aheadMs, state, text] of [
      [0, 'ok', /agree/],
      [5_000, 'note', /the clock here is (4\.9|5\.0|5)s behind that of ZooKeeper/],
      [-3_600_000, 'bad', /ahead of that of ZooKeeper/],
    ] as const) {
      const { zk, parts } = await opened(3, aheadMs)
      const found = await checkOf(parts, 'clock')
      assert.equal(found.state, state, found.text)
      assert.match(found.text, text)
      assert.equal(found.mend !== null, state !== 'ok')
      assert.deepEqual((await zk.children('/stratalog/v1'))?.names, [])
    }
  })

  test('sessions that are too short or too long, and those that ZooKeeper grants otherwise', async () => {
    const { parts } = await opened(3)
    const granted = (sessionTimeoutMs: number, changes: Partial<ClusterParts> = {}) => {
      const zk = new Proxy(parts.zk, {
        get: (target, name) => {
          if (name === 'sessionTimeoutMs') return sessionTimeoutMs
          const value: unknown = Reflect.get(target, name)
          return typeof value === 'function' ? value.bind(target) : value
        },
      })
      return checkOf({ ...parts, zk, ...changes }, 'session')
    }
    assert.equal((await granted(10_000)).state, 'ok')
    assert.match((await granted(2_000)).mend ?? '', /raise zookeeper\.session-timeout/)
    assert.match((await granted(60_000)).mend ?? '', /lower zookeeper\.session-timeout/)
    assert.match(
      (await granted(10_000, { addTimeoutMs: 20_000 })).mend ?? '',
      /lower bookkeeper\.add-timeout/,
    )
    assert.match((await granted(8_000)).text, /asked for 10\.0?s: ZooKeeper allows another|asked for 10s/)
  })

  test('quorums, also those of a group', async () => {
    const { parts } = await opened(2)
    const reduced = await checkOf(parts, 'quorum')
    assert.deepEqual([reduced.state, /2 of 2 bookies that are up/.test(reduced.text)], ['note', true])
    const grouped = await opened(3, 0, { quorum: { group: 'gold' } })
    const groupsOf = parseGroups('b1:1 gold', 'groups')
    const found = await checkOf({ ...grouped.parts, groupsOf }, 'quorum')
    assert.deepEqual([found.state, /1 of 1 bookies of the group gold/.test(found.text)], ['bad', true])
  })

  test('whether lost copies are made anew, and how many wait', async () => {
    const { zk, parts } = await opened(3)
    assert.match((await checkOf(parts, 'copies')).text, /0 ledgers wait for copies, no autorecovery runs/)
    for (const id of [5n, 70_000n, 2n ** 40n]) await markUnderreplicated(zk, '/ledgers', id, ['b9:1'])
    assert.deepEqual(
      (await listUnderreplicated(zk, '/ledgers', 2)).map(({ ledgerId, missing }) => [ledgerId, missing]),
      [
        [5n, ['b9:1']],
        [70_000n, ['b9:1']],
      ],
    )
    const bad = await checkOf(parts, 'copies')
    assert.deepEqual([bad.state, /^3 ledgers wait/.test(bad.text)], ['bad', true])
    await zk.create('/ledgers/underreplication/auditorelection', NOTHING)
    await zk.create('/ledgers/underreplication/auditorelection/V_', NOTHING, {
      ephemeral: true,
      sequential: true,
    })
    assert.equal((await checkOf(parts, 'copies')).state, 'note')
    await zk.create('/ledgers/underreplication/disable', NOTHING)
    assert.match((await checkOf(parts, 'copies')).mend ?? '', /autorecovery -enable/)
  })

  test('who tiers right now', async () => {
    const { zk, parts, clock } = await opened(3)
    assert.match((await checkOf(parts, 'tiering')).text, /no process/)
    const leases = new ZkCoordination(zk, { root: parts.leases, clock, random: realRandom() })
    for (const stream of ['one', 'two'])
      await leases.acquire(`tiering/${stream}`, { holder: 'host-1', waitMs: 0 })
    await leases.acquire('sealing/one', { holder: 'host-2', waitMs: 0 })
    await (await leases.acquire('tiering/three', { holder: 'host-3', waitMs: 0 })).release()
    assert.match((await checkOf(parts, 'tiering')).text, /: 2 by host-1$/)
    assert.equal(await leases.holder('tiering/one'), 'host-1')
    assert.equal(await leases.holder('tiering/three'), null)
    assert.equal(await leases.holder('tiering/never'), null)
    await leases.close()
  })

  test('a cluster that was formatted since is another one; without ZooKeeper that is said once', async () => {
    const { server, zk, parts } = await opened(3)
    await zk.set('/ledgers/INSTANCEID', Buffer.from('other'), -1)
    const found = await checkOf(parts, 'cluster')
    assert.deepEqual([found.state, /has the cluster other now/.test(found.text)], ['bad', true])
    server.down = true
    const all = await clusterChecks(parts)
    assert.deepEqual(
      all.map(({ name, state }) => `${name} ${state}`),
      ['cluster bad', 'quorum ok'],
    )
  })
})
