import type { Clock } from '../../src/ports/clock.js'
import type { Random } from '../../src/ports/random.js'
import { ConcurrencyLimit } from './concurrency.js'

/** What an engine needs of the world to try again: time and chance. */
export interface RetryPorts {
  readonly clock: Clock
  readonly random: Random
}

/** How often and how patiently a request is made again. */
export interface RetrySettings {
  /** Requests for one call, the first included. @default 6 */
  readonly attemptsMax?: number
  /** The longest first wait; each further one may be twice as long. @default 100 */
  readonly firstDelayMs?: number
  /** @default 5000 */
  readonly delayMsMax?: number
  /** Requests under way at once. @default 16 */
  readonly concurrencyMax?: number
}

/**
 * What is to be done about a failure.
 * - `throw`: making the request again would fail again.
 * - `again`: the request or its answer was lost on the way, or the server stumbled.
 * - `slower`: the server says that it has too much to do: again, and fewer at once.
 */
export type Verdict = 'throw' | 'again' | 'slower'

/** Looks at a failure and, where the server said so, for how long not to come back. */
export interface Judgement {
  readonly verdict: Verdict
  readonly afterMs?: number
}

/** One attempt of a call: which it is, and what ends it. */
export interface Attempt {
  /** 1 for the first. */
  readonly number: number
  readonly signal: AbortSignal
  /**
   * Whether an earlier attempt may have done what was asked although its answer never came: then "it is there already"
   * can mean our own success.
   */
  readonly mayBeDone: boolean
}

/** A call: what it does, and what it makes of a failure. */
export interface Call<T> {
  readonly signal: AbortSignal
  readonly work: (attempt: Attempt) => Promise<T>
  readonly judge: (error: unknown) => Judgement
}

/*
 * All calls of a store draw further attempts from one budget, so that a store that fails everything is not asked many
 * times as often as one that works: each attempt after the first costs, each success gives a little back. With nothing
 * left it is asked twice at most.
 */
const BUDGET_MAX = 500
const AGAIN_COSTS = 5
const SUCCESS_GIVES = 1
/** A server may ask for patience, but not for more than this: a caller waits. */
const AFTER_MS_MAX = 30_000

/** Makes calls to one store: bounded side by side, again where that may help, with growing waits of random length. */
export class Retrier {
  readonly #ports: RetryPorts
  readonly #settings: Required<RetrySettings>
  /** How many requests are under way at once; sinks where the store says that it has too much to do. */
  readonly limit: ConcurrencyLimit
  #budget = BUDGET_MAX

  constructor(ports: RetryPorts, settings: RetrySettings = {}) {
    this.#ports = ports
    this.#settings = {
      attemptsMax: 6,
      firstDelayMs: 100,
      delayMsMax: 5_000,
      concurrencyMax: 16,
      ...settings,
    }
    this.limit = new ConcurrencyLimit(this.#settings.concurrencyMax, ports.clock)
  }

  /** The result of the first attempt that succeeds, else the failure of the last; the signal's reason when aborted. */
  async run<T>(call: Call<T>): Promise<T> {
    const { signal, judge, work } = call
    for (let number = 1; ; number += 1) {
      let failure: unknown
      try {
        const done = await this.limit.with(signal, () => work({ number, signal, mayBeDone: number > 1 }))
        this.limit.succeeded()
        this.#budget = Math.min(BUDGET_MAX, this.#budget + SUCCESS_GIVES)
        return done
      } catch (error) {
        signal.throwIfAborted()
        failure = error
      }
      const { verdict, afterMs } = judge(failure)
      if (verdict === 'slower') this.limit.overloaded()
      if (verdict === 'throw' || !this.#mayGoOn(number)) throw failure
      // The slot was given back: whoever waits for its own turn to try again keeps nobody from working.
      await this.#ports.clock.sleep(this.#delayMs(number, afterMs ?? 0), signal)
    }
  }

  #mayGoOn(attempts: number): boolean {
    if (attempts >= this.#settings.attemptsMax) return false
    // One more is always made: after an outage the budget is spent, and a connection that died meanwhile says nothing
    // about the store as it is now.
    if (this.#budget < AGAIN_COSTS) return attempts === 1
    this.#budget -= AGAIN_COSTS
    return true
  }

  /** Anything up to twice the last one's longest: clients that failed together do not come back together. */
  #delayMs(attempts: number, afterMs: number): number {
    const { firstDelayMs, delayMsMax } = this.#settings
    const longest = Math.min(delayMsMax, firstDelayMs * 2 ** (attempts - 1))
    return Math.min(AFTER_MS_MAX, afterMs) + this.#ports.random.fraction() * longest
  }
}
