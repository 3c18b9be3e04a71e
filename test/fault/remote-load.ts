import assert from 'node:assert/strict'
import { setTimeout as sleep } from 'node:timers/promises'
import { isStratalogError, type Log, type OpenOptions, openLog } from 'stratalog'
import type { Disk } from '../../src/ports/disk.js'
import { realDisk } from '../../src/system/disk.js'
import { silentLogger } from '../../src/system/logger.js'
import type { ArchiveState } from '../../tiering/archive-health.js'
import { methodsOf } from '../helpers/store.js'
import { type Acknowledged, attemptPayload, witness } from '../helpers/witness.js'
import { settle } from './remote-kills.js'

/*
 * An application that appends to two streams, rolls, archives and evicts on its own, beside another that reads its
 * archive and nothing else, while a test does something to the servers.
 */

const RECORD_BYTES = 2_000
const APPEND_PAUSE_MS = 8
const READ_PAUSE_MS = 50
const LOOK_PAUSE_MS = 200
const SETTLED_MS_MAX = 120_000
/** What an append may take on a machine that does much else. */
export const APPEND_MS_MAX: number = 10_000
const GIB = 2 ** 30
/** What readers of an archive that is away are told: to come again. */
const AWAY = ['archive_unavailable', 'archive_missing', 'timeout']

/** Where the archive of a load is. */
export type LoadArchive = Pick<OpenOptions, 's3' | 'hdfs'> & { readonly archive: string }

/** The application, what it met, and how the archive was meanwhile. */
export class RemoteLoad {
  readonly log: Log
  readonly acknowledged: Acknowledged[] = []
  /** Readers that got to the end of what was archived. */
  reads = 0
  /** Readers that were told to come again. */
  refused = 0
  /** What the last of them was told. */
  refusal = ''
  /** The longest that an append took. */
  slowestMs = 0
  /** How the archive was, each change of it. */
  readonly states: ArchiveState[] = []
  slowed = false
  readonly #directory: string
  readonly #archive: LoadArchive
  readonly #failures: string[] = []
  readonly #stop = new AbortController()
  readonly #loops: Promise<void>[] = []

  private constructor(log: Log, directory: string, archive: LoadArchive) {
    this.log = log
    this.#directory = directory
    this.#archive = archive
  }

  static async start(
    directory: string,
    archive: LoadArchive,
    options: OpenOptions = {},
  ): Promise<RemoteLoad> {
    const log = await openLog(directory, {
      ...archive,
      config: 'none',
      control: 'off',
      storeFileBytes: 4 * 2 ** 20,
      defaults: { roll: { size: '32 KiB', age: '1s' }, hot: { for: '500ms' }, evict: { lag: 0 } },
      system: { logger: silentLogger() },
      ...options,
    })
    const load = new RemoteLoad(log, directory, archive)
    for (const name of ['a', 'b']) await log.streams.create(name)
    for (const work of [
      () => load.#append('a'),
      () => load.#append('b'),
      () => load.#read(),
      () => load.#look(),
    ])
      load.#loops.push(load.#forever(work))
    return load
  }

  get state(): ArchiveState | undefined {
    return this.states.at(-1)
  }

  /** Segments that were verified in the archive. */
  async objects(): Promise<number> {
    let segments = 0
    for (const name of ['a', 'b'])
      for await (const { object } of this.log.segments(name)) if (object !== null) segments += 1
    return segments
  }

  /** Until so many more segments were copied to the archive. */
  async archived(more: number): Promise<void> {
    const before = await this.objects()
    const archived = async () => (await this.objects()) >= before + more
    await this.until(`${more} more segments in the archive`, archived)
  }

  /**
   * An archive that is stopped for that long: it is said to be down, appends go on, nothing that is not verified is
   * freed, and all is well again by itself afterwards.
   */
  async survives(stop: () => void, cont: () => void | Promise<void>, stoppedMs: number): Promise<void> {
    const { length: before } = this.acknowledged
    this.slowestMs = 0
    const endMs = performance.now() + stoppedMs
    stop()
    try {
      await this.until('DOWN', () => this.state === 'down')
      const objects = await this.objects()
      await sleep(Math.max(1_000, endMs - performance.now()))
      assert.equal(await this.objects(), objects, 'nothing counts as verified meanwhile (invariant 4)')
    } finally {
      await cont()
    }
    const appended = this.acknowledged.length - before
    assert.ok(appended > stoppedMs / 200, `only ${appended} appends while it was stopped`)
    assert.ok(this.slowestMs < APPEND_MS_MAX, `an append took ${this.slowestMs} ms`)
    await this.until('well', () => this.state === 'ok')
    await this.archived(2)
  }

