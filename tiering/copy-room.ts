import { BlockBudget } from '../archive/segment-writer.js'

/** Bytes of segments that are copied side by side: four large ones, or as many small ones as the agent has at once. */
const UNDER_WAY_BYTES_MAX = 64 * 1024 * 1024
/** What a segment counts at most: buffers of a copy are bounded, however large the segment is. */
const ONE_BYTES_MAX = 16 * 1024 * 1024
/** Blocks that all copies keep between their two passes: a segment of 64 MiB that LZ4 halves. */
const KEPT_BYTES_MAX = 32 * 1024 * 1024

interface Waiting {
  readonly bytes: number
  readonly enter: () => void
  /** Somebody left: that something moves is an answer to who waits. */
  readonly moved: () => void
}

/** The memory that copies of one log share (invariant 11). First come, first served. */
export class CopyRoom {
  readonly budget: BlockBudget = new BlockBudget(KEPT_BYTES_MAX)
  #leftBytes = UNDER_WAY_BYTES_MAX
  #waiting: Waiting[] = []

  /** Runs `work` when there is room for a segment of so many bytes. Rejects with the signal's reason while it waits. */
  async with<T>(
    lengthBytes: number,
    options: { readonly signal: AbortSignal; readonly onMoved: () => void },
    work: () => Promise<T>,
  ): Promise<T> {
    const bytes = Math.min(lengthBytes, ONE_BYTES_MAX)
    await this.#enter(bytes, options.signal, options.onMoved)
    try {
      return await work()
    } finally {
      this.#leftBytes += bytes
      for (const { moved } of this.#waiting) moved()
      this.#admit()
    }
  }

  async #enter(bytes: number, signal: AbortSignal, moved: () => void): Promise<void> {
    signal.throwIfAborted()
    if (this.#waiting.length === 0 && bytes <= this.#leftBytes) {
      this.#leftBytes -= bytes
      return
    }
    await new Promise<void>((resolve, reject) => {
      const abandon = () => {
        this.#waiting = this.#waiting.filter((one) => one !== waiting)
        // Whoever stood behind a large one may fit now.
        this.#admit()
        reject(signal.reason)
      }
      const enter = () => {
        signal.removeEventListener('abort', abandon)
        resolve()
      }
      const waiting = { bytes, enter, moved }
      this.#waiting.push(waiting)
      signal.addEventListener('abort', abandon, { once: true })
    })
  }

  #admit(): void {
    for (
      let [first] = this.#waiting;
      first !== undefined && first.bytes <= this.#leftBytes;
      [first] = this.#waiting
    ) {
      this.#waiting.shift()
      this.#leftBytes -= first.bytes
      first.enter()
    }
  }
}
