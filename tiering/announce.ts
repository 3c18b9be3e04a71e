import { ownerFactFor } from '../archive/bindings.js'
import {
  bindingOf,
  type ControlObject,
  listOwners,
  putControl,
  readControls,
  trimmedBelow,
  wasAnothers,
} from '../archive/control-objects.js'
import { type ArchivedGap, endOf, gapsOf, policyOf } from '../archive/decisions.js'
import { listSegments } from '../archive/listing.js'
import type { ControlKind } from '../src/format/archive-names.js'
import { isBeingCloned, sharedBelow } from '../src/model/clone.js'
import { isStratalogError, StratalogError } from '../src/model/errors.js'
import type { Incarnation, StreamRow } from '../src/model/segment.js'
import type { ArchiveStore } from '../src/ports/archive-store.js'
import type { Random } from '../src/ports/random.js'
import type { SegmentIndex } from '../src/ports/segment-index.js'
import type { TieringContext } from './context.js'
import { confirmOwner, otherOwner, TAKEN_OVER_FACT } from './ownership.js'

/** One attempt for each number: of two logs that claim an archive in the same moment one finds the name taken. */
export const ONLY_ATTEMPT: Random = { bytes: (count) => new Uint8Array(count), fraction: () => 0 }

/** The fact that counts the archives a log had before this one; what was announced there says nothing here. */
export const ARCHIVE_GENERATION_FACT = 'archive-generation'

/** What announcing needs of a log. */
export type AnnounceContext = Pick<TieringContext, 'logId' | 'index' | 'random' | 'ledger'>

async function announcedFact({ index }: AnnounceContext, what: string, of: Incarnation): Promise<string> {
  const generation = (await index.fact(ARCHIVE_GENERATION_FACT)) ?? '0'
  return generation === '0' ? `${what}/${of}` : `${what}/${generation}/${of}`
}

/**
 * Makes sure that the archive alone can name a stream: the control objects that say who owns the log, which name the
 * incarnation has and where it begins are there before the first segment is. Done once for each stream, remembered in
 * the index; if that memory is lost, looking again finds them and writes nothing. The memory does not name the
 * archive: a log that has an owner object somewhere opens no archive without it. `refused` where the archive is
 * another log's.
 */
export async function announceStream(
  context: AnnounceContext,
  archive: ArchiveStore,
  stream: StreamRow,
): Promise<void> {
  const fact = await announcedFact(context, 'announced', stream.incarnation)
  if ((await context.index.fact(fact)) === stream.name) return
  await announceOwner(context, archive, await ownerFactFor(context.index, stream.incarnation))
  const controls = await readControls(archive, stream.incarnation)
  const put = controlWriter(context, archive, stream, controls)
  await announceTrim(archive, stream, controls, put)
  await announceGaps(context, stream, controls, put)
  const named = bindingOf(controls)
  // One that is deleted is called by its incarnation here; the archive keeps the name it had.
  const nameless = named !== null && stream.name === stream.incarnation
  if (named?.name !== stream.name && !nameless) {
    const body = {
      name: stream.name,
      txidMode: stream.txidMode,
      createdMs: stream.createdMs,
      // Since when it has had this name; a first name it has had from the beginning.
      atMs: named === null ? stream.createdMs : context.ledger.clock.nowMs(),
      parent:
        stream.parent === null ? null : { ...stream.parent, fork: stream.parent.fork?.toString() ?? null },
    }
    await put('name', body)
  }
  await context.index.setFact(fact, stream.name)
}

/**
 * What was decided about a stream since it was announced and the archive has not heard of: a new name, a policy of its
 * own, its end. A debt like any other: while the archive does not answer it stays, and paying it twice changes nothing.
 */
export async function announceDebts(
  context: AnnounceContext & Pick<TieringContext, 'archive'>,
  stream: StreamRow,
): Promise<void> {
  if (context.archive === null) return
  const { index } = context
  const announced = await index.fact(await announcedFact(context, 'announced', stream.incarnation))
  // Nothing of it is in the archive yet: the first copy brings what there is to say. What a clone shares is there.
  const clone = sharedBelow(stream.parent) !== null && !isBeingCloned(stream)
  if (announced === null && !clone) return
  const ended = await announcedFact(context, 'ended', stream.incarnation)
  const owesEnd = stream.finishedMs !== null && (await index.fact(ended)) === null
  const policy = await index.policyOverride(stream.incarnation)
  const policyFact = await announcedFact(context, 'policy-told', stream.incarnation)
  const owesPolicy = ((await index.fact(policyFact)) ?? '') !== (policy ?? '')
  if (announced === stream.name && !owesEnd && !owesPolicy) return
  const archive = await context.archive(stream.incarnation)
  await confirmOwner(context, archive)
  await announceStream(context, archive, stream)
  if (!owesEnd && !owesPolicy) return
  const controls = await readControls(archive, stream.incarnation)
  const put = controlWriter(context, archive, stream, controls)
  if (owesPolicy) {
    if (policyOf(controls) !== policy) await put('policy', { policy, atMs: context.ledger.clock.nowMs() })
    await index.setFact(policyFact, policy ?? '')
  }
  if (!owesEnd) return
  if (endOf(controls) === null) await announceEnd(context, stream, put)
  await index.setFact(ended, `${stream.finishedMs}`)
}

