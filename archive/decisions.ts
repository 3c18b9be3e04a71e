import { Dlsn } from '../src/model/dlsn.js'
import type { HoldEdge } from '../src/model/hold.js'
import { type ControlObject, damagedControl } from './control-objects.js'

/*
 * What the control objects of one stream amount to, beside its name and its trim (control-objects.ts): what is held,
 * what is a gap, whether it ended. Pure functions over what `readControls` returned. One that does not parse is
 * `corrupt`, never left out: a hold that is overlooked costs data (invariant 8).
 *
 *   gap      first, last: segments, both included · reason · atMs
 *   hold     id · from, until: an edge or null · reason: text or null · atMs
 *   pin      as hold; `by` names the incarnation that shares the objects of this one
 *   release  id: of the hold or pin that ends; it ends every one of that id with a lower number · of, where it is
 *            there: `hold` or `pin`, it ends only those
 *   policy   policy: the stream's own as JSON text, or null: it has none any more · atMs; the newest counts
 *   end      atMs · nextSequenceId, lastTxid: what a stream that went on would go on from
 *   delete   atMs
 *
 * An edge is { dlsn } | { txid } | { timeMs }: what was asked for, so that it means the same whatever is archived later.
 */

export type { HoldEdge } from '../src/model/hold.js'

/** A range of history that is neither trimmed nor collected while it stands: `from` inclusive, `until` exclusive. */
export interface Hold {
  readonly kind: 'hold' | 'pin'
  readonly id: string
  /** Null: from the beginning. */
  readonly from: HoldEdge | null
  /** Null: for ever. */
  readonly until: HoldEdge | null
  readonly reason: string | null
  readonly atMs: number
  /** Who shares the objects; null for holds. */
  readonly by: string | null
}

/** Segments that are not to be had, both ends included. */
export interface ArchivedGap {
  readonly first: bigint
  readonly last: bigint
  readonly reason: 'dropped' | 'corrupt' | 'purged'
  readonly atMs: number
}

/** The end of a stream for ever, with what its next record would have got. */
export interface StreamEnd {
  readonly atMs: number
  readonly nextSequenceId: bigint
  readonly lastTxid: bigint
}

/** What of a segment decides whether a hold binds it. */
export interface HeldSegment {
  readonly segment: bigint
  readonly firstTxid: bigint
  readonly lastTxid: bigint
  /** Time of its first append; null: not known, which binds. */
  readonly openedMs: number | null
  /** Completion time; null while it is open. */
  readonly sealedMs: number | null
}

/**
 * Holds and pins that no release names, in order of their numbers. Several of one id stand beside one another: one that
 * took the place of another would shorten what is held, and only a release ends a hold.
 */
export function standingHolds(controls: readonly ControlObject[]): Hold[] {
  const standing = new Map<string, { readonly at: number; readonly hold: Hold }[]>()
  for (const [at, control] of controls.entries()) {
    if (control.kind !== 'hold' && control.kind !== 'pin' && control.kind !== 'release') continue
    const id = textOf(control, 'id')
    const before = standing.get(id) ?? []
    if (control.kind !== 'release') standing.set(id, [...before, { at, hold: holdOf(control) }])
    else {
      const of = endedKind(control)
      standing.set(id, of === null ? [] : before.filter(({ hold }) => hold.kind !== of))
    }
  }
  return [...standing.values()]
    .flat()
    .sort((a, b) => a.at - b.at)
    .map(({ hold }) => hold)
}

/** Null: a release ends holds and pins of its id. */
function endedKind(release: ControlObject): Hold['kind'] | null {
  const { of = null } = release.body
  if (of === null || of === 'hold' || of === 'pin') return of
  throw bad(release, 'of')
}

/** Whether any of the segment's records may lie in the range of the hold. What is not known binds (invariant 8). */
export function binds(hold: Hold, segment: HeldSegment, txidMode: 'ms' | 'custom'): boolean {
  return !endsBefore(segment, hold.from, txidMode) && !beginsAtOrAfter(segment, hold.until, txidMode)
}

function endsBefore(segment: HeldSegment, edge: HoldEdge | null, txidMode: 'ms' | 'custom'): boolean {
  if (edge === null) return false
  if ('dlsn' in edge) return segment.segment < edge.dlsn.segment
  if (segment.sealedMs === null) return false
  if ('txid' in edge) return segment.lastTxid < edge.txid
  return (txidMode === 'ms' ? Number(segment.lastTxid) : segment.sealedMs) < edge.timeMs
}

