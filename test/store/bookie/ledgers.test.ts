import assert from 'node:assert/strict'
import { Buffer } from 'node:buffer'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { entryHeaderBytes } from '../../../src/format/ledger-digest.js'
import type { LedgerContext, StoreDirectory } from '../../../src/ledger/context.js'
import { LedgerReader } from '../../../src/ledger/reader.js'
import { recoverLedger } from '../../../src/ledger/recovery.js'
import { StoreHealth } from '../../../src/ledger/store-health.js'
import { type EntryAck, LedgerWriter } from '../../../src/ledger/writer.js'
import { openSqliteMetadata, type SqliteMetadata } from '../../../src/metadata/sqlite/open.js'
import { present } from '../../../src/model/assert.js'
import { isStratalogError } from '../../../src/model/errors.js'
import type { Quorum } from '../../../src/model/quorum.js'
import type { BookieStore } from '../../../src/store/bookie/store.js'
import { realClock } from '../../../src/system/clock.js'
import { memoryLogger } from '../../helpers/archive.js'
import { bookieAt } from '../../helpers/bookie.js'
import { type Bookies, startBookies } from '../../servers/bookkeeper.js'
import { skipWithout } from '../../servers/cache.js'

const QUORUM: Quorum = { ensemble: 3, copies: 3, ack: 2, min: 2 }
const ROOM = entryHeaderBytes('CRC32')

