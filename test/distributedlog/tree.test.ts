import assert from 'node:assert/strict'
import { afterEach, beforeEach, describe, test } from 'node:test'
import { readBinding } from '../../src/metadata/distributedlog/binding.js'
import { decodeFrontier } from '../../src/metadata/distributedlog/frontier.js'
import { ENDED_TXID } from '../../src/metadata/distributedlog/tree.js'
import { present } from '../../src/model/assert.js'
import { Dlsn } from '../../src/model/dlsn.js'
import { isStratalogError, StratalogError } from '../../src/model/errors.js'
import type { SegmentRow, StreamRow } from '../../src/model/segment.js'
import type { ZooKeeper } from '../../src/zookeeper/client.js'
import {
  archiving,
  newStream,
  openRow,
  sealedSegments,
  sealing,
  writableStream,
} from '../contract/segment-rows.js'
import type { ZkFault } from '../helpers/zookeeper-memory.js'
import { BINDING, NAMESPACE, World } from './helpers.js'

const ROOT = `${NAMESPACE}/s1/<default>`
const LEDGERS = `${ROOT}/ledgers`
const text = (value: string) => new TextEncoder().encode(value)
const code = (expected: string) => (error: unknown) => isStratalogError(error) && error.code === expected

/** What Java wrote (the dump of a real tree after three rolls and a truncation). */
const JAVA: readonly (readonly [string, string])[] = [
  ['', ''],
  ['/allocation', ''],
  ['/ledgers', '3'],
  ['/ledgers/logrecs_000000000000000001', '12884901893;0;1;3;1795324078371;1;4;0;0;0;0'],
  ['/ledgers/logrecs_000000000000000002', '12884901893;1;101;103;1795324078573;2;4;0;0;0;3'],
  ['/ledgers/logrecs_000000000000000003', '12884901893;2;201;203;1795324078667;3;4;0;0;0;6'],
  ['/lock', ''],
  ['/maxtxid', '203'],
  ['/readLock', ''],
]

async function javaStream(world: World, nodes = JAVA): Promise<void> {
  const zk = await world.server.open()
  await zk.create(`${NAMESPACE}/s1`, text(''))
  for (const [path, data] of nodes) await zk.create(`${ROOT}${path}`, text(data))
  await zk.create(`${ROOT}/version`, Uint8Array.of(0xff, 0xff, 0xff, 0xff))
  for (let ledger = 0n; ledger < 6n; ledger += 1n)
    world.ledgers.set(ledger, { lastEntryId: 6n, lengthBytes: 280n })
  await zk.close()
}

/** As Java rolls: the next segment begins before the one before is completed. */
async function javaMulti(
  world: World,
  ops: readonly (readonly ['create' | 'set', string, string] | readonly ['delete', string])[],
): Promise<void> {
  const zk = await world.server.open()
  await zk.multi(
    ops.map(([op, path, data = '']) => {
      const at = `${ROOT}/${path}`
      if (op === 'create') return { op, path: at, data: text(data) }
      if (op === 'set') return { op, path: at, data: text(data), version: -1 }
      return { op, path: at, version: -1 }
    }),
  )
  await zk.close()
}

const frontierOf = (world: World, name: string) => {
  const path = `/stratalog/v1/${encodeURIComponent(NAMESPACE)}/${encodeURIComponent(name)}`
  const node = world.server.dump().get(path)
  return node === undefined ? null : decodeFrontier(node.data, path)
}

/** What the archive's names say of an archived row. */
function coldOf(row: SegmentRow): SegmentRow {
  return { ...row, state: 'cold', ledgerId: null, epoch: 0n, openedMs: row.sealedMs ?? 0, version: 0 }
}

let world: World
beforeEach(async () => {
  world = new World()
  await world.bind()
})
afterEach(() => world.remove())

async function streamNamed(zkIndex: { streamByName(name: string): Promise<StreamRow | null> }, name: string) {
  return present(await zkIndex.streamByName(name), name)
}