function beginsAtOrAfter(segment: HeldSegment, edge: HoldEdge | null, txidMode: 'ms' | 'custom'): boolean {
  if (edge === null) return false
  if ('dlsn' in edge) {
    const { segment: at, entry, slot } = edge.dlsn
    return segment.segment > at || (segment.segment === at && entry === 0n && slot === 0n)
  }
  if ('txid' in edge) return segment.firstTxid >= edge.txid
  if (txidMode === 'ms') return Number(segment.firstTxid) >= edge.timeMs
  return segment.openedMs !== null && segment.openedMs >= edge.timeMs
}

/** Committed gaps in order of their numbers; they may overlap. */
export function gapsOf(controls: readonly ControlObject[]): ArchivedGap[] {
  return controls
    .filter(({ kind }) => kind === 'gap')
    .map((control) => {
      const reason = textOf(control, 'reason')
      if (reason !== 'dropped' && reason !== 'corrupt' && reason !== 'purged') throw bad(control, 'reason')
      const first = integerOf(control, 'first')
      const last = integerOf(control, 'last')
      if (first < 1n || last < first) throw bad(control, 'last')
      return { first, last, reason, atMs: timeOf(control, 'atMs') }
    })
}

/** How the stream ended; null: it did not, as far as the archive knows. */
export function endOf(controls: readonly ControlObject[]): StreamEnd | null {
  const control = controls.findLast(({ kind }) => kind === 'end')
  if (control === undefined) return null
  return {
    atMs: timeOf(control, 'atMs'),
    nextSequenceId: integerOf(control, 'nextSequenceId'),
    lastTxid: integerOf(control, 'lastTxid'),
  }
}

/** The stream's own policy as JSON text; null: it has none, as far as the archive knows. */
export function policyOf(controls: readonly ControlObject[]): string | null {
  const control = controls.findLast(({ kind }) => kind === 'policy')
  return control === undefined || control.body.policy === null ? null : textOf(control, 'policy')
}

/** When the stream was deleted on purpose; null: it was not. */
export function deletedMs(controls: readonly ControlObject[]): number | null {
  const control = controls.findLast(({ kind }) => kind === 'delete')
  return control === undefined ? null : timeOf(control, 'atMs')
}

/** The body of a hold or pin as `putControl` takes it. */
export function holdBody(hold: Omit<Hold, 'kind'>): object {
  const { from, until, ...fields } = hold
  return { ...fields, from: edgeBody(from), until: edgeBody(until) }
}

function edgeBody(edge: HoldEdge | null): object | null {
  if (edge === null) return null
  return 'dlsn' in edge ? { dlsn: edge.dlsn.toString() } : edge
}

function holdOf(control: ControlObject): Hold {
  const { by } = control.body
  if (by !== null && by !== undefined && typeof by !== 'string') throw bad(control, 'by')
  return {
    kind: control.kind === 'pin' ? 'pin' : 'hold',
    id: textOf(control, 'id'),
    from: edgeOf(control, 'from'),
    until: edgeOf(control, 'until'),
    reason: typeof control.body.reason === 'string' ? control.body.reason : null,
    atMs: timeOf(control, 'atMs'),
    by: by ?? null,
  }
}

function edgeOf(control: ControlObject, field: string): HoldEdge | null {
  const value = control.body[field] ?? null
  if (value === null) return null
  const { dlsn, txid, timeMs } = value as { dlsn?: unknown; txid?: unknown; timeMs?: unknown }
  if (typeof dlsn === 'string' && /^\d+:\d+:\d+$/.test(dlsn)) return { dlsn: Dlsn.parse(dlsn) }
  if (typeof txid === 'string' && /^-?\d{1,19}$/.test(txid)) return { txid: BigInt(txid) }
  if (typeof timeMs === 'number' && Number.isSafeInteger(timeMs)) return { timeMs }
  throw bad(control, field)
}

function textOf(control: ControlObject, field: string): string {
  const value = control.body[field]
  if (typeof value !== 'string' || value === '') throw bad(control, field)
  return value
}

function integerOf(control: ControlObject, field: string): bigint {
  const text = textOf(control, field)
  if (!/^-?\d{1,19}$/.test(text)) throw bad(control, field)
  return BigInt(text)
}

function timeOf(control: ControlObject, field: string): number {
  const value = control.body[field]
  if (typeof value !== 'number' || !Number.isSafeInteger(value)) throw bad(control, field)
  return value
}

function bad(control: ControlObject, field: string): Error {
  return damagedControl(control.key, `its field ${field} is not what it must be`)
}
