import assert from 'node:assert/strict'
import { copyFileSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import fc from 'fast-check'
import { SqliteDatabase } from '../../src/metadata/sqlite/database.js'
import { withChecksum } from '../../src/metadata/sqlite/rows.js'
import { MIGRATIONS } from '../../src/metadata/sqlite/schema.js'
import { Dlsn } from '../../src/model/dlsn.js'
import { isStratalogError } from '../../src/model/errors.js'
import { sampleMetadata } from '../contract/ledger-metadata.js'
import { archiving, newStream, openRow, sealedSegments, writableStream } from '../contract/segment-rows.js'
import { openFor, temporaryDirectory } from './helpers.js'

const INCARNATIONS = ['0'.repeat(32), '1'.repeat(32)]

/** A small index with something in every table. */
async function fill(file: string): Promise<void> {
  const { index, ledgers, coordination, close } = openFor(file)
  const [first = '', second = ''] = INCARNATIONS
  await writableStream(index, 'audit/login', { incarnation: first })
  const rows = await sealedSegments(index, first, 12)
  for (const row of rows.slice(0, 6)) await index.updateSegment(row, archiving(row.segment))
  await index.beginSegment(openRow(first, 13n))
  const stream = await index.createStream(
    newStream('other', { incarnation: second, parent: { incarnation: first, fork: null } }),
  )
  await index.updateStream(second, stream.version, { trimmedBelow: new Dlsn(3n, 0n, 0n) })
  await index.setPolicyOverride(first, '{"hot":{"for":"1h"}}')
  await index.setFact('log-id', 'c0ffee')
  for (let i = 0; i < 5; i++) await ledgers.create(await ledgers.allocateId(), sampleMetadata())
  await (await coordination.acquire('agent', { holder: 'me', waitMs: 0 })).release()
  await close()
  leaseOfOldVersion(file, 'agent', 5n)
}

/** Up to 0.1.0 each lease had a row of its own. */
function leaseOfOldVersion(file: string, name: string, epoch: bigint): void {
  const database = SqliteDatabase.open(file, { migrations: MIGRATIONS })
  const insert = database.prepare('INSERT INTO leases (name, epoch, holder, checksum) VALUES (?, ?, ?, ?)')
  database.write('add a lease', () => insert.run(...withChecksum([name, epoch, 'me'])))
  database.close()
}

/** Everything the index says, by every way of asking. Opens the file and closes it again. */
async function everything(file: string): Promise<unknown[]> {
  const { index, ledgers, coordination, close } = openFor(file)
  try {
    const said: unknown[] = [await index.listStreams('', 10), await index.fact('log-id')]
    for (const incarnation of INCARNATIONS) {
      said.push(await index.stream(incarnation), await index.totals(incarnation))
      said.push(await index.policyOverride(incarnation), await index.listSegments(incarnation, 0n, 100))
      said.push(await index.newestSegment(incarnation), await index.oldestSegment(incarnation))
      for (const at of [0, 5, 12]) {
        said.push(await index.segmentForTxid(incarnation, BigInt(at) * 100n))
        said.push(await index.segmentForSequenceId(incarnation, BigInt(at) * 10n))
        said.push(await index.segmentForTime(incarnation, at * 1_000))
      }
    }
    said.push(await index.segmentsInState(['open', 'sealed', 'archived'], 100), await index.segmentsOwing(10))
    for (const id of await ledgers.list(-1n, 10)) said.push(await ledgers.read(id))
    said.push(await ledgers.allocateId())
    said.push((await coordination.acquire('agent', { holder: 'me', waitMs: 0 })).epoch)
    return said
  } finally {
    await close()
  }
}

describe('a damaged index', () => {
  const { directory, remove } = temporaryDirectory()
  const good = join(directory, 'good.db')
  const bad = join(directory, 'bad.db')
  before(() => fill(good))
  after(remove)

  const copyWith = (change: (bytes: Buffer) => Buffer) => {
    // The log of an earlier try would be taken for this file's.
    rmSync(`${bad}-wal`, { force: true })
    const bytes = change(readFileSync(good))
    writeFileSync(bad, bytes)
    return bytes
  }
  const isNamed = (error: unknown) =>
    isStratalogError(error, 'corrupt') || isStratalogError(error, 'version_unsupported')

  test('a flipped bit is named, or changes nothing that is read (invariant 9)', async () => {
    copyFileSync(good, bad)
    const truth = await everything(bad)
    const bits = statSync(good).size * 8
    const flip = fc.oneof(
      fc.integer({ min: 0, max: bits - 1 }),
      // The header and the schema are small against the rows and deserve their share.
      fc.integer({ min: 0, max: 100 * 8 - 1 }),
      fc.integer({ min: 0, max: 4096 * 8 - 1 }),
    )
    const property = fc.asyncProperty(flip, async (bit) => {
      copyWith((bytes) => {
        bytes.writeUInt8(bytes.readUInt8(bit >> 3) ^ (1 << (bit & 7)), bit >> 3)
        return bytes
      })
      try {
        assert.deepEqual(await everything(bad), truth)
      } catch (error) {
        if (!isNamed(error)) throw error
      }
    })
    await fc.assert(property, { numRuns: 250 })
  })

  test('a file that was cut off is corrupt, and is left as it was', () => {
    const whole = statSync(good).size
    for (const sizeBytes of [1, 50, 100, 512, 4095, 4096, 5000, whole >> 1, whole - 4096, whole - 2000]) {
      const bytes = copyWith((all) => all.subarray(0, sizeBytes))
      assert.throws(
        () => openFor(bad),
        (error) => isStratalogError(error, 'corrupt'),
        `${sizeBytes} bytes`,
      )
      assert.deepEqual(readFileSync(bad), bytes)
    }
  })

  test('a file cut to nothing says that it was created, so that its owner rebuilds it', async () => {
    copyWith((all) => all)
    truncateSync(bad, 0)
    const metadata = openFor(bad)
    assert.equal(metadata.created, true)
    await metadata.close()
  })

  test('what is no database is corrupt, and is left as it was', () => {
    const text = Buffer.from('{"this":"is no database"}'.repeat(400))
    copyWith(() => text)
    assert.throws(
      () => openFor(bad),
      (error) =>
        isStratalogError(error, 'corrupt') &&
        error.message.includes(bad) &&
        error.message.includes('stratalog index rebuild'),
    )
    assert.deepEqual(readFileSync(bad), text)
  })

  test('a large file is not checked whole when opened, and its damage is found when it is read', async () => {
    const bytes = readFileSync(good)
    const at = bytes.indexOf('key-of-3')
    assert.ok(at > 0)
    copyWith((all) => {
      all.write('key-of-9', at)
      return all
    })
    const { index, close } = openFor(bad, { checkBytesMax: 0 })
    await assert.rejects(
      index.segment(INCARNATIONS[0] ?? '', 3n),
      (error) => isStratalogError(error, 'corrupt') && error.message.includes('segment 3'),
    )
    assert.equal((await index.segment(INCARNATIONS[0] ?? '', 4n))?.object?.key, 'key-of-4')
    await close()
  })
})
