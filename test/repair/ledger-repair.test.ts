import assert from 'node:assert/strict'
import { afterEach, beforeEach, describe, test } from 'node:test'
import fc from 'fast-check'
import { packageEntry } from '../../src/format/ledger-digest.js'
import type { LedgerContext } from '../../src/ledger/context.js'
import { LedgerReader } from '../../src/ledger/reader.js'
import { replaceMember } from '../../src/ledger/rebuild.js'
import { repairLedger } from '../../src/ledger/repair.js'
import { RepairQueue } from '../../src/ledger/repair-queue.js'
import { type ColdCopies, fillShare } from '../../src/ledger/share-filler.js'
import { shareEntries, shareOf, withMember } from '../../src/ledger/shares.js'
import { present } from '../../src/model/assert.js'
import { StratalogError } from '../../src/model/errors.js'
import type { Quorum } from '../../src/model/quorum.js'
import { realClock } from '../../src/system/clock.js'
import { MemoryDisk } from '../helpers/memory-disk.js'
import { failure, type MemoryStore } from '../helpers/memory-store.js'
import { appendText, dropMetadata, newLedger, QUORUM_322, World } from '../helpers/protocol.js'
import { afterPowerCut, entryOf, openStore, header as storeHeader } from '../helpers/store.js'

/** Invariant 9: a corrupt copy is repaired where another is good. Invariant 1: repair and rebuild lose nothing. */

let world: World
let context: LedgerContext
let stores: readonly MemoryStore[]
beforeEach(() => {
  world = new World(realClock(), 5)
  const process = world.process()
  context = process.context
  stores = process.stores
})
afterEach(() => world.end())

const text = (entry: number) => `entry ${entry}`.padEnd(40, '.')

async function closed(entries: number, quorum: Quorum = QUORUM_322): Promise<bigint> {
  const writer = await newLedger(context, quorum)
  const acks: Promise<unknown>[] = []
  for (let entry = 0; entry < entries; entry += 1) acks.push(appendText(writer, text(entry)))
  await Promise.all(acks)
  await writer.settled()
  await writer.close()
  return writer.ledgerId
}

const store = (at: number): MemoryStore => stores[at] ?? assert.fail(`no store ${at}`)
const replica = (at: number) => world.replicas[at] ?? assert.fail(`no replica ${at}`)

async function texts(ledgerId: bigint): Promise<string[]> {
  const reader = await LedgerReader.open(context, ledgerId)
  const last = await reader.lastConfirmed()
  const found: string[] = []
  while (BigInt(found.length) <= last) {
    const entries = await reader.readEntries(BigInt(found.length), last, 1 << 20)
    found.push(...entries.map(({ payload }) => Buffer.from(payload).toString()))
  }
  return found
}

/** Every store's share is there, with right digests, by the metadata as they are now. */
async function whole(ledgerId: bigint): Promise<void> {
  const report = await repairLedger(context, ledgerId)
  assert.equal(report.repairedEntries, 0, 'nothing was left to repair')
  assert.equal(report.unrepairableEntries + report.waitingEntries + report.unreachable.length, 0)
  const { metadata } = await context.metadata.read(ledgerId)
  const shares = [...new Set(metadata.ensembles.flatMap(({ members }) => members))]
  const wanted = shares.reduce((sum, id) => sum + Number(shareEntries(metadata, id)), 0)
  assert.equal(report.checkedEntries, wanted)
}

/** The archive, as what it gives. */
function cold(entries: number, damaged: readonly number[] = []): ColdCopies {
  return {
    entries: async (ledgerId, metadata, { first, last }) => {
      const given: Uint8Array[] = []
      for (let entry = Number(first); entry <= Number(last) && entry < entries; entry += 1) {
        if (damaged.includes(entry)) break
        const payload = Buffer.from(text(entry))
        const lengthBytes = BigInt(payload.length) * BigInt(entry + 1)
        const id = BigInt(entry)
        given.push(packageEntry(payload, metadata.digestType, ledgerId, id, id - 1n, lengthBytes))
      }
      return given
    },
    segment: async () => null,
  }
}