describe("streams in DistributedLog's tree", () => {
  test('a stream is created as Java creates it, in one multi with its frontier', async () => {
    const { index } = await world.process()
    const calls = world.server.calls
    await index.createStream(newStream('s1'))
    assert.ok(world.server.calls > calls)
    assert.deepEqual(world.dump(`${NAMESPACE}/s1`), [
      `${NAMESPACE}/s1\tver=0\ttext:`,
      `${ROOT}\tver=0\ttext:`,
      `${ROOT}/allocation\tver=0\ttext:`,
      `${LEDGERS}\tver=0\ttext:0`,
      `${ROOT}/lock\tver=0\ttext:`,
      `${ROOT}/maxtxid\tver=0\ttext:0`,
      `${ROOT}/readLock\tver=0\ttext:`,
      `${ROOT}/version\tver=0\thex:ffffffff`,
    ])
    assert.equal(frontierOf(world, 's1')?.name, 's1')
  })

  test('a roll leaves what Java leaves', async () => {
    const { index } = await world.process()
    const { incarnation } = await writableStream(index, 's1')
    for (const [segment, txid] of [
      [1n, 1n],
      [2n, 101n],
      [3n, 201n],
    ] as const) {
      const row = { ledgerId: segment - 1n, firstTxid: txid, startSequenceId: (segment - 1n) * 3n }
      const begun = await index.beginSegment(openRow(incarnation, segment, row))
      if (segment === 3n) {
        const open = world.dump(LEDGERS).find((line) => line.includes('inprogress'))
        assert.equal(open, `${LEDGERS}/inprogress_000000000000000003\tver=0\ttext:5;2;201;3;0;0;-1`)
      }
      await index.updateSegment(begun, {
        state: 'sealed',
        lastTxid: txid + 2n,
        lastEntryId: 4n,
        lastSlot: 0n,
        recordCount: 3n,
        lengthBytes: 280,
        sealedMs: [1795324078371, 1795324078573, 1795324078667][Number(segment) - 1] ?? 0,
      })
    }
    assert.deepEqual(world.dump(LEDGERS), [
      `${LEDGERS}\tver=6\ttext:3`,
      ...JAVA.slice(3, 6).map(([path, data]) => `${ROOT}${path}\tver=0\ttext:${data}`),
    ])
    assert.deepEqual(world.dump(`${ROOT}/maxtxid`), [`${ROOT}/maxtxid\tver=3\ttext:203`])
    // Once each segment: a Java writer that took a ledger from it can't use it any more.
    assert.deepEqual(world.dump(`${ROOT}/allocation`), [`${ROOT}/allocation\tver=3\ttext:`])
  })

  test('a nested name, and one below another stream', async () => {
    const { index } = await world.process()
    await index.createStream(newStream('a/b/c'))
    await index.createStream(newStream('a'))
    const other = await world.process()
    assert.deepEqual(
      (await other.index.listStreams('', 10)).map(({ name }) => name),
      ['a', 'a/b/c'],
    )
    const above = await streamNamed(index, 'a')
    await index.deleteStream(above.incarnation, above.version, 5)
    assert.notEqual(await index.streamByName('a/b/c'), null)
  })

  test('a writer that is behind begins nothing (invariant 3): txid, number, ended stream', async () => {
    const { index } = await world.process()
    const stream = await writableStream(index, 's1')
    const { incarnation } = stream
    await sealedSegments(index, incarnation, 1)
    const begin = (over: Partial<SegmentRow>) => index.beginSegment(openRow(incarnation, 2n, over))
    await assert.rejects(begin({ firstTxid: 108n }), code('txid_not_monotonic'))
    await index.updateStream(incarnation, stream.version, { finishedMs: 9 })
    assert.deepEqual(world.dump(`${ROOT}/maxtxid`), [`${ROOT}/maxtxid\tver=2\ttext:${ENDED_TXID}`])
    await assert.rejects(begin({ firstTxid: 200n }), code('stream_finished'))
  })

  test('a writer of another process that took over is in the way (invariant 3)', async () => {
    const one = await world.process()
    const stream = await writableStream(one.index, 's1')
    const two = await world.process()
    const { incarnation, version } = await streamNamed(two.index, 's1')
    await two.index.updateStream(incarnation, version, { epoch: stream.epoch + 1n })
    await assert.rejects(
      one.index.beginSegment(openRow(incarnation, 1n, { firstTxid: 1n })),
      code('conflict'),
    )
    await assert.rejects(one.index.updateStream(incarnation, stream.version, { epoch: 9n }), code('conflict'))
    await two.index.beginSegment(openRow(incarnation, 1n, { epoch: 2n, firstTxid: 1n }))
    assert.equal((await one.index.newestSegment(incarnation))?.segment, 1n)
  })
})

