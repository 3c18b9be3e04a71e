import type { Command } from 'commander'
import type { ArchiveLsPart, ArchiveObjectDto, ArchiveVerifyPart } from '../model/control-archive.js'
import { formatBytes, formatTime } from '../model/units.js'
import type { OrphansOptions } from './archive-orphans.js'
import { groupOf } from './group.js'
import type { CliIo } from './io.js'
import { formatCount, plural, printable } from './render.js'

interface LsOptions {
  readonly from?: string
  readonly archive?: string
}

interface VerifyOptions extends LsOptions {
  readonly deep?: boolean
  readonly sample?: string
  readonly seed?: string
}

/** `stratalog archive ls | verify | scrub | orphans | resolve`. */
export function register(program: Command, io: CliIo): void {
  const group = groupOf(program, 'archive', 'look at the archive, check it, mend it, clean it')
  group
    .command('ls')
    .argument('[stream]')
    .description('the objects of segments, with those nobody committed')
    .option('--from <archive>', 'an archive by itself, without a log')
    .option('--archive <place>', 'of several archives of the log the one there')
    .addHelpText(
      'after',
      '\nExamples:\n  stratalog archive ls\n  stratalog archive ls trades --json | jq -r .key\n  stratalog archive ls --from ./archive',
    )
    .action(async (stream: string | undefined, options: LsOptions) => ls(io, stream, options))
  group
    .command('verify')
    .argument('[stream]')
    .description('whether index, names and objects say the same; changes nothing')
    .option('--deep', 'read every byte')
    .option('--sample <part>', 'with --deep: this part of the objects, like 1%')
    .option('--seed <text>', 'chooses the sample; the same seed chooses the same objects')
    .option('--from <archive>', 'an archive by itself, without a log')
    .option('--archive <place>', 'of several archives of the log the one there')
    .addHelpText(
      'after',
      '\nExits with 6 where something is lost, damaged or contradicts itself.\n\nExamples:\n  stratalog archive verify\n  stratalog archive verify trades --deep --sample 1%\n  stratalog archive verify --from ./archive --deep',
    )
    .action(async (stream: string | undefined, options: VerifyOptions) => verify(io, stream, options))
  group
    .command('scrub')
    .description('read every byte of the archive now and mend what is bad from whichever copy is good')
    .addHelpText(
      'after',
      '\nAn application does this by itself at its own pace (policy scrub.full-pass). Exits with 6 where something could not be mended.\n\nExample:\n  stratalog archive scrub',
    )
    .action(async () => (await import('./archive-scrub.js')).scrub(io))
  const orphans = group
    .command('orphans')
    .description('what nobody refers to: objects, and ledgers on the stores')
  for (const name of ['list', 'gc'] as const) {
    const command = orphans
      .command(name)
      .description(
        name === 'list'
          ? 'what there is, and whether it may go'
          : 'delete what is proven dead and old enough',
      )
      .option('--stream <stream>', 'one stream only')
      .option('--archive <place>', 'of several archives of the log the one there')
      .option('--grace <time>', 'how long something has to be known as an orphan (24h)')
    if (name === 'gc') command.option('--yes', 'do it; without it this only says what would be deleted')
    command
      .addHelpText(
        'after',
        name === 'list'
          ? '\nExample:\n  stratalog archive orphans list'
          : '\nWithout --yes it exits with 4 where there is something to delete.\n\nExample:\n  stratalog archive orphans gc --yes',
      )
      .action(async (options: OrphansOptions) =>
        (await import('./archive-orphans.js')).orphans(io, name, options),
      )
  }
  group
    .command('resolve')
    .argument('<stream>')
    .argument('<segment>', 'its number')
    .requiredOption('--attempt <id>', 'the attempt that is the segment, as "archive ls" shows it')
    .option('--yes', 'do it: objects of the segment with another content are deleted')
    .description('end a conflict: say which of several contents of a segment is the right one')
    .addHelpText('after', '\nExample:\n  stratalog archive resolve trades 12 --attempt 3kq0p9v6b2c1d --yes')
    .action(async (stream: string, segment: string, options: { attempt: string; yes?: boolean }) =>
      (await import('./archive-scrub.js')).resolve(io, stream, segment, options),
    )
}

async function ls(io: CliIo, stream: string | undefined, { from, archive: place }: LsOptions): Promise<void> {
  const request = await streamRequest(stream)
  if (from !== undefined) {
    const { listArchive } = await import('../log-archive.js')
    const parts = await import('../serve/archive-verbs.js')
    await withArchive(io, from, (archive) =>
      printObjects(io, parts.ls(listArchive(archive, { ...request, signal: io.signal }))),
    )
    return
  }
  const which = await placeRequest(place)
  const { withLog } = await import('./connect.js')
  await withLog(io, {}, ({ api }) => printObjects(io, api.archiveLs({ ...request, ...which }, io.signal)))
}

async function printObjects(io: CliIo, parts: AsyncIterable<ArchiveLsPart>): Promise<void> {
  let shown: string | null = null
  for await (const part of parts) {
    if (io.signal.aborted) return
    if (part.type === 'end') {
      io.note(`(${plural(part.objects, 'object')}, ${formatBytes(part.bytes)})`)
      continue
    }
    if (io.json) {
      await io.value(part.object)
      continue
    }
    if (part.object.incarnation !== shown) {
      shown = part.object.incarnation
      await io.line(`${printable(part.object.stream ?? '(no name)')}  ${shown}`)
    }
    await io.line(objectLine(io, part.object))
  }
}

