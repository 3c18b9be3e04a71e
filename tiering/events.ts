import type { Clock } from '../src/ports/clock.js'
import type { ArchiveState } from './archive-health.js'
import type { ColdScrubEvent } from './cold-scrub.js'
import type { TieringEvent } from './context.js'

/** Events that are kept: who asks later hears of the latest. */
const EVENTS_MAX = 1_000

/** What happened to a log, in the order it did. Times are milliseconds since the epoch. */
export type LogEvent = { readonly sequence: number; readonly atMs: number } & (
  | {
      readonly type: 'step'
      readonly kind: TieringEvent['kind']
      readonly phase: 'done' | 'failed' | 'stalled'
      readonly stream: string
      readonly segment: bigint
      readonly bytes: number
      readonly error: string | null
    }
  | {
      readonly type: 'archive'
      readonly state: ArchiveState
      readonly before: ArchiveState
      /** Which archive, where it is one that some streams have to themselves; absent: the one of the log. */
      readonly own?: string
      readonly error: string | null
    }
  /** A copy in the archive was bad: it was mended, or it is for an operator to look at. */
  | {
      readonly type: 'scrub'
      readonly kind: ColdScrubEvent['kind']
      readonly stream: string
      readonly segment: bigint
      readonly error: string
    }
  /** Writers are slowed down while the archive is down, or no more. */
  | { readonly type: 'slow'; readonly slowed: boolean }
)

/** As `LogEvent`, before it has its place. */
export type NewEvent = LogEvent extends infer E
  ? E extends LogEvent
    ? Omit<E, 'sequence' | 'atMs'>
    : never
  : never

/** The latest events, and whoever waits for the next. Bounded: the oldest make room. */
export class EventRing {
  readonly #clock: Clock
  readonly #events: LogEvent[] = []
  readonly #waiting = new Set<() => void>()
  #next = 1

  constructor(clock: Clock) {
    this.#clock = clock
  }

  add(event: NewEvent): void {
    const placed = { ...event, sequence: this.#next, atMs: this.#clock.nowMs() } as LogEvent
    this.#next += 1
    this.#events.push(placed)
    if (this.#events.length > EVENTS_MAX) this.#events.shift()
    for (const wake of this.#waiting) wake()
  }

  /** Steps that ended or stall; what only began, or goes on, is no event. */
  addStep(event: TieringEvent): void {
    const { kind, phase, stream, segment, bytes } = event
    if (phase === 'begin' || phase === 'progress') return
    this.add({ type: 'step', kind, phase, stream, segment, bytes, error: event.error?.message ?? null })
  }

  /** What the scrub of the archive mended, or could not. */
  addScrub({ kind, stream, segment, why }: ColdScrubEvent): void {
    this.add({ type: 'scrub', kind, stream, segment, error: why })
  }

  /** Those above `after`, oldest first. */
  since(after: number): LogEvent[] {
    return this.#events.filter(({ sequence }) => sequence > after)
  }

  /**
   * Events above `after`; with `follow` those that come as well, until the signal ends it. Who is slow misses the oldest
   * of more than the ring holds: the sequences tell.
   */
  async *read(options: {
    readonly after: number
    readonly follow: boolean
    readonly signal?: AbortSignal | undefined
  }): AsyncGenerator<LogEvent, void, undefined> {
    const { follow, signal } = options
    for (let after = options.after; ; ) {
      const events = this.since(after)
      for (const event of events) {
        yield event
        after = event.sequence
      }
      if (signal?.aborted) return
      if (events.length > 0) continue
      if (!follow) return
      await this.#more(signal)
    }
  }

  #more(signal: AbortSignal | undefined): Promise<void> {
    return new Promise((resolve) => {
      const wake = () => {
        this.#waiting.delete(wake)
        signal?.removeEventListener('abort', wake)
        resolve()
      }
      this.#waiting.add(wake)
      signal?.addEventListener('abort', wake, { once: true })
    })
  }
}
