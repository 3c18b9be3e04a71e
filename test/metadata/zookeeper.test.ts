import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import fc from 'fast-check'
import { createCluster, readCluster } from '../../src/metadata/zookeeper/cluster.js'
import { ZkCoordination } from '../../src/metadata/zookeeper/coordination.js'
import { ZkLedgerMetadataStore } from '../../src/metadata/zookeeper/ledger-metadata.js'
import { present } from '../../src/model/assert.js'
import { isStratalogError } from '../../src/model/errors.js'
import { realClock } from '../../src/system/clock.js'
import { realRandom } from '../../src/system/random.js'
import type { ZooKeeper } from '../../src/zookeeper/client.js'
import { outcomeUnknown } from '../../src/zookeeper/errors.js'
import { coordinationContract } from '../contract/coordination.js'
import { assertSameMetadata, ledgerMetadataContract, sampleMetadata } from '../contract/ledger-metadata.js'
import { MemoryZooKeeper, stallingAfter, type ZkFault } from '../helpers/zookeeper-memory.js'
import { skipWithout } from '../servers/cache.js'
import { startZooKeeper, type ZooKeeperServer } from '../servers/zookeeper.js'
import { text } from '../zookeeper/contract.js'
import { freshRoot, openAt, until } from '../zookeeper/helpers.js'

const random = realRandom()
const ID = '5cc77fa7-87f4-46dd-83e6-7d324500c8d4'
const open = async (openOne: () => Promise<ZooKeeper>) => {
  let zk = await openOne()
  await createCluster(zk, '/ledgers', ID)
  const reopened = async () => {
    await zk.close()
    zk = await openOne()
    return zk
  }
  return { zk: () => zk, reopened }
}
const ledgersOf = (zk: ZooKeeper) => new ZkLedgerMetadataStore(zk, { ledgersPath: '/ledgers', random })
const leasesOf = (zk: ZooKeeper) =>
  new ZkCoordination(zk, { root: '/stratalog/leases', clock: realClock(), random })

/** The contracts, on a ZooKeeper that each call of `opener` makes anew. */
function contracts(name: string, opener: () => Promise<() => Promise<ZooKeeper>>): void {
  ledgerMetadataContract(name, async () => {
    const { zk, reopened } = await open(await opener())
    return {
      subject: ledgersOf(zk()),
      reopen: async () => ledgersOf(await reopened()),
      cleanup: () => zk().close(),
    }
  })
  coordinationContract(name, async () => {
    const { zk, reopened } = await open(await opener())
    let leases = leasesOf(zk())
    return {
      subject: leases,
      reopen: async () => {
        await leases.close()
        leases = leasesOf(await reopened())
        return leases
      },
      cleanup: async () => {
        await leases.close()
        await zk().close()
      },
    }
  })
}

const inMemory = async () => {
  const server = new MemoryZooKeeper()
  return () => server.open()
}
contracts('ZooKeeper in memory', inMemory)

describe('metadata in ZooKeeper itself', { skip: await skipWithout('bookkeeper') }, () => {
  let started: ZooKeeperServer | undefined
  before(async () => {
    started = await startZooKeeper({ tickMs: 200 })
  })
  after(() => started?.stop())
  contracts('ZooKeeper', async () => {
    const { address } = present(started, 'the server')
    const chroot = await freshRoot(address)
    return () => openAt([address], { chroot })
  })
})

