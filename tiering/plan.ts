import type { Hold } from '../archive/decisions.js'
import { assert } from '../src/model/assert.js'
import {
  effectiveRollAge,
  type PolicyField,
  type PolicyHold,
  type ResolvedPolicy,
  rollDue,
} from '../src/model/policy.js'
import { TXID_MAX } from '../src/model/record.js'
import { isClosed, isHot, type SegmentRow, type TxidMode } from '../src/model/segment.js'
import { formatBytes, formatTime } from '../src/model/units.js'
import { bindsRow } from './holds.js'
import { ageReason, sealReason, timeText } from './plan-reasons.js'
import { windowAt } from './window.js'

/** Beyond any time that comes: an action whose time is not known. */
export const NEVER_MS: number = Number.MAX_SAFE_INTEGER

/** All that a plan depends on. */
export interface PlanInput {
  readonly policy: ResolvedPolicy
  /**
   * Segments of one stream that still matter, ascending. Cold ones in the middle may be left out: nothing is
   * trimmed beyond a hole, and `unlistedBytes` says how much is in it.
   */
  readonly segments: readonly SegmentRow[]
  readonly unlistedBytes?: number
  /** What the writer knows of the open segment; null when there is no writer here. */
  readonly open: { readonly lengthBytes: number; readonly lastAppendMs: number } | null
  /** Who has the open segment where no writer here does; null: nobody any more. Absent: it was not asked. */
  readonly writer?: string | null
  readonly nowMs: number
  /**
   * What time it is for retention: behind `nowMs` for a while after the clock jumped ahead (steady-time.ts), so that a
   * wrong clock ends no history. Default: `nowMs`.
   */
  readonly steadyMs?: number
  /** Holds and pins that stand, beside those the policy states. */
  readonly holds: readonly Hold[]
  /** Whether txids are times: `keep.by: event` goes by completion where they are not. */
  readonly txidMode: TxidMode
  readonly archiveConfigured: boolean
  /** False while the archive is known to be down: whatever is due but seals waits, blocked by it. Default: true. */
  readonly archiveAnswers?: boolean
  /** Bytes that are to be freed before their time, because the disks are nearly full. Default: none. */
  readonly pressedBytes?: number
  /** Whether the copy window is open now, and when it opens next if it is not. */
  readonly windowOpen: boolean
  /** So long after they were completed the stream's own writers may delete segments, archived or not. Default: never. */
  readonly purgedAfterMs?: number | null
  readonly nextWindowMs: number | null
}

/** A step of tiering, due or to come, with why. */
export interface PlannedAction {
  readonly kind: 'seal' | 'copy' | 'evict' | 'trim'
  readonly segment: bigint
  /** At or before now: due. A blocked action is never due. */
  readonly dueMs: number
  /** For people: `age 10m ≥ roll.age 10m`. */
  readonly reason: string
  /** The policy field that decided, and who said it. */
  readonly field: PolicyField
  readonly origin: string
  readonly bytes: number
  /**
   * What must happen first: the window opens, the copy is verified, the segment is sealed, the archive answers, a hold
   * is released, the clock has been steady for a while, the writer of another process seals what it has open.
   */
  readonly blockedBy: null | 'window' | 'verify' | 'seal' | 'archive' | 'hold' | 'clock' | 'writer'
  /** The hold that keeps this segment, or one before it, from being trimmed. */
  readonly hold?: string
}

type Found = Omit<PlannedAction, 'kind' | 'segment' | 'origin' | 'bytes'>
/** A moment at which something follows from a field. */
interface Moment {
  readonly dueMs: number
  readonly field: PolicyField
  readonly reason: string
}

type OverLimit = Pick<Moment, 'field' | 'reason'>

const KIND_ORDER = { seal: 0, copy: 1, evict: 2, trim: 3 } as const

/**
 * What is to be done for a stream, now and later, in order of time; at most one action of each kind for a
 * segment. Pure. What it promises: nothing is evicted that is not verified in the archive (invariant 4); only
 * closed segments are evicted and trimmed; nothing is trimmed that a hold binds, nor anything behind it; trims run from
 * the old end without a hole (invariant 5); hot and total limits free the oldest first; and an action that is due stays
 * due until it is done, is overtaken by a trim, or the window closes.
 */
