import { readdir } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import type { Command } from 'commander'
import type { RestorableStream, RestorePlan } from '../../tiering/restore.js'
import { isStratalogError, StratalogError } from '../model/errors.js'
import { formatBytes, formatTime } from '../model/units.js'
import type { CliIo } from './io.js'
import { quietSystem } from './quiet.js'
import { formatCount, plural, table } from './render.js'

interface RestoreOptions {
  readonly from: string
  readonly into: string
  readonly dryRun?: boolean
  readonly yes?: boolean
  readonly keyRing?: string
}

/** `stratalog restore`: a whole archive into an empty log. */
export function register(program: Command, io: CliIo): void {
  program
    .command('restore')
    .description('rebuild every stream of an archive in an empty directory')
    .requiredOption('--from <archive>', 'the archive: a directory')
    .requiredOption(
      '--into <directory>',
      'where the restored log is made; run again to go on after an interruption',
    )
    .option('--key-ring <file>', 'the ring with the keys of what is encrypted')
    .option('--dry-run', 'only say what would be restored')
    .option('--yes', 'do it')
    .addHelpText(
      'after',
      '\nExamples:\n  stratalog restore --from ./archive --into ./recovered --dry-run\n  stratalog restore --from ./archive --into ./recovered --yes',
    )
    .action((options: RestoreOptions) => restore(io, options))
}

async function restore(io: CliIo, options: RestoreOptions): Promise<void> {
  const { openArchive } = await import('../open.js')
  const { planRestore } = await import('../restore.js')
  await refuseForeignDirectory(options.into)
  const ring = options.keyRing === undefined ? {} : { keyRing: options.keyRing }
  const archive = await openArchive(options.from, await quietSystem(), ring)
  try {
    const plan = await planRestore(archive, io.signal)
    if (plan.streams.length === 0) {
      throw new StratalogError(
        'object_not_found',
        `${plan.location} holds no stream that could be restored: is it the right archive?`,
        { found: plan.location },
      )
    }
    if (options.dryRun || !options.yes) {
      await showPlan(io, plan, options)
      if (!options.dryRun) io.setExitCode(4)
      return
    }
    await carryOut(io, archive, plan, options)
  } finally {
    await archive.close()
  }
}

/** Only a log, a restore that was interrupted, or nothing at all may be there. */
async function refuseForeignDirectory(directory: string): Promise<void> {
  const names = await readdir(directory).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return [] as string[]
    throw new StratalogError('access_denied', `${directory} can't be restored into: ${error.message}`, {
      cause: error,
    })
  })
  if (names.length === 0 || names.includes('log.json')) return
  throw new StratalogError(
    'directory_not_empty',
    `${directory} holds other files: name an empty directory with --into`,
    { found: names.slice(0, 5) },
  )
}

async function showPlan(io: CliIo, plan: RestorePlan, options: RestoreOptions): Promise<void> {
  if (io.json) {
    return io.value({
      dryRun: true,
      from: plan.location,
      streams: plan.streams.map(describe),
      segments: plan.segments,
      records: plan.records,
      objectBytes: plan.objectBytes,
      digest: plan.digest,
    })
  }
  await io.line(
    `would restore ${plural(plan.streams.length, 'stream')}, ${plural(plan.segments, 'segment')}, ${plural(plan.records, 'record')}, ${formatBytes(plan.objectBytes)} of objects from ${plan.location}`,
  )
  const columns = [
    { name: 'STREAM' },
    { name: 'SEGMENTS', align: 'right' as const },
    { name: 'RECORDS', align: 'right' as const },
    { name: 'TXID' },
    { name: '' },
  ]
  const rows = plan.streams.map((stream) => {
    const { first, last, state } = describe(stream)
    return [
      stream.binding.name,
      formatCount(stream.segments.length),
      formatCount(stream.records),
      first === null ? '' : `${first} … ${last}`,
      state,
    ]
  })
  for (const line of table(columns, rows)) await io.line(line)
  await io.line(`digest ${plan.digest}`)
  io.note(`not in the archive: whatever was hot only when it was last written to`)
  if (!options.dryRun)
    io.note(`nothing was done: stratalog restore --from ${options.from} --into ${options.into} --yes`)
}

function describe(stream: RestorableStream): {
  name: string
  segments: number
  records: string
  first: string | null
  last: string | null
  state: string
} {
  const first = stream.segments[0]?.parsed
  const last = stream.segments.at(-1)?.parsed
  const shown = (txid: bigint) =>
    stream.binding.txidMode === 'ms' ? formatTime(Number(txid)) : txid.toString()
  const state =
    stream.missing.length > 0
      ? `MISSING segment ${stream.missing.slice(0, 3).join(', ')}`
      : first !== undefined && first.segment > 1n
        ? `starts at ${first.segment}: trimmed below`
        : 'complete'
  return {
    name: stream.binding.name,
    segments: stream.segments.length,
    records: stream.records.toString(),
    first: first === undefined ? null : shown(first.firstTxid),
    last: last === undefined ? null : shown(last.lastTxid),
    state,
  }
}

async function carryOut(
  io: CliIo,
  archive: Parameters<typeof import('../restore.js').restoreArchive>[1],
  plan: RestorePlan,
  options: RestoreOptions,
): Promise<void> {
  const { openLog } = await import('../open.js')
  const { restoreArchive } = await import('../restore.js')
  const directory = resolve(options.into)
  await using log = await openLog(directory, {
    archive: 'none',
    config: 'none',
    tiering: 'off',
    control: 'off',
    system: await quietSystem(),
  })
  const progress = io.progress({ label: 'restore', total: plan.objectBytes, unit: 'bytes' })
  try {
    const report = await restoreArchive(log, archive, plan, {
      signal: io.signal,
      onProgress: ({ doneObjectBytes }) => progress.update(doneObjectBytes),
    })
    progress.end()
    if (io.json) return await io.value({ ...report, into: directory, from: plan.location })
    await io.line(
      `restored ${plural(report.streams, 'stream')}, ${plural(report.segments, 'segment')}, ${plural(report.records, 'record')} into ${directory}${report.resumed > 0 ? ` (${report.resumed} segments were there)` : ''}`,
    )
    await io.line(`digest ${report.digest}  (the same for anyone who restores these objects)`)
    io.note('not in the archive: whatever was hot only when it was last written to')
    io.note(
      `next: stratalog --dir ${options.into} stream list   (give it an archive of its own in ${join(options.into, 'stratalog.yaml')})`,
    )
  } catch (error) {
    progress.end()
    if (!isStratalogError(error)) io.note(`interrupted: run it again to go on`)
    throw error
  }
}
