import type { Command } from 'commander'
import type { CliIo } from './io.js'

interface Options {
  readonly lines: string
  readonly follow?: boolean
  readonly raw?: boolean
}

/** `stratalog tail STREAM`. */
export function register(program: Command, io: CliIo): void {
  program
    .command('tail')
    .argument('<stream>')
    .description('print the last records')
    .option('-n, --lines <count>', 'so many records', '10')
    .option('-f, --follow', 'go on with what is appended later, until Ctrl-C')
    .option('--raw', 'payloads alone, each with a line feed')
    .addHelpText('after', '\nExamples:\n  stratalog tail trades -n 3\n  stratalog tail trades -n 0 -f')
    .action(async (stream: string, options: Options) => tail(io, stream, options))
}

async function tail(io: CliIo, stream: string, options: Options): Promise<void> {
  const { checkStreamName } = await import('../model/stream-name.js')
  const { StratalogError } = await import('../model/errors.js')
  const { parseCount } = await import('./args.js')
  checkStreamName(stream)
  const count = parseCount(options.lines, 'a number of records')
  const { follow = false, raw = false } = options
  if (raw && io.json)
    throw new StratalogError('usage', '--raw and --json exclude each other: give one of them')
  const { withLog } = await import('./connect.js')
  const { printParts } = await import('./read-output.js')
  await withLog(io, { lasting: follow }, async ({ api }) => {
    await printParts(io, api.tail(stream, count, { follow }, io.signal), { raw })
  })
}
