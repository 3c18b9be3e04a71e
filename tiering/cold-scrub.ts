import { ownArchiveOf } from '../archive/bindings.js'
import { present } from '../src/model/assert.js'
import { isStratalogError, StratalogError } from '../src/model/errors.js'
import type { Incarnation, SegmentRow, StreamRow } from '../src/model/segment.js'
import { streamsOf } from './all-rows.js'
import { signOf } from './archive-health.js'
import { type ColdProblem, mendCold } from './cold-mend.js'
import type { TieringContext } from './context.js'
import { Pace } from './pace.js'
import type { PassOutcome } from './pass-loop.js'

/** Where the position is kept. */
const FACT = 'cold-scrub'
/** Bounds of the rate that follows from how much there is and how long a pass may take. */
const RATE_MIN = 2 ** 20
const RATE_MAX = 64 * 2 ** 20
/** A pass is planned to be done in this part of its time: the rest is for a log that is not always open. */
const PLANNED_PART = 0.8
/** Alarms that are named; there may be more. */
const ALARMS_MAX = 100
const ROWS_AT_ONCE = 100
/** The position is written at most this often: what is read twice after a crash is little. */
const SAVE_MS = 2_000
/** Without streams, or without an archive that answers, it is looked again after this. */
const IDLE_MS = 60_000

/** A cold copy that could not be mended: it stays as it is until somebody does something about it. */
export interface ColdAlarm {
  readonly stream: string
  readonly incarnation: Incarnation
  readonly segment: bigint
  readonly key: string
  readonly problem: ColdProblem
  readonly why: string
  readonly foundMs: number
}

/** Where the scrub of the archive is and what it found, as it is remembered over restarts. */
export interface ColdScrubState {
  /** Null: no pass has begun yet. */
  readonly passStartedMs: number | null
  readonly passEndsMs: number | null
  /** End of the last pass that came to its end; null: none yet. */
  readonly lastPassMs: number | null
  /** The pass under way is over and waits for its time to begin again. */
  readonly idle: boolean
  /** Streams up to this name are done in this pass; segments of the next one up to `segment`. */
  readonly after: string
  /** The stream under way, under the name it had when its turn came. */
  readonly name: string
  readonly incarnation: Incarnation | null
  readonly segment: bigint
  readonly doneBytes: number
  readonly totalBytes: number
  /** Objects mended since the log was made. */
  readonly repaired: number
  readonly alarms: readonly ColdAlarm[]
}

const FRESH: ColdScrubState = {
  passStartedMs: null,
  passEndsMs: null,
  lastPassMs: null,
  idle: false,
  after: '',
  name: '',
  incarnation: null,
  segment: 0n,
  doneBytes: 0,
  totalBytes: 0,
  repaired: 0,
  alarms: [],
}

/** Told of what a scrub mended and what it could not. */
export interface ColdScrubEvent {
  readonly stream: string
  readonly segment: bigint
  readonly kind: 'mended' | 'alarm'
  readonly why: string
}

/**
 * Reads every byte of every archived segment once in each `scrub.full-pass` and mends what is bad from whichever tier
 * is good (invariant 9): damage that no reader meets would else wait until the last other copy is gone. Segments come
 * in the order of streams' names, so a name and a number say where the scrub is. It goes at the rate that gets it
 * through in time, and stops while the archive is down. What can't be mended is named: nothing is deleted, nothing is
 * dropped from the index.
 */
export class ColdScrub {
  readonly #context: TieringContext
  readonly #onEvent: (event: ColdScrubEvent) => void
  readonly #pace: Pace
  #state: ColdScrubState | null = null
  #rate = RATE_MIN
  #hurried = false
  #savedMs = Number.NEGATIVE_INFINITY

  constructor(context: TieringContext, onEvent: (event: ColdScrubEvent) => void = () => {}) {
    this.#context = context
    this.#onEvent = onEvent
    this.#pace = new Pace(context.ledger.clock, () => (this.#hurried ? null : this.#rate))
  }

  /** Where it is now. */
  async state(): Promise<ColdScrubState> {
    this.#state ??= decode(await this.#context.index.fact(FACT))
    return this.#state
  }

  /** Somebody waits for a whole pass: it begins anew, and goes as fast as it can. */
  async beginNow(): Promise<void> {
    this.#hurried = true
    await this.#save({ ...(await this.state()), idle: true, passEndsMs: null }, true)
  }

  /** Back to its own pace. */
  unhurried(): void {
    this.#hurried = false
  }

