import { listSegments } from '../archive/listing.js'
import { type VerifyOptions, verifySegmentObject } from '../archive/segment-verify.js'
import {
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
import type { Policy } from '../src/model/policy.js'
import type { ArchivedObject, SegmentRow, StreamRow } from '../src/model/segment.js'
import type { ArchiveStore, ReplayableBody, StorageWishes } from '../src/ports/archive-store.js'
import type { Lease } from '../src/ports/coordination.js'
import { announceStream } from './announce.js'
import { CommitGate } from './commit-gate.js'
import type { TieringContext } from './context.js'
import { CopyCourtesy } from './copy-courtesy.js'
import type { CopyTurn } from './copy-line.js'
import { CopyRoom } from './copy-room.js'
import { sealingFor } from './encryption.js'
import { confirmOwner } from './ownership.js'
import { summarizeAfter } from './summarize.js'
import type { UploadLimits } from './upload-limits.js'

/** Bytes read from the hot tier at a time while copying. */
const COPY_READ_BYTES = 1024 * 1024
/** Objects of one segment that did not read back whole, after which no more are written. */
const ATTEMPTS_MAX = 4

/** How a copy is carried out. */
export interface CopyOptions {
  readonly signal: AbortSignal
  readonly onProgress?: (bytes: number) => void
  /** The copy is alive, though nothing is written while it keeps to its rate. */
  readonly answered?: () => void
  /** What all copies of this process keep to. */
  readonly uploads?: UploadLimits
  /** What comes before it in a line of copies; absent: nothing does. */
  readonly turn?: Pick<CopyTurn, 'stored' | 'mayCommit'>
}

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
  options: CopyOptions,
): Promise<SegmentRow> {
  assert(row.state === 'sealed', `segment ${row.segment} is ${row.state} and can't be copied`)
  const { signal, onProgress } = options
  const onMoved = () => onProgress?.(0)
  return roomOf(context).with(row.lengthBytes, { signal, onMoved }, () =>
    gateOf(context).during((ready) => copyWithRoom(context, lease, stream, row, { ...options, ready })),
  )
}

async function copyWithRoom(
  context: TieringContext,
  lease: Lease,
  stream: StreamRow,
  row: SegmentRow,
  options: CopyOptions & { readonly ready: () => void },
): Promise<SegmentRow> {
  const { signal, ready } = options
  const archive = await present(context.archive, 'archive')(stream.incarnation)
  await announceStream(context, archive, stream)
  // Also before: an object of ours in somebody else's archive would look like history that went on.
  await confirmOwner(context, archive, signal)
  const giveWay = courtesyOf(context).turns(signal)
  const verify = { ...options, giveWay }
  const { object, parsed, verified } = await stored(context, archive, stream, row, verify)
  options.turn?.stored()
  if (!verified) await verifySegmentObject(archive, object.key, parsed, verify)
  ready()
  // Invariant 5: what is archived has no hole, so the segment before it is committed first.
  await options.turn?.mayCommit()
  // A crash while it waits is one before the commit. All that go on together look together whose archive it is, and
  // change their rows in one turn, which is one transaction (`WriteGroup`).
  await gateOf(context).pass(row.lengthBytes, signal)
  signal.throwIfAborted()
  // Invariant 3 for agents: one that lost its lease commits nothing, nor does one whose archive was taken over.
  await confirmOwner(context, archive, signal)
  lease.lost.throwIfAborted()
  const archived = await context.index.updateSegment(row, {
    state: 'archived',
    contentDigest: parsed.contentDigest,
    object,
    archivedMs: context.ledger.clock.nowMs(),
  })
  await summarizeAfter(context, archive, archived, signal)
  return archived
}

/** How a copy is carried out, with what is awaited before each run of entries and each block. */
type Careful = CopyOptions & { readonly giveWay: () => Promise<void> }

/** Sees to it that an object of the segment is in the archive; nothing of it is left in memory then. */
async function stored(
  context: TieringContext,
  archive: ArchiveStore,
  stream: StreamRow,
  row: SegmentRow,
  options: Careful,
): Promise<StoredObject> {
  const { signal, giveWay } = options
  const { budget } = roomOf(context)
  const entries = inTurns(await hotEntries(context, row, signal), giveWay)
  const sealing = await sealingFor(context, archive, stream, row, signal)
  const meta = await objectMeta(context, stream, row)
  const planned = await planSegmentObject(meta, entries, signal, budget, sealing)
  try {
    const before = await storedBefore(archive, row, planned, options)
    if (before !== null) return before
    return await store(
      context,
      archive,
      row,
      planned,
      await uploadOf(context, stream, planned, entries, options),
      options,
    )
  } finally {
    releasePlanned(planned, budget)
  }
}

