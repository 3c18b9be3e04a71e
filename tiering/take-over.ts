import { OWN_ARCHIVES_FACT, ownArchiveOf } from '../archive/bindings.js'
import {
  ARCHIVE_OWNER_FACT,
  type ArchiveOwner,
  listOwners,
  putControl,
  wasAnothers,
} from '../archive/control-objects.js'
import { isStratalogError, StratalogError } from '../src/model/errors.js'
import type { SegmentRow } from '../src/model/segment.js'
import type { ArchiveStore } from '../src/ports/archive-store.js'
import type { SegmentIndex } from '../src/ports/segment-index.js'
import { rowsOf, streamsOf } from './all-rows.js'
import { ARCHIVE_GENERATION_FACT, noteRestoredGap, ONLY_ATTEMPT } from './announce.js'
import type { TieringContext } from './context.js'
import { hotEntries } from './copy.js'
import { releaseLedger } from './evict.js'
import { forgetMove } from './migrate-moves.js'
import { otherOwner, TAKEN_OVER_FACT } from './ownership.js'

/** The fact that is set while a log begins a new archive: a crash on the way is gone on from, nothing else is. */
const BEGINNING_FACT = 'archive-beginning'
/** Rows that are looked at together. */
const ROWS_AT_ONCE = 10_000

/** What a row says whose object is not there. */
const NOT_COPIED = { object: null, archivedMs: null, contentDigest: null } as const

/** What taking over and beginning need of a log. */
export type OwnershipContext = Pick<TieringContext, 'logId' | 'index' | 'ledger' | 'random'>

/**
 * Makes an archive this log's that is another's: its owner's next commit is refused. Order: the fact that there may
 * be streams in it that are not ours, the owner object under the next number, the fact that it is our archive. A crash
 * between any two leaves nothing that running it again would not mend. Rejects with `refused` where this log has
 * another archive, with `conflict` where a third one was quicker.
 */
export async function takeOverArchive(
  context: OwnershipContext,
  archive: ArchiveStore,
): Promise<ArchiveOwner> {
  const { logId, index } = context
  const owners = await listOwners(archive)
  const owner = owners.at(-1)
  if (owner === undefined)
    throw new StratalogError(
      'refused',
      `the archive at ${archive.location} has no owner: the first log that copies something into it gets it, there is nothing to take over`,
    )
  const ours = owners.some((one) => one.logId === logId)
  if (!ours && (await index.fact(ARCHIVE_OWNER_FACT)) === logId)
    throw new StratalogError(
      'refused',
      `this log has an archive of its own already, with segments in it: it can't go on in the one at ${archive.location}; restore into a new log and take it over from there`,
    )
  if (owner.mark !== null) throw otherOwner(archive, owner, logId)
  if (owner.logId !== logId) {
    await index.setFact(TAKEN_OVER_FACT, logId)
    const next = { logId, epoch: owner.epoch + 1n }
    await putOwner(archive, owner.number + 1n, next)
    await index.setFact(ARCHIVE_OWNER_FACT, logId)
    return next
  }
  if (wasAnothers(owners, logId)) await index.setFact(TAKEN_OVER_FACT, logId)
  await index.setFact(ARCHIVE_OWNER_FACT, logId)
  return { logId, epoch: owner.epoch }
}

async function putOwner(archive: ArchiveStore, number: bigint, owner: ArchiveOwner): Promise<void> {
  await putControl(archive, null, number, 'owner', owner, ONLY_ATTEMPT).catch((error: unknown) => {
    // An answer of an earlier try was lost, or another log was quicker: who owns it is read below.
    if (!isStratalogError(error, 'object_exists')) throw error
  })
  const found = (await listOwners(archive)).at(-1)
  if (found?.logId === owner.logId) return
  throw new StratalogError(
    'conflict',
    `log ${found?.logId ?? 'unknown'} took the archive at ${archive.location} over in the same moment: see who is to have it, "stratalog archive own"`,
    { expected: owner.logId, found: found?.logId ?? null },
  )
}

/** What beginning a new archive came to. */
export interface BegunArchive {
  /** Segments that were in both tiers: they are copied again. */
  readonly copiedAgain: number
  /** Segments that were in the lost archive alone: gaps now. */
  readonly lostSegments: number
  readonly lostBytes: number
}

/**
 * Begins a new archive in place of one that is lost for good. What is hot is copied into it; what was in the lost one
 * alone becomes a gap (`corrupt`), and only on that explicit order: without it nothing is changed. Run again after a
 * crash it goes on. Rejects with `refused`, also where the archive is this log's already.
 */
