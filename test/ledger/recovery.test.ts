import assert from 'node:assert/strict'
import { Buffer } from 'node:buffer'
import { afterEach, beforeEach, describe, test } from 'node:test'
import { packageEntry } from '../../src/format/ledger-digest.js'
import { PackagedEntry } from '../../src/format/packaged-entry.js'
import { LedgerReader } from '../../src/ledger/reader.js'
import { recoverLedger } from '../../src/ledger/recovery.js'
import type { LedgerWriter } from '../../src/ledger/writer.js'
import { present } from '../../src/model/assert.js'
import { isStratalogError } from '../../src/model/errors.js'
import { ensembleAt } from '../../src/model/ledger.js'
import type { Quorum } from '../../src/model/quorum.js'
import { ManualClock } from '../helpers/manual-clock.js'
import { failure, Gate, type MemoryReplica } from '../helpers/memory-store.js'
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
const STRIPED: Quorum = { ensemble: 5, copies: 3, ack: 2, min: 3 }

describe('ledger recovery', () => {
  let clock: ManualClock
  let world: World
  let one: Process
  let two: Process
  beforeEach(() => {
    clock = new ManualClock()
    world = new World(clock, 5)
    one = world.process()
    two = world.process()
  })
  afterEach(() => world.end())
  const replica = (at: number): MemoryReplica => present(world.replicas[at], `replica ${at}`)
  const recover = (writer: LedgerWriter) => recoverLedger(two.context, writer.ledgerId)

  /** A ledger whose writer died: `texts` acknowledged, nobody knows but from the entries. */
  const crashed = async (texts: readonly string[], quorum = QUORUM_322): Promise<LedgerWriter> => {
    const writer = await newLedger(one.context, quorum)
    for (const text of texts) await appendText(writer, text)
    await quiet()
    for (const one of world.replicas) one.restart()
    return writer
  }
  /** Puts an entry on one store only, as a writer that died while it sent it. */
  const strand = async (
    writer: LedgerWriter,
    entryId: bigint,
    text: string,
    length: bigint,
    ats: number[],
  ) => {
    const bytes = packageEntry(Buffer.from(text), 'CRC32C', writer.ledgerId, entryId, writer.lac, length)
    for (const at of ats) await one.stores[at]?.addEntry(writer.ledgerId, entryId, new PackagedEntry(bytes))
    for (const one of world.replicas) one.restart()
  }
  const contents = async (ledgerId: bigint): Promise<string[]> => {
    const reader = await LedgerReader.open(two.context, ledgerId)
    const last = await reader.lastConfirmed()
    const texts: string[] = []
    for (let next = 0n; next <= last; ) {
      for (const entry of await reader.readEntries(next, last, 1 << 20)) {
        assert.equal(entry.entryId, next)
        texts.push(Buffer.from(entry.payload).toString())
        next += 1n
      }
    }
    return texts
  }
  /** Every entry of the ledger is on Qa stores with a valid digest, or recovery did half its work. */
  const copiesOf = (writer: LedgerWriter, entryId: bigint): number =>
    world.replicas.filter((one) => one.ledger(writer.ledgerId).entries.has(entryId)).length

  for (const [name, quorum] of [
    ['E = Qw', QUORUM_322],
    ['E > Qw', STRIPED],
  ] as const) {
    describe(name, () => {
      test('all stores present: everything acknowledged is there, the length is right, every store is sealed', async () => {
        const texts = Array.from({ length: 13 }, (_, id) => `entry ${id}`)
        const writer = await crashed(texts, quorum)
        const seal = await recover(writer)
        const lengthBytes = texts.join('').length
        assert.deepEqual(seal, { lastEntryId: 12n, lengthBytes })
        assert.deepEqual(await contents(writer.ledgerId), texts)
        for (const id of writer.members) {
          const at = Number(id.slice(1))
          assert.deepEqual(replica(at).ledger(writer.ledgerId).seal, seal)
        }
      })

      test('an explicit LAC counts, and the entries below it are not written again', async () => {
        const writer = await newLedger(one.context, quorum)
        for (const text of ['a', 'b', 'c']) await appendText(writer, text)
        const adds = () => two.stores.reduce((sum, store) => sum + (store.calls.get('addEntry') ?? 0), 0)
        assert.deepEqual(await recover(writer), { lastEntryId: 2n, lengthBytes: 3 })
        assert.equal(adds(), 0)
      })

      test('entries above the LAC that one store alone has are kept and written to the others', async () => {
        const writer = await crashed(['a', 'b'], quorum)
        await strand(writer, 2n, 'c', 3n, [2])
        assert.deepEqual(await recover(writer), { lastEntryId: 2n, lengthBytes: 3 })
        assert.deepEqual(await contents(writer.ledgerId), ['a', 'b', 'c'])
        assert.equal(copiesOf(writer, 2n), 3)
      })

      test('the ledger ends before the first hole: what lies beyond was never acknowledged', async () => {
        const writer = await crashed(['a', 'b'], quorum)
        await strand(writer, 3n, 'd', 4n, quorum === STRIPED ? [3] : [2])
        assert.deepEqual(await recover(writer), { lastEntryId: 1n, lengthBytes: 2 })
        assert.deepEqual(await contents(writer.ledgerId), ['a', 'b'])
      })

      test('one store unreachable: the end is known all the same', async () => {
        const writer = await crashed(['a', 'b', 'c', 'd'], quorum)
        const gone = present(two.stores[0], 'store')
        gone.state = 'unreachable'
        assert.deepEqual(await recover(writer), { lastEntryId: 3n, lengthBytes: 4 })
        assert.deepEqual(await contents(writer.ledgerId), ['a', 'b', 'c', 'd'])
      })

      test('too many unknown: ledger_recovering, the state stays IN_RECOVERY, a later try succeeds', async () => {
        const writer = await crashed(['a', 'b', 'c', 'd', 'e', 'f'], quorum)
        const away = two.stores.slice(0, 2)
        for (const store of away) store.state = 'unreachable'
        for (let turn = 0; turn < 2; turn += 1) {
          await assert.rejects(
            recover(writer),
            (error) => isStratalogError(error, 'ledger_recovering') && error.retryable,
          )
          assert.equal((await two.context.metadata.read(writer.ledgerId)).metadata.state, 'IN_RECOVERY')
        }
        for (const store of away) store.state = 'writable'
        assert.deepEqual(await recover(writer), { lastEntryId: 5n, lengthBytes: 6 })
      })

      test('errors are never taken for missing, whatever their code', async () => {
        for (const error of [
          failure('io_failed', 'EIO'),
          failure('corrupt', 'bits'),
          failure('ledger_not_found', 'who?'),
          new Error('a bug of the engine'),
        ]) {
          const writer = await crashed(['a', 'b', 'c'], quorum)
          // Entry 2 was acknowledged by two of its stores. Where both can't tell, nobody may end the ledger before it.
          const holders = quorum === STRIPED ? [2, 3, 4] : [0, 1, 2]
          replica(present(holders[2], 'holder')).forget(writer.ledgerId, 2n)
          for (const at of holders.slice(0, 2)) {
            const store = present(two.stores[at], 'store')
            store.fault = {
              before: (call, _, entryId) => {
                if (call === 'readEntry' && entryId === 2n) throw error
              },
            }
          }
          await assert.rejects(recover(writer), code('ledger_recovering'))
          for (const store of two.stores) store.fault = {}
          assert.deepEqual(await recover(writer), { lastEntryId: 2n, lengthBytes: 3 })
        }
      })

      test('a damaged copy is unknown and another one is used', async () => {
        const writer = await crashed(['a', 'b', 'c'], quorum)
        replica(2).damage(writer.ledgerId, 2n)
        assert.deepEqual(await recover(writer), { lastEntryId: 2n, lengthBytes: 3 })
        assert.deepEqual(await contents(writer.ledgerId), ['a', 'b', 'c'])
      })

      test('two recoverers at once give the same, and so does one more', async () => {
        const writer = await crashed(['a', 'b', 'c'], quorum)
        await strand(writer, 3n, 'd', 4n, [3 % writer.members.length])
        const others = [world.process(), world.process(), world.process()]
        const seals = await Promise.all(others.map(({ context }) => recoverLedger(context, writer.ledgerId)))
        seals.push(await recover(writer))
        for (const seal of seals) assert.deepEqual(seal, { lastEntryId: 3n, lengthBytes: 4 })
        assert.deepEqual(await contents(writer.ledgerId), ['a', 'b', 'c', 'd'])
      })
    })
  }

  test('suspect tails end the ledger, but only where no store has the entry', async () => {
    const writer = await crashed(['a', 'b', 'c'])
    replica(0).tear(writer.ledgerId, 1n)
    replica(1).tear(writer.ledgerId, 2n)
    assert.deepEqual(await recover(writer), { lastEntryId: 2n, lengthBytes: 3 })
    assert.equal(copiesOf(writer, 2n), 3)
    const torn = await crashed(['a', 'b', 'c'])
    for (const at of [0, 1, 2]) replica(at).tear(torn.ledgerId, 2n)
    assert.deepEqual(await recover(torn), { lastEntryId: 1n, lengthBytes: 2 })
  })

  test('the entry at the LAC is lost only if every store denies it', async () => {
    const writer = await newLedger(one.context)
    await appendText(writer, 'a')
    await quiet()
    for (const at of [0, 1]) replica(at).forget(writer.ledgerId, 0n)
    const holder = present(two.stores[2], 'store')
    holder.fault = {
      before: (call) => {
        if (call === 'readEntry') throw failure('io_failed', 'EIO')
      },
    }
    await assert.rejects(recover(writer), code('ledger_recovering'))
    holder.fault = {}
    assert.deepEqual(await recover(writer), { lastEntryId: 0n, lengthBytes: 1 })
    const lost = await newLedger(one.context)
    await appendText(lost, 'a')
    await quiet()
    for (const at of [0, 1, 2]) replica(at).forget(lost.ledgerId, 0n)
    await assert.rejects(recover(lost), code('entry_missing'))
  })

  test('a ledger that reached one store only is recovered onto the others', async () => {
    const gate = new Gate()
    for (const at of [1, 2]) {
      const store = present(one.stores[at], 'store')
      store.fault = { before: () => gate.wait() }
    }
    const writer = await newLedger(one.context)
    const added = watched(appendText(writer, 'a'))
    await quiet()
    assert.deepEqual(await recover(writer), { lastEntryId: 0n, lengthBytes: 1 })
    assert.equal(copiesOf(writer, 0n), 3)
    gate.open()
    await quiet()
    assert.ok(code('fenced')(added.error))
  })

  test('an empty ledger closes at −1', async () => {
    const writer = await crashed([])
    assert.deepEqual(await recover(writer), { lastEntryId: -1n, lengthBytes: 0 })
  })

  test('a closed ledger is only looked up', async () => {
    const writer = await newLedger(one.context)
    await appendText(writer, 'a')
    await writer.close()
    for (const store of two.stores) store.state = 'unreachable'
    assert.deepEqual(await recover(writer), { lastEntryId: 0n, lengthBytes: 1 })
  })

  test('too few stores take the found entry: ledger_recovering, then it goes on', async () => {
    const writer = await crashed(['a'])
    await strand(writer, 1n, 'b', 2n, [0])
    for (const store of two.stores.slice(1)) {
      store.fault = {
        before: (call) => {
          if (call === 'addEntry') throw failure('store_full', 'full')
        },
      }
    }
    await assert.rejects(recover(writer), code('ledger_recovering'))
    for (const store of two.stores) store.fault = {}
    assert.deepEqual(await recover(writer), { lastEntryId: 1n, lengthBytes: 2 })
  })

  test('what a recovery that failed put on stores of its own choice is put where others look (invariant 1)', async () => {
    const writer = await crashed(['a', 'b'], { ensemble: 3, copies: 2, ack: 2, min: 2 })
    await strand(writer, 2n, 'c', 3n, [0])
    await strand(writer, 3n, 'd', 4n, [0])
    // The first recoverer puts entry 2 on a store outside of the ensemble, entry 3 where it belongs, and then can't
    // tell whether there is an entry 4. Nobody learns of the store that it chose.
    present(two.stores[2], 'store').state = 'unreachable'
    present(two.stores[1], 'store').fault = {
      before: (call) => {
        if (call === 'readEntry') throw failure('io_failed', 'EIO')
      },
    }
    await assert.rejects(recover(writer), code('ledger_recovering'))
    assert.equal(copiesOf(writer, 2n), 2, 'the first recoverer did what this test is about')

    assert.deepEqual(await recoverLedger(world.process().context, writer.ledgerId), {
      lastEntryId: 3n,
      lengthBytes: 4,
    })
    const { metadata } = await two.context.metadata.read(writer.ledgerId)
    for (const entryId of [2n, 3n]) {
      const holding = ensembleAt(metadata, entryId).filter((id) =>
        replica(Number(id.slice(1)))
          .ledger(writer.ledgerId)
          .entries.has(entryId),
      )
      assert.ok(holding.length >= 2, `entry ${entryId} is on ${holding} of its ensemble`)
    }
  })

  test('a store that has too much to do for a while gets its copy all the same', async () => {
    const writer = await crashed(['a'])
    await strand(writer, 1n, 'b', 2n, [0])
    let busy = true
    present(two.stores[1], 'store').fault = {
      before: (call) => {
        if (call === 'addEntry' && busy) throw failure('backpressure', 'too much waits')
      },
    }
    const recovered = watched(recover(writer))
    await clock.advance(1_000)
    assert.equal(recovered.settled, false)
    busy = false
    await clock.advance(100)
    assert.deepEqual(recovered.value, { lastEntryId: 1n, lengthBytes: 2 })
    assert.deepEqual((await two.context.metadata.read(writer.ledgerId)).metadata.ensembles.length, 1)
    assert.equal(copiesOf(writer, 1n), 3)
  })

  test('a store that hangs is waited for once, not for each entry', async () => {
    const writer = await crashed(['a', 'b', 'c'])
    for (const [id, text] of ['d', 'e', 'f', 'g'].entries()) {
      await strand(writer, BigInt(id) + 3n, text, BigInt(id) + 4n, [0, 1])
    }
    const hung = present(two.stores[2], 'store')
    hung.fault = { before: () => new Promise(() => {}) }
    const recovered = watched(recover(writer))
    await clock.advance(21_000)
    assert.equal(recovered.settled, false, 'closing still waits for its seal')
    await clock.advance(2_000)
    assert.deepEqual(recovered.value, { lastEntryId: 6n, lengthBytes: 7 })
    assert.equal(hung.calls.get('readEntry') ?? 0, 0)
  })

  test('a recoverer that is overtaken while its stores refuse it takes the result of the other', async () => {
    const writer = await crashed(['a'])
    await strand(writer, 1n, 'b', 2n, [0])
    const gates = [new Gate(), new Gate(), new Gate()]
    const slow = world.process()
    for (const [at, gate] of gates.entries()) {
      const store = present(slow.stores[at], 'store')
      store.fault = { before: (call) => (call === 'addEntry' ? gate.wait() : undefined) }
    }
    const overtaken = watched(recoverLedger(slow.context, writer.ledgerId))
    await quiet(6)
    // The other can't see the stranded entry, so the ledger ends before it.
    present(two.stores[0], 'store').state = 'unreachable'
    assert.deepEqual(await recover(writer), { lastEntryId: 0n, lengthBytes: 1 })
    for (const gate of gates) gate.open()
    await quiet(6)
    assert.deepEqual(overtaken.value, { lastEntryId: 0n, lengthBytes: 1 })
  })

  test('a store that missed the fence is fenced by the reads: the old writer gets no entry in behind the end', async () => {
    const writer = await crashed(['a', 'b'])
    const missed = present(two.stores[2], 'store')
    missed.fault = {
      before: (call) => {
        if (call === 'fence') throw failure('store_unavailable', 'a packet was lost')
      },
    }
    assert.deepEqual(await recover(writer), { lastEntryId: 1n, lengthBytes: 2 })
    assert.equal(replica(2).ledger(writer.ledgerId).fenced, true)
  })

  test('every store that can be asked is fenced before the end is looked for (invariant 3)', async () => {
    const writer = await crashed(['a', 'b'], STRIPED)
    const seen: boolean[][] = []
    const fenced = () => [0, 1, 2].map((at) => replica(at).ledger(writer.ledgerId).fenced)
    for (const store of two.stores)
      store.fault = {
        before: (call) => {
          if (call === 'readEntry') seen.push(fenced())
        },
      }
    await recover(writer)
    assert.deepEqual(seen[0], [true, true, true], 'also those that hold no copy of what is read first')
  })

  test('an ensemble says by its beginning what was acknowledged: those before it need not be asked', async () => {
    const writer = await newLedger(one.context, { ensemble: 2, copies: 2, ack: 2, min: 2 })
    for (const at of [0, 1])
      present(one.stores[at], 'store').fault = {
        before: async (call, _, entryId) => {
          if (call !== 'addEntry' || entryId !== 1n) return
          await quiet()
          throw failure('io_failed', 'broken disk')
        },
      }
    // Together, so that the second does not carry the LAC of the first.
    await Promise.all([appendText(writer, 'a'), appendText(writer, 'b')])
    assert.deepEqual([...writer.members].sort(), ['s2', 's3'])
    for (const one of world.replicas) one.restart()
    for (const at of [0, 1]) present(two.stores[at], 'store').state = 'unreachable'
    assert.deepEqual(await recover(writer), { lastEntryId: 1n, lengthBytes: 2 })
  })

  test('an unknown ledger is ledger_not_found', async () => {
    await assert.rejects(recoverLedger(two.context, 77n), code('ledger_not_found'))
  })
})
