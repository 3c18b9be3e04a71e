import assert from 'node:assert/strict'
import { afterEach, beforeEach, describe, test } from 'node:test'
import { decodeFrontier, type Frontier } from '../../src/metadata/distributedlog/frontier.js'
import { DistributedLogLocks, HeldLocks } from '../../src/metadata/distributedlog/locks.js'
import { present } from '../../src/model/assert.js'
import { Dlsn } from '../../src/model/dlsn.js'
import { isStratalogError } from '../../src/model/errors.js'
import { realClock } from '../../src/system/clock.js'
import type { ZooKeeper } from '../../src/zookeeper/client.js'
import { archiving, openRow, sealedSegments, writableStream } from '../contract/segment-rows.js'
import { MemoryZooKeeper } from '../helpers/zookeeper-memory.js'
import { quietLogger } from '../metadata/helpers.js'
import { NAMESPACE, World } from './helpers.js'

const ROOT = `${NAMESPACE}/s1/<default>`
const FRONTIER = `/stratalog/v1/${encodeURIComponent(NAMESPACE)}/s1`
const text = (value: string) => new TextEncoder().encode(value)
const conflict = (error: unknown) => isStratalogError(error, 'conflict') && error.retryable

let world: World
beforeEach(async () => {
  world = new World()
  await world.bind()
})
afterEach(() => world.remove())

const frontier = (): Frontier | null => {
  const node = world.server.dump().get(FRONTIER)
  return node === undefined ? null : decodeFrontier(node.data, FRONTIER)
}

/** A process that hears of `before` right before one of its calls. */
async function interrupted(call: 'sync', before: () => Promise<void>): Promise<ZooKeeper> {
  const zk = await world.server.open()
  return new Proxy(zk, {
    get(target, name) {
      const value: unknown = Reflect.get(target, name)
      if (typeof value !== 'function') return value
      if (name !== call) return value.bind(target)
      return async (...args: unknown[]) => {
        await before()
        return value.apply(target, args)
      }
    },
  })
}

/** Segments 2 and 3 of a stream whose first one Java purged. */
async function purgedStream(): Promise<void> {
  const zk = await world.server.open()
  const nodes = [
    ...[['', ''] as const, ['/allocation', ''] as const, ['/ledgers', '3'] as const],
    ['/ledgers/logrecs_000000000000000002', '12884901893;1;101;103;1795324078573;2;4;0;0;0;3'],
    ['/ledgers/logrecs_000000000000000003', '12884901893;2;201;203;1795324078667;3;4;0;0;0;6'],
    ...[['/lock', ''] as const, ['/maxtxid', '203'] as const, ['/readLock', ''] as const],
  ] as const
  await zk.create(`${NAMESPACE}/s1`, text(''))
  for (const [path, data] of nodes) await zk.create(`${ROOT}${path}`, text(data))
  await zk.create(`${ROOT}/version`, Uint8Array.of(0xff, 0xff, 0xff, 0xff))
  for (const ledger of [1n, 2n]) world.ledgers.set(ledger, { lastEntryId: 6n, lengthBytes: 280n })
  await zk.close()
}