export function plan(input: PlanInput): PlannedAction[] {
  const { segments } = input
  assert(
    segments.every((row, i) => i === 0 || row.segment > (segments[i - 1]?.segment ?? row.segment)),
    'segments to plan for are not ascending',
  )
  const trims = planTrims(input)
  const overLimit = new Map([...evictedByPressure(input), ...evictedByLimit(input)])
  const actions: PlannedAction[] = []
  for (const row of segments) {
    const add = (kind: PlannedAction['kind'], found: Found | null) => {
      if (found !== null) actions.push(actionOf(input, row, kind, answered(input, kind, found)))
    }
    const seal = planSeal(input, row)
    const trim = trims.get(row.segment) ?? null
    const copy = planCopy(input, row, seal)
    const evict = planEvict(input, row, overLimit, seal, copy)
    // What is trimmed first is neither worth copying nor freeing on its own.
    const trimmedMs = trim === null || trim.blockedBy !== null ? Number.POSITIVE_INFINITY : trim.dueMs
    const beforeTrim = (found: Found | null) => (found !== null && trimmedMs <= found.dueMs ? null : found)
    add('seal', seal)
    add('copy', beforeTrim(copy))
    add('evict', beforeTrim(evict))
    add('trim', trim)
  }
  return actions.sort(
    (a, b) =>
      a.dueMs - b.dueMs ||
      KIND_ORDER[a.kind] - KIND_ORDER[b.kind] ||
      (a.segment < b.segment ? -1 : a.segment > b.segment ? 1 : 0),
  )
}

/** Those that are to be carried out at `nowMs`, in order. */
export function dueActions(actions: readonly PlannedAction[], nowMs: number): PlannedAction[] {
  return actions.filter((action) => action.blockedBy === null && action.dueMs <= nowMs)
}

/** When the next action falls due by time alone, the past included; null: none does. */
export function nextDueMs(actions: readonly PlannedAction[]): number | null {
  let next: number | null = null
  for (const { dueMs, blockedBy } of actions) {
    const byTime = (blockedBy === null || blockedBy === 'window') && dueMs < NEVER_MS
    if (byTime && (next === null || dueMs < next)) next = dueMs
  }
  return next
}

function actionOf(
  input: PlanInput,
  row: SegmentRow,
  kind: PlannedAction['kind'],
  found: Found,
): PlannedAction {
  const bytes = isClosed(row.state) ? row.lengthBytes : (input.open?.lengthBytes ?? row.lengthBytes)
  return { kind, segment: row.segment, ...found, origin: input.policy.origins[found.field], bytes }
}

/** Later than now: a blocked action must never look due. */
function blocked(input: PlanInput, moment: Moment, blockedBy: PlannedAction['blockedBy']): Found {
  return { ...moment, dueMs: Math.max(moment.dueMs, input.nowMs + 1), blockedBy }
}

/** Copies, evictions and trims that are due need an archive that answers, where there is one. */
function answered(input: PlanInput, kind: PlannedAction['kind'], found: Found): Found {
  const waits = input.archiveAnswers === false && kind !== 'seal' && found.blockedBy === null
  return waits && found.dueMs <= input.nowMs ? blocked(input, found, 'archive') : found
}

function planSeal(input: PlanInput, row: SegmentRow): Found | null {
  const { open, policy, nowMs } = input
  // Fenced already, by whoever began to recover it: going on with that is right for anybody, at any time.
  if (row.state === 'recovering') {
    return { dueMs: row.openedMs, field: 'roll.age', reason: 'its writer is gone: recover', blockedBy: null }
  }
  if (row.state === 'open' && open === null) return planSealElsewhere(input, row)
  // Empty segments stay open: rolling them would only make more of them.
  if (row.state !== 'open' || open === null || open.lengthBytes === 0) return null
  const due = rollDue(policy.policy, { openedMs: row.openedMs, ...open }, nowMs)
  return { ...due, reason: sealReason(policy, row, open, due, nowMs), blockedBy: null }
}

