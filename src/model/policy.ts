import type { Dlsn } from './dlsn.js'
import type { SegmentRow } from './segment.js'

/** What to do while the archive does not answer. */
export type ArchiveDown = 'hold' | 'backpressure' | 'drop'

/** When copies may start: at each match of the cron expression, until the next hour that does not match. */
export interface CopyWindow {
  readonly cron: string
  readonly zone: string
}

/** Where a hold of a policy begins or ends; a time is compared as `binds` of archive/decisions.ts has it. */
export type PolicyHoldEdge = { readonly dlsn: Dlsn } | { readonly txid: bigint } | { readonly timeMs: number }

/** A range of history that a policy keeps from being trimmed: `from` inclusive, `until` exclusive. */
export interface PolicyHold {
  readonly id: string
  /** Null: from the beginning. */
  readonly from: PolicyHoldEdge | null
  /** Null: for ever. */
  readonly until: PolicyHoldEdge | null
  readonly reason: string | null
}

/** The policy of one stream, every field filled. Times in milliseconds, sizes in bytes, null: no limit. */
export interface Policy {
  readonly create: 'allow' | 'refuse'
  readonly quorum: {
    readonly ensemble: number | null
    readonly copies: number
    readonly ack: number
    readonly min: number | null
    /** The isolation group of bookies that hold it; null or absent: any may. */
    readonly group?: string | null
  }
  readonly roll: { readonly sizeBytes: number; readonly ageMs: number; readonly idleMs: number }
  readonly copy: { readonly afterMs: number; readonly window: CopyWindow | null }
  /** A target, given up under pressure only for what is verified in the archive. */
  readonly hot: { readonly forMs: number | null; readonly maxBytes: number | null }
  readonly evict: { readonly lagMs: number }
  readonly keep: {
    readonly forMs: number | null
    readonly maxBytes: number | null
    readonly by: 'completion' | 'event'
  }
  readonly archiveDown: ArchiveDown
  /** Time in which every hot copy is read once, to find damage before a reader does. */
  readonly scrub: { readonly fullPassMs: number }
  /** An archive of their own for these streams; null: the one of the log; `none`: they are not archived. */
  readonly archive: string | null
  /** What is asked of the archive for each object; null: what the archive does by itself. */
  readonly storage: {
    readonly class: string | null
    readonly kmsKey: string | null
    readonly tags: Readonly<Record<string, string>>
  }
  /** Of every place that states some: a nearer place adds holds and never takes one away (decision 0018). */
  readonly holds: readonly PolicyHold[]
  readonly limits: {
    readonly uploadBytesPerSecond: number | null
    readonly coldReadBytesPerSecond: number | null
    readonly replicaLagBytesMax: number | null
  }
  /** Null: objects are stored in clear. */
  readonly encryption: { readonly ring: string; readonly key: string } | null
}

/** DESIGN.md §8 and EXPERIENCE.md: what holds where nobody said anything. */
export const BUILT_IN_POLICY: Policy = {
  create: 'allow',
  quorum: { ensemble: null, copies: 3, ack: 2, min: null, group: null },
  roll: { sizeBytes: 64 * 2 ** 20, ageMs: 3_600_000, idleMs: 600_000 },
  copy: { afterMs: 0, window: null },
  hot: { forMs: 24 * 3_600_000, maxBytes: null },
  evict: { lagMs: 4 * 3_600_000 },
  keep: { forMs: null, maxBytes: null, by: 'completion' },
  archiveDown: 'hold',
  scrub: { fullPassMs: 7 * 24 * 3_600_000 },
  archive: null,
  storage: { class: null, kmsKey: null, tags: {} },
  holds: [],
  limits: { uploadBytesPerSecond: null, coldReadBytesPerSecond: null, replicaLagBytesMax: null },
  encryption: null,
}

/** Every field of a policy by its path in the YAML file, for origins: `roll.size`, `hot.for`, … */
export type PolicyField =
  | 'create'
  | 'quorum.ensemble'
  | 'quorum.copies'
  | 'quorum.ack'
  | 'quorum.min'
  | 'quorum.group'
  | 'roll.size'
  | 'roll.age'
  | 'roll.idle'
  | 'copy.after'
  | 'copy.window'
  | 'hot.for'
  | 'hot.max'
  | 'evict.lag'
  | 'keep.for'
  | 'keep.max'
  | 'keep.by'
  | 'archive-down'
  | 'scrub.full-pass'
  | 'archive'
  | 'storage.class'
  | 'storage.kms-key'
  | 'storage.tags'
  | 'holds'
  | 'limits.upload'
  | 'limits.cold-read'
  | 'limits.replica-lag'
  | 'encryption.ring'
  | 'encryption.key'

/** A policy with where each value came from: `stratalog.yaml:12  defaults`, `built-in`, `code`, `stream override`. */
export interface ResolvedPolicy {
  readonly policy: Policy
  readonly origins: Readonly<Record<PolicyField, string>>
}

/** Effective roll age = min(roll.age, hot.for / 2), at least 1 s, with the field that decided it. */
export function effectiveRollAge(policy: Policy): { ms: number; field: PolicyField } {
  const half = policy.hot.forMs === null ? Number.POSITIVE_INFINITY : policy.hot.forMs / 2
  const field = half < policy.roll.ageMs ? 'hot.for' : 'roll.age'
  return { ms: Math.max(1_000, Math.min(policy.roll.ageMs, half)), field }
}

/** Whether an open segment of that size and age is to be sealed, and which field says so. One rule for writer and agent. */
export function rollDue(
  policy: Policy,
  segment: Pick<SegmentRow, 'openedMs'> & { lengthBytes: number; lastAppendMs: number },
  nowMs: number,
): { dueMs: number; field: PolicyField } {
  if (segment.lengthBytes >= policy.roll.sizeBytes) return { dueMs: nowMs, field: 'roll.size' }
  const age = effectiveRollAge(policy)
  const byAge = { dueMs: segment.openedMs + age.ms, field: age.field }
  const byIdle = { dueMs: segment.lastAppendMs + policy.roll.idleMs, field: 'roll.idle' as const }
  return byIdle.dueMs < byAge.dueMs ? byIdle : byAge
}
