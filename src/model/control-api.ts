/**
 * What the command line asks of a log, in the same process (`serve/control-api.ts`) or through its control socket
 * (`client/control-client.ts`). Everything but payloads is ready for JSON: positions and ids are decimal strings,
 * times milliseconds since the epoch. Types only. Failures are `StratalogError`s, equal on both ways.
 */

import type { ArchiveApi, ColdScrubDto } from './control-archive.js'
import type { BookkeeperApi } from './control-bookkeeper.js'
import type { CloneApi } from './control-clone.js'
import type { DoctorApi } from './control-doctor.js'
import type { KeysApi } from './control-keys.js'
import type { LivesApi } from './control-lives.js'
import type { MigrateApi } from './control-migrate.js'
import type { PolicyApi, PolicyOutcome, PolicySource } from './control-policy.js'
import type { ReadApi } from './control-read.js'
import type { SegmentsApi } from './control-segments.js'
import type { ArchiveStatusDto, ForecastDto, StalledDto, StatusApi, ThawingDto } from './control-status.js'
import type { TieringApi, TierOrdersDto } from './control-tiering.js'

/** Version of the routes (`/v1`). */
export type ControlVersion = 1

export interface PingDto {
  readonly api: ControlVersion
  readonly logId: string
  readonly pid: number
  /** Device and inode of the log's directory: a copied control.json must not lead to the original. */
  readonly directoryId: string
}

export interface TotalsDto {
  readonly segments: number
  readonly records: string
  readonly hotSegments: number
  readonly hotBytes: number
  readonly coldSegments: number
  readonly coldBytes: number
  readonly bothBytes: number
}

export interface StreamDto {
  readonly name: string
  readonly incarnation: string
  readonly txid: 'ms' | 'custom'
  readonly createdMs: number
  readonly trimmedBelow: string | null
  /** When it was ended for ever; null: it was not. */
  readonly finishedMs: number | null
  readonly totals: TotalsDto
}

export interface StreamInfoDto extends StreamDto {
  /** DLSN of the oldest segment. */
  readonly first: string | null
  readonly newestSegment: string | null
  /** sequenceId the next record gets. */
  readonly nextSequenceId: string
  readonly lastTxid: string | null
}

/** A page of a list: what comes above `after`, at most `limit` (and never more than 1,000). */
export interface PageDto {
  readonly after?: string
  readonly limit?: number
}

export interface AppendRecord {
  readonly payload: Uint8Array
  /** Default: max(last, now). */
  readonly txid?: bigint
}

/** On what the records sent together depend; see `Stream.append`. */
export interface AppendConditionsDto {
  /** The producer, and its number of the first record; those behind it count on. */
  readonly producer?: { readonly id: string; readonly sequence: bigint }
  readonly ifTail?: bigint | 'empty'
  readonly fence?: bigint
}

export interface AckDto {
  readonly dlsn: string
  readonly sequenceId: string
  readonly txid: string
  /** When the log took the record. */
  readonly timeMs: number
  readonly copies: number
  readonly duplicate: boolean
}

export interface AppendResult {
  /** Of every record that is durable, in order. */
  readonly acks: readonly AckDto[]
  /** The first record that is not, by its place in what was sent; null: all are. */
  readonly failed: { readonly index: number; readonly error: Error } | null
  /** Copies the policy wants of each record. */
  readonly copiesWanted: number
  /** How the stream's txids are to be understood. */
  readonly txid: 'ms' | 'custom'
}

/** Positions as the command line writes them: `12:340:7`, `txid:N`, `seq:N`, `earliest`, an ISO time, `-1h`. */
export interface ReadRequest {
  readonly from?: string
  readonly after?: string
  readonly until?: string
  readonly limit?: number
  readonly follow?: boolean
  /** `throw` (default): a gap rejects with code `gap`. `yield`: gaps are parts. */
  readonly onGap?: 'throw' | 'yield'
}

export interface ReadRecord {
  readonly dlsn: string
  readonly txid: string
  readonly sequenceId: string
  readonly payload: Uint8Array
}

