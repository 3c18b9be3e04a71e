import assert from 'node:assert/strict'
import { Buffer } from 'node:buffer'
import { afterEach, beforeEach, describe, test } from 'node:test'
import { isStratalogError } from '../../src/model/errors.js'
import type { LogRecord } from '../../src/model/record.js'
import { ManualClock } from '../helpers/manual-clock.js'
import { Gate } from '../helpers/memory-store.js'
import { quiet, watched } from '../helpers/protocol.js'
import { StreamWorld } from '../helpers/stream-world.js'

const code = (expected: string) => (error: unknown) => isStratalogError(error) && error.code === expected
const text = (payload: Uint8Array) => Buffer.from(payload).toString()

describe('sessions', () => {
  let clock: ManualClock
  let world: StreamWorld
  beforeEach(() => {
    clock = new ManualClock()
    world = new StreamWorld(clock)
  })
  afterEach(() => world.end())

  /** All adds wait until the gate opens. */
  const hold = (): Gate => {
    const gate = new Gate()
    for (const store of world.stores) {
      store.fault = { before: (call) => (call === 'addEntry' ? gate.wait() : undefined) }
    }
    return gate
  }
  const all = async (name = 'orders'): Promise<LogRecord<Uint8Array | string>[]> => {
    const records: LogRecord<Uint8Array | string>[] = []
    for await (const record of world.stream(name).read()) records.push(record)
    return records
  }

  describe('appendAll', () => {
    async function* slowly(count: number): AsyncGenerator<string> {
      for (let id = 0; id < count; id += 1) {
        if (id % 100 === 0) await quiet(1)
        yield `${id}`
      }
    }

    test('writes all in order and says what', async () => {
      world.rollAt(5_000)
      const stream = world.stream()
      const summary = await stream.appendAll(slowly(1_000), { txid: (value) => BigInt(String(value)) })
      const records = await all()
      assert.equal(summary.count, 1_000)
      assert.equal(
        summary.bytes,
        records.reduce((sum, { payload }) => sum + payload.length, 0),
      )
      assert.equal(`${summary.first}`, '1:0:0')
      assert.equal(`${summary.last}`, `${records.at(-1)?.dlsn}`)
      assert.deepEqual(
        records.map(({ payload, txid }) => `${text(payload)} ${txid}`),
        Array.from({ length: 1_000 }, (_, id) => `${id} ${id}`),
      )
      assert.deepEqual(await stream.appendAll([]), {
        first: null,
        last: null,
        count: 0,
        bytes: 0,
        duplicates: 0,
        duplicate: false,
      })
    })

    test('takes no more than its window while stores are slow', async () => {
      const stream = world.stream()
      await stream.append('first')
      const gate = hold()
      let taken = 0
      function* values(): Generator<string> {
        for (; taken < 20_000; taken += 1) yield 'x'
      }
      const running = watched(stream.appendAll(values()))
      for (let turn = 0; turn < 50; turn += 1) await quiet()
      assert.ok(taken <= 8_192, `${taken} taken`)
      gate.open()
      for (let turn = 0; turn < 400 && !running.settled; turn += 1) await quiet()
      assert.equal(running.value?.count, 20_000)
    })

    test('the first failure rejects, and iterating ends', async () => {
      const stream = world.stream()
      let ended = false
      async function* values(): AsyncGenerator<string> {
        try {
          for (let id = 0; ; id += 1) {
            if (id === 500) for (const store of world.stores) store.state = 'unreachable'
            yield `${id}`
            if (id % 50 === 0) await quiet(1)
          }
        } finally {
          ended = true
        }
      }
      await assert.rejects(stream.appendAll(values()), code('not_enough_stores'))
      assert.ok(ended)
      for (const store of world.stores) store.state = 'writable'
      assert.ok((await stream.append('goes on')).sequenceId > 0n)
    })

    test('a txid that goes back, an error of the iterable and an aborted signal reject', async () => {
      const stream = world.stream()
      const back = stream.appendAll(['5', '6', '4'], { txid: (value) => BigInt(String(value)) })
      await assert.rejects(back, code('txid_not_monotonic'))
      function* broken(): Generator<string> {
        yield 'a'
        throw new Error('mine')
      }
      await assert.rejects(stream.appendAll(broken()), /mine/)
      const signal = AbortSignal.abort(new Error('enough'))
      await assert.rejects(stream.appendAll(['a'], { signal }), /enough/)
    })
  })
})
