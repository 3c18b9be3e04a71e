import type { ColdReads } from '../../archive/cold-reads.js'
import type { SegmentObjectReader } from '../../archive/segment-reader.js'
import { present } from '../model/assert.js'
import type { ExplainedSegment, ReadBound, ReadExplanation } from '../model/control-read.js'
import { Dlsn } from '../model/dlsn.js'
import { isStratalogError } from '../model/errors.js'
import { isClosed, isHot, type SegmentRow, type StreamRow } from '../model/segment.js'
import { formatTime } from '../model/units.js'
import { checkInRange } from './bounds.js'
import { ColdSource } from './cold.js'
import type { ReadContext, ReadRange } from './context.js'
import { endOfStream, recordsBefore } from './counting.js'
import { locate } from './locate.js'
import { locating } from './open-source.js'
import type { SegmentSource } from './source.js'

/** Rows looked up at a time, and segments told one by one. */
const PAGE = 1_000

/** What an explanation needs beside what reads do. */
export interface ExplainContext {
  readonly read: ReadContext
  /** Null: there is no archive. */
  readonly cold: ColdReads | null
  readonly archiveLocation: string | null
  readonly coldReadBytesPerSecond: number | null
  /** Since when a segment is waited for until its object can be read; null: it is not. */
  readonly thawingSince?: (row: SegmentRow) => Promise<number | null>
}

interface Sums {
  wantedBytes: number
  fetchedBytes: number
  requests: number
  gaps: number
  /** Objects that can't be read at once, as far as that is known. */
  thaws: number
  /** Records of the segments that are not to be had. */
  lost: bigint
}

/**
 * What reading a range would take, without reading it: at most the block indexes of the first and last segment and the
 * blocks its ends lie in are fetched. Never changes anything.
 */
export async function explainRead(
  context: ExplainContext,
  stream: StreamRow,
  range: ReadRange,
): Promise<ReadExplanation> {
  const { read } = context
  const around = locating(read, range.signal)
  const start = range.after ?? range.from ?? 'earliest'
  const from = await locate(around, stream, start, range.after !== undefined)
  await checkInRange(read, stream, start, from, false)
  const end = await locate(around, stream, 'latest', false)
  const asked = range.until === undefined ? end : await locate(around, stream, range.until, false)
  const until = asked.compare(end) > 0 ? end : asked
  const sums: Sums = { wantedBytes: 0, fetchedBytes: 0, requests: 0, gaps: 0, thaws: 0, lost: 0n }
  const segments: ExplainedSegment[] = []
  let more = 0
  let first: ExplainedSegment | null = null
  for await (const row of rowsBetween(read, stream, from, until)) {
    const explained = await explainSegment(context, row, from, until)
    add(sums, explained)
    // One that the range ends in is not counted in the first place.
    if (explained.tier === 'gap' || explained.tier === 'trimmed')
      sums.lost += row.segment < until.segment ? row.recordCount : 0n
    first ??= explained.records === '0' ? null : explained
    if (segments.length < PAGE) segments.push(explained)
    else more += 1
  }
  const counted = await countBetween(read, stream, from, until)
  return {
    stream: stream.name,
    from: from.toString(),
    until: until.toString(),
    records: (counted > sums.lost ? counted - sums.lost : 0n).toString(),
    exact: sums.gaps === 0,
    wantedBytes: sums.wantedBytes,
    fetchedBytes: sums.fetchedBytes,
    requests: sums.requests,
    segments,
    more,
    gaps: sums.gaps,
    thaws: sums.thaws,
    firstRecordRequests: first === null ? 0 : first.indexRequests + Math.min(1, first.blockRequests),
    bound: segments.some((one) => one.tier === 'cold' || one.tier === 'cached') ? boundOf(context) : null,
  }
}

function add(sums: Sums, one: ExplainedSegment): void {
  sums.wantedBytes += one.wantedBytes
  sums.fetchedBytes += one.fetchedBytes
  sums.requests += one.indexRequests + one.blockRequests
  if (one.tier === 'gap' || one.tier === 'trimmed') sums.gaps += 1
  if (one.thaw !== undefined) sums.thaws += 1
}

