/**
 * What the control API tells of the state of a log: what an archive that is down leads to, where a stream's history
 * lies, what happened. Types only; see control-api.ts.
 */

/** What is known of one archive. */
export interface ArchiveHealthDto {
  /** `failing`: a step failed and the next one decides. `down`: no step is tried until a probe is answered. */
  readonly state: 'none' | 'ok' | 'failing' | 'down'
  readonly downSinceMs: number | null
  readonly lastError: string | null
  /** When a step was last carried out. */
  readonly lastOkMs: number | null
  /** When it last answered anything. */
  readonly lastAnswerMs: number | null
  /** Since it was last well, most frequent first. */
  readonly errors: readonly { readonly code: string; readonly count: number; readonly message: string }[]
  readonly nextProbeMs: number | null
}

/** An archive that some streams have to themselves. */
export interface OwnArchiveDto extends ArchiveHealthDto {
  readonly location: string
  /** How many streams lie in it. */
  readonly streams: number
}

/** What is known of the archive of the log, and what waits for it and for those that some streams have to themselves. */
export interface ArchiveStatusDto extends ArchiveHealthDto {
  readonly location: string | null
  readonly own: readonly OwnArchiveDto[]
  /** Closed segments that no archive has. */
  readonly waitingBytes: number
  readonly waitingSegments: number
  /** Whether writers are slowed down now. */
  readonly slowing: boolean
  /** Streams whose policy drops data, or slows writers, before the disks are full. */
  readonly drops: readonly string[]
  readonly slows: readonly string[]
}

/** A step that nothing has answered for a while. It is given up and tried again if that goes on. */
export interface StalledDto {
  readonly kind: string
  readonly stream: string
  readonly segment: string | null
  readonly sinceMs: number
}

/** What is to be expected of a store. */
export interface ForecastDto {
  readonly id: string
  readonly location: string
  readonly freeBytes: number
  readonly totalBytes: number
  /** What its disk loses a second; null: not measured long enough by the process that has the log open. */
  readonly bytesPerSecond: number | null
  /** Until appends are refused for want of room. */
  readonly fullInMs: number | null
}

/** Segments of a stream that were recalled and whose objects can't be read yet. */
export interface ThawingDto {
  readonly segments: number
  /** When the archive was first asked for the oldest wish. */
  readonly sinceMs: number
  readonly nextAskMs: number
  /** Why what can be read did not come back; null: it can't be read yet. */
  readonly problem: string | null
}

/** Where a piece of history lies. */
export type HistoryTier = 'cold' | 'both' | 'hot' | 'open' | 'gap' | 'none'

/** A stream's history from its beginning until now, in pieces of equal time. */
export interface HistoryDto {
  readonly stream: string
  readonly fromMs: number
  readonly untilMs: number
  readonly pieces: readonly HistoryTier[]
  readonly gaps: readonly {
    readonly first: string
    readonly last: string
    readonly reason: string
    readonly records: string
    readonly fromMs: number
    readonly untilMs: number
  }[]
  /** What is held, in times; an edge that is none is null, and begins or ends with history. */
  readonly holds: readonly {
    readonly id: string
    readonly fromMs: number | null
    readonly untilMs: number | null
  }[]
}

/** What happened, one at a time. Sequences grow by one: a hole says that older ones were let go. */
export interface EventDto {
  readonly sequence: number
  readonly atMs: number
  readonly type: 'step' | 'archive' | 'scrub' | 'slow'
  /** `step`: seal, copy, evict, trim, drop. */
  readonly kind: string | null
  /** `step`: done, failed, stalled. `archive`: its state. `scrub`: mended, alarm. `slow`: begun, ended. */
  readonly phase: string
  readonly stream: string | null
  readonly segment: string | null
  readonly bytes: number | null
  readonly error: string | null
  /** `archive`: which, where it is one that some streams have to themselves. */
  readonly archive?: string
}

/** The verbs of this area. */
export interface StatusApi {
  /** The latest events above `after`, then with `follow` those that come. */
  events(
    options: { readonly after: number; readonly follow: boolean },
    signal?: AbortSignal,
  ): AsyncIterable<EventDto>
  /** Where the history of a stream lies. */
  tierHistory(stream: string): Promise<HistoryDto>
}
