import { StratalogError } from '../src/model/errors.js'
import type { Clock, Timer } from '../src/ports/clock.js'
import type { Random } from '../src/ports/random.js'

/** Between probes: doubled each time from the first to the last of these, a quarter more or less at random. */
const BACKOFF_MS_MIN = 1_000
const BACKOFF_MS_MAX = 60_000
/** A probe without an answer for this long has failed. */
const ANSWER_MS_MAX = 20_000

export interface ProbeOptions {
  readonly clock: Clock
  readonly random: Random
  /** Asks the archive something small; rejects with what it says. */
  readonly ask: (signal: AbortSignal) => Promise<void>
  /** Null: it was answered. */
  readonly outcome: (error: Error | null) => void
}

/**
 * Asks an archive that is down whether it is back, later each time. One probe at a time: an engine that hangs and heeds
 * no signal is not asked again before it has returned, and counts as silent meanwhile. Holds nothing up.
 */
export class ArchiveProbe {
  readonly #options: ProbeOptions
  readonly #abort = new AbortController()
  #timer: Timer | null = null
  #dueMs: number | null = null
  /** How often it asked by itself since all was well. */
  #asked = 0
  #probing: Promise<Error | null> | null = null
  /** A question that was given up and has not returned. */
  #hanging = false

  constructor(options: ProbeOptions) {
    this.#options = options
  }

  /** When it asks next, milliseconds since the epoch; null: it does not. Moves with the wall clock. */
  get nextMs(): number | null {
    const { clock } = this.#options
    return this.#dueMs === null ? null : clock.nowMs() + Math.max(0, this.#dueMs - clock.monotonicMs())
  }

  /** From now on it asks by itself. */
  start(): void {
    if (this.#timer === null && this.#probing === null && !this.#abort.signal.aborted) this.#arm()
  }

  /** All is well: it asks no more, and begins anew the next time. */
  stop(): void {
    this.#disarm()
    this.#asked = 0
  }

  /** Asks now, or waits for the answer that is under way: why there is none, or null. */
  now(): Promise<Error | null> {
    this.#disarm()
    this.#probing ??= this.#probe().finally(() => {
      this.#probing = null
    })
    return this.#probing
  }

  close(): void {
    this.#disarm()
    this.#abort.abort(new StratalogError('closed', 'the log is being closed'))
  }

  #arm(): void {
    const { clock, random } = this.#options
    const delayMs = Math.min(BACKOFF_MS_MAX, BACKOFF_MS_MIN * 2 ** Math.min(this.#asked, 16))
    const jitteredMs = Math.round(delayMs * (0.75 + random.fraction() / 2))
    this.#dueMs = clock.monotonicMs() + jitteredMs
    this.#timer = clock.setTimer(jitteredMs, () => {
      // An answer alone does not begin anew: what may be read and takes nothing is tried as seldom as what is silent.
      this.#asked += 1
      void this.now().then((error) => {
        if (error !== null) this.start()
      })
    })
  }

  #disarm(): void {
    this.#timer?.cancel()
    this.#timer = null
    this.#dueMs = null
  }

  async #probe(): Promise<Error | null> {
    const error = await this.#ask()
    if (this.#abort.signal.aborted) return error
    this.#options.outcome(error)
    return error
  }

  #ask(): Promise<Error | null> {
    if (this.#hanging) return Promise.resolve(silent())
    const { clock, ask } = this.#options
    return new Promise((resolve) => {
      const silence = new AbortController()
      this.#hanging = true
      const timer = clock.setTimer(ANSWER_MS_MAX, () => {
        silence.abort(silent())
        resolve(silent())
      })
      const asked = ask(AbortSignal.any([silence.signal, this.#abort.signal]))
      const closed = () => {
        timer.cancel()
        resolve(silent())
      }
      this.#abort.signal.addEventListener('abort', closed, { once: true })
      const ended = (error: Error | null) => {
        this.#hanging = false
        this.#abort.signal.removeEventListener('abort', closed)
        timer.cancel()
        resolve(error)
      }
      asked.then(
        () => ended(null),
        (error: unknown) => ended(error instanceof Error ? error : new Error(String(error))),
      )
    })
  }
}

function silent(): StratalogError {
  return new StratalogError(
    'timeout',
    `the archive did not answer a probe for ${ANSWER_MS_MAX / 1_000} s: check it, it is asked again`,
    { retryable: true },
  )
}
