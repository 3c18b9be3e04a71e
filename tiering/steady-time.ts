import { formatDuration, formatTime } from '../src/model/units.js'
import type { Clock } from '../src/ports/clock.js'
import type { Logger } from '../src/ports/logger.js'

/** More than machines sleep over a weekend, and less than any retention that is worth the name. */
const JUMP_MS_MIN = 3 * 86_400_000
/** How long a clock that jumped must go on before it is believed: time for somebody to set it right. */
const BELIEVED_AFTER_MS = 86_400_000

/**
 * The time of day as far as it is to be believed by what can't be undone. A clock that jumps ahead by a year makes all
 * of history a year older at once, and retention would end it. So time goes on from before the jump, at its own pace,
 * until the clock has run for a day without being set back. A clock that is set back is believed at once: what that
 * does is only that everything is kept longer. Processes leave each other what time it was: a machine that was off may
 * come back with any clock.
 */
export class SteadyTime {
  readonly #clock: Clock
  readonly #logger: Logger
  /** The last moment both clocks agreed about, and when the wall clock left them behind (monotonic). */
  #wallMs: number
  #elapsedMs: number
  #jumpedAtMs: number | null = null

  constructor(clock: Clock, logger: Logger) {
    this.#clock = clock
    this.#logger = logger
    this.#wallMs = clock.nowMs()
    this.#elapsedMs = clock.monotonicMs()
  }

  /** Goes on from what a process before this one left: null, or what its `left` was. */
  recall(left: string | null): void {
    if (left === null) return
    const { steadyMs, jumpedMs } = JSON.parse(left) as { steadyMs: number; jumpedMs: number | null }
    const wallMs = this.#clock.nowMs()
    if (wallMs - steadyMs < JUMP_MS_MIN) return
    this.#wallMs = steadyMs
    // How long it has gone on since the jump only the clock itself can tell: over several short processes as over one.
    if (jumpedMs !== null && wallMs >= jumpedMs) this.#jumpedAtMs = this.#elapsedMs - (wallMs - jumpedMs)
  }

  /** What the next process needs to know. */
  get left(): string {
    const steadyMs = this.nowMs()
    const sinceMs = this.#jumpedAtMs === null ? null : this.#clock.monotonicMs() - this.#jumpedAtMs
    return JSON.stringify({ steadyMs, jumpedMs: sinceMs === null ? null : this.#clock.nowMs() - sinceMs })
  }

  /** Whether the clock is ahead of what is believed. */
  get ahead(): boolean {
    return this.nowMs() < this.#clock.nowMs() - JUMP_MS_MIN
  }

  /** Never ahead of the clock. */
  nowMs(): number {
    const wallMs = this.#clock.nowMs()
    const elapsedMs = this.#clock.monotonicMs()
    const steadyMs = this.#wallMs + Math.floor(elapsedMs - this.#elapsedMs)
    const aheadMs = wallMs - steadyMs
    if (aheadMs < JUMP_MS_MIN) return this.#believe(wallMs, elapsedMs)
    if (this.#jumpedAtMs === null) {
      this.#jumpedAtMs = elapsedMs
      this.#logger.warn(
        { jumpedMs: aheadMs, clock: formatTime(wallMs) },
        `the clock jumped ahead by ${formatDuration(aheadMs)}: nothing is trimmed for its age until it has been steady for ${formatDuration(BELIEVED_AFTER_MS)}; set it right, or wait`,
      )
    }
    return elapsedMs - this.#jumpedAtMs >= BELIEVED_AFTER_MS ? this.#believe(wallMs, elapsedMs) : steadyMs
  }

  #believe(wallMs: number, elapsedMs: number): number {
    this.#wallMs = wallMs
    this.#elapsedMs = elapsedMs
    this.#jumpedAtMs = null
    return wallMs
  }
}
