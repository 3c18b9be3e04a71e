import { BinaryReader, BinaryWriter, WireType } from '@bufbuild/protobuf/wire'
import { assert, present } from '../model/assert.js'
import { isStratalogError } from '../model/errors.js'
import { corrupt, unsupportedVersion } from './bytes.js'

/*
 * Protocol buffers (proto2) by a schema that is data: as much as BookKeeper's metadata needs, read and
 * written in the binary form here and in the text form in `protobuf-text.ts`. A message is the list of its
 * fields in the order they are written.
 *
 *   binary field: ┌──────────────────────────────┬─────────────────────────────────────────────────┐
 *                 │ varint: number << 3 | wire   │ wire 0: varint · wire 2: varint length + bytes  │
 *                 └──────────────────────────────┴─────────────────────────────────────────────────┘
 */

/** What a field holds. An enum maps its names to numbers. */
export type FieldKind =
  | 'int32'
  | 'int64'
  | 'string'
  | 'bytes'
  | { readonly values: Readonly<Record<string, number>> }
  | { readonly fields: Schema }

/** One field of a message type. */
export interface FieldSchema {
  readonly no: number
  readonly name: string
  readonly kind: FieldKind
}

/** The fields of a message type. */
export type Schema = readonly FieldSchema[]

/** Numbers as bigint, enums as their name. */
export type FieldValue = bigint | string | Uint8Array | Message

/** A field's name and value; a repeated field occurs several times. */
export type Field = readonly [name: string, value: FieldValue]

/** Fields in the order they are written. */
export type Message = readonly Field[]

/** Decodes UTF-8 as it stands: nothing is replaced, and no byte order mark is taken away. */
export function decodeUtf8(bytes: Uint8Array): string {
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes)
  } catch (cause) {
    throw corrupt('text is no UTF-8', { cause })
  }
}

/** The field of that name, which the schema must have. */
export function fieldNamed(schema: Schema, name: string): FieldSchema {
  return present(
    schema.find((field) => field.name === name),
    `protobuf field ${name}`,
  )
}

/** The binary form, without the length in front. */
export function encodeMessage(schema: Schema, message: Message): Uint8Array {
  const writer = new BinaryWriter()
  for (const [name, value] of message) writeField(writer, fieldNamed(schema, name), value)
  return writer.finish()
}

/** The varint length and then the binary form: protobuf's "delimited". */
export function encodeDelimited(schema: Schema, message: Message): Uint8Array {
  return new BinaryWriter().bytes(encodeMessage(schema, message)).finish()
}

function writeField(writer: BinaryWriter, { no, kind }: FieldSchema, value: FieldValue): void {
  if (typeof value === 'bigint') {
    // Protobuf writes a negative int32 as the ten bytes of the int64, so one writer does for both.
    writer.tag(no, WireType.Varint).int64(value)
  } else if (value instanceof Uint8Array) {
    writer.tag(no, WireType.LengthDelimited).bytes(value)
  } else if (typeof value !== 'string') {
    assert(typeof kind === 'object' && 'fields' in kind, 'a message stands in a field that is none')
    writer.tag(no, WireType.LengthDelimited).bytes(encodeMessage(kind.fields, value))
  } else if (typeof kind === 'object') {
    assert('values' in kind, 'a string stands in a field that is a message')
    writer.tag(no, WireType.Varint).int32(present(kind.values[value], `enum value ${value}`))
  } else {
    writer.tag(no, WireType.LengthDelimited).string(value)
  }
}

/**
 * Reads the binary form. Fields the schema has not are skipped. Throws `corrupt` or `version_unsupported`.
 */
export function decodeMessage(schema: Schema, bytes: Uint8Array): Message {
  return guarded(() => readMessage(schema, new BinaryReader(bytes)))
}

/** Reads a varint length and that many bytes, after which nothing may stand. */
export function decodeDelimited(schema: Schema, bytes: Uint8Array): Message {
  return guarded(() => {
    const reader = new BinaryReader(bytes)
    const body = reader.bytes()
    if (reader.pos !== bytes.length) throw corrupt('bytes stand after a protobuf message')
    return readMessage(schema, new BinaryReader(body))
  })
}

/** The reader throws plain errors for bytes that are no protobuf; they become ours. */
function guarded(read: () => Message): Message {
  try {
    return read()
  } catch (cause) {
    if (isStratalogError(cause)) throw cause
    throw corrupt('bytes are no protobuf message', { cause })
  }
}

function readMessage(schema: Schema, reader: BinaryReader): Message {
  const message: Field[] = []
  while (reader.pos < reader.len) {
    const [no, wire] = reader.tag()
    const field = schema.find((candidate) => candidate.no === no)
    if (field === undefined) reader.skip(wire, no)
    else message.push([field.name, readField(field, reader, wire)])
  }
  return message
}

function readField({ name, kind }: FieldSchema, reader: BinaryReader, wire: WireType): FieldValue {
  const varint = kind === 'int32' || kind === 'int64' || (typeof kind === 'object' && 'values' in kind)
  if (wire !== (varint ? WireType.Varint : WireType.LengthDelimited)) {
    throw corrupt(`protobuf field ${name} has wire type ${wire}`)
  }
  if (kind === 'int32') return BigInt(reader.int32())
  if (kind === 'int64') return BigInt(reader.int64())
  if (kind === 'bytes') return reader.bytes()
  if (kind === 'string') return decodeUtf8(reader.bytes())
  if ('fields' in kind) return readMessage(kind.fields, new BinaryReader(reader.bytes()))
  const number = reader.int32()
  const known = Object.entries(kind.values).find(([, value]) => value === number)
  if (known === undefined) throw unsupportedVersion(`protobuf field ${name} has the unknown value ${number}`)
  return known[0]
}

/** The last value of a field, which is the one that counts, or undefined. */
export function lastValue(message: Message, name: string): FieldValue | undefined {
  return message.findLast(([field]) => field === name)?.[1]
}

/** Every value of a repeated field. */
export function everyValue(message: Message, name: string): FieldValue[] {
  return message.filter(([field]) => field === name).map(([, value]) => value)
}

/** The last value of an integer field, or undefined. */
export function integer(message: Message, name: string): bigint | undefined {
  const value = lastValue(message, name)
  assert(value === undefined || typeof value === 'bigint', `protobuf field ${name} is no number`)
  return value
}

/** The last value of a string or enum field, or undefined. */
export function text(message: Message, name: string): string | undefined {
  const value = lastValue(message, name)
  assert(value === undefined || typeof value === 'string', `protobuf field ${name} is no text`)
  return value
}

/** The last value of a bytes field, or undefined. */
export function bytes(message: Message, name: string): Uint8Array | undefined {
  const value = lastValue(message, name)
  assert(value === undefined || value instanceof Uint8Array, `protobuf field ${name} is no bytes`)
  return value
}

/** Every value of a repeated message field. */
export function messages(message: Message, name: string): Message[] {
  return everyValue(message, name).map((value) => {
    assert(
      typeof value === 'object' && !(value instanceof Uint8Array),
      `protobuf field ${name} is no message`,
    )
    return value
  })
}
