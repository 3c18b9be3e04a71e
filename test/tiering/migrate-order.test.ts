import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { ArchiveStore } from '../../src/ports/archive-store.js'
import { MovableArchive } from '../../tiering/migrate-store.js'
import { fixedClock, memoryLogger } from '../helpers/archive.js'

const OBJECT = Buffer.from('0123456789abcdef')

/** A place with one object that tells how it was read. */
function place(name: string, told: string[]): ArchiveStore {
  const unused = () => assert.fail('not called here')
  return {
    location: name,
    capabilities: { putIfAbsent: 'native', checksums: [], listFrom: true, thaw: false },
    putIfAbsent: unused,
    head: unused,
    readRange: async (_, offset, lengthBytes) => {
      told.push(`${name} range ${offset}`)
      return OBJECT.subarray(offset, offset + lengthBytes)
    },
    readInOrder: (_, offset) => {
      let at = offset
      return {
        next: async (lengthBytes) => {
          told.push(`${name} next ${at}`)
          at += lengthBytes
          return OBJECT.subarray(at - lengthBytes, at)
        },
        close: () => told.push(`${name} closed`),
      }
    },
    listFrom: unused,
    delete: unused,
    close: async () => {},
  }
}

test('what is read in order goes on in ranges once the archive moved, also if it moves back', async () => {
  const told: string[] = []
  const [a, b] = [place('a', told), place('b', told)]
  const archive = new MovableArchive(a, { clock: fixedClock({ nowMs: 0 }), logger: memoryLogger() })
  const moveTo = async (store: ArchiveStore) => {
    const { signal } = new AbortController()
    await archive.holdStill(1_000, signal, async () => ({ settle: async () => store }))
    await archive.settle()
  }
  const reading = archive.readInOrder?.('key', 2, 14)
  const found: string[] = []
  const next = async () => found.push(Buffer.from((await reading?.next(3)) ?? []).toString())
  await next()
  await moveTo(b)
  await next()
  await moveTo(a)
  await next()
  reading?.close()
  assert.deepEqual(found, ['234', '567', '89a'])
  assert.deepEqual(told, ['a next 2', 'a closed', 'b range 5', 'a range 8'])
  const { readInOrder: _, ...ranges } = b
  await moveTo(ranges)
  assert.equal(archive.readInOrder, undefined, 'there exactly where the place has it')
})
