import type { Clock } from '../ports/clock.js'
import type { Random } from '../ports/random.js'

/** Between tries to connect, with jitter. */
const BACKOFF_MS_MIN = 20
const BACKOFF_MS_MAX = 1_000

/** How long to wait after so many tries to connect. */
export function backoffMs(tries: number, random: Random): number {
  return Math.min(BACKOFF_MS_MAX, BACKOFF_MS_MIN * 2 ** Math.min(tries, 10)) * (0.5 + random.fraction() / 2)
}

/** A signal that is aborted after `timeoutMs`, or with `outer`. `end` lets go of both. */
export function limited(
  clock: Clock,
  timeoutMs: number,
  outer?: AbortSignal,
): { readonly signal: AbortSignal; readonly end: () => void } {
  const controller = new AbortController()
  const abort = (): void => controller.abort(outer?.reason)
  const late = new Error(`the server did not answer within ${Math.round(timeoutMs)} ms`)
  const timer = clock.setTimer(timeoutMs, () => controller.abort(late))
  if (outer?.aborted === true) abort()
  outer?.addEventListener('abort', abort, { once: true })
  const end = (): void => {
    timer.cancel()
    outer?.removeEventListener('abort', abort)
  }
  return { signal: controller.signal, end }
}
