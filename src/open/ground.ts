import type { ForeignStreams } from '../../tiering/context.js'
import type { UpkeepContext } from '../../tiering/upkeep.js'
import type { ResolvedConfig } from '../config/resolve.js'
import type { LedgerContext } from '../ledger/context.js'
import type { AskForCopies } from '../ledger/repair-marks.js'
import type { DoctorCheck } from '../model/control-doctor.js'
import type { FilledOptions, OpenOptions, SystemPorts } from '../options.js'
import type { Coordination } from '../ports/coordination.js'
import type { LedgerMetadataStore } from '../ports/ledger-metadata.js'
import type { SegmentIndex } from '../ports/segment-index.js'
import type { ClusterView } from '../stores/cluster.js'
import type { StoreKeeping } from '../stores/keeping.js'
import type { ArchiveOpener } from './archives.js'
import type { LiveConfig } from './live-config.js'
import type { StreamArchives } from './stream-archives.js'

/** A log on its way: its directory is locked, its options are checked. */
export interface Opening {
  readonly root: string
  readonly options: OpenOptions
  readonly filled: FilledOptions
  readonly system: SystemPorts
  readonly config: ResolvedConfig
  /** The same, as it follows its file. */
  readonly live: LiveConfig
  /** What is open so far, to be closed in reverse. */
  readonly closers: (() => Promise<void> | void)[]
  readonly close: () => Promise<void>
}

/**
 * What a log stands on: its stores, its index, its archive, whatever its size. The engines are below this, and nowhere
 * above. Two make one: local-ground.ts of directories and SQLite, cluster-ground.ts of bookies and ZooKeeper.
 */
export interface Ground {
  readonly logId: string
  readonly coordination: Coordination
  readonly index: SegmentIndex
  readonly ledgers: LedgerMetadataStore
  readonly stores: LedgerContext['stores']
  /** Of new ledgers; absent: what is built in. */
  readonly digestType?: LedgerContext['digestType']
  readonly keeper: UpkeepContext['keeper']
  readonly archive: ArchiveOpener | null
  /** That and those which some streams have to themselves; null: there is none. */
  readonly ownArchives: StreamArchives | null
  /**
   * Others work on the same streams, ledgers and copies: present in a cluster. Then nothing that a row of ours does not
   * name is judged, a segment is fenced only under its writer's lease, and copies are asked for, not made.
   */
  readonly shared: {
    readonly askForCopies: AskForCopies
    /** Whether policies free hot copies: those who know nothing of the archive lose them. */
    readonly evicts: boolean
    readonly foreign: ForeignStreams
  } | null
  /** The BookKeeper cluster it stands on; absent: its stores are directories. */
  readonly cluster?: ClusterView
  /** What `store list`, `store replace` and `store drain` do here. */
  readonly keeping: (ledger: LedgerContext, policies: StoresNeeded) => Promise<StoreKeeping>
  /** What `doctor` finds beside stores, index and archive. */
  readonly checks: () => Promise<readonly DoctorCheck[]>
}

/** Stores that the largest quorum of any stream needs. */
export type StoresNeeded = () => Promise<number>
