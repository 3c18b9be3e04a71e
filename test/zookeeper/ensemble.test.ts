import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { commit } from '../../src/metadata/distributedlog/commit.js'
import { ZkCoordination } from '../../src/metadata/zookeeper/coordination.js'
import { present } from '../../src/model/assert.js'
import { isStratalogError } from '../../src/model/errors.js'
import type { ZooKeeper } from '../../src/zookeeper/client.js'
import { outcomeUnknown } from '../../src/zookeeper/errors.js'
import { skipWithout } from '../servers/cache.js'
import { freePorts } from '../servers/ports.js'
import { startZooKeeperEnsemble, type ZooKeeperEnsemble } from '../servers/zookeeper.js'
import { text } from './contract.js'
import { openAt, PORTS } from './helpers.js'

const { clock } = PORTS
/** An election takes some 300 ms, on a busy machine some seconds. */
const PATIENT = { sessionTimeoutMs: 20_000, connectTimeoutMs: 15_000 }

/** What a session is worth when the server it hangs on goes away: another server takes it. */
describe('an ensemble of three ZooKeepers', { skip: await skipWithout('bookkeeper') }, () => {
  let started: ZooKeeperEnsemble | undefined
  const ensemble = (): ZooKeeperEnsemble => present(started, 'the ensemble')
  const addresses = (): string[] => ensemble().servers.map(({ address }) => address)
  const opened: ZooKeeper[] = []
  const open = async (servers = addresses(), chroot = ''): Promise<ZooKeeper> => {
    const zk = await openAt(servers, { ...PATIENT, chroot })
    opened.push(zk)
    return zk
  }
  before(async () => {
    started = await startZooKeeperEnsemble({ tickMs: 200 })
  })
  after(async () => {
    await Promise.all(opened.map((zk) => zk.close()))
    await started?.stop()
  })

  /** Counts in a node of its own, each step one multi that also leaves a node, until it is told to end. */
  const counting = (zk: ZooKeeper, root: string) => {
    let ends = false
    let unknown = 0
    const done: number[] = []
    const observed: Pick<ZooKeeper, 'multi' | 'get' | 'sync'> = {
      multi: (ops) =>
        zk.multi(ops).catch((error: unknown) => {
          if (outcomeUnknown(error)) unknown += 1
          throw error
        }),
      get: (path) => zk.get(path),
      sync: (path) => zk.sync(path),
    }
    const running = (async () => {
      for (let n = 0; !ends; ) {
        try {
          await commit(observed as ZooKeeper, clock, 'count', [
            { op: 'set', path: root, data: text(String(n + 1)), version: n },
            { op: 'create', path: `${root}/${n}`, data: text('') },
          ])
          done.push(n)
          n += 1
        } catch (error) {
          // Nobody could be asked. Whoever counts on asks where it is; it is never told `conflict`: it is alone.
          if (!isStratalogError(error, 'metadata_unavailable')) throw error
          const found = await zk.get(root)
          for (const now = found?.stat.version ?? n; n < now; n += 1) done.push(n)
        }
      }
    })()
    running.catch(() => undefined)
    const end = async () => {
      ends = true
      await running
      return { done, unknown }
    }
    return { done, end }
  }

  test('the leader is killed under load: sessions, leases and watches live on, and each multi is done once (3)', async () => {
    const sessions = await Promise.all([open(), open(), open()])
    const losts = sessions.map(({ lost }) => lost)
    const [first] = sessions
    const zk = present(first, 'a session')
    const leases = new ZkCoordination(zk, { root: '/leases', clock, random: PORTS.random })
    const lease = await leases.acquire('one', { holder: 'me', waitMs: 0 })
    await zk.create('/watched', text(''))
    let called = 0
    await zk.get('/watched', () => {
      called += 1
    })
    for (const [i, session] of sessions.entries()) await session.create(`/count${i}`, text('0'))
    const counters = sessions.map((session, i) => counting(session, `/count${i}`))
    await sleep(300)
    const leader = await ensemble().leader()
    const before = counters.map(({ done }) => done.length)
    await leader.kill()
    for (const [i, { done }] of counters.entries())
      for (let tries = 0; done.length < (before[i] ?? 0) + 20; tries++) {
        assert.ok(tries < 300, `counter ${i} stands still`)
        await sleep(50)
      }
    await leader.restart()
    let unanswered = 0
    for (const [i, counter] of counters.entries()) {
      const { done, unknown } = await counter.end()
      unanswered += unknown
      const node = await zk.get(`/count${i}`)
      assert.equal(node?.stat.version, done.length)
      const names = (await zk.children(`/count${i}`))?.names ?? []
      assert.deepEqual(
        names.map(Number).sort((a, b) => a - b),
        done,
      )
    }
    assert.ok(unanswered > 0, 'no multi was under way when the leader died')
    assert.deepEqual(
      losts.map(({ aborted }) => aborted),
      [false, false, false],
    )
    assert.equal(lease.lost.aborted, false)
    const other = new ZkCoordination(present(sessions[1], 'a session'), {
      root: '/leases',
      clock,
      random: PORTS.random,
    })
    await assert.rejects(other.acquire('one', { holder: 'you', waitMs: 0 }), (error) =>
      isStratalogError(error, 'conflict'),
    )
    assert.equal(called, 0)
    await present(sessions[2], 'a session').set('/watched', text('x'), 0)
    for (let tries = 0; called === 0; tries++) {
      assert.ok(tries < 100, 'the watch was lost')
      await sleep(20)
    }
  })

  test('a server that stands still is left within half a session, whichever it is', async () => {
    const zk = await openAt(addresses(), { sessionTimeoutMs: 6_000, connectTimeoutMs: 6_000 })
    opened.push(zk)
    const { lost, sessionId } = zk
    await zk.create('/still', text(''), { ephemeral: true })
    for (const server of ensemble().servers) {
      server.pause()
      try {
        // The one it is at, or the leader, or none of both.
        assert.ok(await zk.exists('/still'))
      } finally {
        server.resume()
      }
      await sleep(300)
    }
    assert.deepEqual([lost.aborted, zk.sessionId], [false, sessionId])
  })

  test('servers that are not there are passed over, and a chroot is one on each of them', async () => {
    const [nobody = 0] = await freePorts(1)
    const zk = await open()
    await zk.create('/below', text(''))
    const rooted = await open([`127.0.0.1:${nobody}`, ...addresses()], '/below')
    await rooted.create('/a', text('x'))
    await zk.sync('/below')
    assert.ok(await zk.exists('/below/a'))
    // One alone has no majority: it answers nobody, and who asks is told so in time.
    const [one, ...others] = ensemble().servers
    for (const server of others) await server.kill()
    const startMs = performance.now()
    await assert.rejects(
      openAt([present(one, 'a server').address], { sessionTimeoutMs: 6_000, connectTimeoutMs: 1_000 }),
      (error) => isStratalogError(error, 'metadata_unavailable') && /start ZooKeeper/.test(error.message),
    )
    assert.ok(performance.now() - startMs < 15_000)
  })
})
