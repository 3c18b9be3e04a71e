import { contentDigestOf } from '../archive/object-index.js'
import { openSegmentObject } from '../archive/segment-reader.js'
import { committedKey } from '../archive/verify-archive.js'
import { entryHeaderBytes } from '../src/format/ledger-digest.js'
import { ask } from '../src/ledger/context.js'
import { LedgerWriter } from '../src/ledger/writer.js'
import { present } from '../src/model/assert.js'
import { Dlsn } from '../src/model/dlsn.js'
import { isStratalogError, StratalogError } from '../src/model/errors.js'
import { policyQuorum, type Quorum } from '../src/model/quorum.js'
import { isHot, type SegmentRow, type StreamRow } from '../src/model/segment.js'
import { formatBytes } from '../src/model/units.js'
import type { Lease } from '../src/ports/coordination.js'
import type { TieringContext } from './context.js'
import { releaseLedger } from './evict.js'
import { rowsIn, type SegmentRange, segmentsIn } from './ranges.js'
import { recallLease } from './recall-lease.js'
import {
  askThaw,
  forgetThawed,
  isWithin,
  noteFrozen,
  type SegmentSpan,
  segmentsOf,
  settleThaws,
} from './thaw.js'

/** Bytes of payloads read from the archive, written and under way at a time. */
const RECALL_READ_BYTES = 1024 * 1024
const UNDER_WAY_MAX = 8
/** Free space that a recall leaves on every store. */
const ROOM_LEFT_BYTES = 512 * 2 ** 20
const ROOM_LEFT_SHARE = 0.05
const LEASE_WAIT_MS = 1_000
/** How long a pass of the agent brings back what thawed before it goes on with other things. */
const PASS_MS = 20_000

/** What a recall is going to do, or has done so far. */
export interface RecallProgress {
  /** Segments brought back, of `segments` that have to be. */
  readonly done: number
  readonly segments: number
  readonly doneBytes: number
  readonly bytes: number
  /** Segments of the range that were hot anyway and stay until then. */
  readonly kept: number
  /** Segments of the range that are a gap: nothing to bring back. */
  readonly gaps: number
  /** Segments whose objects can't be read yet: the archive was asked, and the agent brings them back when they can. */
  readonly thawing: number
  /** The segment at hand; null: none. */
  readonly segment: bigint | null
  readonly untilMs: number
}

/** What a recall is told. */
export interface RecallRequest {
  readonly range: SegmentRange
  readonly untilMs: number
  readonly signal: AbortSignal
  /** Only say what would be done. */
  readonly dryRun?: boolean
}

/**
 * Brings cold segments of a range back into the hot tier until a time: the same entries under the same ids in a new
 * ledger, compared with the committed digest before the row says so. Those that are hot stay until then too. Yields as
 * it goes, first what there is to do; leaving it stops it, and run again it goes on behind the last whole segment.
 *
 * Order for each: ledger, row (`cold`, with the ledger and the time: being recalled), entries, digest, seal, row
 * (`archived`). A crash before the last leaves a row that owes the deletion of its ledger, as any cold one with a ledger.
 *
 * Objects that are not read at once are asked for before anything is copied, and noted before that: whatever ends this
 * recall, the agent goes on asking and brings them back (`settleRecalls`).
 */
export async function* recallRange(
  context: TieringContext,
  stream: StreamRow,
  { range, untilMs, signal, dryRun = false }: RecallRequest,
): AsyncGenerator<RecallProgress, void, undefined> {
  checkUntil(context, untilMs)
  const plan = await planRecall(context, stream, range, untilMs)
  const { policy } = await context.policy(stream)
  const quorum = policyQuorum(policy, context.ledger.stores.all().length)
  await checkRoom(context, stream, quorum, plan.bytes)
  yield plan
  if (dryRun || plan.segments + plan.kept === 0) return
  const lease = await recallLease(context, stream, LEASE_WAIT_MS)
  try {
    const { first, last } = segmentsIn(range)
    const end = last ?? present(await context.index.newestSegment(stream.incarnation), 'newest').segment
    const frozen = await frozenIn(context, stream, range, untilMs, signal)
    const thawing = segmentsOf(frozen)
    if (thawing > 0) yield { ...plan, thawing }
    if (thawing > 0 && thawing === plan.segments && plan.kept === 0) return
    // Before the first row, so that an index that is made again knows that the ledgers are meant to be there.
    await context.index.recordRecall(stream.incarnation, { first, last: end, untilMs })
    const state = { ...plan, thawing }
    for await (const row of rowsIn(context.index, stream.incarnation, range)) {
      signal.throwIfAborted()
      if (isHot(row)) await keepHot(context, row, untilMs)
      if (row.state !== 'cold' || isWithin(frozen, row.segment)) continue
      state.segment = row.segment
      for await (const bytes of recallSegment(context, lease, stream, row, quorum, untilMs, signal)) {
        state.doneBytes += bytes
        yield { ...state }
      }
      state.done += 1
      yield { ...state }
    }
    await forgetThawed(context, stream.incarnation, { first, last: end }, frozen)
    yield { ...state, segment: null }
  } finally {
    await lease.release()
  }
}

