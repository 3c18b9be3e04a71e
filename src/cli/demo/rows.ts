import { StratalogError } from '../../model/errors.js'
import { parseTime } from '../../model/units.js'

/** One event as its file has it. A plain line is `{ line }`. */
export type Row = Readonly<Record<string, unknown>>

/** Names of fields that hold the time of an event, the likeliest first. */
const TIME_FIELDS = ['time', 'at', 'timestamp', 'date', 'ts']
/** Whole numbers below this are seconds since the epoch: as milliseconds they would lie in 1973 or before. */
const SECONDS_BELOW = 100_000_000_000

/** Reads a JSON array, newline-delimited JSON, CSV with a header, or plain lines: by the file's name, else its text. */
export function parseRows(text: string, file: string): Row[] {
  const content = text.replace(/^\uFEFF/, '')
  if (/\.csv$/i.test(file)) return csvRows(content, file)
  if (/^\s*\[/.test(content)) return jsonArray(content, file)
  const lines = content.split(/\r?\n/).filter((line) => line.trim() !== '')
  if (/\.(ndjson|jsonl?)$/i.test(file) || lines[0]?.startsWith('{')) {
    return lines.map((line, i) => asRow(parseJson(line, `${file}:${i + 1}`)))
  }
  return lines.map((line) => ({ line }))
}

/** The field that holds the time in the first event that has one; null: none does. */
export function timeField(rows: readonly Row[]): string | null {
  for (const row of rows) {
    const found = TIME_FIELDS.find((field) => rowTimeMs(row, field) !== null)
    if (found !== undefined) return found
  }
  return null
}

/** Milliseconds since the epoch, or null where the field holds no time from 1970 on. */
export function rowTimeMs(row: Row, field: string): number | null {
  const value = row[field]
  const number = typeof value === 'string' && /^\d{9,14}$/.test(value) ? Number(value) : value
  if (typeof number === 'number') {
    if (!Number.isFinite(number) || number < 0) return null
    return Math.floor(number < SECONDS_BELOW ? number * 1_000 : number)
  }
  if (typeof value !== 'string' || !/^\d{4}[-/]/.test(value)) return null
  const ms = parseTime(value.replace(/^(\d{4})\/(\d{2})\/(\d{2})/, '$1-$2-$3'), 0)
  return ms !== null && ms >= 0 ? ms : null
}

function jsonArray(text: string, file: string): Row[] {
  const parsed = parseJson(text, file)
  if (!Array.isArray(parsed))
    throw new StratalogError('invalid_argument', `${file} is not a JSON array of events`)
  return parsed.map(asRow)
}

function parseJson(text: string, where: string): unknown {
  try {
    return JSON.parse(text)
  } catch (cause) {
    throw new StratalogError('invalid_argument', `${where} is not JSON: ${(cause as Error).message}`, {
      cause,
    })
  }
}

function asRow(value: unknown): Row {
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Row) : { value }
}

function csvRows(text: string, file: string): Row[] {
  const [header, ...records] = csvRecords(text, file)
  if (header === undefined) return []
  return records.map((cells, i) => {
    if (cells.length !== header.length) {
      const counts = `it has ${cells.length} fields, the header has ${header.length}`
      throw new StratalogError('invalid_argument', `${file}, record ${i + 1}: ${counts}`)
    }
    return Object.fromEntries(header.map((name, at) => [name, cells[at]]))
  })
}

/** RFC 4180: fields in double quotes may hold commas, line ends and doubled quotes. */
function csvRecords(text: string, file: string): string[][] {
  const records: string[][] = []
  let cells: string[] = []
  let end = 0
  for (const match of text.matchAll(/(^|,|\r?\n)(?:"((?:[^"]|"")*)"|([^,\r\n"]*))/g)) {
    const [whole, divider, quoted, plain] = match
    if (match.index !== end) break
    end += whole.length
    if (divider !== ',' && divider !== '' && cells.length > 0) {
      records.push(cells)
      cells = []
    }
    cells.push(quoted === undefined ? (plain ?? '') : quoted.replaceAll('""', '"'))
  }
  if (end < text.length) {
    const line = text.slice(0, end).split('\n').length
    throw new StratalogError('invalid_argument', `${file}:${line} is not CSV: a quote stands where none may`)
  }
  if (cells.length > 0) records.push(cells)
  return records.filter((record) => record.length > 1 || record[0] !== '')
}
