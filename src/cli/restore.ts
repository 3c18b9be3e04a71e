import { existsSync } from 'node:fs'
import { readdir } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import type { Command } from 'commander'
import { isStratalogError, StratalogError } from '../model/errors.js'
import { formatDuration } from '../model/units.js'
import type { OpenOptions } from '../options.js'
import type { ArchiveStore } from '../ports/archive-store.js'
import type { RestorePlan, RestoreReport, RestoreSelection } from '../restore.js'
import { EXIT } from './exit-codes.js'
import type { CliIo } from './io.js'
import { quietSystem } from './quiet.js'
import { formatCount, plural } from './render.js'

interface RestoreFlags {
  readonly from: string
  readonly into: string
  readonly streams: readonly string[]
  readonly until?: string
  readonly as: readonly string[]
  readonly incarnation?: string
  readonly strict?: boolean
  readonly moved?: boolean
  readonly dryRun?: boolean
  readonly yes?: boolean
}

const EXAMPLES = `
Exits with 6 where something is missing and a gap takes its place; --strict stops there instead. Ctrl-C is safe: the
same command goes on where it was.

Examples:
  stratalog restore --from ./archive --into ./recovered --dry-run
  stratalog restore --from ./archive --into ./recovered --yes
  stratalog restore --from ./archive --into ./recovered --streams 'audit/**' --until 2026-11-01 --yes
  stratalog restore --from ./archive --into ./data --streams orders --as orders=orders-before --yes`

/** `stratalog restore`: streams of an archive into an empty directory or a living log. */
export function register(program: Command, io: CliIo): void {
  const more = (value: string, before: readonly string[]) => [...before, value]
  program
    .command('restore')
    .description('rebuild streams from an archive, and nothing but the archive')
    .requiredOption(
      '--from <archive>',
      'the archive: a directory, s3://bucket/prefix or hdfs://namenode:9870/path',
    )
    .requiredOption('--into <directory>', 'an empty directory, or that of a log that no process has open')
    .option('--streams <pattern>', 'only these, as in policies; may be given again', more, [])
    .option('--until <position>', 'a time or, of one stream, a DLSN: what comes from there on is left out')
    .option(
      '--as <old=new>',
      'another name, or old/=new/ for all that begin so; may be given again',
      more,
      [],
    )
    .option('--incarnation <id>', 'this life of a stream, also one that was deleted')
    .option('--strict', 'stop at the first segment that is missing or damaged')
    .option('--moved', 'also from a place that the archive moved away from')
    .option('--dry-run', 'only say what would be restored')
    .option('--yes', 'do it')
    .addHelpText('after', EXAMPLES)
    .action((flags: RestoreFlags) => restore(io, flags))
}

async function restore(io: CliIo, flags: RestoreFlags): Promise<void> {
  const { openFrom } = await import('./from-archive.js')
  const { hasLosses } = await import('./restore-plan.js')
  const { planRestore } = await import('../restore.js')
  const wanted = await selection(io, flags)
  await refuseForeignDirectory(flags.into)
  const archive = await openFrom(io, flags.from, { moved: flags.moved ?? false })
  try {
    await refuseWithinArchive(flags.into, archive.location)
    const plan = await planRestore(archive, wanted)
    if (plan.streams.length === 0) throw nothingThere(plan, flags)
    if (flags.dryRun || !flags.yes) {
      await showPlan(io, archive, plan, flags)
      if (!flags.dryRun) io.setExitCode(EXIT.refused)
      else if (hasLosses(plan)) io.setExitCode(EXIT.loss)
      return
    }
    await carryOut(io, archive, plan, flags)
  } finally {
    await archive.close()
  }
}

async function selection(io: CliIo, flags: RestoreFlags): Promise<RestoreSelection> {
  const { Dlsn } = await import('../model/dlsn.js')
  const { parsePosition } = await import('../model/position.js')
  const as: Record<string, string> = {}
  for (const pair of flags.as) {
    const at = pair.indexOf('=')
    if (at < 1 || at === pair.length - 1)
      throw new StratalogError('usage', `--as "${pair}" is not OLD=NEW, as audit/=restored/audit/`, {
        found: pair,
      })
    as[pair.slice(0, at)] = pair.slice(at + 1)
  }
  const until = flags.until === undefined ? undefined : parsePosition(flags.until, Date.now())
  const timed = typeof until === 'object' && 'time' in until
  if (until !== undefined && !timed && !(until instanceof Dlsn))
    throw new StratalogError('usage', `--until "${flags.until}" is neither a time nor a DLSN (12:340:7)`, {
      found: flags.until,
    })
  if (timed) io.note(`(until ${new Date(Number(until.time)).toISOString()})`)
  return {
    signal: io.signal,
    as,
    ...(flags.streams.length === 0 ? {} : { streams: flags.streams }),
    ...(until === undefined ? {} : { until }),
    ...(flags.incarnation === undefined ? {} : { incarnation: flags.incarnation }),
  }
}

function nothingThere(plan: RestorePlan, flags: RestoreFlags): StratalogError {
  const [first] = plan.left
  const narrowed = flags.streams.length > 0 || flags.incarnation !== undefined
  const hint =
    first !== undefined
      ? `${first.name}: ${first.why}`
      : narrowed
        ? 'see what it holds without --streams and --incarnation'
        : 'is it the right archive?'
  return new StratalogError(
    'object_not_found',
    `${plan.location} holds no stream that could be restored: ${hint}`,
    {
      found: plan.location,
    },
  )
}