function boundOf({ cold, coldReadBytesPerSecond }: ExplainContext): ReadBound {
  const { connections, bytesPerSecond } = present(cold, 'cold reads').state
  return { connections, bytesPerSecond: Math.round(bytesPerSecond), coldReadBytesPerSecond }
}

async function* rowsBetween(
  { index }: ReadContext,
  { incarnation }: StreamRow,
  from: Dlsn,
  until: Dlsn,
): AsyncGenerator<SegmentRow, void, undefined> {
  for (let next = from.segment; ; ) {
    const rows = await index.listSegments(incarnation, next, PAGE)
    for (const row of rows) {
      if (until.compare(new Dlsn(row.segment, 0n, 0n)) <= 0) return
      yield row
    }
    const last = rows.at(-1)
    if (last === undefined || rows.length < PAGE) return
    next = last.segment + 1n
  }
}

/** sequenceIds are dense: the records between two positions are their difference. */
async function countBetween(read: ReadContext, stream: StreamRow, from: Dlsn, until: Dlsn): Promise<bigint> {
  const [first, last] = await Promise.all([
    recordsBefore(read, stream, from),
    recordsBefore(read, stream, until),
  ])
  return last > first ? last - first : 0n
}

const NOTHING = {
  fromBytes: 0,
  untilBytes: 0,
  ofBytes: 0,
  wantedBytes: 0,
  fetchedBytes: 0,
  indexRequests: 0,
  blockRequests: 0,
}

async function explainSegment(
  context: ExplainContext,
  row: SegmentRow,
  from: Dlsn,
  until: Dlsn,
): Promise<ExplainedSegment> {
  const segment = row.segment.toString()
  if (row.state === 'gap' || row.state === 'trimmed') {
    return { ...NOTHING, segment, tier: row.state, where: '', records: '0', note: 'not to be had' }
  }
  const firstEntry = from.segment === row.segment ? from.entry : 0n
  const beyond = until.segment === row.segment ? until.entry + (until.slot > 0n ? 1n : 0n) : null
  const records = isClosed(row.state) ? row.recordCount.toString() : '0'
  if (isHot(row)) return { segment, records, ...(await explainHot(context, row, firstEntry, beyond)) }
  return { segment, records, ...(await explainCold(context, row, firstEntry, beyond)) }
}

type Explained = Omit<ExplainedSegment, 'segment' | 'records'>

/** Entries are taken to be of one size: their true ones are known to their stores only. */
async function explainHot(
  { read }: ExplainContext,
  row: SegmentRow,
  firstEntry: bigint,
  beyond: bigint | null,
): Promise<Explained> {
  const closed = isClosed(row.state)
  const ofBytes = closed ? row.lengthBytes : await openBytes(read, row)
  const entries = Number(closed ? row.lastEntryId + 1n : (await endOfStream(read, row)) + 1n)
  const at = (entry: bigint) =>
    entries === 0 ? 0 : Math.round((ofBytes * Math.min(Number(entry), entries)) / entries)
  const fromBytes = at(firstEntry)
  const untilBytes = beyond === null ? ofBytes : at(beyond)
  const bytes = Math.max(0, untilBytes - fromBytes)
  const both = row.object !== null
  return {
    ...NOTHING,
    tier: closed ? (both ? 'both' : 'hot') : 'open',
    where: `hot ledger ${row.ledgerId}`,
    fromBytes,
    untilBytes,
    ofBytes,
    wantedBytes: bytes,
    fetchedBytes: bytes,
    note: both ? 'hot preferred' : '',
  }
}

/** Payload bytes of an open segment so far. */
async function openBytes(read: ReadContext, row: SegmentRow): Promise<number> {
  const source = await read.openHot(row)
  const last = await source.lastEntry()
  if (last < 0n) return 0
  const [entry] = await source.readEntries(last, last, 1)
  // The hot copy's entries say how long their ledger is up to them.
  const length = entry !== undefined && 'lengthBytes' in entry ? (entry.lengthBytes as bigint) : 0n
  return Number(length)
}

