import { resolveConfig } from '../../src/config/resolve.js'
import type { ResolvedPolicy } from '../../src/model/policy.js'
import type { PolicyInput } from '../../src/model/policy-input.js'
import type { SegmentRow, SegmentState } from '../../src/model/segment.js'
import { type PlanInput, type PlannedAction, plan } from '../../tiering/plan.js'

export const MINUTE = 60_000
export const HOUR: number = 60 * MINUTE
export const DAY: number = 24 * HOUR
export const MiB: number = 2 ** 20
/** The time all rows are about. */
export const NOW: number = 100 * DAY

/** A policy with what is built in where `code` says nothing. */
export const policyOf = (code: PolicyInput): ResolvedPolicy => resolveConfig({ code }).policyFor('a')

/** A row that is fine for its state; closed an hour ago, 1 MiB. */
export function row(segment: number, state: SegmentState, changes: Partial<SegmentRow> = {}): SegmentRow {
  const closed = state !== 'open' && state !== 'recovering'
  const copied = state === 'archived' || state === 'cold'
  return {
    incarnation: 'a'.repeat(32),
    segment: BigInt(segment),
    state,
    epoch: 1n,
    ledgerId: state === 'cold' || state === 'gap' || state === 'trimmed' ? null : BigInt(segment),
    firstTxid: 0n,
    startSequenceId: 0n,
    openedMs: NOW - HOUR,
    lastTxid: closed ? 0n : -1n,
    lastEntryId: closed ? 0n : -1n,
    lastSlot: 0n,
    recordCount: closed ? 1n : 0n,
    lengthBytes: closed ? MiB : 0,
    sealedMs: closed ? NOW - HOUR : null,
    contentDigest: copied ? 'd' : null,
    object: copied ? { key: 'k', sizeBytes: 1, indexBytes: 1 } : null,
    archivedMs: copied ? NOW - HOUR : null,
    evictedMs: null,
    recalledUntilMs: null,
    version: 1,
    ...changes,
  }
}

/** A plan at `NOW` for a stream without a writer, with an archive, the window open. */
export function planOf(
  policy: PolicyInput,
  segments: readonly SegmentRow[],
  changes: Partial<PlanInput> = {},
): PlannedAction[] {
  return plan({
    policy: policyOf(policy),
    segments,
    open: null,
    nowMs: NOW,
    holds: [],
    txidMode: 'ms',
    archiveConfigured: true,
    windowOpen: true,
    nextWindowMs: null,
    ...changes,
  })
}
