import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, truncateSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, test } from 'node:test'
import type { ArchiveFinding } from '../../archive/verify-archive.js'
import { isSampled } from '../../archive/verify-archive.js'
import type { Log } from '../../src/log.js'
import { verifyArchive } from '../../src/log-archive.js'
import { present } from '../../src/model/assert.js'
import { isStratalogError } from '../../src/model/errors.js'
import { openArchive } from '../../src/open.js'
import type { FsckFinding } from '../../tiering/fsck.js'
import { ArchivedLog, allOf, fill, rowsOf } from '../helpers/archived-log.js'
import { outage } from '../helpers/faulty-archive.js'

let root = ''
let world: ArchivedLog

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'stratalog-verify-'))
  world = new ArchivedLog(root)
})
afterEach(() => rmSync(root, { recursive: true, force: true }))

async function findings(
  log: Log,
  options: Parameters<Log['archive']['verify']>[0] = {},
): Promise<ArchiveFinding[]> {
  const parts = await allOf(log.archive.verify(options))
  assert.equal(parts.at(-1)?.type, 'end')
  return parts.flatMap((part) => (part.type === 'finding' ? [part.finding] : []))
}

async function alone(): Promise<ArchiveFinding[]> {
  const archive = await openArchive(world.archive)
  const parts = await allOf(verifyArchive(archive, { deep: true }))
  await archive.close()
  return parts.flatMap((part) => (part.type === 'finding' ? [part.finding] : []))
}

async function fsck(log: Log, deep = false): Promise<FsckFinding[]> {
  const parts = await allOf(log.fsck({ deep }))
  assert.equal(parts.at(-1)?.type, 'end')
  return parts.flatMap((part) => (part.type === 'finding' ? [part.finding] : []))
}

const problems = (found: readonly { problem: string }[]) => found.map(({ problem }) => problem)

async function archived(log: Log): Promise<string[]> {
  await fill(log, 'a', 600)
  await log.tier.run()
  return (await rowsOf(log, 'a')).map((row) => present(row.object, 'object').key)
}

