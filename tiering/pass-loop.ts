import { StratalogError } from '../src/model/errors.js'
import type { Clock, Timer } from '../src/ports/clock.js'
import type { Logger } from '../src/ports/logger.js'

/** Passes are made at least this often, whatever the plans say. */
const INTERVAL_MS_MAX = 60_000
/** Between passes while something fails: doubled each time from the first to the last of these. */
const RETRY_MS_MIN = 500
const RETRY_MS_MAX = 60_000
/** What happens meanwhile does not make it sooner than that: a copy that fails is a whole segment read and compressed. */
const RETRY_WOKEN_MS_MIN = 5_000
/** How long closing waits for a pass that does not heed its signal. */
const CLOSE_WAIT_MS = 5_000

/** What a loop needs to know of a pass. */
export interface PassOutcome {
  readonly failed: readonly unknown[]
  /** When something falls due next. */
  readonly nextDueMs: number | null
}

/** Repeats a pass: when something falls due, when somebody wakes it, and later each time while it fails. */
export class PassLoop<R extends PassOutcome> {
  readonly #clock: Clock
  readonly #logger: Logger
  readonly #work: (signal: AbortSignal) => Promise<R>
  readonly #abort = new AbortController()
  #timer: Timer | null = null
  /** Monotonic time the timer is set for. */
  #timerAtMs = Number.POSITIVE_INFINITY
  #pass: Promise<R> | null = null
  #following = false
  #wakeAgain = false
  #failures = 0

  constructor(clock: Clock, logger: Logger, work: (signal: AbortSignal) => Promise<R>) {
    this.#clock = clock
    this.#logger = logger
    this.#work = work
  }

  get following(): boolean {
    return this.#following
  }

  /** Works in the background until `close`, from so many milliseconds on. */
  follow(afterMs = 0): void {
    this.#following = true
    this.#sleep(afterMs)
  }

  /** Something happened: a pass is made within that time, a little later while something fails. 0: at once. */
  wake(eventMs: number): void {
    if (!this.#following) return
    const retryMs = Math.min(RETRY_WOKEN_MS_MIN, this.#retryMs)
    const withinMs = eventMs > 0 && this.#failures > 0 ? Math.max(eventMs, retryMs) : eventMs
    // A pass under way may have planned before this: look again right after it.
    if (this.#pass !== null) this.#wakeAgain = true
    else if (this.#clock.monotonicMs() + withinMs < this.#timerAtMs) this.#sleep(withinMs)
  }

  /** A pass that began after this call: one under way planned before it and is waited out. `signal` ends the wait only. */
  async once(signal?: AbortSignal): Promise<R> {
    signal?.throwIfAborted()
    if (this.#pass !== null)
      await raced(
        this.#pass.catch(() => null),
        signal,
      )
    return raced(this.#run(), signal)
  }

  /** Passes never overlap; who comes together shares one. */
  #run(): Promise<R> {
    this.#pass ??= this.#work(this.#abort.signal).finally(() => {
      this.#pass = null
    })
    return this.#pass
  }

  /** Stops after the step under way; everything is safe to leave as it is. */
  async close(): Promise<void> {
    this.#following = false
    this.#timer?.cancel()
    this.#abort.abort(new StratalogError('closed', 'the log is being closed'))
    if (this.#pass === null) return
    const waited = new AbortController()
    await Promise.race([
      this.#pass.catch(() => null),
      this.#clock.sleep(CLOSE_WAIT_MS, waited.signal).catch(() => null),
    ])
    waited.abort()
  }

  /** The pause after so many passes in which something failed. */
  get #retryMs(): number {
    return Math.min(RETRY_MS_MAX, RETRY_MS_MIN * 2 ** Math.max(0, Math.min(this.#failures - 1, 10)))
  }

  #sleep(delayMs: number): void {
    this.#timer?.cancel()
    this.#timerAtMs = this.#clock.monotonicMs() + delayMs
    this.#timer = this.#clock.setTimer(delayMs, () => void this.#followOnce())
  }

  async #followOnce(): Promise<void> {
    let delayMs = INTERVAL_MS_MAX
    this.#timerAtMs = Number.POSITIVE_INFINITY
    this.#wakeAgain = false
    try {
      const { failed, nextDueMs } = await this.#run()
      this.#failures = failed.length > 0 ? this.#failures + 1 : 0
      if (nextDueMs !== null) delayMs = Math.min(delayMs, Math.max(0, nextDueMs - this.#clock.nowMs()))
    } catch (error) {
      this.#failures += 1
      if (!this.#abort.signal.aborted) this.#logger.error({ err: error }, 'tiering pass failed, trying again')
    }
    if (this.#wakeAgain) delayMs = 0
    if (this.#failures > 0) delayMs = this.#retryMs
    if (this.#following) this.#sleep(delayMs)
  }
}

/** The promise, or the signal's reason once it aborts: for work that may not heed the signal itself. */
export async function raced<T>(work: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return work
  signal.throwIfAborted()
  let stop = () => {}
  const aborted = new Promise<never>((_, reject) => {
    stop = () => reject(signal.reason)
    signal.addEventListener('abort', stop, { once: true })
  })
  // Whichever loses must not be reported as unhandled.
  work.catch(() => {})
  aborted.catch(() => {})
  try {
    return await Promise.race([work, aborted])
  } finally {
    signal.removeEventListener('abort', stop)
  }
}
