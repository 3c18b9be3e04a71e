import type { Command } from 'commander'
import type { TrimPart, TrimRequest } from '../model/control-tiering.js'
import type { CliIo } from './io.js'

interface TrimFlags {
  readonly before?: string
  readonly keep?: string
  readonly seal?: boolean
  readonly dryRun?: boolean
  readonly yes?: boolean
}

/** `stratalog trim`: ends the old end of a stream's history. */
export function register(program: Command, io: CliIo): void {
  program
    .command('trim')
    .argument('<stream>')
    .description('end the old end of history in both tiers: it is deleted, but for what is held')
    .option('--before <position>', 'what lies before: a DLSN, txid:N, seq:N, a time, -30d, latest')
    .option('--keep <size>', 'instead: the newest so many bytes stay, as 20 GiB')
    .option('--seal', 'seal the open segment first, so that its old part can go')
    .option('--dry-run', 'only say what would go')
    .option('--yes', 'do it')
    .addHelpText(
      'after',
      '\nReaders begin at the position; a segment goes when all of it lies before. Nothing brings it back.\n\nExamples:\n  stratalog trim clicks/web --before 2026-01-01 --dry-run\n  stratalog trim clicks/web --before 2026-01-01 --yes\n  stratalog trim sensors/t1 --keep "20 GiB" --yes',
    )
    .action(async (stream: string, flags: TrimFlags) => trim(io, stream, flags))
}

async function trim(io: CliIo, stream: string, flags: TrimFlags): Promise<void> {
  const { checkStreamName } = await import('../model/stream-name.js')
  checkStreamName(stream)
  const request = await requestOf(flags)
  const dryRun = flags.dryRun === true || flags.yes !== true
  const { withLog } = await import('./connect.js')
  const { EXIT } = await import('./exit-codes.js')
  await withLog(io, { lasting: true }, async ({ api }) => {
    let last: TrimPart | null = null
    for await (const part of api.trim(stream, { ...request, dryRun }, io.signal)) last = part
    if (last === null) return
    const { type: _, ...report } = last
    if (io.json) await io.value({ ...report, dryRun })
    else await print(io, stream, last, dryRun)
    if (!dryRun || last.below === null) return
    if (flags.dryRun !== true) {
      io.note(`nothing was done: ${commandOf(stream, flags)} --yes`)
      io.setExitCode(EXIT.refused)
    }
  })
}

async function requestOf({ before, keep, seal }: TrimFlags): Promise<TrimRequest> {
  const { StratalogError } = await import('../model/errors.js')
  const { parsePosition } = await import('../model/position.js')
  const { parseBytes } = await import('../model/units.js')
  if ((before === undefined) === (keep === undefined))
    throw new StratalogError(
      'usage',
      'trim takes either --before POSITION or --keep SIZE: see "stratalog trim --help"',
    )
  if (before !== undefined) parsePosition(before, Date.now())
  return {
    ...(before === undefined ? {} : { before }),
    ...(keep === undefined ? {} : { keepBytes: parseBytes(keep) }),
    seal: seal ?? false,
  }
}

function commandOf(stream: string, { before, keep, seal }: TrimFlags): string {
  const what = before === undefined ? `--keep "${keep}"` : `--before ${before}`
  return `stratalog trim ${stream} ${what}${seal === true ? ' --seal' : ''}`
}

async function print(io: CliIo, stream: string, report: TrimPart, dryRun: boolean): Promise<void> {
  const { formatBytes } = await import('../model/units.js')
  const { plural } = await import('./render.js')
  const { asked, below, segments, records, hotBytes, archiveBytes, held } = report
  if (below === null)
    await io.line(`nothing of ${stream} lies before ${asked}${held === null ? '' : ' that may go'}`)
  else
    await io.line(
      `${dryRun ? 'would trim' : 'trimmed'} ${stream} below ${below}: ${plural(segments, 'segment')}, ${plural(BigInt(records), 'record')}, ${formatBytes(hotBytes)} hot, ${formatBytes(archiveBytes)} archive`,
    )
  if (held === null) return
  const { hold, segment } = held
  await io.line(`held      ${hold.kind} ${hold.id} keeps segment ${segment} and what lies behind it`)
  io.note(
    hold.kind === 'hold'
      ? `(it ends with: stratalog hold release ${stream} ${hold.id})`
      : `(pinned by ${hold.by})`,
  )
}
