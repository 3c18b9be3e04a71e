import type { ColdReads } from '../archive/cold-reads.js'
import type { TieringAgent } from '../tiering/agent.js'
import type { TieringContext } from '../tiering/context.js'
import type { SegmentRecoverer } from '../tiering/recoverer.js'
import type { Upkeep } from '../tiering/upkeep.js'
import type { SegmentContext } from './append/segment-writer.js'
import type { WriterHub } from './append/writer-hub.js'
import type { DoctorCheck } from './model/control-doctor.js'
import type { PolicyReload, PolicySource } from './model/control-policy.js'
import type { ResolvedPolicy } from './model/policy.js'
import type { PolicyInput } from './model/policy-input.js'
import type { ArchiveEngine, ArchiveStore } from './ports/archive-store.js'
import type { Random } from './ports/random.js'
import type { ReadContext } from './read/reader.js'
import type { Bookkeeper } from './stores/cluster.js'
import type { StoreKeeping } from './stores/keeping.js'

/** Places that an archive could move to. */
export interface ArchivePlaces {
  /** What such an archive is called: a path is made absolute. */
  locate(place: string | ArchiveEngine): string
  /** Opens it whatever is there; closed by who asked. `existing`: see the port. */
  open(place: string | ArchiveEngine, existing: boolean): Promise<ArchiveStore>
}

/** What `openLog` puts together; the log itself names no engine. */
export interface LogParts {
  readonly logId: string
  readonly directory: string
  readonly segments: SegmentContext
  readonly hub: WriterHub
  readonly read: ReadContext
  readonly recoverer: SegmentRecoverer
  readonly agent: TieringAgent
  /** What tiering by hand needs: the same as the agent's. */
  readonly tiering: TieringContext
  /** Scrub, repair and the moving of copies. */
  readonly upkeep: Upkeep
  readonly stores: StoreKeeping
  /** The BookKeeper cluster it stands on; null or absent: its stores are directories. */
  readonly bookkeeper?: Bookkeeper | null
  readonly random: Random
  /** Null: none is configured. */
  readonly archive: (() => Promise<ArchiveStore>) | null
  readonly archiveLocation: string | null
  /** Opens it whoever owns it, see `ArchiveOpener`. */
  readonly openAnyArchive: ((existing: boolean) => Promise<ArchiveStore>) | null
  /** Where the archive could go; null: there is none to move. */
  readonly places: ArchivePlaces | null
  /** Looks for what was archived since, where the log only reads an archive of another; null: it is a log of its own. */
  readonly attached: (() => Promise<void>) | null
  /** What readers of the archive share; null where there is none. */
  readonly coldReads: ColdReads | null
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
  /** The configuration file, read again when it changes. */
  readonly config: { readonly source: PolicySource; reload(): Promise<PolicyReload> }
  /** Names like the unknown one, best first. */
  readonly nearest: (name: string, names: readonly string[]) => string | null
  /** What `doctor` is told of the machine and of files beside the log. */
  readonly surroundings?: () => Promise<readonly DoctorCheck[]>
  /** Ends everything the parts hold, in order. */
  readonly close: () => Promise<void>
}