export interface GapDto {
  readonly gap: string
  readonly from: string
  readonly until: string
  readonly firstSequenceId: string | null
  readonly lastSequenceId: string | null
}

/** What a read yields: first `begin`, last `end`. */
export type ReadPart =
  /** The instants that times and ages were taken for; null: the request named none there. */
  | {
      readonly type: 'begin'
      readonly txid: 'ms' | 'custom'
      readonly fromMs: number | null
      readonly afterMs: number | null
      readonly untilMs: number | null
    }
  | { readonly type: 'records'; readonly tier: 'hot' | 'cold'; readonly records: readonly ReadRecord[] }
  | { readonly type: 'gap'; readonly gap: GapDto }
  | { readonly type: 'end'; readonly hot: number; readonly cold: number }

export interface SegmentDto {
  readonly segment: string
  readonly state: 'open' | 'recovering' | 'sealed' | 'archived' | 'cold' | 'trimmed' | 'gap'
  readonly epoch: string
  readonly ledgerId: string | null
  readonly firstTxid: string
  readonly lastTxid: string
  readonly startSequenceId: string
  readonly lastEntryId: string
  readonly recordCount: string
  readonly lengthBytes: number
  readonly openedMs: number
  readonly sealedMs: number | null
  readonly archivedMs: number | null
  readonly evictedMs: number | null
  /** Until when its hot copy stays because it was recalled; null: policy alone decides. */
  readonly recalledUntilMs: number | null
  readonly contentDigest: string | null
  readonly object: { readonly key: string; readonly sizeBytes: number } | null
}

export interface DumpedRecord {
  readonly slot: number
  readonly txid: string
  readonly sequenceId: string | null
  readonly kind: 'user' | 'control' | 'end-of-stream'
  readonly bytes: number
  /** Only where payloads were asked for. */
  readonly payload: Uint8Array | null
}

/** One entry of a segment. `copies` says how each copy compares with its checksum. */
export interface DumpedEntry {
  readonly entryId: string
  readonly bytes: number
  readonly copies: readonly {
    readonly where: string
    readonly state: 'ok' | 'missing' | 'suspect' | 'bad'
    readonly error: string | null
  }[]
  readonly records: readonly DumpedRecord[]
}

/** What a dump yields: first the segment, then its entries in order. */
export type DumpPart =
  | { readonly type: 'segment'; readonly segment: SegmentDto }
  | { readonly type: 'entry'; readonly entry: DumpedEntry }

export interface PlannedDto {
  readonly kind: 'seal' | 'copy' | 'evict' | 'trim'
  readonly stream: string
  readonly segment: string
  readonly dueMs: number
  /** No time is known: what blocks it must end first. */
  readonly never: boolean
  readonly reason: string
  readonly field: string
  readonly origin: string
  readonly bytes: number
  readonly blockedBy: string | null
}

export interface TierPlanDto {
  readonly atMs: number
  readonly archive: string | null
  /** Streams whose next segment goes to another archive, and to which. */
  readonly own: Readonly<Record<string, string>>
  readonly actions: readonly PlannedDto[]
}

export interface StoreDto {
  readonly id: string
  readonly location: string
  readonly state: string
  readonly reason: string | null
  readonly usedBytes: number
  readonly freeBytes: number
  readonly totalBytes: number
  readonly device: string
  readonly pendingBytes: number
  readonly corruptBytes: number
}

/** A store as `store list` shows it. */
export interface StoreLineDto extends StoreDto {
  /** `out`: drained or being drained. `lost`: ledgers name it and no configured directory is known to be its. */
  readonly role: 'in use' | 'out' | 'lost'
  /** Ledgers that name it. */
  readonly ledgers: number
  /** Entries of closed ledgers it should hold and does not know; null: it can't be asked. */
  readonly missingCopies: number | null
}

/** A store whose copies are going elsewhere. */
export interface StoreWorkDto {
  readonly kind: 'replace' | 'drain'
  readonly from: string
  /** Null: to any others. */
  readonly to: string | null
  readonly location: string
  readonly startedMs: number
  readonly bytesPerSecond: number | null
}

