import { listSegments } from '../archive/listing.js'
import { type VerifyOptions, verifySegmentObject } from '../archive/segment-verify.js'
import {
  BlockBudget,
  type EntrySource,
  type PlannedObject,
  planSegmentObject,
  releasePlanned,
  segmentObjectBody,
} from '../archive/segment-writer.js'
import { ATTEMPT_BYTES, attemptOf, encodeSegmentKey, type SegmentKey } from '../src/format/archive-names.js'
import { encodeLedgerMetadata } from '../src/format/ledger-metadata.js'
import type { SegmentObjectMeta } from '../src/format/segment-object-meta.js'
import { LedgerReader } from '../src/ledger/reader.js'
import { assert, present } from '../src/model/assert.js'
import { isStratalogError, StratalogError } from '../src/model/errors.js'
import type { ArchivedObject, SegmentRow, StreamRow } from '../src/model/segment.js'
import type { ArchiveStore } from '../src/ports/archive-store.js'
import type { Lease } from '../src/ports/coordination.js'
import { announceStream } from './announce.js'
import type { TieringContext } from './context.js'
import { sealingFor } from './encryption.js'

/** Bytes read from the hot tier at a time while copying. */
const COPY_READ_BYTES = 1024 * 1024
/** Blocks that all copies of a process keep between their two passes: a segment of 64 MiB that LZ4 halves. */
const KEPT_BYTES_MAX = 32 * 1024 * 1024
/** Objects of one segment that did not read back whole, after which no more are written. */
const ATTEMPTS_MAX = 4

/**
 * Copies a sealed segment into the archive: read (each digest checked) → object under a name of its own → every byte
 * read back → committed in the index by compare-and-set. Invariants 4 to 6.
 *
 * A crash before the commit leaves an object nobody committed: the next try reads it back and commits it, or writes
 * another one under a new random attempt id where it is not whole. A crash after it leaves nothing to do.
 */
export async function copySegment(
  context: TieringContext,
  lease: Lease,
  stream: StreamRow,
  row: SegmentRow,
  options: { readonly signal: AbortSignal; readonly onProgress?: (bytes: number) => void },
): Promise<SegmentRow> {
  assert(row.state === 'sealed', `segment ${row.segment} is ${row.state} and can't be copied`)
  const { signal } = options
  const archive = await present(context.archive, 'archive')()
  await announceStream(context, archive, stream)
  const entries = await hotEntries(context, row, signal)
  const budget = budgetOf(context)
  const sealing = await sealingFor(context, archive, stream, row, signal)
  const meta = await objectMeta(context, stream, row)
  const planned = await planSegmentObject(meta, entries, signal, budget, sealing)
  const verify = {
    signal,
    ...(options.onProgress === undefined ? {} : { onProgress: options.onProgress }),
  }
  let object: ArchivedObject
  try {
    object =
      (await storedBefore(archive, row, planned, verify)) ??
      (await store(context, archive, row, planned, entries, verify))
  } finally {
    releasePlanned(planned, budget)
  }
  // Invariant 3 for agents: one that lost its lease commits nothing.
  lease.lost.throwIfAborted()
  return context.index.updateSegment(row, {
    state: 'archived',
    contentDigest: planned.contentDigest,
    object,
    archivedMs: context.ledger.clock.nowMs(),
  })
}

const budgets = new WeakMap<TieringContext, BlockBudget>()

/** One for each log: however many segments are copied side by side, they share it. */
function budgetOf(context: TieringContext): BlockBudget {
  const budget = budgets.get(context) ?? new BlockBudget(KEPT_BYTES_MAX)
  budgets.set(context, budget)
  return budget
}

/** Writes the object under a name of its own and reads every byte back. */
async function store(
  context: TieringContext,
  archive: ArchiveStore,
  row: SegmentRow,
  planned: PlannedObject,
  entries: EntrySource,
  verify: VerifyOptions & { readonly signal: AbortSignal },
): Promise<ArchivedObject> {
  const parsed = objectKeyOf(row, planned, attemptOf(context.random.bytes(ATTEMPT_BYTES)))
  const key = encodeSegmentKey(parsed)
  await archive.putIfAbsent(key, segmentObjectBody(planned, entries), { signal: verify.signal })
  await verifySegmentObject(archive, key, parsed, verify)
  return { key, sizeBytes: planned.sizeBytes, indexBytes: parsed.indexBytes }
}