/** What no writer of this process has open is known by its age alone: its writer seals it, or it has none any more. */
function planSealElsewhere(input: PlanInput, row: SegmentRow): Found | null {
  const { writer, policy, nowMs } = input
  if (writer === undefined) return null
  const { ms, field } = effectiveRollAge(policy.policy)
  const why = sealReason(policy, row, { lengthBytes: 0, lastAppendMs: row.openedMs }, { field }, nowMs)
  const moment = { dueMs: later(row.openedMs, ms), field }
  if (writer === null) return { ...moment, reason: `${why}, its writer is gone: recover`, blockedBy: null }
  const open = { ...moment, reason: `${why}, open in ${writer}, which seals it` }
  return blocked(input, open, 'writer')
}

function planCopy(input: PlanInput, row: SegmentRow, seal: Found | null): Found | null {
  if (!input.archiveConfigured) return null
  const { afterMs } = input.policy.policy.copy
  const field = 'copy.after' as const
  if (seal !== null) {
    const sealed = { dueMs: later(seal.dueMs, afterMs), field, reason: `copy.after ${timeText(afterMs)}` }
    return blocked(input, inWindow(input, sealed), 'seal')
  }
  if (row.state !== 'sealed' || row.sealedMs === null) return null
  const reason = ageReason('sealed', input.nowMs - row.sealedMs, field, afterMs)
  const moment = inWindow(input, { dueMs: later(row.sealedMs, afterMs), field, reason })
  const ahead = aheadOfPurge(input, row.sealedMs)
  if (ahead !== null && ahead.dueMs < moment.dueMs) return { ...ahead, blockedBy: null }
  if (!input.windowOpen) return blocked(input, moment, 'window')
  return { ...moment, blockedBy: null }
}

/** What would be deleted before it is copied is copied when half of the time is over, whatever policy and window say. */
function aheadOfPurge({ purgedAfterMs = null }: PlanInput, sealedMs: number): Moment | null {
  if (purgedAfterMs === null) return null
  const reason = `ahead of the purge ${timeText(purgedAfterMs)} after it was completed`
  return { dueMs: later(sealedMs, Math.floor(purgedAfterMs / 2)), field: 'copy.after', reason }
}

/** The moment, or when the window opens after it. */
function inWindow(input: PlanInput, moment: Moment): Moment {
  const { nowMs, windowOpen, nextWindowMs } = input
  const { window } = input.policy.policy.copy
  const openNowMs = windowOpen ? nowMs : (nextWindowMs ?? NEVER_MS)
  if (moment.dueMs <= openNowMs)
    return windowOpen
      ? moment
      : { dueMs: openNowMs, field: 'copy.window', reason: `copy.window closed, ${moment.reason}` }
  // The window that is open now, or opens next, may have closed again by then.
  const then = moment.dueMs < NEVER_MS ? windowAt(window, moment.dueMs) : { open: true, nextMs: null }
  if (then.open) return moment
  return {
    dueMs: then.nextMs ?? NEVER_MS,
    field: 'copy.window',
    reason: `copy.window closed by then, ${moment.reason}`,
  }
}