describe('ledgers in ZooKeeper', () => {
  const begin = async () => {
    const server = new MemoryZooKeeper()
    const zk = await server.open()
    await createCluster(zk, '/ledgers', ID)
    return { server, zk, ledgers: ledgersOf(zk) }
  }
  /** Loses what the next calls of that kind say. */
  const losing = (server: MemoryZooKeeper, op: string, ...faults: ZkFault[]) => {
    server.fault = (call) => (call.op === op ? (faults.shift() ?? null) : null)
  }

  test('a cluster is begun once, and one that is not there, or of another kind, is named', async () => {
    const { zk } = await begin()
    assert.deepEqual(await createCluster(zk, '/ledgers', 'aaaaaaaa-87f4-46dd-83e6-7d324500c8d4'), {
      layout: 'hierarchical',
      instanceId: ID,
    })
    await assert.rejects(readCluster(zk, '/none'), (error) => isStratalogError(error, 'config_invalid'))
    await zk.set('/ledgers/LAYOUT', text('2\norg.apache.bookkeeper.meta.MSLedgerManagerFactory:1'), 0)
    await assert.rejects(ledgersOf(zk).allocateId(), (error) =>
      isStratalogError(error, 'version_unsupported'),
    )
  })

  test('ledgers are where Java looks for them, and folders go with their last ledger', async () => {
    const { zk, ledgers } = await begin()
    await ledgers.create(12_345n, sampleMetadata())
    await ledgers.create(2_147_483_647n, sampleMetadata())
    assert.ok(await zk.exists('/ledgers/00/0001/L2345'))
    assert.ok(await zk.exists('/ledgers/000/0000/0021/4748/L3647'))
    assert.deepEqual(await ledgers.list(-1n, 10), [12_345n, 2_147_483_647n])
    await ledgers.delete(12_345n, 0)
    assert.equal(await zk.exists('/ledgers/00'), null)
    assert.ok(await zk.exists('/ledgers/LAYOUT'))
  })

  test('a create whose answer was lost knows its own node by its token', async () => {
    const { server, ledgers } = await begin()
    await ledgers.create(1n, sampleMetadata())
    losing(server, 'create', 'lost-answer')
    const created = await ledgers.create(2n, sampleMetadata())
    assert.equal(created.version, 0)
    assert.notEqual(created.metadata.cToken, 0n)
    losing(server, 'create', 'lost-request', 'lost-answer')
    await ledgers.create(3n, sampleMetadata())
    // The node is another's, created alike: not taken for the own one.
    losing(server, 'create', 'lost-request')
    await assert.rejects(ledgers.create(3n, sampleMetadata()), (error) =>
      isStratalogError(error, 'ledger_exists'),
    )
  })

  test('a change whose answer was lost is done once, or by another', async () => {
    const { server, zk, ledgers } = await begin()
    const { version } = await ledgers.create(1n, sampleMetadata())
    const closed = sampleMetadata({ state: 'CLOSED', lastEntryId: 4n, lengthBytes: 9n })
    losing(server, 'set', 'lost-answer')
    assert.equal((await ledgers.compareAndSet(1n, version, closed)).version, 1)
    losing(server, 'set', 'lost-request')
    assert.equal((await ledgers.compareAndSet(1n, 1, sampleMetadata())).version, 2)
    // Lost on its way, and another was faster.
    server.fault = (call) => {
      if (call.op !== 'set') return null
      server.fault = null
      zk.set('/ledgers/00/0000/L0001', text('BookieMetadataFormatVersion\t1\n1\n1\n0\n0\ta\n'), 2).catch(
        assert.fail,
      )
      return 'lost-request'
    }
    await assert.rejects(ledgers.compareAndSet(1n, 2, closed), (error) => isStratalogError(error, 'conflict'))
    // Version 1 is read, and written back in it.
    const old = await ledgers.read(1n)
    await ledgers.compareAndSet(1n, old.version, { ...old.metadata, state: 'IN_RECOVERY' })
    assert.match(
      Buffer.from((await zk.get('/ledgers/00/0000/L0001'))?.data ?? '').toString(),
      /Version\t1\n[\s\S]*-102/,
    )
  })

  test('while ZooKeeper is away the outcome stays unknown', async () => {
    const { server, ledgers } = await begin()
    await ledgers.create(1n, sampleMetadata())
    server.down = true
    await assert.rejects(ledgers.compareAndSet(1n, 0, sampleMetadata()), outcomeUnknown)
    await assert.rejects(ledgers.create(2n, sampleMetadata()), outcomeUnknown)
    await assert.rejects(ledgers.read(1n), (error) => isStratalogError(error, 'metadata_unavailable'))
  })

  test('ids go on in 63 bits when the 31 are used up', async () => {
    const { zk, ledgers } = await begin()
    assert.equal(await ledgers.allocateId(), 0n)
    await zk.create('/ledgers/idgen-long', text(''))
    assert.equal(await ledgers.allocateId(), 1n << 32n)
    assert.equal(await ledgers.allocateId(), (1n << 32n) + 1n)
    await zk.create('/ledgers/idgen-long/HOB-0000000007', text(''))
    assert.equal(await ledgers.allocateId(), 7n << 32n)
    await ledgers.create(7n << 32n, sampleMetadata())
    assert.deepEqual(await ledgers.list(-1n, 5), [7n << 32n])
  })

  test('under any lost answers ids are drawn once and changes are made once', async () => {
    const fault = fc.constantFrom<ZkFault | null>('lost-answer', 'lost-request', null, null)
    await fc.assert(
      fc.asyncProperty(fc.array(fault, { minLength: 5, maxLength: 40 }), async (faults) => {
        const { server, ledgers } = await begin()
        server.fault = () => faults.pop() ?? null
        const made = new Map<bigint, number>()
        for (let i = 0; i < 6; i++) {
          const id = await ledgers.allocateId().catch(() => null)
          if (id === null) continue
          assert.ok(!made.has(id))
          const created = await ledgers.create(id, sampleMetadata()).catch(() => null)
          made.set(id, -1)
          if (created === null) continue
          const recovering = sampleMetadata({ state: 'IN_RECOVERY' })
          const changed = await ledgers.compareAndSet(id, 0, recovering).catch(() => null)
          made.set(id, changed?.version ?? 0)
        }
        server.fault = null
        for (const [id, version] of made) {
          if (version < 0) continue
          const found = await ledgers.read(id)
          // What was told to be done is done, once; what was not told may be.
          assert.ok(version === 1 ? found.version === 1 : found.version <= 1)
          if (found.version === 1)
            assertSameMetadata(found.metadata, sampleMetadata({ state: 'IN_RECOVERY' }))
        }
      }),
      { numRuns: 60 },
    )
  })
})

