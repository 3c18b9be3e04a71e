import { attemptsOfSegment } from '../archive/attempts.js'
import { ownerOf } from '../archive/control-objects.js'
import type { ListedSegment } from '../archive/listing.js'
import { contentDigestOf } from '../archive/object-index.js'
import { type ContentDigest, contentDigest } from '../archive/restore-digest.js'
import { rivalOf } from '../archive/rivals.js'
import { verifySegmentObject } from '../archive/segment-verify.js'
import { objectOwner } from '../archive/shared.js'
import { committedKey } from '../archive/verify-archive.js'
import type { SegmentKey } from '../src/format/archive-names.js'
import { present } from '../src/model/assert.js'
import { isStratalogError, StratalogError } from '../src/model/errors.js'
import type { SegmentRow, StreamRow } from '../src/model/segment.js'
import type { ArchiveStore } from '../src/ports/archive-store.js'
import type { Lease } from '../src/ports/coordination.js'
import type { TieringContext } from './context.js'
import { copySegment, hotEntries } from './copy.js'

/** How long a mending waits for the agent to be done with the stream. */
const LEASE_WAIT_MS = 10_000

/** How the cold copy of a segment was found, and what became of it. */
export type ColdOutcome =
  | { readonly kind: 'whole' }
  /** The row is another one by now: nothing was concluded. */
  | { readonly kind: 'changed' }
  /** It lies in a class that is not read at once: nothing was concluded, and nobody has to do anything. */
  | { readonly kind: 'frozen' }
  /** It is bad, and somebody else is at work on the stream: to be tried again. */
  | { readonly kind: 'busy'; readonly why: string }
  | { readonly kind: 'mended'; readonly by: 'twin' | 'hot copy'; readonly why: string }
  /** Nothing good is left to mend from, or nobody may choose: for an operator. */
  | { readonly kind: 'alarm'; readonly problem: ColdProblem; readonly why: string }

/** What an operator is told of. */
export type ColdProblem = 'missing' | 'damaged' | 'unreadable' | 'conflict'

/**
 * Reads the committed object of a segment with every byte and mends it from whichever copy is good: a twin is
 * committed in its place, or the hot copy is copied anew. What can't be mended stays as it is and is told (invariants
 * 8 and 9). Rejects where the archive itself does not answer: then nothing is known.
 */
export async function mendCold(
  context: TieringContext,
  stream: StreamRow,
  row: SegmentRow,
  signal: AbortSignal,
): Promise<ColdOutcome> {
  const archive = await present(context.archive, 'archive')(row.incarnation)
  const object = present(row.object, 'committed object')
  try {
    const why = await whyBad(archive, object.key, signal)
    if (why === null) return await rivalled(archive, row, signal)
    if (await changed(context, row)) return { kind: 'changed' }
    return await mend(context, archive, stream, row, why, signal)
  } catch (error) {
    signal.throwIfAborted()
    if (!isStratalogError(error)) throw error
    if (error.code === 'conflict' || error.code === 'lease_lost') return { kind: 'changed' }
    if (error.code === 'thawing') return { kind: 'frozen' }
    // If the archive answers, it is this one object that can't be read; if not, this rejects and the scrub stops.
    await ownerOf(archive, signal)
    return { kind: 'alarm', problem: 'unreadable', why: error.message }
  }
}

interface Bad {
  readonly problem: 'missing' | 'damaged'
  readonly why: string
}

/** Null: every byte is what it must be. */
async function whyBad(archive: ArchiveStore, key: string, signal: AbortSignal): Promise<Bad | null> {
  try {
    await verifySegmentObject(archive, key, committedKey(key), { signal })
    return null
  } catch (error) {
    if (isStratalogError(error, 'object_not_found')) return { problem: 'missing', why: error.message }
    if (isStratalogError(error, 'corrupt')) return { problem: 'damaged', why: error.message }
    throw error
  }
}

/** One that can't be read yet is of no use now, and hides nothing: what is bad is told all the same. */
async function isWhole(archive: ArchiveStore, key: string, signal: AbortSignal): Promise<boolean> {
  try {
    return (await whyBad(archive, key, signal)) === null
  } catch (error) {
    if (isStratalogError(error, 'thawing')) return false
    throw error
  }
}

/** An object may be whole and have a rival that is whole too. */
async function rivalled(archive: ArchiveStore, row: SegmentRow, signal: AbortSignal): Promise<ColdOutcome> {
  const rival = await rivalOf(archive, row, signal)
  if (rival === null) return { kind: 'whole' }
  const why = `${rival.key} reads back whole and has another content than the committed ${row.object?.key}`
  return { kind: 'alarm', problem: 'conflict', why }
}

