import assert from 'node:assert/strict'
import { afterEach, beforeEach, describe, test } from 'node:test'
import { PRODUCERS_MAX } from '../../src/model/producer.js'
import { ManualClock } from '../helpers/manual-clock.js'
import { StreamWorld, ungoverned } from '../helpers/stream-world.js'

describe('more producers than a stream remembers', () => {
  let world: StreamWorld
  beforeEach(() => {
    world = new StreamWorld(new ManualClock())
  })
  afterEach(() => world.end())

  for (const before of [0, 1]) {
    test(`in one entry, ${before} snapshots before it: the latest are known, in memory as after a crash`, async () => {
      const stream = world.stream()
      if (before > 0) await stream.append('first', { producer: 'p', sequence: 0n })
      const ids = Array.from({ length: PRODUCERS_MAX + 5 }, (_, at) => `p${at}`)
      const append = (producer: string, handle = stream) => handle.append('x', { producer, sequence: 1n })
      const acks = await Promise.all(ids.map((id) => append(id)))
      assert.equal(new Set(acks.map((ack) => ack.dlsn.entry)).size, 1, 'one entry')
      assert.ok((await append(`p${PRODUCERS_MAX + 4}`)).duplicate)
      assert.ok((await append('p5')).duplicate, 'the oldest that is known')
      const next = new StreamWorld(new ManualClock(), world.world, ungoverned())
      assert.ok((await append('p5', next.stream())).duplicate)
      assert.ok((await append(`p${PRODUCERS_MAX + 4}`, next.stream())).duplicate)
      assert.equal((await append('p0', next.stream())).duplicate, false, 'forgotten')
      await next.hub.close()
    })
  }
})
