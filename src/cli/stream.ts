import type { Command } from 'commander'
import type { ControlApi, StreamDto } from '../model/control-api.js'
import { formatBytes, formatTime } from '../model/units.js'
import type { CliIo } from './io.js'
import { formatCount, plural, table } from './render.js'

const PAGE = 1_000

/** `stratalog stream list | show | create | finish`. */
export function register(program: Command, io: CliIo): void {
  const group = program.command('stream').description('list, show, create and finish streams')
  group
    .command('list')
    .description('all streams with how much they hold')
    .addHelpText(
      'after',
      '\nExamples:\n  stratalog stream list\n  stratalog stream list --json | jq -r .name',
    )
    .action(async () => list(io))
  group
    .command('show')
    .argument('<stream>')
    .description('ends and counts of a stream')
    .addHelpText('after', '\nExample:\n  stratalog stream show audit/login')
    .action(async (stream: string) => show(io, stream))
  group
    .command('create')
    .argument('<stream>')
    .description('make a stream (appending makes one too, where the policy allows it)')
    .option('--txid <kind>', 'ms: txids are times; custom: the application’s own numbers', 'ms')
    .addHelpText('after', '\nExample:\n  stratalog stream create ledger/postings --txid custom')
    .action(async (stream: string, options: { txid: string }) => create(io, stream, options.txid))
  group
    .command('finish')
    .argument('<stream>')
    .description('end a stream for ever: what it holds stays readable, nothing is appended any more')
    .addHelpText('after', '\nExample:\n  stratalog stream finish audit/2025')
    .action(async (stream: string) => finish(io, stream))
}

/** Every stream of a log, a page at a time. */
export async function* allStreams(api: ControlApi): AsyncGenerator<StreamDto, void, undefined> {
  for (let after = ''; ; ) {
    const page = await api.listStreams({ after, limit: PAGE })
    yield* page
    const last = page.at(-1)
    if (last === undefined || page.length < PAGE) return
    after = last.name
  }
}

async function list(io: CliIo): Promise<void> {
  const { withLog } = await import('./connect.js')
  await withLog(io, {}, async ({ api }) => {
    const rows: string[][] = []
    for await (const stream of allStreams(api)) {
      if (io.signal.aborted) return
      const { name, totals, txid, createdMs } = stream
      if (io.json) await io.value(stream)
      else
        rows.push([
          name,
          formatCount(BigInt(totals.records)),
          formatCount(totals.segments),
          formatBytes(totals.hotBytes),
          formatBytes(totals.coldBytes),
          txid,
          formatTime(createdMs),
        ])
    }
    if (io.json) return
    const right = 'right' as const
    const columns = [
      { name: 'STREAM' },
      { name: 'RECORDS', align: right },
      { name: 'SEGMENTS', align: right },
      { name: 'HOT', align: right },
      { name: 'COLD', align: right },
      { name: 'TXID' },
      { name: 'CREATED' },
    ]
    if (rows.length > 0) for (const line of table(columns, rows, io.colors)) await io.line(line)
    io.note(
      `(${plural(rows.length, 'stream')}${rows.length === 0 ? ': append to one, or stratalog stream create NAME' : ''})`,
    )
  })
}

async function show(io: CliIo, name: string): Promise<void> {
  const { checkStreamName } = await import('../model/stream-name.js')
  checkStreamName(name)
  const { withLog } = await import('./connect.js')
  await withLog(io, {}, async ({ api }) => print(io, await api.streamInfo(name)))
}

async function create(io: CliIo, name: string, txid: string): Promise<void> {
  const { checkStreamName } = await import('../model/stream-name.js')
  const { StratalogError } = await import('../model/errors.js')
  checkStreamName(name)
  if (txid !== 'ms' && txid !== 'custom')
    throw new StratalogError('usage', `--txid "${txid}" is neither ms nor custom`, { found: txid })
  const { withLog } = await import('./connect.js')
  await withLog(io, { create: 'create' }, async ({ api }) =>
    print(io, await api.createStream(name, { txid })),
  )
}

async function finish(io: CliIo, name: string): Promise<void> {
  const { checkStreamName } = await import('../model/stream-name.js')
  checkStreamName(name)
  const { withLog } = await import('./connect.js')
  await withLog(io, {}, async ({ api }) => print(io, await api.finishStream(name)))
}

async function print(io: CliIo, info: Awaited<ReturnType<ControlApi['streamInfo']>>): Promise<void> {
  if (io.json) return io.value(info)
  const { totals } = info
  const records = BigInt(info.nextSequenceId)
  const lastTxid =
    info.lastTxid === null
      ? 'none yet'
      : info.txid === 'ms'
        ? `${info.lastTxid}  ${formatTime(Number(info.lastTxid))}`
        : info.lastTxid
  const lines = [
    ['stream', info.name],
    ['incarnation', info.incarnation],
    ['created', formatTime(info.createdMs)],
    ['txid', info.txid === 'ms' ? 'ms (times)' : 'custom (numbers of the application)'],
    ['records', `${formatCount(records)} ever appended`],
    ['last txid', lastTxid],
    ['first', info.first ?? 'none yet'],
    ['trimmed below', info.trimmedBelow ?? 'nothing trimmed'],
    ...(info.finishedMs === null ? [] : [['finished', formatTime(info.finishedMs)]]),
    ['segments', formatCount(totals.segments)],
    ['hot', `${formatBytes(totals.hotBytes)} in ${plural(totals.hotSegments, 'segment')}`],
    ['cold', `${formatBytes(totals.coldBytes)} in ${plural(totals.coldSegments, 'segment')}`],
    ['in both', formatBytes(totals.bothBytes)],
  ]
  for (const line of table([{ name: '' }, { name: '' }], lines)) await io.line(line)
}
