import { readControls, trimmedBelow } from '../archive/control-objects.js'
import { contentDigestOf } from '../archive/object-index.js'
import { openSegmentObject } from '../archive/segment-reader.js'
import { committedKey } from '../archive/verify-archive.js'
import { present } from '../src/model/assert.js'
import { nameWhileCloned } from '../src/model/clone.js'
import { Dlsn } from '../src/model/dlsn.js'
import { isStratalogError, StratalogError } from '../src/model/errors.js'
import { randomIncarnation } from '../src/model/incarnation.js'
import { policyQuorum } from '../src/model/quorum.js'
import { isClosed, type SegmentRow, type StreamRow } from '../src/model/segment.js'
import type { ArchiveStore } from '../src/ports/archive-store.js'
import type { Lease } from '../src/ports/coordination.js'
import { announceStream, noteRestoredGap } from './announce.js'
import type { TieringContext } from './context.js'
import { copySegment } from './copy.js'
import { decidedAlone } from './holds.js'
import { clonesAlone, forgetPin, notePin, putPin, releasePin, settleUnder } from './pins.js'
import { rowsIn } from './ranges.js'
import { restoreSegment } from './restore-copy.js'
import { cutKey } from './restore-cut.js'
import type { RestorableSegment } from './restore-types.js'
import { endsBelow } from './trim.js'

/** How long the agent may take for the step it is in, and another clone to be made. */
const LEASE_WAIT_MS = 60_000
/** Rows that are added together. */
const ROWS_AT_ONCE = 500

/** What is to be cloned. */
export interface CloneRequest {
  /** What the clone is called. */
  readonly name: string
  /** Where it leaves its parent, exclusive; null: behind all that was acknowledged. */
  readonly until: Dlsn | null
  readonly signal: AbortSignal
}

/** A clone that was made. */
export interface ClonedStream {
  readonly stream: StreamRow
  readonly fork: Dlsn
  /** Segments whose objects it shares, gaps among them. */
  readonly sharedSegments: number
  readonly sharedBytes: number
  /** Records it begins with. */
  readonly records: bigint
  /** Whether the archive knows it by name: else it is told when it answers. */
  readonly told: boolean
}

/** Where a clone begins and where it leaves its parent. */
interface Span {
  readonly begin: Dlsn
  readonly fork: Dlsn
  /** The first part of the segment in the middle of which it leaves it; null: it leaves it between two. */
  readonly part: RestorableSegment | null
}

/**
 * Makes a stream that begins with the history of another and shares its objects. What of it is only hot is sealed and
 * copied to the archive first. Order: a note of the pin, the pin in the parent's control objects, the trims read again
 * (a range one of them has reached is given up), the stream under a name nobody asks for, its rows, its name, the
 * archive. A crash before the name leaves what `settlePins` clears away; after it the clone is whole, and what is left
 * to do is a debt. Where it leaves its parent within a segment, that segment's first part is copied: it has its own.
 *
 * Rejects with `stream_exists`, `archive_missing`, `position_out_of_range`; with `conflict` (retryable) where the range
 * was trimmed meanwhile.
 */
export async function cloneStream(
  context: TieringContext,
  source: StreamRow,
  request: CloneRequest,
): Promise<ClonedStream> {
  if (context.archive === null)
    throw new StratalogError(
      'archive_missing',
      `a clone shares the objects of ${source.name} and the log has no archive: name one under "archive"`,
    )
  await refuseTaken(context, request.name)
  const archive = await context.archive(source.incarnation)
  const span = await spanOf(context, archive, source, request)
  return clonesAlone(context, LEASE_WAIT_MS, async (alone) => {
    const clone = randomIncarnation(context.random)
    // Its objects are its parent's: it lies where they do, whatever its policy says (decision 0030).
    await context.own?.bindTo(clone, source.incarnation)
    await notePin(context, { clone, parent: source.incarnation })
    try {
      await pinRange(context, archive, source, clone, span, request)
      return await new CloneMaker(context, archive, source, span, request).make(clone, alone)
    } catch (error) {
      await clearUp(context, request)
      throw error
    }
  })
}

