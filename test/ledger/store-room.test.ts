import assert from 'node:assert/strict'
import { Buffer } from 'node:buffer'
import { afterEach, beforeEach, describe, test } from 'node:test'
import { StoreRoom } from '../../src/ledger/store-room.js'
import { present } from '../../src/model/assert.js'
import { isStratalogError } from '../../src/model/errors.js'
import type { StoreStatus } from '../../src/ports/segment-store.js'
import { memoryLogger } from '../helpers/archive.js'
import { ManualClock } from '../helpers/manual-clock.js'
import { Gate } from '../helpers/memory-store.js'
import { quiet, watched } from '../helpers/protocol.js'
import { StreamWorld } from '../helpers/stream-world.js'

const GIB = 2 ** 30
const full = (error: unknown) => isStratalogError(error, 'store_full') && error.retryable

describe('disks that are nearly full (invariant 10)', () => {
  let clock: ManualClock
  let world: StreamWorld
  /** What each store says of its disk. */
  let says: (Partial<StoreStatus> | Promise<never>)[]
  beforeEach(() => {
    clock = new ManualClock()
    world = new StreamWorld(clock)
    const { context, stores } = world.process
    says = stores.map(() => ({ freeBytes: 50 * GIB, totalBytes: 100 * GIB }))
    for (const [at, store] of stores.entries()) {
      const status = store.status.bind(store)
      store.status = async () => ({ ...(await status()), ...(await present(says[at], 'what it says')) })
    }
    Object.assign(context, { room: new StoreRoom(context.stores, clock, memoryLogger()) })
  })
  afterEach(() => world.end())
  const free = (at: number, freeBytes: number) => {
    says[at] = { freeBytes, totalBytes: 100 * GIB }
  }
  /** Appends after a look, and says how that went. */
  const append = async (text: string) => {
    const look = watched(world.stream().append('look'))
    await quiet()
    await clock.advance(1_100)
    await Promise.allSettled([world.stream().append('look')])
    await quiet()
    const outcome = watched(world.stream().append(text))
    await quiet()
    assert.ok(look.settled && outcome.settled)
    return outcome
  }

  test('appends are refused before they fail, and taken as soon as there is room', async () => {
    assert.ok((await append('a')).value)
    free(0, 2 ** 20)
    assert.ok((await append('b')).value, 'two others have room')
    free(1, 2 ** 20)
    const { error } = await append('c')
    assert.ok(full(error))
    assert.match(String(error), /memory:s0 \(1 MiB free\), memory:s1/)
    says[1] = { state: 'full', freeBytes: 0, totalBytes: 100 * GIB }
    assert.ok(full((await append('d')).error))
    free(1, GIB)
    assert.ok((await append('e')).value)
  })

  test('of a small disk a twentieth is room', async () => {
    for (const at of [0, 1, 2]) says[at] = { freeBytes: 6, totalBytes: 100 }
    assert.ok((await append('a')).value)
    for (const at of [0, 1, 2]) says[at] = { freeBytes: 4, totalBytes: 100 }
    assert.ok(full((await append('b')).error))
  })

  test('what was taken is written', async () => {
    const gate = new Gate()
    await world.stream().append('a')
    for (const store of world.stores)
      store.fault = { before: (call) => (call === 'addEntry' ? gate.wait() : undefined) }
    await clock.advance(1_100)
    for (const at of [0, 1, 2]) free(at, 1)
    const taken = [watched(world.stream().append('b')), watched(world.stream().append('c'))]
    await quiet()
    await assert.rejects(world.stream().append('d'), full)
    gate.open()
    await quiet(5)
    for (const { value } of taken) assert.ok(value)
    const found: string[] = []
    for await (const { payload } of world.stream().read()) found.push(Buffer.from(payload).toString())
    assert.deepEqual(found, ['a', 'b', 'c'])
  })

  test('a store that hangs or is lost says nothing about room: room on others would not help', async () => {
    says[0] = new Promise<never>(() => {})
    says[1] = { state: 'poisoned' }
    free(2, 1)
    assert.ok((await append('a')).value)
    free(1, GIB)
    assert.ok(full((await append('b')).error), 'with one that is full they would be enough')
  })
})
