import type { SegmentIndex } from '../ports/segment-index.js'

/** Made once: a `DOMException` with its stack at each look costs more than the look. */
const CHANGED = new Error('something has changed')

/** One change of a stream's rows, to be waited for at most once. */
export class Changed {
  /** Aborted by the change or with the reader's signal. `AbortSignal.any` would leave traces on that, each time. */
  readonly #abort = new AbortController()
  readonly #watch: { close(): void } | null
  readonly #signal: AbortSignal | undefined
  readonly #relay = () => this.#abort.abort(CHANGED)

  constructor(index: SegmentIndex | null, incarnation: string, signal: AbortSignal | undefined) {
    this.#signal = signal
    this.#watch = index?.watch(incarnation, this.#relay) ?? null
    signal?.addEventListener('abort', this.#relay, { once: true })
    if (signal?.aborted) this.#relay()
  }

  static never(): Changed {
    return new Changed(null, '', undefined)
  }

  /** Resolves at the change; rejects when the reader's signal aborts. */
  async wait(): Promise<void> {
    await this.orElse(
      (signal) =>
        new Promise<void>((resolve) => {
          if (signal.aborted) resolve()
          else signal.addEventListener('abort', () => resolve(), { once: true })
        }),
    )
  }

  /** Waits for the change or for `other`, whichever comes first. */
  async orElse(other: (signal: AbortSignal) => Promise<void>): Promise<void> {
    try {
      await other(this.#abort.signal)
    } catch (error) {
      this.#signal?.throwIfAborted()
      if (!this.#abort.signal.aborted) throw error
    }
    this.#signal?.throwIfAborted()
  }

  close(): void {
    this.#watch?.close()
    this.#signal?.removeEventListener('abort', this.#relay)
    this.#abort.abort(CHANGED)
  }
}
