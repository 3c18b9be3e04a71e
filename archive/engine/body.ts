import { assert } from '../../src/model/assert.js'
import type { ReplayableBody } from '../../src/ports/archive-store.js'
import type { Clock, Timer } from '../../src/ports/clock.js'

/** Bodies up to this take no turn and no buffer of the pool: as many of them as requests are bounded all the same. */
const SMALL_BYTES = 256 * 1024
/** Large buffers have sizes of whole steps, so that one of a segment is of use for the next. */
const STEP_BYTES = 4 * 1024 * 1024
/** Buffers that nobody needed for so long go. */
const KEPT_MS = 10_000

interface Waiting {
  readonly sizeBytes: number
  readonly enter: () => void
}

/**
 * Memory for what is on its way to an archive: bytes wait until there is room for them (invariant 11), first come,
 * first served. Large buffers are used again, for fresh memory costs as much as copying it does.
 */
export class BodyRoom {
  readonly #bytesMax: number
  #usedBytes = 0
  #waiting: Waiting[] = []
  #free: Buffer[] = []
  readonly #clock: Clock
  #letGo: Timer | null = null

  constructor(bytesMax: number, clock: Clock) {
    this.#bytesMax = bytesMax
    this.#clock = clock
  }

  /**
   * Runs `work` with a buffer of `sizeBytes`. It is used again only if `work` says that nobody can be reading it any
   * more: a request that was cut off may still have it.
   */
  async with<T>(
    sizeBytes: number,
    signal: AbortSignal,
    work: (buffer: Buffer, done: () => void) => Promise<T>,
  ): Promise<T> {
    if (sizeBytes <= SMALL_BYTES) return work(Buffer.allocUnsafe(sizeBytes), () => {})
    const roundedBytes = rounded(sizeBytes)
    // More than all there is takes all there is: one such at a time.
    const counted = Math.min(roundedBytes, this.#bytesMax)
    await this.#enter(counted, signal)
    const buffer = this.#take(roundedBytes)
    let reusable = false
    try {
      return await work(buffer.subarray(0, sizeBytes), () => {
        reusable = true
      })
    } finally {
      if (reusable) this.#free.push(buffer)
      this.#usedBytes -= counted
      this.#admit()
      this.#keepForAWhile()
    }
  }

  #keepForAWhile(): void {
    this.#letGo?.cancel()
    this.#letGo = this.#clock.setTimer(KEPT_MS, () => {
      this.#free = []
    })
  }

  /** A free buffer of exactly that size, or a new one, for which others go: together they never take more than the room. */
  #take(roundedBytes: number): Buffer {
    const at = this.#free.findIndex(({ length }) => length === roundedBytes)
    const [found] = at < 0 ? [] : this.#free.splice(at, 1)
    const freeBytes = () => this.#free.reduce((sum, { length }) => sum + length, 0)
    while (this.#free.length > 0 && this.#usedBytes + freeBytes() > this.#bytesMax) this.#free.shift()
    return found ?? Buffer.allocUnsafeSlow(roundedBytes)
  }

  async #enter(sizeBytes: number, signal: AbortSignal): Promise<void> {
    signal.throwIfAborted()
    if (this.#waiting.length === 0 && this.#usedBytes + sizeBytes <= this.#bytesMax) {
      this.#usedBytes += sizeBytes
      return
    }
    await new Promise<void>((resolve, reject) => {
      const abandon = () => {
        this.#waiting = this.#waiting.filter((one) => one !== waiting)
        // Whoever stood behind a large one may fit now.
        this.#admit()
        reject(signal.reason)
      }
      const waiting = {
        sizeBytes,
        enter: () => {
          signal.removeEventListener('abort', abandon)
          resolve()
        },
      }
      this.#waiting.push(waiting)
      signal.addEventListener('abort', abandon, { once: true })
    })
  }

  #admit(): void {
    for (
      let [first] = this.#waiting;
      first !== undefined && this.#usedBytes + first.sizeBytes <= this.#bytesMax;
      [first] = this.#waiting
    ) {
      this.#waiting.shift()
      this.#usedBytes += first.sizeBytes
      first.enter()
    }
  }
}

function rounded(sizeBytes: number): number {
  if (sizeBytes > STEP_BYTES) return Math.ceil(sizeBytes / STEP_BYTES) * STEP_BYTES
  let power = SMALL_BYTES
  while (power < sizeBytes) power *= 2
  return power
}

/** A checksum that goes on from the value of the bytes before; 0 for none. */
export type RunningChecksum = (bytes: Uint8Array, seed: number) => number

/**
 * Fills `target` with a whole body, which must be exactly as long, and returns its checksum: taken of each chunk while
 * it is at hand, so the bytes are read once.
 */
export async function fillWith(
  body: ReplayableBody,
  target: Buffer,
  checksum: RunningChecksum,
  signal: AbortSignal,
): Promise<number> {
  assert(target.length === body.sizeBytes, `${target.length} bytes for a body of ${body.sizeBytes}`)
  let at = 0
  let sum = 0
  for await (const chunk of body.open()) {
    signal.throwIfAborted()
    assert(at + chunk.length <= target.length, `a body of more bytes than the ${body.sizeBytes} it stated`)
    target.set(chunk, at)
    sum = checksum(chunk, sum)
    at += chunk.length
  }
  signal.throwIfAborted()
  assert(at === target.length, `a body of ${at} bytes that stated ${body.sizeBytes}`)
  return sum
}

/**
 * The bytes of a body from one cut to the next, once through: `next` fills what it is given and says whether it could.
 * For uploads in parts, whose buffers are far smaller than the body.
 */
export class BodyCutter {
  readonly #chunks: AsyncIterator<Uint8Array>
  readonly #sizeBytes: number
  #rest: Uint8Array = new Uint8Array(0)
  #taken = 0

  constructor(body: ReplayableBody) {
    this.#chunks = body.open()[Symbol.asyncIterator]()
    this.#sizeBytes = body.sizeBytes
  }

  /** Fills `target` whole and returns its checksum. */
  async next(target: Buffer, checksum: RunningChecksum, signal: AbortSignal): Promise<number> {
    let at = 0
    let sum = 0
    while (at < target.length) {
      signal.throwIfAborted()
      if (this.#rest.length === 0) await this.#fetch()
      const some = this.#rest.subarray(0, target.length - at)
      target.set(some, at)
      sum = checksum(some, sum)
      at += some.length
      // A chunk is ours until the next is asked for.
      this.#rest = this.#rest.subarray(some.length)
    }
    this.#taken += at
    return sum
  }

  async #fetch(): Promise<void> {
    const { done, value } = await this.#chunks.next()
    assert(done !== true, `a body of fewer bytes than the ${this.#sizeBytes} it stated`)
    this.#rest = value
  }

  /** Nothing may follow the last cut. */
  async end(): Promise<void> {
    while (this.#rest.length === 0) {
      const { done, value } = await this.#chunks.next()
      if (done === true) break
      this.#rest = value
    }
    assert(
      this.#rest.length === 0 && this.#taken === this.#sizeBytes,
      `a body of other bytes than the ${this.#sizeBytes} it stated`,
    )
  }

  /** Lets go of the source, read to its end or not. */
  async close(): Promise<void> {
    await this.#chunks.return?.()
  }
}