async function refuseTaken({ index }: TieringContext, name: string): Promise<void> {
  const taken = await index.streamByName(name)
  if (taken === null) return
  throw new StratalogError('stream_exists', `there is a stream ${name} already: choose another name`, {
    found: taken.incarnation,
  })
}

/** What was begun goes away again; what can't now does with the agent. */
async function clearUp(context: TieringContext, { name }: CloneRequest): Promise<void> {
  try {
    await settleUnder(context, new AbortController().signal)
  } catch (error) {
    if (!isStratalogError(error)) throw error
    context.ledger.logger.warn({ err: error, stream: name }, 'a clone that failed is cleared away later')
  }
}

/** Seals and copies what is shared and not in the archive yet. */
async function spanOf(
  context: TieringContext,
  archive: ArchiveStore,
  source: StreamRow,
  { until, signal }: CloneRequest,
): Promise<Span> {
  const { index } = context
  const oldest = await index.oldestSegment(source.incarnation)
  if (oldest === null) throw nothingToClone(source, until)
  const whole = new Dlsn(oldest.segment, 0n, 0n)
  const trimmed = (await index.stream(source.incarnation))?.trimmedBelow ?? null
  const begin = trimmed !== null && trimmed.compare(whole) > 0 ? trimmed : whole
  const fork = await forkOf(context, source, until)
  if (fork.compare(begin) <= 0) throw nothingToClone(source, fork)
  await copyBelow(context, source, { from: begin, until: fork }, signal)
  const part = await partOf(context, archive, source, fork, signal)
  if (part !== null || isWhole(fork)) return { begin, fork, part }
  // No record of that segment lies before it.
  const between = new Dlsn(fork.segment, 0n, 0n)
  if (between.compare(begin) <= 0) throw nothingToClone(source, fork)
  return { begin, fork: between, part: null }
}

function nothingToClone({ name }: StreamRow, fork: Dlsn | null): StratalogError {
  const before = fork === null ? '' : ` before ${fork}`
  return new StratalogError(
    'position_out_of_range',
    `${name} holds no record${before}: there is nothing to clone, create a stream instead ("stratalog stream create")`,
    { found: fork?.toString() ?? null },
  )
}

function isWhole({ entry, slot }: Dlsn): boolean {
  return entry === 0n && slot === 0n
}

/** Where the clone leaves its parent; the open segment is sealed if that lies in it or behind. */
async function forkOf(context: TieringContext, source: StreamRow, until: Dlsn | null): Promise<Dlsn> {
  const { index, writers } = context
  const open = await index.newestSegment(source.incarnation)
  if (open !== null && !isClosed(open.state)) {
    const reaches = until === null || until.compare(new Dlsn(open.segment, 0n, 0n)) > 0
    if (reaches) await writers.seal(source, open.segment)
  }
  const newest = present(await index.newestSegment(source.incarnation), 'newest segment')
  const end = new Dlsn(newest.segment + 1n, 0n, 0n)
  if (until === null) return end
  const row = await index.segment(source.incarnation, until.segment)
  if (row === null && until.compare(end) > 0 && until.segment > (open?.segment ?? 0n))
    throw new StratalogError(
      'position_out_of_range',
      `${until} lies beyond the end of ${source.name} (${end}): clone up to that at the latest`,
      { expected: end.toString(), found: until.toString() },
    )
  if (row === null) return end
  // A gap has no part, and behind its last record a segment is whole.
  const behind = !isWhole(until) && isClosed(row.state) && (row.state === 'gap' || endsBelow(row, until))
  return behind ? new Dlsn(until.segment + 1n, 0n, 0n) : until
}

/** Every segment of the range that holds something is in the archive after it. */
async function copyBelow(
  context: TieringContext,
  source: StreamRow,
  range: { readonly from: Dlsn; readonly until: Dlsn },
  signal: AbortSignal,
): Promise<void> {
  const lease = await context.coordination.acquire(`tiering/${source.incarnation}`, {
    holder: context.logId,
    waitMs: LEASE_WAIT_MS,
    signal,
  })
  try {
    for await (const row of rowsIn(context.index, source.incarnation, range)) {
      signal.throwIfAborted()
      if (!isClosed(row.state))
        throw new StratalogError(
          'conflict',
          `segment ${row.segment} of ${source.name} is ${row.state}: bring its stores back ("stratalog store list") and clone again, or clone up to ${row.segment}:0:0`,
          { retryable: true, found: row.state },
        )
      if (row.state === 'sealed') await copySegment(context, lease, source, row, { signal })
    }
  } finally {
    await lease.release()
  }
}

