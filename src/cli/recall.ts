import type { Command } from 'commander'
import type { RecallPart } from '../model/control-tiering.js'
import { EXIT } from './exit-codes.js'
import type { CliIo } from './io.js'

interface RecallFlags {
  readonly from?: string
  readonly until?: string
  readonly for: string
  readonly dryRun?: boolean
}

/** `stratalog recall`: cold segments become hot again for a time. */
export function register(program: Command, io: CliIo): void {
  program
    .command('recall')
    .argument('<stream>')
    .description('bring cold segments back into the hot tier for a time')
    .option('--from <position>', 'where to begin (default: the beginning)')
    .option('--until <position>', 'where to end, exclusive (default: the end)')
    .requiredOption('--for <time>', 'how long they stay, as 7d')
    .option('--dry-run', 'only say what would be brought back')
    .addHelpText(
      'after',
      '\nWhole segments. Safe to stop and to run again: it goes on. They are freed when the time is over, or by "evict".\nObjects in a class that is not read at once are asked for: exit 5, and the agent brings them back when they can be read\n("tier status" says how far that is; "evict" ends the waiting).\n\nExample:\n  stratalog recall audit/login --from 2026-01-01 --until 2026-02-01 --for 7d',
    )
    .action(async (stream: string, flags: RecallFlags) => recall(io, stream, flags))
}

async function recall(io: CliIo, stream: string, flags: RecallFlags): Promise<void> {
  const { checkStreamName } = await import('../model/stream-name.js')
  const { formatTime, parseDuration } = await import('../model/units.js')
  const { checkRange } = await import('./ranges.js')
  checkStreamName(stream)
  const range = checkRange(flags)
  const request = { ...range, forMs: parseDuration(flags.for), dryRun: flags.dryRun ?? false }
  const { withLog } = await import('./connect.js')
  await withLog(io, { lasting: true, bulk: true }, async ({ api }) => {
    let last: RecallPart | null = null
    let bar: ReturnType<CliIo['progress']> | null = null
    try {
      for await (const part of api.recall(stream, request, io.signal)) {
        bar ??= io.progress({ label: `recall ${stream}`, total: part.bytes, unit: 'bytes' })
        bar.update(part.doneBytes, part.segment === null ? '' : `segment ${part.segment}`)
        last = part
      }
    } finally {
      bar?.end()
    }
    if (last === null) {
      if (io.json) await io.value({ segments: 0, done: 0 })
      else await io.line(`${stream} holds nothing`)
      return
    }
    const { type: _, ...report } = last
    if (last.thawing > 0 && flags.dryRun !== true) io.setExitCode(EXIT.partial)
    if (io.json) return io.value(report)
    await io.line(await outcome(stream, last, flags.dryRun === true))
    io.note(`(hot until ${formatTime(last.untilMs)}, or until: stratalog evict ${stream})`)
  })
}

async function outcome(stream: string, part: RecallPart, dryRun: boolean): Promise<string> {
  const { formatBytes } = await import('../model/units.js')
  const { plural } = await import('./render.js')
  const { segments, done, bytes, doneBytes, kept, gaps, thawing } = part
  const what = dryRun
    ? `would recall ${plural(segments, 'segment')} of ${stream}, ${formatBytes(bytes)}`
    : `recalled ${plural(done, 'segment')} of ${stream}, ${formatBytes(doneBytes)}`
  const stay = kept === 0 ? '' : `; ${plural(kept, 'segment')} hot anyway ${kept === 1 ? 'stays' : 'stay'}`
  const thaw =
    thawing === 0
      ? ''
      : `; ${plural(thawing, 'segment')} ${thawing === 1 ? 'thaws' : 'thaw'} and ${thawing === 1 ? 'comes' : 'come'} back when the archive can read ${thawing === 1 ? 'it' : 'them'} ("stratalog tier status")`
  return `${what}${stay}${thaw}${gaps === 0 ? '' : `; ${plural(gaps, 'segment')} in gaps`}`
}
