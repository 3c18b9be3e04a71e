import { StratalogError } from '../model/errors.js'
import { PAYLOAD_BYTES_MAX } from '../model/record.js'
import type { ImportItem } from './import-item.js'

/** Rows of a CSV file (RFC 4180, the first row names the columns) as JSON objects. */
export async function* csvRows(
  chunks: AsyncIterable<Uint8Array>,
  file: string,
): AsyncGenerator<ImportItem, void, undefined> {
  let names: string[] | null = null
  let number = 0
  for await (const row of rawRows(chunks, file)) {
    number += 1
    if (names === null) {
      names = row
      const twice = names.find((name, i) => names?.indexOf(name) !== i)
      if (twice !== undefined)
        throw new StratalogError(
          'invalid_argument',
          `${file} has two columns "${twice}": give each a name of its own`,
          { found: twice },
        )
      continue
    }
    const where = `${file} row ${number}`
    if (row.length !== names.length) {
      throw new StratalogError(
        'invalid_argument',
        `${where} has ${row.length} fields and the first row names ${names.length}: mend the row`,
        { expected: names.length, found: row.length },
      )
    }
    const value = Object.fromEntries(names.map((name, i) => [name, typed(row[i] ?? '')]))
    yield { bytes: Buffer.from(JSON.stringify(value), 'utf8'), value, where }
  }
}

/** A number where its text is the number's own; `007` and `1.50` stay text, so that nothing is lost. */
export function typed(text: string): string | number {
  const number = Number(text)
  return text !== '' && String(number) === text && Number.isFinite(number) ? number : text
}

/** A row as `csvRows` reads it; every field that is more than a plain word stands in quotes. */
export function csvLine(fields: readonly string[]): string {
  const quoted = fields.map((text) => (/^[\w.:+-]+$/.test(text) ? text : `"${text.replaceAll('"', '""')}"`))
  return `${quoted.join(',')}\n`
}

async function* rawRows(
  chunks: AsyncIterable<Uint8Array>,
  file: string,
): AsyncGenerator<string[], void, undefined> {
  const decoder = new TextDecoder('utf-8')
  const reader = new RowReader(file)
  for await (const chunk of chunks) yield* reader.read(decoder.decode(chunk, { stream: true }))
  yield* reader.read(decoder.decode())
  yield* reader.end()
}

/** Reads rows from pieces of text that may end anywhere. */
class RowReader {
  readonly #file: string
  #row: string[] = []
  #field = ''
  #rowCharacters = 0
  /** `quote`: a quote within quotes; it ends the field or, doubled, stands for itself. */
  #state: 'start' | 'bare' | 'quoted' | 'quote' = 'start'

  constructor(file: string) {
    this.#file = file
  }

  *read(text: string): Generator<string[], void, undefined> {
    for (const char of text) {
      if (this.#state === 'quoted') {
        if (char === '"') this.#state = 'quote'
        else this.#add(char)
      } else if (char === '"' && this.#state === 'start') this.#state = 'quoted'
      else if (char === '"' && this.#state === 'quote') {
        this.#add(char)
        this.#state = 'quoted'
      } else if (char === ',') this.#endField()
      else if (char === '\n') yield* this.#endRow()
      else {
        this.#add(char)
        if (this.#state === 'start') this.#state = 'bare'
      }
    }
  }

  *end(): Generator<string[], void, undefined> {
    if (this.#state === 'quoted')
      throw new StratalogError('invalid_argument', `${this.#file} ends within quotes: a closing " is missing`)
    if (this.#row.length > 0 || this.#field !== '') yield* this.#endRow()
  }

  #add(char: string): void {
    this.#field += char
    this.#rowCharacters += 1
    if (this.#rowCharacters > PAYLOAD_BYTES_MAX) {
      throw new StratalogError(
        'record_too_large',
        `${this.#file} has a row of more than ${PAYLOAD_BYTES_MAX} characters: is a closing " missing?`,
        { expected: PAYLOAD_BYTES_MAX },
      )
    }
  }

  #endField(): void {
    this.#row.push(this.#field)
    this.#field = ''
    this.#state = 'start'
  }

  *#endRow(): Generator<string[], void, undefined> {
    if (this.#field.endsWith('\r')) this.#field = this.#field.slice(0, -1)
    const blank = this.#row.length === 0 && this.#field === '' && this.#state !== 'quote'
    this.#endField()
    const row = this.#row
    this.#row = []
    this.#rowCharacters = 0
    if (!blank) yield row
  }
}