describe('a stream that Java made', () => {
  test('has rows, and the same incarnation in every process, without a node of ours', async () => {
    await javaStream(world)
    const one = await world.process()
    const two = await world.process()
    const stream = await streamNamed(one.index, 's1')
    assert.deepEqual(await two.index.streamByName('s1'), stream)
    assert.equal(stream.txidMode, 'custom')
    assert.equal(frontierOf(world, 's1'), null)
    const rows = await one.index.listSegments(stream.incarnation, 0n, 10)
    assert.deepEqual(
      rows.map((row) => [
        row.segment,
        row.state,
        row.firstTxid,
        row.lastTxid,
        row.recordCount,
        row.startSequenceId,
      ]),
      [
        [1n, 'sealed', 1n, 3n, 3n, 0n],
        [2n, 'sealed', 101n, 103n, 3n, 3n],
        [3n, 'sealed', 201n, 203n, 3n, 6n],
      ],
    )
    // To the ledger's end: control records behind the last user record are copied too.
    assert.deepEqual([rows[0]?.lastEntryId, rows[0]?.lengthBytes], [6n, 280])
    await assert.rejects(one.index.createStream(newStream('s1')), code('stream_exists'))
  })

  test('what Java does while we look shows in the rows: roll, two in progress, end of stream', async () => {
    await javaStream(world)
    const { index } = await world.process()
    const { incarnation } = await streamNamed(index, 's1')
    const begin = (n: string, ledger: number) =>
      javaMulti(world, [
        ['create', `ledgers/inprogress_00000000000000000${n}`, `5;${ledger};300;${n};0;0;-1`],
        ['set', 'ledgers', n],
      ])
    await begin('4', 3)
    assert.equal((await index.newestSegment(incarnation))?.state, 'open')
    await begin('5', 4)
    assert.equal((await index.newestSegment(incarnation))?.segment, 5n)
    await javaMulti(world, [
      ['create', 'ledgers/logrecs_000000000000000004', '8589934597;3;300;301;1795324079000;4;2;0;0;0;9'],
      ['delete', 'ledgers/inprogress_000000000000000004'],
      ['set', 'maxtxid', '301'],
    ])
    assert.deepEqual(
      (await index.listSegments(incarnation, 4n, 9)).map((row) => [
        row.state,
        row.startSequenceId,
        row.recordCount,
      ]),
      [
        ['sealed', 9n, 2n],
        ['open', 11n, 0n],
      ],
    )
    await javaMulti(world, [['delete', 'ledgers/inprogress_000000000000000005']])
    assert.equal((await index.newestSegment(incarnation))?.segment, 4n)
    await javaMulti(world, [
      ['set', 'maxtxid', `${ENDED_TXID}`],
      ['set', 'ledgers', '5'],
      ['create', 'ledgers/inprogress_000000000000000005', '5;5;302;5;0;0;-1'],
    ])
    assert.equal((await index.segment(incarnation, 5n))?.ledgerId, 5n)
    assert.notEqual((await index.stream(incarnation))?.finishedMs, null)
  })

  test('a purge that was there first is a gap with its reason; what was archived before it is cold', async () => {
    await javaStream(world)
    const { index } = await world.process()
    const { incarnation } = await streamNamed(index, 's1')
    const first = present(await index.segment(incarnation, 1n), 'row')
    const archived = await index.updateSegment(first, archiving(1n))
    assert.equal(frontierOf(world, 's1')?.archivedThrough, 1n)
    world.cold.set(incarnation, [coldOf(archived)])
    const late = await index.segment(incarnation, 2n)
    await javaMulti(world, [
      ['delete', 'ledgers/logrecs_000000000000000001'],
      ['delete', 'ledgers/logrecs_000000000000000002'],
    ])
    const rows = await index.listSegments(incarnation, 0n, 9)
    assert.deepEqual(
      rows.map((row) => [row.state, row.gapReason, row.ledgerId]),
      [
        ['cold', undefined, null],
        ['gap', 'purged', 1n],
        ['sealed', undefined, 2n],
      ],
    )
    // The copy that came too late commits nothing.
    await assert.rejects(index.updateSegment(present(late, 'row'), archiving(2n)), code('conflict'))
    // Without the cache the same comes out, but for the ledger's number.
    const anew = await world.process()
    assert.deepEqual(
      (await anew.index.listSegments(incarnation, 0n, 9)).map((row) => [
        row.segment,
        row.state,
        row.gapReason,
      ]),
      rows.map((row) => [row.segment, row.state, row.gapReason]),
    )
  })

  test('a truncation is told, and no row is lost by it', async () => {
    await javaStream(world)
    const { index } = await world.process()
    const { incarnation } = await streamNamed(index, 's1')
    await javaMulti(world, [
      ['delete', 'ledgers/logrecs_000000000000000001'],
      ['create', 'ledgers/logrecs_000000000000000001', '12884902405;0;1;3;1795324078371;1;4;0;0;0;0'],
      ['delete', 'ledgers/logrecs_000000000000000002'],
      ['create', 'ledgers/logrecs_000000000000000002', '12884902149;1;101;103;1795324078573;2;4;0;2;0;3'],
    ])
    assert.deepEqual(await index.truncatedBelow(incarnation), new Dlsn(2n, 2n, 0n))
    assert.equal((await index.listHotSegments(incarnation, 9)).length, 3)
  })

  test('one that is purged from its beginning begins where it does', async () => {
    await javaStream(world)
    await javaMulti(world, [['delete', 'ledgers/logrecs_000000000000000001']])
    const { index } = await world.process()
    const stream = await streamNamed(index, 's1')
    assert.deepEqual(stream.trimmedBelow, new Dlsn(2n, 0n, 0n))
    assert.equal((await index.oldestSegment(stream.incarnation))?.segment, 2n)
  })
})

