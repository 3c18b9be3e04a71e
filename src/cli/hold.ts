import type { Command } from 'commander'
import type { HoldDto } from '../model/control-tiering.js'
import type { CliIo } from './io.js'

interface AddOptions {
  readonly id: string
  readonly from?: string
  readonly until?: string
  readonly reason?: string
}

/** `stratalog hold add | list | release`. */
export function register(program: Command, io: CliIo): void {
  const group = program
    .command('hold')
    .description('legal holds: history that nothing may trim, drop or collect while they stand')
  group
    .command('add')
    .argument('<stream>')
    .description('hold a range of a stream')
    .requiredOption('--id <id>', 'names the hold, as case-4711')
    .option('--from <position>', 'a DLSN, txid:N or a time, inclusive (default: the beginning)')
    .option('--until <position>', 'a DLSN, txid:N or a time, exclusive (default: for ever)')
    .option('--reason <text>', 'for people')
    .addHelpText(
      'after',
      '\nHolds may overlap; each binds by itself. What was trimmed before is not brought back.\n\nExample:\n  stratalog hold add audit/login --id case-4711 --from 2026-01-01 --until 2026-04-01 --reason "court order"',
    )
    .action(async (stream: string, options: AddOptions) => add(io, stream, options))
  group
    .command('list')
    .argument('[stream]', 'default: every stream that has any')
    .description('the holds and pins that stand, and who put them')
    .addHelpText('after', '\nExamples:\n  stratalog hold list\n  stratalog hold list audit/login')
    .action(async (stream?: string) => list(io, stream))
  group
    .command('release')
    .argument('<stream>')
    .argument('<id>')
    .description('end a hold: what it bound goes when policies say so')
    .addHelpText('after', '\nExample:\n  stratalog hold release audit/login case-4711')
    .action(async (stream: string, id: string) => release(io, stream, id))
}

async function add(io: CliIo, stream: string, hold: AddOptions): Promise<void> {
  await checkStream(stream)
  const { withLog } = await import('./connect.js')
  await withLog(io, {}, async ({ api }) => {
    const put = await api.holdAdd(stream, hold)
    if (io.json) return io.value(put)
    await io.line(`hold ${put.hold.id} on ${stream}  ${rangeText(put.hold)}`)
    if (put.trimmedBelow !== null)
      io.note(`(history of ${stream} begins at ${put.trimmedBelow}: what was trimmed before is not held)`)
    if (!put.told)
      io.note('(the archive does not know of it yet: it is told when it answers; here it binds already)')
  })
}

async function list(io: CliIo, stream: string | undefined): Promise<void> {
  if (stream !== undefined) await checkStream(stream)
  const { withLog } = await import('./connect.js')
  await withLog(io, {}, async ({ api }) => {
    if (stream !== undefined) return print(io, await api.holdList(stream))
    const { allStreams } = await import('./stream.js')
    const all: (HoldDto & { readonly stream: string })[] = []
    for await (const { name } of allStreams(api)) {
      for (const hold of await api.holdList(name)) all.push({ stream: name, ...hold })
    }
    await print(io, all)
  })
}

async function release(io: CliIo, stream: string, id: string): Promise<void> {
  await checkStream(stream)
  const { withLog } = await import('./connect.js')
  await withLog(io, {}, async ({ api }) => {
    const left = await api.holdRelease(stream, id)
    if (io.json) return io.value({ released: id, holds: left })
    await io.line(`released ${id} of ${stream}`)
    io.note(left.length === 0 ? '(nothing of it is held any more)' : `(${left.length} left)`)
  })
}

async function checkStream(stream: string): Promise<void> {
  const { checkStreamName } = await import('../model/stream-name.js')
  checkStreamName(stream)
}

async function print(io: CliIo, holds: readonly (HoldDto & { readonly stream?: string })[]): Promise<void> {
  if (io.json) {
    for (const hold of holds) await io.value(hold)
    return
  }
  const { plural, table } = await import('./render.js')
  const { formatTime } = await import('../model/units.js')
  const named = holds.some(({ stream }) => stream !== undefined)
  const columns = [...(named ? ['STREAM'] : []), 'ID', 'KIND', 'FROM', 'UNTIL', 'PUT', 'BY', 'REASON'].map(
    (name) => ({ name }),
  )
  const rows = holds.map(({ stream, id, kind, from, until, atMs, origin, reason }) => [
    ...(stream === undefined ? [] : [stream]),
    id,
    kind,
    from ?? 'the beginning',
    until ?? 'for ever',
    atMs === null ? '—' : formatTime(atMs),
    origin === 'stream' ? 'hand' : origin,
    reason ?? '',
  ])
  if (rows.length > 0) for (const line of table(columns, rows, io.colors)) await io.line(line)
  io.note(`(${plural(holds.length, 'hold')})`)
}

function rangeText({ from, until }: HoldDto): string {
  return `${from ?? 'the beginning'} … ${until === null ? 'for ever' : `${until} (excl.)`}`
}
