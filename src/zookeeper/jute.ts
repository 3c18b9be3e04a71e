import { asBuffer, corrupt } from '../format/bytes.js'

/*
 * Jute, the serialisation of ZooKeeper's protocol: numbers big-endian; strings and buffers an int32 length and their
 * bytes, −1 for none; vectors an int32 count and their elements. A packet has its int32 length in front.
 */

const FIRST_BYTES = 128

/** Writes one packet. */
export class JuteWriter {
  #buffer = Buffer.allocUnsafe(FIRST_BYTES)
  /** Room for the length. */
  #at = 4

  int(value: number): this {
    this.#at = this.#room(4).writeInt32BE(value, this.#at)
    return this
  }

  long(value: bigint): this {
    this.#at = this.#room(8).writeBigInt64BE(value, this.#at)
    return this
  }

  bool(value: boolean): this {
    this.#at = this.#room(1).writeUInt8(value ? 1 : 0, this.#at)
    return this
  }

  buffer(value: Uint8Array): this {
    this.int(value.length)
    this.#room(value.length).set(value, this.#at)
    this.#at += value.length
    return this
  }

  string(value: string): this {
    return this.buffer(Buffer.from(value, 'utf8'))
  }

  strings(values: readonly string[]): this {
    this.int(values.length)
    for (const value of values) this.string(value)
    return this
  }

  /** The packet with its length. */
  packet(): Buffer {
    this.#buffer.writeInt32BE(this.#at - 4, 0)
    return this.#buffer.subarray(0, this.#at)
  }

  #room(bytes: number): Buffer {
    const needed = this.#at + bytes
    if (needed > this.#buffer.length) {
      const grown = Buffer.allocUnsafe(Math.max(needed, this.#buffer.length * 2))
      this.#buffer.copy(grown, 0, 0, this.#at)
      this.#buffer = grown
    }
    return this.#buffer
  }
}

/** Reads one packet, without its length. Throws `corrupt` where it ends too early or a length is impossible. */
export class JuteReader {
  readonly #buffer: Buffer
  #at = 0

  constructor(packet: Uint8Array) {
    this.#buffer = asBuffer(packet)
  }

  get left(): number {
    return this.#buffer.length - this.#at
  }

  int(): number {
    return this.#buffer.readInt32BE(this.#take(4))
  }

  long(): bigint {
    return this.#buffer.readBigInt64BE(this.#take(8))
  }

  bool(): boolean {
    return this.#buffer.readUInt8(this.#take(1)) !== 0
  }

  /** A copy: packets share what came from the socket at once. None is read as empty. */
  buffer(): Uint8Array {
    const length = this.int()
    if (length < -1) throw corrupt(`an answer of ZooKeeper has a length of ${length}`)
    const from = this.#take(Math.max(0, length))
    return new Uint8Array(this.#buffer.subarray(from, this.#at))
  }

  string(): string {
    return Buffer.from(this.buffer()).toString('utf8')
  }

  strings(): string[] {
    const count = this.int()
    // Each has at least its length: a count that can't be is no reason to make room for it.
    if (count < -1 || count * 4 > this.left) throw corrupt(`an answer of ZooKeeper has ${count} names`)
    return Array.from({ length: Math.max(0, count) }, () => this.string())
  }

  #take(bytes: number): number {
    const from = this.#at
    if (bytes > this.left) throw corrupt(`an answer of ZooKeeper ends ${bytes - this.left} bytes too early`)
    this.#at += bytes
    return from
  }
}
