import { assert, present } from '../../src/model/assert.js'
import type { Clock, Timer } from '../../src/ports/clock.js'
import type { SimRandom } from './random.js'

/** Events between two looks at the real event loop: microtasks run after each of them all the same. */
const EVENTS_AT_ONCE = 64
/** Virtual time begins here, so that txids are plausible milliseconds. */
export const EPOCH_MS = 1_700_000_000_000

interface SimEvent {
  readonly dueMs: number
  readonly tie: number
  readonly host: Host | null
  readonly instance: number
  readonly fire: () => void
  cancelled: boolean
}

/**
 * A machine or process: what is scheduled for it happens only while it lives, waits while it is paused, and is lost
 * when it dies. Code of a dead process never runs again, since whatever it waits for does not come.
 */
export class Host {
  readonly name: string
  /** Counts lives. */
  instance = 0
  up = false
  paused = false
  readonly deferred: SimEvent[] = []

  constructor(name: string) {
    this.name = name
  }
}

/** How a run of the scheduler ended. */
export type RunEnd = 'done' | 'idle' | 'time' | 'events'

/**
 * Virtual time. Fires one event at a time, in the order of time and, where that is equal, of chance; between two of
 * them everything that promises can do is done. The same seed makes the same run.
 */
export class Scheduler {
  readonly #random: SimRandom
  readonly #heap: SimEvent[] = []
  nowMs = 0
  fired = 0

  constructor(random: SimRandom) {
    this.#random = random
  }

  /** Calls `fire` after `delayMs`, in the life of `host` that is now; null: whatever dies. */
  after(delayMs: number, host: Host | null, fire: () => void): Timer {
    const event: SimEvent = {
      dueMs: this.nowMs + Math.max(0, delayMs),
      tie: this.#random.fraction(),
      host,
      instance: host?.instance ?? 0,
      fire,
      cancelled: false,
    }
    this.#push(event)
    return {
      cancel: () => {
        event.cancelled = true
      },
    }
  }

  /** Resolves after `delayMs`, whatever dies. */
  wait(delayMs: number): Promise<void> {
    return new Promise((resolve) => this.after(delayMs, null, resolve))
  }

  start(host: Host): void {
    assert(!host.up, `${host.name} is started twice`)
    host.instance += 1
    host.up = true
    host.paused = false
  }

  kill(host: Host): void {
    host.instance += 1
    host.up = false
    host.paused = false
    host.deferred.length = 0
  }

  resume(host: Host): void {
    host.paused = false
    // In the order they came, now: timers that ran out meanwhile all fire at once, as after a real stop.
    for (const { host: owner, fire } of host.deferred.splice(0)) this.after(0, owner, fire)
  }

  /** Runs until `until` holds, nothing is left, or a bound is reached. Rejects with what an event throws. */
  run(
    until: () => boolean,
    bounds: { readonly untilMs: number; readonly eventsMax: number },
  ): Promise<RunEnd> {
    return new Promise((resolve, reject) => {
      let ended = false
      const finish = (end: RunEnd): void => {
        ended = true
        resolve(end)
      }
      const step = (): void => {
        if (ended) return
        try {
          if (until()) finish('done')
          else if (this.nowMs > bounds.untilMs) finish('time')
          else if (this.fired >= bounds.eventsMax) finish('events')
          else if (!this.#fireNext()) finish('idle')
        } catch (error) {
          ended = true
          reject(error)
        }
      }
      const pump = (): void => {
        if (ended) return
        // Node runs all microtasks between two immediates, so each event settles before the next one.
        for (let i = 0; i < EVENTS_AT_ONCE; i += 1) setImmediate(step)
        setImmediate(pump)
      }
      pump()
    })
  }

  #fireNext(): boolean {
    for (let event = this.#pop(); event !== null; event = this.#pop()) {
      if (event.cancelled) continue
      const { host } = event
      if (host !== null && (!host.up || host.instance !== event.instance)) continue
      this.nowMs = event.dueMs
      if (host?.paused) {
        host.deferred.push(event)
        continue
      }
      this.fired += 1
      event.fire()
      return true
    }
    return false
  }

  #push(event: SimEvent): void {
    const heap = this.#heap
    let at = heap.push(event) - 1
    while (at > 0) {
      const parent = (at - 1) >> 1
      if (!before(event, present(heap[parent], 'event'))) break
      heap[at] = present(heap[parent], 'event')
      at = parent
    }
    heap[at] = event
  }

  #pop(): SimEvent | null {
    const heap = this.#heap
    const first = heap[0]
    const last = heap.pop()
    if (first === undefined || last === undefined) return null
    if (heap.length === 0) return first
    let at = 0
    for (let child = 1; child < heap.length; child = 2 * at + 1) {
      const right = heap[child + 1]
      if (right !== undefined && before(right, present(heap[child], 'event'))) child += 1
      const least = present(heap[child], 'event')
      if (!before(least, last)) break
      heap[at] = least
      at = child
    }
    heap[at] = last
    return first
  }
}

function before(a: SimEvent, b: SimEvent): boolean {
  return a.dueMs < b.dueMs || (a.dueMs === b.dueMs && a.tie < b.tie)
}

/** The clock of one process: its timers die with it, and its wall clock may be off. */
export class HostClock implements Clock {
  readonly #scheduler: Scheduler
  readonly #host: Host
  skewMs = 0

  constructor(scheduler: Scheduler, host: Host) {
    this.#scheduler = scheduler
    this.#host = host
  }

  nowMs(): number {
    return Math.floor(EPOCH_MS + this.#scheduler.nowMs + this.skewMs)
  }

  monotonicMs(): number {
    return this.#scheduler.nowMs
  }

  setTimer(delayMs: number, fire: () => void): Timer {
    return this.#scheduler.after(delayMs, this.#host, fire)
  }

  sleep(delayMs: number, signal?: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      if (signal?.aborted) {
        reject(signal.reason)
        return
      }
      const aborted = (): void => {
        timer.cancel()
        reject(signal?.reason)
      }
      const timer = this.setTimer(delayMs, () => {
        signal?.removeEventListener('abort', aborted)
        resolve()
      })
      signal?.addEventListener('abort', aborted, { once: true })
    })
  }
}
