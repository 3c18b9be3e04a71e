import { corrupt } from '../../format/bytes.js'

/*
 * Protobuf by hand, for the messages that go over the wire tens of thousands of times a second (adds and reads) and for
 * the envelope of every answer. What is rare goes through format/protobuf.ts.
 */

/** Protobuf's wire types, as far as the protocol uses them. */
export const VARINT = 0
export const BYTES = 2
const FIXED64 = 1
const FIXED32 = 5

/** Bytes of a varint. Negative numbers are sent as 64 bits: ten bytes. */
export function varintBytes(value: number): number {
  if (value < 0) return 10
  let bytes = 1
  for (let rest = value; rest >= 128; rest = Math.floor(rest / 128)) bytes += 1
  return bytes
}

/** Writes a varint and returns where it ends. */
export function writeVarint(buffer: Buffer, at: number, value: number): number {
  let rest = value
  let end = at
  while (rest >= 128) {
    buffer[end] = (rest & 127) | 128
    rest = Math.floor(rest / 128)
    end += 1
  }
  buffer[end] = rest
  return end + 1
}

/** Bytes of an id as a varint. */
export function idBytes(id: bigint): number {
  if (id >= 0n && id <= Number.MAX_SAFE_INTEGER) return varintBytes(Number(id))
  return id < 0n ? 10 : id < 2n ** 56n ? 8 : 9
}

/** Writes an id (an int64, in two's complement) and returns where it ends. */
export function writeId(buffer: Buffer, at: number, id: bigint): number {
  if (id >= 0n && id <= Number.MAX_SAFE_INTEGER) return writeVarint(buffer, at, Number(id))
  let rest = BigInt.asUintN(64, id)
  let end = at
  for (; rest >= 128n; rest >>= 7n) {
    buffer[end] = Number(rest & 127n) | 128
    end += 1
  }
  buffer[end] = Number(rest)
  return end + 1
}

/** Reads the fields of one message. Never beyond `end`: whatever stands there, it throws `corrupt` or gets on. */
export class Fields {
  readonly buffer: Buffer
  at: number
  readonly end: number
  /** Of the field that `next` found. */
  no = 0
  wire = 0

  constructor(buffer: Buffer, at: number, end: number) {
    this.buffer = buffer
    this.at = at
    this.end = end
  }

  /** Goes to the next field; false at the end of the message. */
  next(): boolean {
    if (this.at >= this.end) return false
    const tag = this.number()
    this.wire = tag % 8
    this.no = Math.floor(tag / 8)
    if (this.no === 0) throw corrupt('a protobuf field has the number 0')
    return true
  }

  /** A varint that is no id: lengths, statuses, transactions. */
  number(): number {
    let value = 0
    let scale = 1
    for (let i = 0; i < 8; i += 1) {
      const byte = this.#byte()
      value += (byte & 127) * scale
      if (byte < 128) {
        if (value > Number.MAX_SAFE_INTEGER) break
        return value
      }
      scale *= 128
    }
    throw corrupt('a protobuf number is too large')
  }

  /** An int64. */
  id(): bigint {
    let low = 0
    let scale = 1
    for (let i = 0; i < 7; i += 1) {
      const byte = this.#byte()
      low += (byte & 127) * scale
      if (byte < 128) return BigInt(low)
      scale *= 128
    }
    let value = BigInt(low)
    for (let shift = 49n; shift < 70n; shift += 7n) {
      const byte = this.#byte()
      value += BigInt(byte & 127) << shift
      if (byte < 128) return BigInt.asIntN(64, value)
    }
    throw corrupt('a protobuf number has more than ten bytes')
  }

  /** The message in this field. */
  message(): Fields {
    const { at, end } = this.#range()
    return new Fields(this.buffer, at, end)
  }

  /** The bytes of this field, a view. */
  bytes(): Buffer {
    const { at, end } = this.#range()
    return this.buffer.subarray(at, end)
  }

  /** Passes over a field that means nothing here. */
  skip(): void {
    if (this.wire === VARINT) this.id()
    else if (this.wire === BYTES) this.#range()
    else if (this.wire === FIXED64) this.#pass(8)
    else if (this.wire === FIXED32) this.#pass(4)
    else throw corrupt(`protobuf field ${this.no} has the wire type ${this.wire}`)
  }

  /** Throws where the field was written in another form than the protocol says. */
  expect(wire: number): void {
    if (this.wire !== wire) throw corrupt(`protobuf field ${this.no} has the wire type ${this.wire}`)
  }

  #range(): { readonly at: number; readonly end: number } {
    this.expect(BYTES)
    const sizeBytes = this.number()
    const at = this.at
    this.#pass(sizeBytes)
    return { at, end: this.at }
  }

  #pass(bytes: number): void {
    if (bytes > this.end - this.at) throw corrupt(`protobuf field ${this.no} is cut off`)
    this.at += bytes
  }

  #byte(): number {
    const byte = this.at < this.end ? this.buffer[this.at] : undefined
    if (byte === undefined) throw corrupt('a protobuf message is cut off')
    this.at += 1
    return byte
  }
}
