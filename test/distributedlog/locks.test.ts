import assert from 'node:assert/strict'
import { getEventListeners } from 'node:events'
import { describe, test } from 'node:test'
import { DistributedLogLocks, HeldLocks } from '../../src/metadata/distributedlog/locks.js'
import { isStratalogError } from '../../src/model/errors.js'
import type { Coordination } from '../../src/ports/coordination.js'
import { realClock } from '../../src/system/clock.js'
import type { ZooKeeper } from '../../src/zookeeper/client.js'
import { coordinationContract } from '../contract/coordination.js'
import { newStream, openRow, sealing, writableStream } from '../contract/segment-rows.js'
import { MemoryZooKeeper, stallingAfter } from '../helpers/zookeeper-memory.js'
import { quietLogger } from '../metadata/helpers.js'
import { NAMESPACE, World } from './helpers.js'

const NONE: Coordination = {
  acquire: () => Promise.reject(new Error('no other lease is asked for')),
  close: () => Promise.resolve(),
}

function locksOn(zk: ZooKeeper, lockPath: (name: string) => Promise<string>, held = new HeldLocks()) {
  const clock = realClock()
  const logger = quietLogger()
  return new DistributedLogLocks({ zk, clock, logger, clientId: 'me@host 1', lockPath, held, others: NONE })
}

/** The contract's names, as streams whose lock nodes lie side by side. */
class OfWriters implements Coordination {
  readonly locks: DistributedLogLocks

  constructor(locks: DistributedLogLocks) {
    this.locks = locks
  }

  async acquire(name: string, options: Parameters<Coordination['acquire']>[1]) {
    const lease = await this.locks.acquire(`writer/${name}`, options)
    const { epoch, lost } = lease
    return { name, epoch, lost, release: () => lease.release() }
  }

  close(): Promise<void> {
    return this.locks.close()
  }
}

coordinationContract("DistributedLog's writer locks", async () => {
  const server = new MemoryZooKeeper()
  const setUp = await server.open()
  for (const name of ['agent', 'another']) await setUp.create(`/${name}`, new Uint8Array())
  let zk = await server.open()
  const open = () => new OfWriters(locksOn(zk, (name) => Promise.resolve(`/${name}`)))
  let subject = open()
  return {
    subject,
    async reopen() {
      await subject.close()
      await zk.close()
      zk = await server.open()
      subject = open()
      return subject
    },
    async cleanup() {
      await subject.close()
      await zk.close()
    },
  }
})

