import { bindingOf, type NameBinding, readControls, trimmedBelow } from '../archive/control-objects.js'
import { chooseSegments, type ListedSegment, listIncarnations, listSegments } from '../archive/listing.js'
import { contentDigestOf } from '../archive/object-index.js'
import { type ContentDigest, restoreDigest } from '../archive/restore-digest.js'
import { openSegmentObject, type SegmentObjectReader } from '../archive/segment-reader.js'
import { entryHeaderBytes } from '../src/format/ledger-digest.js'
import type { SegmentObjectMeta } from '../src/format/segment-object-meta.js'
import type { LedgerContext } from '../src/ledger/context.js'
import { LedgerReader } from '../src/ledger/reader.js'
import { LedgerWriter } from '../src/ledger/writer.js'
import { present } from '../src/model/assert.js'
import type { Dlsn } from '../src/model/dlsn.js'
import { StratalogError } from '../src/model/errors.js'
import { randomIncarnation } from '../src/model/incarnation.js'
import type { Quorum } from '../src/model/quorum.js'
import type { SegmentRow, StreamRow } from '../src/model/segment.js'
import type { ArchiveStore } from '../src/ports/archive-store.js'
import type { Random } from '../src/ports/random.js'
import type { SegmentIndex } from '../src/ports/segment-index.js'

/** Bytes of payloads read, written and under way at a time. */
const RESTORE_READ_BYTES = 1024 * 1024
const UNDER_WAY_MAX = 8

/** One stream as the archive has it. */
export interface RestorableStream {
  readonly incarnation: string
  readonly binding: NameBinding
  /** Where the stream begins because it was trimmed; null if it never was, and begins with segment 1. */
  readonly trimmedBelow: Dlsn | null
  /** Contiguous, ascending; empty for a stream that was named and never archived. */
  readonly segments: readonly ListedSegment[]
  readonly records: bigint
  readonly objectBytes: number
  /** Segments the archive should have between where the stream begins and its last and has not; at most 1,000. */
  readonly missing: readonly bigint[]
}

/** What a restore would do. */
export interface RestorePlan {
  readonly location: string
  readonly streams: readonly RestorableStream[]
  readonly records: bigint
  readonly segments: number
  readonly objectBytes: number
  /** Keys nobody here understands: left alone. */
  readonly foreign: readonly string[]
  /** Digest of everything above, from the names alone; what was restored must have the same. */
  readonly digest: string
}

export interface RestoreProgress {
  readonly stream: string
  readonly segment: bigint
  readonly doneRecords: bigint
  readonly doneObjectBytes: number
}

export interface RestoreReport {
  readonly streams: number
  readonly segments: number
  /** Segments that were there already from an earlier, interrupted run. */
  readonly resumed: number
  readonly records: bigint
  /** Digest of what the log now holds, read back from its stores. */
  readonly digest: string
}

/** Where a restore writes to: an open log's parts, or the simulator's. */
export interface RestoreTarget {
  readonly ledger: LedgerContext
  readonly index: SegmentIndex
  readonly random: Random
  readonly quorum: (stream: string) => Quorum
}

/** Reads an archive's names and control objects: no segment is opened. Invariant 7: the archive alone is enough. */
export async function planRestore(archive: ArchiveStore, signal?: AbortSignal): Promise<RestorePlan> {
  const streams: RestorableStream[] = []
  const foreign: string[] = []
  const note = (key: string) => foreign.push(key)
  for await (const incarnation of listIncarnations(archive, note, signal)) {
    const stream = await restorable(archive, incarnation, note, signal)
    if (stream !== null) streams.push(stream)
  }
  const bound = newestPerName(streams)
  return {
    location: archive.location,
    streams: bound,
    records: bound.reduce((sum, one) => sum + one.records, 0n),
    segments: bound.reduce((sum, one) => sum + one.segments.length, 0),
    objectBytes: bound.reduce((sum, one) => sum + one.objectBytes, 0),
    foreign,
    digest: restoreDigest(
      bound.map(({ binding, segments }) => ({
        name: binding.name,
        segments: segments.map(({ parsed }) => ({
          segment: parsed.segment,
          lastEntryId: parsed.lastEntryId,
          contentDigest: parsed.contentDigest,
        })),
        gaps: [],
      })),
    ),
  }
}