/** Only a log, a restore that was interrupted, or nothing at all may be there; a configuration waits for its log. */
async function refuseForeignDirectory(directory: string): Promise<void> {
  const names = await readdir(directory).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return [] as string[]
    throw new StratalogError('access_denied', `${directory} can't be restored into: ${error.message}`, {
      cause: error,
    })
  })
  const others = names.filter((name) => name !== 'stratalog.yaml')
  if (others.length === 0 || names.includes('log.json')) return
  throw new StratalogError(
    'directory_not_empty',
    `${directory} holds other files: name an empty directory with --into`,
    { found: others.slice(0, 5) },
  )
}

/** What an archive lists must be its own, and the log that is restored will be emptied one day. */
async function refuseWithinArchive(into: string, location: string): Promise<void> {
  const { isWithin } = await import('../open/configuration.js')
  const directory = resolve(into)
  if (directory !== location && !isWithin(directory, location)) return
  throw new StratalogError(
    'refused',
    `${into} lies within the archive: name a directory beside it with --into`,
    {
      found: directory,
    },
  )
}

async function showPlan(
  io: CliIo,
  archive: ArchiveStore,
  plan: RestorePlan,
  flags: RestoreFlags,
): Promise<void> {
  const { estimateRestore, notThere, planLines, planValue } = await import('./restore-plan.js')
  const estimate = await estimateRestore(archive, plan, resolve(flags.into), configOf(flags.into), io.signal)
  if (io.json) return io.value({ dryRun: true, ...planValue(plan), ...estimate })
  for (const line of planLines(plan, estimate, io.colors)) await io.line(line)
  io.note(notThere(plan))
  const command = process.argv.slice(2).filter((word) => word !== '--dry-run')
  if (!flags.dryRun) io.note(`nothing was done: stratalog ${command.join(' ')} --yes`)
}

/** A log that has a configuration keeps to it; a directory without one is taken as it is, whatever is set around it. */
function configOf(directory: string): Pick<OpenOptions, 'config' | 'archive'> {
  return existsSync(join(directory, 'stratalog.yaml')) ? {} : { config: 'none', archive: 'none' }
}

async function carryOut(
  io: CliIo,
  archive: ArchiveStore,
  plan: RestorePlan,
  flags: RestoreFlags,
): Promise<void> {
  const { openLog } = await import('../open.js')
  const { hasLosses } = await import('./restore-plan.js')
  const { restoreArchive } = await import('../restore.js')
  const directory = resolve(flags.into)
  await using log = await openLog(directory, {
    ...configOf(directory),
    tiering: 'off',
    control: 'off',
    system: await quietSystem(),
  })
  const progress = io.progress({ label: 'restore', total: plan.objectBytes, unit: 'bytes' })
  const startedMs = performance.now()
  let skippedBytes: number | null = null
  try {
    const report = await restoreArchive(log, archive, plan, {
      signal: io.signal,
      strict: flags.strict ?? false,
      onProgress: ({ doneObjectBytes, stream, streamDone, streamSegments }) => {
        // What an earlier run did passes in a moment and says nothing about what is left.
        skippedBytes ??= doneObjectBytes
        const rate = (doneObjectBytes - skippedBytes) / (performance.now() - startedMs)
        const leftMs = rate > 0 ? (plan.objectBytes - doneObjectBytes) / rate : null
        const left = leftMs === null ? '' : `${formatDuration(leftMs)} left  `
        progress.update(doneObjectBytes, `${left}${stream} ${streamDone}/${streamSegments}  (Ctrl-C is safe)`)
      },
    })
    progress.end()
    if (report.gaps.length > 0 || hasLosses(plan)) io.setExitCode(EXIT.loss)
    await say(io, plan, report, directory)
  } catch (error) {
    progress.end()
    if (!isStratalogError(error)) io.note('interrupted: the same command goes on where it was')
    throw error
  }
}

async function say(io: CliIo, plan: RestorePlan, report: RestoreReport, directory: string): Promise<void> {
  const { notThere, planValue, whereOf } = await import('./restore-plan.js')
  if (io.json) {
    const { left, foreign, owner } = planValue(plan)
    return io.value({ ...report, into: directory, from: plan.location, left, foreign, owner })
  }
  const there = report.resumed > 0 ? ` (${formatCount(report.resumed)} segments were there)` : ''
  const gaps = report.gaps.length === 0 ? '' : `, ${plural(report.gaps.length, 'gap')}`
  await io.line(
    `restored ${plural(report.streams, 'stream')}, ${plural(report.segments, 'segment')}, ${plural(report.records, 'record')}${gaps} into ${directory}${there}`,
  )
  for (const { stream, ...gap } of report.gaps)
    await io.line(`GAP  ${stream}  ${whereOf(gap)}: ${gap.why}  {${gap.reason}}`)
  for (const { name, lostAtEnd } of plan.streams)
    if (lostAtEnd > 0n)
      await io.line(`LOST  ${name}  ${plural(lostAtEnd, 'record')} of its end never reached the archive`)
  await io.line(`digest ${report.digest}  (the same for anyone who restores these objects)`)
  io.note(notThere(plan))
  io.note(`next: stratalog --dir ${directory} stream list`)
}
