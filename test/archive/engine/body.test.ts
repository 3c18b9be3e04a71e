import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { setImmediate } from 'node:timers/promises'
import { BodyCutter, BodyRoom, fillWith } from '../../../archive/engine/body.js'
import { crc32c } from '../../../src/format/checksum.js'
import type { ReplayableBody } from '../../../src/ports/archive-store.js'
import { ManualClock } from '../../helpers/manual-clock.js'

const MIB = 1024 * 1024
const { signal } = new AbortController()
const data = Buffer.from(Array.from({ length: 1000 }, (_, i) => i % 251))

/** One buffer for all chunks, spoilt once the next is asked for. */
function body(chunkBytes: number, sizeBytes = data.length): ReplayableBody {
  return {
    sizeBytes,
    async *open() {
      for (let at = 0; at < data.length; at += chunkBytes) {
        const chunk = Buffer.from(data.subarray(at, at + chunkBytes))
        yield chunk
        chunk.fill(0xee)
      }
    },
  }
}

describe('a body in one buffer', () => {
  test('is whole, with its checksum, however it is cut', async () => {
    for (const chunkBytes of [1, 7, 333, 1000, 4096]) {
      const target = Buffer.alloc(data.length)
      assert.equal(await fillWith(body(chunkBytes), target, crc32c, signal), crc32c(data))
      assert.ok(target.equals(data))
    }
  })

  test('of another size than it states is our bug, and no upload', async () => {
    for (const sizeBytes of [999, 1001]) {
      const target = Buffer.alloc(sizeBytes)
      await assert.rejects(fillWith(body(64, sizeBytes), target, crc32c, signal), /bug: a body of/)
    }
  })

  test('cut into parts is the same bytes; parts and chunks need not fit', async () => {
    for (const [chunkBytes, partBytes] of [
      [1, 300],
      [333, 250],
      [1000, 1],
      [64, 128],
    ] as const) {
      const cutter = new BodyCutter(body(chunkBytes))
      const parts: Buffer[] = []
      for (let at = 0; at < data.length; at += partBytes) {
        const part = Buffer.alloc(Math.min(partBytes, data.length - at))
        assert.equal(await cutter.next(part, crc32c, signal), crc32c(part))
        parts.push(part)
      }
      await cutter.end()
      assert.ok(Buffer.concat(parts).equals(data))
    }
  })

  test('cut into parts, one too long or too short is noticed', async () => {
    const long = new BodyCutter(body(64, 900))
    await long.next(Buffer.alloc(900), crc32c, signal)
    await assert.rejects(long.end(), /bug/)
    const short = new BodyCutter(body(64, 1100))
    await assert.rejects(short.next(Buffer.alloc(1100), crc32c, signal), /bug/)
  })
})

describe('memory for bodies (invariant 11)', () => {
  test('is bounded: what does not fit waits, in order, and large buffers are used again', async () => {
    const clock = new ManualClock()
    const room = new BodyRoom(16 * MIB, clock)
    let underWay = 0
    let most = 0
    const buffers = new Set<ArrayBufferLike>()
    const one = (sizeBytes: number) =>
      room.with(sizeBytes, signal, async (buffer, done) => {
        assert.equal(buffer.length, sizeBytes)
        underWay += 1
        most = Math.max(most, underWay)
        buffers.add(buffer.buffer)
        await setImmediate()
        underWay -= 1
        done()
      })
    await Promise.all(Array.from({ length: 12 }, () => one(8 * MIB - 100)))
    assert.equal(most, 2)
    assert.equal(buffers.size, 2)
    await one(100 * MIB)
    assert.ok(clock.pending > 0, 'buffers are kept for a while only')
  })

  test('a buffer that somebody may still read is not used again', async () => {
    const room = new BodyRoom(16 * MIB, new ManualClock())
    let first: ArrayBufferLike | undefined
    await room.with(MIB, signal, async (buffer) => {
      first = buffer.buffer
    })
    await room.with(MIB, signal, async (buffer, done) => {
      assert.notEqual(buffer.buffer, first)
      first = buffer.buffer
      done()
    })
    await room.with(MIB, signal, async (buffer) => assert.equal(buffer.buffer, first))
  })

  test('who is aborted while waiting takes nothing, and lets others pass', async () => {
    const room = new BodyRoom(4 * MIB, new ManualClock())
    let release = (): void => {}
    const held = room.with(2 * MIB, signal, () => new Promise<void>((resolve) => (release = resolve)))
    const abort = new AbortController()
    const large = room.with(4 * MIB, abort.signal, async () => {})
    const small = room.with(MIB, signal, async () => 'small')
    abort.abort(new Error('enough'))
    await assert.rejects(large, /enough/)
    assert.equal(await small, 'small')
    release()
    await held
  })
})
