import { createHash } from 'node:crypto'
import { closeSync, mkdirSync, openSync, rmSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import process from 'node:process'
import { type Log, openLog } from 'stratalog'
import { encodeSegmentKey } from '../src/format/archive-names.js'
import { encodeObjectHeader, encodeObjectIndex } from '../src/format/segment-object.js'
import { openSqliteMetadata } from '../src/metadata/sqlite/open.js'
import { NOT_CLOSED, type SegmentRow } from '../src/model/segment.js'
import { realClock } from '../src/system/clock.js'
import { quiet } from './load.js'
import { type Bench, type BenchMember, type BenchResult, median, percentile, valueAtMost } from './result.js'
import { SILENT } from './silent.js'

const SEGMENTS = 1_000_000
const STREAMS = 10_000
const LOOKS = 20_000
const FIRST_MS = 1_600_000_000_000
const SEGMENT_MS = 60_000
const RECORDS = 1_000n

export const INDEX_MEMBERS: readonly BenchMember[] = [
  {
    names: ['index.million', 'index.million.open', 'index.million.rss', 'index.million.pass'],
    what: 'look-ups by DLSN, txid and time in 1,000,000 cold segments of 10,000 streams',
    run: million,
  },
  {
    names: ['index.rebuild'],
    what: 'the index made again from the names of 1,000,000 segments in a directory archive',
    run: rebuild,
  },
]

/** How many names there are. */
export interface Size {
  readonly streams: number
  readonly segmentsEach: number
}

function sizeOf(bench: Bench): Size {
  const streams = bench.amount(STREAMS, 20)
  return { streams, segmentsEach: bench.short ? 10 : SEGMENTS / STREAMS }
}

async function million(bench: Bench): Promise<BenchResult[]> {
  const size = sizeOf(bench)
  const root = join(bench.directory, 'log')
  const options = { ...quiet(bench), archive: join(bench.directory, 'archive'), system: { logger: SILENT } }
  await (await openLog(root, options)).close()
  await fillIndex(join(root, 'index.db'), size)
  // Writes the decisions that made these streams to the stores: a log that grew has them there.
  await (await openLog(root, options)).close()
  const beforeMb = rssMb()
  const start = performance.now()
  await using log = await openLog(root, options)
  const openSeconds = (performance.now() - start) / 1e3
  const looks = await lookUp(log, size)
  const grownMb = rssMb() - beforeMb
  const passes: number[] = []
  for (let round = 0; round < bench.rounds; round += 1) {
    const began = performance.now()
    const report = await log.tier.run()
    passes.push((performance.now() - began) / 1e3)
    if (report.failed.length > 0) throw new Error(`tiering failed: ${report.failed[0]?.error}`)
  }
  const held = (name: string, value: number, unit: string, most: number, what: string, reference: number) =>
    valueAtMost({ name, value, unit, what, reference }, most)
  const segments = size.streams * size.segmentsEach
  return [
    held('index.million', percentile(looks, 0.99), 'ms', 1, 'p50 of the same', percentile(looks, 0.5)),
    held('index.million.open', openSeconds, 's', 1, 'segments', segments),
    held('index.million.rss', Math.max(0.1, grownMb), 'MB', 200, 'segments', segments),
    held('index.million.pass', median(passes), 's', 5, 'streams without anything due', size.streams),
  ]
}

async function lookUp(log: Log, { streams, segmentsEach }: Size): Promise<number[]> {
  const { index } = log.parts.segments
  const times: number[] = []
  for (let i = 0; i < LOOKS; i += 1) {
    const incarnation = incarnationOf((i * 7_919) % streams)
    const at = (i * 104_729) % segmentsEach
    const timeMs = FIRST_MS + at * SEGMENT_MS + 5
    const looks = [
      () => index.segment(incarnation, BigInt(at + 1)),
      () => index.segmentForTxid(incarnation, BigInt(timeMs)),
      () => index.segmentForTime(incarnation, timeMs),
    ]
    const start = performance.now()
    const row = await looks[i % looks.length]?.()
    times.push(performance.now() - start)
    if (row?.segment !== BigInt(at + 1))
      throw new Error(`segment ${at + 1} was not found, but ${row?.segment}`)
  }
  return times
}

/** Rows as an index has them after years: written here directly, for appending them would take days. */
async function fillIndex(file: string, { streams, segmentsEach }: Size): Promise<void> {
  const metadata = openSqliteMetadata(file, { clock: realClock(), logger: SILENT, building: true })
  for (let stream = 0; stream < streams; stream += 1) {
    const incarnation = incarnationOf(stream)
    await metadata.index.createStream({
      incarnation,
      name: nameOf(stream),
      txidMode: 'ms',
      createdMs: FIRST_MS,
      parent: null,
    })
    await metadata.adoptSegments(Array.from({ length: segmentsEach }, (_, i) => rowOf(incarnation, i)))
  }
  await metadata.close()
}

async function rebuild(bench: Bench): Promise<BenchResult[]> {
  const size = sizeOf(bench)
  const root = join(bench.directory, 'log')
  const archive = join(bench.directory, 'archive')
  const options = { ...quiet(bench), archive, system: { logger: SILENT } }
  // One record makes the archive this log's; the others get their names in it.
  {
    await using log = await openLog(root, { ...options, defaults: { keep: 'forever' } })
    await log.stream('first').append('x')
    await log.stream('first').seal()
    await log.tier.run({ until: 'settled' })
  }
  makeNames(archive, size)
  rmSync(join(root, 'index.db'))
  const start = performance.now()
  await using log = await openLog(root, options)
  const seconds = (performance.now() - start) / 1e3
  const found = await log.parts.segments.index.newestSegment(incarnationOf(size.streams - 1))
  if (found?.segment !== BigInt(size.segmentsEach)) throw new Error('the index does not have every segment')
  const segments = size.streams * size.segmentsEach
  return [
    valueAtMost(
      { name: 'index.rebuild', value: seconds, unit: 's', what: 'segments', reference: segments },
      60,
    ),
  ]
}

/** Empty files under valid names, and what names each stream: a rebuild opens no object but the newest of each. */
export function makeNames(archive: string, { streams, segmentsEach }: Size): void {
  for (let stream = 0; stream < streams; stream += 1) {
    const incarnation = incarnationOf(stream)
    const rows = Array.from({ length: segmentsEach }, (_, i) => rowOf(incarnation, i))
    mkdirSync(join(archive, (rows[0]?.object?.key ?? '').slice(0, 26)))
    for (const row of rows.slice(0, -1)) closeSync(openSync(join(archive, row.object?.key ?? ''), 'wx'))
    const newest = rows.at(-1)
    if (newest !== undefined) writeNewest(join(archive, newest.object?.key ?? ''), stream, newest)
    const control = `${(rows[0]?.object?.key ?? '').slice(0, 26)}/c0000000000001-name-0000000000000`
    const fd = openSync(join(archive, control), 'wx')
    const body = { format: 1, kind: 'name', name: nameOf(stream), txidMode: 'ms', parent: null }
    writeSync(fd, `${JSON.stringify(body)}\n`)
    closeSync(fd)
  }
}

/** The newest object of a stream says the epoch it goes on from: header, index and footer, with nothing in its block. */
function writeNewest(path: string, stream: number, row: SegmentRow): void {
  const header = encodeObjectHeader({
    ...row,
    streamName: nameOf(stream),
    txidMode: 'ms',
    sealedMs: row.sealedMs ?? 0,
    digestType: 'CRC32C',
    ledgerMetadata: new Uint8Array(0),
  })
  const blockBytes = 2_048
  const columns = { firstSequenceId: row.startSequenceId, firstTxid: row.firstTxid, lastTxid: row.lastTxid }
  const block = {
    firstEntryId: 0n,
    lastEntryId: row.lastEntryId,
    offset: header.length,
    rawBytes: blockBytes,
  }
  const footer = { headerBytes: header.length, entryCount: 100, lengthBytes: 1, recordCount: RECORDS }
  const end = encodeObjectIndex([{ ...columns, ...block, blockBytes }], {
    ...footer,
    contentDigest: row.contentDigest ?? '',
  })
  const fd = openSync(path, 'wx')
  for (const part of [header, new Uint8Array(blockBytes), end]) writeSync(fd, part)
  closeSync(fd)
}

function nameOf(stream: number): string {
  return `sensors/${stream}`
}

/** Of the streams that `makeNames` makes. */
export function incarnationOf(stream: number): string {
  return createHash('md5').update(nameOf(stream)).digest('hex')
}

function rowOf(incarnation: string, i: number): SegmentRow {
  const contentDigest = createHash('sha256').update(`${incarnation} ${i}`).digest('hex')
  const openedMs = FIRST_MS + i * SEGMENT_MS
  const known = {
    incarnation,
    segment: BigInt(i + 1),
    lastEntryId: 99n,
    lastSlot: 9n,
    recordCount: RECORDS,
    startSequenceId: BigInt(i) * RECORDS,
    firstTxid: BigInt(openedMs),
    lastTxid: BigInt(openedMs + SEGMENT_MS - 1),
    contentDigest,
  }
  const completionMs = openedMs + SEGMENT_MS - 1
  const key = encodeSegmentKey({ ...known, completionMs, indexBytes: 152, attempt: '0000000000000' })
  return {
    ...NOT_CLOSED,
    ...known,
    state: 'cold',
    epoch: 1n,
    ledgerId: null,
    openedMs,
    lengthBytes: 1 << 20,
    sealedMs: completionMs,
    object: { key, sizeBytes: 1 << 20, indexBytes: 152 },
    archivedMs: completionMs,
    evictedMs: completionMs,
  }
}

function rssMb(): number {
  return process.memoryUsage.rss() / 1e6
}
