import { windowAt } from '../../tiering/window.js'
import type { Log } from '../log.js'
import type { PolicyTestDto } from '../model/control-api.js'
import type { Policy } from '../model/policy.js'
import { isClosed, isHot, type SegmentRow } from '../model/segment.js'
import { formatBytes, formatTime } from '../model/units.js'

const DAY_MS = 86_400_000
/** Newest segments that tell today's rate. */
const RATE_SEGMENTS_MAX = 1_000

/** What `policy test` adds to the values: what comes of them. */
export type PolicyOutcome = Pick<
  PolicyTestDto,
  'nowMs' | 'atMs' | 'seals' | 'copies' | 'evicts' | 'trims' | 'conflicts'
>

/** What the plan does by `atMs` with the segments there are now, and which values work against each other. */
export async function testPolicy(log: Log, name: string, atMs: number): Promise<PolicyOutcome> {
  const nowMs = log.parts.segments.ledger.clock.nowMs()
  const outcome = {
    seals: 0,
    copies: { segments: 0, bytes: 0 },
    evicts: { segments: 0, bytes: 0 },
    trims: { segments: 0, hotBytes: 0, archiveBytes: 0, oldestMs: null as number | null },
  }
  const stream = await log.streams.find(name)
  if (stream === null) return { nowMs, atMs, ...outcome, conflicts: [] }

  const { index } = log.parts.segments
  const { resolved } = await log.policyOf(name)
  for (const { actions } of await log.tier.plan(name)) {
    for (const action of actions) {
      // What waits for a copy or a seal before it counts as well: the outlook is what happens if all goes well.
      if (action.dueMs > atMs) continue
      if (action.kind === 'seal') outcome.seals += 1
      else if (action.kind === 'trim')
        addTrim(outcome.trims, await index.segment(stream.incarnation, action.segment))
      else {
        const sum = action.kind === 'copy' ? outcome.copies : outcome.evicts
        sum.segments += 1
        sum.bytes += action.bytes
      }
    }
  }
  const newest = await index.newestSegment(stream.incarnation)
  const from = (newest?.segment ?? 0n) - BigInt(RATE_SEGMENTS_MAX)
  const recent = await index.listSegments(stream.incarnation, from > 1n ? from : 1n, RATE_SEGMENTS_MAX + 1)
  const { hotBytes } = await index.totals(stream.incarnation)
  return {
    nowMs,
    atMs,
    ...outcome,
    conflicts: conflicts(resolved.policy, hotBytes, bytesPerMs(recent, nowMs), nowMs),
  }
}

function addTrim(
  sum: { segments: number; hotBytes: number; archiveBytes: number; oldestMs: number | null },
  row: SegmentRow | null,
): void {
  if (row === null) return
  sum.segments += 1
  if (isHot(row)) sum.hotBytes += row.lengthBytes
  if (row.object !== null) sum.archiveBytes += row.object.sizeBytes
  sum.oldestMs ??= row.openedMs
}

/** Growth over the last day. */
function bytesPerMs(rows: readonly SegmentRow[], nowMs: number): number {
  const recent = rows.filter((row) => isClosed(row.state) && (row.sealedMs ?? 0) >= nowMs - DAY_MS)
  const oldest = recent[0]
  if (oldest === undefined) return 0
  const bytes = recent.reduce((sum, row) => sum + row.lengthBytes, 0)
  return bytes / Math.max(1_000, nowMs - Math.max(oldest.openedMs, nowMs - DAY_MS))
}

function conflicts(policy: Policy, hotBytes: number, rate: number, nowMs: number): string[] {
  const found: string[] = []
  const { hot, keep, copy, evict } = policy
  const window = windowAt(copy.window, nowMs)
  if (!window.open && hot.maxBytes !== null && rate > 0) {
    const reachedMs = nowMs + Math.max(0, hot.maxBytes - hotBytes) / rate
    if (window.nextMs === null || reachedMs < window.nextMs) {
      const opens = window.nextMs === null ? 'does not open for years' : `opens ${formatTime(window.nextMs)}`
      found.push(
        `copy.window ${opens}, hot.max ${formatBytes(hot.maxBytes)} is reached at about ${formatTime(Math.round(reachedMs))} at today's ${formatBytes(rate * 1_000)}/s: segments stay hot past the target until then. Widen the window or raise hot.max`,
      )
    }
  }
  if (keep.forMs !== null && keep.forMs <= copy.afterMs) {
    found.push(
      'keep.for is not longer than copy.after: segments are trimmed before they would be copied, nothing reaches the archive',
    )
  }
  if (hot.forMs !== null && evict.lagMs > hot.forMs) {
    found.push('evict.lag is longer than hot.for: segments stay hot for evict.lag after they were copied')
  }
  return found
}
