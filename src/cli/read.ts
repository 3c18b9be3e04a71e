import type { Command } from 'commander'
import type { ReadRequest } from '../model/control-api.js'
import { StratalogError } from '../model/errors.js'
import type { CliIo } from './io.js'

interface Options {
  readonly from?: string
  readonly after?: string
  readonly until?: string
  readonly limit?: string
  readonly follow?: boolean
  readonly raw?: boolean
  readonly gaps?: boolean
}

/** `stratalog read STREAM`. */
export function register(program: Command, io: CliIo): void {
  program
    .command('read')
    .argument('<stream>')
    .description('print records of a range, hot or cold')
    .option('--from <position>', 'first position, inclusive (default: earliest)')
    .option('--after <position>', 'begin after this position, exclusive')
    .option('--until <position>', 'where to stop, exclusive (default: the present end)')
    .option('--limit <count>', 'at most so many records')
    .option('-f, --follow', 'go on with what is appended later, until Ctrl-C')
    .option('--raw', 'payloads alone, each with a line feed')
    .option('--gaps', 'name gaps and read on past them instead of failing')
    .addHelpText(
      'after',
      '\nA position is earliest, latest, a DLSN (12:340:7), txid:N, seq:N, an ISO date or time (UTC without a zone), or an age (-1h).' +
        '\n\nExamples:\n  stratalog read trades --from 2025-01-01 --until 2025-02-01\n  stratalog read trades --from -1h -f' +
        "\n  stratalog read trades --json | jq '.payload | fromjson | .price'",
    )
    .action(async (stream: string, options: Options) => read(io, stream, options))
}

async function read(io: CliIo, stream: string, options: Options): Promise<void> {
  const { checkStreamName } = await import('../model/stream-name.js')
  const { checkEnds } = await import('./ranges.js')
  const { parseCount } = await import('./args.js')
  checkStreamName(stream)
  const { from, after, until, follow = false, raw = false } = options
  if (from !== undefined && after !== undefined)
    throw new StratalogError(
      'usage',
      'a read takes either --from (inclusive) or --after (exclusive), not both',
    )
  if (raw && io.json)
    throw new StratalogError('usage', '--raw and --json exclude each other: give one of them')
  checkEnds({ from, after, until })
  const request: ReadRequest = {
    ...(from === undefined ? {} : { from }),
    ...(after === undefined ? {} : { after }),
    ...(until === undefined ? {} : { until }),
    ...(options.limit === undefined ? {} : { limit: parseCount(options.limit, 'a limit') }),
    follow,
    onGap: options.gaps === true ? 'yield' : 'throw',
  }
  const { withLog } = await import('./connect.js')
  const { printParts } = await import('./read-output.js')
  await withLog(io, { lasting: follow }, async ({ api }) => {
    await printParts(io, api.read(stream, request, io.signal), { raw })
  })
}
