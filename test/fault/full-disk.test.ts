import assert from 'node:assert/strict'
import { mkdirSync, rmSync, statfsSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import process from 'node:process'
import { after, before, describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { isStratalogError, type Log, openLog, type StratalogError } from 'stratalog'
import { silentLogger } from '../../src/system/logger.js'
import { faultDirectory } from '../helpers/fault-run.js'
import { SmallDisk, whyNoTmpfs } from '../helpers/mounts.js'
import { type Acknowledged, attemptPayload, witness } from '../helpers/witness.js'

/*
 * Invariant 10 on disks that are really full: nothing acknowledged is lost, reads go on, the error is named, and when
 * space returns appends go on without a restart.
 */

const MIB = 1 << 20
const DISK_BYTES = 64 * MIB
/** What somebody else has on the disk, and removes. */
const BALLAST_BYTES = 24 * MIB
const RECORD_BYTES = 100_000
const RECOVERY_MS = 20_000

const root = faultDirectory('full')
process.on('exit', () => rmSync(root, { recursive: true, force: true }))
const missing = whyNoTmpfs(root)

interface Layout {
  readonly title: string
  /** Where the log is and where its stores are, with the small disk at `small` and another at `large`. */
  readonly place: (small: string, large: string) => { directory: string; stores?: readonly string[] }
}

const ALL: Layout = {
  title: 'under all three stores',
  place: (small, large) => ({ directory: large, stores: ['1', '2', '3'].map((name) => join(small, name)) }),
}
const EVERYTHING: Layout = {
  title: 'under the stores, the index and the archive',
  place: (small) => ({ directory: join(small, 'log') }),
}
const ONE: Layout = {
  title: 'under one store of three',
  place: (small, large) => ({
    directory: large,
    stores: [join(large, 'stores', '1'), join(large, 'stores', '2'), join(small, '3')],
  }),
}

/** A log on a small disk, and everything that was acknowledged to it. */
class Filled {
  readonly acknowledged: Acknowledged[] = []
  readonly #open: () => Promise<Log>
  #log: Log | null = null
  #attempt = 0

  constructor(open: () => Promise<Log>) {
    this.#open = open
  }

  async log(): Promise<Log> {
    this.#log ??= await this.#open()
    return this.#log
  }

  /** Appends once; the error, or null. */
  async append(): Promise<{ copies: number; error: StratalogError | null }> {
    const attempt = this.#attempt
    this.#attempt += 1
    try {
      const log = await this.log()
      const ack = await log.stream('a').append(attemptPayload('a', attempt, RECORD_BYTES))
      const { sequenceId, dlsn, copies } = ack
      this.acknowledged.push({ stream: 'a', attempt, sequenceId, dlsn: dlsn.toString() })
      return { copies, error: null }
    } catch (error) {
      assert.ok(isStratalogError(error), String(error))
      return { copies: 0, error }
    }
  }

  /** Everything acknowledged is there, through this process and after a restart. */
  async check(restart: boolean): Promise<void> {
    if (restart) {
      await (await this.log()).close()
      this.#log = null
    }
    await witness(await this.log(), this.acknowledged)
  }

  async close(): Promise<void> {
    await this.#log?.close()
  }
}

describe('a full disk', { skip: missing ?? false }, () => {
  let disk: SmallDisk
  let large = ''
  before(() => {
    large = join(root, 'large')
  })
  const begin = (layout: Layout): Filled => {
    mkdirSync(large)
    disk = new SmallDisk(join(root, 'small'), DISK_BYTES)
    writeFileSync(join(disk.path, 'ballast'), Buffer.alloc(BALLAST_BYTES))
    const { directory, stores } = layout.place(disk.path, large)
    return new Filled(() =>
      openLog(directory, {
        config: 'none',
        control: 'off',
        tiering: 'off',
        storeFileBytes: 4 * MIB,
        archive: join(directory, 'archive'),
        ...(stores === undefined ? {} : { stores }),
        system: { logger: silentLogger() },
      }),
    )
  }
  const end = async (filled: Filled): Promise<void> => {
    await filled.close()
    disk.remove()
    rmSync(large, { recursive: true })
  }
  after(() => rmSync(root, { recursive: true, force: true }))

  for (const layout of [ALL, EVERYTHING]) {
    test(`${layout.title}: appends fail by name, reads go on, and appends as soon as there is space`, async () => {
      const filled = begin(layout)
      try {
        const refused = await fill(filled)
        assert.ok(
          ['not_enough_stores', 'disk_full', 'store_full'].includes(refused.code),
          `${refused.code}: ${refused.message}`,
        )
        assert.equal(refused.retryable, true, refused.message)
        assert.match(refused.message, /space|full/)
        assert.ok(filled.acknowledged.length > 20, `${filled.acknowledged.length} records fitted`)
        await filled.check(false)
        // It stays full, and says so each time; nothing gets worse by asking.
        for (let again = 0; again < 5; again += 1) assert.notEqual((await filled.append()).error, null)
        await filled.check(false)
        rmSync(join(disk.path, 'ballast'))
        await worksAgain(filled, ({ error }) => error === null)
        await filled.check(false)
        await filled.check(true)
        assert.equal((await filled.append()).error, null)
      } finally {
        await end(filled)
      }
    })

    test(`${layout.title}: a log that is closed when the disk is full is opened and read`, async () => {
      const filled = begin(layout)
      try {
        await fill(filled)
        takeTheRest(disk.path)
        await filled.check(true)
        rmSync(join(disk.path, 'rest'))
        rmSync(join(disk.path, 'ballast'))
        await worksAgain(filled, ({ error }) => error === null)
        await filled.check(true)
      } finally {
        await end(filled)
      }
    })
  }

  test(`${ONE.title}: nobody notices, and the store takes its share again when there is space`, async () => {
    const filled = begin(ONE)
    const states = async () => (await (await filled.log()).stores()).map(({ state }) => state)
    try {
      let appends = 0
      for (; !(await states()).includes('full'); appends += 1) {
        assert.ok(appends < 2_000, 'the small disk never became full')
        assert.equal((await filled.append()).error, null)
      }
      for (let more = 0; more < 50; more += 1) assert.equal((await filled.append()).error, null)
      assert.deepEqual((await states()).sort(), ['full', 'writable', 'writable'])
      await filled.check(false)
      rmSync(join(disk.path, 'ballast'))
      // The ledger that goes on without the store ends with its segment; the next one has three copies.
      await worksAgain(
        filled,
        () => false,
        async () => !(await states()).includes('full'),
      )
      await (await filled.log()).stream('a').seal()
      const { members } = await placeOfNext(filled)
      assert.equal(members, 3)
      await filled.check(true)
    } finally {
      await end(filled)
    }
  })
})

/** Fills a disk to its last byte, whatever the file system keeps of it for itself. */
function takeTheRest(path: string): void {
  try {
    writeFileSync(join(path, 'rest'), Buffer.alloc(Math.max(0, freeBytes(path))))
  } catch (error) {
    assert.equal((error as NodeJS.ErrnoException).code, 'ENOSPC')
  }
}

/** Appends until an append is refused. */
async function fill(filled: Filled): Promise<StratalogError> {
  for (let appends = 0; appends < 2_000; appends += 1) {
    const { error } = await filled.append()
    if (error !== null) return error
  }
  return assert.fail('the disk never became full')
}

/** Appends until one is as it should be. */
async function worksAgain(
  filled: Filled,
  done: (outcome: { error: StratalogError | null }) => boolean,
  looks: () => Promise<boolean> = async () => false,
): Promise<void> {
  let last = ''
  for (const begunMs = performance.now(); performance.now() - begunMs < RECOVERY_MS; ) {
    const outcome = await filled.append()
    if (done(outcome) || (await looks())) return
    last = outcome.error?.message ?? ''
    await sleep(100)
  }
  assert.fail(`there is space, and after ${RECOVERY_MS} ms it still does not go on: ${last}`)
}

/** Appends to a new segment, and says on how many stores its ledger is. */
async function placeOfNext(filled: Filled): Promise<{ members: number }> {
  assert.equal((await filled.append()).error, null)
  const { segments } = (await filled.log()).parts
  for await (const row of (await filled.log()).segments('a')) {
    if (row.state !== 'open' || row.ledgerId === null) continue
    const { metadata } = await segments.ledger.metadata.read(row.ledgerId)
    return { members: metadata.ensembles.at(-1)?.members.length ?? 0 }
  }
  return assert.fail('no segment is open')
}

function freeBytes(path: string): number {
  const { bavail, bsize } = statfsSync(path)
  return bavail * bsize
}