describe('a stream that Java deletes and makes anew', () => {
  const FRONTIER = `/stratalog/v1/${encodeURIComponent(NAMESPACE)}/s1`

  async function remove(): Promise<void> {
    const zk = await world.server.open()
    const paths = [...world.server.dump().keys()].filter((path) => path.startsWith(`${NAMESPACE}/s1`))
    for (const path of paths.reverse()) await zk.delete(path, -1)
    await zk.close()
  }
  /** The same numbers, other ledgers. */
  async function again(): Promise<void> {
    await remove()
    const segments = JAVA.map(([path, data]) => {
      const segment = Number(path.split('logrecs_')[1] ?? 0)
      if (segment === 0) return [path, data] as const
      const fields = `${segment}01;${segment}03;1795324078667;${segment};4;0;0;0;0`
      return [path, `12884901893;${segment + 2};${fields}`] as const
    })
    await javaStream(world, segments)
  }
  async function archived() {
    await javaStream(world)
    const process = await world.process()
    const { incarnation } = await streamNamed(process.index, 's1')
    const first = present(await process.index.segment(incarnation, 1n), 'row')
    const row = await process.index.updateSegment(first, archiving(1n))
    world.cold.set(incarnation, [coldOf(row)])
    return { ...process, incarnation, row }
  }

  test('with a frontier nothing of either is read, changed or freed, by nobody (invariants 1, 4 and 8)', async () => {
    const { index, incarnation, row, file, stop } = await archived()
    await again()
    const before = world.dump(`${NAMESPACE}/s1`)
    await assert.rejects(index.streamByName('s1'), code('stream_replaced'))
    await assert.rejects(
      index.updateSegment(row, { state: 'cold', evictedMs: 5 }),
      (error) => isStratalogError(error, 'stream_replaced') && error.message.includes(incarnation),
    )
    await stop()
    for (const at of [undefined, file]) {
      const other = await world.process({}, at)
      await assert.rejects(other.index.streamByName('s1'), code('stream_replaced'))
      await assert.rejects(other.index.createStream(newStream('s1')), code('stream_replaced'))
      await other.index.createStream(newStream(`beside-${at === file}`))
      await other.stop()
    }
    assert.deepEqual(world.dump(`${NAMESPACE}/s1`), before)
    // As the message says.
    const zk = await world.server.open()
    await zk.delete(FRONTIER, -1)
    const { index: anew } = await world.process({}, file)
    const stream = await streamNamed(anew, 's1')
    assert.notEqual(stream.incarnation, incarnation)
    const rows = await anew.listSegments(stream.incarnation, 0n, 9)
    assert.deepEqual(
      rows.map((one) => [one.segment, one.state, one.ledgerId]),
      [1n, 2n, 3n].map((segment) => [segment, 'sealed', segment + 2n]),
    )
    await zk.close()
  })

  test('one of ours that was never changed since it was made is told apart as well', async () => {
    const { index } = await world.process()
    await index.createStream(newStream('s1'))
    assert.equal((await streamNamed(index, 's1')).name, 's1')
    await again()
    await assert.rejects(index.streamByName('s1'), code('stream_replaced'))
    // What has no stream may be its: that is not known, until it can be read again.
    const nobody = 'f'.repeat(32)
    await assert.rejects(index.stream(nobody), code('stream_replaced'))
    const zk = await world.server.open()
    await zk.delete(FRONTIER, -1)
    await zk.close()
    await streamNamed(index, 's1')
    assert.equal(await index.stream(nobody), null)
  })

  test('without one it is another stream, whatever its nodes look like', async () => {
    await javaStream(world)
    const { index } = await world.process()
    const before = await streamNamed(index, 's1')
    await again()
    const after = await streamNamed(index, 's1')
    assert.notEqual(after.incarnation, before.incarnation)
    const rows = await index.listSegments(after.incarnation, 0n, 9)
    assert.deepEqual(
      rows.map(({ ledgerId }) => ledgerId),
      [3n, 4n, 5n],
    )
  })

  test('a node with another ledger than the row that is given up stays: nobody may have copied it (invariant 4)', async () => {
    const { index, incarnation } = await archived()
    await index.setPolicyOverride(incarnation, '{}')
    const { data } = present(world.server.dump().get(FRONTIER), 'frontier')
    const zk = await world.server.open()
    await zk.delete(FRONTIER, -1)
    await again()
    // Filled anew from a copy, and made anew by Java before anything of ours was written.
    await zk.create(FRONTIER, data)
    await zk.close()
    const row = present(await index.segment(incarnation, 1n), 'segment 1')
    const nodes = world.dump(LEDGERS)
    await assert.rejects(index.updateSegment(row, { state: 'cold', evictedMs: 5 }), code('conflict'))
    const second = present(await index.segment(incarnation, 2n), 'segment 2')
    await assert.rejects(index.updateSegment(second, archiving(2n)), code('conflict'))
    assert.deepEqual(world.dump(LEDGERS), nodes)
  })

  test('a ZooKeeper that was filled anew is none: the frontier was made anew with the tree', async () => {
    for (const frontierFirst of [false, true]) {
      const { index, incarnation } = await archived()
      await index.setPolicyOverride(incarnation, '{}')
      const { data } = present(world.server.dump().get(FRONTIER), 'frontier')
      const zk = await world.server.open()
      await remove()
      await zk.delete(FRONTIER, -1)
      if (frontierFirst) await zk.create(FRONTIER, data)
      await javaStream(world)
      if (!frontierFirst) await zk.create(FRONTIER, data)
      assert.equal((await streamNamed(index, 's1')).incarnation, incarnation)
      // From the next change on its place is this one.
      await index.setPolicyOverride(incarnation, '{"hot":{}}')
      assert.equal((await streamNamed(index, 's1')).incarnation, incarnation)
      await again()
      await assert.rejects(index.streamByName('s1'), code('stream_replaced'))
      await remove()
      await zk.delete(FRONTIER, -1)
      await zk.close()
    }
  })
})

