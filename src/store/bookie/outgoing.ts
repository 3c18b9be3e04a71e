import type { Duplex } from 'node:stream'

/** Smaller pieces are copied together: that costs less than a system call's list of them. */
const COPY_BYTES_MAX = 16 * 1024
const SLAB_BYTES = 256 * 1024
/** Slabs that wait to be used again. */
const FREE_SLABS_MAX = 8

/** Memory that is filled from the front, and again from the front once the socket has all of it. */
interface Slab {
  readonly buffer: Buffer
  /** Pieces of it that the socket has not written yet. */
  unwritten: number
}

interface Piece {
  readonly bytes: Uint8Array
  readonly slab: Slab | null
}

/**
 * Gathers what is to be sent until it is flushed, once a turn of the event loop: a thousand entries of 1 KiB go out with
 * a handful of system calls. What the socket has written is filled anew: memory outside of V8's heap, made and collected
 * at this rate, costs more than the copies.
 */
export class Outgoing {
  readonly #ready: Piece[] = []
  readonly #free: Slab[] = []
  #slab: Slab = { buffer: Buffer.alloc(0), unwritten: 0 }
  /** What of the slab was handed on already, and what is filled. */
  #from = 0
  #to = 0

  /** A buffer and where in it at least `bytes` are free; `filled` says how far they were used. */
  reserve(bytes: number): { readonly buffer: Buffer; readonly at: number } {
    this.#makeRoom(bytes)
    return { buffer: this.#slab.buffer, at: this.#to }
  }

  /** The reserved bytes are used up to here. */
  filled(to: number): void {
    this.#to = to
  }

  /** Adds bytes that do not change until they are sent. */
  append(bytes: Uint8Array): void {
    if (bytes.length > COPY_BYTES_MAX) {
      this.#cut()
      this.#ready.push({ bytes, slab: null })
      return
    }
    this.#makeRoom(bytes.length)
    this.#slab.buffer.set(bytes, this.#to)
    this.#to += bytes.length
  }

  /** Hands everything to the socket. */
  flush(socket: Duplex): void {
    this.#cut()
    const pieces = this.#ready.splice(0)
    if (pieces.length > 1) socket.cork()
    for (const { bytes, slab } of pieces) {
      if (slab === null) socket.write(bytes)
      else socket.write(bytes, () => this.#written(slab))
    }
    if (pieces.length > 1) socket.uncork()
  }

  #makeRoom(bytes: number): void {
    if (this.#slab.buffer.length - this.#to >= bytes) return
    this.#cut()
    const full = this.#slab
    this.#slab = this.#free.pop() ?? { buffer: Buffer.allocUnsafeSlow(SLAB_BYTES), unwritten: 0 }
    this.#from = 0
    this.#to = 0
    if (full.unwritten === 0) this.#giveBack(full)
  }

  #cut(): void {
    if (this.#to === this.#from) return
    const slab = this.#slab
    slab.unwritten += 1
    this.#ready.push({ bytes: slab.buffer.subarray(this.#from, this.#to), slab })
    this.#from = this.#to
  }

  /** Also told of what a broken connection will never write. */
  #written(slab: Slab): void {
    slab.unwritten -= 1
    if (slab.unwritten > 0) return
    if (slab !== this.#slab) this.#giveBack(slab)
    else if (this.#to === this.#from) {
      this.#from = 0
      this.#to = 0
    }
  }

  #giveBack(slab: Slab): void {
    if (slab.buffer.length > 0 && this.#free.length < FREE_SLABS_MAX) this.#free.push(slab)
  }
}