function planEvict(
  input: PlanInput,
  row: SegmentRow,
  overLimit: ReadonlyMap<bigint, OverLimit>,
  seal: Found | null,
  copy: Found | null,
): Found | null {
  const { hot, evict } = input.policy.policy
  if (!input.archiveConfigured) return null
  const verifiedMs = row.state === 'archived' && row.ledgerId !== null ? row.archivedMs : null
  // Not verified yet: when that would be, if all goes well.
  const outlookMs = verifiedMs === null && copy !== null ? Math.max(copy.dueMs, input.nowMs) : null
  const archivedMs = verifiedMs ?? outlookMs
  const sealedMs = row.sealedMs ?? seal?.dueMs ?? null
  if (archivedMs === null || sealedMs === null) return null

  const recalled = row.recalledUntilMs
  // What was cold before goes when the time is over that it was recalled for, whatever the limits say.
  if (recalled !== null && row.evictedMs !== null && verifiedMs !== null)
    return {
      dueMs: recalled,
      field: 'hot.for',
      reason: `recalled until ${formatTime(recalled)}`,
      blockedBy: null,
    }
  const reasons: Moment[] = []
  const limit = overLimit.get(row.segment)
  if (limit !== undefined) reasons.push({ dueMs: archivedMs, ...limit })
  if (hot.forMs !== null) {
    const reason = ageReason('age', input.nowMs - sealedMs, 'hot.for', hot.forMs)
    reasons.push({ dueMs: later(sealedMs, hot.forMs), field: 'hot.for', reason })
  }
  const first = reasons.reduce<Moment | null>(
    (least, next) => (least === null || next.dueMs < least.dueMs ? next : least),
    null,
  )
  if (first === null) return null
  const lagMs = later(archivedMs, evict.lagMs)
  const lag = `${ageReason('verified', input.nowMs - archivedMs, 'evict.lag', evict.lagMs)}, ${first.reason}`
  const moment: Moment =
    lagMs > first.dueMs && evict.lagMs > 0 && first.field !== 'hot.max'
      ? { dueMs: Math.max(lagMs, recalled ?? 0), field: 'evict.lag', reason: lag }
      : { ...first, dueMs: Math.max(lagMs, first.dueMs, recalled ?? 0) }
  return verifiedMs === null ? blocked(input, moment, 'verify') : { ...moment, blockedBy: null }
}

/**
 * Segments that hot.max says to free, with the reason: the oldest, as many as bring the stream below it.
 * Which ones does not depend on the time, only when each may go: otherwise a younger one would go because the
 * lag of an older one is not over. Those in the archive come first, since only they can go; the others are
 * the outlook.
 */
function evictedByLimit(input: PlanInput): ReadonlyMap<bigint, OverLimit> {
  const found = new Map<bigint, OverLimit>()
  const { maxBytes } = input.policy.policy.hot
  if (maxBytes === null) return found
  // What was asked for by hand neither counts nor goes before its time.
  const hot = input.segments.filter((row) => isHot(row) && (row.recalledUntilMs ?? 0) <= input.nowMs)
  const closed = hot.filter((row) => isClosed(row.state))
  const openBytes = hot.length > closed.length ? (input.open?.lengthBytes ?? 0) : 0
  const hotBytes = closed.reduce((sum, row) => sum + row.lengthBytes, openBytes)
  const over = {
    field: 'hot.max',
    reason: `hot ${formatBytes(hotBytes)} > hot.max ${formatBytes(maxBytes)}`,
  } as const
  let excessBytes = hotBytes - maxBytes
  for (const state of ['archived', 'sealed'] as const) {
    for (const row of closed.filter((candidate) => candidate.state === state)) {
      if (excessBytes <= 0) return found
      found.set(row.segment, over)
      excessBytes -= row.lengthBytes
    }
  }
  return found
}

/**
 * Segments that go because the disks are nearly full, the oldest first: how long they are hot is a target, given up for
 * what is verified in the archive alone. The lag after that is not.
 */
function evictedByPressure(input: PlanInput): ReadonlyMap<bigint, OverLimit> {
  const found = new Map<bigint, OverLimit>()
  let leftBytes = input.pressedBytes ?? 0
  for (const row of input.segments) {
    if (leftBytes <= 0) break
    if (row.state !== 'archived' || !isHot(row) || (row.recalledUntilMs ?? 0) > input.nowMs) continue
    found.set(row.segment, { field: 'hot.for', reason: 'the disks are nearly full, hot.for is given up' })
    leftBytes -= row.lengthBytes
  }
  return found
}

/** That much later, as far as time goes. */
function later(atMs: number, byMs: number): number {
  return Math.min(NEVER_MS, atMs + byMs)
}

/**
 * From the old end on, closed segments without a hole; each no sooner than the one before it. Behind the first that is
 * held all wait for the hold.
 */
