import type { TieringAgent } from '../tiering/agent.js'
import type { SegmentRecoverer } from '../tiering/recoverer.js'
import type { Upkeep } from '../tiering/upkeep.js'
import type { SegmentContext } from './append/segment-writer.js'
import type { WriterHub } from './append/writer-hub.js'
import type { ResolvedPolicy } from './model/policy.js'
import type { PolicyInput } from './model/policy-input.js'
import type { ArchiveStore } from './ports/archive-store.js'
import type { Coordination } from './ports/coordination.js'
import type { Random } from './ports/random.js'
import type { ReadContext } from './read/reader.js'
import type { StoreAdmin } from './stores/admin.js'

/** What `openLog` puts together; the log itself names no engine. */
export interface LogParts {
  readonly logId: string
  readonly directory: string
  readonly segments: SegmentContext
  readonly hub: WriterHub
  readonly read: ReadContext
  readonly recoverer: SegmentRecoverer
  readonly agent: TieringAgent
  /** Scrub, repair and the moving of copies. */
  readonly upkeep: Upkeep
  readonly stores: StoreAdmin
  readonly random: Random
  readonly coordination: Coordination
  /** Null: none is configured. */
  readonly archive: (() => Promise<ArchiveStore>) | null
  readonly archiveLocation: string | null
  /** Policies of a stream name with the stream's own override, and the checks of an override before it is stored. */
  readonly policies: {
    resolve(streamName: string, override: string | null): ResolvedPolicy
    encode(policy: PolicyInput): string
    /** What was outvoted, for `policy show`. */
    losers(
      streamName: string,
      override: string | null,
    ): readonly { field: string; value: unknown; origin: string; by: string }[]
  }
  /** Names like the unknown one, best first. */
  readonly nearest: (name: string, names: readonly string[]) => string | null
  /** Ends everything the parts hold, in order. */
  readonly close: () => Promise<void>
}
