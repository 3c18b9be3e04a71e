import { StratalogError } from '../model/errors.js'
import { csvLine, typed } from './csv.js'
import type { ImportFormat } from './import-formats.js'
import { textOf } from './render.js'

/** What an export needs of a record. */
export interface ExportRecord {
  readonly dlsn: string
  readonly txid: string
  readonly payload: Uint8Array
}

/**
 * A file as `import` reads it, piece by piece. A record that the format can't give back byte for byte is refused
 * with its position: a file that silently differs from the log would be found out when the log is gone.
 */
export interface ExportWriter {
  /** What stands in front of the first record. */
  begin(): string
  record(record: ExportRecord): string | Uint8Array
  /** What closes the file. */
  end(): string
}

/** The writer of a format. */
export function exportWriter(format: ImportFormat): ExportWriter {
  switch (format) {
    case 'records':
      return { begin: () => '', record: recordLine, end: () => '' }
    case 'lines':
      return { begin: () => '', record: bareLine, end: () => '' }
    case 'ndjson':
      return { begin: () => '', record: jsonLine, end: () => '' }
    case 'json':
      return new JsonArray()
    case 'csv':
      return new CsvRows()
  }
}

function recordLine({ txid, payload }: ExportRecord): string {
  const text = textOf(payload)
  const content =
    text === null ? { payloadBase64: Buffer.from(payload).toString('base64') } : { payload: text }
  return `${JSON.stringify({ txid, ...content })}\n`
}

const LINE_FEED = Buffer.from('\n')

function bareLine(record: ExportRecord): Uint8Array {
  if (record.payload.includes(10)) throw refused(record, 'has a line feed within', 'lines')
  return Buffer.concat([record.payload, LINE_FEED])
}

function jsonLine(record: ExportRecord): string {
  const text = jsonText(record, 'ndjson')
  if (text.includes('\n')) throw refused(record, 'is JSON on more than one line', 'ndjson')
  return `${text}\n`
}

class JsonArray implements ExportWriter {
  #count = 0

  begin(): string {
    return '['
  }

  record(record: ExportRecord): string {
    const text = jsonText(record, 'json')
    if (text.trim() !== text) throw refused(record, 'is JSON with white space around it', 'json')
    this.#count += 1
    return `${this.#count === 1 ? '' : ','}\n${text}`
  }

  end(): string {
    return '\n]\n'
  }
}

class CsvRows implements ExportWriter {
  #names: readonly string[] | null = null

  begin(): string {
    return ''
  }

  record(record: ExportRecord): string {
    const text = jsonText(record, 'csv')
    const value: unknown = JSON.parse(text)
    const fields = typeof value === 'object' && value !== null ? Object.entries(value) : []
    const names = fields.map(([name]) => name)
    const cells = fields.map(([, cell]) => String(cell))
    const head = this.#names === null ? csvLine(names) : ''
    this.#names ??= names
    // What import makes of the row must be the payload again: so no null, no 1.50 and no inner objects.
    const back = JSON.stringify(Object.fromEntries(names.map((name, i) => [name, typed(cells[i] ?? '')])))
    const bare = [names, cells].every((row) => row.length > 0 && row.at(-1)?.endsWith('\r') === false)
    if (!bare || back !== text) throw refused(record, 'is no flat object of texts and numbers', 'csv')
    if (JSON.stringify(names) !== JSON.stringify(this.#names))
      throw refused(record, `has other fields than the first record (${this.#names.join(', ')})`, 'csv')
    return head + csvLine(cells)
  }

  end(): string {
    return ''
  }
}

function jsonText(record: ExportRecord, format: ImportFormat): string {
  const text = textOf(record.payload)
  try {
    if (text !== null) {
      JSON.parse(text)
      return text
    }
  } catch {
    // Not JSON is told below, as not text is.
  }
  throw refused(record, 'is not JSON', format)
}

function refused({ dlsn }: ExportRecord, why: string, format: ImportFormat): StratalogError {
  return new StratalogError(
    'unsupported',
    `the record at ${dlsn} ${why}, which --format ${format} can't keep: use --format records`,
    { found: format },
  )
}