describe('leases in ZooKeeper', () => {
  const clock = realClock()
  const begin = async () => {
    const server = new MemoryZooKeeper()
    const sides = await Promise.all(
      [0, 1].map(async () => {
        const zk = await server.open()
        return { zk, leases: leasesOf(zk) }
      }),
    )
    return { server, one: present(sides[0], 'one'), two: present(sides[1], 'two') }
  }
  const take = (leases: ZkCoordination, waitMs = 0) => leases.acquire('agent/a', { holder: 'me', waitMs })

  test('invariant 3: a lease ends with its session, and its check fails a multi from then on', async () => {
    const { server, one, two } = await begin()
    const lease = await take(one.leases)
    const write = { op: 'create', path: '/done-', data: text(''), sequential: true } as const
    await one.zk.multi([lease.check, write])
    await assert.rejects(take(two.leases), (error) => isStratalogError(error, 'conflict'))
    server.expire(one.zk.sessionId)
    assert.ok(isStratalogError(lease.lost.reason, 'lease_lost'))
    const next = await take(two.leases, 1_000)
    assert.ok(next.epoch > lease.epoch)
    await assert.rejects(one.zk.multi([lease.check, write]), (error) => isStratalogError(error, 'not_found'))
    assert.ok((await take(one.leases).catch(() => null)) === null)
  })

  test('invariant 3: who gives up before the server does leaves nobody in its place until the server does', async () => {
    const { server, one, two } = await begin()
    const lease = await take(one.leases)
    const old = one.zk.sessionId
    server.abandon(old)
    assert.equal(lease.lost.aborted, true)
    const waiting = take(two.leases, 5_000)
    await sleep(20)
    await assert.rejects(take(one.leases), (error) => isStratalogError(error, 'conflict'))
    server.expire(old)
    assert.ok((await waiting).epoch > lease.epoch)
  })

  test('invariant 3: who loses its session between looking and entering leaves no node in its next one', async () => {
    for (const ends of ['abandon', 'expire'] as const) {
      const { server, one, two } = await begin()
      await (await take(two.leases)).release()
      const old = one.zk.sessionId
      // It is told what was there, and its session is over before it goes on.
      const leases = leasesOf(stallingAfter(one.zk, 'children', () => server[ends](old)))
      await assert.rejects(take(leases), (error) => isStratalogError(error) && error.retryable)
      // It lives on in another session, and neither it nor anybody else is kept out.
      await (await take(two.leases)).release()
      await (await take(leases)).release()
      assert.notEqual(one.zk.sessionId, old)
    }
  })

  test('who loses its session after entering takes its node away before the server ends the session', async () => {
    const { server, one, two } = await begin()
    const old = one.zk.sessionId
    // Entered, and lost before it was granted.
    server.fault = ({ op, sessionId }) => {
      if (op === 'multi' && sessionId === old) server.abandon(old)
      return null
    }
    await assert.rejects(take(one.leases), (error) => isStratalogError(error))
    server.fault = null
    assert.ok((await take(two.leases, 2_000)).epoch > 0n)
  })

  test('invariant 3: who stands still between any two calls, until its session is over, keeps nobody out', async () => {
    for (const ends of ['abandon', 'expire'] as const)
      for (let at = 1; ; at += 1) {
        const { server, one, two } = await begin()
        await (await take(two.leases)).release()
        const old = one.zk.sessionId
        let calls = 0
        const standing = new Proxy(one.zk, {
          get: (target, name) => {
            const method: unknown = target[name as keyof ZooKeeper]
            if (typeof method !== 'function') return method
            return async (...args: unknown[]) => {
              const answer: unknown = await method.apply(target, args)
              calls += 1
              if (calls === at) server[ends](old)
              return answer
            }
          },
        })
        const leases = leasesOf(standing)
        const lease = await take(leases).catch((error: unknown) => {
          assert.ok(isStratalogError(error), String(error))
          return null
        })
        const stood = calls >= at
        if (lease !== null) {
          assert.equal(lease.lost.aborted, stood)
          await lease.release()
          // The server has its node until it ends the session: then nobody else has it too early.
          server.expire(old)
        }
        await (await take(two.leases, 2_000)).release()
        await (await take(leases, 2_000)).release()
        if (!stood) {
          assert.ok(at > 3, `only ${at} calls`)
          break
        }
      }
  })

  test('invariant 11: who asks again and again for a lease that another keeps leaves no watch behind', async () => {
    const { server, one, two } = await begin()
    const lease = await take(one.leases)
    await until(() => server.watches > 0)
    const before = server.watches
    for (let i = 0; i < 5; i++)
      await assert.rejects(take(two.leases, 10), (error) => isStratalogError(error, 'conflict'))
    await until(() => server.watches === before)
    await lease.release()
  })

  test('a lease whose node somebody deletes is lost', async () => {
    const { one, two } = await begin()
    const lease = await take(one.leases)
    await two.zk.delete(lease.check.path, -1)
    for (let i = 0; i < 50 && !lease.lost.aborted; i++) await sleep(5)
    assert.ok(isStratalogError(lease.lost.reason, 'lease_lost'))
    await take(two.leases)
  })

  test('what rejects holds nothing soon after, whichever answer was lost', async () => {
    for (let nth = 0; nth < 8; nth++) {
      for (const fault of ['lost-answer', 'lost-request', 'expire'] as const) {
        const { server, one, two } = await begin()
        let count = 0
        server.fault = ({ sessionId }) => (sessionId === one.zk.sessionId && count++ === nth ? fault : null)
        const lease = await take(one.leases).catch(() => null)
        server.fault = null
        // Released, or never had: the other one gets it.
        if (lease !== null) await lease.release()
        const next = await take(two.leases, 2_000)
        assert.ok(next.epoch > (lease?.epoch ?? 0n), `${fault} ${nth}`)
        await one.leases.close()
        await two.leases.close()
      }
    }
    assert.ok(clock.nowMs() > 0)
  })
})
