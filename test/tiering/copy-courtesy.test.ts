import assert from 'node:assert/strict'
import { test } from 'node:test'
import { CopyCourtesy } from '../../tiering/copy-courtesy.js'
import { ManualClock } from '../helpers/manual-clock.js'

/** Runs `turn` on a clock that goes on by a millisecond at a time; how long it rested. */
async function restedMs(clock: ManualClock, turn: () => Promise<void>): Promise<number> {
  const beganMs = clock.monotonicMs()
  let over = false
  const ended = turn().finally(() => {
    over = true
  })
  for (let ms = 0; ms < 1_000; ms += 1) {
    await clock.advance(0)
    if (over) break
    await clock.advance(1)
  }
  await ended
  return clock.monotonicMs() - beganMs
}

test('while appends wait a copy rests four times as long as it worked, within a bound', async () => {
  const clock = new ManualClock()
  const turn = new CopyCourtesy(clock, () => true).turns()
  await clock.advance(5)
  assert.equal(await restedMs(clock, turn), 20)
  // Waiting for an archive that hangs is no work: the rest has a bound, and so has what is owed.
  await clock.advance(60_000)
  assert.equal(await restedMs(clock, turn), 100)
})

test('two copies rest for what both worked', async () => {
  const clock = new ManualClock()
  const courtesy = new CopyCourtesy(clock, () => true)
  const [one, other] = [courtesy.turns(), courtesy.turns()]
  await clock.advance(5)
  // Each alone would be done after 20: what the other one worked is rested for as well.
  assert.equal(await restedMs(clock, () => Promise.all([one(), other()]).then(() => undefined)), 40)
})

test('where no append waits a copy does not rest, and one that rests goes on once they are done', async () => {
  const clock = new ManualClock()
  let waits = false
  const turn = new CopyCourtesy(clock, () => waits).turns()
  await clock.advance(20)
  assert.equal(await restedMs(clock, turn), 0)
  waits = true
  await clock.advance(20)
  clock.setTimer(12, () => {
    waits = false
  })
  assert.equal(await restedMs(clock, turn), 15)
})

test('a copy that is called off does not rest', async () => {
  const clock = new ManualClock()
  const abort = new AbortController()
  const turn = new CopyCourtesy(clock, () => true).turns(abort.signal)
  await clock.advance(20)
  const resting = turn()
  abort.abort(new Error('closed'))
  await assert.rejects(resting, /closed/)
  assert.equal(clock.pending, 0)
})
