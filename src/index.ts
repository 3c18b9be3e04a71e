/** The library: a tiered storage log in this process. README.md has the quick start, docs/ the rest. */

export type { HdfsSettings } from '../archive/hdfs/settings.js'
export type { S3Settings } from '../archive/s3/settings.js'
export type { PassReport, StreamPlan } from '../tiering/agent.js'
export type { ClonedStream } from '../tiering/clone.js'
export type { TieringEvent } from '../tiering/context.js'
export type { LogEvent } from '../tiering/events.js'
export type { EvictStep } from '../tiering/evict-range.js'
export type { PutHold } from '../tiering/hold-changes.js'
export type { StandingHold } from '../tiering/holds.js'
export type { Pause, TierOrders, UploadLimit } from '../tiering/orders.js'

export type { PlannedAction } from '../tiering/plan.js'
export type { RecallProgress } from '../tiering/recall.js'
export type {
  AppendAllOptions,
  AppendBatchOptions,
  AppendOptions,
  AppendSummary,
  BatchAck,
  ConditionOptions,
} from './append/append-session.js'
export { openArchive, openLog, planRestore, restoreArchive } from './lazy.js'
export type { Log, OrderEnd, Policies, Streams, Tier } from './log.js'
export type {
  ArchivedSegmentObject,
  ArchiveVerification,
  LogArchive,
  OrphanOptions,
  OrphanReport,
  VerifyArchiveOptions,
} from './log-archive.js'
export type { Keys, ReencryptedSegment, StreamEncryption, StreamKeyInfo } from './log-keys.js'
export type {
  LogMigration,
  MigrateToOptions,
  MigrationFinding,
  MigrationPart,
  MigrationPlan,
  MigrationProgress,
  MigrationReport,
} from './log-migrate.js'
export type { ArchiveOwnership } from './log-ownership.js'
export { bytes, type Codec, json, text } from './model/codec.js'
export type {
  PolicyConflict,
  PolicyOutcome,
  PolicyReload,
  PolicySource,
  PolicyStepSum,
  RestartSetting,
} from './model/control-policy.js'
export type {
  ExplainedSegment,
  LocatedPosition,
  ReadBound,
  ReadExplanation,
  ReadTier,
} from './model/control-read.js'
export { Dlsn } from './model/dlsn.js'
export {
  ERROR_CODES,
  type ErrorCode,
  type ErrorDetails,
  isStratalogError,
  StratalogError,
} from './model/errors.js'
export type {
  ArchiveDown,
  CopyWindow,
  Policy,
  PolicyField,
  PolicyHold,
  PolicyHoldEdge,
  ResolvedPolicy,
} from './model/policy.js'
export type {
  DurationInput,
  HoldInput,
  HoldPosition,
  PolicyInput,
  RateInput,
  SizeInput,
} from './model/policy-input.js'
export { type Position, parsePosition } from './model/position.js'
export { type Ack, type Gap, type LogRecord, PAYLOAD_BYTES_MAX } from './model/record.js'
export type {
  ArchivedObject,
  Incarnation,
  SegmentRow,
  SegmentState,
  StreamParent,
  StreamRow,
  TxidMode,
} from './model/segment.js'
export type { OpenArchiveOptions } from './open/archives.js'
export type { OpenOptions, SystemPorts } from './options.js'
export type {
  ArchiveCapabilities,
  ArchiveContext,
  ArchivedKey,
  ArchiveEngine,
  ArchiveStore,
  ReadInOrder,
  ReplayableBody,
  StorageWishes,
} from './ports/archive-store.js'
export type { Clock, Timer } from './ports/clock.js'
export type { Disk, DiskFile } from './ports/disk.js'
export type { KeyRing, RingKey } from './ports/key-ring.js'
export type { Logger } from './ports/logger.js'
export type { Random } from './ports/random.js'
export type { SegmentTotals } from './ports/segment-index.js'
export type { StoreStatus } from './ports/segment-store.js'
export type { ReadCounts } from './read/reader.js'
export type {
  LeftOut,
  RestorableStream,
  RestoreGap,
  RestoreOptions,
  RestorePlan,
  RestoreProgress,
  RestoreReport,
  RestoreSelection,
} from './restore.js'
export type { Bookkeeper } from './stores/cluster.js'
export type {
  Explanation,
  ReadOptions,
  Records,
  Stream,
  StreamInfo,
} from './stream.js'
export type {
  CloneOptions,
  EvictReport,
  HoldOptions,
  RangeOptions,
  RecallOptions,
  TrimOptions,
  TrimReport,
} from './stream-tiering.js'
export type { StreamTiers, TierStatus } from './tier-status.js'