/** What of the range can't be read yet, asked for and noted. */
async function frozenIn(
  context: TieringContext,
  stream: StreamRow,
  range: SegmentRange,
  untilMs: number,
  signal: AbortSignal,
): Promise<readonly SegmentSpan[]> {
  if (context.archive === null) return []
  const archive = await context.archive(stream.incarnation)
  if (archive.thaw === undefined) return []
  const { incarnation } = stream
  const frozen = await askThaw(archive, rowsIn(context.index, incarnation, range), signal)
  await noteFrozen(context, incarnation, frozen, untilMs - context.ledger.clock.nowMs())
  return frozen
}

/**
 * Goes on with the recalls of a stream that wait until their objects can be read. `now`: somebody wants to know at once;
 * else each waits for its turn, and what takes long goes on in the next pass. True: there is more to do now.
 */
export async function settleRecalls(
  context: TieringContext,
  stream: StreamRow,
  options: { readonly now: boolean; readonly signal: AbortSignal; readonly answered: () => void },
): Promise<boolean> {
  const { clock } = context.ledger
  const { now, signal, answered } = options
  const { incarnation } = stream
  const untilMs = clock.monotonicMs() + (now ? Number.POSITIVE_INFINITY : PASS_MS)
  let more = false
  await settleThaws(context, incarnation, options, async (span, forMs) => {
    more ||= clock.monotonicMs() >= untilMs
    if (more) return
    more = await recallSpan(context, stream, span, { forMs, signal, answered, passUntilMs: untilMs })
  })
  return more
}

/** True: its time was over before it was done; what was brought back stays. */
async function recallSpan(
  context: TieringContext,
  stream: StreamRow,
  { first, last }: SegmentSpan,
  options: {
    readonly forMs: number
    readonly passUntilMs: number
    readonly signal: AbortSignal
    readonly answered: () => void
  },
): Promise<boolean> {
  const { clock } = context.ledger
  const range = { from: new Dlsn(first, 0n, 0n), until: new Dlsn(last + 1n, 0n, 0n) }
  const request = { range, untilMs: clock.nowMs() + options.forMs, signal: options.signal }
  let done = 0
  for await (const progress of recallRange(context, stream, request)) {
    options.answered()
    if (progress.done > done && clock.monotonicMs() >= options.passUntilMs) return true
    done = progress.done
    // Trimmed, gone, or hot by now: there is nothing to wait for.
    if (progress.segments === 0) await forgetThawed(context, stream.incarnation, { first, last })
  }
  return false
}

function checkUntil(context: TieringContext, untilMs: number): void {
  if (Number.isSafeInteger(untilMs) && untilMs > context.ledger.clock.nowMs()) return
  throw new StratalogError('invalid_argument', 'a recall ends at a time to come: say for how long, as 7d', {
    found: untilMs,
  })
}

async function planRecall(
  context: TieringContext,
  stream: StreamRow,
  range: SegmentRange,
  untilMs: number,
): Promise<RecallProgress> {
  const plan = {
    done: 0,
    segments: 0,
    doneBytes: 0,
    bytes: 0,
    kept: 0,
    gaps: 0,
    thawing: 0,
    segment: null,
    untilMs,
  }
  for await (const row of rowsIn(context.index, stream.incarnation, range)) {
    if (row.state === 'gap') plan.gaps += 1
    else if (isHot(row)) plan.kept += 1
    else if (row.state === 'cold') {
      plan.segments += 1
      plan.bytes += row.lengthBytes
    }
  }
  if (plan.segments > 0 && context.archive === null) {
    throw new StratalogError(
      'archive_missing',
      `what is to be recalled of ${stream.name} is in an archive and none is configured: name it again`,
    )
  }
  return plan
}

/** What comes back must not fill the disks that writers need. */
async function checkRoom(
  context: TieringContext,
  stream: StreamRow,
  quorum: Quorum,
  bytes: number,
): Promise<void> {
  if (bytes === 0) return
  const writable = await context.ledger.stores.writable()
  const statuses = await Promise.all(
    writable.map(({ id }) => ask(context.ledger, id, (store) => store.status())),
  )
  const copies = Math.min(quorum.copies, writable.length)
  const neededBytes = bytes * copies
  // Ledgers are spread over the stores that are there: the one with least room has to take its share.
  const shareBytes = neededBytes / Math.max(1, Math.min(quorum.ensemble, writable.length))
  const tight = statuses.find(
    ({ freeBytes, totalBytes }) =>
      freeBytes - shareBytes < Math.min(ROOM_LEFT_BYTES, ROOM_LEFT_SHARE * totalBytes),
  )
  if (tight === undefined) return
  throw new StratalogError(
    'store_full',
    `recalling ${formatBytes(bytes)} of ${stream.name} takes ${formatBytes(shareBytes)} on ${tight.location}, which has ${formatBytes(tight.freeBytes)} free: recall less of it, or free space`,
    { expected: shareBytes, found: tight.freeBytes },
  )
}

