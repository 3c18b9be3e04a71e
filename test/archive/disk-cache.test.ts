import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { type DiskBlock, DiskCache } from '../../archive/disk-cache.js'
import { UseQueues } from '../../archive/use-queues.js'
import { present } from '../../src/model/assert.js'
import { memoryLogger } from '../helpers/archive.js'
import { ManualClock } from '../helpers/manual-clock.js'
import { MemoryDisk } from '../helpers/memory-disk.js'

const DIRECTORY = '/log/cache'
const KIB = 1024

function bytesOf(number: number, sizeBytes = 10 * KIB): Buffer {
  return createHash('shake256', { outputLength: sizeBytes }).update(String(number)).digest()
}

function block(number: number, sizeBytes = 10 * KIB): DiskBlock {
  return { key: 'incarnation/s1-key', number, sizeBytes }
}

interface Made {
  readonly disk: MemoryDisk
  readonly clock: ManualClock
  readonly lines: string[]
  open(bytesMax?: number): Promise<DiskCache>
}

function made(): Made {
  const disk = new MemoryDisk()
  const clock = new ManualClock()
  const lines: string[] = []
  const logger = memoryLogger(lines)
  const open = (bytesMax = 1024 * KIB) =>
    DiskCache.open({ disk, clock, logger, directory: DIRECTORY, bytesMax })
  return { disk, clock, lines, open }
}

async function fill(cache: DiskCache, from: number, until: number): Promise<void> {
  for (let number = from; number < until; number += 1) {
    cache.put(block(number), bytesOf(number))
    await cache.settled()
  }
}

