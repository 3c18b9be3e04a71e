import assert from 'node:assert/strict'
import { mkdtempSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { afterEach, beforeEach, describe, test } from 'node:test'
import { putControl } from '../../archive/control-objects.js'
import { attemptOf, encodeSegmentKey } from '../../src/format/archive-names.js'
import type { Log } from '../../src/log.js'
import { text } from '../../src/model/codec.js'
import { openArchive, openLog } from '../../src/open.js'
import { planRestore, restoreArchive } from '../../src/restore.js'
import { silentLogger } from '../../src/system/logger.js'
import { bodyOf, countingRandom, INCARNATION, MemoryArchive } from '../helpers/archive.js'

let root = ''
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'stratalog-restore-'))
})
afterEach(() => rmSync(root, { recursive: true, force: true }))

const common = {
  tiering: 'off',
  control: 'off',
  config: 'none',
  storeFileBytes: 4 * 1024 * 1024,
  system: { logger: silentLogger() },
} as const

/** A log with two streams, everything in the archive; returns what a reader saw of it. */
async function archived(): Promise<string[]> {
  await using log = await openLog(join(root, 'log'), {
    ...common,
    archive: join(root, 'archive'),
    defaults: { roll: { size: '8 KiB' }, hot: { for: 0 }, evict: { lag: 0 } },
  })
  await log.streams.create('numbers', { txid: 'custom' })
  await log.stream('numbers', { codec: text() }).appendAll(
    Array.from({ length: 400 }, (_, i) => `n${i}${'.'.repeat(80)}`),
    { txid: (value) => BigInt(Number.parseInt(value.slice(1), 10) * 10) },
  )
  await log.stream('deep/name').appendAll(Array.from({ length: 100 }, (_, i) => `d${i}`))
  for (const name of ['numbers', 'deep/name']) await log.stream(name).seal()
  assert.equal((await log.tier.run()).failed.length, 0)
  return await everything(log, ['numbers', 'deep/name'])
}

async function everything(log: Log, names: readonly string[]): Promise<string[]> {
  const seen: string[] = []
  for (const name of names) {
    for await (const record of log.stream(name).read()) {
      seen.push(
        `${name} ${record.dlsn} ${record.txid} ${record.sequenceId} ${Buffer.from(record.payload).toString()}`,
      )
    }
  }
  return seen
}

function segmentFiles(): string[] {
  return readdirSync(join(root, 'archive'), { recursive: true, encoding: 'utf8' })
    .filter((name) => /\/s[0-9a-v]{13}-/.test(name))
    .map((name) => join(root, 'archive', name))
    .sort()
}

