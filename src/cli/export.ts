import type { Command } from 'commander'
import type { GapDto, ReadPart, ReadRequest } from '../model/control-api.js'
import { StratalogError } from '../model/errors.js'
import { formatBytes } from '../model/units.js'
import type { ExportTarget } from './export-target.js'
import type { ImportFormat } from './import-formats.js'
import type { CliIo } from './io.js'
import { plural } from './render.js'

interface Options {
  readonly from?: string
  readonly after?: string
  readonly until?: string
  readonly limit?: string
  readonly format?: string
  readonly out?: string
  readonly force?: boolean
  readonly gaps?: boolean
}

/** `stratalog export STREAM`: the counterpart of `import`. */
export function register(program: Command, io: CliIo): void {
  program
    .command('export')
    .argument('<stream>')
    .description('write the records of a range to a file or a pipe, for import')
    .option('--from <position>', 'first position, inclusive (default: earliest)')
    .option('--after <position>', 'begin after this position, exclusive')
    .option('--until <position>', 'where to stop, exclusive (default: the present end)')
    .option('--limit <count>', 'at most so many records')
    .option('--out <file>', 'to a file, which appears when all of it is written (default: stdout)')
    .option('--force', 'write over the file if there is one')
    .option(
      '--format <name>',
      'records, lines, json, ndjson or csv (default: what import takes the name of the file for; stdout: records)',
    )
    .option('--gaps', 'name gaps and go on past them instead of failing')
    .addHelpText(
      'after',
      '\nrecords keeps payloads and txids: a line of JSON for each record. The others keep payloads only, byte for byte, and refuse' +
        '\na record that they could not give back; import --txid-field finds txids that stand in the payload. DLSNs are of a stream:' +
        '\nan import gives new ones.' +
        '\n\nExamples:\n  stratalog export trades --from 2025-01-01 --until 2025-02-01 --out january.ndjson' +
        '\n  stratalog export trades | stratalog --dir ./other import trades -',
    )
    .action(async (stream: string, options: Options) => exportStream(io, stream, options))
}

async function exportStream(io: CliIo, stream: string, options: Options): Promise<void> {
  const { checkStreamName } = await import('../model/stream-name.js')
  const { formatOf, STDIO } = await import('./import-formats.js')
  checkStreamName(stream)
  const request = await requestOf(options)
  const out = options.out === STDIO ? undefined : options.out
  if (io.json && out === undefined)
    throw new StratalogError('usage', '--json says how an export to a file went: give --out FILE too')
  // What import takes a name for is what export gives it.
  const format = formatOf(out ?? STDIO, options.format)
  const targets = await import('./export-target.js')
  const { withLog } = await import('./connect.js')
  await withLog(io, {}, async ({ api }) => {
    const target =
      out === undefined
        ? targets.stdoutTarget(io)
        : await targets.fileTarget(out, { force: options.force === true })
    try {
      const done = await writeParts(io, api.read(stream, request, io.signal), target, { stream, format })
      await target.commit()
      if (io.json) return await io.value({ stream, out, format, ...done })
      const said = `${plural(done.records, 'record')}, ${formatBytes(done.bytes)} of ${stream}`
      if (out === undefined) io.note(`(${said}, ${format})`)
      else await io.line(`${said} → ${out}  (${format})`)
    } finally {
      await target.abandon()
    }
  })
}

async function requestOf(options: Options): Promise<ReadRequest> {
  const { checkEnds } = await import('./ranges.js')
  const { parseCount } = await import('./args.js')
  const { from, after, until } = options
  if (from !== undefined && after !== undefined)
    throw new StratalogError(
      'usage',
      'an export takes either --from (inclusive) or --after (exclusive), not both',
    )
  checkEnds({ from, after, until })
  return {
    ...(from === undefined ? {} : { from }),
    ...(after === undefined ? {} : { after }),
    ...(until === undefined ? {} : { until }),
    ...(options.limit === undefined ? {} : { limit: parseCount(options.limit, 'a limit') }),
    follow: false,
    onGap: options.gaps === true ? 'yield' : 'throw',
  }
}

interface Done {
  records: number
  bytes: number
  first: string | null
  last: string | null
  readonly gaps: GapDto[]
}

async function writeParts(
  io: CliIo,
  parts: AsyncIterable<ReadPart>,
  target: ExportTarget,
  { stream, format }: { readonly stream: string; readonly format: ImportFormat },
): Promise<Done> {
  const { exportWriter } = await import('./export-formats.js')
  const writer = exportWriter(format)
  const progress = io.progress({ label: `export ${stream}`, unit: 'bytes' })
  const done: Done = { records: 0, bytes: 0, first: null, last: null, gaps: [] }
  try {
    await target.write(writer.begin())
    for await (const part of parts) {
      if (part.type === 'gap') {
        done.gaps.push(part.gap)
        io.note(`gap ${part.gap.gap}: ${part.gap.from} until ${part.gap.until}`)
      } else if (part.type === 'records') {
        await target.write(Buffer.concat(part.records.map((record) => Buffer.from(writer.record(record)))))
        done.first ??= part.records[0]?.dlsn ?? null
        done.last = part.records.at(-1)?.dlsn ?? done.last
        done.records += part.records.length
        done.bytes += part.records.reduce((sum, { payload }) => sum + payload.byteLength, 0)
        progress.update(done.bytes, plural(done.records, 'record'))
      }
      // An array that is not closed says that it is not whole.
      io.signal.throwIfAborted()
    }
    await target.write(writer.end())
    return done
  } finally {
    progress.end()
  }
}
