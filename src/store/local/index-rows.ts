import { Buffer } from 'node:buffer'
import { crc32c } from '../../format/checksum.js'
import { isStratalogError, StratalogError } from '../../model/errors.js'
import type { Disk } from '../../ports/disk.js'
import { EntryIndex, type EntryRows } from './entry-index.js'
import type { FileHandles } from './file-handles.js'
import { scanFile } from './file-scan.js'
import { BlockRows, encodeRows, type IndexSection, rowsBytes } from './index-block.js'
import type { FileRange } from './log-file.js'

/** What keeping the rows of one range costs besides them: with many small ledgers it is more than these. */
const KEPT_BYTES = 400

/** A range whose rows stand in an index block. */
type IndexedRange = FileRange & { readonly section: IndexSection }

/**
 * The rows of ranges: from memory while a file has no index block, else read from there and kept, least recently
 * used first out, within a limit (invariant 11). One range larger than the limit is kept alone.
 */
export class IndexRows {
  readonly #disk: Disk
  readonly #handles: FileHandles
  readonly #bytesMax: number
  readonly #cache = new Map<FileRange, BlockRows>()
  readonly #loading = new Map<FileRange, Promise<BlockRows>>()
  #bytes = 0

  constructor(disk: Disk, handles: FileHandles, bytesMax: number) {
    this.#disk = disk
    this.#handles = handles
    this.#bytesMax = bytesMax
  }

  get cachedBytes(): number {
    return this.#bytes
  }

  /** The rows if they are in memory. */
  now(range: FileRange): EntryRows | null {
    if (range.rows !== null) return range.rows
    const cached = this.#cache.get(range)
    if (cached === undefined) return null
    this.#cache.delete(range)
    this.#cache.set(range, cached)
    return cached
  }

  /**
   * Reads the rows. The file is held from this call on, so that a range looked up in this turn is never read from a
   * recycled file. Throws `corrupt` if neither the block nor the frames themselves tell them any more.
   */
  load(range: FileRange): Promise<EntryRows> {
    const found = this.now(range)
    if (found !== null) return Promise.resolve(found)
    const running = this.#loading.get(range)
    if (running !== undefined) return running
    const begun = this.#load(range as IndexedRange).finally(() => this.#loading.delete(range))
    this.#loading.set(range, begun)
    return begun
  }

  async #load(range: IndexedRange): Promise<BlockRows> {
    const bytes = Buffer.allocUnsafeSlow(rowsBytes(range.section.entries))
    const whole = await this.#handles.use(range.file, async (handle) => {
      try {
        const at = range.file.blockOffset + range.section.rowsOffset
        const filled = await handle.read(bytes, at)
        return filled === bytes.byteLength && crc32c(bytes) === range.section.rowsCrc32c
          ? bytes
          : await this.#scan(range)
      } catch (error) {
        if (!isStratalogError(error, 'io_failed')) throw error
        return this.#scan(range)
      }
    })
    const rows = new BlockRows(whole)
    this.#keep(range, rows)
    return rows
  }

  /** A damaged block costs a scan of its file: the frames say the same, or they are damaged too. */
  async #scan(range: IndexedRange): Promise<Buffer> {
    const rows = new EntryIndex()
    await scanFile(this.#disk, range.file, {
      entry: ({ ledgerId, entryId, offset, bodyBytes }) => {
        if (ledgerId === range.ledgerId) rows.set(Number(entryId), { offset, bodyBytes })
      },
      mark: () => undefined,
    })
    rows.removeAbove(range.section.lastId, () => undefined)
    const encoded = encodeRows(rows)
    if (crc32c(encoded) === range.section.rowsCrc32c) return encoded
    throw new StratalogError(
      'corrupt',
      `the index of ledger ${range.ledgerId} in ${range.file.path} is damaged: ask another store`,
      { details: { path: range.file.path, ledgerId: range.ledgerId } },
    )
  }

  #keep(range: FileRange, rows: BlockRows): void {
    this.#cache.set(range, rows)
    this.#bytes += KEPT_BYTES + rows.sizeBytes
    for (const [other, old] of this.#cache) {
      if (this.#bytes <= this.#bytesMax || other === range) break
      this.#cache.delete(other)
      this.#bytes -= KEPT_BYTES + old.sizeBytes
    }
  }
}
