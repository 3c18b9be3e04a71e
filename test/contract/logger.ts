import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import type { Logger } from '../../src/ports/logger.js'

/** Every promise of src/ports/logger.ts that does not need its output: it never throws, whatever it is given. */
export function loggerContract(name: string, open: () => Logger): void {
  describe(`Logger contract: ${name}`, () => {
    test('takes anything and never throws', () => {
      const circle: Record<string, unknown> = { big: 2n ** 70n, error: new Error('x'), symbol: Symbol('s') }
      circle.self = circle
      for (const logger of [open(), open().child({ part: 'test' })]) {
        for (const level of ['debug', 'info', 'warn', 'error'] as const) {
          assert.doesNotThrow(() => logger[level](circle, 'a message'))
          assert.doesNotThrow(() => logger[level]({}, ''))
        }
      }
    })
  })
}
