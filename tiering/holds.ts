import { type ControlObject, readControls } from '../archive/control-objects.js'
import { binds, type Hold, standingHolds } from '../archive/decisions.js'
import { StratalogError } from '../src/model/errors.js'
import type { KeptHold } from '../src/model/hold.js'
import type { ResolvedPolicy } from '../src/model/policy.js'
import type { SegmentRow, StreamRow } from '../src/model/segment.js'
import type { Lease } from '../src/ports/coordination.js'
import type { TieringContext } from './context.js'

/** How long a change of holds waits for a trim that is being decided: two requests to an archive that hangs. */
const DECIDED_WAIT_MS = 30_000

/** A hold that binds now, with who put it: `stream` by hand, `archive` known only there, else a policy's origin. */
export interface StandingHold extends Hold {
  readonly origin: string
}

/** Holds of the policy: they stand while the policy says them. */
export function policyHolds({ policy, origins }: ResolvedPolicy): StandingHold[] {
  const origin = origins.holds
  return policy.holds.map(({ id, from, until, reason }) => ({
    kind: 'hold',
    id,
    from,
    until,
    reason,
    atMs: 0,
    by: null,
    origin,
  }))
}

/**
 * Holds that stand as far as this log knows without asking the archive: those put by hand, and its policy's. `corrupt`
 * where they can't be read.
 */
export async function knownHolds(context: TieringContext, stream: StreamRow): Promise<StandingHold[]> {
  const kept = await context.index.holds(stream.incarnation)
  const put = kept.filter(({ releasedMs }) => releasedMs === null).map(putByHand)
  return [...put, ...policyHolds(await context.policy(stream))]
}

function putByHand({ releasedMs: _, ...hold }: KeptHold): StandingHold {
  return { kind: 'hold', ...hold, by: null, origin: 'stream' }
}

/**
 * Every hold and pin that stands, the archive's own included: what whoever deletes must weigh. Rejects where any can't
 * be read (invariant 8).
 */
export async function allHolds(
  context: TieringContext,
  stream: StreamRow,
  signal?: AbortSignal,
): Promise<StandingHold[]> {
  if (context.archive === null) return knownHolds(context, stream)
  const controls = await readControls(
    await context.archive(stream.incarnation),
    stream.incarnation,
    undefined,
    signal,
  )
  return weighedHolds(context, stream, controls)
}

/** The same with control objects that were read already. */
export async function weighedHolds(
  context: TieringContext,
  stream: StreamRow,
  controls: readonly ControlObject[],
): Promise<StandingHold[]> {
  const known = await knownHolds(context, stream)
  const kept = await context.index.holds(stream.incarnation)
  // What was put here counts as it is here: one that was released ends there as soon as the archive is told. Another
  // log's of the same id is another hold.
  const isKept = (hold: Hold) => kept.some(({ id, atMs }) => id === hold.id && atMs === hold.atMs)
  const only = standingHolds(controls).filter((hold) => hold.kind === 'pin' || !isKept(hold))
  return [...known, ...only.map((hold) => ({ ...hold, origin: 'archive' }))]
}

/** The first of some segments, oldest first, that a hold binds, with that hold; null: none is held. */
export function firstHeld(
  stream: Pick<StreamRow, 'txidMode'>,
  rows: readonly SegmentRow[],
  holds: readonly StandingHold[],
): { readonly row: SegmentRow; readonly hold: StandingHold } | null {
  for (const row of rows) {
    const hold = holds.find((one) => bindsRow(stream, row, one))
    if (hold !== undefined) return { row, hold }
  }
  return null
}

/** Whether a hold binds the segment of a row. */
export function bindsRow(stream: Pick<StreamRow, 'txidMode'>, row: SegmentRow, hold: Hold): boolean {
  // Of a gap nothing is left to be kept.
  if (row.state === 'gap') return false
  const { segment, firstTxid, lastTxid, openedMs, sealedMs } = row
  // A row made again from an archived name does not know when the segment was opened: it says when it was completed.
  const opened = sealedMs !== null && openedMs >= sealedMs ? null : openedMs
  return binds(hold, { segment, firstTxid, lastTxid, openedMs: opened, sealedMs }, stream.txidMode)
}

/**
 * Runs what decides on the end of history, or changes what is held, while nobody else does either: a hold put
 * meanwhile waits, and is told what was trimmed. Trims, drops, deletes and changes of holds are decided in here; what
 * they then delete is deleted outside. `conflict` (retryable) where somebody else is at it for long.
 */
export async function decidedAlone<T>(
  context: TieringContext,
  stream: StreamRow,
  work: (lease: Lease) => Promise<T>,
  signal?: AbortSignal,
): Promise<T> {
  const lease = await context.coordination.acquire(`holds/${stream.incarnation}`, {
    holder: context.logId,
    waitMs: DECIDED_WAIT_MS,
    ...(signal === undefined ? {} : { signal }),
  })
  try {
    return await work(lease)
  } finally {
    await lease.release()
  }
}

/** The error of what a hold forbids. */
export function heldError(stream: string, what: string, hold: StandingHold): StratalogError {
  const who = hold.kind === 'pin' ? `pin ${hold.id} of ${hold.by ?? 'another stream'}` : `hold ${hold.id}`
  return new StratalogError(
    'refused',
    `${who} binds ${what} of ${stream}: nothing of it is deleted until that is released (stratalog hold list ${stream})`,
    { found: hold.id },
  )
}