describe('repair of one ledger (invariant 9)', () => {
  test('invariant 1: a store that lost a ledger whole does not say "missing" while it is only half mended', async () => {
    const ledgerId = await closed(5)
    const disk = new MemoryDisk()
    const first = await openStore('/store', { disk })
    await first.openLedger(storeHeader(ledgerId))
    for (let id = 0n; id < 5n; id += 1n) await first.addEntry(ledgerId, id, entryOf(ledgerId, id, 40))
    const cut = await afterPowerCut(disk, () => false)
    for (const [path, { bytes }] of cut.files) if (path.includes('/log-')) bytes.fill(0)
    const local = await openStore('/store', { disk: cut })
    const { metadata } = await context.metadata.read(ledgerId)
    for (const at of [1, 2]) replica(at).forget(ledgerId, 3n)
    const share = {
      ledgerId,
      metadata: withMember(metadata, store(0).id, local.id),
      member: local.id,
      target: local.id,
    }
    const get = (id: string) => (id === local.id ? local : context.stores.get(id))
    const stores = { get, all: () => [], writable: async () => [] }
    const report = await fillShare({ ...context, stores }, share, {})
    assert.deepEqual([report.repairedEntries, report.unrepairableEntries], [4, 1])
    // Another store that is away may still have it: a reader must not be told that it is lost.
    assert.equal((await local.readEntry(ledgerId, 3n)).kind, 'suspect')
    await local.close()
  })

  test('absent, torn and damaged copies are taken from the others, digests checked, and read back', async () => {
    const ledgerId = await closed(20)
    replica(0).forget(ledgerId, 3n)
    replica(0).damage(ledgerId, 4n)
    replica(1).damage(ledgerId, 4n)
    replica(1).tear(ledgerId, 15n)
    replica(2).damage(ledgerId, 0n)
    const report = await repairLedger(context, ledgerId)
    assert.equal(report.repairedEntries, 1 + 1 + 1 + 5 + 1)
    assert.equal(report.unrepairableEntries, 0)
    await whole(ledgerId)
  })

  test('a store that does not know the ledger learns it: header, entries, seal', async () => {
    const ledgerId = await closed(10)
    replica(1).ledgers.delete(ledgerId)
    assert.equal((await repairLedger(context, ledgerId)).repairedEntries, 10)
    const [summary] = await store(1).listLedgers(ledgerId - 1n, 1)
    assert.deepEqual(summary?.header?.members, ['s0', 's1', 's2'])
    assert.equal(summary?.seal?.lastEntryId, 9n)
    await whole(ledgerId)
  })

  test('a store that is unreachable is not damaged: nothing is done, and nothing of it is called lost', async () => {
    const ledgerId = await closed(5)
    store(1).state = 'unreachable'
    replica(0).damage(ledgerId, 2n)
    replica(2).damage(ledgerId, 2n)
    const report = await repairLedger(context, ledgerId)
    assert.deepEqual(
      report.unreachable.map(({ storeId }) => storeId),
      ['s1'],
    )
    assert.equal(report.waitingEntries, 2, 'the store that is away may have the good copy')
    assert.equal(report.unrepairableEntries, 0)
    assert.equal(store(1).calls.get('addEntry') ?? 0, 5, 'only the writer wrote to it')
    store(1).state = 'writable'
    assert.equal((await repairLedger(context, ledgerId)).repairedEntries, 2)
    await whole(ledgerId)
  })

  test('an entry that is bad everywhere is named, never overwritten and never deleted', async () => {
    const ledgerId = await closed(5)
    for (const at of [0, 1, 2]) replica(at).damage(ledgerId, 2n)
    const before = Buffer.from(replica(0).ledger(ledgerId).entries.get(2n) ?? assert.fail())
    const report = await repairLedger(context, ledgerId)
    assert.equal(report.unrepairableEntries, 3)
    assert.deepEqual(
      report.unrepairable.map(({ storeId, entryId }) => `${storeId} ${entryId}`),
      ['s0 2', 's1 2', 's2 2'],
    )
    assert.deepEqual(replica(0).ledger(ledgerId).entries.get(2n), before)
  })

  test('the archive gives what no store has, and not what does not match', async () => {
    const ledgerId = await closed(6)
    for (const at of [0, 1, 2]) {
      replica(at).damage(ledgerId, 2n)
      replica(at).forget(ledgerId, 4n)
    }
    const report = await repairLedger(context, ledgerId, { cold: cold(6, [4]) })
    assert.equal(report.unrepairableEntries, 3)
    assert.equal((await repairLedger(context, ledgerId, { cold: cold(6) })).unrepairableEntries, 0)
    await whole(ledgerId)
    assert.deepEqual(await texts(ledgerId), [0, 1, 2, 3, 4, 5].map(text))
  })

  test('an archive that does not answer makes nothing lost', async () => {
    const ledgerId = await closed(3)
    for (const at of [0, 1, 2]) replica(at).forget(ledgerId, 1n)
    const away: ColdCopies = {
      entries: () => Promise.reject(failure('archive_unavailable', '503')),
      segment: async () => null,
    }
    const report = await repairLedger(context, ledgerId, { cold: away })
    assert.equal(report.unrepairableEntries, 0)
    assert.equal(report.waitingEntries, 3)
  })

  test('open and recovering ledgers are not touched (invariants 1 and 3)', async () => {
    const writer = await newLedger(context)
    await appendText(writer, 'one')
    await writer.settled()
    replica(0).forget(writer.ledgerId, 0n)
    assert.equal((await repairLedger(context, writer.ledgerId)).state, 'open')
    assert.equal(replica(0).ledger(writer.ledgerId).entries.size, 0)
  })

  test('a write that did not happen is found by reading back', async () => {
    const ledgerId = await closed(3)
    replica(0).forget(ledgerId, 1n)
    store(0).fault = {
      after: (call, id, entry) => void (call === 'addEntry' && replica(0).forget(id, entry ?? 0n)),
    }
    const report = await repairLedger(context, ledgerId)
    assert.equal(report.repairedEntries, 0)
    assert.match(report.unreachable[0]?.reason ?? '', /back as it was written/)
  })

  test('backpressure is waited out', async () => {
    const ledgerId = await closed(3)
    replica(0).forget(ledgerId, 1n)
    let refusals = 3
    store(0).fault = {
      before: (call) => {
        if (call !== 'addEntry' || refusals === 0) return
        refusals -= 1
        throw failure('backpressure', 'later')
      },
    }
    assert.equal((await repairLedger(context, ledgerId)).repairedEntries, 1)
  })

  test('whatever is lost or damaged on fewer stores than all comes back, for any quorum', async () => {
    const quorum = fc.constantFrom<Quorum>(
      QUORUM_322,
      { ensemble: 5, copies: 3, ack: 2, min: 2 },
      { ensemble: 4, copies: 2, ack: 2, min: 2 },
      { ensemble: 5, copies: 5, ack: 3, min: 3 },
    )
    const hurt = fc.record({ entry: fc.nat(29), pick: fc.nat(4), way: fc.constantFrom('forget', 'damage') })
    await fc.assert(
      fc.asyncProperty(quorum, fc.array(hurt, { maxLength: 40 }), async (chosen, harm) => {
        const ledgerId = await closed(30, chosen)
        const { metadata } = await context.metadata.read(ledgerId)
        // A store that is slow on a busy machine rests: the ensemble may be smaller than was asked for.
        const { ensembleSize, writeQuorum } = metadata
        const members = metadata.ensembles[0]?.members ?? []
        const spared = new Map<number, number>()
        let hurtCopies = new Set<string>()
        for (const { entry, pick, way } of harm) {
          const set = Array.from({ length: writeQuorum }, (_, i) => (entry + i) % ensembleSize)
          // One copy of each entry stays: the first that is not picked first.
          const at = set[pick % set.length] ?? 0
          if (!spared.has(entry)) spared.set(entry, set[(pick + 1) % set.length] ?? 0)
          if (spared.get(entry) === at || hurtCopies.has(`${entry}/${at}`)) continue
          hurtCopies = new Set([...hurtCopies, `${entry}/${at}`])
          const number = Number((members[at] ?? '').slice(1))
          replica(number)[way === 'forget' ? 'forget' : 'damage'](ledgerId, BigInt(entry))
        }
        const report = await repairLedger(context, ledgerId)
        assert.equal(report.repairedEntries, hurtCopies.size)
        await whole(ledgerId)
        assert.deepEqual(
          await texts(ledgerId),
          Array.from({ length: 30 }, (_, entry) => text(entry)),
        )
      }),
      { numRuns: 60 },
    )
  })
})

