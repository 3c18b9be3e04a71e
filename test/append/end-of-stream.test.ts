import assert from 'node:assert/strict'
import { Buffer } from 'node:buffer'
import { afterEach, beforeEach, describe, test } from 'node:test'
import { present } from '../../src/model/assert.js'
import { isStratalogError } from '../../src/model/errors.js'
import { TXID_MAX } from '../../src/model/record.js'
import type { SegmentIndex } from '../../src/ports/segment-index.js'
import { ManualClock } from '../helpers/manual-clock.js'
import { failure } from '../helpers/memory-store.js'
import { quiet, World, watched } from '../helpers/protocol.js'
import { StreamWorld, ungoverned } from '../helpers/stream-world.js'

const never = (): Promise<never> => new Promise(() => {})
const finished = (error: unknown) => isStratalogError(error, 'stream_finished')

/** An index that answers this process no more from the first call that is `last`. */
function until(index: SegmentIndex, last: (method: string, patch: unknown) => boolean): SegmentIndex {
  let dead = false
  return new Proxy(index, {
    get(target, name) {
      const found: unknown = Reflect.get(target, name)
      if (typeof found !== 'function') return found
      return (...args: unknown[]) => {
        dead ||= last(String(name), args.at(-1))
        return dead ? never() : Reflect.apply(found, target, args)
      }
    },
  })
}

/** The record that ends a stream, as in DistributedLog's tree: what readers may have seen nothing comes behind. */
describe('the record that ends a stream', () => {
  let clock: ManualClock
  let shared: World
  beforeEach(() => {
    clock = new ManualClock()
    shared = new World(clock, 3)
  })
  afterEach(() => shared.end())

  const writer = (index?: SegmentIndex) =>
    new StreamWorld(clock, shared, ungoverned(), {
      endRecords: true,
      ...(index === undefined ? {} : { index }),
    })
  const texts = async (world: StreamWorld): Promise<string[]> => {
    const found: string[] = []
    for await (const { payload } of world.stream().read()) found.push(Buffer.from(payload).toString())
    return found
  }
  /** The next writer finds the stream ended, and its row is brought up to that. */
  const checkEnded = async (): Promise<void> => {
    const next = writer()
    await assert.rejects(next.stream().append('behind the end'), finished)
    assert.notEqual((await next.row()).finishedMs, null)
    assert.deepEqual(await texts(next), ['a', 'b'])
    assert.equal((await next.segments()).at(-1)?.lastTxid, TXID_MAX)
    await assert.rejects(next.stream().append('nor later'), finished)
    await next.hub.close()
  }
  const appendBoth = (world: StreamWorld) => {
    const stream = world.stream()
    return Promise.all(['a', 'b'].map((value) => stream.append(value)))
  }
  const dies = async (world: StreamWorld): Promise<void> => {
    const finishing = watched(world.stream().finish())
    await quiet(20)
    assert.equal(finishing.settled, false)
  }

  const crashes: Record<string, (metadata: SegmentIndex) => SegmentIndex> = {
    'before the row of its segment is sealed': (index) =>
      until(
        index,
        (method, patch) => method === 'updateSegment' && (patch as { state?: string }).state === 'sealed',
      ),
    'before the row of the stream says so': (index) =>
      until(
        index,
        (method, patch) => method === 'updateStream' && Object.hasOwn(patch as object, 'finishedMs'),
      ),
  }
  for (const [when, index] of Object.entries(crashes))
    test(`its writer dies ${when}`, async () => {
      const mortal = writer(index(shared.metadata.index))
      await appendBoth(mortal)
      await dies(mortal)
      await checkEnded()
    })

  test('its writer dies before its ledger is closed', async () => {
    const mortal = writer()
    await appendBoth(mortal)
    mortal.process.metadata.fault = { before: never }
    await dies(mortal)
    await checkEnded()
  })

  for (const reached of [0, 1])
    test(`its writer dies when ${reached} of three stores have it: recovery finds what is there, and only that`, async () => {
      const mortal = writer()
      await appendBoth(mortal)
      for (const store of mortal.stores.slice(reached))
        store.fault = { before: (call) => (call === 'addEntry' ? never() : undefined) }
      await dies(mortal)
      if (reached === 1) return checkEnded()
      const next = writer()
      const { sequenceId } = await next.stream().append('c')
      assert.equal(sequenceId, 2n)
      assert.deepEqual(await texts(next), ['a', 'b', 'c'])
      assert.equal((await next.row()).finishedMs, null)
      await next.hub.close()
    })

  test('where its ledger fails it goes again into the next, behind what was pending', async () => {
    const world = writer()
    const stream = world.stream()
    await stream.append('a')
    for (const store of world.stores.slice(0, 2)) {
      let left = 1
      store.fault = {
        before: (call) => {
          if (call !== 'addEntry' || left === 0) return
          left -= 1
          throw failure('io_failed', 'EIO')
        },
      }
    }
    const last = stream.append('b')
    await stream.finish()
    assert.equal(`${(await last).dlsn}`, '2:0:0')
    const segments = await world.segments()
    assert.deepEqual(
      segments.map(({ state, recordCount, lastTxid }) => [state, recordCount, lastTxid === TXID_MAX]),
      [
        ['sealed', 1n, false],
        ['sealed', 1n, true],
      ],
    )
    await checkEnded()
    await world.hub.close()
  })

  test('where its ledger fails and nothing else was pending, it has a segment of its own', async () => {
    const world = writer()
    await appendBoth(world)
    for (const store of world.stores.slice(0, 2)) {
      let left = 1
      store.fault = {
        before: (call) => {
          if (call !== 'addEntry' || left === 0) return
          left -= 1
          throw failure('io_failed', 'EIO')
        },
      }
    }
    await world.stream().finish()
    const segments = await world.segments()
    assert.deepEqual(
      segments.map(({ state, recordCount }) => [state, recordCount]),
      [
        ['sealed', 2n],
        ['sealed', 0n],
      ],
    )
    // The first ledger was closed below what one of its stores has of the record: it is there once (invariant 2).
    assert.equal(present(segments[0], 'segment').lastTxid === TXID_MAX, false)
    await checkEnded()
    await world.hub.close()
  })
})
