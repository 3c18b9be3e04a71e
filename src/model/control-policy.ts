import type { PolicyField } from './policy.js'

/** Where the policies of a log come from beside the code and environment of its process, and how that is. Types only. */

/** A setting that was changed and takes effect when the log is opened again. */
export interface RestartSetting {
  readonly setting:
    | 'archive'
    | 'metadata'
    | 'stores'
    | 'cache.disk'
    | 'cache.index'
    | `${'s3' | 'hdfs' | 'zookeeper' | 'bookkeeper'}.${string}`
  /** Who says it now. */
  readonly origin: string
}

/** The configuration file of a running log. */
export interface PolicySource {
  /** Null: the log was opened without one. */
  readonly file: string | null
  /** When what is in force was read. */
  readonly loadedMs: number
  /** Why what the file says now is not in force; null: it is. */
  readonly problem: { readonly atMs: number; readonly message: string } | null
  /** Changed in the file and not to be changed while the log is open. */
  readonly needsRestart: readonly RestartSetting[]
}

/** What reading the file again did. */
export interface PolicyReload {
  readonly source: PolicySource
  /** Whether the file says anything else than before. */
  readonly changed: boolean
  /** Streams whose policy is another one now. */
  readonly streams: number
}

/** Values that work against each other, as sentences. */
export interface PolicyConflict {
  readonly fields: readonly PolicyField[]
  readonly found: string
  readonly consequence: string
  readonly remedy: string
}

/** Segments a kind of step is about, and when it begins. */
export interface PolicyStepSum {
  readonly segments: number
  readonly bytes: number
  /** Null: there are none. */
  readonly firstMs: number | null
}

/** What comes of a policy by some moment, with the segments there are now. */
export interface PolicyOutcome {
  readonly nowMs: number
  readonly atMs: number
  readonly seals: number
  readonly copies: PolicyStepSum
  readonly evicts: PolicyStepSum
  readonly trims: PolicyStepSum & {
    /** Of what is not evicted before. */
    readonly hotBytes: number
    readonly archiveBytes: number
    readonly oldestMs: number | null
  }
  /** What the limits would end by then and holds keep. */
  readonly held: { readonly segments: number; readonly bytes: number; readonly holds: readonly string[] }
  readonly conflicts: readonly PolicyConflict[]
}

/** The verbs of policies that control-api.ts does not have. */
export interface PolicyApi {
  /** Reads the file again now. `config_invalid`: it is refused, and what was in force stays. */
  policyReload(): Promise<PolicyReload>
}
