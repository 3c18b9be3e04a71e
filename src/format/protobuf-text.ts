import { assert, present } from '../model/assert.js'
import { corrupt, unsupportedVersion } from './bytes.js'
import type { Field, FieldSchema, FieldValue, Message, Schema } from './protobuf.js'
import { decodeUtf8, fieldNamed } from './protobuf.js'

/*
 * The text form of protocol buffers, as Java's TextFormat prints it and as much of it as it prints:
 *
 *   quorumSize: 3                     numbers in decimal
 *   state: CLOSED                     enums by name
 *   segment {                         messages, two spaces deeper
 *     ensembleMember: "127.0.0.1:1"   strings, bytes: \n \" \' \\ …, \ooo for all but 0x20–0x7e
 *     firstEntryId: 0
 *   }
 */

const NAMED_ESCAPES: Readonly<Record<string, number>> = {
  a: 0x07,
  b: 0x08,
  f: 0x0c,
  n: 0x0a,
  r: 0x0d,
  t: 0x09,
  v: 0x0b,
  '\\': 0x5c,
  "'": 0x27,
  '"': 0x22,
  '?': 0x3f,
}
const ESCAPES = new Map(
  Object.entries(NAMED_ESCAPES)
    .filter(([name]) => name !== '?')
    .map(([name, code]) => [code, `\\${name}`]),
)

/** The text form, each line ended by a line feed. */
export function encodeText(schema: Schema, message: Message, indent = ''): string {
  let out = ''
  for (const [name, value] of message) {
    const { kind } = fieldNamed(schema, name)
    if (typeof value === 'bigint') out += `${indent}${name}: ${value}\n`
    else if (value instanceof Uint8Array) out += `${indent}${name}: ${quote(value)}\n`
    else if (typeof value !== 'string') {
      assert(typeof kind === 'object' && 'fields' in kind, 'a message stands in a field that is none')
      out += `${indent}${name} {\n${encodeText(kind.fields, value, `${indent}  `)}${indent}}\n`
    } else {
      out += `${indent}${name}: ${kind === 'string' ? quote(Buffer.from(value, 'utf8')) : value}\n`
    }
  }
  return out
}

function quote(bytes: Uint8Array): string {
  let out = '"'
  for (const byte of bytes) {
    const escaped = ESCAPES.get(byte)
    if (escaped !== undefined) out += escaped
    else if (byte >= 0x20 && byte <= 0x7e) out += String.fromCharCode(byte)
    else out += `\\${byte.toString(8).padStart(3, '0')}`
  }
  return `${out}"`
}

/** Reads the text form. Throws `corrupt` or `version_unsupported`. */
export function decodeText(schema: Schema, source: string): Message {
  return readFields(schema, new Tokens(source), null)
}

// Each alternative begins with other characters and takes all it can, so that no text makes it try twice.
const SPACE = /(?:\s+|#[^\n]*(?:\n|$))*/y
const TOKEN = /[A-Za-z_]\w*|-?\d+|"[^"\\\n]*(?:\\.[^"\\\n]*)*"|'[^'\\\n]*(?:\\.[^'\\\n]*)*'|[{}<>:;,]/y

/** The words of a text, one ahead. */
class Tokens {
  readonly #source: string
  #at = 0
  #next: string | null = null

  constructor(source: string) {
    this.#source = source
    this.take()
  }

  /** The next word without taking it; null at the end. */
  get next(): string | null {
    return this.#next
  }

  /** Takes the next word; null at the end. */
  take(): string | null {
    const taken = this.#next
    SPACE.lastIndex = this.#at
    this.#at += present(SPACE.exec(this.#source), 'space')[0].length
    if (this.#at === this.#source.length) {
      this.#next = null
      return taken
    }
    TOKEN.lastIndex = this.#at
    const word = TOKEN.exec(this.#source)?.[0]
    if (word === undefined) throw corrupt(`protobuf text can't be read at character ${this.#at}`)
    this.#at += word.length
    this.#next = word
    return taken
  }

  /** Takes the next word if it is one of these. */
  takeIf(words: string): string | null {
    return this.#next !== null && this.#next.length === 1 && words.includes(this.#next) ? this.take() : null
  }
}

function readFields(schema: Schema, tokens: Tokens, closer: string | null): Message {
  const message: Field[] = []
  for (;;) {
    const name = tokens.take()
    if (name === closer) return message
    const field = schema.find((candidate) => candidate.name === name)
    if (name === null || field === undefined)
      throw corrupt(`protobuf text has no field ${name ?? '(end)'} here`)
    message.push([name, readValue(field, tokens)])
    tokens.takeIf(',;')
  }
}

function readValue({ name, kind }: FieldSchema, tokens: Tokens): FieldValue {
  const colon = tokens.takeIf(':')
  if (typeof kind === 'object' && 'fields' in kind) {
    // The depth of nesting is that of the schema, so a text can't make this recurse without end.
    const opener = tokens.takeIf('{<')
    if (opener === null) throw corrupt(`protobuf text has no message in field ${name}`)
    return readFields(kind.fields, tokens, opener === '{' ? '}' : '>')
  }
  const word = tokens.next
  if (colon === null || word === null) throw corrupt(`protobuf text has no value in field ${name}`)
  if (kind === 'string') return decodeUtf8(readString(name, tokens))
  if (kind === 'bytes') return readString(name, tokens)
  tokens.take()
  if (kind === 'int32' || kind === 'int64') {
    const value = /^-?\d{1,19}$/.test(word) ? BigInt(word) : null
    if (value === null || BigInt.asIntN(kind === 'int32' ? 32 : 64, value) !== value) {
      throw corrupt(`protobuf text has no ${kind} in field ${name}`, { found: word.slice(0, 40) })
    }
    return value
  }
  if (!Object.hasOwn(kind.values, word)) {
    throw unsupportedVersion(`protobuf field ${name} has the unknown value ${word.slice(0, 40)}`)
  }
  return word
}

/** A quoted string, or several that are meant as one. */
function readString(name: string, tokens: Tokens): Uint8Array {
  const parts: Uint8Array[] = []
  while (tokens.next !== null && /^["']/.test(tokens.next)) {
    parts.push(unquote(present(tokens.take(), 'string').slice(1, -1)))
  }
  if (parts.length === 0) throw corrupt(`protobuf text has no string in field ${name}`)
  return Buffer.concat(parts)
}

function unquote(quoted: string): Uint8Array {
  const parts: Uint8Array[] = []
  for (const [part, octal, hex, named] of quoted.matchAll(
    /\\(?:([0-7]{1,3})|[xX]([0-9a-fA-F]{1,2})|(.))|[^\\]+/gs,
  )) {
    if (octal === undefined && hex === undefined && named === undefined) {
      parts.push(Buffer.from(part, 'utf8'))
      continue
    }
    const code = octal
      ? Number.parseInt(octal, 8)
      : hex
        ? Number.parseInt(hex, 16)
        : NAMED_ESCAPES[named ?? '']
    if (code === undefined || code > 0xff) throw corrupt(`protobuf text has the unknown escape ${part}`)
    parts.push(Uint8Array.of(code))
  }
  return Buffer.concat(parts)
}
