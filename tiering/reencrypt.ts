import { keysOf } from '../archive/keys.js'
import { readObjectIndex } from '../archive/object-index.js'
import { openSegmentObject } from '../archive/segment-reader.js'
import { verifySegmentObject } from '../archive/segment-verify.js'
import { type EntrySource, planSegmentObject, segmentObjectBody } from '../archive/segment-writer.js'
import { currentKeyOf } from '../archive/stream-keys.js'
import { decodeSegmentKey, encodeSegmentKey } from '../src/format/archive-names.js'
import { corrupt } from '../src/format/bytes.js'
import { present } from '../src/model/assert.js'
import { StratalogError } from '../src/model/errors.js'
import type { ArchivedObject, SegmentRow, StreamRow } from '../src/model/segment.js'
import type { ArchiveStore } from '../src/ports/archive-store.js'
import type { Lease } from '../src/ports/coordination.js'
import type { TieringContext } from './context.js'
import { objectKeyOf, storageWishes } from './copy.js'
import { sealingFor } from './encryption.js'
import { confirmOwner, refuseOtherOwner } from './ownership.js'

const ROWS_PAGE = 1_000
const READ_BYTES = 1024 * 1024
/** How long the agent is waited for, which may be copying a segment of the stream. */
const LEASE_WAIT_MS = 60_000

/** What became of one segment. */
export interface ReencryptedSegment {
  readonly segment: bigint
  /** False: its object had the stream's newest key already. */
  readonly written: boolean
  readonly sizeBytes: number
}

type Context = Pick<TieringContext, 'index' | 'archive' | 'policy' | 'random' | 'coordination' | 'logId'>

/**
 * Writes the objects of a stream anew under its newest key, those in clear too. Each: read back whole, written as a new
 * attempt, read back, committed by compare-and-set. The objects before stay, as attempts that lost, until they are
 * collected: readers that have them open go on. `newKey` draws a new key first. Stopped or crashed anywhere, it goes on
 * when it is run again without `newKey`: what has the newest key already is left as it is.
 *
 * Rejects with `refused` where the policy does not encrypt the stream, `conflict` while another agent is at it.
 */
export async function* reencryptStream(
  context: Context,
  stream: StreamRow,
  options: { readonly newKey: boolean; readonly signal: AbortSignal },
): AsyncGenerator<ReencryptedSegment, void, undefined> {
  const { signal } = options
  const { encryption } = (await context.policy(stream)).policy
  if (encryption === null || context.archive === null) throw notEncrypted(stream)
  const archive = await context.archive(stream.incarnation)
  const lease = await context.coordination.acquire(`tiering/${stream.incarnation}`, {
    holder: context.logId,
    waitMs: LEASE_WAIT_MS,
    signal,
  })
  try {
    // Before the first object and the first key: nothing of ours belongs into somebody else's archive.
    await refuseOtherOwner(context, archive, signal)
    const keys = keysOf(archive)
    // Whoever finds an object from before must not need a key that only the ring of then had.
    await keys.rotate(stream.incarnation, encryption, signal)
    if (options.newKey) await keys.renew(stream.incarnation, encryption, signal)
    const newest = currentKeyOf(await keys.describe(stream.incarnation, signal))?.id ?? null
    for (let from = 0n; ; ) {
      const rows = await context.index.listSegments(stream.incarnation, from, ROWS_PAGE)
      for (const row of rows) {
        signal.throwIfAborted()
        if (row.object !== null && (row.state === 'archived' || row.state === 'cold'))
          yield await reencryptSegment(context, lease, archive, stream, row, newest, signal)
      }
      const last = rows.at(-1)
      if (last === undefined) return
      from = last.segment + 1n
    }
  } finally {
    await lease.release()
  }
}

async function reencryptSegment(
  context: Context,
  lease: Lease,
  archive: ArchiveStore,
  stream: StreamRow,
  row: SegmentRow,
  newest: string | null,
  signal: AbortSignal,
): Promise<ReencryptedSegment> {
  const { segment } = row
  const before = present(row.object, 'object')
  const { access } = await readObjectIndex(archive, before, { signal })
  if (access !== null && access.envelope.streamKeyId === newest)
    return { segment, written: false, sizeBytes: before.sizeBytes }
  const written = await writeAnew(context, archive, stream, row, before, signal)
  // Invariant 3 for agents: one that lost its lease commits nothing, nor does one whose archive was taken over. The new
  // object is an attempt that lost then.
  await confirmOwner(context, archive, signal)
  lease.lost.throwIfAborted()
  await context.index.updateSegment(row, written)
  return { segment, written: true, sizeBytes: written.object.sizeBytes }
}

/** What is read is checked against the digest in its name first: damage must not be given a new name. */
async function writeAnew(
  context: Context,
  archive: ArchiveStore,
  stream: StreamRow,
  row: SegmentRow,
  before: ArchivedObject,
  signal: AbortSignal,
): Promise<{ object: ArchivedObject; contentDigest: string }> {
  const named = decodeSegmentKey(before.key)
  if (named === null) throw corrupt(`${before.key} is not the name of an object: rebuild the index`)
  await verifySegmentObject(archive, before.key, named, { signal })
  const reader = await openSegmentObject(archive, before, undefined, { signal })
  const entries: EntrySource = {
    open: async function* (from = 0n) {
      for (let next = from; next <= reader.lastEntryId; ) {
        const batch = await reader.readEntries(next, READ_BYTES, signal)
        next = present(batch.at(-1), 'an entry').entryId + 1n
        yield batch
      }
    },
  }
  const sealing = present(
    await sealingFor(context, archive, stream, row, signal),
    'keys of an encrypted stream',
  )
  // Of a clone the object may be its parent's: the new one is its own.
  const meta = { ...(await reader.header(signal)), incarnation: row.incarnation, streamName: stream.name }
  const planned = await planSegmentObject(meta, entries, signal, undefined, sealing)
  if (named.keyId === sealing.place.keyId && planned.contentDigest !== named.contentDigest) {
    throw corrupt(`${before.key} read differently the second time: look at the archive's disk`, {
      expected: named.contentDigest,
      found: planned.contentDigest,
    })
  }
  const parsed = objectKeyOf(row, planned, sealing.place.attempt)
  const key = encodeSegmentKey(parsed)
  const storage = storageWishes((await context.policy(stream)).policy)
  await archive.putIfAbsent(key, segmentObjectBody(planned, entries), { ...storage, signal })
  await verifySegmentObject(archive, key, parsed, { signal })
  const { sizeBytes, indexBytes, contentDigest } = planned
  return { object: { key, sizeBytes, indexBytes }, contentDigest }
}

function notEncrypted(stream: StreamRow): StratalogError {
  return new StratalogError(
    'refused',
    `the policy of ${stream.name} does not encrypt it: set encryption: { ring: FILE, key: ID } in stratalog.yaml first`,
    { found: stream.name },
  )
}
