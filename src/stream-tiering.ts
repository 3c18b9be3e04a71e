import { type ClonedStream, cloneStream } from '../tiering/clone.js'
import type { EvictStep } from '../tiering/evict-range.js'
import { evictRange } from '../tiering/evict-range.js'
import { holdsAsFarAsKnown, type PutHold, putHold, releaseHold } from '../tiering/hold-changes.js'
import type { StandingHold } from '../tiering/holds.js'
import type { SegmentRange } from '../tiering/ranges.js'
import { type RecallProgress, recallRange } from '../tiering/recall.js'
import { trimBelow } from '../tiering/trim.js'
import { surveyTrim, type TrimSurvey } from '../tiering/trim-survey.js'
import { attachedError } from './log-ownership.js'
import type { LogParts } from './log-parts.js'
import { Dlsn } from './model/dlsn.js'
import { StratalogError } from './model/errors.js'
import type { HoldEdge } from './model/hold.js'
import type { Position } from './model/position.js'
import { isClosed, type StreamRow } from './model/segment.js'
import { checkStreamName } from './model/stream-name.js'
import { parseDuration } from './model/units.js'
import { timeOf } from './read/locate.js'
import { positionIn } from './read/position-in.js'

/** How long the agent may take for the step it is in, until the stream is free. */
const LEASE_WAIT_MS = 60_000
/** A hold that another process put meanwhile is weighed, and the trim decided anew, this often. */
const TRIM_ATTEMPTS_MAX = 3

/** A legal hold: which records must not be trimmed, dropped or collected while it stands. */
export interface HoldOptions {
  /** Names it among the stream's holds: `case-4711`. */
  readonly id: string
  /** A DLSN, txid or time, inclusive. Default: from the beginning. */
  readonly from?: Position
  /** A DLSN, txid or time, exclusive. Default: for ever, what is not appended yet included. */
  readonly until?: Position
  /** For people. */
  readonly reason?: string
}

/** Where a trim ends history. */
export interface TrimOptions {
  /** What lies before it goes; or how many bytes of history are to stay, the newest. */
  readonly before: Position | { readonly keepBytes: number }
  /** Seal the open segment first, so that its old part can go with all of it. @default false */
  readonly seal?: boolean
  /** Only say what would go. @default false */
  readonly dryRun?: boolean
  readonly signal?: AbortSignal
}

/** What a trim did, or would do. */
export interface TrimReport extends TrimSurvey {
  /** What was asked for, as a DLSN. */
  readonly asked: Dlsn
}

/** A part of a stream's history, by whole segments. Default: all of it. */
export interface RangeOptions {
  readonly from?: Position
  /** Exclusive. */
  readonly until?: Position
}

/** How a recall is done. */
export interface RecallOptions {
  /** How long it stays hot: `7d`, or milliseconds. */
  readonly for: string | number
  /** Only say what would be brought back. @default false */
  readonly dryRun?: boolean
  readonly signal?: AbortSignal
  readonly onProgress?: (progress: RecallProgress) => void
}

/** Where a clone leaves the stream it is made of. */
export interface CloneOptions {
  /** Exclusive. Default: behind everything that was acknowledged. */
  readonly until?: Position
  readonly signal?: AbortSignal
}

/** What an eviction by hand did. */
export interface EvictReport {
  readonly sealed: number
  readonly copied: number
  readonly evicted: number
  readonly freedBytes: number
}

const never = (): AbortSignal => new AbortController().signal

/** The tiering verbs of one stream, by hand. @internal */
export class StreamTiering {
  readonly #parts: LogParts

  constructor(parts: LogParts) {
    this.#parts = parts
  }

