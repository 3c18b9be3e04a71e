import type { OrphanLedgerDto, OrphanObjectDto, OrphanTallyDto } from '../model/control-archive.js'
import { checkStreamName } from '../model/stream-name.js'
import { formatBytes, formatTime, parseDuration } from '../model/units.js'
import { archivePlace } from './archive-place.js'
import { withLog } from './connect.js'
import { EXIT } from './exit-codes.js'
import type { CliIo } from './io.js'
import { formatCount, plural, printable } from './render.js'

/** What `archive orphans` may be told. */
export interface OrphansOptions {
  readonly stream?: string
  readonly archive?: string
  readonly grace?: string
  readonly yes?: boolean
}

/** `stratalog archive orphans list | gc`. */
export async function orphans(io: CliIo, verb: 'list' | 'gc', options: OrphansOptions): Promise<void> {
  const stream = options.stream === undefined ? {} : { stream: checkStreamName(options.stream) }
  const grace = options.grace === undefined ? {} : { graceMs: parseDuration(options.grace) }
  const which = options.archive === undefined ? {} : { archive: archivePlace(options.archive) }
  const collect = verb === 'gc' && options.yes === true
  await withLog(io, { lasting: true }, async ({ api }) => {
    let dueLedgers = 0
    let deletedLedgers = 0
    for await (const part of api.archiveOrphans({ ...stream, ...which, ...grace, collect }, io.signal)) {
      if (part.type === 'end') {
        await end(io, verb, part.tally, { due: dueLedgers, deleted: deletedLedgers })
        continue
      }
      const { outcome } = part.orphan
      if (part.type === 'ledger' && outcome === 'due') dueLedgers += 1
      if (part.type === 'ledger' && outcome === 'deleted') deletedLedgers += 1
      if (io.json) await io.value({ type: part.type, ...part.orphan })
      else await io.line(part.type === 'object' ? objectLine(part.orphan) : ledgerLine(part.orphan))
    }
    // Without an archive there are ledgers alone, and no tally of objects.
    if (verb === 'gc' && !collect && dueLedgers > 0) io.setExitCode(EXIT.refused)
  })
}

function objectLine(orphan: OrphanObjectDto): string {
  const { outcome, reason, stream, incarnation, segment, sizeBytes, why, firstSeenMs } = orphan
  const where = `${printable(stream ?? incarnation)} seg ${segment}`
  const since = firstSeenMs === null ? '' : ` (since ${formatTime(firstSeenMs)})`
  return `${outcome.padEnd(7)}  ${reason.padEnd(14)}  ${where}  ${formatBytes(sizeBytes)}  ${printable(why)}${since}\n         ${orphan.key}`
}

function ledgerLine({ outcome, ledgerId, stream, segment, why, firstSeenMs }: OrphanLedgerDto): string {
  const where = stream === null ? '' : `  begun for ${printable(stream)} seg ${segment}`
  return `${outcome.padEnd(7)}  ledger ${ledgerId}${where}  ${printable(why)} (since ${formatTime(firstSeenMs)})`
}

async function end(
  io: CliIo,
  verb: 'list' | 'gc',
  tally: OrphanTallyDto,
  ledgers: { readonly due: number; readonly deleted: number },
): Promise<void> {
  if (verb === 'gc' && tally.due + ledgers.due > 0) io.setExitCode(EXIT.refused)
  if (tally.skipped.length > 0) io.setExitCode(EXIT.partial)
  if (io.json) return io.value(tally)
  for (const { stream, error } of tally.skipped)
    await io.line(`skipped  ${printable(stream)}  ${printable(error)}`)
  const parts = [
    `${plural(tally.objects, 'object')} looked at`,
    `due ${formatCount(tally.due)} (${formatBytes(tally.dueBytes)})`,
    `deleted ${formatCount(tally.deleted)} (${formatBytes(tally.deletedBytes)})`,
    `waiting ${formatCount(tally.waiting)} (${formatBytes(tally.waitingBytes)})`,
    `kept ${formatCount(tally.kept)} (${formatBytes(tally.keptBytes)})`,
  ]
  if (tally.summaries > 0) parts.push(`${plural(tally.summaries, 'summary object')} deleted`)
  if (tally.leftovers > 0) parts.push(`${plural(tally.leftovers, 'unfinished upload')} removed`)
  await io.line(parts.join(' · '))
  if (tally.due + ledgers.due > 0) io.note('(delete what is due: stratalog archive orphans gc --yes)')
}