const courtesies = new WeakMap<TieringContext, CopyCourtesy>()

/** One for each log, as the room is: what copies rest for is what all of them worked. */
function courtesyOf(context: TieringContext): CopyCourtesy {
  const known = courtesies.get(context)
  if (known !== undefined) return known
  const courtesy = new CopyCourtesy(context.ledger.clock, context.appendsWait ?? (() => false))
  courtesies.set(context, courtesy)
  return courtesy
}

const rooms = new WeakMap<TieringContext, CopyRoom>()

/** One for each log: however many segments are copied side by side, they share it. */
function roomOf(context: TieringContext): CopyRoom {
  const room = rooms.get(context) ?? new CopyRoom()
  rooms.set(context, room)
  return room
}

const gates = new WeakMap<TieringContext, CommitGate>()

/** One for each log: copies of all its streams are committed in the same file. */
function gateOf(context: TieringContext): CommitGate {
  const gate = gates.get(context) ?? new CommitGate(context.ledger.clock)
  gates.set(context, gate)
  return gate
}

/** What goes to the archive, and what is asked of it for the object. */
interface Upload {
  readonly body: ReplayableBody
  readonly storage: StorageWishes
}

/** The object's bytes at the rate of the stream's policy, and the storage that policy asks for. */
async function uploadOf(
  context: TieringContext,
  stream: StreamRow,
  planned: PlannedObject,
  entries: EntrySource,
  { uploads, signal, answered }: CopyOptions,
): Promise<Upload> {
  const policy = await context.policy(stream)
  const body = segmentObjectBody(planned, entries)
  return {
    body: uploads?.limited(body, stream, policy, signal, answered) ?? body,
    storage: storageWishes(policy.policy),
  }
}

/** What a policy asks of the archive for an object. */
export function storageWishes({ storage }: Policy): StorageWishes {
  const { class: storageClass, kmsKey, tags } = storage
  return {
    ...(storageClass === null ? {} : { storageClass }),
    ...(kmsKey === null ? {} : { kmsKey }),
    ...(Object.keys(tags).length === 0 ? {} : { tags }),
  }
}

/** An object of the segment that is in the archive. */
interface StoredObject {
  readonly object: ArchivedObject
  readonly parsed: SegmentKey
  /** Whether every byte of it was read back. */
  readonly verified: boolean
}

/** Writes the object under a name of its own; nothing is read back yet. */
async function store(
  context: TieringContext,
  archive: ArchiveStore,
  row: SegmentRow,
  planned: PlannedObject,
  upload: Upload,
  { signal, onProgress }: CopyOptions,
): Promise<StoredObject> {
  const parsed = objectKeyOf(row, planned, attemptOf(context.random.bytes(ATTEMPT_BYTES)))
  const key = encodeSegmentKey(parsed)
  const body = heard(upload.body, () => onProgress?.(0))
  await archive.putIfAbsent(key, body, { ...upload.storage, signal })
  const object = { key, sizeBytes: planned.sizeBytes, indexBytes: parsed.indexBytes }
  return { object, parsed, verified: false }
}

/**
 * The object an earlier try stored and did not commit, if it reads back whole: any object that decodes to the digest
 * *is* the segment. So a try that fails again and again does not fill the archive with attempts.
 */
async function storedBefore(
  archive: ArchiveStore,
  row: SegmentRow,
  planned: PlannedObject,
  verify: CopyOptions & VerifyOptions,
): Promise<StoredObject | null> {
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
      return { object: { key, sizeBytes, indexBytes: parsed.indexBytes }, parsed, verified: true }
    } catch (error) {
      // A bit that flipped in its version makes an object of ours look like a newer one: no use either way, and it stays.
      if (!isStratalogError(error, 'corrupt') && !isStratalogError(error, 'version_unsupported')) throw error
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

/** Says of each piece that it went: an upload that is kept slow on purpose is not one that hangs. */
function heard(body: ReplayableBody, went: () => void): ReplayableBody {
  return {
    sizeBytes: body.sizeBytes,
    async *open() {
      for await (const chunk of body.open()) {
        yield chunk
        went()
      }
    },
  }
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
  context: Pick<TieringContext, 'ledger'>,
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

/** Gives way before each run of entries. */
function inTurns(entries: EntrySource, giveWay: () => Promise<void>): EntrySource {
  return {
    async *open(from) {
      for await (const run of entries.open(from)) {
        await giveWay()
        yield run
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