async function mend(
  context: TieringContext,
  archive: ArchiveStore,
  stream: StreamRow,
  row: SegmentRow,
  bad: Bad,
  signal: AbortSignal,
): Promise<ColdOutcome> {
  const lease = await tieringLease(context, row, signal)
  if (lease === null) return { kind: 'busy', why: bad.why }
  try {
    const twin = await wholeTwin(archive, row, signal)
    if (twin !== null) {
      lease.lost.throwIfAborted()
      const { key, sizeBytes, parsed } = twin
      await context.index.updateSegment(row, { object: { key, sizeBytes, indexBytes: parsed.indexBytes } })
      return { kind: 'mended', by: 'twin', why: bad.why }
    }
    if (row.state !== 'archived' || row.ledgerId === null) {
      return { kind: 'alarm', problem: bad.problem, why: `${bad.why}; there is no other copy` }
    }
    return await copyAnew(context, lease, stream, row, bad, signal)
  } finally {
    await lease.release()
  }
}

/** Null: another agent has it. */
async function tieringLease(
  { coordination, logId }: TieringContext,
  row: SegmentRow,
  signal: AbortSignal,
): Promise<Lease | null> {
  const options = { holder: logId, waitMs: LEASE_WAIT_MS, signal }
  try {
    return await coordination.acquire(`tiering/${row.incarnation}`, options)
  } catch (error) {
    if (isStratalogError(error, 'conflict')) return null
    throw error
  }
}

/** The first object with the committed content that reads back whole; a clone's is among those of its parent. */
async function wholeTwin(
  archive: ArchiveStore,
  row: SegmentRow,
  signal: AbortSignal,
): Promise<ListedSegment | null> {
  const { attempts } = await attemptsOfSegment(archive, objectOwner(row), row.segment, signal)
  for (const twin of attempts) {
    if (twin.key === row.object?.key || twin.parsed.contentDigest !== row.contentDigest) continue
    if (await isWhole(archive, twin.key, signal)) return twin
  }
  return null
}

/**
 * The hot copy is read first: only if it is the committed content the row gives up its object and is copied again, by
 * the same steps as any other segment. A crash in between leaves a sealed row, which the agent copies.
 */
async function copyAnew(
  context: TieringContext,
  lease: Lease,
  stream: StreamRow,
  row: SegmentRow,
  bad: Bad,
  signal: AbortSignal,
): Promise<ColdOutcome> {
  let digest: string
  try {
    const object = present(row.object, 'committed object')
    digest = await hotDigest(context, row, committedKey(object.key), signal)
  } catch (error) {
    signal.throwIfAborted()
    if (!isStratalogError(error) || error.retryable) throw error
    return {
      kind: 'alarm',
      problem: bad.problem,
      why: `${bad.why}; nor can the hot copy be read: ${error.message}`,
    }
  }
  if (digest !== row.contentDigest) {
    return {
      kind: 'alarm',
      problem: 'conflict',
      why: `${bad.why}; the hot copy has another content, ${digest}`,
    }
  }
  lease.lost.throwIfAborted()
  const sealed = await context.index.updateSegment(row, {
    state: 'sealed',
    object: null,
    archivedMs: null,
    contentDigest: null,
  })
  await copySegment(context, lease, stream, sealed, { signal })
  return { kind: 'mended', by: 'hot copy', why: bad.why }
}

/**
 * The content digest of what the hot tier has, as the name of an object states it; every entry's own digest is checked
 * on the way.
 */
export async function hotDigest(
  context: TieringContext,
  row: SegmentRow,
  named: Pick<SegmentKey, 'incarnation' | 'keyId'>,
  signal: AbortSignal,
): Promise<string> {
  const digest = await digestAs(context, named, signal)
  for await (const entries of (await hotEntries(context, row, signal)).open()) {
    for (const { entryId, payload } of entries) digest.entry(entryId, payload)
  }
  return digest.hex()
}

async function digestAs(
  { archive }: TieringContext,
  named: Pick<SegmentKey, 'incarnation' | 'keyId'>,
  signal: AbortSignal,
): Promise<ContentDigest> {
  if (named.keyId === undefined) return contentDigest(null)
  if (archive !== null) return contentDigestOf(await archive(named.incarnation), named, signal)
  throw new StratalogError(
    'archive_missing',
    'the copy in the archive is encrypted, and its keys are there: name the archive again',
  )
}

async function changed({ index }: TieringContext, row: SegmentRow): Promise<boolean> {
  return (await index.segment(row.incarnation, row.segment))?.version !== row.version
}
