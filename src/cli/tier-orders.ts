import type { Command } from 'commander'
import type { TierOrderRequest, TierOrdersDto } from '../model/control-tiering.js'
import { formatBytes, formatDuration, formatTime, parseDuration, parseRate } from '../model/units.js'
import type { CliIo } from './io.js'
import { printable } from './render.js'

/** `stratalog tier pause | resume | limit`. */
export function register(program: Command, io: CliIo): void {
  const group = program.commands.find((command) => command.name() === 'tier') ?? program.command('tier')
  group
    .command('pause')
    .argument('[stream]', 'default: every stream')
    .description('move nothing, neither copies nor evictions nor trims; seals go on. Survives a restart')
    .option('--for <time>', 'ends by itself, as 2h (default: until "tier resume")')
    .addHelpText('after', '\nExamples:\n  stratalog tier pause --for 2h\n  stratalog tier pause clicks/web')
    .action(async (stream: string | undefined, options: { for?: string }) =>
      order(io, { kind: 'pause', ...named(stream), ...lasting(options.for) }),
    )
  group
    .command('resume')
    .argument('[stream]', 'default: every pause ends')
    .description('end a pause')
    .addHelpText('after', '\nExample:\n  stratalog tier resume')
    .action(async (stream: string | undefined) => order(io, { kind: 'resume', ...named(stream) }))
  group
    .command('limit')
    .requiredOption('--upload <rate>', 'of all streams together, as 20MiB/s; none lifts the limit')
    .option('--for <time>', 'ends by itself, as 2h (default: until it is lifted)')
    .description('limit uploads to the archive, beside what policies say. Survives a restart')
    .addHelpText(
      'after',
      '\nExamples:\n  stratalog tier limit --upload 20MiB/s --for 2h\n  stratalog tier limit --upload none',
    )
    .action(async (options: { upload: string; for?: string }) =>
      order(io, {
        kind: 'limit',
        uploadBytesPerSecond: options.upload === 'none' ? null : parseRate(options.upload),
        ...lasting(options.for),
      }),
    )
}

const named = (stream: string | undefined) => (stream === undefined ? {} : { stream })
const lasting = (text: string | undefined) => (text === undefined ? {} : { forMs: parseDuration(text) })

async function order(io: CliIo, request: TierOrderRequest): Promise<void> {
  const { withLog } = await import('./connect.js')
  await withLog(io, {}, async ({ api }) => {
    const orders = await api.tierOrder(request)
    if (io.json) return io.value(orders)
    const lines = orderLines(orders, Date.now())
    for (const line of lines) await io.line(line)
    if (lines.length === 0) await io.line('orders   none: policies alone decide')
  })
}

/** A line for each pause and limit, with when it ends and what ends it. */
export function orderLines({ pauses, upload }: TierOrdersDto, nowMs: number): string[] {
  const until = (endMs: number | null, ends: string) =>
    endMs === null
      ? `until "stratalog ${ends}"`
      : `until ${formatTime(endMs)} (in ${formatDuration(Math.max(0, endMs - nowMs))})`
  const lines = pauses.map(({ stream, untilMs }) => {
    const ends = stream === null ? 'tier resume' : `tier resume ${printable(stream)}`
    return `paused   ${stream === null ? 'every stream' : printable(stream)}  ${until(untilMs, ends)}`
  })
  if (upload !== null)
    lines.push(
      `limit    upload ${formatBytes(upload.bytesPerSecond)}/s  ${until(upload.untilMs, 'tier limit --upload none')}`,
    )
  return lines
}
