import { corrupt } from '../../format/bytes.js'

const LENGTH_BYTES = 4

/** Takes a frame: see `FrameReader.push`. */
export type FrameTaker = (buffer: Buffer, at: number, end: number, own: boolean) => void

/**
 * Cuts what comes from a socket into frames: `int32 length` (without itself) and that many bytes (FORMATS.md §1.1).
 * A frame that arrives in pieces is put together in a buffer of its own size, so each byte is copied once at most.
 */
export class FrameReader {
  readonly #bytesMax: number
  /** A length that came in pieces. */
  readonly #length: Buffer = Buffer.alloc(LENGTH_BYTES)
  #lengthHas = 0
  /** The frame that came in pieces. */
  #frame: Buffer | null = null
  #frameHas = 0

  constructor(bytesMax: number) {
    this.#bytesMax = bytesMax
  }

  /** Whether the last byte so far ended a frame. */
  get between(): boolean {
    return this.#frame === null && this.#lengthHas === 0
  }

  /**
   * Calls `frame` for each frame that ends in the chunk, in order, with where it stands in a buffer that is valid during
   * the call, or for good where it is the frame's `own`. Throws `corrupt` for a length that is negative or above the limit, after which nothing can be read.
   */
  push(chunk: Buffer, frame: FrameTaker): void {
    let at = 0
    while (at < chunk.length) {
      if (this.#frame !== null) {
        at = this.#fill(chunk, at, this.#frame, frame)
        continue
      }
      if (this.#lengthHas > 0 || chunk.length - at < LENGTH_BYTES) {
        at = this.#fillLength(chunk, at)
        if (this.#lengthHas < LENGTH_BYTES) return
        this.#lengthHas = 0
        this.#begin(this.#checked(this.#length.readInt32BE(0)), frame)
        continue
      }
      const sizeBytes = this.#checked(chunk.readInt32BE(at))
      at += LENGTH_BYTES
      if (chunk.length - at < sizeBytes) {
        this.#begin(sizeBytes, frame)
        continue
      }
      at += sizeBytes
      frame(chunk, at - sizeBytes, at, false)
    }
  }

  #begin(sizeBytes: number, frame: FrameTaker): void {
    if (sizeBytes === 0) {
      frame(this.#length, 0, 0, false)
      return
    }
    this.#frame = Buffer.allocUnsafe(sizeBytes)
    this.#frameHas = 0
  }

  #fill(chunk: Buffer, at: number, into: Buffer, frame: FrameTaker): number {
    const copied = chunk.copy(into, this.#frameHas, at)
    this.#frameHas += copied
    if (this.#frameHas === into.length) {
      this.#frame = null
      frame(into, 0, into.length, true)
    }
    return at + copied
  }

  #fillLength(chunk: Buffer, at: number): number {
    const copied = chunk.copy(this.#length, this.#lengthHas, at)
    this.#lengthHas += copied
    return at + copied
  }

  #checked(sizeBytes: number): number {
    if (sizeBytes >= 0 && sizeBytes <= this.#bytesMax) return sizeBytes
    throw corrupt(`a frame claims ${sizeBytes} bytes where at most ${this.#bytesMax} are allowed`, {
      expected: this.#bytesMax,
      found: sizeBytes,
    })
  }
}
