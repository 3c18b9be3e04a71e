import assert from 'node:assert/strict'
import { afterEach, beforeEach, describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { WriterHub } from '../../src/append/writer-hub.js'
import { DistributedLogLocks, HeldLocks } from '../../src/metadata/distributedlog/locks.js'
import type { DistributedLogIndex } from '../../src/metadata/distributedlog/segment-index.js'
import { ZkCoordination } from '../../src/metadata/zookeeper/coordination.js'
import { present } from '../../src/model/assert.js'
import { isStratalogError } from '../../src/model/errors.js'
import { policyQuorum } from '../../src/model/quorum.js'
import type { StreamRow } from '../../src/model/segment.js'
import type { Coordination } from '../../src/ports/coordination.js'
import { realClock } from '../../src/system/clock.js'
import { realRandom } from '../../src/system/random.js'
import type { ZooKeeper } from '../../src/zookeeper/client.js'
import { TieringAgent } from '../../tiering/agent.js'
import { World as Namespace } from '../distributedlog/helpers.js'
import { policyOf } from '../helpers/plan.js'
import { World } from '../helpers/protocol.js'

/** As short as an age may be. */
const AGE_MS = 1_000
const POLICY = policyOf({ roll: { age: `${AGE_MS}ms` } })

/** A process of ours: a session, writers and an agent. */
interface Process {
  readonly zk: ZooKeeper
  readonly index: DistributedLogIndex
  readonly coordination: Coordination
  readonly hub: WriterHub
  readonly agent: TieringAgent
}

describe('a segment that a writer in another process has open', () => {
  let stores: World
  let namespace: Namespace
  let stops: (() => Promise<unknown>)[] = []
  beforeEach(async () => {
    stores = new World(realClock(), 3)
    namespace = new Namespace({ nowMs: Date.now })
    await namespace.bind()
  })
  afterEach(async () => {
    for (const stop of stops.reverse()) await stop().catch(() => undefined)
    stops = []
    await namespace.remove()
    await stores.end()
  })

  const process = async (clientId: string): Promise<Process> => {
    const { context, metadata: ledgers } = stores.process()
    const ledger = { ...context, digestType: 'CRC32' as const }
    const { clock, logger } = ledger
    const random = realRandom()
    const held = new HeldLocks()
    const { zk, index } = await namespace.process({ ledgers, locks: held })
    const lockPath = (incarnation: string) => index.lockPath(incarnation)
    const others = new ZkCoordination(zk, { root: '/stratalog/v1/leases', clock, random })
    const coordination = new DistributedLogLocks({ zk, clock, logger, clientId, lockPath, held, others })
    const hub = new WriterHub(
      { ledger, index, endRecords: true },
      coordination,
      async () => ({
        policy: () => POLICY.policy,
        quorum: () => policyQuorum(POLICY.policy, 3),
        inFlightBytesMax: 1 << 20,
        takenBytesMax: 1 << 20,
      }),
      true,
    )
    const agent = new TieringAgent({
      ...{ logId: 'log', ledger, index, coordination, random, archive: null, ledgersAreShared: true },
      writers: hub,
      policy: async () => POLICY,
    })
    stops.push(() => coordination.close())
    stops.push(() => hub.close())
    stops.push(() => agent.close())
    return { zk, index, coordination, hub, agent }
  }

  const create = (index: DistributedLogIndex, name: string): Promise<StreamRow> =>
    index.createStream({
      ...{ incarnation: Buffer.from(realRandom().bytes(16)).toString('hex'), name },
      ...{ txidMode: 'custom', createdMs: Date.now(), parent: null },
    })

  const append = async ({ hub }: Process, stream: StreamRow, from: bigint, count: number): Promise<void> => {
    const writer = await hub.writer(stream)
    for (let i = 0n; i < BigInt(count); i += 1n) await writer.append(`${from + i}`, from + i)
  }

  const until = async (reached: () => Promise<boolean>): Promise<void> => {
    for (let tries = 0; !(await reached()); tries += 1) {
      assert.ok(tries < 200, 'it comes')
      await sleep(25)
    }
  }

  const rows = async ({ index }: Process, { incarnation }: StreamRow): Promise<string[]> =>
    (await index.listSegments(incarnation, 0n, 10)).map(
      ({ segment, state, recordCount }) => `${segment} ${state} ${recordCount}`,
    )

  test('is not sealed by who asks: it hears who has it, and nothing is fenced (invariant 3)', async () => {
    const [one, two] = [await process('one'), await process('two')]
    const stream = await create(one.index, 'orders')
    await append(one, stream, 1n, 3)
    await until(async () => (await two.index.newestSegment(stream.incarnation)) !== null)
    await assert.rejects(two.hub.seal(stream, 1n), (error) => {
      assert.ok(isStratalogError(error, 'conflict'))
      assert.match(error.message, /segment 1 of orders is open in one, .* "stratalog segment seal orders"/)
      return error.found === 'one' && error.retryable
    })
    await append(one, stream, 4n, 2)
    await one.hub.seal(stream, 1n)
    assert.deepEqual(await rows(one, stream), ['1 sealed 5'])
  })

  test('is sealed by its age by the process that has it, whoever holds the leases of the stream', async () => {
    const [one, two] = [await process('one'), await process('two')]
    const stream = await create(one.index, 'orders')
    const { incarnation } = stream
    // Another agent is in the middle of something.
    for (const kind of ['sealing', 'tiering'])
      await two.coordination.acquire(`${kind}/${incarnation}`, { holder: 'two', waitMs: 0 })
    // It tiers nothing: an application that leaves that to another process.
    one.agent.followSeals()
    await append(one, stream, 1n, 3)
    one.agent.wake(0)
    await until(async () => (await rows(two, stream))[0] === '1 sealed 3')
    await append(one, stream, 4n, 1)
    assert.deepEqual(await rows(one, stream), ['1 sealed 3', '2 open 0'])
    assert.equal((await one.agent.plans()).length, 1, 'what is asked for is planned in full')
  })

  test('is named by the agent that would seal it; once its writer is gone it is recovered (invariants 1, 3)', async () => {
    const [one, two] = [await process('one'), await process('two')]
    const stream = await create(one.index, 'orders')
    await append(one, stream, 1n, 3)
    await until(async () => (await two.index.newestSegment(stream.incarnation)) !== null)
    const sealOf = async () => (await two.agent.plans())[0]?.actions.find(({ kind }) => kind === 'seal')
    assert.equal(await sealOf(), undefined, 'it is young')
    await sleep(AGE_MS + 50)
    const waits = present(await sealOf(), 'a seal that is due')
    assert.equal(waits.blockedBy, 'writer')
    assert.match(waits.reason, /^age 1\.\ds? ≥ roll\.age 1s, open in one, which seals it$/)
    const left = await two.agent.runOnce()
    assert.deepEqual([left.sealed, left.failed], [0, []])
    await append(one, stream, 4n, 1)
    // It dies, and with its session its lock goes.
    namespace.server.expire(one.zk.sessionId)
    const due = present(await sealOf(), 'a seal that is due')
    assert.deepEqual([due.blockedBy, due.dueMs <= Date.now()], [null, true])
    assert.match(due.reason, /its writer is gone: recover/)
    assert.equal((await two.agent.runOnce()).sealed, 1)
    assert.deepEqual(await rows(two, stream), ['1 sealed 4'])
  })

  test('is left alone where only writers that are not ours ever wrote: they may go without a lock', async () => {
    const [one, two] = [await process('one'), await process('two')]
    const stream = await create(one.index, 'theirs')
    await append(one, stream, 1n, 1)
    await until(async () => (await two.index.newestSegment(stream.incarnation)) !== null)
    namespace.server.expire(one.zk.sessionId)
    await sleep(AGE_MS + 50)
    const index = new Proxy(two.index, {
      get: (target, name) => {
        const value: unknown = Reflect.get(target, name)
        if (name === 'listStreams')
          return async (after: string) =>
            (await target.listStreams(after, 10)).map((row) => ({ ...row, epoch: 0n }))
        return typeof value === 'function' ? value.bind(target) : value
      },
    })
    const agent = new TieringAgent({
      ...{ logId: 'log', ledger: stores.process().context, index, coordination: two.coordination },
      ...{ random: realRandom(), archive: null, ledgersAreShared: true, writers: two.hub },
      policy: async () => POLICY,
    })
    stops.push(() => agent.close())
    assert.deepEqual((await agent.plans())[0]?.actions, [])
  })
})