  /** Reads the next segment, or ends the pass, or waits for the next; says when it wants to be called again. */
  async step(signal: AbortSignal): Promise<PassOutcome> {
    const nowMs = this.#context.ledger.clock.nowMs()
    if (this.#context.archive === null) return { failed: [], nextDueMs: nowMs + IDLE_MS }
    let state = await this.state()
    if (state.idle && state.passEndsMs !== null && nowMs < state.passEndsMs)
      return { failed: [], nextDueMs: state.passEndsMs }
    // Idle with no end of its pass: it was told to begin anew.
    if (state.passStartedMs === null || state.idle) state = await this.#begin(state)
    else if (state.passEndsMs !== null) this.#setRate(state, state.passEndsMs - state.passStartedMs)
    const next = await this.#next(state)
    if (next === null) {
      await this.#save({ ...state, idle: true, lastPassMs: nowMs, doneBytes: state.totalBytes }, true)
      return { failed: [], nextDueMs: state.passEndsMs }
    }
    try {
      await this.#scrub(next.state, next.stream, next.row, signal)
    } catch (error) {
      signal.throwIfAborted()
      if (!isStratalogError(error)) throw error
      const own = await ownArchiveOf(this.#context.index, next.stream.incarnation)
      // What some streams have to themselves and is away keeps nobody from reading the others: their turn comes again.
      if (own !== null && signOf(error) !== null)
        await this.#save({ ...next.state, after: next.stream.name, incarnation: null }, true)
      // The archive is away, or somebody else is at work on the stream: here it goes on, a little later.
      return { failed: [error], nextDueMs: nowMs }
    }
    return { failed: [], nextDueMs: nowMs }
  }

  /** Writes the position down. */
  async close(): Promise<void> {
    if (this.#state !== null && this.#state.passStartedMs !== null) await this.#save(this.#state, true)
  }

  async #scrub(
    state: ColdScrubState,
    stream: StreamRow,
    row: SegmentRow,
    signal: AbortSignal,
  ): Promise<void> {
    const { key, sizeBytes } = present(row.object, 'object')
    await this.#pace.take(sizeBytes, signal)
    const outcome = await mendCold(this.#context, stream, row, signal)
    if (outcome.kind === 'busy') throw busy(stream, row, outcome.why)
    const { incarnation, segment } = row
    const others = state.alarms.filter((one) => one.incarnation !== incarnation || one.segment !== segment)
    const before = state.alarms.find((one) => one.incarnation === incarnation && one.segment === segment)
    const unknown = outcome.kind === 'changed' || outcome.kind === 'frozen'
    let alarms = unknown && before !== undefined ? [...others, before] : others
    if (outcome.kind === 'alarm') {
      const foundMs = before?.foundMs ?? this.#context.ledger.clock.nowMs()
      const { problem, why } = outcome
      alarms = [...others, { stream: stream.name, incarnation, segment, key, problem, why, foundMs }]
    }
    if (outcome.kind === 'mended' || outcome.kind === 'alarm') this.#tell(stream, segment, outcome)
    await this.#save(
      {
        ...state,
        incarnation,
        segment,
        doneBytes: state.doneBytes + sizeBytes,
        repaired: state.repaired + (outcome.kind === 'mended' ? 1 : 0),
        alarms: alarms.slice(0, ALARMS_MAX),
      },
      outcome.kind !== 'whole' || alarms.length !== state.alarms.length,
    )
  }

  #tell(
    stream: StreamRow,
    segment: bigint,
    outcome: { readonly kind: 'mended' | 'alarm'; readonly why: string },
  ): void {
    const { logger } = this.#context.ledger
    const fields = { stream: stream.name, segment: segment.toString(), reason: outcome.why }
    if (outcome.kind === 'mended') logger.warn(fields, 'the scrub mended a copy in the archive')
    else logger.error(fields, 'a copy in the archive is bad and can not be mended')
    this.#onEvent({ stream: stream.name, segment, kind: outcome.kind, why: outcome.why })
  }

  /** The next segment with an object, from the position on, and the position it is at; null: there is none left. */
  async #next(
    from: ColdScrubState,
  ): Promise<{ state: ColdScrubState; stream: StreamRow; row: SegmentRow } | null> {
    const { index } = this.#context
    for (let state = from; ; ) {
      let stream = state.incarnation === null ? null : await index.stream(state.incarnation)
      if (stream === null) {
        // The first of this pass, the next one, or what follows one that is gone.
        stream = (await index.listStreams(state.after, 1))[0] ?? null
        if (stream === null) return null
        state = { ...state, name: stream.name, incarnation: stream.incarnation, segment: 0n }
      }
      const row = await this.#nextRow(stream, state.segment + 1n)
      if (row !== null) return { state, stream, row }
      state = { ...state, after: state.name, incarnation: null }
    }
  }

