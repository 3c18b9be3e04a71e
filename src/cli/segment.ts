import type { Command } from 'commander'
import type { ControlApi, DumpedEntry, SegmentDto } from '../model/control-api.js'
import { formatBytes, formatTime } from '../model/units.js'
import type { CliIo } from './io.js'
import { formatCount, payloadLine, plural, printable, table, textOf } from './render.js'

const PAGE = 1_000

/** `stratalog segment list | dump | seal`. */
export function register(program: Command, io: CliIo): void {
  const group = program.command('segment').description('look at the segments of a stream')
  group
    .command('list')
    .argument('<stream>')
    .description('segments, oldest first, with their tiers')
    .addHelpText(
      'after',
      '\nExamples:\n  stratalog segment list trades\n  stratalog segment list trades --json | jq -r \'select(.state == "cold") | .object.key\'',
    )
    .action(async (stream: string) => list(io, stream))
  group
    .command('dump')
    .argument('<stream>')
    .argument('<segment>', 'its number')
    .description('entries and records of a segment, and how each copy compares with its checksum')
    .option('--payloads', 'with the payloads')
    .addHelpText(
      'after',
      '\nExits with 6 when a copy is bad or an entry is nowhere.\n\nExample:\n  stratalog segment dump trades 1 --payloads',
    )
    .action(async (stream: string, segment: string, options: { payloads?: boolean }) =>
      dump(io, stream, segment, options.payloads ?? false),
    )
  group
    .command('seal')
    .argument('<stream>')
    .description('seal the open segment now; what is appended later begins another')
    .addHelpText(
      'after',
      '\nWhere several processes share a namespace only the one that writes the stream can: another is told which it is.\n\nExample:\n  stratalog segment seal trades',
    )
    .action(async (stream: string) => seal(io, stream))
}

async function seal(io: CliIo, stream: string): Promise<void> {
  const { checkStreamName } = await import('../model/stream-name.js')
  checkStreamName(stream)
  const { withLog } = await import('./connect.js')
  await withLog(io, {}, async ({ api }) => {
    const sealed = await api.sealSegment(stream)
    if (io.json) return io.value(sealed)
    if (sealed.segment === null) return io.line(`nothing of ${printable(stream)} is open`)
    const held =
      sealed.records === '0'
        ? 'held no records and is gone'
        : `sealed, ${plural(BigInt(sealed.records), 'record')}`
    await io.line(`${printable(stream)} seg ${sealed.segment}  ${held}`)
  })
}

async function* allSegments(
  api: ControlApi,
  stream: string,
): AsyncGenerator<readonly SegmentDto[], void, undefined> {
  for (let after = '0'; ; ) {
    const page = await api.segments(stream, { after, limit: PAGE })
    if (page.length > 0) yield page
    const last = page.at(-1)
    if (last === undefined || page.length < PAGE) return
    after = last.segment
  }
}

const RIGHT = 'right' as const
const COLUMNS = [
  { name: 'SEG', align: RIGHT },
  { name: 'STATE' },
  { name: 'RECORDS', align: RIGHT },
  { name: 'SIZE', align: RIGHT },
  { name: 'FIRST SEQ', align: RIGHT },
  { name: 'TXID' },
  { name: 'OPENED' },
  { name: 'SEALED' },
  { name: 'ARCHIVED' },
]

async function list(io: CliIo, stream: string): Promise<void> {
  const { checkStreamName } = await import('../model/stream-name.js')
  checkStreamName(stream)
  const { withLog } = await import('./connect.js')
  await withLog(io, {}, async ({ api }) => {
    let count = 0
    for await (const page of allSegments(api, stream)) {
      if (io.signal.aborted) return
      if (io.json) for (const row of page) await io.value(row)
      // Each page is a table of its own: a million segments are not held to align them.
      else
        for (const line of table(COLUMNS, page.map(segmentCells), io.colors).slice(count === 0 ? 0 : 1))
          await io.line(line)
      count += page.length
    }
    io.note(`(${plural(count, 'segment')})`)
  })
}

function segmentCells(row: SegmentDto): string[] {
  const time = (ms: number | null) => (ms === null ? '—' : formatTime(ms))
  const closed = row.sealedMs !== null
  return [
    row.segment,
    row.recalledUntilMs === null ? row.state : `${row.state}, recalled until ${time(row.recalledUntilMs)}`,
    closed ? formatCount(BigInt(row.recordCount)) : '—',
    closed ? formatBytes(row.lengthBytes) : '—',
    row.startSequenceId,
    closed ? `${row.firstTxid} … ${row.lastTxid}` : `${row.firstTxid} …`,
    time(row.openedMs),
    time(row.sealedMs),
    time(row.archivedMs),
  ]
}

async function dump(io: CliIo, stream: string, segment: string, payloads: boolean): Promise<void> {
  const { checkStreamName } = await import('../model/stream-name.js')
  const { parseSegment } = await import('./args.js')
  const { EXIT } = await import('./exit-codes.js')
  checkStreamName(stream)
  const number = parseSegment(segment)
  const { withLog } = await import('./connect.js')
  await withLog(io, {}, async ({ api }) => {
    const counts = { entries: 0, records: 0, bad: 0 }
    for await (const part of api.segmentDump(stream, number, { payloads }, io.signal)) {
      if (io.json) await io.value(part.type === 'segment' ? { segment: part.segment } : entryJson(part.entry))
      else if (part.type === 'segment')
        await io.line(
          `segment ${part.segment.segment}  ${part.segment.state}  epoch ${part.segment.epoch}  ${part.segment.object?.key ?? ''}`.trimEnd(),
        )
      else for (const line of entryLines(number, part.entry)) await io.line(line)
      if (part.type !== 'entry') continue
      counts.entries += 1
      counts.records += part.entry.records.length
      if (isDamaged(part.entry)) counts.bad += 1
    }
    io.note(
      `(${plural(counts.entries, 'entry').replace('entrys', 'entries')}, ${plural(counts.records, 'record')}, ${counts.bad === 0 ? 'every copy is good' : `${formatCount(counts.bad)} with a damaged or absent copy`})`,
    )
    if (counts.bad > 0) io.setExitCode(EXIT.loss)
  })
}

/** A copy that never arrived is normal below the write quorum; a bad one never is, nor an entry without any copy. */
function isDamaged(entry: DumpedEntry): boolean {
  return (
    entry.copies.some((copy) => copy.state === 'bad') || entry.copies.every((copy) => copy.state !== 'ok')
  )
}

function entryJson(entry: DumpedEntry): object {
  const records = entry.records.map(({ payload, ...record }) => {
    if (payload === null) return record
    const text = textOf(payload)
    return {
      ...record,
      ...(text === null ? { payloadBase64: Buffer.from(payload).toString('base64') } : { payload: text }),
    }
  })
  return { ...entry, records }
}

function entryLines(segment: string, entry: DumpedEntry): string[] {
  const copies = entry.copies.map(
    (copy) =>
      `${printable(copy.where)} ${copy.state}${copy.error === null ? '' : ` (${printable(copy.error)})`}`,
  )
  const head = `entry ${entry.entryId}  ${formatBytes(entry.bytes)}  ${plural(entry.records.length, 'record')}  ${copies.join('  ')}`
  const records = entry.records.map((record) => {
    const what = record.kind === 'user' ? `seq ${record.sequenceId}` : record.kind
    return `  ${segment}:${entry.entryId}:${record.slot}  txid ${record.txid}  ${what}  ${formatBytes(record.bytes)}${record.payload === null ? '' : `  ${payloadLine(record.payload)}`}`
  })
  return [head, ...records]
}