describe('repair of what readers found', () => {
  test('mends once, whatever is reported, and never from bytes that do not match', async () => {
    const ledgerId = await closed(4)
    replica(0).forget(ledgerId, 1n)
    replica(0).damage(ledgerId, 2n)
    const queue = new RepairQueue(context)
    const good = (entryId: bigint) =>
      Buffer.from(replica(1).ledger(ledgerId).entries.get(entryId) ?? assert.fail())
    const report = (entryId: bigint, bytes: Uint8Array, storeId = 's0') =>
      queue.damaged({ ledgerId, entryId, storeId, bytes, reason: 'test' })
    for (let again = 0; again < 5; again += 1) report(1n, good(1n))
    report(3n, good(3n))
    report(1n, good(1n), 's4')
    await queue.settled()
    assert.deepEqual(queue.counts, { repaired: 1, failed: 0, dropped: 0 })
    report(2n, good(1n))
    await queue.settled()
    assert.deepEqual(queue.counts, { repaired: 1, failed: 1, dropped: 0 })
    // The store rests after a failure: what readers go on to report is left to the scrub.
    report(2n, good(2n))
    assert.deepEqual(queue.counts, { repaired: 1, failed: 1, dropped: 1 })
    await queue.close()
    assert.equal((await repairLedger(context, ledgerId)).repairedEntries, 1)
  })

  test('what waits is bounded, and closing forgets it (invariant 11)', async () => {
    const ledgerId = await closed(2)
    const queue = new RepairQueue(context)
    const bytes = Buffer.alloc(100)
    for (let entry = 0n; entry < 1_500n; entry += 1n)
      queue.damaged({ ledgerId, entryId: entry, storeId: 's0', bytes, reason: null })
    assert.equal(queue.counts.dropped, 500)
    await queue.close()
    queue.damaged({ ledgerId, entryId: 0n, storeId: 's0', bytes, reason: null })
    await queue.settled()
    assert.equal(store(0).calls.get('addEntry'), 2)
  })
})