describe('giving up hot copies', () => {
  /** Segments 1 to 3, archived. */
  async function archivedStream() {
    const process = await world.process()
    const { index } = process
    const { incarnation } = await writableStream(index, 's1')
    const rows: SegmentRow[] = []
    for (const row of await sealedSegments(index, incarnation, 3))
      rows.push(await index.updateSegment(row, archiving(row.segment)))
    world.cold.set(incarnation, rows.map(coldOf))
    return { ...process, incarnation, rows }
  }
  const names = () =>
    world
      .dump(`${LEDGERS}`)
      .slice(1)
      .map((line) => line.slice(LEDGERS.length + 1).split('\t'))

  test('the tree stays contiguous and keeps its newest; a ledger is never forgotten', async () => {
    const { index, incarnation, rows } = await archivedStream()
    const [first, second, third] = rows
    assert.ok(first && second && third)
    // Not the oldest: its node has to stay, marked as truncated.
    const cold = await index.updateSegment(second, { state: 'cold', evictedMs: 5 })
    assert.deepEqual(
      names().map(([name]) => name),
      [1, 2, 3].map((n) => `logrecs_${`${n}`.padStart(18, '0')}`),
    )
    assert.match(names()[1]?.[2] ?? '', /^text:42949673477;/)
    assert.deepEqual(frontierOf(world, 's1')?.copies, [{ segment: 2n, ledgerId: 1002n, untilMs: null }])
    // Another process, with no cache, owes the deletion as well.
    const other = await world.process()
    assert.deepEqual(
      (await other.index.segmentsOwing(9)).map((row) => [row.segment, row.ledgerId]),
      [[2n, 1002n]],
    )
    await index.updateSegment(cold, { ledgerId: null })
    assert.deepEqual(frontierOf(world, 's1')?.copies, [])
    assert.deepEqual(await other.index.segmentsOwing(9), [])
    await index.updateSegment(first, { state: 'cold', evictedMs: 6 })
    assert.equal(names().length, 1)
    await index.updateSegment(third, { state: 'cold', evictedMs: 7 })
    assert.deepEqual(frontierOf(world, 's1')?.hollow, [3n])
    assert.equal(names().length, 1)
    const anew = await world.process()
    assert.deepEqual(
      (await anew.index.listSegments(incarnation, 0n, 9)).map(({ state }) => state),
      ['cold', 'cold', 'cold'],
    )
    await anew.index.beginSegment(openRow(incarnation, 4n, { firstTxid: 900n }))
  })

  test('what is cold takes no place in ZooKeeper', async () => {
    const { index, incarnation, rows } = await archivedStream()
    for (const row of rows) {
      const cold = await index.updateSegment(row, { state: 'cold', evictedMs: 5 })
      await index.updateSegment(cold, { ledgerId: null })
    }
    const size = () => [...world.server.dump().values()].reduce((sum, { data }) => sum + data.length, 0)
    const before = size()
    for (let segment = 4n; segment <= 60n; segment += 1n) {
      const begun = await index.beginSegment(openRow(incarnation, segment, { firstTxid: segment * 100n }))
      const sealed = await index.updateSegment(begun, sealing(segment))
      const archived = await index.updateSegment(sealed, archiving(segment))
      world.cold.get(incarnation)?.push(coldOf(archived))
      const cold = await index.updateSegment(archived, { state: 'cold', evictedMs: 5 })
      await index.updateSegment(cold, { ledgerId: null })
    }
    assert.ok(size() - before < 40, `${before} bytes became ${size()}`)
    assert.equal(frontierOf(world, 's1')?.archivedThrough, 60n)
  })

  test('invariant 8: a cold segment whose objects differ is no purged one: who has no row of it is told', async () => {
    const { index, incarnation, rows } = await archivedStream()
    let row = await index.updateSegment(present(rows[0], 'row'), { state: 'cold', evictedMs: 5 })
    row = await index.updateSegment(row, { ledgerId: null })
    const right = world.cold.get(incarnation) ?? []
    const error = new StratalogError('archive_conflict', 'its objects differ in content')
    const differ = right.map((found) => ({ segment: found.segment, error }))
    const states = async (): Promise<string[]> => {
      const { index: anew, stop } = await world.process()
      const found = (await anew.listSegments(incarnation, 0n, 9)).map(({ state }) => state)
      await stop()
      return found
    }
    // Nobody misses what is hot.
    world.cold.set(incarnation, [present(right[0], 'cold'), ...differ.slice(1)])
    assert.deepEqual(await states(), ['cold', 'sealed', 'sealed'])
    world.cold.set(incarnation, differ)
    await assert.rejects(states(), (failure) => isStratalogError(failure, 'archive_conflict'))
    // Who had a row knows which content was committed, and an operator mends it for the others.
    assert.deepEqual(await index.segment(incarnation, 1n), row)
    world.cold.set(incarnation, right)
    assert.deepEqual(await states(), ['cold', 'archived', 'archived'])
  })

  test('a recalled segment stays out of the tree, and is freed again where the cache is lost', async () => {
    const { index, incarnation, rows } = await archivedStream()
    const first = present(rows[0], 'row')
    let row = await index.updateSegment(first, { state: 'cold', evictedMs: 5 })
    row = await index.updateSegment(row, { ledgerId: null })
    row = await index.updateSegment(row, { ledgerId: 77n, recalledUntilMs: 99 })
    row = await index.updateSegment(row, { state: 'archived' })
    const kept = () => index.segment(incarnation, 1n)
    await index.setPolicyOverride(incarnation, '{}')
    assert.deepEqual(await kept(), row)
    const other = await world.process()
    const there = await other.index.segment(incarnation, 1n)
    assert.deepEqual([there?.state, there?.ledgerId], ['cold', 77n])
    row = await index.updateSegment(row, { state: 'cold', recalledUntilMs: null })
    assert.deepEqual(frontierOf(world, 's1')?.copies, [{ segment: 1n, ledgerId: 77n, untilMs: null }])
  })

  test('a deleted stream is gone for all at once, and what it owes is not forgotten', async () => {
    const { index, incarnation, rows } = await archivedStream()
    const stream = await streamNamed(index, 's1')
    await index.beginSegment(openRow(incarnation, 4n, { firstTxid: 900n }))
    await index.deleteStream(incarnation, stream.version, 7)
    assert.equal(await index.streamByName('s1'), null)
    assert.deepEqual(world.dump(`${NAMESPACE}/s1`), [])
    const again = await index.createStream(newStream('s1'))
    assert.notEqual(again.incarnation, incarnation)
    const other = await world.process()
    const owing = await other.index.segmentsOwing(9)
    assert.deepEqual(
      owing.map((row) => [row.state, row.ledgerId]),
      [...rows.map(({ ledgerId }) => ledgerId), 1004n].map((ledgerId) => ['trimmed', ledgerId]),
    )
    await assert.rejects(other.index.removeStream(again.incarnation))
  })

  test('a stream with another writer is not deleted', async () => {
    const { index, zk, incarnation } = await archivedStream()
    await zk.create(`${ROOT}/lock/member_x_s 1_`, text('x'), { ephemeral: true, sequential: true })
    const stream = await streamNamed(index, 's1')
    await assert.rejects(index.deleteStream(incarnation, stream.version, 7), code('conflict'))
    assert.notEqual(await index.streamByName('s1'), null)
  })
})

