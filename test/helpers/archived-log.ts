import assert from 'node:assert/strict'
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs'
import { dirname, join } from 'node:path'
import { BlockCache } from '../../archive/block-cache.js'
import { directoryArchive } from '../../archive/directory/store.js'
import { openSegmentObject } from '../../archive/segment-reader.js'
import { planSegmentObject, segmentObjectBody } from '../../archive/segment-writer.js'
import { attemptOf, decodeSegmentKey, encodeSegmentKey } from '../../src/format/archive-names.js'
import type { Log } from '../../src/log.js'
import { present } from '../../src/model/assert.js'
import type { SegmentRow } from '../../src/model/segment.js'
import { openLog } from '../../src/open.js'
import type { OpenOptions } from '../../src/options.js'
import { silentLogger } from '../../src/system/logger.js'
import { bytesOf, sourceOf } from './archive.js'
import { type ArchiveFaults, faultyArchive } from './faulty-archive.js'

/** A log over a directory archive whose files a test damages as it likes. */
export class ArchivedLog {
  readonly root: string
  readonly faults: ArchiveFaults
  #attempts = 0

  constructor(root: string, faults: ArchiveFaults = {}) {
    this.root = root
    this.faults = faults
  }

  get archive(): string {
    return join(this.root, 'archive')
  }

  open(options: OpenOptions = {}): Promise<Log> {
    return openLog(join(this.root, 'log'), {
      archive: faultyArchive(directoryArchive(this.archive), this.faults),
      tiering: 'off',
      control: 'off',
      config: 'none',
      storeFileBytes: 4 * 2 ** 20,
      defaults: { hot: { for: '10 days' }, evict: { lag: 0 }, roll: { size: '16 KiB' } },
      system: { logger: silentLogger() },
      ...options,
    })
  }

  path(key: string): string {
    return join(this.archive, ...key.split('/'))
  }

  bytes(key: string): Buffer {
    return readFileSync(this.path(key))
  }

  write(key: string, bytes: Uint8Array): void {
    mkdirSync(dirname(this.path(key)), { recursive: true })
    writeFileSync(this.path(key), bytes)
  }

  remove(key: string): void {
    unlinkSync(this.path(key))
  }

  has(key: string): boolean {
    return existsSync(this.path(key))
  }

  /** The same bytes under an attempt of their own. */
  twin(key: string): string {
    const parsed = present(decodeSegmentKey(key), 'segment key')
    this.#attempts += 1
    const attempt = attemptOf(Buffer.from(this.#attempts.toString(16).padStart(16, '0'), 'hex'))
    const other = encodeSegmentKey({ ...parsed, attempt })
    copyFileSync(this.path(key), this.path(other))
    return other
  }

  /** An object of the same segment that is whole and holds something else. */
  async rival(log: Log, row: SegmentRow): Promise<string> {
    const committed = present(row.object, 'object')
    const archive = await present(log.parts.archive, 'archive')()
    const reader = await openSegmentObject(archive, committed, new BlockCache(0))
    const payloads: Uint8Array[] = []
    for (let next = 0n; next <= row.lastEntryId; ) {
      for (const { entryId, payload } of await reader.readEntries(next, 1 << 20)) {
        payloads.push(Uint8Array.from(payload))
        next = entryId + 1n
      }
    }
    // The last byte of the last record: part of its payload, and of nothing else.
    const last = present(payloads.at(-1), 'entry')
    last[last.length - 1] = 0x21
    const entries = sourceOf(payloads)
    const planned = await planSegmentObject(await reader.header(), entries)
    const parsed = present(decodeSegmentKey(committed.key), 'key')
    const { contentDigest, indexBytes } = planned
    const attempt = '7777777777777'
    const key = encodeSegmentKey({ ...parsed, contentDigest, indexBytes, attempt })
    this.write(key, await bytesOf(segmentObjectBody(planned, entries)))
    return key
  }

  /** Keys of segments' objects. */
  keys(): string[] {
    return readdirSync(this.archive, { recursive: true, encoding: 'utf8' })
      .filter((name) => /\/s[0-9a-v]{13}-/.test(name))
      .sort()
  }
}

/** Appends text and seals. */
export async function fill(log: Log, name: string, count: number): Promise<void> {
  const records = Array.from({ length: count }, (_, i) => `${name} ${i} ${'.'.repeat(100)}`)
  await log.stream(name).appendAll(records)
  await log.stream(name).seal()
}

/** The rows of a stream. */
export async function rowsOf(log: Log, name: string): Promise<SegmentRow[]> {
  const rows: SegmentRow[] = []
  for await (const row of log.segments(name)) rows.push(row)
  return rows
}

/** All that was appended by `fill` is read, in order. */
export async function checkRead(log: Log, name: string, count: number): Promise<void> {
  let next = 0
  for await (const record of log.stream(name).read()) {
    assert.equal(Buffer.from(record.payload).toString(), `${name} ${next} ${'.'.repeat(100)}`)
    next += 1
  }
  assert.equal(next, count)
}

/** Every part of an iterable. */
export async function allOf<T>(parts: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = []
  for await (const part of parts) all.push(part)
  return all
}
