import type { PlannedAction } from '../tiering/plan.js'
import type { LogParts } from './log-parts.js'
import type { PolicyOutcome, PolicyStepSum } from './model/control-policy.js'
import type { ResolvedPolicy } from './model/policy.js'
import { isClosed, isHot, type SegmentRow, type StreamRow } from './model/segment.js'
import { policyConflicts } from './policy-conflicts.js'
import { placeConflicts, placeOf } from './stream-place.js'

const DAY_MS = 86_400_000
/** Newest segments that tell today's rate. */
const RATE_SEGMENTS_MAX = 1_000
/** Oldest segments that are looked at; what `keep` ends by any moment one asks about is among them. */
const OLDEST_MAX = 100_000

type Outlook = Omit<PolicyOutcome, 'nowMs' | 'atMs' | 'conflicts'>
type Sum = { -readonly [K in keyof PolicyStepSum]: PolicyStepSum[K] }

/** What the plan does by `atMs` with the segments there are now, and which values work against each other. */
export async function testPolicy(
  parts: LogParts,
  stream: StreamRow | null,
  resolved: ResolvedPolicy,
  atMs: number,
): Promise<PolicyOutcome> {
  const { ledger } = parts.segments
  const nowMs = ledger.clock.nowMs()
  const plans = stream === null ? [] : await parts.agent.plans(stream.name, OLDEST_MAX)
  const actions = plans.flatMap((one) => one.actions)
  const outlook = await outlookOf(parts, stream, actions, atMs)
  const conflicts = policyConflicts({
    policy: resolved,
    nowMs,
    archive: parts.archive !== null && resolved.policy.archive !== 'none',
    txidMode: stream?.txidMode ?? 'ms',
    disks: await Promise.all(ledger.stores.all().map((store) => store.status())),
    ...(stream === null ? { hotBytes: 0, bytesPerSecond: 0 } : await growthOf(parts, stream, nowMs)),
  })
  if (stream === null) return { nowMs, atMs, ...outlook, conflicts }
  const elsewhere = placeConflicts(stream, await placeOf(parts, stream, resolved))
  return { nowMs, atMs, ...outlook, conflicts: [...conflicts, ...elsewhere] }
}

/** What falls due by then. What waits for a copy or a seal before it counts as well: it happens if all goes well. */
async function outlookOf(
  parts: LogParts,
  stream: StreamRow | null,
  actions: readonly PlannedAction[],
  atMs: number,
): Promise<Outlook> {
  const copies = emptySum()
  const evicts = emptySum()
  const trims = { ...emptySum(), hotBytes: 0, archiveBytes: 0, oldestMs: null as number | null }
  const held = { segments: 0, bytes: 0, holds: [] as string[] }
  let seals = 0
  const freed = new Set<bigint>()
  const copied = new Set<bigint>()
  const { index } = parts.segments
  for (const action of actions) {
    if (action.dueMs > atMs || action.blockedBy === 'clock') continue
    if (action.kind === 'seal') seals += 1
    else if (action.kind === 'copy') {
      copied.add(action.segment)
      count(copies, action)
    } else if (action.kind === 'evict') {
      freed.add(action.segment)
      count(evicts, action)
    } else if (action.hold !== undefined) {
      held.segments += 1
      held.bytes += action.bytes
      if (!held.holds.includes(action.hold)) held.holds.push(action.hold)
    } else {
      const row = stream === null ? null : await index.segment(stream.incarnation, action.segment)
      if (row === null) continue
      count(trims, action)
      if (isHot(row) && !freed.has(row.segment)) trims.hotBytes += row.lengthBytes
      // How far a copy that is still to be made will pack is known to nobody.
      trims.archiveBytes += row.object?.sizeBytes ?? (copied.has(row.segment) ? row.lengthBytes : 0)
      trims.oldestMs ??= row.openedMs
    }
  }
  return { seals, copies, evicts, trims, held }
}

function emptySum(): Sum {
  return { segments: 0, bytes: 0, firstMs: null }
}

/** Actions come in order of time. */
function count(sum: Sum, { bytes, dueMs }: PlannedAction): void {
  sum.segments += 1
  sum.bytes += bytes
  sum.firstMs ??= dueMs
}

async function growthOf(
  parts: LogParts,
  { incarnation }: StreamRow,
  nowMs: number,
): Promise<{ hotBytes: number; bytesPerSecond: number }> {
  const { index } = parts.segments
  const newest = await index.newestSegment(incarnation)
  const from = (newest?.segment ?? 0n) - BigInt(RATE_SEGMENTS_MAX)
  const recent = await index.listSegments(incarnation, from > 1n ? from : 1n, RATE_SEGMENTS_MAX + 1)
  const { hotBytes } = await index.totals(incarnation)
  return { hotBytes, bytesPerSecond: bytesPerSecond(recent, nowMs) }
}

/** Growth over the last day. */
function bytesPerSecond(rows: readonly SegmentRow[], nowMs: number): number {
  const recent = rows.filter((row) => isClosed(row.state) && (row.sealedMs ?? 0) >= nowMs - DAY_MS)
  const oldest = recent[0]
  if (oldest === undefined) return 0
  const bytes = recent.reduce((sum, row) => sum + row.lengthBytes, 0)
  return (bytes * 1_000) / Math.max(1_000, nowMs - Math.max(oldest.openedMs, nowMs - DAY_MS))
}
