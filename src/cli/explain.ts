import { readFile } from 'node:fs/promises'
import type { Command } from 'commander'
import type { ExplainRequest } from '../model/control-read.js'
import { StratalogError } from '../model/errors.js'
import type { Prices } from '../model/explain-text.js'
import type { CliIo } from './io.js'

interface Options extends ExplainRequest {
  readonly prices?: string
}

/** `stratalog explain read STREAM`. */
export function register(program: Command, io: CliIo): void {
  const group = program.command('explain').description('what a command would take, without doing it')
  group
    .command('read')
    .argument('<stream>')
    .description('segments of a range, their tiers, bytes and requests')
    .option('--from <position>', 'first position, inclusive (default: earliest)')
    .option('--after <position>', 'begin after this position, exclusive')
    .option('--until <position>', 'where to stop, exclusive (default: the present end)')
    .option('--prices <file>', 'YAML with per-thousand-requests and per-GiB-egress: says what it costs')
    .addHelpText(
      'after',
      '\nNo record is read; of the archive only what tells where the range begins and ends.' +
        '\n\nExamples:\n  stratalog explain read trades --from 2025-01-01 --until 2025-02-01' +
        '\n  stratalog explain read trades --json | jq \'.segments[] | select(.tier == "cold")\'',
    )
    .action(async (stream: string, options: Options) => explain(io, stream, options))
}

async function explain(io: CliIo, stream: string, options: Options): Promise<void> {
  const { checkStreamName } = await import('../model/stream-name.js')
  const { parsePosition } = await import('../model/position.js')
  checkStreamName(stream)
  const { from, after, until } = options
  if (from !== undefined && after !== undefined)
    throw new StratalogError(
      'usage',
      'a read takes either --from (inclusive) or --after (exclusive), not both',
    )
  // A position that means nothing should fail before anything is opened.
  for (const position of [from, after, until]) if (position !== undefined) parsePosition(position, Date.now())
  const prices = options.prices === undefined ? null : await readPrices(options.prices)
  const request: ExplainRequest = {
    ...(from === undefined ? {} : { from }),
    ...(after === undefined ? {} : { after }),
    ...(until === undefined ? {} : { until }),
  }
  const { withLog } = await import('./connect.js')
  const { explainText } = await import('../model/explain-text.js')
  await withLog(io, {}, async ({ api }) => {
    const plan = await api.explainRead(stream, request)
    if (io.json) await io.value(plan)
    else for (const line of explainText(plan, prices)) await io.line(line)
  })
}

async function readPrices(file: string): Promise<Prices> {
  const { parsePrices } = await import('../config/prices.js')
  try {
    return parsePrices(await readFile(file, 'utf8'), file)
  } catch (error) {
    if (error instanceof StratalogError) throw error
    throw new StratalogError(
      'file_not_found',
      `the prices ${file} can't be read: ${(error as Error).message}`,
      {
        cause: error,
      },
    )
  }
}
