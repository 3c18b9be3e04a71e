import { resolve } from 'node:path'
import type { Command } from 'commander'
import type {
  MigratePart,
  MigrateRequest,
  MigrationFindingDto,
  MigrationPlanDto,
  MigrationReportDto,
} from '../model/control-migrate.js'
import { StratalogError } from '../model/errors.js'
import { formatBytes, formatDuration, parseRate } from '../model/units.js'
import { EXIT } from './exit-codes.js'
import type { CliIo } from './io.js'
import { plural, printable } from './render.js'

interface MigrateFlags {
  readonly to?: string
  readonly rate?: string
  readonly allowDamaged?: boolean
  readonly dryRun?: boolean
  readonly abort?: boolean
  readonly leave?: boolean
  readonly yes?: boolean
}

const EXAMPLES = `
Copies every object, reads it back, follows what is copied meanwhile, then goes on in the new place. The log is read and
written all the while. Ctrl-C is safe: the same command goes on. The old place stays as it is, marked as left.

Examples:
  stratalog migrate --to /mnt/nas/archive --dry-run
  stratalog migrate --to s3://acme-logs/prod --rate 80MiB/s
  stratalog migrate --abort --yes`

/** `stratalog migrate`. */
export function register(program: Command, io: CliIo): void {
  program
    .command('migrate')
    .description('move the archive to another place while the log runs')
    .option('--to <archive>', 'an empty place: a directory, s3://bucket/prefix, hdfs://namenode:9870/path')
    .option('--rate <bytes/s>', 'no faster than this, like 80MiB/s')
    .option('--allow-damaged', 'take damaged objects as they are, and go on without missing ones')
    .option('--dry-run', 'only say what it would take')
    .option('--abort', 'end the migration that is under way and delete its unfinished copy')
    .option('--leave', 'with --abort: leave the copy where it is, marked as not whole')
    .option('--yes', 'with --abort: do it')
    .addHelpText('after', EXAMPLES)
    .action((flags: MigrateFlags) => (flags.abort ? abort(io, flags) : migrate(io, flags)))
}

async function migrate(io: CliIo, flags: MigrateFlags): Promise<void> {
  if (flags.leave || flags.yes)
    throw new StratalogError('usage', '--leave and --yes belong to --abort: a migration needs neither')
  if (flags.to === undefined || flags.to === '')
    throw new StratalogError('usage', 'stratalog migrate needs --to ARCHIVE: see "stratalog migrate --help"')
  const rate = flags.rate === undefined ? null : parseRate(flags.rate)
  const request: MigrateRequest = {
    // What is meant is meant from where the command was typed, whoever has the log open.
    to: /^[a-z][a-z0-9+.-]+:\/\//.test(flags.to) ? flags.to : resolve(flags.to),
    ...(rate === null ? {} : { bytesPerSecond: rate }),
    ...(flags.allowDamaged ? { allowDamaged: true } : {}),
    ...(flags.dryRun ? { dryRun: true } : {}),
  }
  const { withLog } = await import('./connect.js')
  await withLog(io, { lasting: true }, async ({ api, directory }) => {
    try {
      await follow(io, api.migrate(request, io.signal), rate, directory)
    } catch (error) {
      if (io.signal.aborted)
        io.note(
          `(stopped: "stratalog migrate --to ${request.to}" goes on with it, "stratalog migrate --abort --yes" ends it)`,
        )
      throw error
    }
  })
}

async function follow(
  io: CliIo,
  parts: AsyncIterable<MigratePart>,
  rate: number | null,
  directory: string,
): Promise<void> {
  let progress = io.progress({ label: 'migrate', unit: 'bytes' })
  let total = 0
  try {
    for await (const part of parts) {
      if (part.type === 'progress') {
        const { phase, doneObjects, totalObjects, doneBytes, totalBytes } = part.progress
        if (totalBytes !== total) {
          total = totalBytes
          progress.end()
          progress = io.progress({ label: 'migrate', unit: 'bytes', total })
        }
        progress.update(
          Math.min(doneBytes, Math.max(total, doneBytes)),
          `${phase} ${doneObjects}/${totalObjects}`,
        )
      } else if (part.type === 'finding') {
        progress.end()
        await showFinding(io, part.finding)
      } else {
        progress.end()
        if (part.type === 'plan') await showPlan(io, part.plan, rate)
        else await showReport(io, part.report, directory)
      }
    }
  } finally {
    progress.end()
  }
}

async function showFinding(io: CliIo, finding: MigrationFindingDto): Promise<void> {
  const { kind, key, text } = finding
  if (kind === 'damaged' || kind === 'missing') io.setExitCode(EXIT.loss)
  if (io.json) return io.value({ finding })
  const color = kind === 'damaged' || kind === 'missing' ? io.colors.red : io.colors.yellow
  await io.line(`${color(kind.padEnd(10))}  ${printable(key)}`)
  if (!text.startsWith(key)) await io.line(`            ${printable(text)}`)
  else await io.line(`            ${printable(text.slice(key.length).trim())}`)
}

async function showPlan(io: CliIo, plan: MigrationPlanDto, rate: number | null): Promise<void> {
  if (io.json) return io.value(plan)
  const { objects, bytes, thereObjects, thereBytes, from, to } = plan
  await io.line(`would copy ${plural(objects - thereObjects, 'object')}, ${formatBytes(bytes - thereBytes)}`)
  await io.line(`  from  ${from}  (${plural(objects, 'object')}, ${formatBytes(bytes)})`)
  await io.line(
    `  to    ${to}  (${plan.begun ? `${plural(thereObjects, 'object')} there and read back` : 'empty'})`,
  )
  if (rate !== null)
    await io.line(
      `takes about ${formatDuration(((bytes - thereBytes) * 1_000) / rate)} at ${formatBytes(rate)}/s`,
    )
}

async function showReport(io: CliIo, report: MigrationReportDto, directory: string): Promise<void> {
  if (io.json) return io.value(report)
  const { from, to, copiedObjects, copiedBytes, epoch, mended, damaged } = report
  const mend = mended === 0 ? '' : ` · ${mended} mended`
  const bad = damaged === 0 ? '' : ` · ${damaged} damaged or missing`
  await io.line(
    `copied and read back ${plural(copiedObjects, 'object')}, ${formatBytes(copiedBytes)}${mend}${bad}`,
  )
  await io.line(`the archive is at ${to} now (epoch ${epoch}); ${from} stays as it was`)
  await io.line(
    `next: write "archive: ${to}" in ${directory}/stratalog.yaml; until then the log finds the way by itself`,
  )
}

async function abort(io: CliIo, flags: MigrateFlags): Promise<void> {
  const { to, rate, allowDamaged, dryRun } = flags
  if ((to ?? rate) !== undefined || allowDamaged || dryRun)
    throw new StratalogError('usage', '--abort goes with --leave and --yes only')
  const leave = flags.leave ?? false
  if (!flags.yes)
    throw new StratalogError(
      'refused',
      `nothing was done: the migration would be ended${leave ? '' : ', and its unfinished copy deleted'}: stratalog migrate --abort${leave ? ' --leave' : ''} --yes`,
    )
  const { withLog } = await import('./connect.js')
  await withLog(io, { lasting: true }, async ({ api }) => {
    const done = await api.abortMigration({ leave })
    if (io.json) return io.value(done)
    await io.line(
      leave
        ? `the migration is ended; what it copied is still at ${done.to}`
        : `the migration is ended; deleted from ${done.to}: ${plural(done.deleted, 'object')}`,
    )
  })
}
