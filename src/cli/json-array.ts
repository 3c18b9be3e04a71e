import { StratalogError } from '../model/errors.js'
import { PAYLOAD_BYTES_MAX } from '../model/record.js'
import type { ImportItem } from './import-item.js'

const QUOTE = 0x22
const BACKSLASH = 0x5c
const COMMA = 0x2c
const OPEN = 0x5b
const CLOSE = 0x5d

/**
 * The elements of a file that is one JSON array, one by one: the file may be larger than memory. Each element's bytes
 * are kept as they stand there, but for white space around them.
 */
export async function* jsonArrayItems(
  chunks: AsyncIterable<Uint8Array>,
  file: string,
): AsyncGenerator<ImportItem, void, undefined> {
  const splitter = new ArraySplitter(file)
  for await (const chunk of chunks) yield* splitter.read(chunk)
  splitter.end()
}

/** Finds the commas between the elements: those outside of strings and inner brackets. */
class ArraySplitter {
  readonly #file: string
  #pieces: Uint8Array[] = []
  #bytes = 0
  #depth = 0
  #string: 'out' | 'in' | 'escaped' = 'out'
  #place: 'before' | 'within' | 'after' = 'before'
  #count = 0

  constructor(file: string) {
    this.#file = file
  }

  *read(chunk: Uint8Array): Generator<ImportItem, void, undefined> {
    let from = 0
    for (let at = 0; at < chunk.length; at += 1) {
      const byte = chunk[at] ?? 0
      if (this.#place !== 'within') {
        from = at + 1
        this.#outside(byte)
      } else if (this.#string !== 'out') this.#inString(byte)
      else if (byte === QUOTE) this.#string = 'in'
      else if (byte === OPEN || byte === 0x7b) this.#depth += 1
      else if (byte === CLOSE || byte === 0x7d || byte === COMMA) {
        if (this.#depth > 0) {
          if (byte !== COMMA) this.#depth -= 1
          continue
        }
        this.#hold(chunk.subarray(from, at))
        from = at + 1
        const item = this.#item(byte === CLOSE)
        if (item !== null) yield item
        if (byte !== COMMA) this.#place = 'after'
      }
    }
    if (this.#place === 'within') this.#hold(chunk.subarray(from))
  }

  end(): void {
    if (this.#place === 'after') return
    const why =
      this.#place === 'before'
        ? 'it has no [ to begin with: is it .ndjson (--format ndjson)?'
        : 'it ends before the closing ]'
    throw new StratalogError('invalid_argument', `${this.#file} is not a JSON array: ${why}`)
  }

  #outside(byte: number): void {
    const space = byte === 0x20 || byte === 0x0a || byte === 0x0d || byte === 0x09
    // A byte order mark at the start is what some editors leave.
    const mark = this.#place === 'before' && (byte === 0xef || byte === 0xbb || byte === 0xbf)
    if (space || mark) return
    if (this.#place === 'before' && byte === OPEN) {
      this.#place = 'within'
      return
    }
    const why =
      this.#place === 'before'
        ? 'it has no [ to begin with: is it .ndjson (--format ndjson)?'
        : 'something follows its closing ]'
    throw new StratalogError('invalid_argument', `${this.#file} is not a JSON array: ${why}`)
  }

  #inString(byte: number): void {
    if (this.#string === 'escaped') this.#string = 'in'
    else if (byte === BACKSLASH) this.#string = 'escaped'
    else if (byte === QUOTE) this.#string = 'out'
  }

  #hold(piece: Uint8Array): void {
    this.#pieces.push(piece)
    this.#bytes += piece.length
    if (this.#bytes > 2 * PAYLOAD_BYTES_MAX) {
      throw new StratalogError(
        'record_too_large',
        `${this.#file} element ${this.#count + 1} is larger than ${PAYLOAD_BYTES_MAX} bytes, the most a record may have`,
        { expected: PAYLOAD_BYTES_MAX },
      )
    }
  }

  /** The element that just ended; null for the nothing of an empty array. */
  #item(last: boolean): ImportItem | null {
    const text = Buffer.concat(this.#pieces).toString('utf8').trim()
    this.#pieces = []
    this.#bytes = 0
    if (text === '' && last && this.#count === 0) return null
    this.#count += 1
    const where = `${this.#file} element ${this.#count}`
    try {
      return { bytes: Buffer.from(text, 'utf8'), value: JSON.parse(text), where }
    } catch (cause) {
      throw new StratalogError(
        'invalid_argument',
        `${where} is not JSON: ${cause instanceof Error ? cause.message : String(cause)}`,
        { cause },
      )
    }
  }
}
