import { besideRows, listAttempts, type SegmentAttempts } from '../archive/attempts.js'
import { bindingOf, ownerOf, trimmedBelow } from '../archive/control-objects.js'
import { deletedMs, standingHolds } from '../archive/decisions.js'
import { type ListedSegment, listIncarnations } from '../archive/listing.js'
import {
  type DeadReason,
  judge,
  type KeptReason,
  type SegmentFacts,
  type Verdict,
} from '../archive/orphans.js'
import { verifiedDigestAs, verifySegmentObject } from '../archive/segment-verify.js'
import { deadSummaries } from '../archive/summaries.js'
import { committedKey } from '../archive/verify-archive.js'
import { present } from '../src/model/assert.js'
import { isStratalogError, StratalogError } from '../src/model/errors.js'
import type { Incarnation, SegmentRow, StreamRow } from '../src/model/segment.js'
import type { ArchiveStore } from '../src/ports/archive-store.js'
import type { Lease } from '../src/ports/coordination.js'
import { rowsOf } from './all-rows.js'
import { archiveNamed, archiveOfStream, archivesOf, belongsIn, type LogsArchive } from './archives.js'
import type { TieringContext } from './context.js'
import { ControlsCache } from './controls-cache.js'
import { weighedHolds } from './holds.js'
import { confirmOwner } from './ownership.js'
import { SeenMemory } from './seen-memory.js'

/** How long an object has to be known as an orphan before it may go: longer than any lease and any copy lasts. */
export const ORPHAN_GRACE_MS: number = 24 * 60 * 60 * 1_000

/** An object that no row names. */
export interface OrphanObject {
  readonly key: string
  readonly sizeBytes: number
  readonly incarnation: Incarnation
  /** Null: neither index nor archive name the stream. */
  readonly stream: string | null
  readonly segment: bigint
  readonly reason: DeadReason | KeptReason
  readonly why: string
  /** When it was first seen as an orphan; null: it is kept for another reason than its age. */
  readonly firstSeenMs: number | null
  /** What became of it: `due` and `waiting` ones are dead; `kept` ones can't be proven to be. */
  readonly outcome: 'due' | 'waiting' | 'kept' | 'deleted'
}

/** What a look for orphans, or their collection, came to. */
export interface CollectTally {
  objects: number
  due: number
  dueBytes: number
  waiting: number
  waitingBytes: number
  kept: number
  keptBytes: number
  deleted: number
  deletedBytes: number
  foreign: number
  /** Files of interrupted uploads that were removed. */
  leftovers: number
  /** Summaries of nothing but trimmed segments that were deleted. */
  summaries: number
  /** Streams that could not be judged: what decides about them can't be read, or another agent is at work on them. */
  skipped: { stream: string; error: string }[]
}

/** What a collection yields: orphans, at last the tally. */
export type CollectPart =
  | { readonly type: 'orphan'; readonly orphan: OrphanObject }
  | { readonly type: 'end'; readonly tally: Readonly<CollectTally> }

/** What is looked at, and whether anything is deleted. */
export interface CollectOptions {
  /** One stream only. */
  readonly stream?: string
  /** One archive only, where the log has several: where it is. */
  readonly archive?: string
  /** @default 24 h */
  readonly graceMs?: number
  /** Delete what is due. @default false: a dry run */
  readonly collect?: boolean
  readonly signal: AbortSignal
}

/** Skipped streams that are named. */
const SKIPPED_MAX = 100

/**
 * Finds the objects that no row names and, if told to, deletes those that are proven dead and have been orphans for
 * longer than the grace period. Before each delete owner, trims, holds, pins and the row are read again, under the
 * lease that copies and evictions of the stream take: what can't be read keeps the object (invariant 8).
 */