describe('lost answers, crashes, an unreachable ZooKeeper', () => {
  /** One life of a stream; every change of it is a multi. */
  async function life(index: Awaited<ReturnType<World['process']>>['index']): Promise<void> {
    const stream = await writableStream(index, 's1')
    const { incarnation } = stream
    const [first] = await sealedSegments(index, incarnation, 2)
    const archived = await index.updateSegment(present(first, 'row'), archiving(1n))
    world.cold.set(incarnation, [coldOf(archived)])
    const cold = await index.updateSegment(archived, { state: 'cold', evictedMs: 5 })
    await index.updateSegment(cold, { ledgerId: null })
    await index.removeSegment(await index.beginSegment(openRow(incarnation, 3n, { firstTxid: 300n })))
    const { version } = await streamNamed(index, 's1')
    await index.updateStream(incarnation, version, { finishedMs: 9 })
  }
  const tree = () => world.dump(`${NAMESPACE}/s1`)

  for (const fault of ['lost-answer', 'lost-request'] satisfies ZkFault[]) {
    test(`a ${fault} at each change comes to the same tree, and nothing is done twice`, async () => {
      const undisturbed = await world.process()
      await life(undisturbed.index)
      const expected = tree()
      let multis = 0
      for (let at = 1; ; at += 1) {
        await world.remove()
        world = new World()
        await world.bind()
        const { index } = await world.process()
        multis = 0
        world.server.fault = ({ op }) => {
          if (op !== 'multi') return null
          multis += 1
          return multis === at ? fault : null
        }
        await life(index)
        assert.deepEqual(tree(), expected, `${fault} at multi ${at}`)
        if (multis < at) break
      }
      assert.ok(multis > 8)
    })
  }

  test('a process that dies at any call leaves a tree that the next one goes on from', async () => {
    for (let at = 1; ; at += 1) {
      await world.remove()
      world = new World()
      await world.bind()
      const { index } = await world.process()
      let calls = 0
      world.server.fault = () => {
        calls += 1
        if (calls === at) world.server.down = true
        return null
      }
      const ended = await life(index).then(
        () => true,
        (error: unknown) => {
          if (!(error instanceof StratalogError) || error.code !== 'metadata_unavailable') throw error
          return false
        },
      )
      if (ended) break
      world.server.fault = null
      world.server.down = false
      const next = await world.process()
      const stream = await next.index.streamByName('s1')
      if (stream === null) continue
      const rows = await next.index.listSegments(stream.incarnation, 0n, 9)
      assert.deepEqual(
        rows.map(({ segment }) => segment),
        rows.map((_, index) => BigInt(index) + 1n),
      )
      // Death takes seconds of waiting for an answer each: every sixth call is enough.
      at += 5
    }
  })

  test('lookups go on while ZooKeeper is away, changes say so', async () => {
    const { index } = await world.process()
    const { incarnation } = await writableStream(index, 's1')
    await sealedSegments(index, incarnation, 2)
    world.server.down = true
    assert.equal((await index.newestSegment(incarnation))?.segment, 2n)
    await assert.rejects(
      index.beginSegment(openRow(incarnation, 3n, { firstTxid: 500n })),
      code('metadata_unavailable'),
    )
  })
})