describe('restore from the archive alone (invariant 7)', () => {
  test('equal DLSNs, txids, sequence ids and payloads; twice gives the same digest', async () => {
    const before = await archived()
    rmSync(join(root, 'log'), { recursive: true })
    const digests: string[] = []
    for (const into of ['one', 'two']) {
      const archive = await openArchive(join(root, 'archive'))
      await using log = await openLog(join(root, into), common)
      const plan = await planRestore(archive)
      const report = await restoreArchive(log, archive, plan)
      assert.equal(report.records, 500n)
      assert.equal(report.digest, plan.digest)
      digests.push(report.digest)
      assert.deepEqual(await everything(log, ['numbers', 'deep/name']), before)
      const info = await log.stream('numbers').info()
      assert.equal(info.txid, 'custom')
      // The restored stream is a life of its own that names its parent, and goes on where the other ended.
      const row = await log.streams.find('numbers')
      assert.ok(row?.parent !== null && row?.parent.incarnation !== row?.incarnation)
      const ack = await log.stream('numbers').append('more', { txid: 4_000n })
      assert.equal(ack.sequenceId, 400n)
    }
    assert.equal(digests[0], digests[1])
  })

  test('interrupted, it goes on behind the last whole segment', async () => {
    const before = await archived()
    const archive = await openArchive(join(root, 'archive'))
    await using log = await openLog(join(root, 'into'), common)
    const plan = await planRestore(archive)
    const abort = new AbortController()
    let seen = 0
    const onProgress = () => {
      seen += 1
      if (seen === 3) abort.abort(new Error('stop'))
    }
    await assert.rejects(restoreArchive(log, archive, plan, { signal: abort.signal, onProgress }), /stop/)
    const report = await restoreArchive(log, archive, plan)
    assert.equal(report.resumed, 3)
    assert.deepEqual(await everything(log, ['numbers', 'deep/name']), before)
  })

  test('a missing segment, a flipped bit and a truncated object are named and nothing wrong is restored', async () => {
    await archived()
    const files = segmentFiles()
    const victim = files[files.length >> 1] ?? ''
    const whole = readFileSync(victim)
    const attempt = async () => {
      rmSync(join(root, 'into'), { recursive: true, force: true })
      const archive = await openArchive(join(root, 'archive'))
      await using log = await openLog(join(root, 'into'), common)
      return await restoreArchive(log, archive, await planRestore(archive), { strict: true })
    }
    for (const at of [60, whole.length >> 1, whole.length - 10]) {
      const flipped = Buffer.from(whole)
      flipped[at] = (flipped[at] ?? 0) ^ 0x10
      rmSync(victim)
      writeFileSync(victim, flipped)
      await assert.rejects(attempt(), { code: 'corrupt' }, `a bit at ${at}`)
    }
    truncateSync(victim, whole.length - 100)
    await assert.rejects(attempt(), { code: 'corrupt' })
    rmSync(victim)
    await assert.rejects(attempt(), { code: 'corrupt', message: /missing/ })
    writeFileSync(victim, whole)
    assert.equal((await attempt()).records, 500n)
  })

  test('what is cut shorter than its own index is missing in the plan already, and in the digest', async () => {
    await archived()
    const archive = await openArchive(join(root, 'archive'))
    truncateSync(segmentFiles()[0] ?? '', 100)
    const plan = await planRestore(archive)
    const [gap] = plan.streams.flatMap(({ gaps }) => gaps)
    assert.match(gap?.why ?? '', /has 100 bytes, fewer than its index alone/)
    await using log = await openLog(join(root, 'into'), common)
    const report = await restoreArchive(log, archive, plan)
    assert.deepEqual([report.gaps.length, report.digest], [1, plan.digest])
  })

  test('a new name for a stream that is not there is refused: it would be restored under its old one', async () => {
    await archived()
    const archive = await openArchive(join(root, 'archive'))
    for (const [as, hint] of [
      ['number', /did you mean numbers\?/],
      ['shallow/', /see the names/],
    ] as const)
      await assert.rejects(planRestore(archive, { as: { [as]: 'new', numbers: 'n' } }), {
        code: 'invalid_argument',
        message: hint,
      })
    const { streams } = await planRestore(archive, { as: { 'deep/': 'new/', numbers: 'n' } })
    assert.deepEqual(
      streams.map(({ name }) => name),
      ['n', 'new/name'],
    )
  })

  test('lost oldest segments are missing, not a later beginning', async () => {
    await archived()
    const files = segmentFiles()
    const archive = await openArchive(join(root, 'archive'))
    const of = async () => (await planRestore(archive)).streams.map((one) => [...one.missing])
    assert.deepEqual(await of(), [[], []])
    // The oldest of each of the two streams: files sort by incarnation, then by segment.
    const firsts = files.filter((name, at) => at === 0 || dirname(name) !== dirname(files[at - 1] ?? ''))
    const first =
      firsts.find((name) => files.filter((file) => dirname(file) === dirname(name)).length > 1) ?? ''
    rmSync(first)
    assert.deepEqual((await of()).flat(), [1n])
    await using log = await openLog(join(root, 'into'), common)
    await assert.rejects(restoreArchive(log, archive, await planRestore(archive), { strict: true }), {
      code: 'corrupt',
      message: /missing/,
    })
  })

  test('neighbours whose sequence ids do not meet are not one stream', async () => {
    const archive = new MemoryArchive()
    const random = countingRandom()
    const named = { name: 'a', txidMode: 'ms', parent: null }
    await putControl(archive, INCARNATION, 1n, 'name', named, random)
    const put = (segment: bigint, startSequenceId: bigint) =>
      archive.putIfAbsent(
        encodeSegmentKey({
          incarnation: INCARNATION,
          segment,
          lastEntryId: 9n,
          lastSlot: 2n,
          recordCount: 30n,
          startSequenceId,
          firstTxid: 1n,
          lastTxid: 99n,
          completionMs: 1_700_000_000_000,
          indexBytes: 152,
          contentDigest: 'a'.repeat(64),
          attempt: attemptOf(random.bytes(8)),
        }),
        bodyOf('x'.repeat(152)),
      )
    await put(1n, 0n)
    await put(2n, 30n)
    assert.deepEqual((await planRestore(archive)).streams[0]?.missing, [])
    await put(3n, 61n)
    await assert.rejects(planRestore(archive), { code: 'corrupt', message: /sequence id 61/ })
  })

  test('a trim is carried over, through a second archive as well; nothing below it is given out again', async () => {
    await archived()
    const trimming = { ...common, archive: join(root, 'archive') }
    {
      await using log = await openLog(join(root, 'log'), trimming)
      await log.stream('numbers').setPolicy({ keep: { max: '20 KiB' } })
      await log.stream('deep/name').setPolicy({ keep: { for: '1ms' } })
      const report = await log.tier.run()
      assert.ok(report.trimmed > 2)
      assert.deepEqual(report.failed, [])
    }
    const second = {
      ...common,
      archive: join(root, 'archive-2'),
      defaults: { hot: { for: 0 }, evict: { lag: 0 } },
    }
    {
      const archive = await openArchive(join(root, 'archive'))
      await using log = await openLog(join(root, 'one'), second)
      const plan = await planRestore(archive)
      const [deep, numbers] = plan.streams
      assert.ok(deep?.segments.length === 0 && deep.trimmedBelow !== null)
      assert.ok(numbers?.trimmedBelow !== null && (numbers?.segments[0]?.parsed.segment ?? 0n) > 1n)
      await restoreArchive(log, archive, plan)
      const info = await log.stream('numbers').info()
      assert.equal(`${info.trimmedBelow}`, `${numbers?.trimmedBelow}`)
      assert.deepEqual((await log.tier.run()).failed, [])
      // A stream that was trimmed to nothing goes on above what was given out.
      const ack = await log.stream('deep/name').append('next')
      assert.equal(ack.dlsn.segment, deep?.trimmedBelow?.segment)
      assert.equal((await everything(log, ['deep/name'])).length, 1)
    }
    const archive = await openArchive(join(root, 'archive-2'))
    const plan = await planRestore(archive)
    const numbers = plan.streams.find((one) => one.binding.name === 'numbers')
    assert.ok(numbers !== undefined && numbers.trimmedBelow !== null && numbers.missing.length === 0)
    await using log = await openLog(join(root, 'two'), common)
    assert.equal((await restoreArchive(log, archive, plan)).digest, plan.digest)
  })

  test('refuses a log whose agent is at work', async () => {
    await archived()
    const archive = await openArchive(join(root, 'archive'))
    await using log = await openLog(join(root, 'into'), { ...common, tiering: 'run' })
    await assert.rejects(restoreArchive(log, archive, await planRestore(archive)), {
      code: 'refused',
      message: /off/,
    })
  })

  test('refuses a log that has a stream of that name of its own', async () => {
    await archived()
    const archive = await openArchive(join(root, 'archive'))
    await using log = await openLog(join(root, 'into'), common)
    await log.stream('numbers').append('mine')
    await assert.rejects(restoreArchive(log, archive, await planRestore(archive)), { code: 'refused' })
  })
})