describe('archive verify', () => {
  test('finds nothing in what is whole, with the index and without, shallow and deep', async () => {
    await using log = await world.open()
    const keys = await archived(log)
    assert.ok(keys.length >= 3)
    assert.deepEqual(await findings(log), [])
    assert.deepEqual(await findings(log, { deep: true }), [])
    assert.deepEqual(await fsck(log, true), [])
    assert.deepEqual(await alone(), [])
  })

  test('names a deleted object, one that is half gone, and the hole the names alone show', async () => {
    await using log = await world.open()
    const [first, second] = await archived(log)
    world.remove(present(second, 'second key'))
    truncateSync(world.path(present(first, 'first key')), 1_000)
    const found = await findings(log)
    assert.deepEqual(problems(found), ['differs', 'missing'])
    assert.match(present(found[0], 'finding').text, /1000 bytes/)
    assert.match(present(found[1], 'finding').mend, /hot copy is there/)
    assert.deepEqual(problems(await alone()), ['damaged', 'hole'])
    assert.deepEqual(problems(await fsck(log)), ['differs', 'missing'])
  })

  test('a twin in the place of the committed object is said to be one', async () => {
    await using log = await world.open()
    const [key = ''] = await archived(log)
    world.twin(key)
    world.remove(key)
    assert.deepEqual(problems(await findings(log)), ['replaced'])
  })

  // Invariant 9: header, each block, index and footer; one byte of each class is enough for the deep check.
  test('a flipped byte anywhere is found by the deep check and missed by the shallow one', async () => {
    await using log = await world.open()
    const [key = ''] = await archived(log)
    const bytes = world.bytes(key)
    const step = Math.max(1, Math.floor(bytes.length / 40))
    const places = [0, 1, 4, 40, bytes.length - 1, bytes.length - 20, bytes.length - 60]
    for (let at = 0; at < bytes.length; at += step) places.push(at)
    for (const at of places) {
      const bad = Buffer.from(bytes)
      bad[at] = (bad[at] ?? 0) ^ 0x40
      world.write(key, bad)
      assert.deepEqual(problems(await findings(log, { stream: 'a', deep: true })), ['damaged'], `byte ${at}`)
    }
    assert.deepEqual(await findings(log), [])
  })

  test('extended objects and objects swapped between streams and segments are found', async () => {
    await using log = await world.open()
    const [key = '', next = ''] = await archived(log)
    await fill(log, 'b', 150)
    await log.tier.run()
    const [other] = (await rowsOf(log, 'b')).map((row) => present(row.object, 'object').key)
    const whole = world.bytes(key)
    world.write(key, Buffer.concat([whole, Buffer.alloc(10)]))
    assert.deepEqual(problems(await findings(log)), ['differs'])
    world.write(key, world.bytes(next))
    const swapped = await findings(log, { deep: true, stream: 'a' })
    assert.ok(swapped.length === 1 && ['differs', 'damaged'].includes(problems(swapped)[0] ?? ''))
    world.write(key, world.bytes(present(other, 'object of b')))
    assert.equal((await findings(log, { deep: true, stream: 'a' })).length, 1)
    assert.equal((await alone()).filter(({ problem }) => problem === 'damaged').length, 1)
  })

  test('a sample is the same for the same seed, and about as large as asked', async () => {
    const keys = Array.from({ length: 2_000 }, (_, i) => `key ${i}`)
    const chosen = keys.filter((key) => isSampled(key, 0.1, 'seed'))
    assert.deepEqual(
      chosen,
      keys.filter((key) => isSampled(key, 0.1, 'seed')),
    )
    assert.ok(chosen.length > 120 && chosen.length < 280)
    assert.notDeepEqual(
      chosen,
      keys.filter((key) => isSampled(key, 0.1, 'other')),
    )
    await using log = await world.open()
    await assert.rejects(allOf(log.archive.verify({ deep: true, sample: 0 })), /no part/)
  })

  test('a damaged decision is named, and the objects are checked all the same', async () => {
    await using log = await world.open()
    const [key = ''] = await archived(log)
    const control = `${key.split('/')[0]}/c0000000000009-hold-0000000000001`
    world.write(control, Buffer.from('not json'))
    assert.deepEqual(problems(await findings(log)), ['control'])
  })

  // Invariant 8: an archive that does not answer has no missing objects.
  test('an outage is an error of its own and no finding', async () => {
    await using log = await world.open()
    await archived(log)
    world.faults.list = outage
    await assert.rejects(findings(log), (error) => isStratalogError(error, 'archive_unavailable'))
    const found = await fsck(log)
    assert.deepEqual(
      found.map(({ severity }) => severity),
      ['unknown'],
    )
  })
})

describe('fsck', () => {
  test('finds a row without a ledger, and a ledger without a row that is not just begun', async () => {
    await using log = await world.open()
    await archived(log)
    const { ledger } = log.parts.segments
    const [row] = await rowsOf(log, 'a')
    const ledgerId = present(row?.ledgerId, 'ledger')
    const { metadata, version } = await ledger.metadata.read(ledgerId)
    await ledger.metadata.delete(ledgerId, version)
    const id = await ledger.metadata.allocateId()
    await ledger.metadata.create(id, { ...metadata, ctimeMs: 1n })
    const found = await fsck(log)
    assert.deepEqual(
      found.map(({ severity, problem }) => [severity, problem]),
      [
        ['damage', 'ledger'],
        ['waste', 'orphan'],
      ],
    )
    assert.ok(found.every(({ mend }) => mend.length > 10))
  })

  test('finds copies that a store does not have', async () => {
    await using log = await world.open()
    await archived(log)
    const [row] = await rowsOf(log, 'a')
    const [store] = log.parts.segments.ledger.stores.all()
    await store?.deleteLedger(present(row?.ledgerId, 'ledger'))
    const found = await fsck(log)
    assert.deepEqual(problems(found), ['copies'])
    assert.match(present(found[0], 'finding').text, /has 0 of the/)
  })
})