describe('nodes that are not as they must be', () => {
  async function broken(path: string, data: Uint8Array | null): Promise<unknown> {
    await javaStream(world)
    const zk: ZooKeeper = await world.server.open()
    if (data === null) await zk.delete(path, -1)
    else if ((await zk.exists(path)) === null) await zk.create(path, data)
    else await zk.set(path, data, -1)
    const { index } = await world.process()
    // The others are there.
    assert.notEqual(await index.createStream(newStream('s2')), null)
    return index.streamByName('s1').then(
      () => null,
      (error: unknown) => error,
    )
  }
  const frontier = `/stratalog/v1/${encodeURIComponent(NAMESPACE)}/s1`

  for (const [what, path, data, expected] of [
    ['a segment without a readable node', `${LEDGERS}/logrecs_000000000000000003`, text('x'), 'corrupt'],
    [
      'a segment of another number',
      `${LEDGERS}/logrecs_000000000000000009`,
      text(JAVA[3]?.[1] ?? ''),
      'corrupt',
    ],
    ['a node that is no segment', `${LEDGERS}/other`, text(''), 'corrupt'],
    [
      'metadata of a later version',
      `${LEDGERS}/logrecs_000000000000000004`,
      text('6;0;1;2'),
      'version_unsupported',
    ],
    ['a maximum that is no number', LEDGERS, text('many'), 'corrupt'],
    ['no maxtxid', `${ROOT}/maxtxid`, null, 'corrupt'],
  ] as const) {
    test(`${what}: ${expected}`, async () => {
      const error = await broken(path, data)
      assert.ok(isStratalogError(error) && error.code === expected, String(error))
    })
  }

  test('a frontier that is damaged, or of a later release, changes nothing (invariant 8)', async () => {
    const zk = await world.server.open()
    const { index } = await world.process()
    await index.createStream(newStream('s1'))
    const good = present(await zk.get(frontier), 'frontier').data
    for (const [bad, expected] of [
      [text('{"format":2}'), 'version_unsupported'],
      [good.slice(0, 40), 'corrupt'],
      [text('{"format":1}'), 'corrupt'],
    ] as const) {
      await zk.set(frontier, bad, -1)
      const other = await world.process()
      await assert.rejects(other.index.streamByName('s1'), code(expected))
      // Not known is not missing.
      await assert.rejects(other.index.stream('0'.repeat(32)), code(expected))
    }
  })
})

