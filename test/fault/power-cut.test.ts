import assert from 'node:assert/strict'
import { readdirSync, readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import process from 'node:process'
import { after, before, describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { isStratalogError, openLog } from 'stratalog'
import { silentLogger } from '../../src/system/logger.js'
import { FaultWorker, faultDirectory } from '../helpers/fault-run.js'
import { LoopDisk, whyNoLoop } from '../helpers/mounts.js'
import { seededRandom } from '../helpers/seeded-random.js'
import { acknowledgedIn, LostError, witness } from '../helpers/witness.js'
import type { WorkerPlan } from './fault-worker.js'
import { WORKER_OPTIONS } from './scenarios.js'

/*
 * Invariant 1 when the machine loses power: what counts is what reached the device, not what the page cache holds. A
 * log appends, rolls, archives and evicts on an ext4 of its own; its process is stopped, the device is copied as it
 * is, and the copy is mounted and opened. The negative control is the same log with syncs of frames that are claimed
 * and not made: it must lose records, or this test could not fail.
 */

const ROUNDS = Number(process.env.TEST_CUTS ?? 6)
const SEED = Number(process.env.TEST_SEED ?? Date.now() % 1_000_000)
const DISK_BYTES = 192 << 20

const root = faultDirectory('power')
process.on('exit', () => rmSync(root, { recursive: true, force: true }))
const missing = whyNoLoop(root)

interface Cuts {
  readonly lost: number
  readonly acknowledged: number
}

describe(`a power cut (seed ${SEED})`, { skip: missing ?? false }, () => {
  let disk: LoopDisk
  before(() => {
    disk = LoopDisk.make(join(root, 'disk'), DISK_BYTES)
  })
  after(() => disk.remove())

  test(`loses nothing acknowledged, ${ROUNDS} times`, { timeout: 300_000 }, async () => {
    const { lost, acknowledged } = await cuts(disk, 'syncs', false)
    assert.equal(lost, 0)
    assert.ok(acknowledged > ROUNDS * 10, `only ${acknowledged} records were acknowledged`)
  })

  test('negative control: with frames that are written and not synced it does', {
    timeout: 300_000,
  }, async () => {
    const { lost } = await cuts(disk, 'lies', true)
    assert.ok(lost > 0, `no record was lost in ${ROUNDS} cuts although no frame was synced`)
  })
})

/** Several cuts in one life of a log: the copies are judged, the original goes on. */
async function cuts(disk: LoopDisk, name: string, lies: boolean): Promise<Cuts> {
  const random = seededRandom(SEED)
  const directory = join(disk.path, name)
  const plan: WorkerPlan = {
    directory,
    scenario: 'stream',
    firstAttempt: 0,
    acknowledged: '',
    closes: false,
    lies,
  }
  const worker = new FaultWorker(join(root, name), plan)
  const total = { lost: 0, acknowledged: 0 }
  try {
    worker.goOn()
    await worker.waitFor('A')
    for (let round = 0; round < ROUNDS; round += 1) {
      await sleep(100 + random() * 500)
      await stop(worker)
      // Read before the copy is taken: a sync that ends in the kernel meanwhile is nobody's acknowledgement.
      const said = worker.said
      const cut = disk.powerCut(join(root, `${name}-${round}`))
      worker.signal('SIGCONT')
      assert.doesNotMatch(said, /^[XF] /m, said.slice(-2_000) + worker.complaints)
      try {
        total.lost += await survives(join(cut.path, name), said, lies)
      } finally {
        cut.remove()
      }
      total.acknowledged = acknowledgedIn(said).length
    }
  } finally {
    await worker.kill()
  }
  return total
}

/**
 * 1 if acknowledged records are gone: there are fewer, or reading says by name that it can't tell. With honest syncs
 * nothing but success will do, and wrong records never will.
 */
async function survives(directory: string, said: string, lies: boolean): Promise<number> {
  try {
    const log = await openLog(directory, {
      ...WORKER_OPTIONS,
      archive: join(directory, 'archive'),
      system: { logger: silentLogger() },
    })
    try {
      await witness(log, acknowledgedIn(said))
      await log.stream('a').append('goes on')
    } finally {
      await log.close()
    }
    return 0
  } catch (error) {
    if (lies && (error instanceof LostError || isStratalogError(error))) return 1
    throw error
  }
}

/** Stops the process, and returns when none of its threads runs any more. */
async function stop(worker: FaultWorker): Promise<void> {
  worker.signal('SIGSTOP')
  const tasks = `/proc/${worker.pid}/task`
  const stopped = () =>
    readdirSync(tasks).every((thread) => {
      const stat = readFileSync(join(tasks, thread, 'stat'), 'utf8')
      return stat.slice(stat.lastIndexOf(')') + 2).startsWith('T')
    })
  while (!stopped()) await sleep(1)
}
