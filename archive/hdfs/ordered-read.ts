import { assert } from '../../src/model/assert.js'
import type { Reading, Transfer } from './transfer.js'

/** What reading a file in order needs. */
export interface OrderedReadParts {
  readonly transfer: Transfer
  readonly path: string
  readonly offset: number
  readonly lengthBytes: number
  readonly signal: AbortSignal | undefined
  /** One range by a request of its own. */
  readonly range: (range: { offset: number; lengthBytes: number; attempt: number }) => Promise<Uint8Array>
}

/**
 * A file read in order, over as few requests as go well. A DataNode closes each connection after its answer, and takes
 * some 15 ms to begin one: a request for every few megabytes costs more than the bytes. So one answer is taken a piece
 * at a time; while nobody asks it rests, and the connection's own window keeps the DataNode from sending on.
 *
 * What fails is tried again as a range of its own, from where the last piece ended; the piece after it begins anew.
 */
export class OrderedRead {
  readonly #parts: OrderedReadParts
  readonly #end: number
  #at: number
  #reading: Reading | null = null
  #closed = false

  constructor(parts: OrderedReadParts) {
    this.#parts = parts
    this.#at = parts.offset
    this.#end = parts.offset + parts.lengthBytes
  }

  /** The next bytes; one call at a time. */
  async next(lengthBytes: number): Promise<Uint8Array> {
    assert(
      lengthBytes > 0 && this.#at + lengthBytes <= this.#end,
      `${lengthBytes} bytes beyond what was asked`,
    )
    const { transfer, signal, range } = this.#parts
    const bytes = await transfer.run(signal, async (attempt) => {
      if (attempt > 1) return range({ offset: this.#at, lengthBytes, attempt })
      try {
        return (await this.#goOn(lengthBytes)) ?? (await this.#begin(lengthBytes))
      } catch (error) {
        this.#drop()
        throw error
      }
    })
    this.#at += bytes.length
    return bytes
  }

  /** Lets go of the connection. */
  close(): void {
    this.#closed = true
    this.#drop()
  }

  /** Null: there is nothing to go on with, or it was closed while it rested, which is nobody's fault. */
  async #goOn(lengthBytes: number): Promise<Uint8Array | null> {
    if (this.#reading === null) return null
    const bytes = await this.#parts.transfer.goOn(this.#reading, lengthBytes, this.#parts.signal)
    if (bytes === null) this.#drop()
    return bytes
  }

  async #begin(lengthBytes: number): Promise<Uint8Array> {
    const { transfer, path, signal } = this.#parts
    const reading = await transfer.begin(path, this.#at, this.#end - this.#at, signal)
    this.#reading = reading
    // Who closed it meanwhile does not see this answer.
    if (this.#closed) this.#drop()
    const bytes = await transfer.goOn(reading, lengthBytes, signal)
    assert(bytes !== null, 'an answer that has just begun does not rest')
    reading.rested = true
    return bytes
  }

  #drop(): void {
    this.#reading?.response.destroy()
    this.#reading = null
  }
}