describe('binding', () => {
  test('the binding is found at the path or above it, and another cluster is refused', async () => {
    const zk = await world.server.open()
    const found = await readBinding(zk, `${NAMESPACE}/deeper/still`, 'zk:2181')
    assert.deepEqual(found, { path: NAMESPACE, binding: BINDING })
    assert.equal(await readBinding(zk, '/elsewhere', 'zk:2181'), null)
    await assert.rejects(readBinding(zk, 'no/path', 'zk:2181'), code('config_invalid'))
  })
})

describe('what is read while another process changes it', () => {
  // Invariant 8: half of a change must not look like a purge, and the beginning of a history not move with it.
  test('a segment that is copied and evicted between the two halves of a reading is cold', async () => {
    await javaStream(world)
    const { index } = await world.process()
    const { incarnation } = await streamNamed(index, 's1')
    const zk = await world.server.open()
    const asked = zk.children.bind(zk)
    let evicts = true
    zk.children = async (path, watch) => {
      if (path === LEDGERS && evicts) {
        evicts = false
        const sealed = present(await index.segment(incarnation, 1n), 'segment 1')
        const archived = await index.updateSegment(sealed, archiving(1n))
        world.cold.set(incarnation, [coldOf(archived)])
        await index.updateSegment(archived, { state: 'cold', evictedMs: 1_700_000_000_000 })
      }
      return asked(path, watch)
    }
    const other = await world.process({ zk })
    const stream = await streamNamed(other.index, 's1')
    assert.equal(evicts, false)
    assert.equal(stream.trimmedBelow, null)
    assert.equal((await other.index.segment(incarnation, 1n))?.state, 'cold')
  })
})
