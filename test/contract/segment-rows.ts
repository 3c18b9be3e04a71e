import type { Incarnation, SegmentRow, StreamRow } from '../../src/model/segment.js'
import type { NewStream, SegmentIndex, SegmentPatch } from '../../src/ports/segment-index.js'

let drawn = 0

/** A fresh incarnation: 32 hexadecimal digits, never twice in a process. */
export function newIncarnation(): Incarnation {
  drawn += 1
  return `${process.pid.toString(16).padStart(8, '0')}${drawn.toString(16).padStart(24, '0')}`
}

/** What a new stream is told; `name` is made unique where `unique` is asked for. */
export function newStream(name: string, over: Partial<NewStream> = {}): NewStream {
  return {
    incarnation: newIncarnation(),
    name,
    txidMode: 'ms',
    createdMs: 1_700_000_000_000,
    parent: null,
    ...over,
  }
}

/** An open segment as a writer begins it. */
export function openRow(
  incarnation: Incarnation,
  segment: bigint,
  over: Partial<SegmentRow> = {},
): SegmentRow {
  return {
    incarnation,
    segment,
    state: 'open',
    epoch: 1n,
    ledgerId: 1000n + segment,
    firstTxid: -1n,
    startSequenceId: 0n,
    openedMs: 1_700_000_000_000,
    lastTxid: -1n,
    lastEntryId: -1n,
    lastSlot: -1n,
    recordCount: 0n,
    lengthBytes: 0,
    sealedMs: null,
    contentDigest: null,
    object: null,
    archivedMs: null,
    evictedMs: null,
    recalledUntilMs: null,
    version: 0,
    ...over,
  }
}

/** A sealed segment of 10 records: sequenceIds 10(n−1)…10n−1, txids 100n…100n+9, completed at 1000n. */
export function sealedRow(
  incarnation: Incarnation,
  segment: bigint,
  over: Partial<SegmentRow> = {},
): SegmentRow {
  return openRow(incarnation, segment, { ...sealing(segment), state: 'sealed', ...over })
}

/** The patch that seals segment n as {@link sealedRow} has it. */
export function sealing(segment: bigint): SegmentPatch & { readonly state: 'sealed' } {
  return {
    state: 'sealed',
    firstTxid: segment * 100n,
    lastTxid: segment * 100n + 9n,
    startSequenceId: (segment - 1n) * 10n,
    recordCount: 10n,
    lastEntryId: 4n,
    lastSlot: 1n,
    lengthBytes: 1_000,
    sealedMs: Number(segment) * 1_000,
  }
}

/** The patch that commits a segment's copy. */
export function archiving(segment: bigint): SegmentPatch & { readonly state: 'archived' } {
  return {
    state: 'archived',
    contentDigest: 'ab'.repeat(32),
    object: { key: `key-of-${segment}`, sizeBytes: 700, indexBytes: 60 },
    archivedMs: Number(segment) * 1_000 + 500,
  }
}

/** A stream with epoch 1, so that segments can begin. */
export async function writableStream(
  index: SegmentIndex,
  name: string,
  over: Partial<NewStream> = {},
): Promise<StreamRow> {
  const stream = await index.createStream(newStream(name, over))
  return index.updateStream(stream.incarnation, stream.version, { epoch: 1n })
}

/** Begins and seals segments 1…count. */
export async function sealedSegments(
  index: SegmentIndex,
  incarnation: Incarnation,
  count: number,
): Promise<SegmentRow[]> {
  const rows: SegmentRow[] = []
  for (let segment = 1n; segment <= BigInt(count); segment++) {
    const begun = await index.beginSegment(openRow(incarnation, segment))
    rows.push(await index.updateSegment(begun, sealing(segment)))
  }
  return rows
}
