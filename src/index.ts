/** The library: a tiered storage log in this process. README.md has the quick start, docs/ the rest. */

export type { PassReport, StreamPlan } from '../tiering/agent.js'
export type { TieringEvent } from '../tiering/context.js'
export type { PlannedAction } from '../tiering/plan.js'
export type {
  AppendAllOptions,
  AppendBatchOptions,
  AppendOptions,
  AppendSummary,
  BatchAck,
  ConditionOptions,
} from './append/append-session.js'
export { openArchive, openLog, planRestore, restoreArchive } from './lazy.js'
export type { Log, Streams, Tier } from './log.js'
export type { Keys, ReencryptedSegment, StreamEncryption, StreamKeyInfo } from './log-keys.js'
export { bytes, type Codec, json, text } from './model/codec.js'
export { Dlsn } from './model/dlsn.js'
export {
  ERROR_CODES,
  type ErrorCode,
  type ErrorDetails,
  isStratalogError,
  StratalogError,
} from './model/errors.js'
export type { ArchiveDown, CopyWindow, Policy, PolicyField, ResolvedPolicy } from './model/policy.js'
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
  ReplayableBody,
} from './ports/archive-store.js'
export type { Clock, Timer } from './ports/clock.js'
export type { Disk, DiskFile } from './ports/disk.js'
export type { KeyRing, RingKey } from './ports/key-ring.js'
export type { Logger } from './ports/logger.js'
export type { Random } from './ports/random.js'
export type { SegmentTotals } from './ports/segment-index.js'
export type { StoreStatus } from './ports/segment-store.js'
export type { ReadCounts } from './read/reader.js'
export type { RestorePlan, RestoreProgress, RestoreReport } from './restore.js'
export type {
  ReadOptions,
  Records,
  Stream,
  StreamInfo,
} from './stream.js'
export type { StreamTiers, TierStatus } from './tier-status.js'
