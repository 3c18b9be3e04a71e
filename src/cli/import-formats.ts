import { createReadStream } from 'node:fs'
import { stat } from 'node:fs/promises'
import { extname } from 'node:path'
import { StratalogError } from '../model/errors.js'
import { PAYLOAD_BYTES_MAX } from '../model/record.js'
import { parseTxid } from './args.js'
import { csvRows } from './csv.js'
import type { ImportItem } from './import-item.js'
import { jsonArrayItems } from './json-array.js'
import { type InputLine, isBlank, lineBatches, parseJsonLine } from './lines.js'

export type { ImportItem } from './import-item.js'

/** How a file is divided into records; `records` is what `export` writes by itself, txids and all. */
export type ImportFormat = 'records' | 'lines' | 'json' | 'ndjson' | 'csv'

/** The name of stdin, and of stdout, in the place of a file. */
export const STDIO = '-'

const FORMATS: readonly ImportFormat[] = ['records', 'lines', 'json', 'ndjson', 'csv']
const BY_EXTENSION: Readonly<Record<string, ImportFormat>> = {
  '.records': 'records',
  '.json': 'json',
  '.ndjson': 'ndjson',
  '.jsonl': 'ndjson',
  '.csv': 'csv',
}
/** A record's line: each byte of its payload takes six at most, and some for the rest. */
const RECORD_LINE_BYTES_MAX = 6 * PAYLOAD_BYTES_MAX + 4_096
const BATCH_ITEMS_MAX = 4_096
const BATCH_BYTES_MAX = 4 * 1024 * 1024

/** The format somebody named, else that of the file's name; through a pipe goes what `export` writes. */
export function formatOf(file: string, named: string | undefined): ImportFormat {
  if (named === undefined && file === STDIO) return 'records'
  if (named === undefined) return BY_EXTENSION[extname(file).toLowerCase()] ?? 'lines'
  const found = FORMATS.find((one) => one === named)
  if (found === undefined)
    throw new StratalogError('usage', `--format "${named}" is not known: use one of ${FORMATS.join(', ')}`, {
      found: named,
    })
  return found
}

/** Sizes of files that are all there; checked before the first record is appended. */
export function fileSizes(files: readonly string[]): Promise<number[]> {
  return Promise.all(
    files.map(async (file) => {
      if (file === STDIO) return 0
      try {
        const found = await stat(file)
        if (found.isDirectory())
          throw new StratalogError('invalid_argument', `${file} is a directory: name files`, { found: file })
        return found.size
      } catch (error) {
        throw fileError(error, file)
      }
    }),
  )
}

/** Records of a file in batches that are worth one append. */
export async function* readItems(
  file: string,
  format: ImportFormat,
  signal: AbortSignal,
): AsyncGenerator<{ values: ImportItem[]; readBytes: number }, void, undefined> {
  const stream = file === STDIO ? process.stdin : createReadStream(file, { highWaterMark: 256 * 1024 })
  const name = file === STDIO ? 'stdin' : file
  try {
    if (format === 'records') {
      for await (const lines of lineBatches(stream, name, signal, RECORD_LINE_BYTES_MAX))
        yield { values: lines.filter((line) => !isBlank(line)).map(recordItem), readBytes: stream.bytesRead }
      return
    }
    if (format === 'lines' || format === 'ndjson') {
      for await (const lines of lineBatches(stream, name, signal)) {
        // A text may have empty lines, and they are records; between values of JSON they mean nothing.
        const kept = format === 'ndjson' ? lines.filter((line) => !isBlank(line)) : lines
        const values = kept.map(({ bytes, where }) => ({
          bytes,
          where,
          value: format === 'ndjson' ? parseJsonLine({ bytes, where }) : undefined,
        }))
        yield { values, readBytes: stream.bytesRead }
      }
      return
    }
    const items = format === 'csv' ? csvRows(stream, name) : jsonArrayItems(stream, name)
    for await (const values of batched(items, signal)) yield { values, readBytes: stream.bytesRead }
  } catch (error) {
    throw fileError(error, name)
  } finally {
    stream.destroy()
  }
}

/** A line that `export` wrote, or `read --json`. */
function recordItem(line: InputLine): ImportItem {
  const value = parseJsonLine(line)
  const { txid, payload, payloadBase64, gap } = (value ?? {}) as Record<string, unknown>
  const { where } = line
  const bytes =
    typeof payload === 'string'
      ? Buffer.from(payload, 'utf8')
      : typeof payloadBase64 === 'string'
        ? Buffer.from(payloadBase64, 'base64')
        : null
  if (bytes !== null && txid !== undefined)
    return { bytes, value, where, txid: parseTxid(txid, where, false) }
  const why = gap === undefined ? 'is no record that export writes' : 'is a gap of the stream, no record'
  throw new StratalogError(
    'invalid_argument',
    `${where} ${why}: ${gap === undefined ? 'for other input give --format lines, ndjson, json or csv' : 'take the line out if that history is really lost'}`,
  )
}

async function* batched(
  items: AsyncIterable<ImportItem>,
  signal: AbortSignal,
): AsyncGenerator<ImportItem[], void, undefined> {
  let batch: ImportItem[] = []
  let bytes = 0
  for await (const item of items) {
    if (signal.aborted) return
    batch.push(item)
    bytes += item.bytes.byteLength
    if (batch.length < BATCH_ITEMS_MAX && bytes < BATCH_BYTES_MAX) continue
    yield batch
    batch = []
    bytes = 0
  }
  if (batch.length > 0) yield batch
}

function fileError(error: unknown, file: string): unknown {
  if (error instanceof StratalogError) return error
  const { code, message } = error as NodeJS.ErrnoException
  if (code === 'ENOENT')
    return new StratalogError('file_not_found', `there is no file ${file}`, { cause: error, found: file })
  if (code === 'EACCES' || code === 'EPERM')
    return new StratalogError('access_denied', `${file} can't be read: ${message}`, { cause: error })
  return code === undefined
    ? error
    : new StratalogError('io_failed', `${file} can't be read: ${message}`, { cause: error })
}
