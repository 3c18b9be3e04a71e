import assert from 'node:assert/strict'
import { once } from 'node:events'
import type http from 'node:http'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { hdfsArchive } from '../../../archive/hdfs/engine.js'
import { isStratalogError } from '../../../src/model/errors.js'
import type { ArchiveStore, ReadInOrder } from '../../../src/ports/archive-store.js'
import { bodyOf } from '../../helpers/archive.js'
import { networkContext } from '../engines/network-context.js'
import { FakeHdfs, someBytes, type Twist } from './fake-hdfs.js'

const QUICK = { namenodeTimeoutMs: 1000, readTimeoutMs: 300, writeTimeoutMs: 500, user: 'tester' }

/** An archive with one object `a/b` of those bytes. */
async function withObject(
  data: Buffer,
  run: (fake: FakeHdfs, store: ArchiveStore) => Promise<void>,
): Promise<void> {
  const fake = await FakeHdfs.start()
  const store = await hdfsArchive(`hdfs://${fake.host}/archive`, QUICK).open(networkContext())
  try {
    await store.putIfAbsent('a/b', bodyOf(data))
    await run(fake, store)
  } finally {
    await store.close()
    await fake.close()
  }
}

function inOrder(store: ArchiveStore, lengthBytes: number, key = 'a/b', signal?: AbortSignal): ReadInOrder {
  const reading = store.readInOrder?.(key, 0, lengthBytes, signal)
  assert.ok(reading !== undefined)
  return reading
}

async function readsAs(data: Buffer, from: number, pieceBytes: number, reading: ReadInOrder): Promise<void> {
  for (let at = from; at < data.length; at += pieceBytes) {
    const piece = data.subarray(at, at + pieceBytes)
    assert.ok(piece.equals(await reading.next(piece.length)), `what is at ${at}`)
  }
}

const isOpen: (op: string, data: boolean) => boolean = (op, data) => op === 'OPEN' && data
const opens = (fake: FakeHdfs): number => fake.seen.filter(({ op, data }) => isOpen(op, data)).length
const blamed = (fake: FakeHdfs): boolean => fake.ops().includes('GET_BLOCK_LOCATIONS')

test('pieces in order are one request, and what nobody takes stays with who sends it', async () => {
  const data = someBytes(40_000_000)
  await withObject(data, async (fake, store) => {
    let finished = false
    fake.twist = (seen, response) => {
      if (isOpen(seen.op, seen.data))
        response.once('finish', () => {
          finished = true
        })
      return false
    }
    const reading = inOrder(store, data.length)
    assert.ok(data.subarray(0, 1000).equals(await reading.next(1000)))
    await sleep(100)
    assert.ok(!finished, 'bounded by what the sockets take')
    await readsAs(data, 1000, 999_900, reading)
    reading.close()
    assert.equal(opens(fake), 1)
  })
})

test('a connection that is closed while it rests is made again, and nobody is blamed for it', async () => {
  const data = someBytes(20_000_000)
  await withObject(data, async (fake, store) => {
    const resting: http.ServerResponse[] = []
    fake.twist = (seen, response) => {
      if (isOpen(seen.op, seen.data)) resting.push(response)
      return false
    }
    const reading = inOrder(store, data.length)
    await reading.next(1000)
    resting.pop()?.destroy()
    await sleep(50)
    await readsAs(data, 1000, data.length - 1000, reading)
    reading.close()
    assert.equal(opens(fake), 2)
    assert.ok(!blamed(fake))
  })
})

test('pieces come whole where answers are cut, stand still, are refused, or of another length', async () => {
  const data = someBytes(3_000_000)
  await withObject(data, async (fake, store) => {
    const octets = { 'content-type': 'application/octet-stream' }
    const whole = { ...octets, 'content-length': data.length }
    const half = data.subarray(0, 1_500_000)
    const answers: Twist[] = [
      (_, response) => {
        response.writeHead(200, whole).write(half)
        setTimeout(() => response.destroy(), 20)
        return true
      },
      (_, response) => response.writeHead(200, whole).write(half) || true,
      (_, response) => response.writeHead(503).end() !== undefined,
      (_, response) => response.writeHead(200, octets).end('short') !== undefined,
      (_, response) => response.writeHead(200, { 'content-type': 'text/html' }).end('<p>') !== undefined,
    ]
    for (const [i, answer] of answers.entries()) {
      let left = 1
      fake.twist = (seen, response) =>
        isOpen(seen.op, seen.data) && left-- > 0 ? answer(seen, response) : false
      const reading = inOrder(store, data.length)
      await readsAs(data, 0, 1_000_000, reading)
      reading.close()
      assert.ok(left < 1, `answer ${i} was given`)
    }
    assert.ok(blamed(fake))
  })
})

test('a read in order that is let go of, or whose caller gives up, keeps no connection', async () => {
  const data = someBytes(40_000_000)
  await withObject(data, async (fake, store) => {
    const closed: Promise<unknown>[] = []
    fake.twist = (seen, response) => {
      if (isOpen(seen.op, seen.data)) closed.push(once(response, 'close'))
      return false
    }
    const left = inOrder(store, data.length)
    await left.next(10)
    left.close()
    const ending = new AbortController()
    const given = inOrder(store, data.length, 'a/b', ending.signal)
    await given.next(10)
    const waiting = given.next(data.length - 10)
    ending.abort(new Error('enough'))
    await assert.rejects(waiting, /enough/)
    await Promise.all(closed)
    assert.equal(closed.length, 2)
    given.close()
  })
})

test('an object that is not there is not found, of an archive that is there', () =>
  withObject(someBytes(1), async (fake, store) => {
    await assert.rejects(inOrder(store, 10, 'a/gone').next(10), (e) =>
      isStratalogError(e, 'object_not_found'),
    )
    fake.files.delete('/archive/stratalog-archive.json')
    await assert.rejects(inOrder(store, 10, 'a/gone').next(10), (e) => isStratalogError(e, 'archive_missing'))
  }))
