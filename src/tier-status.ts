import type { AgentState, StreamPlan } from '../tiering/agent.js'
import type { PlannedAction } from '../tiering/plan.js'
import { type ThawWait, thawWaits } from '../tiering/thaw.js'
import type { UpkeepState } from '../tiering/upkeep.js'
import type { LogParts } from './log-parts.js'
import { type ArchiveDown, effectiveRollAge, type ResolvedPolicy } from './model/policy.js'
import type { SegmentRow, StreamRow } from './model/segment.js'
import type { SegmentTotals } from './ports/segment-index.js'
import type { StoreStatus } from './ports/segment-store.js'
import { placeOf, type StreamPlace } from './stream-place.js'

/** A writer in another process that works seals what is due well within this time. */
const WRITER_SEALS_MS = 60_000

/** One stream's line of `tier status`. */
export interface StreamTiers {
  readonly stream: StreamRow
  readonly totals: SegmentTotals
  /** The oldest segment that is not verified in the archive; null: all of it is. */
  readonly oldestUncopied: SegmentRow | null
  /** What these disks alone hold: bytes that would be lost if they burned now, and since when. */
  readonly atRiskBytes: number
  readonly atRiskSinceMs: number | null
  readonly next: PlannedAction | null
  /** A step of protection is due and not done, whether or not the archive is to blame. */
  readonly behind: boolean
  /** Closed segments that no archive has. */
  readonly waitingSegments: number
  readonly waitingBytes: number
  /** What its policy says is done about full disks while the archive is down. */
  readonly archiveDown: ArchiveDown
  /** What was recalled and can't be read yet. */
  readonly thaws: readonly ThawWait[]
  readonly place: StreamPlace
}

/** How protected the streams of a log are, at a moment. */
export interface TierStatus {
  readonly atMs: number
  readonly archive: AgentState & { readonly location: string | null }
  readonly stores: readonly StoreStatus[]
  readonly streams: readonly StreamTiers[]
  /** Whether the hot copies are what they should be. */
  readonly upkeep: UpkeepState
}

/** How protected every stream is, right now. */
export async function tierStatus(parts: LogParts, streams: AsyncIterable<StreamRow>): Promise<TierStatus> {
  const nowMs = parts.segments.ledger.clock.nowMs()
  const stores = await Promise.all(parts.segments.ledger.stores.all().map((store) => store.status()))
  await parts.agent.look()
  const plans = new Map((await parts.agent.plans()).map((one) => [one.stream.incarnation, one]))
  const lines: StreamTiers[] = []
  for await (const stream of streams) {
    const plan = plans.get(stream.incarnation)
    if (plan !== undefined) lines.push(await streamTiers(parts, stream, plan, nowMs))
  }
  return {
    atMs: nowMs,
    archive: { ...parts.agent.state, location: parts.archiveLocation },
    stores,
    streams: lines,
    upkeep: await parts.upkeep.state(),
  }
}

async function streamTiers(
  parts: LogParts,
  stream: StreamRow,
  { actions, policy, uncopied }: StreamPlan,
  nowMs: number,
): Promise<StreamTiers> {
  const { index } = parts.segments
  const totals = await index.totals(stream.incarnation)
  const open = parts.hub.openSegment(stream)
  const [oldestUncopied = null] = uncopied
  const sealedAtRisk = totals.hotBytes - totals.bothBytes
  return {
    stream,
    totals,
    oldestUncopied,
    atRiskBytes: sealedAtRisk + (open?.lengthBytes ?? 0),
    atRiskSinceMs: oldestUncopied?.openedMs ?? null,
    behind:
      actions.some((action) => isLate(action, nowMs)) ||
      (open === null && actions.some(isOthers) && isLeftOpen(stream, uncopied.at(-1), policy, nowMs)),
    // A trim that is held may be overdue for years: what comes next is what will happen.
    next: actions.find(({ blockedBy }) => blockedBy !== 'hold') ?? actions[0] ?? null,
    waitingSegments: uncopied.filter(({ state }) => state === 'sealed').length,
    waitingBytes: sealedAtRisk,
    archiveDown: policy.policy.archiveDown,
    thaws: await thawWaits(parts.tiering, stream.incarnation),
    place: await placeOf(parts, stream, policy),
  }
}

/**
 * Whether a segment should have been sealed by its writer in another process. What only writers that are not ours ever
 * wrote is sealed when they like.
 */
function isLeftOpen(
  { epoch }: StreamRow,
  newest: SegmentRow | undefined,
  { policy }: ResolvedPolicy,
  nowMs: number,
): boolean {
  if (newest?.state !== 'open' || epoch === 0n) return false
  return newest.openedMs + effectiveRollAge(policy).ms + WRITER_SEALS_MS < nowMs
}

const isOthers = ({ blockedBy }: PlannedAction): boolean => blockedBy === 'writer'

/** A closed window is no delay, and space that could be freed puts no record at risk. */
function isLate({ kind, blockedBy, dueMs }: PlannedAction, nowMs: number): boolean {
  if (kind === 'evict') return false
  return blockedBy === 'archive' || (blockedBy === null && dueMs <= nowMs)
}
