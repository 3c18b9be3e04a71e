import assert from 'node:assert/strict'
import { chmodSync, chownSync, closeSync, mkdirSync, openSync, rmSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import process from 'node:process'
import { after, beforeEach, describe, test } from 'node:test'
import { type Log, type OpenOptions, openLog } from 'stratalog'
import type { Disk, DiskFile } from '../../src/ports/disk.js'
import { realClock } from '../../src/system/clock.js'
import { realDisk } from '../../src/system/disk.js'
import { silentLogger } from '../../src/system/logger.js'
import { rowsOf } from '../helpers/archived-log.js'
import { FaultWorker, faultDirectory } from '../helpers/fault-run.js'
import { bindMount, SmallDisk, whyNoTmpfs } from '../helpers/mounts.js'
import { methodsOf } from '../helpers/store.js'
import { type Acknowledged, acknowledgedIn, attemptPayload, witness } from '../helpers/witness.js'
import type { WorkerPlan } from './fault-worker.js'
import { WORKER_OPTIONS } from './scenarios.js'

/*
 * What becomes of the directory of an archive while a log is open: read-only, full, slow, unmounted and back. Appends
 * and reads of what is hot never notice (invariants 1 and 10), nothing hot is freed meanwhile (invariant 4), every
 * failure is named, and once it is as it was everything goes on without a restart.
 */

const root = faultDirectory('archive-mounts')
after(() => rmSync(root, { recursive: true, force: true }))
const missing = whyNoTmpfs(root)
const NOBODY = 65_534

let runs = 0
let base = ''
let archive = ''
let attempt = 0
let acknowledged: Acknowledged[] = []

beforeEach(() => {
  runs += 1
  base = join(root, String(runs))
  archive = join(base, 'archive')
  acknowledged = []
  mkdirSync(base)
})

const open = (more: OpenOptions = {}): Promise<Log> =>
  openLog(join(base, 'log'), { ...WORKER_OPTIONS, archive, system: { logger: silentLogger() }, ...more })

async function sealed(log: Log, count: number, bytes = 2_000): Promise<void> {
  for (let i = 0; i < count; i += 1) {
    attempt += 1
    const { sequenceId, dlsn } = await log.stream('a').append(attemptPayload('a', attempt, bytes))
    acknowledged.push({ stream: 'a', attempt, sequenceId, dlsn: dlsn.toString() })
  }
  await log.stream('a').seal()
}

/** Passes fail, by name; what is hot stays, and what is not in the archive is read. */
async function isWithout(log: Log, why: RegExp): Promise<void> {
  await sealed(log, 3)
  const before = (await rowsOf(log, 'a')).filter(({ ledgerId }) => ledgerId !== null).length
  for (let pass = 0; pass < 3; pass += 1) {
    const { copied, evicted, trimmed, failed } = await log.tier.run({ until: 'once' })
    assert.deepEqual([copied, evicted, trimmed], [0, 0, 0])
    assert.match(failed.map(({ error }) => error).join('; '), why)
  }
  const { archive: state, lastError } = (await log.tier.status()).archive
  assert.deepEqual([state, why.test(lastError ?? '')], ['down', true])
  assert.equal((await rowsOf(log, 'a')).filter(({ ledgerId }) => ledgerId !== null).length, before)
  await sealed(log, 1)
}

/** Without a restart: probed, copied, freed, and all of it is there. */
async function isBack(log: Log): Promise<void> {
  // The first pass finds that it answers, the next ones carry out what waited.
  for (let pass = 0; pass < 3; pass += 1) await log.tier.run()
  assert.deepEqual((await log.tier.run()).failed, [])
  assert.equal((await log.tier.status()).archive.archive, 'ok')
  assert.ok((await rowsOf(log, 'a')).every(({ state }) => state === 'cold'))
  await witness(log, acknowledged)
  for await (const part of log.archive.verify({ deep: true }))
    if (part.type === 'finding') assert.fail(part.finding.text)
}

/** Takes what room there is, to the last page. */
function fill(path: string): void {
  const file = openSync(path, 'w')
  try {
    for (;;) writeSync(file, Buffer.alloc(4_096))
  } catch (error) {
    assert.equal((error as NodeJS.ErrnoException).code, 'ENOSPC')
  } finally {
    closeSync(file)
  }
}

describe('the directory of an archive', () => {
  test('is on a file system that is made read-only while the log is open, and back', {
    skip: missing ?? false,
  }, async () => {
    const disk = new SmallDisk(join(base, 'mount'), 32 << 20)
    try {
      archive = join(disk.path, 'archive')
      await using log = await open()
      await sealed(log, 3)
      await log.tier.run()
      disk.remount('ro')
      await isWithout(log, /read-only|EROFS|not be written|can't be written|access/i)
      disk.remount('rw')
      await isBack(log)
    } finally {
      disk.remove()
    }
  })

  test('is on a file system that is full, and gets room', { skip: missing ?? false }, async () => {
    const disk = new SmallDisk(join(base, 'mount'), 4 << 20)
    try {
      archive = join(disk.path, 'archive')
      await using log = await open()
      await sealed(log, 3)
      await log.tier.run()
      const filler = join(disk.path, 'filler')
      fill(filler)
      await isWithout(log, /full|ENOSPC|no space|room/i)
      rmSync(filler)
      await isBack(log)
    } finally {
      disk.remove()
    }
  })

  test('is unmounted, its mount point is an empty directory, and it is mounted again', {
    skip: missing ?? false,
  }, async () => {
    const elsewhere = join(base, 'elsewhere')
    mkdirSync(elsewhere)
    mkdirSync(archive)
    let unmount = bindMount(elsewhere, archive)
    try {
      await using log = await open()
      await sealed(log, 3)
      await log.tier.run()
      unmount()
      unmount = () => undefined
      await isWithout(log, /mount/)
      // Cold records are named as not to be had for now, not as missing.
      await assert.rejects(log.stream('a').tail(100), { code: 'archive_missing' })
      unmount = bindMount(elsewhere, archive)
      await isBack(log)
    } finally {
      unmount()
    }
  })

  test('may not be written by the user: access_denied, and once it may everything goes on', async (t) => {
    if (process.getuid?.() !== 0) return t.skip('only the superuser can run it as another user')
    chmodSync(root, 0o755)
    const directory = join(base, 'log')
    mkdirSync(directory)
    for (const path of [base, directory]) chownSync(path, NOBODY, NOBODY)
    const plan: WorkerPlan = {
      directory,
      scenario: 'denied',
      firstAttempt: 0,
      acknowledged: '',
      closes: true,
      lies: false,
    }
    const worker = new FaultWorker(join(base, 'worker'), plan, NOBODY)
    try {
      assert.ok((await worker.waitFor('T')) !== null, worker.complaints)
      chmodSync(join(directory, 'archive'), 0o555)
      chmodSync(join(directory, 'archive', '.tmp'), 0o555)
      worker.goOn()
      const said = await worker.waitFor('S')
      assert.ok(said !== null, worker.said + worker.complaints)
      assert.match(worker.said, /^E tier .*(permission|access|EACCES|allowed)/im)
      chmodSync(join(directory, 'archive'), 0o755)
      chmodSync(join(directory, 'archive', '.tmp'), 0o755)
      assert.ok((await worker.waitFor('D')) !== null, worker.said + worker.complaints)
      worker.goOn()
      assert.deepEqual(await worker.exited(), [0, null], worker.said + worker.complaints)
      acknowledged = acknowledgedIn(worker.said)
    } finally {
      await worker.kill()
    }
    archive = join(directory, 'archive')
    await using log = await open()
    await log.stream('a').seal()
    await log.tier.run()
    await isBack(log)
  })

  test('is slow: appends and hot reads do not wait for it, and all of it gets there', async () => {
    const slowMs = 5
    const disk = slowBelow(() => archive, slowMs)
    await using log = await open({ system: { logger: silentLogger(), disk } })
    await sealed(log, 5)
    // One pass: until it is settled it would go on as long as there is more.
    const tiering = log.tier.run({ until: 'once' })
    const beganMs = realClock().monotonicMs()
    let turns = 0
    let over = false
    const done = tiering.finally(() => {
      over = true
    })
    for (; !over && turns < 5; turns += 1) {
      await sealed(log, 1)
      await log.stream('b').append(attemptPayload('b', turns, 10))
    }
    const eachMs = (realClock().monotonicMs() - beganMs) / Math.max(1, turns)
    assert.ok(turns >= 3, `${turns} appends and seals beside it, ${eachMs} ms each`)
    assert.deepEqual((await done).failed, [])
    await isBack(log)
  })
})

/** A disk on which everything below a path takes its time. */
function slowBelow(path: () => string, delayMs: number): Disk {
  const base = realDisk()
  const clock = realClock()
  const wait = async (where: string) => {
    if (where.startsWith(path())) await clock.sleep(delayMs)
  }
  const slowFile = (file: DiskFile): DiskFile => ({
    preallocate: (sizeBytes) => file.preallocate(sizeBytes),
    truncate: (sizeBytes) => file.truncate(sizeBytes),
    sizeBytes: () => file.sizeBytes(),
    close: () => file.close(),
    write: async (chunks, offset) => {
      await clock.sleep(delayMs)
      return file.write(chunks, offset)
    },
    read: async (target, offset) => {
      await clock.sleep(delayMs)
      return file.read(target, offset)
    },
    dataSync: async () => {
      await clock.sleep(delayMs)
      return file.dataSync()
    },
  })
  return {
    ...methodsOf(base),
    open: async (where, mode) => {
      await wait(where)
      const file = await base.open(where, mode)
      return where.startsWith(path()) ? slowFile(file) : file
    },
    link: async (existing, name) => {
      await wait(name)
      return base.link(existing, name)
    },
    stat: async (where) => {
      await wait(where)
      return base.stat(where)
    },
    syncDirectory: async (where) => {
      await wait(where)
      return base.syncDirectory(where)
    },
  }
}
