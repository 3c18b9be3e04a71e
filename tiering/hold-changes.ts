import { ARCHIVE_OWNER_FACT, putControl, readControls } from '../archive/control-objects.js'
import { type Hold, type HoldEdge, holdBody, standingHolds } from '../archive/decisions.js'
import type { Dlsn } from '../src/model/dlsn.js'
import { isStratalogError, StratalogError } from '../src/model/errors.js'
import type { KeptHold, StreamHold } from '../src/model/hold.js'
import type { StreamRow } from '../src/model/segment.js'
import type { ArchiveStore } from '../src/ports/archive-store.js'
import { announceStream, nextNumber } from './announce.js'
import type { TieringContext } from './context.js'
import { refuseBreakable } from './foreign.js'
import { allHolds, decidedAlone, knownHolds, type StandingHold } from './holds.js'
import { withdrawHeldMarkers } from './trim-markers.js'

/** Holds of one stream: they are weighed for every segment that is trimmed. */
const HOLDS_MAX = 1_000
const ID = /^[\p{L}\p{N}][\p{L}\p{N}._:@/+-]{0,119}$/u

/** What somebody wants held. */
export type HoldRequest = Omit<StreamHold, 'atMs'>

/** A hold that was put, and what it came too late for. */
export interface PutHold {
  readonly hold: StandingHold
  /** History below this had ended when the hold was put; null: none had. */
  readonly trimmedBelow: Dlsn | null
  /** Whether the archive knows of the hold: else it is told when it answers. */
  readonly told: boolean
}

/**
 * Puts a hold: on the stores, in the index, then in the archive, which is told later where it does not answer. Once
 * this resolves nothing the hold binds is trimmed, dropped or collected; what was trimmed before is told. The same
 * hold again is fine; another range under its id is `refused`: to make one shorter is to release it. So is one that
 * writers of others may break.
 */
export async function putHold(
  context: TieringContext,
  stream: StreamRow,
  request: HoldRequest,
): Promise<PutHold> {
  checkHold(request)
  await refuseBreakable(context, stream, request)
  const hold = await decidedAlone(context, stream, async () => {
    const kept = await context.index.holds(stream.incarnation)
    const standing = kept.find(({ id, releasedMs }) => id === request.id && releasedMs === null)
    if (standing !== undefined && sameRange(standing, request)) return standing
    if (standing !== undefined) throw taken(stream, standing.id)
    // Its release would be forgotten with it, and the archive would hold the old range for ever.
    if (context.archive !== null && kept.some(({ id }) => id === request.id)) throw untold(stream, request.id)
    if (kept.length >= HOLDS_MAX && !(await forgetsReleased(context, stream, kept)))
      throw new StratalogError('refused', `${stream.name} has ${HOLDS_MAX} holds: release what has ended`, {
        expected: HOLDS_MAX,
      })
    const policy = (await knownHolds(context, stream)).find(({ id }) => id === request.id)
    if (policy !== undefined) throw taken(stream, policy.id)
    const fresh = { ...request, atMs: context.ledger.clock.nowMs() }
    await context.index.putHold(stream.incarnation, fresh)
    return fresh
  })
  const told = await tellSoon(context, stream)
  const row = await context.index.stream(stream.incarnation)
  const { id, from, until, reason, atMs } = hold
  const standing = { kind: 'hold', id, from, until, reason, atMs, by: null, origin: 'stream' } as const
  return { hold: standing, trimmedBelow: row?.trimmedBelow ?? null, told }
}

/** Released holds are kept until the archive knows of it. Where there never was one, nobody is to be told. */
async function forgetsReleased(
  { archive, index }: TieringContext,
  { incarnation }: StreamRow,
  kept: readonly KeptHold[],
): Promise<boolean> {
  if (archive !== null || (await index.fact(ARCHIVE_OWNER_FACT)) !== null) return false
  if (kept.every(({ releasedMs }) => releasedMs === null)) return false
  await index.holdsTold(incarnation)
  return true
}

/**
 * Ends a hold; returns what still stands. `not_found` names what stands, `refused` what is not released this way: a
 * hold of the policy, and a pin, which ends with the stream that shares the objects.
 */
export async function releaseHold(
  context: TieringContext,
  stream: StreamRow,
  id: string,
): Promise<StandingHold[]> {
  await decidedAlone(context, stream, async () => {
    const known = await knownHolds(context, stream)
    if (!known.some((hold) => hold.id === id && hold.origin === 'stream')) {
      const found = (await holdsAsFarAsKnown(context, stream)).find((hold) => hold.id === id)
      if (found === undefined) throw noSuchHold(stream, id, known)
      if (found.kind === 'pin' || found.origin !== 'archive') throw notByHand(stream, found)
      // Only the archive knows it: the release needs something here to be remembered by until the archive is told.
      const { from, until, reason, atMs } = found
      await context.index.putHold(stream.incarnation, { id, from, until, reason, atMs })
    }
    await context.index.releaseHold(stream.incarnation, id, context.ledger.clock.nowMs())
  })
  await tellSoon(context, stream)
  return knownHolds(context, stream)
}

/** Everything that stands, also while the archive does not answer: then what this log knows. */
export async function holdsAsFarAsKnown(context: TieringContext, stream: StreamRow): Promise<StandingHold[]> {
  try {
    return await allHolds(context, stream)
  } catch (error) {
    if (!isStratalogError(error) || !error.retryable) throw error
    return knownHolds(context, stream)
  }
}