/** What of the segment that a fork lies in comes before it; null: nothing, or the fork lies between two segments. */
async function partOf(
  { index }: TieringContext,
  archive: ArchiveStore,
  source: StreamRow,
  fork: Dlsn,
  signal: AbortSignal,
): Promise<RestorableSegment | null> {
  if (isWhole(fork)) return null
  const row = present(await index.segment(source.incarnation, fork.segment), 'segment of the fork')
  const object = present(row.object, 'object of an archived segment')
  const parsed = committedKey(object.key)
  const reader = await openSegmentObject(archive, object)
  const digest = await contentDigestOf(archive, parsed, signal)
  const restored = await cutKey(reader, parsed, { dlsn: fork }, digest, signal)
  const { key, sizeBytes } = object
  return restored && { key, sizeBytes, parsed, twins: [], restored, cut: { dlsn: fork } }
}

/**
 * The pin first, then the trims: whoever trims puts the marker first and reads the pins then, so that of the two at
 * least one sees the other. One that came first has the range.
 */
async function pinRange(
  context: TieringContext,
  archive: ArchiveStore,
  source: StreamRow,
  clone: string,
  { begin, fork }: Span,
  { name }: CloneRequest,
): Promise<void> {
  if (fork.segment <= begin.segment) return
  const pin = { clone, parent: source.incarnation }
  await announceStream(context, archive, source)
  await decidedAlone(context, source, async () => {
    const until = new Dlsn(fork.segment, 0n, 0n)
    await putPin(context, archive, pin, { from: new Dlsn(begin.segment, 0n, 0n), until }, name)
    const row = await context.index.stream(source.incarnation)
    const deleted = await context.index.fact(`deleted/${source.incarnation}`)
    const marked = trimmedBelow(await readControls(archive, source.incarnation))
    const reached = [row?.trimmedBelow ?? null, marked].find((at) => at !== null && at.compare(begin) > 0)
    if (row !== null && deleted === null && reached === undefined) return
    await releasePin(context, archive, pin)
    throw new StratalogError(
      'conflict',
      `${source.name} was trimmed to ${reached ?? 'its end'} or deleted while it was cloned: nothing was made, clone what is left of it`,
      { retryable: true, expected: begin.toString(), found: reached?.toString() ?? null },
    )
  })
}

/** The clone itself, once what it shares is pinned. */
class CloneMaker {
  readonly #context: TieringContext
  readonly #archive: ArchiveStore
  readonly #source: StreamRow
  readonly #span: Span
  readonly #request: CloneRequest

  constructor(
    context: TieringContext,
    archive: ArchiveStore,
    source: StreamRow,
    span: Span,
    request: CloneRequest,
  ) {
    this.#context = context
    this.#archive = archive
    this.#source = source
    this.#span = span
    this.#request = request
  }

