/** Tiering by hand as the command line asks for it: see `control-api.ts` for the conventions. Types only. */

/** A hold or pin that stands. Edges as the command line writes positions; null: no bound. */
export interface HoldDto {
  readonly id: string
  readonly kind: 'hold' | 'pin'
  readonly from: string | null
  /** Exclusive. */
  readonly until: string | null
  readonly reason: string | null
  /** Null: a policy says it. */
  readonly atMs: number | null
  /** The incarnation that shares the objects; null for holds. */
  readonly by: string | null
  /** `stream`: put by hand. `archive`: only the archive knows it. Else where the policy says it. */
  readonly origin: string
}

export interface PutHoldDto {
  readonly hold: HoldDto
  /** History below this had ended before. */
  readonly trimmedBelow: string | null
  /** Whether the archive knows of the hold yet. */
  readonly told: boolean
}

export interface TrimRequest {
  /** A position; not together with `keepBytes`. */
  readonly before?: string
  readonly keepBytes?: number
  readonly seal?: boolean
  readonly dryRun?: boolean
}

/** What a trim yields: first what it would do, then, unless that is all that was asked, what it did. */
export interface TrimPart {
  readonly type: 'survey' | 'done'
  readonly asked: string
  /** Null: nothing changes. */
  readonly below: string | null
  readonly segments: number
  readonly records: string
  readonly hotBytes: number
  readonly archiveBytes: number
  readonly held: { readonly segment: string; readonly hold: HoldDto } | null
}

/** Positions; `until` exclusive. Default: everything. */
export interface RangeRequest {
  readonly from?: string
  readonly until?: string
}

export interface RecallRequestDto extends RangeRequest {
  readonly forMs: number
  readonly dryRun?: boolean
}

export interface RecallPart {
  readonly type: 'progress'
  readonly done: number
  readonly segments: number
  readonly doneBytes: number
  readonly bytes: number
  readonly kept: number
  readonly gaps: number
  /** Segments whose objects can't be read yet: the agent brings them back when they can. */
  readonly thawing: number
  readonly segment: string | null
  readonly untilMs: number
}

export interface EvictPart {
  readonly type: 'step'
  readonly kind: 'seal' | 'copy' | 'evict'
  readonly segment: string
  readonly bytes: number
}

export interface TierOrdersDto {
  readonly pauses: readonly {
    /** Null: every stream. */
    readonly stream: string | null
    readonly atMs: number
    readonly untilMs: number | null
  }[]
  readonly upload: {
    readonly bytesPerSecond: number
    readonly atMs: number
    readonly untilMs: number | null
  } | null
}

/** One order to the agent. Ends without `forMs` only when it is taken back. */
export type TierOrderRequest =
  | { readonly kind: 'pause'; readonly stream?: string; readonly forMs?: number }
  | { readonly kind: 'resume'; readonly stream?: string }
  | { readonly kind: 'limit'; readonly uploadBytesPerSecond: number | null; readonly forMs?: number }

/** The verbs of tiering by hand. */
export interface TieringApi {
  holdAdd(
    name: string,
    hold: { readonly id: string; readonly from?: string; readonly until?: string; readonly reason?: string },
  ): Promise<PutHoldDto>
  holdList(name: string): Promise<readonly HoldDto[]>
  /** What still stands. `not_found`, `refused`. */
  holdRelease(name: string, id: string): Promise<readonly HoldDto[]>
  trim(name: string, request: TrimRequest, signal?: AbortSignal): AsyncIterable<TrimPart>
  /** First what there is to do, then how far it is. */
  recall(name: string, request: RecallRequestDto, signal?: AbortSignal): AsyncIterable<RecallPart>
  evict(name: string, range: RangeRequest, signal?: AbortSignal): AsyncIterable<EvictPart>
  tierOrders(): Promise<TierOrdersDto>
  tierOrder(order: TierOrderRequest): Promise<TierOrdersDto>
}