/** The object is closed again at once: whoever reads has all of the memory for reading ahead. */
async function explainCold(
  context: ExplainContext,
  row: SegmentRow,
  firstEntry: bigint,
  beyond: bigint | null,
): Promise<Explained> {
  const object = present(row.object, 'object of a cold segment')
  const { cold, read, archiveLocation } = context
  const known = cold?.knows(object) ?? false
  const where = `${archiveLocation ?? ''}/${object.key}`
  const whole = firstEntry === 0n && beyond === null
  const sinceMs = await context.thawingSince?.(row)
  if (sinceMs !== undefined && sinceMs !== null)
    return { ...explainUnopened(row, where, cold?.requestBytes ?? 1), ...frozen(sinceMs) }
  if (whole && !known) return explainUnopened(row, where, cold?.requestBytes ?? 1)
  let source: SegmentSource
  try {
    source = await read.openCold(row)
  } catch (error) {
    if (!isStratalogError(error, 'thawing')) throw error
    return { ...explainUnopened(row, where, cold?.requestBytes ?? 1), ...frozen(null) }
  }
  try {
    if (!(source instanceof ColdSource)) return explainUnopened(row, where, 1)
    return explainBlocks(source.object, { row, where, known, firstEntry, beyond })
  } finally {
    source.close?.()
  }
}

/** Why it can't be read at once. Asking the archive would begin to thaw it, and cost: only what is known is told. */
function frozen(sinceMs: number | null): Pick<ExplainedSegment, 'thaw' | 'note'> {
  return sinceMs === null
    ? { thaw: { sinceMs: null }, note: 'must be thawed: recall it' }
    : { thaw: { sinceMs }, note: `thawing since ${formatTime(sinceMs)}` }
}

/** A segment that is read whole: how many blocks it has makes no difference. */
function explainUnopened(row: SegmentRow, where: string, requestBytes: number): Explained {
  const { sizeBytes, indexBytes } = present(row.object, 'object of a cold segment')
  return {
    tier: 'cold',
    where,
    fromBytes: 0,
    untilBytes: sizeBytes,
    ofBytes: sizeBytes,
    wantedBytes: row.lengthBytes,
    fetchedBytes: sizeBytes,
    indexRequests: 1,
    blockRequests: Math.max(1, Math.ceil((sizeBytes - indexBytes) / requestBytes)),
    note: '',
  }
}

interface ColdRange {
  readonly row: SegmentRow
  readonly where: string
  readonly known: boolean
  readonly firstEntry: bigint
  readonly beyond: bigint | null
}

function explainBlocks(object: SegmentObjectReader, range: ColdRange): Explained {
  const { row, where, known, firstEntry, beyond } = range
  const { sizeBytes, indexBytes } = present(row.object, 'object of a cold segment')
  const { blocks } = object
  const first = object.blockOf(firstEntry)
  const last = Math.min(beyond === null ? blocks.length - 1 : object.blockOf(beyond - 1n), blocks.length - 1)
  const indexRequests = known ? 0 : 1
  const none = { ...NOTHING, where, tier: 'cold' as const, ofBytes: sizeBytes, indexRequests }
  if (first > last || (beyond !== null && beyond <= firstEntry)) return { ...none, note: 'no record of it' }
  const costs = object.costOf(first, last)
  const [head, tail] = [present(blocks[first], 'first block'), present(blocks[last], 'last block')]
  const wanted = blocks.slice(first, last + 1).reduce((sum, block) => sum + block.rawBytes, 0)
  const before = Number(firstEntry - head.firstEntryId) * perEntry(head)
  const after = beyond === null ? 0 : Number(tail.lastEntryId + 1n - beyond) * perEntry(tail)
  const notes = [
    before > 0 ? 'begins within its first block' : '',
    after > 0 ? 'ends within its last block' : '',
  ]
  const cached = costs.requests === 0
  return {
    tier: cached ? 'cached' : 'cold',
    where,
    fromBytes: head.offset,
    untilBytes: tail.offset + tail.blockBytes,
    ofBytes: sizeBytes,
    wantedBytes: Math.max(0, Math.round(wanted - before - after)),
    fetchedBytes: costs.storedBytes + indexRequests * indexBytes,
    indexRequests,
    blockRequests: costs.requests,
    note: cached ? 'all of it is here' : notes.filter((note) => note !== '').join(', '),
  }
}

function perEntry(block: { firstEntryId: bigint; lastEntryId: bigint; rawBytes: number }): number {
  return block.rawBytes / Number(block.lastEntryId - block.firstEntryId + 1n)
}
