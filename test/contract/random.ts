import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import type { Random } from '../../src/ports/random.js'

/** Every promise of src/ports/random.ts. */
export function randomContract(name: string, open: () => Random): void {
  describe(`Random contract: ${name}`, () => {
    test('bytes are fresh and the caller’s own', () => {
      const random = open()
      const first = random.bytes(16)
      const kept = Buffer.from(first)
      const second = random.bytes(16)
      assert.equal(first.length, 16)
      assert.notDeepEqual(Buffer.from(second), kept)
      second.fill(0)
      assert.deepEqual(Buffer.from(first), kept)
      assert.equal(random.bytes(0).length, 0)
    })

    test('fractions lie in [0, 1) and are spread', () => {
      const random = open()
      const found = Array.from({ length: 1_000 }, () => random.fraction())
      assert.ok(found.every((one) => one >= 0 && one < 1))
      assert.ok(found.some((one) => one < 0.2) && found.some((one) => one > 0.8))
    })
  })
}