/** The ledger protocol of src/ledger over real bookies; the metadata are in SQLite here, ZooKeeper's are tested apart. */
describe('ledgers on real bookies', { timeout: 300_000, skip: await skipWithout('bookkeeper') }, () => {
  const clock = realClock()
  const directory = mkdtempSync(join(tmpdir(), 'stratalog-bookies-'))
  const stores: BookieStore[] = []
  let bookies: Bookies
  let metadata: SqliteMetadata

  before(async () => {
    // Bookies free ledgers that ZooKeeper does not name, and these are named in SQLite: not while the test runs.
    bookies = await startBookies({ count: 4, sessionMs: 4_000, config: { gcWaitTime: 3_600_000 } })
    metadata = openSqliteMetadata(join(directory, 'index.db'), { clock, logger: memoryLogger() })
    // Ids above any that another test of these bookies may have used.
    for (let i = 0; i < 100; i += 1) await metadata.ledgers.allocateId()
  })
  after(async () => {
    await Promise.all(stores.map((store) => store.close()))
    await metadata?.close()
    await bookies?.stop()
    rmSync(directory, { recursive: true, force: true })
  })

  /** What one process sees: its own ways to all bookies, or to some. */
  const context = (ports = bookies.bookies.map(({ port }) => port)): LedgerContext => {
    const mine = ports.map((port) => bookieAt(port, { addTimeoutMs: 2_000, readTimeoutMs: 2_000 }))
    stores.push(...mine)
    const directory: StoreDirectory = {
      get: (id) => mine.find((store) => store.id === id) ?? null,
      all: () => mine,
      writable: async () => {
        const states = await Promise.all(mine.map((store) => store.status()))
        return mine.filter((_, at) => states[at]?.state === 'writable')
      },
    }
    const logger = memoryLogger()
    const health = new StoreHealth(clock, logger)
    return { stores: directory, metadata: metadata.ledgers, clock, logger, health, digestType: 'CRC32' }
  }
  const create = (at: LedgerContext, quorum = QUORUM): Promise<LedgerWriter> =>
    LedgerWriter.create(at, { quorum, segment: null, preceding: null })
  const append = (writer: LedgerWriter, text: string): Promise<EntryAck> => {
    const payload = Buffer.from(text)
    return writer.append(Buffer.concat([Buffer.alloc(ROOM), payload]), payload.length)
  }
  const texts = async (at: LedgerContext, ledgerId: bigint, last: bigint): Promise<string[]> => {
    const reader = await LedgerReader.open(at, ledgerId)
    const found: string[] = []
    while (BigInt(found.length) <= last) {
      const entries = await reader.readEntries(BigInt(found.length), last, 1 << 20)
      for (const { payload } of entries) found.push(Buffer.from(payload).toString())
    }
    return found
  }
  const numbered = (count: number): string[] => Array.from({ length: count }, (_, at) => `entry ${at}`)
  const bookieOf = (id: string) =>
    present(
      bookies.bookies.find((bookie) => bookie.id === id),
      `bookie ${id}`,
    )

  test('entries are appended, confirmed, read by another process and the ledger closes', async () => {
    const writer = await create(context())
    await Promise.all(numbered(500).map((text) => append(writer, text)))
    const other = context()
    const tail = await LedgerReader.open(other, writer.ledgerId)
    const untilMs = clock.monotonicMs() + 5_000
    // The last one is confirmed by a message of its own, as no entry follows.
    while ((await tail.lastConfirmed()) < 499n && clock.monotonicMs() < untilMs) await tail.waitAbove(498n)
    assert.equal(await tail.lastConfirmed(), 499n)
    const seal = await writer.close()
    assert.equal(seal.lastEntryId, 499n)
    assert.deepEqual(await texts(other, writer.ledgerId, 499n), numbered(500))
  })

  test('entries are striped over four bookies', async () => {
    const writer = await create(context(), { ensemble: 4, copies: 2, ack: 2, min: 2 })
    await Promise.all(numbered(40).map((text) => append(writer, text)))
    await writer.close()
    assert.deepEqual(await texts(context(), writer.ledgerId, 39n), numbered(40))
  })

  test('after recovery the old writer has nothing acknowledged, and all that was is there (invariants 1, 3)', async () => {
    const writer = await create(context())
    await Promise.all(numbered(50).map((text) => append(writer, text)))
    const other = context()
    const seal = await recoverLedger(other, writer.ledgerId)
    assert.equal(seal.lastEntryId, 49n)
    assert.equal(seal.lengthBytes, numbered(50).join('').length)
    await assert.rejects(append(writer, 'late'), (error) => isStratalogError(error, 'fenced'))
    assert.deepEqual(await texts(other, writer.ledgerId, 49n), numbered(50))
  })

  test('a ledger without entries is recovered as empty', async () => {
    const writer = await create(context())
    assert.deepEqual(await recoverLedger(context(), writer.ledgerId), { lastEntryId: -1n, lengthBytes: 0 })
    await assert.rejects(append(writer, 'late'), (error) => isStratalogError(error, 'fenced'))
  })

  test('a bookie is killed under load: another takes its place and nothing is lost (invariant 1)', async () => {
    const at = context()
    const writer = await create(at)
    const victim = bookieOf(present(writer.members[1], 'a member'))
    const acknowledged: Promise<EntryAck>[] = []
    for (let n = 0; n < 4_000; n += 1) {
      acknowledged.push(append(writer, `entry ${n}`))
      if (n === 1_000) await victim.kill()
      if (n % 100 === 0) await acknowledged[Math.max(0, n - 500)]
    }
    await Promise.all(acknowledged)
    assert.ok(!writer.members.includes(victim.id), 'the dead bookie is a member still')
    const { lastEntryId } = await writer.close()
    assert.equal(lastEntryId, 3_999n)
    assert.deepEqual(await texts(context(), writer.ledgerId, 3_999n), numbered(4_000))
    await victim.restart()
  })

  test('recovery with a bookie dead: the others tell where the ledger ends', async () => {
    const writer = await create(context())
    await Promise.all(numbered(20).map((text) => append(writer, text)))
    const victim = bookieOf(present(writer.members[0], 'a member'))
    await victim.kill()
    const other = context()
    assert.equal((await recoverLedger(other, writer.ledgerId)).lastEntryId, 19n)
    assert.deepEqual(await texts(other, writer.ledgerId, 19n), numbered(20))
    await victim.restart()
  })

  test('with two of three bookies silent recovery says so and guesses nothing', async () => {
    const writer = await create(context())
    await Promise.all(numbered(5).map((text) => append(writer, text)))
    const silent = writer.members.slice(0, 2).map(bookieOf)
    for (const bookie of silent) bookie.pause()
    try {
      await assert.rejects(recoverLedger(context(), writer.ledgerId), (error) =>
        isStratalogError(error, 'ledger_recovering'),
      )
    } finally {
      await present(bookies, 'cluster').restart(silent.map(({ id }) => id))
    }
    assert.equal((await recoverLedger(context(), writer.ledgerId)).lastEntryId, 4n)
  })

  test('a bookie that hangs is left after the time of an add, and its late answers count for nothing', async () => {
    const writer = await create(context())
    await append(writer, 'entry 0')
    const victim = bookieOf(present(writer.members[2], 'a member'))
    victim.pause()
    try {
      const untilMs = clock.monotonicMs() + 8_000
      let n = 1
      for (; writer.members.includes(victim.id) && clock.monotonicMs() < untilMs; n += 1) {
        await append(writer, `entry ${n}`)
        await clock.sleep(50)
      }
      assert.ok(!writer.members.includes(victim.id), 'the bookie that hangs is a member still')
      await writer.close()
      assert.deepEqual(await texts(context(), writer.ledgerId, BigInt(n - 1)), numbered(n))
    } finally {
      victim.resume()
    }
  })
})