describe('disk cache', () => {
  test('keeps what it was given, over a restart, and knows what it does not have', async () => {
    const { open } = made()
    const cache = await open()
    await fill(cache, 0, 5)
    for (let number = 0; number < 5; number += 1)
      assert.deepEqual(await cache.get(block(number)), bytesOf(number))
    assert.equal(await cache.get(block(5)), null)
    assert.equal(cache.has(block(0, 11 * KIB)), false, 'a block of another size is another block')
    await cache.close()
    const again = await open()
    assert.equal(again.sizeBytes, cache.sizeBytes)
    assert.deepEqual(await again.get(block(3)), bytesOf(3))
  })

  test('the bytes given are the caller’s again at once', async () => {
    const { open } = made()
    const cache = await open()
    const bytes = bytesOf(1)
    cache.put(block(1), bytes)
    bytes.fill(0)
    await cache.settled()
    assert.deepEqual(await cache.get(block(1)), bytesOf(1))
  })

  test('invariant 9: any changed byte, any cut and any other block’s file is a miss, and is removed', async () => {
    const { open, disk } = made()
    const cache = await open()
    const small = block(1, 40)
    const other = block(2, 40)
    cache.put(small, bytesOf(1, 40))
    cache.put(other, bytesOf(2, 40))
    await cache.settled()
    const [path, otherPath] = [...disk.files.keys()]
    const whole = Buffer.from(present(disk.files.get(present(path, 'path')), 'file').bytes)
    const damage: Buffer[] = [
      present(disk.files.get(present(otherPath, 'path')), 'file').bytes,
      Buffer.alloc(0),
    ]
    for (let at = 0; at < whole.length; at += 1) {
      const flipped = Buffer.from(whole)
      flipped.writeUInt8(flipped.readUInt8(at) ^ (1 << (at % 8)), at)
      damage.push(flipped, whole.subarray(0, at))
    }
    for (const [at, bytes] of damage.entries()) {
      disk.files.set(present(path, 'path'), { bytes: Buffer.from(bytes), durable: bytes })
      assert.equal(cache.has(small), true)
      assert.equal(await cache.get(small), null, `damage ${at}`)
      await cache.settled()
      assert.equal(disk.files.has(present(path, 'path')), false)
      cache.put(small, bytesOf(1, 40))
      await cache.settled()
      assert.deepEqual(await cache.get(small), bytesOf(1, 40))
    }
    assert.equal(cache.counts.damaged, damage.length)
  })

  test('a crash at any call leaves nothing that is taken for a block and is not one', async () => {
    for (const call of ['open', 'write', 'rename'] as const) {
      for (let number = 1; number < 4; number += 1) {
        const { disk, open } = made()
        const cache = await open()
        let calls = 0
        disk.fail = (one) => {
          if (one === call) calls += 1
          return one === call && calls === number ? 'io_failed' : null
        }
        for (let at = 0; at < 4; at += 1) cache.put(block(at), bytesOf(at))
        await cache.settled()
        assert.equal(cache.counts.failed, 1, `${call} ${number}`)
        // The power fails: what was never synced may be torn anywhere.
        for (const [path, content] of disk.files)
          disk.files.set(path, { ...content, bytes: content.bytes.subarray(0, content.bytes.length / 2) })
        disk.fail = () => null
        const after = await open()
        for (let at = 0; at < 4; at += 1) assert.equal(await after.get(block(at)), null)
        await after.settled()
        assert.deepEqual([...disk.files.keys()], [], 'torn and temporary files are gone')
      }
    }
  })

  test('its directory may be deleted at any time', async () => {
    const { disk, open, lines } = made()
    const cache = await open()
    await fill(cache, 0, 3)
    disk.files.clear()
    disk.directories.delete(DIRECTORY)
    assert.equal(await cache.get(block(1)), null)
    await fill(cache, 1, 2)
    assert.deepEqual(await cache.get(block(1)), bytesOf(1))
    assert.deepEqual(lines, [], 'nothing to complain of')
  })

  test('a disk that fails is left alone for a while, and reads hear nothing of it', async () => {
    const { disk, clock, lines, open } = made()
    const cache = await open()
    await fill(cache, 0, 1)
    disk.fail = () => 'disk_full'
    cache.put(block(1), bytesOf(1))
    await cache.settled()
    assert.equal(await cache.get(block(0)), null)
    cache.put(block(2), bytesOf(2))
    assert.equal(cache.counts.skipped, 1)
    assert.ok(lines.length > 0)
    disk.fail = () => null
    await clock.advance(31_000)
    await fill(cache, 2, 3)
    assert.deepEqual(await cache.get(block(2)), bytesOf(2))
  })

  test('a directory that can not be made is an empty cache', async () => {
    const { disk, open } = made()
    disk.fail = (call) => (call === 'makeDirectory' ? 'access_denied' : null)
    const cache = await open()
    cache.put(block(1), bytesOf(1))
    assert.equal(await cache.get(block(1)), null)
  })

  test('what is read again outlives a scan of any length, and the limit holds', async () => {
    const { open, disk } = made()
    const cache = await open(1024 * KIB)
    await fill(cache, 0, 40)
    for (let number = 0; number < 40; number += 1) await cache.get(block(number))
    for (let number = 1_000; number < 2_000; number += 1) {
      cache.put(block(number), bytesOf(number))
      if (number % 10 === 0) await cache.settled()
      assert.ok(cache.sizeBytes <= 1024 * KIB)
    }
    await cache.settled()
    for (let number = 0; number < 40; number += 1) assert.ok(cache.has(block(number)), `block ${number}`)
    const stored = [...disk.files.values()].reduce((sum, { bytes }) => sum + bytes.length, 0)
    assert.ok(stored <= 1024 * KIB, `${stored} bytes of files`)
  })

  test('a limit that was lowered is kept from the start', async () => {
    const { open, disk } = made()
    const cache = await open()
    await fill(cache, 0, 40)
    await cache.close()
    const less = await open(100 * KIB)
    await less.settled()
    assert.ok(less.sizeBytes <= 100 * KIB)
    assert.ok(disk.files.size <= 10)
  })

  test('property: the queues never hold more than they may, and evict each name once', () => {
    const step = fc.record({ name: fc.nat(30), use: fc.boolean(), size: fc.integer({ min: 1, max: 40 }) })
    fc.assert(
      fc.property(fc.array(step, { maxLength: 300 }), (steps) => {
        const queues = new UseQueues(100)
        const held = new Map<string, number>()
        for (const { name, use, size } of steps) {
          const id = String(name)
          if (use) queues.used(id)
          else if (!queues.has(id)) {
            queues.add(id, size)
            held.set(id, size)
          }
          for (const gone of queues.evict()) assert.ok(held.delete(gone))
          assert.equal(
            queues.sizeBytes,
            [...held.values()].reduce((sum, one) => sum + one, 0),
          )
          assert.ok(queues.sizeBytes <= 100)
        }
      }),
    )
  })
})
