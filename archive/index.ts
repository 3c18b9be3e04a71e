/** For authors of archive engines and of tools that read archives: the contract, the names and the bytes. */
export {
  ARCHIVE_KEY_BYTES_MAX,
  type ControlKey,
  type ControlKind,
  checkArchiveKey,
  decodeControlKey,
  decodeSegmentKey,
  encodeControlKey,
  encodeSegmentKey,
  type SegmentKey,
} from '../src/format/archive-names.js'
export { type BlockRow, decodeBlock } from '../src/format/segment-block.js'
export {
  decodeObjectHeader,
  decodeObjectIndex,
  SEGMENT_OBJECT_VERSION,
  type SegmentObjectFooter,
} from '../src/format/segment-object.js'
export type { SegmentObjectMeta } from '../src/format/segment-object-meta.js'
export { type ErrorCode, isStratalogError, StratalogError } from '../src/model/errors.js'
export type {
  ArchiveCapabilities,
  ArchiveContext,
  ArchivedKey,
  ArchiveEngine,
  ArchiveFinding,
  ArchiveStore,
  ReplayableBody,
} from '../src/ports/archive-store.js'
export type { Clock, Timer } from '../src/ports/clock.js'
export type { Disk, DiskFile } from '../src/ports/disk.js'
export type { Logger } from '../src/ports/logger.js'
export type { Random } from '../src/ports/random.js'