  async until(what: string, holds: () => boolean | Promise<boolean>): Promise<void> {
    for (let waitedMs = 0; !(await holds()); waitedMs += LOOK_PAUSE_MS) {
      this.#check()
      assert.ok(
        waitedMs < SETTLED_MS_MAX,
        `not in ${SETTLED_MS_MAX} ms: ${what}; the archive was ${this.states.join(', ')}; ${this.refused} readers were refused: ${this.refusal}`,
      )
      await sleep(LOOK_PAUSE_MS)
    }
  }

  /** Ends the load, and compares everything that is left, without a restart. */
  async settled(): Promise<void> {
    this.#stop.abort()
    await Promise.all(this.#loops)
    this.#check()
    // A pass that finds that it answers, and those that carry out what waited.
    for (let pass = 0; pass < 3; pass += 1) await this.log.tier.run()
    await settle(this.log)
    assert.equal((await this.log.tier.status()).archive.archive, 'ok')
    await witness(this.log, this.acknowledged)
    for (const name of ['a', 'b'])
      for await (const { state, segment } of this.log.segments(name))
        assert.ok(state === 'cold' || state === 'open', `segment ${segment} of ${name} is ${state}`)
  }

  async close(): Promise<void> {
    this.#stop.abort()
    await Promise.all(this.#loops)
    await this.log.close()
  }

  #check(): void {
    assert.deepEqual(this.#failures, [])
  }

  async #forever(work: () => Promise<void>): Promise<void> {
    while (!this.#stop.signal.aborted) {
      try {
        await work()
      } catch (error) {
        this.#failures.push(error instanceof Error ? (error.stack ?? error.message) : String(error))
        return
      }
    }
  }

  /** Appends never notice what becomes of an archive (invariants 1 and 10). */
  async #append(stream: string): Promise<void> {
    const attempt = this.acknowledged.length
    const beganMs = performance.now()
    const { sequenceId, dlsn } = await this.log
      .stream(stream)
      .append(attemptPayload(stream, attempt, RECORD_BYTES))
    this.slowestMs = Math.max(this.slowestMs, performance.now() - beganMs)
    this.acknowledged.push({ stream, attempt, sequenceId, dlsn: dlsn.toString() })
    await sleep(APPEND_PAUSE_MS)
  }

  /** With no cache but its own: each time everything that is in the archive, from there. */
  async #read(): Promise<void> {
    const { archive: attach, ...settings } = this.#archive
    try {
      await using reader = await openLog(`${this.#directory}-reader`, {
        ...settings,
        attach,
        diskCacheBytes: 0,
        config: 'none',
        control: 'off',
        system: { logger: silentLogger() },
      })
      for (const name of ['a', 'b']) {
        const payloads = new Map(
          this.acknowledged
            .filter(({ stream }) => stream === name)
            .map((ack) => [ack.sequenceId, ack.attempt]),
        )
        let next = 0n
        for await (const { sequenceId, payload } of reader.stream(name).read()) {
          assert.equal(sequenceId, next, `${name}: what comes next (invariant 2)`)
          next += 1n
          const attempt = payloads.get(sequenceId)
          // What was appended after the list was made is judged at the end.
          if (attempt === undefined) continue
          assert.equal(Buffer.from(payload).toString(), attemptPayload(name, attempt, RECORD_BYTES))
        }
      }
      this.reads += 1
    } catch (error) {
      const away = AWAY.some((code) => isStratalogError(error, code as never))
      if (!away && !isStratalogError(error, 'stream_not_found')) throw error
      if (away) {
        this.refused += 1
        this.refusal = String(error)
      }
    }
    await sleep(READ_PAUSE_MS)
  }

  async #look(): Promise<void> {
    const { archive } = await this.log.tier.status()
    if (archive.archive !== this.state) this.states.push(archive.archive)
    this.slowed ||= archive.slowing
    await sleep(LOOK_PAUSE_MS)
  }
}

/** A disk on which streams that slow their writers do so, and lose little time by it. */
export function scarceDisk(): Disk {
  const base = realDisk()
  const space = async (path: string) => ({
    ...(await base.space(path)),
    freeBytes: 15 * GIB,
    totalBytes: 100 * GIB,
  })
  return { ...methodsOf(base), space }
}