/** Tells the archive what it does not know of holds. Returns how many streams are left to be told of. */
export async function settleHolds(context: TieringContext, signal?: AbortSignal): Promise<number> {
  if (context.archive === null) return 0
  let left = 0
  for (const incarnation of await context.index.streamsOwingHolds()) {
    signal?.throwIfAborted()
    const stream = await context.index.stream(incarnation)
    if (stream !== null && !(await tellSoon(context, stream, signal))) left += 1
  }
  return left
}

/** False: the archive does not answer, or is busy; it stays a debt. */
async function tellSoon(context: TieringContext, stream: StreamRow, signal?: AbortSignal): Promise<boolean> {
  if (context.archive === null) return false
  try {
    const archive = await context.archive(stream.incarnation)
    await decidedAlone(context, stream, () => tellHolds(context, archive, stream, signal), signal)
    return true
  } catch (error) {
    signal?.throwIfAborted()
    if (!isStratalogError(error)) throw error
    context.ledger.logger.warn(
      { err: error, stream: stream.name },
      'the archive was not told of a hold or its release, it is tried again',
    )
    return false
  }
}

/**
 * Puts what the archive lacks. Repeated after a crash it finds what was put and puts nothing twice. A hold's time tells
 * it from another one under its id, which another log put: that one stands beside it.
 */
async function tellHolds(
  context: TieringContext,
  archive: ArchiveStore,
  stream: StreamRow,
  signal?: AbortSignal,
): Promise<void> {
  await announceStream(context, archive, stream)
  const { incarnation } = stream
  for (const hold of await context.index.holds(incarnation)) {
    const controls = await readControls(archive, incarnation, undefined, signal)
    const there = standingHolds(controls).filter(({ id, kind }) => kind === 'hold' && id === hold.id)
    for (const { kind, body } of lacking(hold, there))
      await putControl(archive, incarnation, nextNumber(controls), kind, body, context.random)
  }
  await withdrawHeldMarkers(context, archive, stream, signal)
  await context.index.holdsTold(incarnation)
}

function lacking(hold: KeptHold, there: readonly Hold[]): { kind: 'hold' | 'release'; body: object }[] {
  const { releasedMs, ...put } = hold
  if (releasedMs === null) {
    const told = there.some(({ atMs }) => atMs === hold.atMs)
    return told ? [] : [{ kind: 'hold', body: holdBody({ ...put, by: null }) }]
  }
  // Of holds alone: a pin that somebody gave the same id goes on protecting what it shares.
  const body = { id: hold.id, atMs: releasedMs, of: 'hold' }
  return there.length === 0 ? [] : [{ kind: 'release', body }]
}

function checkHold({ id, from, until }: HoldRequest): void {
  if (!ID.test(id))
    throw new StratalogError(
      'invalid_argument',
      `"${id}" is no id of a hold: use letters, digits and . _ : @ / + -, at most 120, as case-4711`,
      { found: id },
    )
  if (from !== null && until !== null && !isBefore(from, until))
    throw new StratalogError(
      'invalid_argument',
      `hold ${id} ends where it begins or before: nothing would be held; turn from and until round`,
      { found: id },
    )
}

/** Edges of two kinds can't be compared, and any range of them may hold something. */
function isBefore(from: HoldEdge, until: HoldEdge): boolean {
  if ('dlsn' in from && 'dlsn' in until) return from.dlsn.compare(until.dlsn) < 0
  if ('txid' in from && 'txid' in until) return from.txid < until.txid
  if ('timeMs' in from && 'timeMs' in until) return from.timeMs < until.timeMs
  return true
}

function sameRange(one: HoldRequest, other: HoldRequest): boolean {
  const text = ({ from, until }: HoldRequest) =>
    JSON.stringify([from, until], (_, value: unknown) => (typeof value === 'bigint' ? `${value}` : value))
  return text(one) === text(other)
}

function taken({ name }: StreamRow, id: string): StratalogError {
  return new StratalogError(
    'refused',
    `${name} has a hold ${id} already, over another range or from its policy: give this one another id, they may overlap (stratalog hold list ${name})`,
    { found: id },
  )
}

function untold({ name }: StreamRow, id: string): StratalogError {
  return new StratalogError(
    'refused',
    `the archive has not been told yet that hold ${id} of ${name} was released: give this one another id, or try again when the archive answers (stratalog tier status)`,
    { retryable: true, found: id },
  )
}

function noSuchHold({ name }: StreamRow, id: string, standing: readonly Hold[]): StratalogError {
  const ids = standing.map((hold) => hold.id)
  const what = ids.length === 0 ? 'none stands' : `what stands: ${ids.slice(0, 10).join(', ')}`
  return new StratalogError('not_found', `${name} has no hold ${id}: ${what}`, { found: id, expected: ids })
}

function notByHand({ name }: StreamRow, hold: StandingHold): StratalogError {
  const how =
    hold.kind === 'pin'
      ? `${hold.id} is a pin: it ends with the stream that shares the objects, ${hold.by ?? 'unknown'}`
      : `hold ${hold.id} of ${name} stands in its policy (${hold.origin}): take it out there`
  return new StratalogError('refused', how, { found: hold.id })
}
