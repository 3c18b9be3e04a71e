import assert from 'node:assert/strict'
import { mkdirSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import process from 'node:process'
import { beforeEach, describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { isStratalogError, type Log, type OpenOptions, openLog, type StratalogError } from 'stratalog'
import { realClock } from '../../src/system/clock.js'
import { silentLogger } from '../../src/system/logger.js'
import { FaultWorker, faultDirectory } from '../helpers/fault-run.js'
import { SmallDisk, whyNoTmpfs } from '../helpers/mounts.js'
import { type Acknowledged, acknowledgedIn, attemptPayload, witness } from '../helpers/witness.js'
import type { WorkerPlan } from './fault-worker.js'
import { WORKER_OPTIONS } from './scenarios.js'

/*
 * What a log's surroundings do to it: people, mounts and clocks. Invariants 1, 2 and 10: an error has a name, nothing
 * acknowledged is lost, and once the surroundings are as they were everything goes on.
 */

const root = faultDirectory('surroundings')
process.on('exit', () => rmSync(root, { recursive: true, force: true }))
const missing = whyNoTmpfs(root)
const DAY_MS = 86_400_000
/** Longer than any call to a store may take. */
const STOPPED_MS = 12_000
const LARGE_BYTES = 900_000

let runs = 0
let base = ''
let attempt = 0
let acknowledged: Acknowledged[] = []

const open = (directory: string, more: OpenOptions = {}): Promise<Log> =>
  openLog(directory, {
    ...WORKER_OPTIONS,
    archive: `${directory}-archive`,
    system: { logger: silentLogger() },
    ...more,
  })

/** Appends; the errors, each of which has a name. */
async function append(log: Log, count: number, bytes = 2_000): Promise<StratalogError[]> {
  const errors: StratalogError[] = []
  for (let i = 0; i < count; i += 1) {
    attempt += 1
    try {
      const ack = await log.stream('a').append(attemptPayload('a', attempt, bytes))
      acknowledged.push({ stream: 'a', attempt, sequenceId: ack.sequenceId, dlsn: ack.dlsn.toString() })
    } catch (error) {
      assert.ok(isStratalogError(error) && error.code !== 'internal', String(error))
      errors.push(error)
    }
  }
  return errors
}

beforeEach(() => {
  runs += 1
  base = join(root, String(runs))
  acknowledged = []
  mkdirSync(base)
})

const states = async (log: Log) => (await log.stores()).map(({ state }) => state)

describe('surroundings', () => {
  test("a store's directory is replaced by a file while the log is open, and put back later", async () => {
    const directory = join(base, 'log')
    const store = join(directory, 'stores', '2')
    {
      await using log = await open(directory)
      await append(log, 3)
      renameSync(store, join(base, 'store'))
      writeFileSync(store, '')
      assert.deepEqual(await append(log, 2), [])
      await log.stream('a').seal()
      assert.deepEqual(await append(log, 6, LARGE_BYTES), [], 'two of three are enough')
      await witness(log, acknowledged)
    }
    {
      await using log = await open(directory)
      assert.deepEqual(await append(log, 2), [])
      await witness(log, acknowledged)
    }
    rmSync(store)
    renameSync(join(base, 'store'), store)
    await using log = await open(directory)
    assert.deepEqual(await append(log, 2), [])
    assert.deepEqual(await states(log), ['writable', 'writable', 'writable'])
    await witness(log, acknowledged)
  })

  test('the whole directory is moved while the log is open: named errors, and nobody else may open it', async () => {
    const [directory, moved] = [join(base, 'log'), join(base, 'moved')]
    const log = await open(directory)
    await append(log, 3)
    renameSync(directory, moved)
    await assert.rejects(open(moved), (error) => isStratalogError(error, 'directory_in_use'))
    await append(log, 2)
    await append(log, 6, LARGE_BYTES)
    await log.close().catch((error: unknown) => assert.ok(isStratalogError(error), String(error)))
    await using there = await open(moved, { archive: `${directory}-archive` })
    await witness(there, acknowledged)
    assert.deepEqual(await append(there, 2), [])
    assert.deepEqual(await states(there), ['writable', 'writable', 'writable'])
  })

  test('the clock jumps by years, forwards and back, while the agent works', async () => {
    let offMs = 0
    const real = realClock()
    const clock = { ...real, nowMs: () => real.nowMs() + offMs }
    const system = { logger: silentLogger(), clock }
    {
      await using log = await open(join(base, 'log'), { tiering: 'run', system })
      for (const jumpMs of [-400 * DAY_MS, 3_650 * DAY_MS, -9_000 * DAY_MS, 0]) {
        assert.deepEqual(await append(log, 3), [])
        offMs = jumpMs
        assert.deepEqual(await append(log, 3), [])
        await log.stream('a').seal()
        assert.deepEqual((await log.tier.run()).failed, [])
      }
      await witness(log, acknowledged)
    }
    offMs = -19_000 * DAY_MS
    await using log = await open(join(base, 'log'), { system })
    assert.deepEqual(await append(log, 3), [])
    await witness(log, acknowledged)
  })

  test('a process that is stopped for longer than its timeouts goes on as if nothing had been', async () => {
    const directory = join(base, 'log')
    const plan: WorkerPlan = {
      directory,
      scenario: 'stream',
      firstAttempt: 0,
      acknowledged: '',
      closes: false,
      lies: false,
    }
    const worker = new FaultWorker(join(base, 'worker'), plan)
    try {
      await worker.waitFor('T')
      worker.goOn()
      await worker.waitFor('A')
      worker.signal('SIGSTOP')
      const before = acknowledgedIn(worker.said).length
      await sleep(STOPPED_MS)
      worker.signal('SIGCONT')
      for (let waitedMs = 0; waitedMs < 20_000; waitedMs += 100) {
        if (acknowledgedIn(worker.said).length > before + 20) break
        await sleep(100)
      }
      assert.ok(acknowledgedIn(worker.said).length > before + 20, worker.said.slice(-500))
    } finally {
      await worker.kill()
    }
    assert.doesNotMatch(worker.said, /^[EFX] /m)
    await using log = await open(directory, { archive: `${directory}/archive` })
    await witness(log, acknowledgedIn(worker.said))
  })
})

describe('mounts', { skip: missing ?? false }, () => {
  test('one store is on a file system that was mounted read-only: the log starts with the others', async () => {
    const disk = new SmallDisk(join(base, 'small'), 64 << 20)
    const stores = [join(base, '1'), join(base, '2'), join(disk.path, '3')]
    const again = () => open(join(base, 'log'), { stores })
    try {
      for (const mode of ['rw', 'ro', 'rw']) {
        disk.remount(mode)
        await using log = await again()
        assert.deepEqual(await append(log, 3), [])
        await log.stream('a').seal()
        assert.deepEqual((await states(log))[2], mode === 'rw' ? 'writable' : 'unreachable')
        await witness(log, acknowledged)
      }
    } finally {
      disk.remove()
    }
  })

  test('no file can be made any more, though there is room for bytes: full, until one can', async () => {
    const disk = new SmallDisk(join(base, 'small'), 256 << 20)
    const others: string[] = []
    try {
      disk.remount('nr_inodes=40')
      await using log = await openLog(join(disk.path, 'log'), {
        ...WORKER_OPTIONS,
        system: { logger: silentLogger() },
      })
      await append(log, 3)
      const fill = () => {
        for (;;) {
          const path = join(disk.path, String(others.length))
          writeFileSync(path, '')
          others.push(path)
        }
      }
      assert.throws(fill, { code: 'ENOSPC' })
      const errors = await append(log, 16, LARGE_BYTES)
      assert.ok(errors.length > 0 && errors.every(({ code }) => code === 'not_enough_stores'), `${errors[0]}`)
      assert.deepEqual(await states(log), ['full', 'full', 'full'])
      await witness(log, acknowledged)
      for (const path of others) rmSync(path)
      await sleep(1_500)
      assert.deepEqual(await append(log, 6, LARGE_BYTES), [])
      await witness(log, acknowledged)
    } finally {
      disk.remove()
    }
  })
})