async function restorable(
  archive: ArchiveStore,
  incarnation: string,
  foreign: (key: string) => void,
  signal?: AbortSignal,
): Promise<RestorableStream | null> {
  const controls = await readControls(archive, incarnation, foreign, signal)
  const binding = bindingOf(controls)
  if (binding === null) {
    foreign(`${incarnation}: objects without a name`)
    return null
  }
  const trimmed = trimmedBelow(controls)
  const segments: ListedSegment[] = []
  for await (const choice of chooseSegments(
    listSegments(archive, incarnation, trimmed?.segment ?? 0n, foreign, signal),
  )) {
    if (choice.kind === 'conflict') throw choice.error
    segments.push(choice.chosen)
  }
  checkSequence(binding.name, segments)
  return {
    incarnation,
    binding,
    trimmedBelow: trimmed,
    segments,
    records: segments.reduce((sum, one) => sum + one.parsed.recordCount, 0n),
    objectBytes: segments.reduce((sum, one) => sum + one.sizeBytes, 0),
    missing: missingOf(segments, trimmed?.segment ?? 1n),
  }
}

/** Only a trim says that the oldest segments are not there on purpose; without one they are lost. */
function missingOf(segments: readonly ListedSegment[], first: bigint): bigint[] {
  const missing: bigint[] = []
  let expected = first
  for (const { parsed } of segments) {
    // A hole is told by its first number and the one it ends before; the list stays short whatever the hole.
    for (; expected < parsed.segment && missing.length < 1_000; expected += 1n) missing.push(expected)
    expected = parsed.segment + 1n
  }
  return missing
}

/** Sequence ids are dense: where two neighbours don't meet, one of them is of another history. */
function checkSequence(name: string, segments: readonly ListedSegment[]): void {
  for (const [at, { parsed, key }] of segments.entries()) {
    const before = segments[at - 1]?.parsed
    if (before === undefined || before.segment + 1n !== parsed.segment) continue
    const expected = before.startSequenceId + before.recordCount
    if (parsed.startSequenceId === expected) continue
    throw new StratalogError(
      'corrupt',
      `${name}: segment ${parsed.segment} begins with sequence id ${parsed.startSequenceId} and the one before it ends at ${expected}: the objects are not of one stream, restore from another copy of the archive`,
      { expected: expected.toString(), found: parsed.startSequenceId.toString(), details: { key } },
    )
  }
}

/** Of several lives of a name the one that was written last: it holds the newest completion, else the newest name. */
function newestPerName(streams: readonly RestorableStream[]): RestorableStream[] {
  const byName = new Map<string, RestorableStream>()
  const newest = (one: RestorableStream) => one.segments.at(-1)?.parsed.completionMs ?? -1
  for (const stream of streams) {
    const other = byName.get(stream.binding.name)
    if (other === undefined || newest(stream) > newest(other)) byName.set(stream.binding.name, stream)
  }
  return [...byName.values()].sort((a, b) => (a.binding.name < b.binding.name ? -1 : 1))
}

/**
 * Restores what the plan lists into a log: each stream as a new incarnation that names its parent, with equal DLSNs,
 * txids and payloads, sealed in the hot tier. Run again after an interruption it goes on behind the last whole
 * segment. Rejects with `refused` where the log has other streams of these names, `corrupt` where an object is not
 * what its name says or a segment is missing: what was restored before stays.
 */
