import type { Command } from 'commander'
import type { RebuiltIndex } from '../open/rebuild-log.js'
import { EXIT } from './exit-codes.js'
import type { CliIo } from './io.js'
import { formatCount, plural } from './render.js'

interface RebuildOptions {
  readonly acceptLoss?: boolean
}

const SAID_MAX = 20

/** `stratalog index rebuild`. */
export function register(program: Command, io: CliIo): void {
  const group = program.command('index').description('the index of a log: what maps positions to tiers')
  group
    .command('rebuild')
    .description('make index.db again from the stores and the archive; the old file is kept')
    .option(
      '--accept-loss',
      'go on without stores or an archive that can’t be read, and with gaps for segments nobody has',
    )
    .addHelpText(
      'after',
      '\nA log does this by itself when it is opened and nothing is missing. Exits with 4 when something is, and nothing was changed; with 6 when a loss was accepted.\n\nOf a log on bookies the index is ZooKeeper and the archive’s names: there the cache of it, namespace.db, is read anew, and nothing else is changed.\n\nExamples:\n  stratalog --dir ./data index rebuild\n  stratalog --dir ./data index rebuild --json | jq .losses',
    )
    .action(async (options: RebuildOptions) => rebuild(io, options))
}

async function rebuild(io: CliIo, options: RebuildOptions): Promise<void> {
  const { logDirectory, ringOf } = await import('./connect.js')
  const { quietSystem } = await import('./quiet.js')
  const { rebuildLogIndex } = await import('../open/rebuild-log.js')
  const progress = io.progress({ label: 'rebuild' })
  let done = 0
  try {
    const report = await rebuildLogIndex(
      logDirectory(io),
      { system: await quietSystem(), ...ringOf(io) },
      {
        acceptLoss: options.acceptLoss ?? false,
        signal: io.signal,
        onProgress: () => {
          done += 1
          progress.update(done)
        },
      },
    )
    progress.end()
    if (report.lossCount > 0) io.setExitCode(EXIT.loss)
    await (io.json ? io.value(report) : say(io, report))
  } catch (error) {
    progress.end()
    throw error
  }
}

async function say(io: CliIo, report: RebuiltIndex): Promise<void> {
  await io.line(
    `rebuilt ${report.file}: ${plural(report.streams, 'stream')}, ${plural(report.segments, 'segment')} (${formatCount(report.hot)} hot, ${formatCount(report.cold)} cold, ${formatCount(report.both)} of the hot ones in the archive too), ${plural(report.ledgers, 'ledger')}`,
  )
  if (report.recovering > 0 && !report.cluster)
    await io.line(`${plural(report.recovering, 'open segment')} to be recovered when the log is opened`)
  else if (report.recovering > 0)
    await io.line(`${plural(report.recovering, 'open segment')} left to the writers that have them`)
  if (report.cluster)
    io.note(
      'read from ZooKeeper and from the archive’s names; the file is a cache of them, nothing else was changed',
    )
  else if (report.both > 0)
    io.note('what is in both tiers is read back from the archive once more before its hot copy may go')
  if (report.orphanCount > 0)
    await io.line(`${plural(report.orphanCount, 'ledger')} of no segment kept: ${some(report.orphans)}`)
  if (report.trimmedLedgers > 0)
    await io.line(`${plural(report.trimmedLedgers, 'ledger')} below a trim kept and not brought back`)
  for (const loss of report.losses.slice(0, SAID_MAX)) await io.line(`LOST  ${loss}`)
  if (report.lossCount > SAID_MAX) await io.line(`LOST  and ${formatCount(report.lossCount - SAID_MAX)} more`)
  if (report.keptAs !== null) io.note(`the index that was there is ${report.keptAs}`)
}

function some(names: readonly string[]): string {
  const more = names.length > SAID_MAX ? ', …' : ''
  return `${names.slice(0, SAID_MAX).join(', ')}${more}`
}
