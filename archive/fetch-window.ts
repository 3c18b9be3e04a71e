import { isStratalogError } from '../src/model/errors.js'
import type { Clock } from '../src/ports/clock.js'

/** Stored bytes ahead of a reader before anything was measured, and always. */
const WINDOW_BYTES_MIN = 4 * 2 ** 20
/** The window is this many times what is on its way at full speed: it must be larger for a faster speed to show. */
const GAIN = 2
/** Weights with which a measured speed falls and a measured latency rises: the best that was seen lately counts. */
const SPEED_WEIGHT = 1 / 16
const LATENCY_WEIGHT = 1 / 64
/** Requests that must succeed before one more connection is used again. */
const CALM_REQUESTS = 16
/** Requests that may go first before one of those read ahead has its turn: by now a reader may wait for it, too. */
const PASSED_MAX = 8
/** Requests of so many bytes and more show what a connection gives; smaller ones show how long the archive thinks. */
const LARGE_BYTES = 2 ** 20
/**
 * Stored bytes of one request for what is read ahead. Two blocks at least: each may be as much above a MiB as its last
 * entry is long. Each costs a client half a millisecond and more of its CPU, so a fast connection gets large ones.
 */
const REQUEST_BYTES_MIN = 2.5 * 2 ** 20
const REQUEST_BYTES_MAX = 8 * 2 ** 20
/** A request for what is read ahead should take so long, and so many times what the archive thinks. */
const REQUEST_MS = 25
const REQUEST_LATENCIES = 3
/** The window has room for so many requests, so that one is used while the next are on their way. */
const REQUESTS_MIN = 3
/** A little less than one request: with GAIN, more than is on its way, and not much more. */
const PIECE = 0.6
/** A clock too coarse to see a request take any time. */
const ELAPSED_MS_MIN = 0.01

/** Bounds of a window. */
export interface FetchWindowOptions {
  /** Requests under way at a time. @default 16 */
  readonly connections?: number
  /** Stored bytes ahead of readers at most. @default 24 MiB */
  readonly readAheadBytes?: number
}

/** What `explain` and metrics say of a window. */
export interface FetchWindowState {
  readonly connections: number
  readonly windowBytes: number
  readonly bytesPerSecond: number
  readonly latencyMs: number
  readonly requests: number
  readonly failed: number
}

interface Waiting {
  readonly go: () => void
}

/**
 * How much is asked of an archive at a time, over all readers of a log. The window follows bandwidth × the time that a
 * request takes by itself: where a wider one brings more bytes it grows, until it brings no more. That time is its
 * latency and what one connection needs for its bytes, for a store that gives each connection so much and no more is
 * only read fast over many of them; where all share one line, requests slow each other down and the best one counts. A request that fails
 * halves it, and the connections with it; both come back slowly.
 */
export class FetchWindow {
  readonly #clock: Clock
  readonly #connectionsMax: number
  readonly #bytesMax: number
  #connections: number
  #ceilingBytes: number
  #underWay = 0
  #calm = 0
  #deliveredBytes = 0
  #bytesPerMs = 0
  #latencyMs = Number.POSITIVE_INFINITY
  /** Of a large request, its latency included. */
  #msPerByte = Number.POSITIVE_INFINITY
  /** Of a small request: what the archive thinks before it answers. */
  #thinkMs = Number.POSITIVE_INFINITY
  #requests = 0
  #failed = 0
  /** Those somebody waits for go first. */
  readonly #urgent = new Set<Waiting>()
  readonly #ahead = new Set<Waiting>()
  /** Requests that went first while others waited to be read ahead. */
  #passed = 0

  constructor(clock: Clock, options: FetchWindowOptions = {}) {
    this.#clock = clock
    this.#connectionsMax = options.connections ?? 16
    this.#connections = this.#connectionsMax
    this.#bytesMax = Math.max(WINDOW_BYTES_MIN, options.readAheadBytes ?? 24 * 2 ** 20)
    this.#ceilingBytes = this.#bytesMax
  }