/** What is hot is not freed before that time; a row somebody else changes meanwhile is looked at again. */
async function keepHot(context: TieringContext, found: SegmentRow, untilMs: number): Promise<void> {
  for (let row: SegmentRow | null = found; row !== null && isHot(row); ) {
    if (row.recalledUntilMs !== null && row.recalledUntilMs >= untilMs) return
    try {
      await context.index.updateSegment(row, { recalledUntilMs: untilMs })
      return
    } catch (error) {
      if (!isStratalogError(error, 'conflict')) throw error
      row = await context.index.segment(found.incarnation, found.segment)
    }
  }
}

/** Yields bytes as they are on their way. */
async function* recallSegment(
  context: TieringContext,
  lease: Lease,
  stream: StreamRow,
  found: SegmentRow,
  quorum: Quorum,
  untilMs: number,
  signal: AbortSignal,
): AsyncGenerator<number, void, undefined> {
  // What an earlier try left: its ledger is not whole.
  const clean = await releaseLedger(context, found)
  const ledger = await LedgerWriter.create(context.ledger, {
    quorum,
    preceding: null,
    // Epoch 0: from an index that is made again only a closed one counts, and its epoch is the object's.
    segment: {
      incarnation: stream.incarnation,
      stream: stream.name,
      segment: found.segment,
      epoch: 0n,
      openedMs: found.openedMs,
      firstTxid: found.firstTxid,
      startSequenceId: found.startSequenceId,
    },
  })
  let row: SegmentRow | null = null
  let whole = false
  try {
    row = await context.index.updateSegment(clean, { ledgerId: ledger.ledgerId, recalledUntilMs: untilMs })
    const digest = yield* copyEntries(context, row, ledger, signal)
    if (digest !== row.contentDigest) throw anotherContent(stream, row, digest)
    const { lengthBytes } = await ledger.close()
    lease.lost.throwIfAborted()
    await context.index.updateSegment(row, { state: 'archived', lengthBytes })
    whole = true
  } finally {
    if (!whole) await giveUp(context, ledger, row)
  }
}

/** Leaves nothing of a recall that failed; what can't be cleaned up now is a debt of the row. */
async function giveUp(context: TieringContext, ledger: LedgerWriter, row: SegmentRow | null): Promise<void> {
  ledger.abandon(new StratalogError('closed', 'the recall was given up'))
  try {
    const fresh = row && (await context.index.segment(row.incarnation, row.segment))
    // The commit may have come through although its answer was lost: then the ledger is the segment's.
    if (fresh?.ledgerId === ledger.ledgerId && fresh.state === 'cold') await releaseLedger(context, fresh)
  } catch (error) {
    context.ledger.logger.warn(
      { err: error, ledger: ledger.ledgerId.toString() },
      'what a recall left is cleaned up later',
    )
  }
}

async function* copyEntries(
  context: TieringContext,
  row: SegmentRow,
  ledger: LedgerWriter,
  signal: AbortSignal,
): AsyncGenerator<number, string, undefined> {
  const archive = await present(context.archive, 'archive')(row.incarnation)
  const committed = present(row.object, 'object of a cold segment')
  const object = await openSegmentObject(archive, committed)
  const digest = await contentDigestOf(archive, committedKey(committed.key), signal)
  const room = entryHeaderBytes(ledger.digestType)
  const underWay: Promise<unknown>[] = []
  for (let next = 0n; next <= object.lastEntryId; ) {
    const entries = await object.readEntries(next, RECALL_READ_BYTES, signal)
    let bytes = 0
    for (const { entryId, payload } of entries) {
      digest.entry(entryId, payload)
      const buffer = Buffer.allocUnsafe(room + payload.length)
      buffer.set(payload, room)
      const written = ledger.append(buffer, payload.length)
      // The rejection is seen where it is awaited; until then it must not count as unhandled.
      written.catch(() => {})
      underWay.push(written)
      bytes += payload.length
    }
    next = present(entries.at(-1), 'an entry').entryId + 1n
    while (underWay.length > UNDER_WAY_MAX) await underWay.shift()
    yield bytes
  }
  await Promise.all(underWay)
  return digest.hex()
}

function anotherContent(stream: StreamRow, row: SegmentRow, found: string): StratalogError {
  return new StratalogError(
    'corrupt',
    `the object of segment ${row.segment} of ${stream.name} does not hold what was committed: it stays as it is, and nothing was recalled from it`,
    { expected: row.contentDigest, found },
  )
}
