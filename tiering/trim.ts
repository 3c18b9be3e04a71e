import { ownerFactFor } from '../archive/bindings.js'
import { putControl, readControls, trimmedBelow } from '../archive/control-objects.js'
import { assert, present } from '../src/model/assert.js'
import { Dlsn } from '../src/model/dlsn.js'
import { isStratalogError, StratalogError } from '../src/model/errors.js'
import { isClosed, type SegmentRow, type StreamRow } from '../src/model/segment.js'
import type { ArchiveStore } from '../src/ports/archive-store.js'
import type { Lease } from '../src/ports/coordination.js'
import { nextNumber } from './announce.js'
import type { TieringContext } from './context.js'
import { ControlsCache } from './controls-cache.js'
import { forgetTrimmed, releaseLedger, releaseObject } from './evict.js'
import { allHolds, decidedAlone, firstHeld, type StandingHold } from './holds.js'
import { confirmOwner } from './ownership.js'
import { withdrawMarkers } from './trim-markers.js'

/** Segments ended with one marker; a longer end takes several. */
const ROWS_AT_ONCE = 1_000
/** A stream whose row changes so often while one trim is decided is left to the next try. */
const DECIDE_ROUNDS_MAX = 3

/** What a trim comes to: what goes, and what keeps the rest. */
export interface WeighedTrim {
  /** Where history begins after it; null: nothing changes. */
  readonly below: Dlsn | null
  /** Whole segments below, oldest first. */
  readonly rows: readonly SegmentRow[]
  /** What stops it short of what was asked; null: nothing does. */
  readonly held: { readonly segment: bigint; readonly hold: StandingHold } | null
  /** There is more to be trimmed than fits one marker. */
  readonly more: boolean
}

/**
 * Ends the old end of a stream, up to and with segment `through`, in both tiers; returns how many segments that were.
 * Order: one marker in the archive, so that the archive alone knows it was ended on purpose; the index; then the
 * copies, oldest first. A crash after the marker repeats it (the largest trim wins); after the index `settleDebts`
 * deletes what is left. Invariants 5 and 8.
 */
export async function trimThrough(
  context: TieringContext,
  lease: Lease,
  stream: StreamRow,
  through: bigint,
  signal: AbortSignal,
  answered: () => void,
): Promise<number> {
  const below = new Dlsn(through + 1n, 0n, 0n)
  const { rows } = await trimBelow(context, lease, stream, below, { signal, answered })
  return rows.length
}

/** How a trim is watched and ended. */
export interface TrimOptions {
  readonly signal: AbortSignal
  /** Called whenever stores or archive have answered. */
  readonly answered?: () => void
}

/**
 * The same below any DLSN, as far as holds let it: a segment in the middle of which it lies stays until all of it is
 * below, and readers begin at the DLSN. At most 1,000 segments; `more` says that it is to be called again.
 */
export async function trimBelow(
  context: TieringContext,
  lease: Lease,
  stream: StreamRow,
  asked: Dlsn,
  { signal, answered = () => {} }: TrimOptions,
): Promise<WeighedTrim> {
  const decided = await decidedAlone(
    context,
    stream,
    () => decideTrim(context, lease, stream, asked, signal, answered),
    signal,
  )
  await endRows(context, stream, decided.rows, { signal, answered })
  return decided
}

/** Whether a trim was decided and not carried out to its end. One look-up. */
export async function trimIsUnfinished(context: TieringContext, stream: StreamRow): Promise<boolean> {
  const below = stream.trimmedBelow
  const oldest = below === null ? null : await context.index.oldestSegment(stream.incarnation)
  return below !== null && oldest !== null && oldest.segment < below.segment
}

/**
 * Goes on with a trim that was decided and not carried out to its end: no policy asks again for one by hand. Returns
 * how many segments that were.
 */
export async function finishTrim(
  context: TieringContext,
  stream: StreamRow,
  signal: AbortSignal,
  answered: () => void = () => {},
): Promise<number> {
  const below = stream.trimmedBelow
  if (below === null) return 0
  const { rows } = await rowsBelow(context, stream, below)
  await endRows(context, stream, rows, { signal, answered })
  return rows.length
}

/** Rows first, all of them, so that what can't be deleted now is a debt; then the copies. */
async function endRows(
  context: TieringContext,
  stream: StreamRow,
  rows: readonly SegmentRow[],
  { signal, answered = () => {} }: TrimOptions,
): Promise<void> {
  const trimmed: SegmentRow[] = []
  for (const row of rows) {
    signal.throwIfAborted()
    trimmed.push(await context.index.updateSegment(row, { state: 'trimmed' }))
  }
  const controls = new ControlsCache(context)
  for (const row of trimmed) {
    signal.throwIfAborted()
    try {
      const released = await releaseLedger(context, row)
      await forgetTrimmed(context, await releaseObject(context, released, signal, controls))
    } catch (error) {
      // Held since it was decided, or not ours to delete, or not any more: it stays until that ends.
      if (!isStratalogError(error, 'refused')) throw error
      const segment = row.segment.toString()
      context.ledger.logger.warn({ err: error, stream: stream.name, segment }, 'a copy stays for now')
    }
    answered()
  }
}