export async function beginArchive(
  context: OwnershipContext,
  archive: ArchiveStore,
  { acceptLoss, signal }: { readonly acceptLoss: boolean; readonly signal?: AbortSignal },
): Promise<BegunArchive> {
  const { logId, index } = context
  const owner = (await listOwners(archive, signal)).at(-1)
  const beginning = (await index.fact(BEGINNING_FACT)) === archive.location
  if (owner !== undefined && owner.logId !== logId) throw otherOwner(archive, owner, logId)
  if (owner !== undefined && !beginning)
    throw new StratalogError(
      'refused',
      `the archive at ${archive.location} is this log's already: there is nothing to begin; "stratalog restore --from" reads what it holds`,
    )
  const cold = await rowsOfLog(index, 'cold')
  if (cold.length > 0 && !acceptLoss) throw wouldLose(archive, cold)
  if (!beginning) {
    // First: what was announced counts no more, so every stream is announced anew before its next copy.
    const generation = Number((await index.fact(ARCHIVE_GENERATION_FACT)) ?? '0') + 1
    await index.setFact(ARCHIVE_GENERATION_FACT, `${generation}`)
    await index.setFact(BEGINNING_FACT, archive.location)
  }
  await forgetMove(index, archive.location)
  if (owner === undefined) await putOwner(archive, 1n, { logId, epoch: 1n })
  await index.setFact(ARCHIVE_OWNER_FACT, logId)
  const copiedAgain = await copyAgain(context, archive, signal)
  const lost = await giveUp(context, archive, signal)
  await index.setFact(BEGINNING_FACT, '')
  return { ...lost, copiedAgain: copiedAgain + lost.copiedAgain }
}

/** Rows in a state whose objects are in the log's archive: what lies in a stream's own is not lost with it. */
async function rowsOfLog(index: SegmentIndex, state: 'archived' | 'cold'): Promise<SegmentRow[]> {
  if ((await index.fact(OWN_ARCHIVES_FACT)) === null) return index.segmentsInState([state], ROWS_AT_ONCE)
  const rows: SegmentRow[] = []
  for await (const { incarnation } of streamsOf(index)) {
    if ((await ownArchiveOf(index, incarnation)) !== null) continue
    for await (const row of rowsOf(index, incarnation)) {
      if (row.state === state) rows.push(row)
      if (rows.length === ROWS_AT_ONCE) return rows
    }
  }
  return rows
}

function wouldLose(archive: ArchiveStore, cold: readonly SegmentRow[]): StratalogError {
  const bytes = cold.reduce((sum, { lengthBytes }) => sum + lengthBytes, 0)
  const many = cold.length === ROWS_AT_ONCE ? `${ROWS_AT_ONCE} or more` : `${cold.length}`
  return new StratalogError(
    'refused',
    `${many} segments with ${bytes} bytes of records are in the lost archive alone and would be gaps for ever: nothing was changed; bring the archive back, or order it with --accept-loss (a new archive at ${archive.location})`,
    { found: cold.length, details: { lostSegments: cold.length, lostBytes: bytes } },
  )
}

/** An object that was brought into the new archive by hand is as good as it was. */
async function isThere(
  archive: ArchiveStore,
  { object }: SegmentRow,
  signal?: AbortSignal,
): Promise<boolean> {
  if (object === null) return false
  return (await archive.head(object.key, signal))?.sizeBytes === object.sizeBytes
}

async function copyAgain(
  { index }: OwnershipContext,
  archive: ArchiveStore,
  signal?: AbortSignal,
): Promise<number> {
  let copied = 0
  for (;;) {
    const rows = await rowsOfLog(index, 'archived')
    let changed = 0
    for (const row of rows) {
      signal?.throwIfAborted()
      if (await isThere(archive, row, signal)) continue
      await index.updateSegment(row, { state: 'sealed', ...NOT_COPIED })
      changed += 1
    }
    copied += changed
    if (changed === 0 || rows.length < ROWS_AT_ONCE) return copied
  }
}

/**
 * A cold segment may still owe the deletion of its hot copy. By now that may be the only one, so it is hot again if
 * every entry of it reads back (invariant 4); a crash in between leaves one in both tiers, which is copied again.
 */
async function staysHot(
  context: OwnershipContext,
  row: SegmentRow,
  signal: AbortSignal = new AbortController().signal,
): Promise<boolean> {
  if (row.ledgerId === null) return false
  try {
    let next = 0n
    for await (const entries of (await hotEntries(context, row, signal)).open(0n))
      next = (entries.at(-1)?.entryId ?? next) + 1n
    if (next <= row.lastEntryId) return false
  } catch (error) {
    signal.throwIfAborted()
    // What can't be asked may be whole: nobody decides that now (invariant 8).
    if (!isStratalogError(error) || error.retryable) throw error
    return false
  }
  const archived = await context.index.updateSegment(row, { state: 'archived', evictedMs: null })
  await context.index.updateSegment(archived, { state: 'sealed', ...NOT_COPIED })
  return true
}

async function giveUp(
  context: OwnershipContext,
  archive: ArchiveStore,
  signal?: AbortSignal,
): Promise<BegunArchive> {
  const { index } = context
  const lost = { copiedAgain: 0, lostSegments: 0, lostBytes: 0 }
  for (;;) {
    const rows = await rowsOfLog(index, 'cold')
    let changed = 0
    for (const row of rows) {
      signal?.throwIfAborted()
      if (await isThere(archive, row, signal)) continue
      if (await staysHot(context, row, signal)) {
        lost.copiedAgain += 1
        changed += 1
        continue
      }
      const { incarnation, segment } = row
      await noteRestoredGap(index, incarnation, { first: segment, last: segment, reason: 'corrupt' })
      const released = await releaseLedger(context, row)
      await index.updateSegment(released, { state: 'gap', object: null })
      changed += 1
      lost.lostSegments += 1
      lost.lostBytes += row.lengthBytes
    }
    if (changed === 0 || rows.length < ROWS_AT_ONCE) return lost
  }
}
