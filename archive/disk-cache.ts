import { join } from 'node:path'
import { crc32c } from '../src/format/checksum.js'
import { assert } from '../src/model/assert.js'
import { isStratalogError } from '../src/model/errors.js'
import type { Clock } from '../src/ports/clock.js'
import type { Disk } from '../src/ports/disk.js'
import type { Logger } from '../src/ports/logger.js'
import { UseQueues } from './use-queues.js'

/*
 * Blocks of cold objects on a local disk, as they are stored in the archive. One file a block, named by object key and
 * block: 16 bytes of header, then the block.
 *
 *   magic "SCB1" · sizeBytes u32 · crc32c u32 of the file's name, then the block · 0 u32
 *
 * Nothing here is ever synced: after a crash a file may be torn, and one whose checksum is wrong is a miss. The name is
 * part of the checksum, so a file that was given another block's name is one, too.
 */

const MAGIC = Buffer.from('SCB1', 'latin1')
const HEADER_BYTES = 16
const PAGE_BYTES = 4_096
const SUFFIX = '.blk'
const TEMPORARY = '.tmp'
const NAME = /^[0-9a-z_~.+-]+\+\d{1,7}\+(\d{1,9})\.blk$/
/** Blocks that wait to be written; what comes beyond it is not kept, reads don't wait. */
const WAITING_BYTES_MAX = 8 * 2 ** 20
/** After a failed write nothing is written for so long. */
const REST_MS = 30_000

/** One block of an object. */
export interface DiskBlock {
  readonly key: string
  readonly number: number
  /** As stored. */
  readonly sizeBytes: number
}

/** What a cache stands on and may use. */
export interface DiskCacheOptions {
  readonly disk: Disk
  readonly clock: Clock
  readonly logger: Logger
  /** Belongs to the cache; may be deleted at any time. */
  readonly directory: string
  readonly bytesMax: number
}

/** Counters since the cache was opened. */
export interface DiskCacheCounts {
  hits: number
  /** Files that were not what they should be. */
  damaged: number
  written: number
  /** Not kept because too much waited to be written, or writing failed lately. */
  skipped: number
  failed: number
}

interface Write {
  readonly name: string
  readonly bytes: Uint8Array
}

/**
 * A cache on disk with a limit in bytes that one scan can't flush (`UseQueues`). Writing goes on behind the reads. No
 * failure of its disk reaches a reader: the archive has what is not here.
 */
export class DiskCache {
  readonly counts: DiskCacheCounts = { hits: 0, damaged: 0, written: 0, skipped: 0, failed: 0 }
  readonly #options: DiskCacheOptions
  readonly #queues: UseQueues
  /** Names whose file is not whole yet. */
  readonly #unwritten = new Set<string>()
  #waiting: Write[] = []
  #waitingBytes = 0
  #writing: Promise<void> | null = null
  readonly #removing = new Set<Promise<void>>()
  #restsUntilMs = Number.NEGATIVE_INFINITY
  #closed = false

  private constructor(options: DiskCacheOptions) {
    this.#options = options
    this.#queues = new UseQueues(options.bytesMax)
  }

  /** Takes over what an earlier process left; a directory that can't be used is an empty cache. */
  static async open(options: DiskCacheOptions): Promise<DiskCache> {
    assert(options.bytesMax > 0, 'a disk cache without bytes')
    const cache = new DiskCache(options)
    try {
      await options.disk.makeDirectory(options.directory)
      for (const name of (await options.disk.list(options.directory)).sort()) cache.#adopt(name)
      cache.#trim()
    } catch (error) {
      cache.#rest(error)
    }
    return cache
  }

  get sizeBytes(): number {
    return this.#queues.sizeBytes
  }

  get bytesMax(): number {
    return this.#options.bytesMax
  }

  /** Whether the block is likely to be had from here. */
  has(block: DiskBlock): boolean {
    const name = nameOf(block)
    return this.#queues.has(name) && !this.#unwritten.has(name)
  }

  /** The block as it was stored, checksum verified; null where it is not here. */
  async get(block: DiskBlock): Promise<Uint8Array | null> {
    const name = nameOf(block)
    if (!this.has(block)) return null
    this.#queues.used(name)
    try {
      const bytes = await this.#read(name, block.sizeBytes)
      if (bytes !== null) {
        this.counts.hits += 1
        return bytes
      }
      this.counts.damaged += 1
    } catch (error) {
      // Gone with its directory, or its disk fails: a miss either way.
      if (!isStratalogError(error, 'file_not_found')) this.#failed(error, 'reading')
    }
    this.drop(block)
    return null
  }