export interface StoreListDto {
  readonly stores: readonly StoreLineDto[]
  readonly works: readonly StoreWorkDto[]
}

export interface UnrepairableDto {
  readonly ledgerId: string
  readonly entryId: string
  readonly storeId: string
  readonly reason: string
}

export interface StoreProgressDto {
  readonly from: string
  readonly to: string | null
  readonly ledgers: number
  readonly totalBytes: number
  readonly doneLedgers: number
  readonly doneBytes: number
  /** Not closed yet: the agent takes them when they are. */
  readonly openLedgers: number
  /** Evicted or trimmed, and not deleted everywhere yet. */
  readonly doomedLedgers: number
  /** Not whole: a copy was not to be had, or could not be written. */
  readonly incompleteLedgers: number
  readonly copiedEntries: number
  readonly copiedBytes: number
  readonly unrepairable: readonly UnrepairableDto[]
  readonly problem: string | null
}

/** What `store replace` and `store drain` yield: first `begun`, last `end`. */
export type StoreWorkPart =
  | {
      readonly type: 'begun'
      /** Null: a new store has nobody's place to take. */
      readonly from: string | null
      readonly to: string | null
      readonly location: string
    }
  | { readonly type: 'progress'; readonly progress: StoreProgressDto }
  /** Null: there was nothing to copy. */
  | { readonly type: 'end'; readonly progress: StoreProgressDto | null }

/** How the scrub of the hot copies is getting on. */
export interface ScrubDto {
  /** BookKeeper keeps the copies: no pass is ever begun here, and what reads find amiss is asked for there. */
  readonly elsewhere: boolean
  /** Null: no pass has begun yet. */
  readonly passStartedMs: number | null
  readonly passEndsMs: number | null
  readonly lastPassMs: number | null
  /** The pass is over and the next one waits for its time. */
  readonly idle: boolean
  readonly doneBytes: number
  readonly totalBytes: number
  /** Copies mended, by the scrub since the log was made and on reading since it was opened. */
  readonly repaired: number
  readonly repairedOnRead: number
  /** Copies in this pass that could not be looked at, because a store was away. */
  readonly unreached: number
  readonly unrepairable: readonly UnrepairableDto[]
}

export interface StreamTiersDto {
  readonly stream: StreamDto
  /** Bytes of the segment that is being written. */
  readonly openBytes: number
  readonly oldestUncopied: SegmentDto | null
  /** What these disks alone hold, and since when. */
  readonly atRiskBytes: number
  readonly atRiskSinceMs: number | null
  readonly next: PlannedDto | null
  /** A step of protection is due and not done, whether or not the archive is to blame. */
  readonly behind: boolean
  /** When history begins; null for none. */
  readonly sinceMs: number | null
  /** What was recalled and can't be read yet; null: nothing. */
  readonly thawing: ThawingDto | null
  /** Where the archive is that it has to itself or shares with a few; null: it lies in the log's, or nowhere yet. */
  readonly ownArchive: string | null
  /** It stays in an archive while its policy names another; null: it lies where the policy says. */
  readonly stays: { readonly at: string; readonly named: string; readonly origin: string } | null
}

export interface TierStatusDto {
  readonly atMs: number
  readonly archive: ArchiveStatusDto
  /** Steps that stand still. */
  readonly stalled: readonly StalledDto[]
  readonly forecasts: readonly ForecastDto[]
  readonly stores: readonly StoreDto[]
  readonly scrub: ScrubDto
  /** Null: there is no archive. */
  readonly coldScrub: ColdScrubDto | null
  readonly streams: readonly StreamTiersDto[]
  /** The configuration file, and whether what it says is in force. */
  readonly policy: PolicySource
  readonly gaps: number
  /** Pauses and limits that an operator set. */
  readonly orders: TierOrdersDto
}

export interface TierReportDto {
  readonly sealed: number
  readonly copied: number
  readonly evicted: number
  readonly trimmed: number
  /** Segments that became gaps to make room while the archive was down. */
  readonly dropped: number
  readonly freedHotBytes: number
  readonly failed: readonly {
    readonly stream: string
    readonly segment: string
    readonly kind: string
    readonly error: string
  }[]
  readonly waiting: number
  readonly nextDueMs: number | null
}