/**
 * The object an earlier try stored and did not commit, if it reads back whole: any object that decodes to the digest
 * *is* the segment. So a try that fails again and again does not fill the archive with attempts.
 */
async function storedBefore(
  archive: ArchiveStore,
  row: SegmentRow,
  planned: PlannedObject,
  verify: VerifyOptions & { readonly signal: AbortSignal },
): Promise<ArchivedObject | null> {
  let bad = 0
  for await (const { key, sizeBytes, parsed } of listSegments(
    archive,
    row.incarnation,
    row.segment,
    undefined,
    verify.signal,
  )) {
    if (parsed.segment !== row.segment) break
    if (parsed.contentDigest !== planned.contentDigest || parsed.indexBytes !== planned.indexBytes) continue
    try {
      await verifySegmentObject(archive, key, parsed, verify)
      return { key, sizeBytes, indexBytes: parsed.indexBytes }
    } catch (error) {
      if (!isStratalogError(error, 'corrupt')) throw error
      bad += 1
    }
  }
  if (bad < ATTEMPTS_MAX) return null
  throw new StratalogError(
    'corrupt',
    `${bad} copies of segment ${row.segment} in ${archive.location} do not read back as they were written: check the archive's disk`,
    {
      found: bad,
    },
  )
}

/** The key of a planned object. An encrypted one belongs to the attempt that its keys were made for. */
export function objectKeyOf(row: SegmentRow, planned: PlannedObject, attempt: string): SegmentKey {
  const sealed = planned.sealing?.place
  return {
    incarnation: row.incarnation,
    segment: row.segment,
    lastEntryId: row.lastEntryId,
    lastSlot: row.lastSlot,
    recordCount: row.recordCount,
    startSequenceId: row.startSequenceId,
    firstTxid: row.firstTxid,
    lastTxid: row.lastTxid,
    completionMs: present(row.sealedMs, 'completion time'),
    indexBytes: planned.indexBytes,
    contentDigest: planned.contentDigest,
    attempt: sealed?.attempt ?? attempt,
    ...(sealed === undefined ? {} : { keyId: sealed.keyId }),
  }
}

/** The entries of the hot copy, to be read as often as it takes; each digest is checked by the ledger reader. */
export async function hotEntries(
  context: TieringContext,
  row: SegmentRow,
  signal: AbortSignal,
): Promise<EntrySource> {
  const reader = await LedgerReader.open(context.ledger, present(row.ledgerId, 'hot copy'))
  const read = (from: bigint) => {
    if (from > row.lastEntryId) return null
    const entries = reader.readEntries(from, row.lastEntryId, COPY_READ_BYTES, signal)
    // It is awaited one turn later; who stops before that has an error of its own to tell.
    entries.catch(() => undefined)
    return entries
  }
  return {
    open: async function* (from = 0n) {
      // The next entries are read while these are compressed and hashed.
      for (let next = read(from); next !== null; ) {
        const entries = await next
        signal.throwIfAborted()
        next = read(present(entries.at(-1), 'an entry').entryId + 1n)
        yield entries
      }
    },
  }
}

async function objectMeta(
  context: TieringContext,
  stream: StreamRow,
  row: SegmentRow,
): Promise<SegmentObjectMeta> {
  const { metadata } = await context.ledger.metadata.read(present(row.ledgerId, 'hot copy'))
  return {
    incarnation: row.incarnation,
    streamName: stream.name,
    txidMode: stream.txidMode,
    segment: row.segment,
    epoch: row.epoch,
    openedMs: row.openedMs,
    sealedMs: present(row.sealedMs, 'completion time'),
    firstTxid: row.firstTxid,
    lastTxid: row.lastTxid,
    startSequenceId: row.startSequenceId,
    recordCount: row.recordCount,
    lastEntryId: row.lastEntryId,
    lastSlot: row.lastSlot,
    lengthBytes: row.lengthBytes,
    digestType: metadata.digestType,
    // A ledger's password is kept in clear: it never leaves for the archive.
    ledgerMetadata: encodeLedgerMetadata({ ...metadata, password: new Uint8Array(0) }),
  }
}