  /** Keeps a block, later; the bytes are copied. */
  put(block: DiskBlock, stored: Uint8Array): void {
    const name = nameOf(block)
    if (this.#closed || this.#queues.has(name)) return
    const resting = this.#options.clock.monotonicMs() < this.#restsUntilMs
    if (resting || this.#waitingBytes + stored.length > WAITING_BYTES_MAX) {
      this.counts.skipped += 1
      return
    }
    if (diskBytes(stored.length) > this.bytesMax / 2) return
    this.#queues.add(name, diskBytes(stored.length))
    this.#unwritten.add(name)
    this.#waiting.push({ name, bytes: Uint8Array.from(stored) })
    this.#waitingBytes += stored.length
    this.#trim()
    this.#writing ??= this.#write()
  }

  /** Forgets a block that turned out to be damaged. */
  drop(block: DiskBlock): void {
    const name = nameOf(block)
    if (!this.#queues.remove(name)) return
    this.#unlink(name)
  }

  /** Resolves when what waited is written or given up. */
  async settled(): Promise<void> {
    await this.#writing
    await Promise.all(this.#removing)
  }

  /** Ends writing; what waits is given up: it is only a cache. */
  async close(): Promise<void> {
    this.#closed = true
    for (const { name } of this.#waiting) this.#queues.remove(name)
    this.#waiting = []
    await this.settled()
  }

  /** Takes a file of an earlier process into the books: its name says how large it should be. */
  #adopt(name: string): void {
    const size = NAME.exec(name)?.[1]
    if (size !== undefined) this.#queues.adopt(name, diskBytes(Number(size)))
    else if (name.endsWith(SUFFIX + TEMPORARY)) this.#unlink(name)
  }

  /** Null: not what it should be. */
  async #read(name: string, sizeBytes: number): Promise<Uint8Array | null> {
    const file = await this.#options.disk.open(join(this.#options.directory, name), 'read')
    try {
      const bytes = Buffer.allocUnsafe(HEADER_BYTES + sizeBytes)
      if ((await file.read(bytes, 0)) !== bytes.length) return null
      const stored = bytes.subarray(HEADER_BYTES)
      return headerOf(name, stored).equals(bytes.subarray(0, HEADER_BYTES)) ? stored : null
    } finally {
      await file.close()
    }
  }

  async #write(): Promise<void> {
    for (let next = this.#waiting.shift(); next !== undefined; next = this.#waiting.shift()) {
      try {
        await this.#writeOne(next)
      } catch (error) {
        this.#queues.remove(next.name)
        this.#unlink(next.name + TEMPORARY)
        this.#rest(error)
      } finally {
        this.#unwritten.delete(next.name)
        this.#waitingBytes -= next.bytes.length
      }
    }
    this.#waitingBytes = 0
    this.#writing = null
  }

  /** Under another name first: a name that reads as a block's is given only to what was written whole. */
  async #writeOne({ name, bytes }: Write): Promise<void> {
    // Evicted while it waited.
    if (!this.#queues.has(name)) return
    const { disk, directory } = this.#options
    const temporary = join(directory, name + TEMPORARY)
    const file = await this.#create(temporary)
    try {
      await file.write([headerOf(name, bytes), bytes], 0)
    } finally {
      await file.close()
    }
    await disk.rename(temporary, join(directory, name))
    this.counts.written += 1
    // Evicted while it was written: now there is something to remove.
    if (!this.#queues.has(name)) this.#unlink(name)
  }

  /** The directory may have been deleted since. */
  async #create(path: string): ReturnType<Disk['open']> {
    const { disk, directory } = this.#options
    try {
      return await disk.open(path, 'create')
    } catch (error) {
      if (isStratalogError(error, 'file_exists')) await disk.remove(path)
      else if (isStratalogError(error, 'file_not_found')) await disk.makeDirectory(directory)
      else throw error
      return disk.open(path, 'create')
    }
  }

  #trim(): void {
    for (const name of this.#queues.evict()) if (!this.#unwritten.has(name)) this.#unlink(name)
  }

  #unlink(name: string): void {
    const { disk, directory } = this.#options
    const removing = disk.remove(join(directory, name)).catch((error: unknown) => {
      if (!isStratalogError(error, 'file_not_found')) this.#failed(error, 'removing')
    })
    this.#removing.add(removing)
    void removing.then(() => this.#removing.delete(removing))
  }

  #rest(error: unknown): void {
    this.#restsUntilMs = this.#options.clock.monotonicMs() + REST_MS
    this.#failed(error, 'writing')
  }

  #failed(err: unknown, what: string): void {
    this.counts.failed += 1
    const { logger, directory } = this.#options
    logger.warn({ err, directory }, `${what} a block of the disk cache failed: reads go to the archive`)
  }
}

function nameOf({ key, number, sizeBytes }: DiskBlock): string {
  // "+" stands in no key, so the name says which key it was.
  return `${key.replaceAll('/', '+')}+${number}+${sizeBytes}${SUFFIX}`
}

function headerOf(name: string, stored: Uint8Array): Buffer {
  const header = Buffer.alloc(HEADER_BYTES)
  header.set(MAGIC)
  header.writeUInt32BE(stored.length, 4)
  header.writeUInt32BE(crc32c(stored, crc32c(Buffer.from(name, 'latin1'))), 8)
  return header
}

/** What a file takes of its disk. */
function diskBytes(sizeBytes: number): number {
  return Math.ceil((sizeBytes + HEADER_BYTES) / PAGE_BYTES) * PAGE_BYTES
}
