import type { ArchiveDown } from './policy.js'

/** Bytes: `64 MiB`, `5GB`, or a number of bytes. */
export type SizeInput = string | number

/** Time: `90s`, `7 years`, or a number of milliseconds. */
export type DurationInput = string | number

/** Bytes a second: `80 MiB/s`; `unlimited` lifts what is further away. */
export type RateInput = string

/** Where a hold begins or ends: a DLSN (`12:340:7`), an ISO date or time, `txid:5`. */
export type HoldPosition = string | { readonly time: string } | { readonly txid: string | number }

/** A range of history that must not be trimmed. */
export interface HoldInput {
  readonly id: string
  readonly from?: HoldPosition
  readonly until?: HoldPosition
  readonly reason?: string
}

/**
 * What a program may say about a policy: the policy part of stratalog.yaml with camelCase keys. What is left out
 * is decided by what is further away (docs/configuration.md).
 *
 * @example
 * ```ts
 * import type { PolicyInput } from 'stratalog'
 * const policy: PolicyInput = { hot: { for: '1h' }, keep: { for: '7 years' } }
 * ```
 */
export interface PolicyInput {
  /** Whether appending to an unknown stream creates it. */
  readonly create?: 'allow' | 'refuse'
  readonly quorum?: {
    readonly ensemble?: number
    readonly copies?: number
    readonly ack?: number
    readonly min?: number
    /** `any`: whatever bookies there are. */
    readonly group?: string
  }
  /** When the open segment is sealed: whichever comes first. */
  readonly roll?: { readonly size?: SizeInput; readonly age?: DurationInput; readonly idle?: DurationInput }
  /** When a sealed segment is copied to the archive; the zone of a window is UTC unless it is given. */
  readonly copy?: {
    readonly after?: DurationInput
    readonly window?: 'always' | { readonly cron: string; readonly zone?: string }
  }
  /** How long and how much stays in the hot tier: a target. */
  readonly hot?: { readonly for?: DurationInput | 'forever'; readonly max?: SizeInput | 'unlimited' }
  /** Time between verified in the archive and freed in the hot tier. */
  readonly evict?: { readonly lag?: DurationInput }
  /** How long and how much is kept in both tiers together; the rest is trimmed. */
  readonly keep?:
    | 'forever'
    | {
        readonly for?: DurationInput | 'forever'
        readonly max?: SizeInput | 'unlimited'
        readonly by?: 'completion' | 'event'
      }
  readonly archiveDown?: ArchiveDown
  /** What is asked of the archive for each object; `default`: what the archive does by itself. */
  readonly storage?: {
    readonly class?: string
    readonly kmsKey?: string
    readonly tags?: Readonly<Record<string, string>>
  }
  /** Ranges that are not trimmed. They add to those of other places: only taking one out here ends it. */
  readonly holds?: readonly HoldInput[]
  /** Bytes a second to and from the archive; bytes a store may be behind its peers. */
  readonly limits?: {
    readonly upload?: RateInput
    readonly coldRead?: RateInput
    readonly replicaLag?: SizeInput | 'unlimited'
  }
  /** Time in which every hot copy is read once, to find and mend damage. */
  readonly scrub?: { readonly fullPass?: DurationInput }
  /** Objects are encrypted with this key of this ring, or `none`. */
  readonly encryption?: 'none' | { readonly ring?: string; readonly key?: string }
}
