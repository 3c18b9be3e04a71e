import { StratalogError } from '../src/model/errors.js'
import type { Clock } from '../src/ports/clock.js'
import { raced } from './pass-loop.js'

/** A step that gets no answer for this long is given up and tried again; a copy counts each byte as an answer. */
const SILENCE_MS_MAX = 120_000
/** Before that it is said to be stalled. */
const STALLED_MS = 30_000

/** What is under way. */
export interface RunningStep {
  readonly kind: string
  /** Empty for work that is no single stream's. */
  readonly stream: string
  readonly segment: bigint | null
  readonly beganMs: number
  /** Since when nothing has answered; null: it goes on. */
  readonly stalledSinceMs: number | null
}

/** Keeps an eye on the steps under way: says which of them stand still, and gives up those that go on doing so. */
export class StepWatch {
  readonly #clock: Clock
  readonly #stalled: (step: RunningStep) => void
  readonly #running = new Set<{ -readonly [key in keyof RunningStep]: RunningStep[key] }>()

  constructor(clock: Clock, stalled: (step: RunningStep) => void) {
    this.#clock = clock
    this.#stalled = stalled
  }

  /** Oldest first. */
  get running(): readonly RunningStep[] {
    return [...this.#running].map((step) => ({ ...step }))
  }

  /**
   * Gives a step up when nothing answers for a while, also where an engine does not heed its signal. What such a step
   * still does later is harmless: every commit is a compare-and-set on the row it saw.
   */
  async run<T>(
    about: Pick<RunningStep, 'kind' | 'stream' | 'segment'>,
    signal: AbortSignal,
    work: (signal: AbortSignal, answered: () => void) => Promise<T>,
  ): Promise<T> {
    const step = { ...about, beganMs: this.#clock.nowMs(), stalledSinceMs: null as number | null }
    const silence = new AbortController()
    const giveUp = () => silence.abort(silentFor(SILENCE_MS_MAX))
    let answeredMs = step.beganMs
    const standsStill = () => {
      step.stalledSinceMs = answeredMs
      this.#stalled({ ...step })
      timer = this.#clock.setTimer(SILENCE_MS_MAX - STALLED_MS, giveUp)
    }
    let timer = this.#clock.setTimer(STALLED_MS, standsStill)
    const answered = () => {
      // What was given up may still say so, and is watched no more.
      if (!this.#running.has(step)) return
      timer.cancel()
      answeredMs = this.#clock.nowMs()
      step.stalledSinceMs = null
      timer = this.#clock.setTimer(STALLED_MS, standsStill)
    }
    const either = AbortSignal.any([signal, silence.signal])
    this.#running.add(step)
    try {
      return await raced(work(either, answered), either)
    } finally {
      timer.cancel()
      this.#running.delete(step)
    }
  }
}

function silentFor(ms: number): StratalogError {
  return new StratalogError('timeout', `nothing answered for ${ms / 1_000} s: it is tried again`, {
    retryable: true,
  })
}
