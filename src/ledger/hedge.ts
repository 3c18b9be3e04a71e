import { setMaxListeners } from 'node:events'
import type { Clock, Timer } from '../ports/clock.js'

/** Bounds of the delay after which another replica is asked too. */
const DELAY_MS_MIN = 10
const DELAY_MS_MAX = 500
/** Before anything was measured. */
const DELAY_MS_FIRST = 100
/** A read is late when it takes this many times as long as reads do. */
const LATE_FACTOR = 4
/** Weight of one answer in the running mean. */
const WEIGHT = 1 / 8

/** So many replicas stay below the number of listeners that Node.js takes for a leak. */
const QUIET_IDS_MAX = 4

/** How long reads take lately, and so how long one waits before it asks another replica too. */
export class HedgeDelay {
  #meanMs = DELAY_MS_FIRST / LATE_FACTOR

  get delayMs(): number {
    return Math.min(DELAY_MS_MAX, Math.max(DELAY_MS_MIN, LATE_FACTOR * this.#meanMs))
  }

  took(answerMs: number): void {
    this.#meanMs += (answerMs - this.#meanMs) * WEIGHT
  }
}

/** Made once: an `AbortError` of its own, with its stack, for each read costs more than the read of a small segment. */
const ANSWERED = new Error('another replica has answered')

/** The first answer that was good, and who had been asked before and had not answered by then. */
export interface FirstAnswer<T> {
  readonly value: T
  readonly late: readonly string[]
}

/**
 * Asks replicas in the order given until one has a good answer: the next one when one says no (null), and also when
 * none has answered within `delayMs`. Those that are not waited for any more are aborted by the signal they got.
 * Null when all said no. Rejects with the caller's reason when its `signal` is aborted; `ask` must not reject else.
 */
export function firstAnswer<T>(
  clock: Clock,
  ids: readonly string[],
  delayMs: number,
  ask: (id: string, signal: AbortSignal) => Promise<T | null>,
  signal?: AbortSignal,
): Promise<FirstAnswer<T> | null> {
  return new Promise((resolve, reject) => {
    const stop = new AbortController()
    // As many as copies may listen to it, twice each; told only where that counts, since it is made for every read.
    if (ids.length > QUIET_IDS_MAX) setMaxListeners(0, stop.signal)
    const open = new Set<string>()
    let asked = 0
    let timer: Timer | null = null
    const end = (settle: () => void): void => {
      timer?.cancel()
      signal?.removeEventListener('abort', aborted)
      stop.abort(ANSWERED)
      settle()
    }
    const aborted = (): void => end(() => reject(signal?.reason))
    const askNext = (): void => {
      timer?.cancel()
      const id = ids[asked]
      if (id === undefined) {
        if (open.size === 0) end(() => resolve(null))
        return
      }
      asked += 1
      open.add(id)
      if (asked < ids.length) timer = clock.setTimer(delayMs, askNext)
      ask(id, stop.signal).then(
        (value) => {
          open.delete(id)
          if (stop.signal.aborted) return
          if (value === null) askNext()
          else
            end(() => resolve({ value, late: [...open].filter((one) => ids.indexOf(one) < ids.indexOf(id)) }))
        },
        (error: unknown) => {
          if (!stop.signal.aborted) end(() => reject(error))
        },
      )
    }
    signal?.addEventListener('abort', aborted, { once: true })
    if (signal?.aborted) aborted()
    else askNext()
  })
}
