import assert from 'node:assert/strict'
import { afterEach, beforeEach, describe, test } from 'node:test'
import { PackagedEntry } from '../../src/format/packaged-entry.js'
import { StratalogError } from '../../src/model/errors.js'
import type { LedgerHeader } from '../../src/ports/segment-store.js'
import { findLedgers } from '../../src/rebuild/found-ledgers.js'
import { realClock } from '../../src/system/clock.js'
import { type Process, World } from '../helpers/protocol.js'
import { entryOf, header } from '../helpers/store.js'

let world: World
let process: Process
beforeEach(() => {
  world = new World(realClock(), 4)
  process = world.process()
})
afterEach(() => world.end())

const three = (firstEntryId: bigint, members: readonly string[]): LedgerHeader => ({
  ...header(7n),
  ensembleSize: 3,
  writeQuorum: 3,
  ackQuorum: 2,
  members,
  firstEntryId,
})

describe('what the stores together tell of a ledger', () => {
  test('replacements are in its ensembles, whoever is asked first', async () => {
    const [s0, s1, s2, s3] = process.stores
    for (const store of [s0, s1, s2]) await store?.openLedger(three(0n, ['s0', 's1', 's2']))
    await s3?.openLedger(three(5n, ['s0', 's1', 's3']))
    const { ledgers } = await findLedgers(process.context)
    assert.deepEqual(ledgers.get(7n)?.ensembles, [
      { firstEntryId: 0n, members: ['s0', 's1', 's2'] },
      { firstEntryId: 5n, members: ['s0', 's1', 's3'] },
    ])
  })

  test('the first ensemble gone: the next one stands for it', async () => {
    await process.stores[3]?.openLedger(three(5n, ['s0', 's1', 's3']))
    const { ledgers } = await findLedgers(process.context)
    assert.deepEqual(ledgers.get(7n)?.ensembles, [{ firstEntryId: 0n, members: ['s0', 's1', 's3'] }])
  })

  test('a store that took a lost one’s place is named before the lost one', async () => {
    const [s0, s1, , s3] = process.stores
    for (const store of [s0, s1]) await store?.openLedger(three(0n, ['s0', 's1', 'lost']))
    await s3?.openLedger(three(0n, ['s0', 's1', 's3']))
    const { ledgers } = await findLedgers(process.context)
    assert.deepEqual(ledgers.get(7n)?.ensembles, [{ firstEntryId: 0n, members: ['s0', 's1', 's3'] }])
  })

  test('ids of preceding ledgers count, entries are counted, a store that fails is named (invariant 8)', async () => {
    const [s0, s1] = process.stores
    const preceding = { ledgerId: 99n, lastEntryId: 3n, lengthBytes: 4 }
    await s0?.openLedger({ ...three(0n, ['s0', 's1', 's2']), preceding })
    await s0?.addEntry(7n, 0n, new PackagedEntry(entryOf(7n, 0n, 10).bytes))
    await s0?.sealLedger(7n, { lastEntryId: 0n, lengthBytes: 10 })
    assert.ok(s1 !== undefined)
    Object.assign(s1, {
      listLedgers: () => Promise.reject(new StratalogError('io_failed', 'injected')),
    })
    const found = await findLedgers(process.context)
    assert.equal(found.highestId, 99n)
    assert.deepEqual(found.ledgers.get(7n)?.seal, { lastEntryId: 0n, lengthBytes: 10 })
    assert.equal(found.ledgers.get(7n)?.copies.get('s0'), 1)
    assert.deepEqual(
      found.unread.map(({ store }) => store),
      ['s1'],
    )
  })
})
