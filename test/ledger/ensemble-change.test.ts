import assert from 'node:assert/strict'
import { Buffer } from 'node:buffer'
import { afterEach, beforeEach, describe, test } from 'node:test'
import { LedgerReader } from '../../src/ledger/reader.js'
import { recoverLedger } from '../../src/ledger/recovery.js'
import type { LedgerWriter } from '../../src/ledger/writer.js'
import { present } from '../../src/model/assert.js'
import { isStratalogError } from '../../src/model/errors.js'
import { ManualClock } from '../helpers/manual-clock.js'
import { failure, Gate, type MemoryStore } from '../helpers/memory-store.js'
import {
  appendText,
  newLedger,
  type Process,
  QUORUM_322,
  quiet,
  World,
  watched,
} from '../helpers/protocol.js'

const code = (expected: string) => (error: unknown) => isStratalogError(error) && error.code === expected

describe('ensemble change', () => {
  let clock: ManualClock
  let world: World
  let one: Process
  const store = (at: number): MemoryStore => present(one.stores[at], `store ${at}`)
  const hold = (at: number): Gate => {
    const gate = new Gate()
    store(at).fault = { before: (call) => (call === 'addEntry' ? gate.wait() : undefined) }
    return gate
  }
  /** Adds to a store fail from here on; it still says that it is writable. */
  const breakAdds = (at: number): void => {
    store(at).fault = {
      before: (call) => {
        if (call === 'addEntry') throw failure('io_failed', 'broken disk')
      },
    }
  }
  const entriesOn = (writer: LedgerWriter, at: number): bigint[] =>
    [...store(at).replica.ledger(writer.ledgerId).entries.keys()].sort((a, b) => (a < b ? -1 : 1))
  const ensembles = async (writer: LedgerWriter) =>
    (await one.context.metadata.read(writer.ledgerId)).metadata.ensembles.map(
      ({ firstEntryId, members }) => `${firstEntryId}: ${members.join(' ')}`,
    )
  const contents = async (ledgerId: bigint): Promise<string> => {
    const reader = await LedgerReader.open(world.process().context, ledgerId)
    const last = await reader.lastConfirmed()
    const found: string[] = []
    for (let next = 0n; next <= last; next = BigInt(found.length)) {
      for (const { payload } of await reader.readEntries(next, last, 50))
        found.push(Buffer.from(payload).toString())
    }
    return found.join('')
  }
  beforeEach(() => {
    clock = new ManualClock()
    world = new World(clock, 5)
    one = world.process()
  })
  afterEach(() => world.end())

  test('a store that fails is replaced from the first unacknowledged entry on, which it gets too', async () => {
    const writer = await newLedger(one.context)
    await appendText(writer, 'a')
    breakAdds(1)
    for (const text of ['b', 'c']) await appendText(writer, text)
    await quiet()
    assert.equal(writer.degraded, false)
    assert.deepEqual(writer.members, ['s0', 's3', 's2'])
    const [first, second, ...more] = await ensembles(writer)
    assert.deepEqual([first, more], ['0: s0 s1 s2', []])
    const from = BigInt(present(second?.split(':')[0], 'first entry'))
    assert.ok(
      from === 1n || from === 2n,
      'entry 1 may have been acknowledged by the other two before the change',
    )
    assert.equal(second, `${from}: s0 s3 s2`)
    await appendText(writer, 'd')
    assert.deepEqual(entriesOn(writer, 3)[0], from)
    const header = present(store(3).replica.ledger(writer.ledgerId).header, 'header')
    assert.deepEqual([header.members, header.firstEntryId], [['s0', 's3', 's2'], from])
    const seal = await writer.close()
    assert.deepEqual(seal, { lastEntryId: 3n, lengthBytes: 4 })
    for (const at of [0, 1, 2, 3]) assert.deepEqual(store(at).replica.ledger(writer.ledgerId).seal, seal)
    assert.equal(await contents(writer.ledgerId), 'abcd')
  })

  test('where the last ensemble has no acknowledged entry yet it is replaced in place', async () => {
    breakAdds(0)
    breakAdds(3)
    const writer = await newLedger(one.context, { ...QUORUM_322, ack: 3, min: 3 })
    assert.equal((await appendText(writer, 'a')).copies, 3)
    assert.deepEqual(await ensembles(writer), ['0: s4 s1 s2'])
    assert.deepEqual(
      [0, 1, 2, 3, 4].map((at) => entriesOn(writer, at).length),
      [0, 1, 1, 0, 1],
    )
  })

  test('no acknowledgement counts a copy outside the ensemble of its entry (invariant 1)', async () => {
    const [zero, two, three, four] = [hold(0), hold(2), hold(3), hold(4)]
    const writer = await newLedger(one.context)
    // Entry 1 is on store 1 alone when that one fails: what it holds is no copy any more.
    const outcomes = ['a', 'b'].map((text) => watched(appendText(writer, text)))
    await quiet()
    breakAdds(1)
    const third = watched(appendText(writer, 'c'))
    await quiet()
    assert.deepEqual(await ensembles(writer), ['0: s0 s3 s2'])
    zero.open()
    await quiet()
    for (const outcome of [...outcomes, third])
      assert.equal(outcome.settled, false, 'one copy in the ensemble')
    three.open()
    await quiet()
    for (const outcome of [...outcomes, third]) assert.deepEqual(outcome.value?.copies, 2)
    two.open()
    four.open()
  })

  test('the late answer of a store that was replaced is no copy of the one in its place (invariant 1)', async () => {
    const held = [hold(1), hold(2), hold(3), hold(4)]
    const writer = await newLedger(one.context)
    const first = watched(appendText(writer, 'a'))
    await clock.advance(50_000)
    assert.equal(first.settled, false)
    assert.deepEqual(await ensembles(writer), ['0: s0 s3 s4'])
    for (const gate of held.splice(0, 2)) gate.open()
    await quiet()
    assert.equal(first.settled, false, 'store 0 alone has it, of those that are asked for it')
    for (const gate of held) gate.open()
    await quiet()
    assert.equal(first.value?.copies, 2)
  })

  test('nothing is acknowledged while the change is being committed, then all at once and in order', async () => {
    const gate = new Gate()
    one.metadata.fault = { before: () => gate.wait() }
    const slow = hold(0)
    const writer = await newLedger(one.context)
    breakAdds(1)
    const order: bigint[] = []
    for (const text of ['a', 'b', 'c'])
      void appendText(writer, text).then(({ entryId }) => order.push(entryId))
    await quiet()
    slow.open()
    await quiet()
    assert.deepEqual(order, [])
    assert.equal(writer.lac, -1n, 'entries 0 to 2 are on stores 0 and 2')
    gate.open()
    await quiet()
    assert.deepEqual(order, [0n, 1n, 2n])
  })

  test('stores that fail while others are replaced are replaced in another round', async () => {
    const gate = new Gate()
    one.metadata.fault = { before: () => gate.wait() }
    const writer = await newLedger(one.context)
    breakAdds(1)
    const first = watched(appendText(writer, 'a'))
    await quiet()
    breakAdds(2)
    const second = watched(appendText(writer, 'b'))
    await quiet()
    gate.open()
    await quiet()
    assert.ok(first.value && second.value)
    assert.deepEqual(writer.members, ['s0', 's3', 's4'])
    assert.equal(writer.degraded, false)
    await writer.close()
    assert.equal(await contents(writer.ledgerId), 'ab')
  })

  test('with no store left the ledger goes on degraded, and takes one that comes back later', async () => {
    for (const at of [3, 4]) store(at).state = 'full'
    const writer = await newLedger(one.context)
    breakAdds(1)
    assert.equal((await appendText(writer, 'a')).copies, 2)
    assert.ok(writer.degraded)
    store(4).state = 'writable'
    await appendText(writer, 'b')
    assert.ok(writer.degraded, 'not at every append')
    await clock.advance(11_000)
    await appendText(writer, 'c')
    await quiet()
    assert.equal(writer.degraded, false)
    assert.deepEqual(writer.members, ['s0', 's4', 's2'])
  })

  test('a store is a member of a ledger once: changes are bounded, then it fails as a whole', async () => {
    const writer = await newLedger(one.context)
    for (const at of [0, 1, 2, 3, 4]) breakAdds(at)
    const outcome = watched(appendText(writer, 'a'))
    await quiet(10)
    assert.ok(code('not_enough_stores')(outcome.error))
    assert.equal(
      one.stores.reduce((sum, { calls }) => sum + (calls.get('addEntry') ?? 0), 0),
      5,
    )
  })

  test('a store that hangs is replaced though the others acknowledge without it', async () => {
    const writer = await newLedger(one.context)
    hold(2)
    await appendText(writer, 'a')
    await clock.advance(50_000)
    assert.deepEqual(writer.members, ['s0', 's1', 's3'])
    assert.deepEqual(await ensembles(writer), ['0: s0 s1 s2', '1: s0 s1 s3'])
  })

  test('a recoverer that was first wins: fenced, nothing pending is acknowledged (invariant 3)', async () => {
    const zero = hold(0)
    const writer = await newLedger(one.context)
    const gate = new Gate()
    one.metadata.fault = { before: () => gate.wait() }
    breakAdds(1)
    const pending = watched(appendText(writer, 'a'))
    await quiet()
    // The other is told nothing by store 0, where the entry did not arrive.
    const seal = await recoverLedger(world.process().context, writer.ledgerId)
    assert.deepEqual(seal, { lastEntryId: 0n, lengthBytes: 1 }, 'it was on store 2')
    zero.open()
    gate.open()
    await quiet()
    assert.ok(code('fenced')(pending.error))
    await assert.rejects(writer.close({ evenFailed: true }), code('fenced'))
    assert.equal(store(3).replica.ledger(writer.ledgerId).header, null, 'it was never asked in')
  })

  for (const committed of [true, false]) {
    test(`an answer of the metadata that is lost, ${committed ? 'after' : 'before'} it took the change, is looked up`, async () => {
      const writer = await newLedger(one.context)
      let lost = 1
      const lose = () => {
        if (lost > 0) {
          lost -= 1
          throw failure('store_unavailable', 'connection lost')
        }
      }
      one.metadata.fault = committed ? { after: lose } : { before: lose }
      breakAdds(1)
      const added = watched(appendText(writer, 'a'))
      await quiet()
      assert.equal(added.value?.copies, 2)
      assert.equal(writer.degraded, !committed)
      await clock.advance(11_000)
      await appendText(writer, 'b')
      await quiet()
      assert.equal(writer.degraded, false)
      await writer.close()
      assert.equal(await contents(writer.ledgerId), 'ab')
    })
  }

  test('a change whose end nobody knows does no harm: the ledger goes on, and is closed', async () => {
    const writer = await newLedger(one.context)
    const { metadata } = one
    const read = metadata.read.bind(metadata)
    metadata.fault = {
      after: () => {
        metadata.read = () => Promise.reject(failure('store_unavailable', 'gone'))
        throw failure('store_unavailable', 'connection lost')
      },
    }
    breakAdds(1)
    assert.equal((await appendText(writer, 'a')).copies, 2)
    await quiet()
    metadata.fault = {}
    metadata.read = read
    for (const text of ['b', 'c']) await appendText(writer, text)
    assert.deepEqual(await writer.close(), { lastEntryId: 2n, lengthBytes: 3 })
    assert.equal(await contents(writer.ledgerId), 'abc')
  })

  test('behind a change whose end nobody knows only copies in both ensembles count (invariant 1)', async () => {
    const [zero, two] = [hold(0), hold(2)]
    const writer = await newLedger(one.context)
    const { metadata } = one
    const read = metadata.read.bind(metadata)
    metadata.fault = {
      after: () => {
        metadata.read = () => Promise.reject(failure('store_unavailable', 'gone'))
        throw failure('store_unavailable', 'connection lost')
      },
    }
    // Store 1 has the entry when it fails, and nobody tells the writer that store 3 stands in its place from there on.
    const first = watched(appendText(writer, 'a'))
    await quiet()
    breakAdds(1)
    const second = watched(appendText(writer, 'b'))
    await quiet()
    metadata.fault = {}
    metadata.read = read
    assert.deepEqual(await ensembles(writer), ['0: s0 s3 s2'])
    zero.open()
    await quiet()
    assert.equal(first.settled, false, 'who looks for it asks store 0 alone of those that have it')
    two.open()
    await quiet()
    assert.ok(first.value && second.value)
    const other = world.process()
    present(other.stores[0], 'store 0').state = 'unreachable'
    assert.deepEqual(await recoverLedger(other.context, writer.ledgerId), {
      lastEntryId: 1n,
      lengthBytes: 2,
    })
  })

  test('a ledger that failed is closed at its LAC: what was rejected is no part of it', async () => {
    for (const at of [3, 4]) store(at).state = 'full'
    const writer = await newLedger(one.context)
    await appendText(writer, 'a')
    breakAdds(1)
    breakAdds(2)
    const lost = watched(appendText(writer, 'b'))
    await quiet()
    assert.ok(code('not_enough_stores')(lost.error))
    assert.deepEqual(entriesOn(writer, 0), [0n, 1n])
    assert.deepEqual(await writer.close({ evenFailed: true }), { lastEntryId: 0n, lengthBytes: 1 })
    assert.deepEqual(await recoverLedger(world.process().context, writer.ledgerId), {
      lastEntryId: 0n,
      lengthBytes: 1,
    })
    assert.equal(await contents(writer.ledgerId), 'a')
  })

  test('closing waits for a change under way and names all ensembles', async () => {
    const gate = new Gate()
    const writer = await newLedger(one.context)
    await appendText(writer, 'a')
    one.metadata.fault = { before: () => gate.wait() }
    breakAdds(1)
    const added = watched(appendText(writer, 'b'))
    const closed = watched(writer.close())
    await quiet()
    assert.equal(closed.settled, false)
    gate.open()
    await quiet()
    assert.ok(added.value)
    assert.deepEqual(closed.value, { lastEntryId: 1n, lengthBytes: 2 })
    assert.deepEqual((await ensembles(writer)).length, 2)
  })

  test('an idle tail: a reader sees the last record without another append, also behind a change', async () => {
    const writer = await newLedger(one.context)
    const reader = await LedgerReader.open(world.process().context, writer.ledgerId)
    await appendText(writer, 'a')
    assert.equal(await reader.lastConfirmed(), 0n)
    breakAdds(1)
    await appendText(writer, 'b')
    await quiet()
    assert.equal(await reader.lastConfirmed(), 1n)
    assert.equal(
      Buffer.from(present((await reader.readEntries(1n, 1n, 1))[0], 'entry').payload).toString(),
      'b',
    )
    // The new member alone, of those that know the LAC, and one that does not.
    assert.equal((await store(3).readLac(writer.ledgerId)).explicitLac, 1n)
  })

  test('a reader that opened before a change finds the entries behind it', async () => {
    const writer = await newLedger(one.context)
    await appendText(writer, 'a')
    const two = world.process()
    const reader = await LedgerReader.open(two.context, writer.ledgerId)
    for (const at of [0, 1]) {
      breakAdds(at)
      await appendText(writer, `${at}`)
      await quiet()
    }
    assert.deepEqual(writer.members, ['s3', 's4', 's2'])
    // Of the ensemble the reader knows only store 2 could give it.
    present(two.stores[2], 'store').state = 'unreachable'
    await appendText(writer, 'last')
    const [entry] = await reader.readEntries(writer.lac, writer.lac, 100)
    assert.equal(Buffer.from(present(entry, 'entry').payload).toString(), 'last')
  })

  describe('in recovery', () => {
    test('a store that takes no entry is replaced: found entries end with all their copies', async () => {
      const writer = await newLedger(one.context)
      for (const text of ['a', 'b']) await appendText(writer, text)
      hold(1)
      hold(2)
      void watched(appendText(writer, 'c'))
      await quiet()
      for (const replica of world.replicas) replica.restart()
      const two = world.process()
      present(two.stores[1], 'store').state = 'unreachable'
      assert.deepEqual(await recoverLedger(two.context, writer.ledgerId), { lastEntryId: 2n, lengthBytes: 3 })
      // The entry at the LAC of the last entry is read and written again, so the change begins behind entry 1.
      assert.deepEqual((await ensembles(writer)).slice(1), ['2: s0 s3 s2'])
      assert.deepEqual(
        [0, 2, 3].map((at) => entriesOn(writer, at).includes(2n)),
        [true, true, true],
      )
      assert.equal(await contents(writer.ledgerId), 'abc')
    })

    test('recoverers that replace different stores come to the same end', async () => {
      const writer = await newLedger(one.context)
      await appendText(writer, 'a')
      hold(1)
      hold(2)
      void watched(appendText(writer, 'b'))
      await quiet()
      const others = [world.process(), world.process(), world.process()]
      others.forEach(({ stores }, at) => {
        present(stores[1 + (at % 2)], 'store').fault = {
          before: (call) => {
            if (call === 'addEntry') throw failure('store_full', 'full')
          },
        }
      })
      const seals = await Promise.all(others.map(({ context }) => recoverLedger(context, writer.ledgerId)))
      for (const seal of seals) assert.deepEqual(seal, { lastEntryId: 1n, lengthBytes: 2 })
      assert.equal(await contents(writer.ledgerId), 'ab')
    })

    test('behind several ensembles: the last one is fenced, and the length stands in the one before', async () => {
      const writer = await newLedger(one.context)
      for (const text of ['a', 'bb']) await appendText(writer, text)
      hold(2)
      await clock.advance(0)
      await appendText(writer, 'ccc')
      await clock.advance(50_000)
      assert.deepEqual(await ensembles(writer), ['0: s0 s1 s2', '3: s0 s1 s3'])
      for (const replica of world.replicas) replica.restart()
      assert.deepEqual(await recoverLedger(world.process().context, writer.ledgerId), {
        lastEntryId: 2n,
        lengthBytes: 6,
      })
      assert.equal(await contents(writer.ledgerId), 'abbccc')
    })
  })
})
