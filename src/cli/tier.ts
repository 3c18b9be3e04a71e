import type { Command } from 'commander'
import type { TierReportDto, TierRunPart } from '../model/control-api.js'
import { formatBytes, formatDuration, formatTime } from '../model/units.js'
import type { CliIo } from './io.js'
import { plural, printable, table } from './render.js'

/** Between looks of `tier run --follow`, where nothing falls due sooner. */
const FOLLOW_MS_MAX = 5_000
const FOLLOW_MS_MIN = 100

/** `stratalog tier status | plan | run`. */
export function register(program: Command, io: CliIo): void {
  const group = program
    .command('tier')
    .description('how protected streams are, what tiering is going to do, and doing it')
  group
    .command('status')
    .argument('[stream]')
    .description('what is hot, cold and in both, and what would be lost if these disks burned now')
    .option('--check', 'exit with 5 when something is behind: for monitoring')
    .addHelpText(
      'after',
      '\nExamples:\n  stratalog tier status\n  stratalog tier status audit/login\n  stratalog tier status --check --json',
    )
    .action(async (stream: string | undefined, options: { check?: boolean }) => {
      const { status } = await import('./tier-status.js')
      await status(io, stream, options.check ?? false)
    })
  group
    .command('plan')
    .argument('[stream]')
    .description('what is to be done, when and why')
    .addHelpText('after', '\nExamples:\n  stratalog tier plan\n  stratalog tier plan trades --json')
    .action(async (stream: string | undefined) => plan(io, stream))
  group
    .command('run')
    .description('seal, copy, verify, evict and trim what is due')
    .option('--once', 'one pass')
    .option('--until <state>', 'settled: until nothing is due now (the default)')
    .option('-f, --follow', 'go on, until Ctrl-C')
    .addHelpText(
      'after',
      '\nAn application does this by itself while it has the log open, unless it was told not to.\n\nExamples:\n  stratalog tier run\n  stratalog tier run --follow',
    )
    .action(async (options: { once?: boolean; until?: string; follow?: boolean }) => run(io, options))
}

async function plan(io: CliIo, stream: string | undefined): Promise<void> {
  const { withLog } = await import('./connect.js')
  const { dueText } = await import('./tier-text.js')
  await withLog(io, {}, async ({ api }) => {
    const { atMs, archive, own, actions } = await api.tierPlan(stream)
    if (io.json) {
      for (const action of actions) await io.value(action)
      return
    }
    const rows = actions.map((action) => {
      const { kind, segment, bytes, reason, origin } = action
      const to = own[action.stream] ?? archive ?? 'no archive'
      const what = kind === 'copy' ? `${formatBytes(bytes)} → ${to}, ${reason}` : reason
      return [
        kind,
        `${action.stream} seg ${segment}`,
        `${what} (${origin.replace(/ +/g, ' ')})`,
        dueText(action, atMs),
      ]
    })
    for (const line of table([{ name: '' }, { name: '' }, { name: '' }, { name: '' }], rows))
      await io.line(line)
    io.note(
      actions.length === 0
        ? '(nothing to do, now or later)'
        : `(${plural(actions.length, 'step')}, planned at ${formatTime(atMs)})`,
    )
  })
}

async function run(io: CliIo, options: { once?: boolean; until?: string; follow?: boolean }): Promise<void> {
  const { StratalogError } = await import('../model/errors.js')
  const chosen = [options.once, options.until !== undefined, options.follow].filter(
    (one) => one === true,
  ).length
  if (chosen > 1)
    throw new StratalogError('usage', '--once, --until and --follow exclude each other: give one of them')
  if (options.until !== undefined && options.until !== 'settled' && options.until !== 'once') {
    throw new StratalogError('usage', `--until "${options.until}" is not known: write --until settled`, {
      found: options.until,
    })
  }
  const until = options.once === true || options.until === 'once' ? 'once' : 'settled'
  const follow = options.follow === true
  const { withLog } = await import('./connect.js')
  await withLog(io, { lasting: true }, async ({ api }) => {
    for (;;) {
      const report = await watched(io, api.tierRun({ until }, io.signal), follow)
      if (!follow) return finish(io, report)
      if (await idle(io, report)) return
    }
  })
}

/** Prints the steps of a run as they are done and returns its report. */
async function watched(
  io: CliIo,
  parts: AsyncIterable<TierRunPart>,
  follow: boolean,
): Promise<TierReportDto> {
  const progress = io.progress({ label: 'tiering', unit: 'bytes' })
  let doneBytes = 0
  try {
    for await (const part of parts) {
      if (part.type === 'report') return part.report
      const { kind, phase, stream, segment, bytes, error } = part
      const what = `${kind.padEnd(5)}  ${printable(stream)} seg ${segment}`
      if (phase === 'progress') progress.update(doneBytes + bytes, what)
      if (phase !== 'done' && phase !== 'failed') continue
      if (kind === 'copy' && phase === 'done') doneBytes += bytes
      progress.end()
      if (io.json) {
        if (follow) await io.value(part)
      } else
        await io.line(
          phase === 'done'
            ? `${what}  ${formatBytes(bytes)}`
            : `${what}  ${io.colors.red('failed')}: ${printable(error ?? '')}`,
        )
    }
  } catch (error) {
    if (!follow || !io.signal.aborted) throw error
  } finally {
    progress.end()
  }
  return {
    sealed: 0,
    copied: 0,
    evicted: 0,
    trimmed: 0,
    dropped: 0,
    freedHotBytes: 0,
    failed: [],
    waiting: 0,
    nextDueMs: null,
  }
}

async function finish(io: CliIo, report: TierReportDto): Promise<void> {
  const { EXIT } = await import('./exit-codes.js')
  if (io.json) await io.value(report)
  else {
    const { sealed, copied, evicted, trimmed, dropped, freedHotBytes, failed, waiting, nextDueMs } = report
    const next = nextDueMs === null ? '' : ` (next ${formatTime(nextDueMs)})`
    const counts = [
      `sealed ${sealed}`,
      `copied ${copied}`,
      `evicted ${evicted}`,
      `trimmed ${trimmed}`,
      ...(dropped === 0 ? [] : [`dropped ${dropped}`]),
      `freed ${formatBytes(freedHotBytes)} hot`,
    ]
    await io.line(`${counts.join(' · ')} · failed ${failed.length} · waiting ${waiting}${next}`)
  }
  if (report.failed.length > 0) io.setExitCode(EXIT.partial)
}

/** Waits until something may be due; true when the command is to end. */
async function idle(io: CliIo, report: TierReportDto): Promise<boolean> {
  const untilDueMs = report.nextDueMs === null ? FOLLOW_MS_MAX : report.nextDueMs - Date.now()
  const delayMs =
    report.failed.length > 0 ? FOLLOW_MS_MAX : Math.min(FOLLOW_MS_MAX, Math.max(FOLLOW_MS_MIN, untilDueMs))
  await new Promise<void>((resolve) => {
    if (io.signal.aborted) return resolve()
    const timer = setTimeout(done, delayMs)
    function done(): void {
      clearTimeout(timer)
      io.signal.removeEventListener('abort', done)
      resolve()
    }
    io.signal.addEventListener('abort', done, { once: true })
  })
  if (io.signal.aborted) io.note(`(stopped after ${formatDuration(performance.now())})`)
  return io.signal.aborted
}
