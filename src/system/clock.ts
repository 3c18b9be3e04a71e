import { performance } from 'node:perf_hooks'
import type { Clock } from '../ports/clock.js'

/** `setTimeout` fires at once for delays above this (it takes 32 bits). */
const TIMER_MS_MAX = 2 ** 31 - 1

/** The machine's clock and timers. */
export function realClock(): Clock {
  return {
    nowMs: () => Date.now(),
    monotonicMs: () => performance.now(),
    setTimer: (delayMs, fire) => startTimer(delayMs, fire, false),
    sleep: (delayMs, signal) =>
      new Promise((resolve, reject) => {
        if (signal?.aborted) {
          reject(signal.reason)
          return
        }
        const timer = startTimer(delayMs, finished, true)
        signal?.addEventListener('abort', aborted, { once: true })
        function finished(): void {
          signal?.removeEventListener('abort', aborted)
          resolve()
        }
        function aborted(): void {
          timer.cancel()
          reject(signal?.reason)
        }
      }),
  }
}

function startTimer(delayMs: number, fire: () => void, keepsAlive: boolean): { cancel(): void } {
  let handle: NodeJS.Timeout
  const arm = (leftMs: number): void => {
    const now = Math.min(leftMs, TIMER_MS_MAX)
    handle = setTimeout(() => (leftMs > now ? arm(leftMs - now) : fire()), Math.max(0, now))
    if (!keepsAlive) handle.unref()
  }
  arm(delayMs)
  return { cancel: () => clearTimeout(handle) }
}