/** Columns of fixed width: a million objects are not held to align them. */
function objectLine(io: CliIo, object: ArchiveObjectDto): string {
  const { segment, attempt, sizeBytes, records, completionMs, contentDigest, committed } = object
  const note = committed === false ? `  ${io.colors.yellow('not committed')}` : ''
  const count = plural(BigInt(records), 'record')
  return `  ${segment.padStart(8)}  ${attempt}  ${formatBytes(sizeBytes).padStart(10)}  ${count.padStart(18)}  sealed ${formatTime(completionMs)}  ${contentDigest.slice(0, 12)}${note}`
}

async function verify(io: CliIo, stream: string | undefined, options: VerifyOptions): Promise<void> {
  const { StratalogError } = await import('../model/errors.js')
  if (options.deep !== true && (options.sample ?? options.seed) !== undefined)
    throw new StratalogError('usage', '--sample and --seed choose what is read: give --deep with them')
  const sample = options.sample === undefined ? {} : { sample: await partOf(options.sample) }
  const seed = options.seed === undefined ? {} : { seed: options.seed }
  const request = { ...(await streamRequest(stream)), deep: options.deep === true, ...sample, ...seed }
  const { from, archive: place } = options
  if (from !== undefined) {
    const { verifyArchive } = await import('../log-archive.js')
    await withArchive(io, from, (archive) =>
      printFindings(io, verifyArchive(archive, { ...request, signal: io.signal })),
    )
    return
  }
  const which = await placeRequest(place)
  const { withLog } = await import('./connect.js')
  await withLog(io, { lasting: true }, ({ api }) =>
    printFindings(io, api.archiveVerify({ ...request, ...which }, io.signal)),
  )
}

type Printed = {
  readonly type: 'finding'
  readonly finding: { readonly stream: string | null; readonly segment: bigint | string | null } & Omit<
    Extract<ArchiveVerifyPart, { type: 'finding' }>['finding'],
    'segment'
  >
}

async function printFindings(
  io: CliIo,
  parts: AsyncIterable<Printed | Exclude<ArchiveVerifyPart, { type: 'finding' }>>,
): Promise<void> {
  const { EXIT } = await import('./exit-codes.js')
  const progress = io.progress({ label: 'verify', unit: 'count' })
  let damaged = false
  let unread = false
  try {
    for await (const part of parts) {
      if (part.type === 'progress') {
        progress.update(part.tally.objects, printable(part.stream ?? ''))
      } else if (part.type === 'finding') {
        progress.end()
        if (part.finding.problem === 'unreadable') unread = true
        else damaged = true
        if (io.json) await io.value(part.finding)
        else for (const line of findingLines(io, part.finding)) await io.line(line)
      } else {
        progress.end()
        if (io.json) await io.value({ ...part.tally, streams: part.streams })
        else await io.line(tallyLine(part))
      }
    }
  } finally {
    progress.end()
  }
  if (damaged) io.setExitCode(EXIT.loss)
  else if (unread) io.setExitCode(EXIT.partial)
}

function findingLines(io: CliIo, finding: Printed['finding']): string[] {
  const { problem, incarnation, stream, segment, key, text, mend } = finding
  const where = `${printable(stream ?? incarnation)}${segment === null ? '' : ` seg ${segment}`}`
  const about = key === null || text.includes(key) ? '' : `  ${printable(key)}`
  return [
    `${io.colors.red(problem.padEnd(10))}  ${where}${about}`,
    `            ${printable(text)}`,
    `            → ${printable(mend)}`,
  ]
}

function tallyLine({ streams, tally }: Extract<ArchiveVerifyPart, { type: 'end' }>): string {
  const read =
    tally.deepObjects === 0
      ? 'names and sizes compared'
      : `${plural(tally.deepObjects, 'object')} read whole, ${formatBytes(tally.deepBytes)}`
  const extra =
    tally.extra === 0
      ? ''
      : ` · ${formatCount(tally.extra)} nobody committed, ${formatBytes(tally.extraBytes)} (archive orphans list)`
  const foreign = tally.foreign === 0 ? '' : ` · ${plural(tally.foreign, 'key')} of others`
  const found = tally.findings === 0 ? 'nothing wrong' : `${plural(tally.findings, 'problem')}`
  return `${plural(streams, 'stream')}, ${plural(tally.objects, 'object')}, ${formatBytes(tally.bytes)} · ${read}${extra}${foreign} · ${found}`
}

/** `1%` or `0.01`. */
async function partOf(text: string): Promise<number> {
  const { StratalogError } = await import('../model/errors.js')
  const match = /^(\d{1,3}(?:\.\d{1,9})?)(\s*%)?$/.exec(text.trim())
  const part = match === null ? Number.NaN : Number(match[1]) / (match[2] === undefined ? 1 : 100)
  if (part > 0 && part <= 1) return part
  throw new StratalogError('usage', `--sample "${text}" is no part of a whole: write 1% or 0.01`, {
    found: text,
  })
}

async function streamRequest(stream: string | undefined): Promise<{ readonly stream?: string }> {
  if (stream === undefined) return {}
  const { checkStreamName } = await import('../model/stream-name.js')
  return { stream: checkStreamName(stream) }
}

/** Which archive is meant, as the log knows it: whoever has it open may run elsewhere. */
async function placeRequest(place: string | undefined): Promise<{ readonly archive?: string }> {
  if (place === undefined) return {}
  const { archivePlace } = await import('./archive-place.js')
  return { archive: archivePlace(place) }
}

async function withArchive(
  io: CliIo,
  from: string,
  work: (archive: import('../ports/archive-store.js').ArchiveStore) => Promise<void>,
): Promise<void> {
  const { openFrom } = await import('./from-archive.js')
  if (io.dir !== undefined) io.note('(--from reads an archive by itself: --dir is not used)')
  // Also one that was left: who looks at it wants to know whether it may go.
  const archive = await openFrom(io, from, { moved: true })
  try {
    await work(archive)
  } finally {
    await archive.close()
  }
}
