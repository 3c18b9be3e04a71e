import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import type { Clock } from '../../src/ports/clock.js'

/** A clock and a way to let its time pass. */
export interface ClockSubject {
  readonly clock: Clock
  pass(ms: number): Promise<void>
}

/** Every promise of src/ports/clock.ts. */
export function clockContract(name: string, open: () => ClockSubject): void {
  describe(`Clock contract: ${name}`, () => {
    test('monotonic time goes on with the time that passes', async () => {
      const { clock, pass } = open()
      const before = clock.monotonicMs()
      await pass(20)
      assert.ok(clock.monotonicMs() - before >= 19)
      assert.ok(Number.isSafeInteger(Math.floor(clock.nowMs())))
    })

    test('a timer fires once, never synchronously, and not after it was cancelled', async () => {
      const { clock, pass } = open()
      const fired: string[] = []
      clock.setTimer(5, () => fired.push('kept'))
      const cancelled = clock.setTimer(5, () => fired.push('cancelled'))
      clock.setTimer(0, () => fired.push('soon'))
      assert.deepEqual(fired, [])
      cancelled.cancel()
      cancelled.cancel()
      await pass(40)
      assert.deepEqual(fired, ['soon', 'kept'])
    })

    test('a sleep ends with its time or with its signal', async () => {
      const { clock, pass } = open()
      let slept = false
      const sleeping = clock.sleep(10).then(() => {
        slept = true
      })
      assert.equal(slept, false)
      await pass(40)
      await sleeping
      const abort = new AbortController()
      const reason = new Error('stop')
      const long = clock.sleep(1_000_000, abort.signal)
      abort.abort(reason)
      await assert.rejects(long, reason)
      await assert.rejects(clock.sleep(1, abort.signal), reason)
    })
  })
}