export async function restoreInto(
  target: RestoreTarget,
  archive: ArchiveStore,
  plan: RestorePlan,
  options: { readonly signal?: AbortSignal; readonly onProgress?: (progress: RestoreProgress) => void } = {},
): Promise<RestoreReport> {
  const report = { streams: 0, segments: 0, resumed: 0, records: 0n }
  let doneObjectBytes = 0
  for (const source of plan.streams) {
    refuseHoles(plan, source)
    const stream = await targetStream(target, source)
    const newest = await target.index.newestSegment(stream.incarnation)
    for (const listed of source.segments) {
      options.signal?.throwIfAborted()
      const there = newest !== null && newest.segment >= listed.parsed.segment
      if (there) report.resumed += 1
      else await restoreSegment(target, archive, stream, listed, options.signal)
      report.segments += 1
      report.records += listed.parsed.recordCount
      doneObjectBytes += listed.sizeBytes
      options.onProgress?.({
        stream: stream.name,
        segment: listed.parsed.segment,
        doneRecords: report.records,
        doneObjectBytes,
      })
    }
    report.streams += 1
  }
  const digest = await digestOfHot(target, archive, plan.streams, options.signal)
  if (digest !== plan.digest) {
    throw new StratalogError(
      'corrupt',
      `the restored log reads back as ${digest} and the archive is ${plan.digest}: do not use it, keep the archive`,
      {
        expected: plan.digest,
        found: digest,
      },
    )
  }
  return { ...report, digest }
}

function refuseHoles(plan: RestorePlan, source: RestorableStream): void {
  if (source.missing.length === 0) return
  throw new StratalogError(
    'corrupt',
    `${source.binding.name}: segment ${source.missing.slice(0, 5).join(', ')}${source.missing.length > 5 ? ', …' : ''} is missing in ${plan.location}: put the objects back, then run the restore again`,
    { details: { missing: source.missing.map(String) } },
  )
}

async function targetStream(target: RestoreTarget, source: RestorableStream): Promise<StreamRow> {
  const { name, txidMode } = source.binding
  const there = await target.index.streamByName(name)
  if (there !== null) {
    if (there.parent?.incarnation === source.incarnation) return trimTarget(target, there, source)
    throw new StratalogError(
      'refused',
      `the log has a stream ${name} of its own: restore into an empty directory`,
      { found: name },
    )
  }
  const row = {
    incarnation: randomIncarnation(target.random),
    name,
    txidMode,
    createdMs: target.ledger.clock.nowMs(),
    parent: { incarnation: source.incarnation, fork: null },
  }
  return trimTarget(target, await target.index.createStream(row), source)
}

/**
 * The restored stream begins where its source did, and says so: else nobody could tell later that what is below was
 * ended on purpose. Before its first segment; a crash after the stream was made comes here again.
 */
async function trimTarget(
  target: RestoreTarget,
  row: StreamRow,
  source: RestorableStream,
): Promise<StreamRow> {
  const { trimmedBelow: below } = source
  if (below === null || row.trimmedBelow !== null) return row
  if ((await target.index.newestSegment(row.incarnation)) !== null) return row
  return target.index.updateStream(row.incarnation, row.version, { trimmedBelow: below })
}

/**
 * Writes one segment's entries into a new ledger, entry ids as they were, and adopts it once its content digest is
 * the one in the object's name. A crash before that leaves a ledger nobody refers to; the next run writes another.
 */
async function restoreSegment(
  target: RestoreTarget,
  archive: ArchiveStore,
  stream: StreamRow,
  listed: ListedSegment,
  signal?: AbortSignal,
): Promise<void> {
  const { key, sizeBytes, parsed } = listed
  const object = await openSegmentObject(archive, { key, sizeBytes, indexBytes: parsed.indexBytes })
  const meta = await object.header(signal)
  const ledger = await LedgerWriter.create(target.ledger, {
    quorum: target.quorum(stream.name),
    preceding: null,
    segment: {
      incarnation: stream.incarnation,
      stream: stream.name,
      segment: parsed.segment,
      epoch: 0n,
      openedMs: meta.openedMs,
      firstTxid: parsed.firstTxid,
      startSequenceId: parsed.startSequenceId,
    },
  })
  try {
    const found = await copyEntries(object, ledger, await contentDigestOf(archive, parsed, signal), signal)
    if (found !== parsed.contentDigest) {
      throw new StratalogError(
        'corrupt',
        `${key} does not hold what its name says: restore from another copy of the archive`,
        { expected: parsed.contentDigest, found },
      )
    }
  } catch (error) {
    ledger.abandon(
      error instanceof StratalogError
        ? error
        : new StratalogError('internal', 'restore was interrupted', { cause: error }),
    )
    throw error
  }
  const seal = await ledger.close()
  await target.index.adoptSegment(restoredRow(stream, listed, meta, ledger.ledgerId, seal.lengthBytes))
}