function planTrims(input: PlanInput): ReadonlyMap<bigint, Found> {
  const found = new Map<bigint, Found>()
  const { steadyMs = input.nowMs } = input
  const { keep } = input.policy.policy
  if (keep.forMs === null && keep.maxBytes === null) return found
  const kept = input.segments.filter((row) => row.state !== 'trimmed')
  const totalBytes = kept.reduce((sum, row) => sum + keptBytes(input, row), input.unlistedBytes ?? 0)
  let excessBytes = keep.maxBytes === null ? 0 : totalBytes - keep.maxBytes
  const holds = [...input.holds, ...input.policy.policy.holds.map(statedHold)]
  let restraint: Restraint | null = null
  let previous: { row: SegmentRow; dueMs: number } | null = null
  for (const row of kept) {
    const hole: boolean = previous !== null && row.segment !== previous.row.segment + 1n
    if (!isClosed(row.state) || hole) break
    const byTime = trimByTime(input, row)
    const early = byTime !== null && byTime.dueMs <= input.nowMs && byTime.dueMs > steadyMs
    const byLimit: Moment | null =
      keep.maxBytes === null || excessBytes <= 0
        ? null
        : {
            dueMs: input.nowMs,
            field: 'keep.max',
            reason: `${formatBytes(totalBytes)} > keep.max ${formatBytes(keep.maxBytes)}`,
          }
    const own: Moment | null =
      byTime === null || (byLimit !== null && (early || byLimit.dueMs < byTime.dueMs)) ? byLimit : byTime
    if (own === null) break
    const dueMs: number = Math.max(own.dueMs, previous?.dueMs ?? own.dueMs)
    const waits = previous !== null && dueMs > own.dueMs && dueMs > input.nowMs
    const reason = waits ? `${own.reason}, after segment ${previous?.row.segment}` : own.reason
    const holding = holds.find((one) => bindsRow(input, row, one))
    // The first hold stays: whatever comes behind it waits for that one.
    if (restraint?.blockedBy !== 'hold') {
      if (holding !== undefined) restraint = heldBy(holding.id)
      else if (early && own === byTime) restraint = CLOCK_JUMPED
    }
    found.set(row.segment, restrained(input, { ...own, dueMs, reason }, restraint))
    excessBytes -= keptBytes(input, row)
    previous = { row, dueMs }
  }
  return found
}

/** Why a trim that is due has to wait, and every one behind it. */
type Restraint = { readonly why: string } & Pick<PlannedAction, 'blockedBy' | 'hold'>
const CLOCK_JUMPED: Restraint = { blockedBy: 'clock', why: 'but the clock jumped ahead' }

function heldBy(id: string): Restraint {
  return { blockedBy: 'hold', hold: id, why: `held by ${id}` }
}

function restrained(input: PlanInput, moment: Moment, restraint: Restraint | null): Found {
  if (restraint === null) return { ...moment, blockedBy: null }
  const { why, blockedBy, ...rest } = restraint
  return { ...blocked(input, { ...moment, reason: `${moment.reason}, ${why}` }, blockedBy), ...rest }
}

/** A hold of the policy as those of the archive are. */
function statedHold(hold: PolicyHold): Hold {
  return { ...hold, kind: 'hold', atMs: 0, by: null }
}

function keptBytes(input: PlanInput, row: SegmentRow): number {
  if (row.state === 'gap') return 0
  return isClosed(row.state) ? row.lengthBytes : (input.open?.lengthBytes ?? 0)
}

function trimByTime(input: PlanInput, row: SegmentRow): Moment | null {
  const { forMs, by } = input.policy.policy.keep
  if (forMs === null || row.sealedMs === null) return null
  // Txids that are no times would put every segment at 1970, and all of history would be trimmed at once.
  // The last txid of a segment that ends a stream is none either.
  const timed = input.txidMode === 'ms' && row.recordCount > 0n && row.lastTxid < TXID_MAX
  const event = by === 'event' && timed
  const sinceMs = event ? Number(row.lastTxid) : row.sealedMs
  const reason = ageReason(event ? 'event age' : 'age', input.nowMs - sinceMs, 'keep.for', forMs)
  return { dueMs: later(sinceMs, forMs), field: 'keep.for', reason }
}
