import assert from 'node:assert/strict'
import { Buffer } from 'node:buffer'
import { describe, test } from 'node:test'
import { giveBuffer, takeBuffer } from '../../src/append/entry-buffers.js'
import { entryHeaderBytes, openEntry } from '../../src/format/ledger-digest.js'
import { present } from '../../src/model/assert.js'
import { ManualClock } from '../helpers/manual-clock.js'
import { failure, Gate } from '../helpers/memory-store.js'
import { newLedger, quiet, World } from '../helpers/protocol.js'
import { StreamWorld } from '../helpers/stream-world.js'

const KIB = 1_024

describe('buffers of entries', () => {
  test('large ones are used again, whole, also where a part was given back', () => {
    const first = takeBuffer(100 * KIB)
    giveBuffer(first.subarray(36, 99 * KIB))
    const again = takeBuffer(90 * KIB)
    assert.equal(again.buffer, first.buffer)
    assert.equal(again.length, first.length)
    assert.notEqual(takeBuffer(100 * KIB).buffer, first.buffer, 'it is handed out once')
  })

  test('small ones share a slab, which never comes back: others still use it', () => {
    const [a, b] = [takeBuffer(500), takeBuffer(500)]
    assert.equal(a.buffer, b.buffer)
    assert.ok(a.byteOffset + a.length <= b.byteOffset)
    giveBuffer(a)
    for (let round = 0; round < 200; round += 1) {
      const other = takeBuffer(2 * KIB)
      const overlaps =
        other.buffer === b.buffer &&
        other.byteOffset < b.byteOffset + b.length &&
        b.byteOffset < other.byteOffset + other.length
      assert.equal(overlaps, false)
    }
  })

  test('what waits to be used again is bounded (invariant 11)', () => {
    const taken = Array.from({ length: 300 }, () => takeBuffer(150 * KIB))
    const known = new Set(taken.map(({ buffer }) => buffer))
    for (const one of taken) giveBuffer(one)
    const kept = taken.map(() => takeBuffer(150 * KIB)).filter(({ buffer }) => known.has(buffer)).length
    assert.ok(kept > 50 && kept * 150 * KIB <= 16 * KIB * KIB, `${kept} of ${taken.length} were kept`)
  })

  test('an entry is given back when every store has it, not at its acknowledgement, and not where one failed', async () => {
    const world = new World(new ManualClock(), 3)
    const one = world.process()
    const slow = present(one.stores[2], 'store')
    const gate = new Gate()
    slow.fault = { before: (call) => (call === 'addEntry' ? gate.wait() : undefined) }
    const writer = await newLedger(one.context)
    const told: string[] = []
    const add = (name: string): Buffer => {
      const buffer = Buffer.alloc(entryHeaderBytes('CRC32C') + 10)
      writer.appendTo(buffer, 10, {
        acknowledged: () => told.push(`${name} acknowledged`),
        failed: () => told.push(`${name} failed`),
        released: (bytes) => told.push(bytes === buffer ? `${name} released` : `${name} wrong`),
      })
      return buffer
    }
    add('a')
    await quiet()
    assert.deepEqual(told, ['a acknowledged'])
    gate.release()
    await quiet()
    assert.deepEqual(told, ['a acknowledged', 'a released'])
    add('b')
    await quiet()
    slow.fault = {
      before: (call) => {
        if (call === 'addEntry') throw failure('io_failed', 'broken')
      },
    }
    add('c')
    await quiet()
    gate.open()
    await quiet()
    assert.deepEqual(told.slice(2), ['b acknowledged', 'c acknowledged', 'b released'])
    await writer.close()
    await world.end()
  })

  test('a store far behind the others still gets what was appended, though buffers are used again (invariant 9)', async () => {
    const world = new StreamWorld(new ManualClock())
    const slow = present(world.stores[2], 'store')
    const gate = new Gate()
    slow.fault = { before: (call) => (call === 'addEntry' ? gate.wait() : undefined) }
    const stream = world.stream()
    for (let round = 0; round < 30; round += 1) {
      await stream.append(Buffer.alloc(100 * KIB, round + 1))
      if (round % 3 === 0) gate.release()
    }
    gate.open()
    await quiet()
    const [row] = await world.segments('orders')
    const ledgerId = present(row?.ledgerId, 'ledger')
    const { entries } = slow.replica.ledger(ledgerId)
    assert.equal(entries.size, 30)
    for (const [entryId, bytes] of entries) {
      const { payload } = openEntry(bytes, 'CRC32C', ledgerId, entryId)
      assert.ok(
        Buffer.from(payload)
          .subarray(-100 * KIB)
          .every((byte) => byte === Number(entryId) + 1),
      )
    }
    await world.end()
  })
})