/** What a tiering run yields: its steps, at last the report. */
export type TierRunPart =
  | {
      readonly type: 'step'
      readonly kind: string
      readonly phase: 'begin' | 'progress' | 'done' | 'failed' | 'stalled'
      readonly stream: string
      readonly segment: string
      readonly bytes: number
      readonly error: string | null
    }
  | { readonly type: 'report'; readonly report: TierReportDto }

export interface PolicyValueDto {
  readonly field: string
  /** Times in ms, sizes in bytes, null: no limit. */
  readonly value: unknown
  readonly origin: string
}

export interface PolicyShowDto {
  /** The configuration file of the process that has the log open. */
  readonly source: PolicySource
  readonly stream: string
  /** Whether there is such a stream; if not, this is what it would get. */
  readonly exists: boolean
  readonly values: readonly PolicyValueDto[]
  readonly losers: readonly (PolicyValueDto & { readonly by: string })[]
}

export interface PolicyTestDto extends PolicyShowDto, PolicyOutcome {}

/** The verbs. Every method rejects with `stream_not_found` for an unknown stream unless it says otherwise. */
export interface ControlApi
  extends ArchiveApi,
    BookkeeperApi,
    CloneApi,
    DoctorApi,
    KeysApi,
    LivesApi,
    MigrateApi,
    PolicyApi,
    ReadApi,
    SegmentsApi,
    StatusApi,
    TieringApi {
  ping(): Promise<PingDto>
  /** Streams by name in code-point order. */
  listStreams(page?: PageDto): Promise<readonly StreamDto[]>
  streamInfo(name: string): Promise<StreamInfoDto>
  /** `stream_exists`. */
  createStream(name: string, options: { readonly txid: 'ms' | 'custom' }): Promise<StreamInfoDto>
  /**
   * Appends in order, creating the stream where the policy allows it. Resolves once every record is durable or has
   * failed; rejects only where nothing was appended.
   */
  append(
    name: string,
    records: readonly AppendRecord[],
    conditions?: AppendConditionsDto,
  ): Promise<AppendResult>
  /** Ends the stream for ever. Idempotent. */
  finishStream(name: string): Promise<StreamInfoDto>
  read(name: string, request: ReadRequest, signal?: AbortSignal): AsyncIterable<ReadPart>
  /** The last `count` records, then with `follow` what comes. */
  tail(
    name: string,
    count: number,
    options: { readonly follow: boolean },
    signal?: AbortSignal,
  ): AsyncIterable<ReadPart>
  tierStatus(): Promise<TierStatusDto>
  storeList(): Promise<StoreListDto>
  /** Makes a new store in the place of a lost one and copies what that one held. `refused`, `not_found`, `corrupt`. */
  storeReplace(
    request: { readonly store: string; readonly with?: string; readonly bytesPerSecond?: number },
    signal?: AbortSignal,
  ): AsyncIterable<StoreWorkPart>
  /** Copies everything of a store to others and takes it out of use. `refused`, `not_found`. */
  storeDrain(
    request: { readonly store: string; readonly bytesPerSecond?: number },
    signal?: AbortSignal,
  ): AsyncIterable<StoreWorkPart>
  tierPlan(stream?: string): Promise<TierPlanDto>
  tierRun(options: { readonly until: 'once' | 'settled' }, signal?: AbortSignal): AsyncIterable<TierRunPart>
  /** Also for a stream that is not there yet. */
  policyShow(name: string): Promise<PolicyShowDto>
  /** Also for a stream that is not there yet. */
  policyTest(name: string, options: { readonly atMs: number }): Promise<PolicyTestDto>
  /** Oldest first; `after` is a segment number. */
  segments(name: string, page?: PageDto): Promise<readonly SegmentDto[]>
  /** `not_found` for a number the stream does not have. */
  segmentDump(
    name: string,
    segment: string,
    options: { readonly payloads: boolean },
    signal?: AbortSignal,
  ): AsyncIterable<DumpPart>
}
