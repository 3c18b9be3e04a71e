import { Buffer } from 'node:buffer'
import { crc32c } from '../../format/checksum.js'
import { assert } from '../../model/assert.js'
import { isStratalogError } from '../../model/errors.js'
import type { DiskFile } from '../../ports/disk.js'
import { PAGE_BYTES } from './frame.js'

/**
 * A file seen through a buffer of fixed size that moves forward. Pages the disk can't read are seen as zeros:
 * no frame parses there, so they count as damage, and the rest of the file is still found.
 */
export class ScanWindow {
  readonly sizeBytes: number
  /** Bytes the disk refused to read. */
  unreadableBytes = 0
  readonly #file: DiskFile
  readonly #buffer: Buffer
  #from = 0
  #filled = 0

  constructor(file: DiskFile, sizeBytes: number, windowBytes: number) {
    assert(windowBytes % PAGE_BYTES === 0, 'a scan window consists of whole pages')
    this.#file = file
    this.sizeBytes = sizeBytes
    // No more than the file has: a store of many small files starts without taking a window for each.
    this.#buffer = Buffer.allocUnsafeSlow(Math.max(PAGE_BYTES, Math.min(windowBytes, sizeBytes)))
  }

  /** `bytes` bytes at `offset`, fewer only where the file ends; valid until the next call. */
  async view(offset: number, bytes: number): Promise<Buffer> {
    assert(bytes <= this.#buffer.byteLength, 'a view is larger than the scan window')
    const end = Math.min(offset + bytes, this.sizeBytes)
    if (offset < this.#from || end > this.#from + this.#filled) await this.#fill(offset)
    const from = Math.min(offset - this.#from, this.#filled)
    return this.#buffer.subarray(from, Math.min(from + bytes, this.#filled))
  }

  /** CRC32C of a range, or null if the file ends before it does. */
  async checksum(offset: number, bytes: number): Promise<number | null> {
    let value = 0
    let done = 0
    while (done < bytes) {
      const piece = await this.view(offset + done, Math.min(bytes - done, this.#buffer.byteLength))
      if (piece.byteLength === 0) return null
      value = crc32c(piece, value)
      done += piece.byteLength
    }
    return value
  }

  async #fill(offset: number): Promise<void> {
    this.#from = offset
    this.#filled = 0
    if (offset >= this.sizeBytes) return
    const want = Math.min(this.#buffer.byteLength, this.sizeBytes - offset)
    const target = this.#buffer.subarray(0, want)
    try {
      this.#filled = await this.#file.read(target, offset)
    } catch (error) {
      if (!isStratalogError(error, 'io_failed')) throw error
      await this.#fillByPages(target, offset)
    }
  }

  async #fillByPages(target: Buffer, offset: number): Promise<void> {
    let at = 0
    while (at < target.byteLength) {
      const page = target.subarray(
        at,
        Math.min(at + PAGE_BYTES - ((offset + at) % PAGE_BYTES), target.byteLength),
      )
      try {
        await this.#file.read(page, offset + at)
      } catch (error) {
        if (!isStratalogError(error, 'io_failed')) throw error
        page.fill(0)
        this.unreadableBytes += page.byteLength
      }
      at += page.byteLength
    }
    this.#filled = target.byteLength
  }
}