  async make(incarnation: string, alone: Lease): Promise<ClonedStream> {
    const { coordination, logId, index } = this.#context
    const { fork, begin, part } = this.#span
    // The agent leaves it alone while it is made, whatever its policy says of its age.
    const lease = await coordination.acquire(`tiering/${incarnation}`, { holder: logId, waitMs: 0 })
    try {
      const row = await this.#begin(incarnation)
      const shared = fork.segment > begin.segment ? await this.#share(row) : { segments: 0, bytes: 0 }
      if (part !== null) await this.#copyPart(row, part)
      lease.lost.throwIfAborted()
      alone.lost.throwIfAborted()
      const made = present(await index.stream(incarnation), 'stream that is made')
      const { name } = this.#request
      const stream = await index.updateStream(incarnation, made.version, { name })
      if (fork.segment <= begin.segment)
        await forgetPin(this.#context, { clone: incarnation, parent: this.#source.incarnation })
      const { records } = await index.totals(incarnation)
      const told = await this.#tell(stream)
      return { stream, fork, sharedSegments: shared.segments, sharedBytes: shared.bytes, records, told }
    } finally {
      await lease.release()
    }
  }

  async #begin(incarnation: string): Promise<StreamRow> {
    const { index, ledger } = this.#context
    const { incarnation: parent, txidMode, epoch } = this.#source
    const { fork, begin } = this.#span
    const shares = fork.segment > begin.segment ? { shares: true as const } : {}
    const made = await index.createStream({
      incarnation,
      name: nameWhileCloned(incarnation),
      txidMode,
      createdMs: ledger.clock.nowMs(),
      parent: { incarnation: parent, fork, ...shares },
    })
    // Its writers come after those of its parent, whose epochs the shared segments have.
    const patch = begin.compare(new Dlsn(1n, 0n, 0n)) > 0 ? { epoch, trimmedBelow: begin } : { epoch }
    return index.updateStream(incarnation, made.version, patch)
  }

  /** Rows that name the objects of the parent's, oldest first. */
  async #share(stream: StreamRow): Promise<{ segments: number; bytes: number }> {
    const { index } = this.#context
    const { begin, fork } = this.#span
    const shared = { segments: 0, bytes: 0 }
    const waiting: SegmentRow[] = []
    const flush = async () => {
      await Promise.all(waiting.splice(0).map((row) => index.adoptSegment(row)))
    }
    const range = { from: begin, until: new Dlsn(fork.segment, 0n, 0n) }
    for await (const row of rowsIn(index, this.#source.incarnation, range)) {
      this.#request.signal.throwIfAborted()
      const ours = this.#rowOf(stream, row)
      shared.segments += 1
      shared.bytes += ours.object?.sizeBytes ?? 0
      if (ours.state === 'gap') {
        await flush()
        await this.#gap(ours)
      } else waiting.push(ours)
      if (waiting.length >= ROWS_AT_ONCE) await flush()
    }
    await flush()
    return shared
  }

  #rowOf({ incarnation }: StreamRow, row: SegmentRow): SegmentRow {
    const state = row.state === 'archived' ? 'cold' : row.state
    if (state !== 'cold' && state !== 'gap')
      throw new StratalogError(
        'conflict',
        `segment ${row.segment} of ${this.#source.name} became ${row.state} while it was cloned: nothing was made, try again`,
        { retryable: true, found: row.state },
      )
    const object = state === 'gap' ? null : row.object
    const evictedMs = state === 'gap' ? row.evictedMs : this.#context.ledger.clock.nowMs()
    const own = { incarnation, state, object, evictedMs, ledgerId: null, recalledUntilMs: null, version: 0 }
    return { ...row, ...own }
  }

  /** Told to the archive with the clone: from there it is restored with the same gaps. */
  async #gap(row: SegmentRow): Promise<void> {
    const { index } = this.#context
    const { incarnation, segment, gapReason: reason = 'corrupt' } = row
    await noteRestoredGap(index, incarnation, { first: segment, last: segment, reason })
    await index.adoptSegment(row, { reason, last: segment })
  }

  async #copyPart(stream: StreamRow, part: RestorableSegment): Promise<void> {
    const { ledger, index, random } = this.#context
    const named = { ...stream, name: this.#request.name }
    const { policy } = await this.#context.policy(named)
    const quorum = policyQuorum(policy, ledger.stores.all().length)
    const target = { ledger, index, random, quorum: () => quorum }
    await restoreSegment(target, this.#archive, named, part, this.#request.signal)
  }

  /** The clone is whole; while the archive does not answer this is a debt. */
  async #tell(stream: StreamRow): Promise<boolean> {
    try {
      await announceStream(this.#context, this.#archive, stream)
      return true
    } catch (error) {
      if (!isStratalogError(error)) throw error
      this.#context.ledger.logger.warn(
        { err: error, stream: stream.name },
        'the archive was not told of a clone, it is tried again',
      )
      return false
    }
  }
}
