import { putControl, readControls } from '../archive/control-objects.js'
import { deletedMs, holdBody, standingHolds } from '../archive/decisions.js'
import { present } from '../src/model/assert.js'
import { isBeingCloned, sharedBelow } from '../src/model/clone.js'
import type { Dlsn } from '../src/model/dlsn.js'
import { isStratalogError, type StratalogError } from '../src/model/errors.js'
import type { Incarnation, StreamRow } from '../src/model/segment.js'
import type { ArchiveStore } from '../src/ports/archive-store.js'
import type { Lease } from '../src/ports/coordination.js'
import { nextNumber } from './announce.js'
import type { TieringContext } from './context.js'
import { removeSegments } from './delete.js'
import { decidedAlone } from './holds.js'
import { confirmOwner } from './ownership.js'

/**
 * The fact that lists the pins this log has put, each with the clone it is for. It is noted before the pin is put and
 * forgotten after it is released, so that no crash leaves a pin nobody would ever release.
 */
const PINS_FACT = 'clone-pins'
/** One clone at a time is begun, finished or cleared away. */
const CLONES_LEASE = 'clones'

/** A clone, whether it was finished or not, and the stream that is pinned for it. */
export interface ClonePin {
  readonly clone: Incarnation
  readonly parent: Incarnation
}

/** Runs what begins a clone, or clears up behind one. Rejects with `conflict` where somebody else is at it that long. */
export async function clonesAlone<T>(
  { coordination, logId }: TieringContext,
  waitMs: number,
  work: (lease: Lease) => Promise<T>,
): Promise<T> {
  const lease = await coordination.acquire(CLONES_LEASE, { holder: logId, waitMs })
  try {
    return await work(lease)
  } finally {
    await lease.release()
  }
}

async function pinsOf({ index }: Pick<TieringContext, 'index'>): Promise<ClonePin[]> {
  return JSON.parse((await index.fact(PINS_FACT)) ?? '[]') as ClonePin[]
}

/** Remembers that a pin is going to be put; the lease of clones is held. */
export async function notePin({ index }: TieringContext, pin: ClonePin): Promise<void> {
  await index.setFact(PINS_FACT, JSON.stringify([...(await pinsOf({ index })), pin]))
}

/** Forgets a clone that shares nothing: no pin was put for it, or it was released. */
export async function forgetPin({ index }: TieringContext, { clone }: ClonePin): Promise<void> {
  const left = (await pinsOf({ index })).filter((pin) => pin.clone !== clone)
  await index.setFact(PINS_FACT, JSON.stringify(left))
}

function pinId(clone: Incarnation): string {
  return `clone-${clone}`
}

/** What of a stream is to stay as it is for a clone: `until` is exclusive. */
export interface PinnedRange {
  readonly from: Dlsn
  readonly until: Dlsn
}

/** Puts the pin of a clone on its parent; from then on no trim, delete or collection passes the range. */
export async function putPin(
  context: TieringContext,
  archive: ArchiveStore,
  { clone, parent }: ClonePin,
  { from, until }: PinnedRange,
  name: string,
): Promise<void> {
  await confirmOwner(context, archive)
  const controls = await readControls(archive, parent)
  const body = holdBody({
    id: pinId(clone),
    from: { dlsn: from },
    until: { dlsn: until },
    reason: `${name} is a clone of it`,
    atMs: context.ledger.clock.nowMs(),
    by: clone,
  })
  await putControl(archive, parent, nextNumber(controls), 'pin', body, context.random)
}

/** Ends the pin of a clone that shares nothing any more. Doing it twice changes nothing. */
export async function releasePin(
  context: TieringContext,
  archive: ArchiveStore,
  pin: ClonePin,
): Promise<void> {
  await confirmOwner(context, archive)
  const controls = await readControls(archive, pin.parent)
  const id = pinId(pin.clone)
  if (standingHolds(controls).some((one) => one.kind === 'pin' && one.id === id)) {
    // Of the pin alone: a legal hold may have the same id.
    const body = { id, of: 'pin', atMs: context.ledger.clock.nowMs() }
    await putControl(archive, pin.parent, nextNumber(controls), 'release', body, context.random)
  }
  await forgetPin(context, pin)
}

/**
 * Clears up behind clones: one whose making was cut short is deleted, and the pin of one that is gone, or trimmed past
 * what it shared, is released. What can't be known keeps its pin (invariant 8). Returns how many pins are left. While
 * a clone is being made nothing is cleared up.
 */
export async function settlePins(context: TieringContext, signal: AbortSignal): Promise<number> {
  const known = (await pinsOf(context)).length
  if (known === 0 || context.archive === null) return known
  try {
    return await clonesAlone(context, 0, () => settleUnder(context, signal))
  } catch (error) {
    if (isStratalogError(error, 'conflict')) return known
    throw error
  }
}

/** The same for who holds the lease of clones. */
export async function settleUnder(context: TieringContext, signal: AbortSignal): Promise<number> {
  if (context.archive === null) return (await pinsOf(context)).length
  let left = 0
  let first: StratalogError | null = null
  for (const pin of await pinsOf(context)) {
    signal.throwIfAborted()
    try {
      if (!(await settlePin(context, pin, signal))) left += 1
    } catch (error) {
      signal.throwIfAborted()
      if (!isStratalogError(error)) throw error
      // It may be its archive alone that does not answer: the others are cleared up.
      first ??= error
    }
  }
  if (first !== null) throw first
  return left
}

/** False: it is still needed. */
async function settlePin(context: TieringContext, pin: ClonePin, signal: AbortSignal): Promise<boolean> {
  // A clone lies where its parent does.
  const archive = await present(context.archive, 'archive')(pin.parent)
  if (!(await sharesNothing(context, archive, pin, signal))) return false
  const parent = await context.index.stream(pin.parent)
  const release = () => releasePin(context, archive, pin)
  await (parent === null ? release() : decidedAlone(context, parent, release, signal))
  return true
}

async function sharesNothing(
  context: TieringContext,
  archive: ArchiveStore,
  { clone }: ClonePin,
  signal: AbortSignal,
): Promise<boolean> {
  const { index } = context
  const row = await index.stream(clone)
  if (row === null) return isGone(archive, clone, signal)
  if (isBeingCloned(row)) {
    await clearUnfinished(context, row, signal)
    return true
  }
  const deleted = await index.fact(`deleted/${clone}`)
  if (deleted !== null) return false
  const shared = sharedBelow(row.parent)
  return shared === null || (row.trimmedBelow !== null && row.trimmedBelow.segment >= shared)
}

/** The index does not know the clone: it was never made, or the archive says that it was deleted on purpose. */
async function isGone(archive: ArchiveStore, clone: Incarnation, signal: AbortSignal): Promise<boolean> {
  const controls = await readControls(archive, clone, undefined, signal)
  return controls.length === 0 || deletedMs(controls) !== null
}

/**
 * Nobody but its maker ever saw it. Its rows go first and the stream last: while any is there it is known for what it
 * is, and the archive, which never heard of it, need not be told of its end.
 */
async function clearUnfinished(context: TieringContext, row: StreamRow, signal: AbortSignal): Promise<void> {
  const { index, ledger } = context
  await removeSegments(context, row, signal)
  await index.deleteStream(row.incarnation, row.version, ledger.clock.nowMs())
  await index.removeStream(row.incarnation)
}
