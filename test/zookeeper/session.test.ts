import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { present } from '../../src/model/assert.js'
import { isStratalogError } from '../../src/model/errors.js'
import type { ZooKeeper } from '../../src/zookeeper/client.js'
import { outcomeUnknown, ZK } from '../../src/zookeeper/errors.js'
import { openZooKeeper } from '../../src/zookeeper/open.js'
import { skipWithout } from '../servers/cache.js'
import { startZooKeeper, type ZooKeeperServer } from '../servers/zookeeper.js'
import { counted, failsAs, text, zooKeeperContract } from './contract.js'
import { Cutter, freshRoot, openAt, PORTS } from './helpers.js'

describe('ZooKeeper over a socket of our own', { skip: await skipWithout('bookkeeper') }, () => {
  let started: ZooKeeperServer | undefined
  const server = (): ZooKeeperServer => present(started, 'the server')
  before(async () => {
    started = await startZooKeeper({ tickMs: 200 })
  })
  after(() => started?.stop())

  zooKeeperContract('over the socket, below a chroot', async () => {
    const chroot = await freshRoot(server().address)
    const all: ZooKeeper[] = []
    const another = async (): Promise<ZooKeeper> => {
      const zk = await openAt([server().address], { chroot })
      all.push(zk)
      return zk
    }
    return {
      zk: await another(),
      another,
      cleanup: async () => {
        for (const zk of all) await zk.close()
      },
    }
  })

  const through = async (use: (zk: ZooKeeper, cutter: Cutter, direct: ZooKeeper) => Promise<void>) => {
    const cutter = await Cutter.to(server().port)
    const chroot = await freshRoot(server().address)
    const direct = await openAt([server().address], { chroot })
    const zk = await openAt([cutter.address], { chroot, sessionTimeoutMs: 3_000 })
    try {
      await use(zk, cutter, direct)
    } finally {
      cutter.onAnswer = null
      cutter.onRequest = null
      await zk.close()
      await direct.close()
      await cutter.close()
    }
  }

  test('a multi whose answer is cut off is unknown, and done; it is never sent again', () =>
    through(async (zk, cutter, direct) => {
      await zk.create('/m', text('0'))
      cutter.onAnswer = () => 'cut'
      const ops = [
        { op: 'set', path: '/m', data: text('1'), version: 0 },
        { op: 'create', path: '/m/a', data: text('') },
      ] as const
      await assert.rejects(zk.multi(ops), outcomeUnknown)
      cutter.onAnswer = null
      await sleep(100)
      assert.equal((await direct.get('/m'))?.stat.version, 1)
      assert.ok(await zk.exists('/m/a'))
    }))

  test('a multi that is cut off on its way is unknown, and not done', () =>
    through(async (zk, cutter, direct) => {
      await zk.create('/m', text('0'))
      cutter.onRequest = () => 'cut'
      await assert.rejects(zk.multi([{ op: 'set', path: '/m', data: text('1'), version: 0 }]), outcomeUnknown)
      cutter.onRequest = null
      assert.equal((await direct.get('/m'))?.stat.version, 0)
    }))

  test('a session outlives its connections: reads go again, ephemerals stay, missed changes call watches', () =>
    through(async (zk, cutter, direct) => {
      const { sessionId, lost } = zk
      await zk.create('/e', text(''), { ephemeral: true })
      await zk.create('/w', text(''))
      const [data, children, appears, still] = [counted(), counted(), counted(), counted()]
      await zk.get('/w', data.watch)
      await zk.children('/w', children.watch)
      await zk.exists('/w/new', appears.watch)
      await zk.exists('/e', still.watch)
      cutter.refuse = true
      cutter.cutAll()
      const reading = zk.get('/w')
      await direct.set('/w', text('x'), 0)
      await direct.create('/w/new', text(''))
      await sleep(100)
      cutter.refuse = false
      assert.equal((await reading)?.stat.version, 1)
      await Promise.all([data.soon(), children.soon(), appears.soon()])
      assert.deepEqual([data.calls, children.calls, appears.calls, still.calls], [1, 1, 1, 0])
      assert.equal(zk.sessionId, sessionId)
      assert.equal(lost.aborted, false)
      assert.ok(await direct.exists('/e'))
    }))

  test('invariant 3: a session is lost at two thirds of its time, before the server ends it', () =>
    through(async (zk, cutter, direct) => {
      await zk.create('/e', text(''), { ephemeral: true })
      const { lost } = zk
      const seen = counted()
      await zk.exists('/w', seen.watch)
      const startMs = performance.now()
      cutter.onAnswer = () => 'swallow'
      const hanging = assert.rejects(zk.set('/e', text('x'), 0), outcomeUnknown)
      while (!lost.aborted) await sleep(10)
      const tookMs = performance.now() - startMs
      assert.ok(tookMs > 900 && tookMs < 2_900, `${tookMs} ms`)
      // Nobody else can have what hung on the session: it is there still, or its holder gave it up.
      assert.ok(isStratalogError(lost.reason, 'metadata_unavailable'))
      await hanging
      await seen.soon()
      assert.equal(seen.calls, 1)
      cutter.onAnswer = null
      const before = zk.sessionId
      await zk.exists('/w')
      assert.notEqual(zk.sessionId, before)
      assert.equal(zk.lost.aborted, false)
      for (let i = 0; (await direct.exists('/e')) !== null; i++) {
        assert.ok(i < 100, 'the ephemeral node never went')
        await sleep(50)
      }
    }))

  test('invariant 3: a process that stood still beyond its deadline sends nothing after it', async () => {
    const chroot = await freshRoot(server().address)
    const direct = await openAt([server().address], { chroot })
    let stoodMs = 0
    const clock = { ...PORTS.clock, monotonicMs: () => PORTS.clock.monotonicMs() + stoodMs }
    const settings = { servers: [server().address], chroot, sessionTimeoutMs: 6_000, connectTimeoutMs: 3_000 }
    const zk = await openZooKeeper(settings, { ...PORTS, clock })
    const { lost } = zk
    await zk.create('/s', text(''))
    // No timer has fired yet: the call itself has to see it.
    stoodMs = 4_100
    await assert.rejects(
      zk.set('/s', text('late'), 0),
      (error) => isStratalogError(error, 'metadata_unavailable') && !outcomeUnknown(error),
    )
    assert.equal(lost.aborted, true)
    assert.equal((await direct.get('/s'))?.stat.version, 0)
    await zk.close()
    await direct.close()
  })

  test('a session without any connection is lost at its deadline, and the next one is another', () =>
    through(async (zk, cutter) => {
      const { lost, sessionId } = zk
      cutter.refuse = true
      cutter.cutAll()
      // A lost connection alone is no lost session.
      await sleep(1_000)
      assert.equal(lost.aborted, false)
      while (!lost.aborted) await sleep(20)
      cutter.refuse = false
      await zk.exists('/')
      assert.notEqual(zk.sessionId, sessionId)
    }))

  test('the server stands still: no call hangs beyond the session, and it goes on', async () => {
    const chroot = await freshRoot(server().address)
    const times = { sessionTimeoutMs: 1_500, connectTimeoutMs: 500 }
    const zk = await openAt([server().address], { chroot, ...times })
    await zk.create('/p', text(''))
    server().pause()
    const startMs = performance.now()
    try {
      await assert.rejects(zk.set('/p', text('x'), 0), outcomeUnknown)
      await assert.rejects(
        zk.set('/p', text('y'), 0),
        (error) => isStratalogError(error, 'metadata_unavailable') && !outcomeUnknown(error),
      )
      const tookMs = performance.now() - startMs
      assert.ok(tookMs < 2_500, `${tookMs} ms`)
    } finally {
      server().resume()
    }
    for (let i = 0; i < 50 && (await zk.exists('/p').catch(() => null)) === null; i++) await sleep(50)
    assert.ok(await zk.exists('/p'))
    await zk.close()
  })

  test('kill -9 of the server: the session goes on when it is back in time', async () => {
    const chroot = await freshRoot(server().address)
    const zk = await openAt([server().address], {
      chroot,
      sessionTimeoutMs: 30_000,
      connectTimeoutMs: 20_000,
    })
    const { sessionId } = zk
    await zk.create('/e', text('x'), { ephemeral: true })
    await server().kill()
    const reading = zk.get('/e')
    await server().restart()
    assert.equal((await reading)?.stat.ephemeralOwner, sessionId)
    assert.equal(zk.lost.aborted, false)
    await zk.close()
  })

  test('several servers: the next is taken when one is silent', async () => {
    const [dead, live] = [await Cutter.to(server().port), await Cutter.to(server().port)]
    const zk = await openAt([dead.address, live.address], { sessionTimeoutMs: 5_000 })
    const { lost } = zk
    dead.onAnswer = () => 'swallow'
    await sleep(3_600)
    assert.ok(await zk.exists('/'))
    assert.equal(lost.aborted, false)
    await zk.close()
    await dead.close()
    await live.close()
  })

  test('a server that asks for a login: digest is one, and without it the refusal says so', async () => {
    const config = { 'enforce.auth.enabled': true, 'enforce.auth.schemes': 'digest' }
    const strict = await startZooKeeper({ config })
    try {
      const auth = { scheme: 'digest', user: 'ann', password: 'secret' } as const
      const known = await openAt([strict.address], { auth })
      await known.create('/a', text('x'))
      await known.close()
      const nobody = await openAt([strict.address], { connectTimeoutMs: 1_000 })
      await assert.rejects(
        nobody.create('/b', text('x')),
        (error) => isStratalogError(error, 'access_denied') && /auth-file/.test(error.message),
      )
      await nobody.close()
    } finally {
      await strict.stop()
    }
  })

  test('a digest user may touch its nodes and others may not; a node too large is refused before it is sent', async () => {
    const chroot = await freshRoot(server().address)
    const auth = { scheme: 'digest', user: 'ann', password: 'secret' } as const
    const zk = await openAt([server().address], { chroot, auth, acl: 'creator' })
    await zk.create('/mine', text('x'))
    const other = await openAt([server().address], { chroot })
    await assert.rejects(other.get('/mine'), failsAs('access_denied', ZK.NO_AUTH))
    await assert.rejects(other.set('/mine', text('y'), 0), failsAs('access_denied', ZK.NO_AUTH))
    await assert.rejects(
      zk.set('/mine', new Uint8Array(2 ** 20), 0),
      (error) => isStratalogError(error, 'invalid_argument') && /jute\.maxbuffer/.test(error.message),
    )
    await assert.rejects(zk.get('mine'), (error) => isStratalogError(error, 'invalid_argument'))
    assert.equal((await zk.get('/mine'))?.stat.version, 0)
    await zk.close()
    await other.close()
  })
})
