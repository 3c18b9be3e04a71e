import { setImmediate } from 'node:timers/promises'
import type { Clock, Timer } from '../../src/ports/clock.js'

interface Alarm {
  readonly dueMs: number
  readonly fire: () => void
}

/** A clock that stands still until the test moves it. */
export class ManualClock implements Clock {
  #epochMs: number
  #elapsedMs = 0
  readonly #alarms = new Set<Alarm>()

  constructor(nowMs = 1_700_000_000_000) {
    this.#epochMs = nowMs
  }

  nowMs(): number {
    return this.#epochMs + this.#elapsedMs
  }

  monotonicMs(): number {
    return this.#elapsedMs
  }

  /** The wall clock jumps; timers don't notice. */
  jump(byMs: number): void {
    this.#epochMs += byMs
  }

  /** Timers that are set: none may be left behind by what has ended. */
  get pending(): number {
    return this.#alarms.size
  }

  setTimer(delayMs: number, fire: () => void): Timer {
    const alarm = { dueMs: this.#elapsedMs + Math.max(0, delayMs), fire }
    this.#alarms.add(alarm)
    return { cancel: () => this.#alarms.delete(alarm) }
  }

  sleep(delayMs: number, signal?: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      if (signal?.aborted) {
        reject(signal.reason)
        return
      }
      const timer = this.setTimer(delayMs, () => {
        signal?.removeEventListener('abort', aborted)
        resolve()
      })
      const aborted = () => {
        timer.cancel()
        reject(signal?.reason)
      }
      signal?.addEventListener('abort', aborted, { once: true })
    })
  }

  /** Lets `ms` pass: what falls due runs in order, with time for its consequences after each step. */
  async advance(ms: number): Promise<void> {
    await setImmediate()
    const end = this.#elapsedMs + ms
    for (;;) {
      const due = [...this.#alarms].filter((alarm) => alarm.dueMs <= end).sort((a, b) => a.dueMs - b.dueMs)[0]
      if (due === undefined) break
      this.#elapsedMs = Math.max(this.#elapsedMs, due.dueMs)
      this.#alarms.delete(due)
      due.fire()
      await setImmediate()
    }
    this.#elapsedMs = end
    await setImmediate()
  }
}