async function copyEntries(
  object: SegmentObjectReader,
  ledger: LedgerWriter,
  digest: ContentDigest,
  signal?: AbortSignal,
): Promise<string> {
  const room = entryHeaderBytes(ledger.digestType)
  const underWay: Promise<unknown>[] = []
  for (let next = 0n; next <= object.lastEntryId; ) {
    const entries = await object.readEntries(next, RESTORE_READ_BYTES, signal)
    for (const { entryId, payload } of entries) {
      digest.entry(entryId, payload)
      const buffer = Buffer.allocUnsafe(room + payload.length)
      buffer.set(payload, room)
      const written = ledger.append(buffer, payload.length)
      // The rejection is seen where it is awaited; until then it must not count as unhandled.
      written.catch(() => {})
      underWay.push(written)
    }
    next = present(entries.at(-1), 'an entry').entryId + 1n
    while (underWay.length > UNDER_WAY_MAX) await underWay.shift()
  }
  await Promise.all(underWay)
  return digest.hex()
}

function restoredRow(
  stream: StreamRow,
  listed: ListedSegment,
  meta: SegmentObjectMeta,
  ledgerId: bigint,
  lengthBytes: number,
): SegmentRow {
  const { parsed } = listed
  return {
    incarnation: stream.incarnation,
    segment: parsed.segment,
    state: 'sealed',
    epoch: 0n,
    ledgerId,
    firstTxid: parsed.firstTxid,
    startSequenceId: parsed.startSequenceId,
    openedMs: meta.openedMs,
    lastTxid: parsed.lastTxid,
    lastEntryId: parsed.lastEntryId,
    lastSlot: parsed.lastSlot,
    recordCount: parsed.recordCount,
    lengthBytes,
    sealedMs: parsed.completionMs,
    contentDigest: parsed.contentDigest,
    object: null,
    archivedMs: null,
    evictedMs: null,
    version: 0,
  }
}

/** The restore digest of streams as their hot copies read back now, entry by entry. */
async function digestOfHot(
  target: RestoreTarget,
  archive: ArchiveStore,
  sources: readonly RestorableStream[],
  signal?: AbortSignal,
): Promise<string> {
  const streams = []
  for (const { binding, segments: listed } of sources) {
    const { name } = binding
    // Digests are made as those in the names were: keyed where the object is encrypted.
    const named = new Map(listed.map(({ parsed }) => [parsed.segment, parsed]))
    const stream = present(await target.index.streamByName(name), `stream ${name}`)
    const segments = []
    for (let row = await target.index.oldestSegment(stream.incarnation); row !== null; ) {
      const object = named.get(row.segment) ?? row
      const digest = await contentDigestOf(archive, object, signal)
      segments.push({
        segment: row.segment,
        lastEntryId: row.lastEntryId,
        contentDigest: await digestOfLedger(target, row, digest, signal),
      })
      row = await target.index.segment(stream.incarnation, row.segment + 1n)
    }
    streams.push({ name, segments, gaps: [] })
  }
  return restoreDigest(streams)
}

async function digestOfLedger(
  target: RestoreTarget,
  row: SegmentRow,
  digest: ContentDigest,
  signal?: AbortSignal,
): Promise<string> {
  const reader = await LedgerReader.open(target.ledger, present(row.ledgerId, 'restored ledger'))
  for (let next = 0n; next <= row.lastEntryId; ) {
    const entries = await reader.readEntries(next, row.lastEntryId, RESTORE_READ_BYTES, signal)
    for (const { entryId, payload } of entries) digest.entry(entryId, payload)
    next = present(entries.at(-1), 'an entry').entryId + 1n
  }
  return digest.hex()
}