  async hold(stream: StreamRow, { id, from, until, reason }: HoldOptions): Promise<PutHold> {
    const put = await putHold(this.#parts.tiering, stream, {
      id,
      from: this.#edge(from, 'earliest'),
      until: this.#edge(until, 'latest'),
      reason: reason ?? null,
    })
    this.#parts.agent.wake(0)
    return put
  }

  async release(stream: StreamRow, id: string): Promise<StandingHold[]> {
    const left = await releaseHold(this.#parts.tiering, stream, id)
    this.#parts.agent.wake(0)
    return left
  }

  holds(stream: StreamRow): Promise<StandingHold[]> {
    return holdsAsFarAsKnown(this.#parts.tiering, stream)
  }

  async trim(stream: StreamRow, options: TrimOptions): Promise<TrimReport> {
    const { tiering, hub, segments } = this.#parts
    const signal = options.signal ?? never()
    if (options.seal === true && options.dryRun !== true) {
      const newest = await segments.index.newestSegment(stream.incarnation)
      if (newest !== null && !isClosed(newest.state)) await hub.seal(stream, newest.segment)
    }
    const asked = await this.#trimPoint(stream, options.before)
    const survey = await surveyTrim(tiering, stream, asked, signal)
    if (options.dryRun === true || survey.below === null) return { ...survey, asked }
    const lease = await tiering.coordination.acquire(`tiering/${stream.incarnation}`, {
      holder: tiering.logId,
      waitMs: LEASE_WAIT_MS,
      signal,
    })
    try {
      return { ...(await this.#trimmed(stream, asked, survey, lease, signal)), asked }
    } finally {
      await lease.release()
    }
  }

  /** Marker by marker; what a hold that came meanwhile keeps is left out of what was surveyed. */
  async #trimmed(
    stream: StreamRow,
    asked: Dlsn,
    survey: TrimSurvey,
    lease: Parameters<typeof trimBelow>[1],
    signal: AbortSignal,
  ): Promise<TrimSurvey> {
    let { below } = survey
    let segments = 0
    for (let attempt = 1; ; ) {
      try {
        const row = (await this.#parts.segments.index.stream(stream.incarnation)) ?? stream
        const part = await trimBelow(this.#parts.tiering, lease, row, asked, { signal })
        segments += part.rows.length
        below = part.below ?? below
        if (part.more) continue
        if (part.held === null) return { ...survey, below, segments }
        return { ...survey, below, segments, held: part.held }
      } catch (error) {
        const again = error instanceof StratalogError && error.code === 'conflict' && error.retryable
        if (!again || attempt >= TRIM_ATTEMPTS_MAX) throw error
        attempt += 1
      }
    }
  }

  /** Yields what there is to do, then how far it is. */
  async *recall(
    stream: StreamRow,
    range: RangeOptions,
    options: Pick<RecallOptions, 'for' | 'dryRun' | 'signal'>,
  ): AsyncGenerator<RecallProgress, void, undefined> {
    const { tiering, agent } = this.#parts
    const untilMs = tiering.ledger.clock.nowMs() + parseDuration(options.for)
    const resolved = await this.#range(stream, range)
    if (resolved === null) return
    yield* recallRange(tiering, stream, {
      range: resolved,
      untilMs,
      signal: options.signal ?? never(),
      dryRun: options.dryRun ?? false,
    })
    agent.wake(0)
  }

  async *evict(
    stream: StreamRow,
    range: RangeOptions,
    signal?: AbortSignal,
  ): AsyncGenerator<EvictStep, void, undefined> {
    const resolved = await this.#range(stream, range)
    if (resolved !== null) yield* evictRange(this.#parts.tiering, stream, resolved, signal ?? never())
  }

  async clone(stream: StreamRow, name: string, { until, signal }: CloneOptions): Promise<ClonedStream> {
    const { read, tiering, agent, attached, archiveLocation } = this.#parts
    if (attached !== null) throw attachedError(archiveLocation)
    checkStreamName(name)
    if (tiering.ledgersAreShared === true) throw noClone(stream.name, name, archiveLocation)
    const fork = until === undefined ? null : await positionIn(read, stream, until)
    const cloned = await cloneStream(tiering, stream, { name, until: fork, signal: signal ?? never() })
    agent.wake(0)
    return cloned
  }

  /** Null: the stream holds nothing. */
  async #range(stream: StreamRow, { from, until }: RangeOptions): Promise<SegmentRange | null> {
    const { read, segments } = this.#parts
    if ((await segments.index.oldestSegment(stream.incarnation)) === null) return null
    return {
      from: await positionIn(read, stream, from ?? 'earliest'),
      until: until === undefined ? null : await positionIn(read, stream, until),
    }
  }

  async #trimPoint(stream: StreamRow, before: TrimOptions['before']): Promise<Dlsn> {
    if (typeof before === 'object' && 'keepBytes' in before)
      return this.#afterExcess(stream, before.keepBytes)
    const { read } = this.#parts
    const point = await positionIn(read, stream, before)
    if (!(before instanceof Dlsn)) return point
    const end = await positionIn(read, stream, 'latest')
    const next = new Dlsn(end.segment + 1n, 0n, 0n)
    if (point.compare(end) <= 0 || point.compare(next) === 0) return point
    throw new StratalogError(
      'position_out_of_range',
      `${point} lies beyond the end of ${stream.name} (${end}): trim before that at the latest`,
      { expected: end.toString(), found: point.toString() },
    )
  }

  /** As `keep.max` does it: the oldest whole segments go until what is left fits. */
  async #afterExcess(stream: StreamRow, keepBytes: number): Promise<Dlsn> {
    if (!Number.isSafeInteger(keepBytes) || keepBytes < 0)
      throw new StratalogError('invalid_argument', `${keepBytes} is no number of bytes to keep`, {
        found: keepBytes,
      })
    const { index } = this.#parts.segments
    const { hotBytes, coldBytes, bothBytes } = await index.totals(stream.incarnation)
    const openBytes = this.#parts.hub.openSegment(stream)?.lengthBytes ?? 0
    let excess = hotBytes + coldBytes - bothBytes + openBytes - keepBytes
    let row = await index.oldestSegment(stream.incarnation)
    let point = new Dlsn(row?.segment ?? 1n, 0n, 0n)
    for (; row !== null && excess > 0 && isClosed(row.state); ) {
      excess -= row.state === 'gap' ? 0 : row.lengthBytes
      point = new Dlsn(row.segment + 1n, 0n, 0n)
      row = await index.segment(stream.incarnation, row.segment + 1n)
    }
    return point
  }

  #edge(position: Position | undefined, open: 'earliest' | 'latest'): HoldEdge | null {
    if (position === undefined || (position === 'earliest' && open === 'earliest')) return null
    if (position instanceof Dlsn) return { dlsn: position }
    if (typeof position === 'object' && 'txid' in position) return { txid: position.txid }
    if (typeof position === 'object' && 'time' in position)
      return { timeMs: timeOf(position.time, this.#parts.tiering.ledger.clock.nowMs()) }
    throw new StratalogError(
      'position_invalid',
      'a hold begins and ends at a DLSN, a txid or a time, so that it means the same for ever; leave an end out to hold without bound',
      { found: typeof position === 'string' ? position : 'sequenceId' },
    )
  }
}

/** Two streams of DistributedLog share no segments, and none is made under one name to get another. */
function noClone(from: string, to: string, archive: string | null): StratalogError {
  return new StratalogError(
    'unsupported',
    `${from} can't be cloned: streams in DistributedLog's tree share no segments; restore it under another name, from any directory with this configuration: stratalog restore --from ${archive ?? 'ARCHIVE'} --into DIRECTORY --streams ${from} --as ${from}=${to}`,
  )
}