/** Where the next record would have gone is known for ever: the last segment of a finished stream is closed. */
async function announceEnd({ index }: AnnounceContext, stream: StreamRow, put: ControlPut): Promise<void> {
  const newest = await index.newestSegment(stream.incarnation)
  const nextSequenceId = newest === null ? 0n : newest.startSequenceId + newest.recordCount
  await put('end', { atMs: stream.finishedMs, nextSequenceId, lastTxid: newest?.lastTxid ?? -1n })
}

type ControlPut = (kind: ControlKind, body: object) => Promise<void>

/** Writes control objects of a stream one after another, numbered above those there are. */
function controlWriter(
  { random }: AnnounceContext,
  archive: ArchiveStore,
  { incarnation }: StreamRow,
  controls: readonly ControlObject[],
): ControlPut {
  let number = nextNumber(controls)
  return async (kind, body) => {
    await putControl(archive, incarnation, number, kind, bodyOf(body), random)
    number += 1n
  }
}

/** 64-bit numbers are decimal strings in every body. */
function bodyOf(body: object): object {
  return Object.fromEntries(
    Object.entries(body).map(([key, value]) => [key, typeof value === 'bigint' ? value.toString() : value]),
  )
}

/**
 * A trim from before the stream was announced: a restored one has its source's, and others were trimmed while there
 * was no archive. Without a marker the segments below would count as lost. Not where the archive has some of them: a
 * trim writes its marker before anything else, so this one was never decided here. In a cluster a row that was made
 * without our node in ZooKeeper begins where the purge left the tree, which is no reason to delete (invariant 8).
 */
async function announceTrim(
  archive: ArchiveStore,
  stream: StreamRow,
  controls: readonly ControlObject[],
  put: ControlPut,
): Promise<void> {
  const below = stream.trimmedBelow
  const there = trimmedBelow(controls)
  if (below === null || (there !== null && there.compare(below) >= 0)) return
  const from = there?.segment ?? 0n
  for await (const { parsed } of listSegments(archive, stream.incarnation, from)) {
    if (parsed.segment >= below.segment) break
    return
  }
  await put('trim', { below: below.toString() })
}

/** What of a restored stream was not to be had: from its own archive it is restored with the same gaps. */
async function announceGaps(
  { index, ledger }: AnnounceContext,
  { incarnation }: StreamRow,
  controls: readonly ControlObject[],
  put: ControlPut,
): Promise<void> {
  const there = gapsOf(controls)
  for (const { first, last, reason } of await restoredGaps(index, incarnation)) {
    const said = there.some((one) => one.first <= first && last <= one.last && one.reason === reason)
    if (!said) await put('gap', { first, last, reason, atMs: ledger.clock.nowMs() })
  }
}

type NotedGap = Pick<ArchivedGap, 'first' | 'last' | 'reason'>

/** Remembers a gap that a stream was restored with, until its archive is told. Noting it twice changes nothing. */
export async function noteRestoredGap(
  index: Pick<SegmentIndex, 'fact' | 'setFact'>,
  incarnation: Incarnation,
  gap: NotedGap,
): Promise<void> {
  const noted = await restoredGaps(index, incarnation)
  if (
    noted.some(({ first, last, reason }) => first === gap.first && last === gap.last && reason === gap.reason)
  )
    return
  const all = [...noted, gap].map(({ first, last, reason }) => [`${first}`, `${last}`, reason])
  await index.setFact(`restored-gaps/${incarnation}`, JSON.stringify(all))
}

async function restoredGaps(
  index: Pick<SegmentIndex, 'fact'>,
  incarnation: Incarnation,
): Promise<NotedGap[]> {
  const text = (await index.fact(`restored-gaps/${incarnation}`)) ?? '[]'
  const noted = JSON.parse(text) as [string, string, NotedGap['reason']][]
  return noted.map(([first, last, reason]) => ({ first: BigInt(first), last: BigInt(last), reason }))
}

/** An archive belongs to one log, the first; it is never taken over in silence (decision 0008). */
async function announceOwner(
  context: AnnounceContext,
  archive: ArchiveStore,
  ownerFact: string,
): Promise<void> {
  const { logId } = context
  let owners = await listOwners(archive)
  if (owners.length === 0) {
    await putControl(archive, null, 1n, 'owner', { logId, epoch: 1n }, ONLY_ATTEMPT).catch(
      (error: unknown) => {
        // Another log was quicker, or an answer of an earlier try was lost: who owns it is read below.
        if (!isStratalogError(error, 'object_exists')) throw error
      },
    )
    owners = await listOwners(archive)
  }
  const owner = owners.at(-1)
  if (owner === undefined)
    throw new StratalogError('archive_unavailable', `${archive.location} does not list its owner`, {
      retryable: true,
    })
  if (owner.logId !== logId) throw otherOwner(archive, owner, logId)
  // Only a log that took it over finds others before it: a crash came before it noted that.
  if (wasAnothers(owners, logId)) await context.index.setFact(TAKEN_OVER_FACT, logId)
  // Before the first segment: from here on an archive without our owner object is not ours.
  await context.index.setFact(ownerFact, logId)
}

/** Control objects of a stream are numbered from 1; the highest number binds. */
export function nextNumber(controls: readonly { readonly number: bigint }[]): bigint {
  return controls.reduce((highest, one) => (one.number > highest ? one.number : highest), 0n) + 1n
}