/** What a trim below `asked` would do now. Changes nothing. */
export async function weighTrim(
  context: TieringContext,
  stream: StreamRow,
  asked: Dlsn,
  holds: readonly StandingHold[],
): Promise<WeighedTrim> {
  const { rows, cut, more } = await rowsBelow(context, stream, asked)
  const held = firstHeld(stream, cut === null ? rows : [...rows, cut], holds)
  const free = held === null ? rows : rows.filter((row) => row.segment < held.row.segment)
  const last = free.at(-1)
  const whole = last === undefined ? null : new Dlsn(last.segment + 1n, 0n, 0n)
  // Beyond a hold, and beyond what one marker ends, history goes on where the last whole segment ended.
  const wanted = held === null && !more ? asked : whole
  const moves = wanted !== null && (stream.trimmedBelow === null || stream.trimmedBelow.compare(wanted) < 0)
  return {
    below: moves || free.length > 0 ? wanted : null,
    rows: free,
    held: held === null ? null : { segment: held.row.segment, hold: held.hold },
    more: more && held === null,
  }
}

/** Closed segments wholly below, and the one that `asked` cuts through. */
async function rowsBelow(
  context: TieringContext,
  stream: StreamRow,
  asked: Dlsn,
): Promise<{ rows: SegmentRow[]; cut: SegmentRow | null; more: boolean }> {
  const oldest = await context.index.oldestSegment(stream.incarnation)
  const rows: SegmentRow[] = []
  if (oldest === null) return { rows, cut: null, more: false }
  const page = await context.index.listSegments(stream.incarnation, oldest.segment, ROWS_AT_ONCE + 1)
  for (const row of page) {
    if (row.segment > asked.segment || new Dlsn(row.segment, 0n, 0n).compare(asked) >= 0) break
    if (row.segment === asked.segment && !endsBelow(row, asked)) return { rows, cut: row, more: false }
    assert(isClosed(row.state), `segment ${row.segment} is ${row.state} and can't be trimmed`)
    if (row.state === 'trimmed') continue
    if (rows.length === ROWS_AT_ONCE) return { rows, cut: null, more: true }
    rows.push(row)
  }
  return { rows, cut: null, more: false }
}

/** Whether a segment holds no record at or above a position in it. */
export function endsBelow(row: SegmentRow, asked: Dlsn): boolean {
  if (!isClosed(row.state)) return false
  return asked.compare(new Dlsn(row.segment, row.lastEntryId, row.lastSlot)) > 0
}

/** The marker and the index, while no hold can come between; weighed again where the stream changes meanwhile. */
async function decideTrim(
  context: TieringContext,
  lease: Lease,
  stream: StreamRow,
  asked: Dlsn,
  signal: AbortSignal,
  answered: () => void,
): Promise<WeighedTrim> {
  for (let round = 1; ; round += 1) {
    try {
      return await decideOnce(context, lease, stream, asked, signal, answered)
    } catch (error) {
      const changed = isStratalogError(error, 'conflict') && error.expected !== undefined
      if (!changed || round >= DECIDE_ROUNDS_MAX) throw error
    }
  }
}

async function decideOnce(
  context: TieringContext,
  lease: Lease,
  stream: StreamRow,
  asked: Dlsn,
  signal: AbortSignal,
  answered: () => void,
): Promise<WeighedTrim> {
  // Read before the holds: where other processes put them too, one that comes after changes the stream's version, and
  // the trim below is refused.
  const looked = present(await context.index.stream(stream.incarnation), 'stream')
  const holds = await allHolds(context, stream, signal)
  const weighed = await weighTrim(context, stream, asked, holds)
  if (context.archive === null && weighed.rows.some((row) => row.object !== null)) {
    throw new StratalogError(
      'archive_missing',
      `${stream.name} has history in an archive and none is configured: nothing is trimmed without its marker there; name the archive again`,
    )
  }
  if (context.archive !== null && weighed.held !== null)
    await withdrawMarkers(context, await context.archive(stream.incarnation), stream, weighed.held, signal)
  if (weighed.below === null) return weighed
  if (context.archive !== null)
    await markTrimmed(
      context,
      await context.archive(stream.incarnation),
      stream,
      weighed.below,
      asked,
      signal,
    )
  answered()
  lease.lost.throwIfAborted()
  // Forward only, as in the archive: a crash may have left rows below a mark that already lies further on. An unreadable
  // or changed row means that nothing is deleted.
  if (looked.trimmedBelow === null || looked.trimmedBelow.compare(weighed.below) < 0) {
    await context.index.updateStream(stream.incarnation, looked.version, { trimmedBelow: weighed.below })
  }
  return weighed
}

/**
 * Puts the marker, then reads the holds again: one that another process put in the archive meanwhile may have been put
 * in the belief that it came first. Whoever puts one there reads the trims after it, so of the two at least one sees
 * the other: here the marker is withdrawn, before anything went by it (decision 0020).
 */
async function markTrimmed(
  context: TieringContext,
  archive: ArchiveStore,
  stream: StreamRow,
  below: Dlsn,
  asked: Dlsn,
  signal: AbortSignal,
): Promise<void> {
  // One that was taken over is another's to trim; in one that nobody owns yet a marker does no harm.
  const owned = await ownerFactFor(context.index, stream.incarnation)
  if ((await context.index.fact(owned)) !== null) await confirmOwner(context, archive)
  const before = await readControls(archive, stream.incarnation, undefined, signal)
  const there = trimmedBelow(before)
  if (there === null || there.compare(below) < 0) {
    const body = { below: below.toString() }
    await putControl(archive, stream.incarnation, nextNumber(before), 'trim', body, context.random)
  }
  const again = await weighTrim(context, stream, asked, await allHolds(context, stream, signal))
  if (again.below !== null && again.below.compare(below) >= 0) return
  if (again.held !== null) await withdrawMarkers(context, archive, stream, again.held, signal)
  throw new StratalogError(
    'conflict',
    `${again.held?.hold.id ?? 'a hold'} was put on ${stream.name} while it was being trimmed: nothing was, try again`,
    { retryable: true, found: again.held?.hold.id },
  )
}
