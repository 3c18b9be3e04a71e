import { contentDigestOf } from '../archive/object-index.js'
import { type ContentDigest, restoreDigest } from '../archive/restore-digest.js'
import { decodeSegmentKey, haveOneDigestKey } from '../src/format/archive-names.js'
import { LedgerReader } from '../src/ledger/reader.js'
import { present } from '../src/model/assert.js'
import { StratalogError } from '../src/model/errors.js'
import { isHot, type SegmentRow, type StreamRow } from '../src/model/segment.js'
import type { ArchiveStore } from '../src/ports/archive-store.js'
import { add } from './restore-gaps.js'
import { digested } from './restore-plan.js'
import type { RestorableSegment, RestorableStream, RestoreGap, RestoreTarget } from './restore-types.js'

/** Bytes of payloads read at a time. */
const READ_BYTES = 1024 * 1024

/** What became of one stream of the plan. */
export interface RestoredStreamReport {
  readonly name: string
  readonly segments: readonly RestorableSegment[]
  readonly gaps: readonly RestoreGap[]
  readonly records: bigint
}

/**
 * Reads a restored stream back, entry by entry, and compares it with the plan: a segment is what its object was, or a
 * gap. Rejects with `corrupt` where it is neither.
 */
export async function readBack(
  target: RestoreTarget,
  archive: ArchiveStore,
  stream: StreamRow,
  source: RestorableStream,
  signal?: AbortSignal,
): Promise<RestoredStreamReport> {
  const segments: RestorableSegment[] = []
  const gaps: RestoreGap[] = []
  const planned = [
    ...source.segments.map((one) => ({ at: one.restored.segment, one, gap: null })),
    ...source.gaps.flatMap((gap) => numbers(gap).map((at) => ({ at, one: null, gap }))),
  ].sort((a, b) => (a.at < b.at ? -1 : 1))
  for (const { at, one, gap } of planned) {
    const row = present(await target.index.segment(stream.incarnation, at), `restored segment ${at}`)
    if (row.state === 'gap') add(gaps, { ...(gap ?? damaged(at)), first: at, last: at })
    else if (one === null) throw differs(stream.name, row, 'a gap', row.state)
    else {
      await compare(target, archive, stream, row, one, signal)
      segments.push(one)
    }
  }
  const records = segments.reduce((sum, { restored }) => sum + restored.recordCount, 0n)
  return { name: stream.name, segments, gaps, records }
}

/** One value for all that was restored. */
export function digestOfRestored(streams: readonly RestoredStreamReport[]): string {
  return restoreDigest(streams.map(digested))
}

function numbers({ first, last }: RestoreGap): bigint[] {
  return Array.from({ length: Number(last - first) + 1 }, (_, at) => first + BigInt(at))
}

function damaged(segment: bigint): RestoreGap {
  const why = 'no object of it was whole when it was restored; to try again, restore into an empty directory'
  return { first: segment, last: segment, reason: 'corrupt', why, committed: false }
}

async function compare(
  target: RestoreTarget,
  archive: ArchiveStore,
  stream: StreamRow,
  row: SegmentRow,
  { restored }: RestorableSegment,
  signal?: AbortSignal,
): Promise<void> {
  // One that was restored before and has been evicted since was compared when it was copied to its archive; what was
  // encrypted on the way there has a digest under another key, and is not compared with this one.
  const there = decodeSegmentKey(row.object?.key ?? '')
  const found = isHot(row)
    ? await digestOfLedger(target, row, await contentDigestOf(archive, restored, signal), signal)
    : there === null || haveOneDigestKey(there, restored)
      ? row.contentDigest
      : restored.contentDigest
  if (found !== restored.contentDigest || row.lastEntryId !== restored.lastEntryId)
    throw differs(stream.name, row, restored.contentDigest, found)
}

function differs(name: string, row: SegmentRow, expected: string, found: unknown): StratalogError {
  return new StratalogError(
    'corrupt',
    `${name}, segment ${row.segment}: what was restored reads back as ${found} and the archive has ${expected}: do not use it, keep the archive`,
    { expected, found },
  )
}

async function digestOfLedger(
  target: RestoreTarget,
  row: SegmentRow,
  digest: ContentDigest,
  signal?: AbortSignal,
): Promise<string> {
  const reader = await LedgerReader.open(target.ledger, present(row.ledgerId, 'restored ledger'))
  const last = await reader.lastConfirmed()
  for (let next = 0n; next <= last; ) {
    const entries = await reader.readEntries(next, last, READ_BYTES, signal)
    for (const { entryId, payload } of entries) digest.entry(entryId, payload)
    next = present(entries.at(-1), 'an entry').entryId + 1n
  }
  return digest.hex()
}
