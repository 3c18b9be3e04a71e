import type { Command } from 'commander'
import type { ArchiveOwnerDto } from '../model/control-lives.js'
import { StratalogError } from '../model/errors.js'
import { formatBytes } from '../model/units.js'
import { EXIT } from './exit-codes.js'
import { groupOf } from './group.js'
import type { CliIo } from './io.js'
import { plural } from './render.js'

interface OwnFlags {
  readonly takeOver?: boolean
  readonly new?: boolean
  readonly acceptLoss?: boolean
  readonly yes?: boolean
}

const EXAMPLES = `
An archive belongs to one log. After a restore the restored log may take it over and go on in it; the log that had it
is refused at its next commit. Where an archive is lost for good a log begins a new one with --new.

Examples:
  stratalog archive own
  stratalog archive own --take-over --yes
  stratalog archive own --new --accept-loss --yes`

/** `stratalog archive own`. */
export function register(program: Command, io: CliIo): void {
  groupOf(program, 'archive', 'the archive of a log')
    .command('own')
    .description('whose the archive is; take it over, or begin a new one')
    .option('--take-over', 'make it this log’s')
    .option('--new', 'begin a new archive in place of one that is lost for good')
    .option('--accept-loss', 'with --new: segments that were in the lost archive alone become gaps for ever')
    .option('--yes', 'do it')
    .addHelpText('after', EXAMPLES)
    .action((flags: OwnFlags) => own(io, flags))
}

async function own(io: CliIo, flags: OwnFlags): Promise<void> {
  if (flags.takeOver && flags.new)
    throw new StratalogError('usage', '--take-over and --new exclude one another')
  if (flags.acceptLoss && !flags.new) throw new StratalogError('usage', '--accept-loss belongs to --new')
  const { withLog } = await import('./connect.js')
  await withLog(io, {}, async ({ api }) => {
    if (flags.new) return begin(io, flags, () => api.beginArchive({ acceptLoss: flags.acceptLoss ?? false }))
    const before = await api.archiveOwner()
    if (!flags.takeOver || before.ours) return show(io, before)
    if (flags.yes) return show(io, await api.takeOverArchive())
    await show(io, before)
    io.note(
      'nothing was done: from then on the log it belongs to now can copy, evict and trim nothing any more: stratalog archive own --take-over --yes',
    )
    io.setExitCode(EXIT.refused)
  })
}

async function begin(
  io: CliIo,
  flags: OwnFlags,
  work: () => Promise<{ copiedAgain: number; lostSegments: number; lostBytes: number }>,
): Promise<void> {
  if (!flags.yes)
    throw new StratalogError(
      'refused',
      `nothing was done: what was in the lost archive alone would be a gap for ever${flags.acceptLoss ? '' : ' (that needs --accept-loss too)'}: stratalog archive own --new${flags.acceptLoss ? ' --accept-loss' : ''} --yes`,
    )
  const begun = await work()
  if (begun.lostSegments > 0) io.setExitCode(EXIT.loss)
  if (io.json) return io.value(begun)
  await io.line(`a new archive; to be copied into it again: ${plural(begun.copiedAgain, 'segment')}`)
  if (begun.lostSegments > 0)
    await io.line(
      `LOST  ${plural(begun.lostSegments, 'segment')}, ${formatBytes(begun.lostBytes)} of records: gaps {corrupt} from here on`,
    )
}

async function show(io: CliIo, { location, logId, owner, ours }: ArchiveOwnerDto): Promise<void> {
  if (io.json) return io.value({ location, logId, owner, ours })
  const whose =
    owner === null
      ? 'nobody’s yet'
      : ours
        ? `this log’s, ${logId} (epoch ${owner.epoch})`
        : `log ${owner.logId}’s (epoch ${owner.epoch}), not this log’s, ${logId}`
  await io.line(`${location} is ${whose}`)
}
