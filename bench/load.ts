import { readdirSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { type Log, type OpenOptions, openLog } from 'stratalog'
import { type Speed, startMeasure } from './probe.js'
import type { Bench } from './result.js'

/*
 * What members do with a log: open one, put load on it, wait until it rests.
 */

export const MIB: number = 1024 * 1024
export const KIB_RECORD: Buffer = Buffer.alloc(1024, 'stratalog ')
export const OUTSTANDING = 1_000
const STORES = 3
const FILE_BYTES = 64 * MIB
/** More freed files than that a store does not keep. */
const SPARE_BYTES = 8 * FILE_BYTES
/** Rewriting in the background is slow on purpose. */
const REST_MS_MAX = 300_000

/** Nothing but the log: no agent, no socket, no configuration of this machine. */
export function quiet({ short }: Pick<Bench, 'short'>): OpenOptions {
  // Each file is filled with zeros before it is used: small ones in a smoke test.
  const storeFileBytes = short ? 4 * MIB : FILE_BYTES
  return { tiering: 'off', control: 'off', config: 'none', storeFileBytes }
}

/** Appends `records` times, spread over the streams, with so many under way at a time. */
export async function appendClosedLoop(
  log: Log,
  names: readonly string[],
  record: Uint8Array | (() => Uint8Array),
  records: number,
  outstanding: number = OUTSTANDING,
): Promise<void> {
  const streams = names.map((name) => log.stream(name))
  let left = records
  const work = async (_: unknown, worker: number) => {
    const stream = streams[worker % streams.length]
    while (left > 0) {
      left -= 1
      await stream?.append(typeof record === 'function' ? record() : record)
    }
  }
  await Promise.all(Array.from({ length: Math.max(outstanding, streams.length) }, work))
}

/** Resolves when every copy of what was appended is synced: an acknowledgement says so of two of the three only. */
export async function allCopiesSynced(log: Log): Promise<void> {
  for (;;) {
    const stores = await log.stores()
    const bad = stores.find((store) => store.state !== 'writable')
    if (bad !== undefined || stores.length !== STORES)
      throw new Error(`there are not three working stores: ${bad?.reason}`)
    if (stores.every((store) => store.pendingBytes === 0)) return
  }
}

/** A log that writes over freed files, as one in use does: the reference has its files preallocated too. */
export class WarmLog implements AsyncDisposable {
  readonly log: Log
  readonly #bytes: number
  #round = 0

  private constructor(log: Log, bytes: number) {
    this.log = log
    this.#bytes = bytes
  }

  /** `bytes`: what is appended between two calls of `recycle`. */
  static async open(bench: Bench, bytes: number, more: OpenOptions = {}): Promise<WarmLog> {
    if (bytes > SPARE_BYTES) throw new Error(`${bytes} bytes are more than a store keeps files for`)
    const options = { ...quiet(bench), defaults: { keep: { for: '1ms' } }, ...more }
    const log = await openLog(join(bench.directory, 'log'), options)
    const warm = new WarmLog(log, bytes)
    // The second time over files of the first, and beside its last one, which is still open.
    for (let time = 0; time < 2; time += 1) {
      const names = warm.names(1)
      await appendClosedLoop(log, names, Buffer.alloc(64 * 1024), Math.ceil(bytes / (64 * 1024)), 64)
      await warm.recycle(names)
    }
    return warm
  }

  /** Names of streams nobody has used yet. */
  names(count: number): string[] {
    this.#round += 1
    return Array.from({ length: count }, (_, i) => `round-${this.#round}/${i}`)
  }

  /**
   * Appends to fresh streams until all copies are synced. Opening the streams is not counted. `bytes`: of what it was
   * opened for, all without it.
   */
  async append(
    streams: number,
    record: Uint8Array,
    { outstanding = OUTSTANDING, bytes = this.#bytes }: { outstanding?: number; bytes?: number } = {},
  ): Promise<Speed> {
    const names = this.names(streams)
    await appendClosedLoop(this.log, names, record, streams, 64)
    const records = Math.floor(bytes / record.length)
    const measure = startMeasure()
    await appendClosedLoop(this.log, names, record, records, outstanding)
    await allCopiesSynced(this.log)
    const speed = measure(records * record.length)
    await this.recycle(names)
    return speed
  }

  /** Frees what was appended, so that the files come back. */
  async recycle(names: readonly string[]): Promise<void> {
    for (const name of names) await this.log.stream(name).seal()
    const report = await this.log.tier.run({ until: 'settled' })
    if (report.failed.length > 0) throw new Error(`trimming failed: ${report.failed[0]?.error}`)
    await atRest(this.log.directory, 200)
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.log.close()
  }
}

/** Waits until nothing below the stores has changed for a while: files are freed and rewritten in the background. */
export async function atRest(logDirectory: string, quietMs: number): Promise<void> {
  const stores = join(logDirectory, 'stores')
  const deadline = performance.now() + REST_MS_MAX
  let before = ''
  let since = performance.now()
  while (performance.now() - since < quietMs) {
    const now = fingerprint(stores)
    if (now !== before) since = performance.now()
    before = now
    if (performance.now() > deadline) throw new Error(`the stores in ${stores} do not come to rest`)
    await new Promise((resolve) => setTimeout(resolve, Math.min(50, quietMs)))
  }
}

function fingerprint(directory: string): string {
  return readdirSync(directory, { recursive: true })
    .map((name) => {
      const about = statSync(join(directory, String(name)), { throwIfNoEntry: false })
      return `${name} ${about?.size} ${about?.mtimeMs}`
    })
    .join('\n')
}
