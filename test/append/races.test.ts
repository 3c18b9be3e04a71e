import assert from 'node:assert/strict'
import { Buffer } from 'node:buffer'
import { afterEach, beforeEach, describe, test } from 'node:test'
import { isStratalogError, StratalogError } from '../../src/model/errors.js'
import type { SegmentIndex } from '../../src/ports/segment-index.js'
import { ManualClock } from '../helpers/manual-clock.js'
import { Gate } from '../helpers/memory-store.js'
import { quiet, watched } from '../helpers/protocol.js'
import { StreamWorld } from '../helpers/stream-world.js'

const code = (expected: string) => (error: unknown) => isStratalogError(error) && error.code === expected

describe('calls that cross each other', () => {
  let world: StreamWorld
  beforeEach(() => {
    world = new StreamWorld(new ManualClock())
  })
  afterEach(() => world.end())

  const texts = async (): Promise<string[]> => {
    const found: string[] = []
    for await (const { payload } of world.stream().read()) found.push(Buffer.from(payload).toString())
    return found
  }

  test('no two callers of fence() get one token (invariant 3)', async () => {
    await world.create('orders')
    const handles = [world.stream(), world.stream(), world.stream()]
    const open = watched(world.stream().append('plain'))
    const tokens = await Promise.all(handles.map((handle) => handle.fence()))
    assert.equal(new Set(tokens).size, 3, `tokens ${tokens.join(' ')}`)
    const last = tokens.reduce((a, b) => (a > b ? a : b))
    const outcomes = tokens.map((fence, at) => watched(world.stream().append(`by ${at}`, { fence })))
    await quiet(10)
    for (const [at, { error, value }] of outcomes.entries()) {
      if (tokens[at] === last) assert.ok(value)
      else assert.ok(code('fenced')(error))
    }
    assert.ok(open.settled)
  })

  test('a finish whose answer was lost is looked up: nothing is taken behind it', async () => {
    const stream = world.stream()
    await stream.append('a')
    const index: SegmentIndex = world.world.metadata.index
    const update = index.updateStream.bind(index)
    index.updateStream = async (...args) => {
      await update(...args)
      throw new StratalogError('store_unavailable', 'connection lost', { retryable: true })
    }
    await assert.rejects(stream.finish(), code('store_unavailable'))
    index.updateStream = update
    await assert.rejects(stream.append('b'), code('stream_finished'))
    await stream.finish()
    assert.deepEqual(await texts(), ['a'])
  })

  test('a finish that failed leaves the stream as it was', async () => {
    const stream = world.stream()
    await stream.append('a')
    const index: SegmentIndex = world.world.metadata.index
    const update = index.updateStream.bind(index)
    index.updateStream = async () => {
      throw new StratalogError('store_unavailable', 'no connection', { retryable: true })
    }
    await assert.rejects(stream.finish(), code('store_unavailable'))
    index.updateStream = update
    await stream.append('b')
    await stream.finish()
    assert.deepEqual(await texts(), ['a', 'b'])
  })

  test('two that finish a stream at once both succeed', async () => {
    const stream = world.stream()
    await stream.append('a')
    await Promise.all([stream.finish(), world.stream().finish()])
  })

  test('the values of a batch are the caller’s again at once, also before the writer is open', async () => {
    const value = Buffer.from('mine')
    const batch = world.stream().appendBatch([value])
    value.fill('x')
    await batch
    assert.deepEqual(await texts(), ['mine'])
  })

  test('a batch that begins with a retry does not pass the bound of what may wait (invariant 11)', async () => {
    world.takenBytesMax = 10_000
    const stream = world.stream()
    await stream.append('0', { producer: 'p', sequence: 0n })
    const gate = new Gate()
    for (const store of world.stores)
      store.fault = { before: (call) => (call === 'addEntry' ? gate.wait() : undefined) }
    const big = 'x'.repeat(6_000)
    const batches = [0n, 1n, 2n].map((sequence) =>
      watched(world.stream().appendBatch(['0', big], { producer: 'p', sequence })),
    )
    await quiet(5)
    assert.ok(code('backpressure')(batches[1]?.error))
    assert.ok(code('backpressure')(batches[2]?.error))
    gate.open()
    await quiet(5)
    assert.equal(batches[0]?.value?.count, 2)
  })
})