describe("a writer's lock", () => {
  async function twoWriters() {
    const world = new World()
    await world.bind()
    const open = async () => {
      const zk = await world.server.open()
      const held = new HeldLocks()
      const process = await world.process({ zk, locks: held })
      const locks = locksOn(zk, (incarnation) => process.index.lockPath(incarnation), held)
      return { ...process, zk, locks }
    }
    const [one, two] = [await open(), await open()]
    const { incarnation } = await writableStream(one.index, 's1')
    return { world, one, two, incarnation }
  }
  const at = { holder: 'writer', waitMs: 0 }
  const fenced = (error: unknown) => isStratalogError(error, 'fenced') || isStratalogError(error, 'conflict')

  test('stands in the tree as Java writes it, and keeps Java out', async () => {
    const { world, one, incarnation } = await twoWriters()
    const lease = await one.locks.acquire(`writer/${incarnation}`, at)
    const [, node = ''] = world.dump(`${NAMESPACE}/s1/<default>/lock`)
    assert.match(node, /lock\/member_me%40host\+1_s *\d+_0000000000\tver=0\ttext:me@host 1$/)
    await lease.release()
    assert.equal(world.dump(`${NAMESPACE}/s1/<default>/lock`).length, 1)
    const java = await world.server.open()
    const member = `${NAMESPACE}/s1/<default>/lock/member_java_s${'7'.padStart(10)}_`
    await java.create(member, new TextEncoder().encode('java'), { ephemeral: true, sequential: true })
    await assert.rejects(
      one.locks.acquire(`writer/${incarnation}`, at),
      (error) => isStratalogError(error, 'conflict') && error.found === 'java',
    )
    await java.close()
    await (await one.locks.acquire(`writer/${incarnation}`, at)).release()
    await world.remove()
  })

  test('nobody begins, seals or recovers a segment without it (invariant 3; foreign writers are left alone)', async () => {
    const { world, one, two, incarnation } = await twoWriters()
    await one.locks.acquire(`writer/${incarnation}`, at)
    const begun = await one.index.beginSegment(openRow(incarnation, 1n, { firstTxid: 1n }))
    const seen = await two.index.newestSegment(incarnation)
    assert.equal(seen?.state, 'open')
    const recovering = { state: 'recovering' as const }
    await assert.rejects(
      two.index.updateSegment({ ...begun, version: seen?.version ?? 0 }, recovering),
      fenced,
    )
    await assert.rejects(two.index.beginSegment(openRow(incarnation, 2n, { firstTxid: 2n })), fenced)
    // The session ends on the server while its process does not know of it yet: the check in the multi refuses.
    const lock = world.dump(`${NAMESPACE}/s1/<default>/lock`)[1]?.split('\t')[0] ?? ''
    const operator = await world.server.open()
    await operator.delete(lock, -1)
    await assert.rejects(one.index.updateSegment(begun, sealing(1n)), fenced)
    assert.equal((await two.index.newestSegment(incarnation))?.state, 'open')
    await world.remove()
  })

  test('is lost with the session, by its own deadline or because the node is gone', async () => {
    const { world, one, two, incarnation } = await twoWriters()
    const name = `writer/${incarnation}`
    const lease = await one.locks.acquire(name, at)
    world.server.abandon(one.zk.sessionId)
    assert.ok(lease.lost.aborted && isStratalogError(lease.lost.reason, 'lease_lost'))
    // The server still has it: nobody else gets it before it is over there too.
    await assert.rejects(two.locks.acquire(name, at), fenced)
    await lease.release()
    const next = await two.locks.acquire(name, { ...at, waitMs: 5_000 })
    assert.ok(next.epoch > lease.epoch)
    const lost = new Promise((resolve) => next.lost.addEventListener('abort', resolve))
    const lock = world.dump(`${NAMESPACE}/s1/<default>/lock`)[1]?.split('\t')[0] ?? ''
    const operator = await world.server.open()
    await operator.delete(lock, -1)
    await lost
    await world.remove()
  })

  test('a lost answer leaves no node that keeps others out', async () => {
    const { world, one, two, incarnation } = await twoWriters()
    const name = `writer/${incarnation}`
    for (const fault of ['lost-answer', 'lost-request'] as const) {
      let lost = false
      world.server.fault = ({ op }) => {
        if (op !== 'create' || lost) return null
        lost = true
        return fault
      }
      const lease = await one.locks.acquire(name, at)
      assert.ok(lost)
      assert.equal(world.dump(`${NAMESPACE}/s1/<default>/lock`).length, 2)
      await lease.release()
      await (await two.locks.acquire(name, at)).release()
    }
    await world.remove()
  })

  test('invariant 3: a node hangs on the session it names, also when that is lost while entering', async () => {
    for (const op of ['children', 'sync'] as const) {
      const { world, one, two, incarnation } = await twoWriters()
      const { server } = world
      const name = `writer/${incarnation}`
      const lock = await one.index.lockPath(incarnation)
      const old = one.zk.sessionId
      // The first create goes astray, so that it is asked for again after the stall.
      server.fault = (call) => (call.op === 'create' && call.sessionId === old ? 'lost-request' : null)
      server.applied = (change) => {
        if (change.op !== 'create') return
        const [node] = [...server.dump()].filter(([path]) => path.startsWith(change.path))
        assert.match(change.path, new RegExp(`_s *${node?.[1].stat.ephemeralOwner}_$`))
      }
      const locks = locksOn(
        stallingAfter(one.zk, op, () => server.abandon(old)),
        async () => lock,
      )
      const lease = await locks.acquire(name, at).catch((error: unknown) => {
        assert.ok(isStratalogError(error, 'metadata_unavailable') && error.retryable, String(error))
        return null
      })
      assert.equal(lease?.lost.aborted ?? false, false)
      await lease?.release()
      await (await two.locks.acquire(name, at)).release()
      await world.remove()
    }
  })

  test('invariant 11: who asks again and again for a lock that another keeps leaves no watch behind', async () => {
    const { world, one, two, incarnation } = await twoWriters()
    const name = `writer/${incarnation}`
    const lease = await one.locks.acquire(name, at)
    const refused = () => assert.rejects(two.locks.acquire(name, { ...at, waitMs: 10 }), fenced)
    // The first one looks at the stream, which stays watched.
    await refused()
    const before = world.server.watches
    for (let i = 0; i < 5; i++) await refused()
    assert.equal(world.server.watches, before)
    await lease.release()
    await world.remove()
  })

  test('a stream that is not there has no lock', async () => {
    const { world, one } = await twoWriters()
    const { incarnation } = newStream('x')
    await assert.rejects(one.locks.acquire(`writer/${incarnation}`, at), (error) =>
      isStratalogError(error, 'stream_not_found'),
    )
    await world.remove()
  })
})

test("a lock that could not be looked after is given to nobody, and stands in nobody's way", async () => {
  const server = new MemoryZooKeeper()
  const zk = await server.open()
  await zk.create('/lock', new Uint8Array())
  const held = new HeldLocks()
  const locks = locksOn(zk, () => Promise.resolve('/lock'), held)
  server.fault = ({ op, path }) => (op === 'exists' && path.startsWith('/lock/') ? 'lost-request' : null)
  await assert.rejects(locks.acquire('writer/one', { holder: 'writer', waitMs: 0 }))
  server.fault = null
  assert.equal(held.held('one'), null)
  assert.deepEqual((await zk.children('/lock'))?.names, [])
  const lease = await locks.acquire('writer/one', { holder: 'writer', waitMs: 0 })
  await lease.release()
  await locks.close()
  await zk.close()
})

test('leases that were given back leave nothing at their session, which outlives them (invariant 11)', async () => {
  const server = new MemoryZooKeeper()
  const zk = await server.open()
  await zk.create('/lock', new Uint8Array())
  const locks = locksOn(zk, () => Promise.resolve('/lock'))
  const { lost } = zk
  const before = getEventListeners(lost, 'abort').length
  for (let round = 0; round < 5; round += 1)
    await (await locks.acquire('writer/one', { holder: 'writer', waitMs: 0 })).release()
  assert.equal(getEventListeners(lost, 'abort').length, before)
  await locks.close()
  await zk.close()
})