describe('another store in the place of a lost one (invariant 1)', () => {
  for (const quorum of [QUORUM_322, { ensemble: 4, copies: 2, ack: 2, min: 2 }] satisfies Quorum[]) {
    test(`its share is copied, then the metadata name it (E ${quorum.ensemble}, Qw ${quorum.copies})`, async () => {
      const ledgerId = await closed(30, quorum)
      store(1).state = 'unreachable'
      const done = await replaceMember(context, ledgerId, { from: 's1', to: 's4' })
      assert.equal(done.outcome, 'replaced')
      const { metadata } = await context.metadata.read(ledgerId)
      assert.deepEqual(metadata.ensembles[0]?.members[1], 's4')
      assert.equal(done.repairedEntries, Number(shareEntries(metadata, 's4')))
      await whole(ledgerId)
      assert.deepEqual(
        await texts(ledgerId),
        Array.from({ length: 30 }, (_, entry) => text(entry)),
      )
      const again = await replaceMember(context, ledgerId, { from: 's1', to: 's4' })
      assert.deepEqual([again.outcome, again.checkedEntries], ['replaced', 0])
    })
  }

  test('a crash at any step leaves a ledger that is whole without the new store, and running again ends it', async () => {
    const ledgerId = await closed(8)
    store(1).state = 'unreachable'
    const calls = ['openLedger', 'addEntry', 'sealLedger'] as const
    let crashes = 0
    for (const when of ['before', 'after'] as const) {
      for (const crashing of calls) {
        for (let count = 0; count < (crashing === 'addEntry' ? 8 : 1); count += 1) {
          let left = count
          const crash = (call: string) => {
            if (call !== crashing) return
            if (left === 0) throw failure('io_failed', 'the test ends it here')
            left -= 1
          }
          store(4).fault = { [when]: crash }
          const tried = await replaceMember(context, ledgerId, { from: 's1', to: 's4' })
          if (tried.outcome === 'incomplete') crashes += 1
          const { metadata } = await context.metadata.read(ledgerId)
          assert.equal(metadata.ensembles[0]?.members.includes('s4'), false)
          assert.equal((await texts(ledgerId)).length, 8)
          replica(4).ledgers.clear()
        }
      }
    }
    assert.equal(crashes, 20, 'each of them was a crash')
    store(4).fault = {}
    const lost = world.metadata.ledgers.compareAndSet.bind(world.metadata.ledgers)
    const cut: LedgerContext = {
      ...context,
      metadata: Object.assign(Object.create(context.metadata), {
        compareAndSet: async (...args: Parameters<typeof lost>) => {
          await lost(...args)
          throw failure('io_failed', 'the answer is lost')
        },
      }),
    }
    await assert.rejects(replaceMember(cut, ledgerId, { from: 's1', to: 's4' }))
    assert.equal((await replaceMember(context, ledgerId, { from: 's1', to: 's4' })).outcome, 'replaced')
    await whole(ledgerId)
  })

  test('a store that the writer went on with takes the place in the ensembles before as well, but never twice', async () => {
    const writer = await newLedger(context)
    for (let entry = 0; entry < 4; entry += 1) await appendText(writer, text(entry))
    store(1).state = 'unreachable'
    for (let entry = 4; entry < 8; entry += 1) await appendText(writer, text(entry))
    const { ledgerId } = writer
    const ensembles = async () => (await context.metadata.read(ledgerId)).metadata.ensembles
    while ((await ensembles()).length < 2) await context.clock.sleep(5)
    await writer.close()
    const to = present((await ensembles())[1]?.members[1], 'the store it went on with')
    assert.notEqual(to, 's1')
    assert.equal((await replaceMember(context, ledgerId, { from: 's1', to: 's0' })).outcome, 'incomplete')
    assert.equal((await replaceMember(context, ledgerId, { from: 's1', to })).outcome, 'replaced')
    const [before, after] = await ensembles()
    assert.deepEqual(before?.members, after?.members)
    await whole(ledgerId)
    assert.deepEqual(
      await texts(ledgerId),
      Array.from({ length: 8 }, (_, entry) => text(entry)),
    )
  })

  test('a share that can not be had whole changes nothing', async () => {
    const ledgerId = await closed(5)
    store(1).state = 'unreachable'
    for (const at of [0, 2]) replica(at).damage(ledgerId, 3n)
    const done = await replaceMember(context, ledgerId, { from: 's1', to: 's4' })
    assert.equal(done.outcome, 'incomplete')
    assert.deepEqual((await context.metadata.read(ledgerId)).metadata.ensembles[0]?.members, [
      's0',
      's1',
      's2',
    ])
    // The old store comes back with the only good copy.
    store(1).state = 'writable'
    assert.equal((await replaceMember(context, ledgerId, { from: 's1', to: 's4' })).outcome, 'replaced')
    assert.equal((await repairLedger(context, ledgerId)).repairedEntries, 2)
    await whole(ledgerId)
  })

  test('an open ledger waits for its writer; one deleted meanwhile leaves nothing on the new store', async () => {
    const writer = await newLedger(context)
    await appendText(writer, 'one')
    assert.equal((await replaceMember(context, writer.ledgerId, { from: 's1', to: 's4' })).outcome, 'open')
    await writer.close()
    store(4).fault = {
      before: async (call) => {
        if (call === 'sealLedger') await dropMetadata(context.metadata, writer.ledgerId)
      },
    }
    assert.equal((await replaceMember(context, writer.ledgerId, { from: 's1', to: 's4' })).outcome, 'gone')
    assert.equal(replica(4).ledger(writer.ledgerId).entries.size, 0)
  })

  test('one deleted in the middle of the copying leaves nothing on the new store either', async () => {
    const ledgerId = await closed(5)
    let written = false
    store(4).fault = {
      before: async (call) => {
        if (call === 'addEntry') written = true
        if (call !== 'readEntries' || !written) return
        await dropMetadata(context.metadata, ledgerId)
        throw new StratalogError('store_unavailable', 'cut off')
      },
    }
    assert.equal((await replaceMember(context, ledgerId, { from: 's1', to: 's4' })).outcome, 'gone')
    assert.equal(replica(4).ledger(ledgerId).entries.size, 0)
  })

  test('a member of the ledger takes no second place in it', async () => {
    const ledgerId = await closed(5)
    assert.equal((await replaceMember(context, ledgerId, { from: 's1', to: 's2' })).outcome, 'incomplete')
  })

  test('shares are what striping says', async () => {
    const ledgerId = await closed(7, { ensemble: 3, copies: 2, ack: 2, min: 2 })
    const { metadata } = await context.metadata.read(ledgerId)
    const members = metadata.ensembles[0]?.members ?? []
    const runs = members.map((id) => [...shareOf(metadata, id)].map(({ first, last }) => `${first}-${last}`))
    // Entry e is on indexes e and e + 1 (mod 3).
    assert.deepEqual(runs, [
      ['0-0', '2-3', '5-6'],
      ['0-1', '3-4', '6-6'],
      ['1-2', '4-5'],
    ])
  })
})