export async function* collectOrphans(
  context: TieringContext,
  options: CollectOptions,
): AsyncGenerator<CollectPart, void, undefined> {
  const tally = emptyTally()
  const only = options.stream === undefined ? null : await streamNamed(context, options.stream)
  for (const one of await meant(context, only, options)) {
    try {
      yield* collectIn(context, one, only, options, tally)
    } catch (error) {
      options.signal.throwIfAborted()
      // One that some streams have to themselves and that is down keeps nobody from clearing up the others.
      if (one.own === null || only !== null || !isStratalogError(error)) throw error
      skip(tally, one.own, error)
    }
  }
  yield { type: 'end', tally }
}

async function meant(
  context: TieringContext,
  only: StreamRow | null,
  { archive }: CollectOptions,
): Promise<LogsArchive[]> {
  if (only !== null) return [await archiveOfStream(context, only.incarnation)]
  return archive === undefined ? archivesOf(context) : [await archiveNamed(context, archive)]
}

function skip(tally: CollectTally, stream: string, error: unknown): void {
  if (tally.skipped.length >= SKIPPED_MAX) return
  tally.skipped.push({ stream, error: error instanceof Error ? error.message : String(error) })
}

async function* collectIn(
  context: TieringContext,
  { own, open }: LogsArchive,
  only: StreamRow | null,
  options: CollectOptions,
  tally: CollectTally,
): AsyncGenerator<CollectPart, void, undefined> {
  const archive = await open()
  if (options.collect === true && (await ownerOf(archive, options.signal)) !== null) {
    await confirmOwner(context, archive, options.signal)
  }
  const foreign = () => {
    tally.foreign += 1
  }
  const incarnations = only === null ? listIncarnations(archive, foreign, options.signal) : [only.incarnation]
  for await (const incarnation of incarnations) {
    // Its rows name objects of another archive: nothing they say proves anything here (invariant 8).
    if (!(await belongsIn(context, incarnation, own))) {
      skip(tally, incarnation, 'it lies in another archive: what of it is in this one stays')
      continue
    }
    const run = new StreamCollection(context, archive, incarnation, options, tally, foreign)
    try {
      yield* run.run()
    } catch (error) {
      options.signal.throwIfAborted()
      // One stream whose decisions can't be read keeps all it has; the others go on.
      const stays = [
        'corrupt',
        'version_unsupported',
        'conflict',
        'lease_lost',
        'object_not_found',
        'key_missing',
        'key_wrong',
      ] as const
      if (!stays.some((code) => isStratalogError(error, code))) throw error
      skip(tally, run.name ?? incarnation, error)
    }
  }
  if (options.collect === true) tally.leftovers += (await archive.removeLeftovers?.()) ?? 0
}

async function streamNamed(context: TieringContext, name: string): Promise<StreamRow> {
  const stream = await context.index.streamByName(name)
  if (stream !== null) return stream
  throw new StratalogError('stream_not_found', `there is no stream ${name}: see "stratalog stream list"`, {
    found: name,
  })
}

/** The collection of one stream's objects. */
class StreamCollection {
  name: string | null = null
  readonly #context: TieringContext
  readonly #archive: ArchiveStore
  readonly #incarnation: Incarnation
  readonly #options: CollectOptions
  readonly #tally: CollectTally
  readonly #foreign: () => void
  readonly #controls: ControlsCache
  /** Committed objects that were read back whole in this run. */
  #whole: string | null = null

  constructor(
    context: TieringContext,
    archive: ArchiveStore,
    incarnation: Incarnation,
    options: CollectOptions,
    tally: CollectTally,
    foreign: () => void,
  ) {
    this.#context = context
    this.#archive = archive
    this.#incarnation = incarnation
    this.#options = options
    this.#tally = tally
    this.#foreign = foreign
    this.#controls = new ControlsCache(context)
  }