  async #nextRow({ incarnation }: StreamRow, from: bigint): Promise<SegmentRow | null> {
    for (let next = from; ; ) {
      const rows = await this.#context.index.listSegments(incarnation, next, ROWS_AT_ONCE)
      const found = rows.find(
        (row) => row.object !== null && (row.state === 'archived' || row.state === 'cold'),
      )
      if (found !== undefined) return found
      const last = rows.at(-1)
      if (last === undefined || rows.length < ROWS_AT_ONCE) return null
      next = last.segment + 1n
    }
  }

  async #begin(before: ColdScrubState): Promise<ColdScrubState> {
    const { totalBytes, fullPassMs } = await this.#measure()
    const nowMs = this.#context.ledger.clock.nowMs()
    const state: ColdScrubState = {
      ...before,
      passStartedMs: nowMs,
      passEndsMs: nowMs + fullPassMs,
      idle: false,
      after: '',
      name: '',
      incarnation: null,
      segment: 0n,
      doneBytes: 0,
      totalBytes,
      alarms: await this.#stillThere(before.alarms),
    }
    this.#setRate(state, fullPassMs)
    await this.#save(state, true)
    return state
  }

  #setRate({ totalBytes }: ColdScrubState, fullPassMs: number): void {
    const needed = (totalBytes * 1_000) / Math.max(1, fullPassMs * PLANNED_PART)
    this.#rate = Math.min(RATE_MAX, Math.max(RATE_MIN, needed))
  }

  /** What is trimmed by now, or a gap, nobody needs to mend any more. */
  async #stillThere(alarms: readonly ColdAlarm[]): Promise<ColdAlarm[]> {
    const kept: ColdAlarm[] = []
    for (const alarm of alarms) {
      const row = await this.#context.index.segment(alarm.incarnation, alarm.segment)
      if (row?.state === 'archived' || row?.state === 'cold') kept.push(alarm)
    }
    return kept
  }

  async #measure(): Promise<{ totalBytes: number; fullPassMs: number }> {
    let totalBytes = 0
    let fullPassMs = Number.POSITIVE_INFINITY
    for await (const stream of streamsOf(this.#context.index)) {
      const { policy } = await this.#context.policy(stream)
      fullPassMs = Math.min(fullPassMs, policy.scrub.fullPassMs)
      totalBytes += (await this.#context.index.totals(stream.incarnation)).coldBytes
    }
    return { totalBytes, fullPassMs: fullPassMs === Number.POSITIVE_INFINITY ? IDLE_MS : fullPassMs }
  }

  async #save(state: ColdScrubState, now: boolean): Promise<void> {
    this.#state = state
    const sinceMs = this.#context.ledger.clock.monotonicMs() - this.#savedMs
    if (!now && sinceMs < SAVE_MS) return
    this.#savedMs = this.#context.ledger.clock.monotonicMs()
    await this.#context.index.setFact(FACT, encode(state))
  }
}

/** How far a pass is, for people: the percentage of what is in the archive, and what needs an operator. */
export function coldScrubStatus(state: ColdScrubState): {
  readonly percent: number | null
  readonly repaired: number
  readonly alarms: number
} {
  const { passStartedMs, idle, doneBytes, totalBytes, repaired, alarms } = state
  // Objects are smaller or larger than the payloads that were counted: the part is never shown as more than all.
  const part = idle ? 1 : totalBytes === 0 ? 0 : Math.min(0.99, doneBytes / totalBytes)
  return {
    percent: passStartedMs === null ? null : Math.floor(part * 100),
    repaired,
    alarms: alarms.length,
  }
}

/** Segments whose copies in the archive are known to be bad, by incarnation/segment: no hot copy goes for such a one. */
export async function alarmedSegments(
  index: TieringContext['index'],
): Promise<(row: Pick<SegmentRow, 'incarnation' | 'segment'>) => boolean> {
  const { alarms } = decode(await index.fact(FACT))
  return (row) =>
    alarms.some(({ incarnation, segment }) => incarnation === row.incarnation && segment === row.segment)
}

function busy(stream: StreamRow, row: SegmentRow, why: string): StratalogError {
  return new StratalogError(
    'timeout',
    `segment ${row.segment} of ${stream.name} is to be mended (${why}) and another agent is at work on the stream: tried again`,
    { retryable: true },
  )
}

function encode(state: ColdScrubState): string {
  return JSON.stringify(state, (_, value: unknown) => (typeof value === 'bigint' ? value.toString() : value))
}

/** A position that can't be read is none: the scrub begins anew. */
function decode(text: string | null): ColdScrubState {
  if (text === null) return FRESH
  try {
    const raw = JSON.parse(text) as Record<keyof ColdScrubState, unknown>
    return {
      ...FRESH,
      ...(raw as Partial<ColdScrubState>),
      segment: BigInt(String(raw.segment)),
      alarms: (raw.alarms as ColdAlarm[]).map((alarm) => ({ ...alarm, segment: BigInt(alarm.segment) })),
    }
  } catch {
    return FRESH
  }
}
