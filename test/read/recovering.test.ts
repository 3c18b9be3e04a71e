import assert from 'node:assert/strict'
import { Buffer } from 'node:buffer'
import { afterEach, beforeEach, describe, test } from 'node:test'
import { isStratalogError } from '../../src/model/errors.js'
import type { ReadContext, ReadRange } from '../../src/read/reader.js'
import { SegmentRecoverer } from '../../tiering/recoverer.js'
import { ManualClock } from '../helpers/manual-clock.js'
import { failure } from '../helpers/memory-store.js'
import { quiet, watched } from '../helpers/protocol.js'
import { StreamWorld, ungoverned } from '../helpers/stream-world.js'

const stillRecovering = (error: unknown) =>
  isStratalogError(error, 'ledger_recovering') && error.retryable && error.cause !== undefined

describe('a stream whose last segment a dead process left open', () => {
  let clock: ManualClock
  let dead: StreamWorld
  let world: StreamWorld
  let recoverer: SegmentRecoverer
  /** Fences answered so far, failed or not. */
  let fences: number

  /** `a`, `b` and `c` are acknowledged; of `c` only its copies tell, for its LAC was in the memory of the stores. */
  beforeEach(async () => {
    clock = new ManualClock()
    dead = new StreamWorld(clock, undefined, ungoverned())
    for (const value of ['a', 'b', 'c']) await dead.stream().append(value)
    for (const replica of dead.world.replicas) replica.restart()
    world = new StreamWorld(clock, dead.world, ungoverned())
    const { index, logger } = world.read
    recoverer = new SegmentRecoverer({ hub: world.hub, index, clock, logger })
    const recover: ReadContext['recover'] = (row, signal) => recoverer.recover(row, signal)
    Object.assign(world.read, { recover })
    fences = 0
  })
  afterEach(async () => {
    await recoverer.close()
    await world.end()
  })

  const fencesFail = (fail: boolean) => {
    for (const store of world.stores) {
      store.fault = {
        before: (call) => {
          if (call !== 'fence') return
          fences += 1
          if (fail) throw failure('io_failed', 'ENOSPC')
        },
      }
    }
  }
  const texts = async (range: ReadRange = {}) => {
    const found: string[] = []
    for await (const { payload } of world.stream().read(range)) found.push(Buffer.from(payload).toString())
    return found
  }
  /** A read tries some times; the time between passes here. */
  const rejection = async (work: Promise<unknown>) => {
    const outcome = watched(work)
    for (let turns = 0; turns < 20 && !outcome.settled; turns += 1) {
      await quiet()
      await clock.advance(100)
    }
    assert.ok(outcome.settled, 'it rejects in time')
    return outcome.error
  }

  test('the control: without recovery the read would end before an acknowledged record', async () => {
    Object.assign(world.read, { recover: undefined })
    assert.deepEqual(await texts(), ['a', 'b'])
  })

  test('is recovered by a read, once for several (1, 2)', async () => {
    fencesFail(false)
    assert.deepEqual(await Promise.all([texts(), texts()]), [
      ['a', 'b', 'c'],
      ['a', 'b', 'c'],
    ])
    assert.equal(fences, world.stores.length, 'one recovery for all')
    assert.equal((await world.segments())[0]?.state, 'sealed')
  })

  test('info and tail know all that was acknowledged', async () => {
    assert.equal((await world.stream().info()).nextSequenceId, 3n)
    assert.equal(Buffer.from((await world.stream().tail(1))[0]?.payload ?? []).toString(), 'c')
  })

  test('while it can not be recovered, reads to its end, info and tail reject and say so (1, 2)', async () => {
    fencesFail(true)
    const stream = world.stream()
    const works = [texts(), texts({ until: 'latest' }), stream.info(), stream.tail(1)]
    for (const error of await Promise.all(works.map(rejection))) {
      assert.ok(stillRecovering(error), String(error))
    }
    assert.deepEqual(await texts({ limit: 2 }), ['a', 'b'], 'what is known is served')
    fencesFail(false)
    assert.deepEqual(await texts(), ['a', 'b', 'c'])
  })

  test('is tried again in the background, later each time, until it is recovered', async () => {
    fencesFail(true)
    const recovering = recoverer.recoverAll()
    assert.deepEqual(await recovering, { recovered: 0, waiting: 1 })
    const triedAt: number[] = []
    for (let ms = 0; ms < 20_000; ms += 100) {
      const before = fences
      await clock.advance(100)
      await quiet()
      if (fences > before) triedAt.push(ms)
    }
    const pauses = triedAt.slice(1).map((at, i) => at - (triedAt[i] ?? 0))
    assert.ok(pauses.length >= 3, `tried at ${triedAt}`)
    assert.ok(pauses.every((pause, i) => i === 0 || pause > (pauses[i - 1] ?? 0)))
    fencesFail(false)
    for (let ms = 0; ms < 60_000; ms += 1_000) {
      await clock.advance(1_000)
      await quiet()
    }
    assert.equal((await world.segments())[0]?.state, 'sealed')
    assert.equal(fences, (triedAt.length + 2) * world.stores.length, 'and not again after that')
  })

  test('a follower waits for it instead', async () => {
    fencesFail(true)
    const abort = new AbortController()
    const found: string[] = []
    const following = watched(
      (async () => {
        const records = world.stream().read({ follow: true, signal: abort.signal })
        for await (const { payload } of records) found.push(Buffer.from(payload).toString())
      })(),
    )
    for (let ms = 0; ms < 5_000; ms += 100) {
      await clock.advance(100)
      await quiet()
    }
    assert.deepEqual(found, ['a', 'b'])
    assert.ok(!following.settled)
    fencesFail(false)
    for (let ms = 0; ms < 60_000 && found.length < 3; ms += 500) {
      await clock.advance(500)
      await quiet()
    }
    assert.deepEqual(found, ['a', 'b', 'c'])
    abort.abort()
    await quiet()
    assert.equal(following.error, undefined)
  })

  test('a reader that gives up is let go at once', async () => {
    const abort = new AbortController()
    for (const store of world.stores) {
      store.fault = { before: (call) => (call === 'fence' ? new Promise(() => {}) : undefined) }
    }
    const outcome = watched(texts({ signal: abort.signal }))
    await quiet()
    abort.abort(new Error('enough'))
    await quiet()
    assert.equal(String(outcome.error), 'Error: enough')
    for (const store of world.stores) store.fault = {}
  })

  test('what a writer at work has open is left alone', async () => {
    await world.stream().append('d')
    fencesFail(false)
    assert.deepEqual(await texts(), ['a', 'b', 'c', 'd'])
    assert.equal((await world.stream().info()).nextSequenceId, 4n)
    assert.equal(fences, 0)
    assert.deepEqual(
      (await world.segments()).map(({ state }) => state),
      ['sealed', 'open'],
    )
  })
})