  async *run(): AsyncGenerator<CollectPart, void, undefined> {
    const { index, coordination, logId } = this.#context
    this.name = (await index.stream(this.#incarnation))?.name ?? null
    const seen = await SeenMemory.load(index, `orphans/${this.#incarnation}`)
    // The lease under which copies are committed and hot copies freed: nobody does either meanwhile.
    const lease =
      this.#options.collect === true
        ? await coordination.acquire(`tiering/${this.#incarnation}`, { holder: logId, waitMs: 0 })
        : null
    try {
      yield* this.#objects(seen, lease)
      await seen.save()
      if (lease !== null) await this.#deleteSummaries(lease)
    } finally {
      await lease?.release()
    }
  }

  /**
   * Summaries of nothing but trimmed segments, of which the archive itself says that they are. Nobody needs a summary:
   * without one its thousand is listed (decision 0025).
   */
  async #deleteSummaries(lease: Lease): Promise<void> {
    const { signal } = this.#options
    const { trim } = await this.#decisions()
    if (trim === null) return
    for await (const { key } of deadSummaries(this.#archive, this.#incarnation, trim.segment, signal)) {
      await confirmOwner(this.#context, this.#archive, signal)
      lease.lost.throwIfAborted()
      await this.#archive.delete(key, signal)
      this.#tally.summaries += 1
    }
  }

  async *#objects(seen: SeenMemory, lease: Lease | null): AsyncGenerator<CollectPart, void, undefined> {
    const { index, ledger } = this.#context
    const { signal } = this.#options
    const decided = await this.#decisions()
    const listed = listAttempts(this.#archive, this.#incarnation, 0n, this.#foreign, signal)
    const rows = rowsOf(index, this.#incarnation)
    for await (const { row, found } of besideRows(rows, listed)) {
      signal.throwIfAborted()
      for (const object of found?.attempts ?? []) {
        this.#tally.objects += 1
        const verdict = judge(object, { ...decided, row })
        if (verdict.fate === 'committed') continue
        const firstSeenMs = verdict.fate === 'dead' ? seen.note(idOf(object), ledger.clock.nowMs()) : null
        const orphan = await this.#orphan(object, verdict, firstSeenMs, lease, found)
        if (orphan.outcome === 'deleted') seen.forget(idOf(object))
        this.#count(orphan)
        yield { type: 'orphan', orphan }
      }
    }
  }

  async #orphan(
    object: ListedSegment,
    verdict: Exclude<Verdict, { readonly fate: 'committed' }>,
    firstSeenMs: number | null,
    lease: Lease | null,
    found: SegmentAttempts | null,
  ): Promise<OrphanObject> {
    const about = {
      key: object.key,
      sizeBytes: object.sizeBytes,
      incarnation: this.#incarnation,
      stream: this.name,
      segment: object.parsed.segment,
    }
    const said = { reason: verdict.reason, why: verdict.why, firstSeenMs }
    if (verdict.fate === 'kept' || firstSeenMs === null) return { ...about, ...said, outcome: 'kept' }
    const { graceMs = ORPHAN_GRACE_MS } = this.#options
    const old = this.#context.ledger.clock.nowMs() - firstSeenMs >= graceMs
    if (!old) return { ...about, ...said, outcome: 'waiting' }
    // Beyond a thousand attempts not all of them are known, and what is not known may be the segment.
    if ((found?.unlisted ?? 0) > 0) return { ...about, ...said, reason: 'unproven', outcome: 'kept' }
    if (lease === null) return { ...about, ...said, outcome: 'due' }
    const against = await this.#delete(object, lease)
    if (against === null) return { ...about, ...said, outcome: 'deleted' }
    return { ...about, reason: against.reason, why: against.why, firstSeenMs, outcome: 'kept' }
  }

  /** Deletes one object if all that was read before still holds; else says what speaks against it. */
  async #delete(
    object: ListedSegment,
    lease: Lease,
  ): Promise<{ readonly reason: KeptReason; readonly why: string } | null> {
    const { index } = this.#context
    const { signal } = this.#options
    // An archive that became another log's while this one was away is none of ours to clean.
    await confirmOwner(this.#context, this.#archive, signal)
    const row = await index.segment(this.#incarnation, object.parsed.segment)
    const verdict = judge(object, { ...(await this.#decisions()), row })
    if (verdict.fate === 'committed') return { reason: 'unproven', why: 'it was committed meanwhile' }
    if (verdict.fate === 'kept') return verdict
    if (verdict.needs === 'committed-is-whole' && !(await this.#isWhole(present(row, 'row of a twin'))))
      return {
        reason: 'unproven',
        why: 'the committed object does not read back whole: this one may be needed',
      }
    if (verdict.needs === 'this-is-broken' && !(await this.#isBroken(object)))
      return { reason: 'conflict', why: 'it reads back whole: "stratalog archive resolve" decides' }
    if (verdict.needs === 'same-or-broken') {
      const against = await this.#isSuperseded(object, present(row, 'row of another attempt'))
      if (against !== null) return against
    }
    // What was read takes a while to be read: the lease says that nobody committed anything meanwhile.
    lease.lost.throwIfAborted()
    const again = await index.segment(this.#incarnation, object.parsed.segment)
    if (again?.version !== row?.version) return { reason: 'unproven', why: 'its segment changed meanwhile' }
    await this.#archive.delete(object.key, signal)
    return null
  }

  /** Whether the committed object of a segment is there with every byte, read once for all its twins. */
  async #isWhole(row: SegmentRow): Promise<boolean> {
    const object = present(row.object, 'committed object')
    const { signal } = this.#options
    const found = await this.#archive.head(object.key, signal)
    if (found?.sizeBytes !== object.sizeBytes) return false
    if (this.#whole === object.key) return true
    try {
      await verifySegmentObject(this.#archive, object.key, committedKey(object.key), { signal })
      this.#whole = object.key
      return true
    } catch (error) {
      if (isStratalogError(error, 'corrupt') || isStratalogError(error, 'object_not_found')) return false
      throw error
    }
  }

  /** What speaks against an object that can only be compared by what it holds; null: nothing does. */
  async #isSuperseded(
    object: ListedSegment,
    row: SegmentRow,
  ): Promise<{ readonly reason: KeptReason; readonly why: string } | null> {
    const { signal } = this.#options
    const committed = committedKey(present(row.object, 'committed object').key)
    if (!(await this.#isWhole(row)))
      return {
        reason: 'unproven',
        why: 'the committed object does not read back whole: this one may be needed',
      }
    try {
      const digest = await verifiedDigestAs(this.#archive, object, committed, { signal })
      if (digest === row.contentDigest) return null
      return {
        reason: 'conflict',
        why: 'it reads back whole and holds something else than the committed one',
      }
    } catch (error) {
      if (isStratalogError(error, 'corrupt')) return null
      throw error
    }
  }

  async #isBroken(object: ListedSegment): Promise<boolean> {
    try {
      await verifySegmentObject(this.#archive, object.key, object.parsed, { signal: this.#options.signal })
      return false
    } catch (error) {
      if (isStratalogError(error, 'corrupt')) return true
      throw error
    }
  }

  async #decisions(): Promise<Omit<SegmentFacts, 'row'>> {
    const stream = await this.#context.index.stream(this.#incarnation)
    const controls = await this.#controls.fresh(this.#archive, this.#incarnation, this.#options.signal)
    const binding = bindingOf(controls)
    this.name ??= binding?.name ?? null
    return {
      stream,
      trim: trimmedBelow(controls),
      deleted: deletedMs(controls) !== null,
      // Of a stream that is ours also those that the archive was not told of yet, and those of its policy.
      holds: stream === null ? standingHolds(controls) : await weighedHolds(this.#context, stream, controls),
      txidMode: stream?.txidMode ?? binding?.txidMode ?? null,
    }
  }

  #count({ outcome, sizeBytes }: OrphanObject): void {
    this.#tally[outcome] += 1
    this.#tally[`${outcome}Bytes`] += sizeBytes
  }
}

function idOf({ parsed }: ListedSegment): string {
  return `${parsed.segment}-${parsed.attempt}`
}

function emptyTally(): CollectTally {
  return {
    objects: 0,
    due: 0,
    dueBytes: 0,
    waiting: 0,
    waitingBytes: 0,
    kept: 0,
    keptBytes: 0,
    deleted: 0,
    deletedBytes: 0,
    foreign: 0,
    leftovers: 0,
    summaries: 0,
    skipped: [],
  }
}
