import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { CopyRoom } from '../../tiering/copy-room.js'

const MIB = 1024 * 1024

/** Work that ends when it is told to. */
function held(room: CopyRoom, bytes: number, signal = new AbortController().signal) {
  const state = { running: false, moved: 0, end: () => {} }
  const onMoved = () => {
    state.moved += 1
  }
  const done = room.with(bytes, { signal, onMoved }, () => {
    state.running = true
    return new Promise<void>((resolve) => {
      state.end = resolve
    })
  })
  return { state, done }
}

const turn = () => new Promise((resolve) => setImmediate(resolve))

describe('room for copies', () => {
  test('four large segments or many small ones are under way, the others come in order (invariant 11)', async () => {
    const room = new CopyRoom()
    const large = [1, 2, 3, 4, 5, 6].map(() => held(room, 1024 * MIB))
    const small = held(room, MIB)
    await turn()
    const running = () => [...large, small].map(({ state }) => state.running)
    assert.deepEqual(running(), [true, true, true, true, false, false, false])
    // The small one would fit beside three large ones, and waits its turn all the same.
    large[0]?.state.end()
    await turn()
    assert.deepEqual(running(), [true, true, true, true, true, false, false])
    // Who waits hears that something moves.
    assert.equal(small.state.moved, 1)
    for (const { state } of large.slice(1)) state.end()
    await turn()
    assert.deepEqual(running(), [true, true, true, true, true, true, true])
    large[5]?.state.end()
    small.state.end()
    await Promise.all([...large, small].map(({ done }) => done))
    const many = Array.from({ length: 64 }, () => held(room, MIB))
    await turn()
    assert.ok(many.every(({ state }) => state.running))
    for (const { state } of many) state.end()
    await Promise.all(many.map(({ done }) => done))
  })

  test('one that is given up while it waits leaves the queue; one that fails gives its room back', async () => {
    const room = new CopyRoom()
    const large = [1, 2, 3, 4].map(() => held(room, 16 * MIB))
    await turn()
    const stop = new AbortController()
    const waiting = held(room, 16 * MIB, stop.signal)
    const next = held(room, 16 * MIB)
    stop.abort(new Error('given up'))
    await assert.rejects(waiting.done, /given up/)
    assert.equal(waiting.state.running, false)
    large[0]?.state.end()
    await turn()
    assert.ok(next.state.running)
    for (const { state } of [...large, next]) state.end()
    await Promise.all([...large, next].map(({ done }) => done))
    const options = { signal: new AbortController().signal, onMoved: () => {} }
    for (let i = 0; i < 10; i += 1)
      await assert.rejects(
        room.with(16 * MIB, options, () => Promise.reject(new Error('no'))),
        /no/,
      )
  })
})
