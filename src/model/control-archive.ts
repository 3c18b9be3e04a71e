/** What the command line asks of the archive; see `control-api.ts` for how values are written. Types only. */

/** One object of a segment. */
export interface ArchiveObjectDto {
  /** Null: neither index nor archive name the stream. */
  readonly stream: string | null
  readonly incarnation: string
  readonly segment: string
  readonly attempt: string
  readonly key: string
  readonly sizeBytes: number
  readonly records: string
  readonly firstSequenceId: string
  readonly firstTxid: string
  readonly lastTxid: string
  readonly completionMs: number
  readonly contentDigest: string
  /** Whether the index names it; null: there is no index to ask. */
  readonly committed: boolean | null
}

/** What `archive ls` yields: objects in order of stream and segment, at last how many they were. */
export type ArchiveLsPart =
  | { readonly type: 'object'; readonly object: ArchiveObjectDto }
  | { readonly type: 'end'; readonly objects: number; readonly bytes: number }

/** What is wrong with the archive, and what to do about it. */
export interface ArchiveFindingDto {
  readonly problem: string
  readonly incarnation: string
  readonly stream: string | null
  readonly segment: string | null
  readonly key: string | null
  readonly text: string
  readonly mend: string
}

/** What was looked at. */
export interface ArchiveTallyDto {
  readonly segments: number
  readonly objects: number
  readonly bytes: number
  /** Objects of which every byte was read, and the bytes. */
  readonly deepObjects: number
  readonly deepBytes: number
  /** Objects no row names. */
  readonly extra: number
  readonly extraBytes: number
  /** Keys that are none of ours. */
  readonly foreign: number
  readonly findings: number
}

/** What `archive verify` yields. */
export type ArchiveVerifyPart =
  | { readonly type: 'finding'; readonly finding: ArchiveFindingDto }
  | { readonly type: 'progress'; readonly stream: string | null; readonly tally: ArchiveTallyDto }
  | { readonly type: 'end'; readonly streams: number; readonly tally: ArchiveTallyDto }

/** An object that no row names. */
export interface OrphanObjectDto {
  readonly key: string
  readonly sizeBytes: number
  readonly incarnation: string
  readonly stream: string | null
  readonly segment: string
  readonly reason: string
  readonly why: string
  readonly firstSeenMs: number | null
  readonly outcome: 'due' | 'waiting' | 'kept' | 'deleted'
}

/** A ledger that no row names. */
export interface OrphanLedgerDto {
  readonly ledgerId: string
  readonly stream: string | null
  readonly segment: string | null
  readonly firstSeenMs: number
  readonly outcome: 'due' | 'waiting' | 'kept' | 'deleted'
  readonly why: string
}

/** How many orphans there are of each outcome. */
export interface OrphanTallyDto {
  readonly objects: number
  readonly due: number
  readonly dueBytes: number
  readonly waiting: number
  readonly waitingBytes: number
  readonly kept: number
  readonly keptBytes: number
  readonly deleted: number
  readonly deletedBytes: number
  readonly foreign: number
  /** Files of interrupted uploads that were removed. */
  readonly leftovers: number
  /** Summaries of nothing but trimmed segments that were deleted. */
  readonly summaries: number
  readonly skipped: readonly { readonly stream: string; readonly error: string }[]
}

/** What `archive orphans` yields. */
export type OrphanPart =
  | { readonly type: 'object'; readonly orphan: OrphanObjectDto }
  | { readonly type: 'ledger'; readonly orphan: OrphanLedgerDto }
  | { readonly type: 'end'; readonly tally: OrphanTallyDto }

/** What does not fit together across index, stores and archive. */
export interface FsckFindingDto {
  readonly severity: 'damage' | 'waste' | 'unknown'
  readonly where: 'index' | 'stores' | 'archive'
  readonly problem: string
  readonly stream: string | null
  readonly segment: string | null
  readonly ledgerId: string | null
  readonly key: string | null
  readonly text: string
  readonly mend: string
}

/** What a check looked at. */
export interface FsckTallyDto {
  readonly streams: number
  readonly segments: number
  readonly ledgers: number
  readonly objects: number
  readonly deepBytes: number
  readonly damage: number
  readonly waste: number
  readonly unknown: number
}

/** What `fsck` yields. */
export type FsckPartDto =
  | { readonly type: 'finding'; readonly finding: FsckFindingDto }
  | { readonly type: 'progress'; readonly stream: string | null; readonly tally: FsckTallyDto }
  | { readonly type: 'end'; readonly tally: FsckTallyDto }

/** A copy in the archive that could not be mended. */
export interface ColdAlarmDto {
  readonly stream: string
  readonly incarnation: string
  readonly segment: string
  readonly key: string
  readonly problem: string
  readonly why: string
  readonly foundMs: number
}

/** How the scrub of the archive is getting on. */
export interface ColdScrubDto {
  /** Null: no pass has begun yet. */
  readonly passStartedMs: number | null
  readonly passEndsMs: number | null
  readonly lastPassMs: number | null
  readonly idle: boolean
  /** Of the pass; null: none has begun. */
  readonly percent: number | null
  readonly doneBytes: number
  readonly totalBytes: number
  readonly repaired: number
  readonly alarms: readonly ColdAlarmDto[]
}

/** What `archive scrub` yields: how far it is, at last what it came to. */
export interface ColdScrubPart {
  readonly type: 'progress' | 'end'
  readonly scrub: ColdScrubDto
}

/** An operator's choice among contents of one segment. */
export interface ResolutionDto {
  readonly segment: string
  readonly chosen: string
  readonly deleted: readonly string[]
}

/** The verbs on the archive. All reject with `archive_missing` where none is configured. */
export interface ArchiveApi {
  /** `archive`: one only, where the log has several; `refused` where it has none there. Also below. */
  archiveLs(
    request: { readonly stream?: string; readonly archive?: string },
    signal?: AbortSignal,
  ): AsyncIterable<ArchiveLsPart>
  /** Read-only. `sample` is a part in (0, 1], chosen by `seed`. */
  archiveVerify(
    request: {
      readonly stream?: string
      readonly archive?: string
      readonly deep?: boolean
      readonly sample?: number
      readonly seed?: string
    },
    signal?: AbortSignal,
  ): AsyncIterable<ArchiveVerifyPart>
  /** Without `collect` nothing is deleted. `refused` where the archive is another log's. */
  archiveOrphans(
    request: {
      readonly stream?: string
      readonly archive?: string
      readonly graceMs?: number
      readonly collect: boolean
    },
    signal?: AbortSignal,
  ): AsyncIterable<OrphanPart>
  /** Ends a conflict by naming the attempt that is the segment; the others are deleted. `not_found`, `refused`. */
  archiveResolve(request: {
    readonly stream: string
    readonly segment: string
    readonly attempt: string
  }): Promise<ResolutionDto>
  /** Reads every object, as fast as it goes, and mends what is bad. Whoever leaves it leaves the rest to the background. */
  archiveScrub(signal?: AbortSignal): AsyncIterable<ColdScrubPart>
  /** Read-only. Also for a log without an archive. */
  fsck(request: { readonly deep?: boolean }, signal?: AbortSignal): AsyncIterable<FsckPartDto>
}
