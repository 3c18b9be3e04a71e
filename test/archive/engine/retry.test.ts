import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { setImmediate } from 'node:timers/promises'
import { withDeadline } from '../../../archive/engine/deadline.js'
import { type Judgement, Retrier } from '../../../archive/engine/retry.js'
import { isStratalogError } from '../../../src/model/errors.js'
import type { Random } from '../../../src/ports/random.js'
import { ManualClock } from '../../helpers/manual-clock.js'

const random: Random = { bytes: (count) => new Uint8Array(count), fraction: () => 0.5 }
const { signal } = new AbortController()
const always = (verdict: Judgement['verdict'], afterMs = 0) => ({
  signal,
  judge: () => ({ verdict, afterMs }),
})

/** Moves the clock for as long as there are timers, and says how far that was. */
async function drained(clock: ManualClock, work: Promise<unknown>): Promise<number> {
  let settled = false
  const done = () => {
    settled = true
  }
  work.then(done, done)
  const beganMs = clock.monotonicMs()
  for (let i = 0; i < 10_000 && !settled; i += 1) {
    await setImmediate()
    if (!settled) await clock.advance(10)
  }
  return clock.monotonicMs() - beganMs
}

describe('calls to a store', () => {
  test('are made again with growing waits, and in the end throw the last failure', async () => {
    const clock = new ManualClock()
    const retrier = new Retrier({ clock, random }, { attemptsMax: 4 })
    const seen: [number, boolean][] = []
    const work = retrier.run({
      ...always('again'),
      work: async ({ number, mayBeDone }) => {
        seen.push([number, mayBeDone])
        throw new Error(`failure ${number}`)
      },
    })
    const tookMs = await drained(clock, work)
    await assert.rejects(work, /failure 4/)
    assert.deepEqual(seen, [
      [1, false],
      [2, true],
      [3, true],
      [4, true],
    ])
    // Half of 100, 200 and 400.
    assert.ok(tookMs >= 350 && tookMs < 450, `${tookMs} ms`)
  })

  test('that would fail again are not made again', async () => {
    const retrier = new Retrier({ clock: new ManualClock(), random })
    let calls = 0
    const work = async () => {
      calls += 1
      throw new Error('no')
    }
    await assert.rejects(retrier.run({ ...always('throw'), work }), /no/)
    assert.equal(calls, 1)
  })

  test('wait as long as the server asks, within reason', async () => {
    const clock = new ManualClock()
    const retrier = new Retrier({ clock, random }, { attemptsMax: 2 })
    const work = retrier.run({
      ...always('again', 1_000_000),
      work: () => Promise.reject(new Error('later')),
    })
    const tookMs = await drained(clock, work)
    await assert.rejects(work)
    assert.ok(tookMs >= 30_000 && tookMs < 31_000, `${tookMs} ms`)
  })

  test('share one budget: a store that fails everything is not asked many times as often', async () => {
    const clock = new ManualClock()
    const retrier = new Retrier({ clock, random }, { attemptsMax: 6 })
    let calls = 0
    const fails = async () => {
      calls += 1
      throw new Error('down')
    }
    for (let i = 0; i < 200; i += 1) {
      const work = retrier.run({ ...always('again'), work: fails })
      await drained(clock, work)
      await assert.rejects(work, /down/)
    }
    assert.equal(
      calls,
      20 * 6 + 180 * 2,
      'the whole budget goes to the first twenty, then each is made once more',
    )
    // After an outage a connection that died meanwhile costs one attempt, not the call.
    let stale = true
    const work = retrier.run({
      ...always('again'),
      work: async () => {
        if (stale) {
          stale = false
          throw new Error('reset')
        }
        return 'done'
      },
    })
    await drained(clock, work)
    assert.equal(await work, 'done')
  })

  test('end at once when aborted while they wait to be made again', async () => {
    const abort = new AbortController()
    const retrier = new Retrier({ clock: new ManualClock(), random })
    const work = retrier.run({
      signal: abort.signal,
      judge: () => ({ verdict: 'again' }),
      work: () => Promise.reject(new Error('down')),
    })
    await setImmediate()
    abort.abort(new Error('enough'))
    await assert.rejects(work, /enough/)
  })
})

describe('requests side by side', () => {
  test('are as many as allowed; fewer after "too much", and as many again after successes', async () => {
    const clock = new ManualClock()
    const { limit } = new Retrier({ clock, random }, { concurrencyMax: 8 })
    let underWay = 0
    let most = 0
    const some = (count: number) =>
      Promise.all(
        Array.from({ length: count }, () =>
          limit.with(signal, async () => {
            underWay += 1
            most = Math.max(most, underWay)
            await setImmediate()
            underWay -= 1
          }),
        ),
      )
    await some(50)
    assert.equal(most, 8)
    limit.overloaded()
    limit.overloaded()
    assert.equal(limit.allowed, 4, 'what comes together is one sign')
    most = 0
    await some(50)
    assert.equal(most, 4)
    for (let i = 0; i < 10; i += 1) {
      await clock.advance(2_000)
      limit.overloaded()
    }
    assert.equal(limit.allowed, 1, 'never none')
    for (let i = 0; i < 200; i += 1) limit.succeeded()
    assert.equal(limit.allowed, 8)
  })

  test('one that gives up waiting takes no place', async () => {
    const { limit } = new Retrier({ clock: new ManualClock(), random }, { concurrencyMax: 1 })
    let release = (): void => {}
    const first = limit.with(signal, () => new Promise<void>((resolve) => (release = resolve)))
    const abort = new AbortController()
    const second = limit.with(abort.signal, async () => {})
    const third = limit.with(signal, async () => 'third')
    abort.abort(new Error('enough'))
    await assert.rejects(second, /enough/)
    release()
    await first
    assert.equal(await third, 'third')
  })
})

describe('a request that does not end', () => {
  const deadline = { totalMs: 1_000, idleMs: 100, doing: 'reading' }

  test('is given up after its total time, though it moves', async () => {
    const clock = new ManualClock()
    const work = withDeadline(clock, deadline, [signal], async ({ alive }) => {
      for (;;) {
        await clock.sleep(50)
        alive()
      }
    })
    const tookMs = await drained(clock, work)
    await assert.rejects(work, (error) => isStratalogError(error, 'timeout') && error.retryable)
    assert.ok(tookMs >= 1_000 && tookMs < 1_050, `${tookMs} ms`)
  })

  test('is given up when it stands still, also if nobody listens to the signal', async () => {
    const clock = new ManualClock()
    const work = withDeadline(clock, deadline, [signal], () => new Promise(() => {}))
    const tookMs = await drained(clock, work)
    await assert.rejects(work, /stood still for 100 ms/)
    assert.ok(tookMs >= 100 && tookMs < 150, `${tookMs} ms`)
    assert.equal(clock.pending, 0, 'no timer is left')
  })

  test('ends with the reason of the signal that ended it', async () => {
    const abort = new AbortController()
    const work = withDeadline(
      new ManualClock(),
      deadline,
      [undefined, signal, abort.signal],
      ({ signal: own }) =>
        new Promise((_, reject) => own.addEventListener('abort', () => reject(new Error('cut')))),
    )
    abort.abort(new RangeError('mine'))
    await assert.rejects(work, RangeError)
  })
})
