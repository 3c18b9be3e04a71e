import type { Command } from 'commander'
import type { EventDto } from '../model/control-status.js'
import { formatBytes, formatTime } from '../model/units.js'
import type { CliIo } from './io.js'
import { printable } from './render.js'

/** `stratalog status | events`. */
export function register(program: Command, io: CliIo): void {
  program
    .command('status')
    .description('how the log is, in a few lines: archive, disks, and what would be lost if they burned now')
    .option('--check', 'exit with 5 when something is behind: for monitoring')
    .addHelpText(
      'after',
      '\n"stratalog tier status" has a line for each stream.\n\nExamples:\n  stratalog status\n  stratalog status --check --json',
    )
    .action(async (options: { check?: boolean }) => {
      const { summary } = await import('./tier-status.js')
      await summary(io, options.check ?? false)
    })
  program
    .command('events')
    .description(
      'what happened lately in the process that has the log open: steps, the archive, slowed writers',
    )
    .option('-f, --follow', 'go on with what comes, until Ctrl-C')
    .option('--after <sequence>', 'only events above that number')
    .addHelpText('after', '\nExamples:\n  stratalog events\n  stratalog events -f --json')
    .action(async (options: { follow?: boolean; after?: string }) => events(io, options))
}

async function events(io: CliIo, options: { follow?: boolean; after?: string }): Promise<void> {
  const { parseInteger } = await import('../model/units.js')
  const { withLog } = await import('./connect.js')
  const after = Number(parseInteger(options.after ?? '0', '--after', 0n, BigInt(Number.MAX_SAFE_INTEGER)))
  const follow = options.follow ?? false
  await withLog(io, { lasting: follow }, async ({ api, beside }) => {
    let count = 0
    for await (const event of api.events({ after, follow }, io.signal)) {
      count += 1
      if (io.json) await io.value(event)
      else await io.line(eventText(io, event))
    }
    if (count > 0 || io.signal.aborted) return
    io.note(
      beside
        ? '(nothing happened yet)'
        : '(no process has the log open: events are those of the process that tiers, while it runs)',
    )
  })
}

function eventText(io: CliIo, event: EventDto): string {
  const { atMs, type, kind, phase, stream, segment, bytes, error, archive } = event
  const at = formatTime(atMs)
  const why = error === null ? '' : `: ${printable(error)}`
  if (type === 'slow')
    return `${at}  slow   writers are ${phase === 'begun' ? 'slowed down' : 'no longer slowed'}`
  if (type === 'archive') {
    const which = archive === undefined ? '' : `${printable(archive)} `
    const text = `${at}  archive ${which}${phase === 'down' ? 'DOWN' : phase}${phase === 'ok' ? '' : why}`
    return phase === 'down' ? io.colors.red(text) : text
  }
  if (type === 'scrub') {
    const found = `${at}  scrub  ${printable(stream ?? '')} seg ${segment}`
    return phase === 'alarm' ? `${found}  ${io.colors.red(phase)}${why}` : `${found}  ${phase}${why}`
  }
  const what = `${at}  ${(kind ?? '').padEnd(5)}  ${printable(stream ?? '')} seg ${segment}`
  if (phase === 'done') return `${what}  ${formatBytes(bytes ?? 0)}`
  return `${what}  ${io.colors.red(phase)}${why}`
}
