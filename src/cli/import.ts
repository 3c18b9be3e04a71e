import type { Command } from 'commander'
import type { AppendRecord } from '../model/control-api.js'
import { StratalogError } from '../model/errors.js'
import { formatBytes } from '../model/units.js'
import type { ImportFormat } from './import-formats.js'
import type { CliIo } from './io.js'
import { plural } from './render.js'

interface Options {
  readonly txidField?: string
  readonly format?: string
  readonly producer?: string
}

/** `stratalog import STREAM FILE…`. */
export function register(program: Command, io: CliIo): void {
  program
    .command('import')
    .argument('<stream>', 'where to; created if there is none and the policy allows it')
    .argument(
      '<files...>',
      '.json (an array), .ndjson or .jsonl, .csv (rows become JSON objects), else lines; - is stdin, as export writes',
    )
    .description('append the records of files, in order')
    .option(
      '--txid-field <name>',
      'take the txid from this field: a whole number or an ISO date (a.b for inner fields)',
    )
    .option('--format <name>', 'records (of export), lines, json, ndjson or csv, whatever the file is called')
    .option('--producer <id>', 'run again with the same files, append only what is not there yet')
    .addHelpText(
      'after',
      '\nExamples:\n  stratalog import trades trades-2025.ndjson --txid-field at\n  stratalog import flights flights.csv --txid-field date\n  stratalog export trades | stratalog --dir ./other import trades -',
    )
    .action(async (stream: string, files: string[], options: Options) =>
      importFiles(io, stream, files, options),
    )
}

async function importFiles(
  io: CliIo,
  stream: string,
  files: readonly string[],
  options: Options,
): Promise<void> {
  const { checkStreamName } = await import('../model/stream-name.js')
  const formats = await import('./import-formats.js')
  checkStreamName(stream)
  const named = files.map((file) => ({ file, format: formats.formatOf(file, options.format) }))
  if (options.txidField !== undefined && named.some(({ format }) => format === 'lines')) {
    throw new StratalogError(
      'usage',
      '--txid-field needs fields, and lines have none: name a .json, .ndjson or .csv file, or give --format',
    )
  }
  if (options.txidField !== undefined && named.some(({ format }) => format === 'records'))
    throw new StratalogError(
      'usage',
      '--txid-field is not for records, which have txids: leave it out, or give another --format',
    )
  if (files.filter((file) => file === formats.STDIO).length > 1)
    throw new StratalogError('usage', 'stdin can be read once: give one "-"')
  const sizes = await formats.fileSizes(files)
  const { withLog } = await import('./connect.js')
  await withLog(io, { create: 'create', lasting: true, bulk: true }, async ({ api }) => {
    const progress = io.progress({
      label: `import ${stream}`,
      ...(files.includes(formats.STDIO) ? {} : { total: sizes.reduce((sum, size) => sum + size, 0) }),
      unit: 'bytes',
    })
    const done = { records: 0, bytes: 0, first: null as string | null, last: null as string | null }
    try {
      for await (const batch of recordBatches(named, options.txidField, io.signal)) {
        const producer =
          options.producer === undefined
            ? {}
            : { producer: { id: options.producer, sequence: BigInt(done.records) } }
        const result = await api.append(stream, batch.records, producer)
        done.first ??= result.acks[0]?.dlsn ?? null
        done.last = result.acks.at(-1)?.dlsn ?? done.last
        done.records += result.acks.length
        done.bytes += batch.records.reduce((sum, record) => sum + record.payload.byteLength, 0)
        if (result.failed !== null) throw placed(result.failed.error, batch.wheres[result.failed.index])
        progress.update(batch.readBytes, plural(done.records, 'record'))
      }
    } catch (error) {
      progress.end()
      // What is durable stays: who runs the command again would append it twice.
      if (done.records > 0)
        io.note(`${plural(done.records, 'record')} (${done.first} … ${done.last}) were appended before this:`)
      throw error
    }
    progress.end()
    if (io.json) await io.value({ stream, ...done, files: files.length })
    else
      await io.line(
        `${plural(done.records, 'record')}, ${formatBytes(done.bytes)} → ${stream}${done.first === null ? '' : `  ${done.first} … ${done.last}`}`,
      )
  })
  io.signal.throwIfAborted()
}

interface Batch {
  readonly records: AppendRecord[]
  readonly wheres: string[]
  /** Of all files so far. */
  readonly readBytes: number
}

async function* recordBatches(
  files: readonly { file: string; format: ImportFormat }[],
  txidField: string | undefined,
  signal: AbortSignal,
): AsyncGenerator<Batch, void, undefined> {
  const { readItems } = await import('./import-formats.js')
  const { fieldOf, parseTxid } = await import('./args.js')
  let before = 0
  for (const { file, format } of files) {
    let read = 0
    for await (const items of readItems(file, format, signal)) {
      const records = items.values.map(({ bytes, value, where, txid }): AppendRecord => {
        if (txidField === undefined) return { payload: bytes, ...(txid === undefined ? {} : { txid }) }
        return {
          payload: bytes,
          txid: parseTxid(fieldOf(value, txidField), `${where}, field "${txidField}"`, true),
        }
      })
      read = items.readBytes
      yield { records, wheres: items.values.map((item) => item.where), readBytes: before + read }
    }
    before += read
  }
}

function placed(error: Error, where: string | undefined): Error {
  if (!(error instanceof StratalogError) || where === undefined) return error
  const { code, message, retryable, expected, found } = error
  return new StratalogError(code, `${where}: ${message}`, { cause: error, retryable, expected, found })
}