  /** Stored bytes that should be on their way, or here, ahead of what is read. */
  get bytes(): number {
    const { requestBytes } = this
    const pieceMs = orZero(this.#msPerByte) * PIECE * requestBytes
    const wanted = GAIN * this.#bytesPerMs * Math.max(orZero(this.#latencyMs), pieceMs)
    const least = this.#msPerByte === Number.POSITIVE_INFINITY ? 0 : REQUESTS_MIN * requestBytes
    return Math.max(WINDOW_BYTES_MIN, Math.min(Math.max(wanted, least), this.#ceilingBytes))
  }

  /** Stored bytes of one request for what is read ahead: as many as one connection brings in a good while. */
  get requestBytes(): number {
    const whileMs = Math.max(REQUEST_MS, REQUEST_LATENCIES * orZero(this.#thinkMs))
    const most = Math.min(REQUEST_BYTES_MAX, this.#ceilingBytes / REQUESTS_MIN)
    return Math.max(REQUEST_BYTES_MIN, Math.min(whileMs / this.#msPerByte, most))
  }

  get state(): FetchWindowState {
    return {
      connections: this.#connections,
      windowBytes: this.bytes,
      bytesPerSecond: this.#bytesPerMs * 1_000,
      latencyMs: orZero(this.#latencyMs),
      requests: this.#requests,
      failed: this.#failed,
    }
  }

  /** Runs a request once there is a connection for it. Rejects with `signal.reason` when aborted before. */
  async run(read: () => Promise<Uint8Array>, urgent: boolean, signal: AbortSignal): Promise<Uint8Array> {
    await this.#connection(urgent, signal)
    const beganMs = this.#clock.monotonicMs()
    const before = this.#deliveredBytes
    try {
      this.#requests += 1
      const bytes = await read()
      this.#deliveredBytes += bytes.length
      this.#worked(this.#clock.monotonicMs() - beganMs, bytes.length, this.#deliveredBytes - before)
      return bytes
    } catch (error) {
      // Who gave up, and an object that is not there, say nothing about how much the archive can take.
      if (!signal.aborted && !isStratalogError(error, 'object_not_found')) this.#strained()
      throw error
    } finally {
      this.#underWay -= 1
      this.#next()
    }
  }

  #connection(urgent: boolean, signal: AbortSignal): Promise<void> {
    signal.throwIfAborted()
    if (this.#free(urgent)) {
      this.#begun(urgent)
      return Promise.resolve()
    }
    const queue = urgent ? this.#urgent : this.#ahead
    return new Promise((resolve, reject) => {
      const waiting = {
        go: () => {
          signal.removeEventListener('abort', aborted)
          this.#begun(urgent)
          resolve()
        },
      }
      const aborted = (): void => {
        queue.delete(waiting)
        reject(signal.reason)
      }
      signal.addEventListener('abort', aborted, { once: true })
      queue.add(waiting)
    })
  }

  /** What is read ahead leaves some connections to those somebody waits for, however slow its answers are. */
  #free(urgent: boolean): boolean {
    const kept = urgent || this.#connections === 1 ? 0 : Math.max(1, Math.floor(this.#connections / 4))
    return this.#underWay < this.#connections - kept
  }

  #begun(urgent: boolean): void {
    this.#underWay += 1
    this.#passed = urgent && this.#ahead.size > 0 ? this.#passed + 1 : 0
  }

  #next(): void {
    for (;;) {
      const turn = this.#passed >= PASSED_MAX && this.#ahead.size > 0
      const queue = this.#urgent.size > 0 && !turn ? this.#urgent : this.#ahead
      if (!this.#free(turn || queue === this.#urgent)) return
      const [first] = queue
      if (first === undefined) return
      queue.delete(first)
      first.go()
    }
  }

  /** `delivered`: what came in over all connections while this request was under way. */
  #worked(elapsedMs: number, sizeBytes: number, delivered: number): void {
    const tookMs = Math.max(elapsedMs, ELAPSED_MS_MIN)
    const speed = delivered / tookMs
    this.#bytesPerMs = Math.max(speed, this.#bytesPerMs + (speed - this.#bytesPerMs) * SPEED_WEIGHT)
    this.#latencyMs = best(this.#latencyMs, tookMs)
    if (sizeBytes >= LARGE_BYTES) this.#msPerByte = best(this.#msPerByte, tookMs / sizeBytes)
    else this.#thinkMs = best(this.#thinkMs, tookMs)
    this.#ceilingBytes = Math.min(this.#bytesMax, this.#ceilingBytes * (1 + 1 / CALM_REQUESTS))
    this.#calm += 1
    if (this.#calm < CALM_REQUESTS || this.#connections === this.#connectionsMax) return
    this.#calm = 0
    this.#connections += 1
  }

  #strained(): void {
    this.#failed += 1
    this.#calm = 0
    this.#ceilingBytes = Math.max(WINDOW_BYTES_MIN, Math.min(this.bytes, this.#ceilingBytes) / 2)
    this.#connections = Math.max(1, Math.floor(this.#connections / 2))
  }
}

function orZero(measured: number): number {
  return measured === Number.POSITIVE_INFINITY ? 0 : measured
}

/** The least that was seen lately. */
function best(known: number, seen: number): number {
  return seen < known ? seen : known + (seen - known) * LATENCY_WEIGHT
}