describe('what others do meanwhile', () => {
  test('where history was found to begin stays our own guess: only a trim is written for all (invariant 8)', async () => {
    await purgedStream()
    const { index } = await world.process()
    const stream = present(await index.streamByName('s1'), 's1')
    assert.deepEqual(stream.trimmedBelow, new Dlsn(2n, 0n, 0n))
    const raised = await index.updateStream(stream.incarnation, stream.version, { epoch: stream.epoch + 1n })
    await index.setPolicyOverride(stream.incarnation, '{}')
    assert.equal(frontier()?.trimmedBelow, null)
    assert.deepEqual(raised.trimmedBelow, new Dlsn(2n, 0n, 0n))
    const again = present(await index.stream(stream.incarnation), 's1')
    const trimmedBelow = new Dlsn(3n, 0n, 0n)
    await index.updateStream(stream.incarnation, again.version, { trimmedBelow })
    assert.deepEqual(frontier()?.trimmedBelow, trimmedBelow)
  })

  test('a first copy that was stored when the purge came, and not committed, is no gap (invariants 1 and 2)', async () => {
    await purgedStream()
    const { index } = await world.process()
    const { incarnation } = present(await index.streamByName('s1'), 's1')
    const row = present(await index.oldestSegment(incarnation), 'segment 2')
    world.cold.set(incarnation, [{ ...row, ...archiving(2n), state: 'cold', ledgerId: null, version: 0 }])
    const java = await world.server.open()
    await java.delete(`${ROOT}/ledgers/logrecs_000000000000000002`, -1)
    await java.close()
    assert.equal((await index.segment(incarnation, 2n))?.state, 'cold')
    const third = present(await index.segment(incarnation, 3n), 'segment 3')
    await index.updateSegment(third, archiving(3n))
    assert.equal(frontier()?.archivedThrough, 3n)
  })

  test('a number that an empty segment left to the next one is another segment for who was away (invariant 1)', async () => {
    for (const later of [0, 1]) {
      const [one, two] = [await world.process(), await world.process()]
      const { incarnation } = await writableStream(two.index, `again${later}`)
      const empty = await two.index.beginSegment(openRow(incarnation, 1n, { ledgerId: 2_000n }))
      assert.equal((await one.index.segment(incarnation, 1n))?.ledgerId, 2_000n)
      await one.stop()
      await two.index.removeSegment(empty)
      await sealedSegments(two.index, incarnation, 1 + later)
      const rows = await two.index.listSegments(incarnation, 1n, 10)
      const back = await world.process({}, one.file)
      const seen = (await back.index.listSegments(incarnation, 1n, 10)).map((row) => [
        ...[row.segment, row.state, row.ledgerId, row.lastEntryId, row.recordCount, row.startSequenceId],
      ])
      assert.deepEqual(seen[0], [1n, 'sealed', 1_001n, 4n, 10n, 0n])
      assert.equal(seen.length, rows.length)
    }
  })

  test('a truncation of Java is not undone by a node of ours that was read before it', async () => {
    const other = await world.process()
    const { incarnation } = await writableStream(other.index, 's1')
    const [, second] = await sealedSegments(other.index, incarnation, 3)
    const row = present(second, 'segment 2')
    const path = `${ROOT}/ledgers/logrecs_000000000000000002`
    const java = await world.server.open()
    let truncated = ''
    const zk = await interrupted('sync', async () => {
      if (truncated !== '') return
      const [head = '', ...fields] = Buffer.from(present(await java.get(path), path).data)
        .toString()
        .split(';')
      truncated = [BigInt(head) | 0x200n, ...fields].join(';')
      await java.multi([
        { op: 'delete', path, version: -1 },
        { op: 'create', path, data: text(truncated) },
      ])
    })
    const { index } = await world.process({ zk })
    const seen = present(await index.segment(incarnation, 2n), 'segment 2')
    assert.equal(seen.ledgerId, row.ledgerId)
    await assert.rejects(index.updateSegment(seen, { ledgerId: 99n }), conflict)
    assert.equal(Buffer.from(present(await java.get(path), path).data).toString(), truncated)
    // As it is now it may move, and stays truncated.
    await index.updateSegment(present(await index.segment(incarnation, 2n), 'segment 2'), { ledgerId: 99n })
    assert.equal(
      Buffer.from(present(await java.get(path), path).data)
        .toString()
        .split(';')[1],
      '99',
    )
    assert.deepEqual(await index.truncatedBelow(incarnation), new Dlsn(3n, 0n, 0n))
  })

  test('a hold of another process that comes after the look at the holds refuses the trim (invariants 4 and 8)', async () => {
    const [one, two] = [await world.process(), await world.process()]
    const { incarnation } = await writableStream(one.index, 's1')
    await sealedSegments(one.index, incarnation, 3)
    const looked = present(await one.index.stream(incarnation), 's1')
    assert.deepEqual(await one.index.holds(incarnation), [])
    await two.index.putHold(incarnation, { id: 'case', from: null, until: null, reason: null, atMs: 1 })
    const trimmedBelow = new Dlsn(2n, 0n, 0n)
    await assert.rejects(one.index.updateStream(incarnation, looked.version, { trimmedBelow }), (error) =>
      isStratalogError(error, 'conflict'),
    )
    assert.equal(frontier()?.trimmedBelow, null)
    await two.index.releaseHold(incarnation, 'case', 2)
    const again = present(await one.index.stream(incarnation), 's1')
    await one.index.updateStream(incarnation, again.version, { trimmedBelow })
    assert.deepEqual(frontier()?.trimmedBelow, trimmedBelow)
  })
})

test('a look at the own lock that fails is made again: who lost it hears of it (invariant 3)', async () => {
  const server = new MemoryZooKeeper()
  const [zk, operator] = [await server.open(), await server.open()]
  await zk.create('/lock', new Uint8Array())
  const held = new HeldLocks()
  const locks = new DistributedLogLocks({
    ...{ zk, clock: realClock(), logger: quietLogger(), clientId: 'me', held },
    lockPath: () => Promise.resolve('/lock'),
    others: { acquire: () => Promise.reject(new Error('none')), close: () => Promise.resolve() },
  })
  const lease = await locks.acquire('writer/one', { holder: 'writer', waitMs: 0 })
  const lost = new Promise((resolve) => lease.lost.addEventListener('abort', resolve))
  let failed = 0
  server.fault = ({ op }) => (op === 'exists' && ++failed <= 2 ? 'lost-request' : null)
  await operator.delete(present(held.held('one'), 'node'), -1)
  await lost
  assert.equal(failed, 3)
  assert.equal(held.held('one'), null)
  await locks.close()
  await Promise.all([zk.close(), operator.close()])
})
