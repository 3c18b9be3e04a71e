import { StratalogError } from '../src/model/errors.js'
import type {
  ArchiveCapabilities,
  ArchivedKey,
  ArchiveFinding,
  ArchiveStore,
  ReadInOrder,
  ReplayableBody,
  StorageWishes,
} from '../src/ports/archive-store.js'
import type { Clock } from '../src/ports/clock.js'
import type { Logger } from '../src/ports/logger.js'

/** What has to be done before anything is written again; resolves with the store that counts from then on. */
export type Settle = () => Promise<ArchiveStore>

/** What became of the archive while nothing was written. */
export interface Stilled {
  readonly settle: Settle
}

/**
 * The archive of a log, whichever place that is at the moment. Everybody who holds it goes on holding it when the
 * archive moves: each call goes to the place that counts when the call begins. That is sound because both places hold
 * the same objects when one takes over from the other: between a put and the commit that relies on it the archive may
 * move, and the object is there.
 *
 * A write waits while the archive is held still and never goes to a place that may have been left (`settle`). A read
 * goes on where it began, and is asked of the new place when it fails.
 */
export class MovableArchive implements ArchiveStore {
  /** There where the place that counts has it. */
  thaw?: NonNullable<ArchiveStore['thaw']>
  /** Likewise. */
  readInOrder?: NonNullable<ArchiveStore['readInOrder']>
  readonly #clock: Clock
  readonly #logger: Logger
  #current: ArchiveStore
  /** Places that were left: who reads there goes on. */
  readonly #left: ArchiveStore[] = []
  #writing = 0
  #drained: (() => void) | null = null
  /** Writes wait for it. */
  #still: Promise<void> | null = null
  #settle: Settle | null = null
  #settling: Promise<void> | null = null

  constructor(store: ArchiveStore, { clock, logger }: { readonly clock: Clock; readonly logger: Logger }) {
    this.#current = store
    this.#hasCallsOf(store)
    this.#clock = clock
    this.#logger = logger
  }

  /** The store that counts now; for who moves it, never to be kept. */
  get current(): ArchiveStore {
    return this.#current
  }

  get location(): string {
    return this.#current.location
  }

  get capabilities(): ArchiveCapabilities {
    return this.#current.capabilities
  }

  putIfAbsent(
    key: string,
    body: ReplayableBody,
    options: StorageWishes & { readonly signal?: AbortSignal } = {},
  ): Promise<void> {
    return this.#write(options.signal, (store) => store.putIfAbsent(key, body, options))
  }

  head(key: string, signal?: AbortSignal): Promise<ArchivedKey | null> {
    return this.#read(signal, (store) => store.head(key, signal))
  }

  readRange(key: string, offset: number, lengthBytes: number, signal?: AbortSignal): Promise<Uint8Array> {
    return this.#read(signal, (store) => store.readRange(key, offset, lengthBytes, signal))
  }

  listFrom(prefix: string, after: string, limit: number, signal?: AbortSignal): Promise<ArchivedKey[]> {
    return this.#read(signal, (store) => store.listFrom(prefix, after, limit, signal))
  }

  delete(key: string, signal?: AbortSignal): Promise<void> {
    return this.#write(signal, (store) => store.delete(key, signal))
  }

  async removeLeftovers(): Promise<number> {
    return (await this.#current.removeLeftovers?.()) ?? 0
  }

  async findings(signal?: AbortSignal): Promise<ArchiveFinding[]> {
    return (await this.#current.findings?.(signal)) ?? []
  }

  async close(): Promise<void> {
    const stores = [this.#current, ...this.#left.splice(0)]
    const failures: unknown[] = []
    for (const store of stores) await store.close().catch((error: unknown) => failures.push(error))
    if (failures.length > 0) throw failures[0]
  }

  /**
   * Runs `work` while nobody writes. What it returns is settled before the next write; null: nothing changed. Rejects
   * with `timeout` where writes under way don't end within `drainMs`: then `work` did not run.
   */
  async holdStill(drainMs: number, signal: AbortSignal, work: () => Promise<Stilled | null>): Promise<void> {
    while (this.#still !== null) await this.#still
    let open = (): void => undefined
    this.#still = new Promise((resolve) => {
      open = resolve
    })
    try {
      await this.#drain(drainMs, signal)
      this.#settle = (await work())?.settle ?? this.#settle
    } finally {
      this.#still = null
      open()
    }
  }

  /** Does now what has to be done before the next write; rejects with why it can't be. */
  async settle(): Promise<void> {
    if (this.#settle === null) return
    this.#settling ??= this.#settleOnce().finally(() => {
      this.#settling = null
    })
    await this.#settling
  }

  async #settleOnce(): Promise<void> {
    const settle = this.#settle
    if (settle === null) return
    const store = await settle()
    if (store !== this.#current) {
      this.#left.push(this.#current)
      this.#current = store
      this.#hasCallsOf(store)
    }
    this.#settle = null
  }

  #hasCallsOf(store: ArchiveStore): void {
    if (store.thaw === undefined) delete this.thaw
    else
      this.thaw = (key, forMs, signal) =>
        this.#read(signal, async (at) => (await at.thaw?.(key, forMs, signal)) ?? 'readable')
    if (store.readInOrder === undefined) delete this.readInOrder
    else this.readInOrder = (...range) => this.#readInOrder(...range)
  }

  /** Goes on where it began; what fails after the archive moved is read in the new place. */
  #readInOrder(key: string, offset: number, lengthBytes: number, signal?: AbortSignal): ReadInOrder {
    const began = this.#current
    let reading = began.readInOrder?.(key, offset, lengthBytes, signal) ?? null
    let at = offset
    return {
      next: async (pieceBytes) => {
        const bytes = await this.#read(signal, (store) => {
          if (store !== began) {
            // For good: were the archive to come back, this one would go on from the wrong place.
            reading?.close()
            reading = null
          }
          return reading?.next(pieceBytes) ?? store.readRange(key, at, pieceBytes, signal)
        })
        at += bytes.length
        return bytes
      },
      close: () => reading?.close(),
    }
  }

  async #drain(drainMs: number, signal: AbortSignal): Promise<void> {
    signal.throwIfAborted()
    if (this.#writing === 0) return
    await new Promise<void>((resolve, reject) => {
      const done = (end: () => void) => {
        timer.cancel()
        signal.removeEventListener('abort', aborted)
        this.#drained = null
        end()
      }
      const aborted = () => done(() => reject(signal.reason))
      const timer = this.#clock.setTimer(drainMs, () => done(() => reject(busy(drainMs))))
      signal.addEventListener('abort', aborted, { once: true })
      this.#drained = () => done(resolve)
    })
  }

  async #write<T>(signal: AbortSignal | undefined, work: (store: ArchiveStore) => Promise<T>): Promise<T> {
    signal?.throwIfAborted()
    while (this.#still !== null || this.#settle !== null) {
      await (this.#still === null ? this.settle() : abortable(this.#still, signal))
    }
    this.#writing += 1
    try {
      return await work(this.#current)
    } finally {
      this.#writing -= 1
      if (this.#writing === 0) this.#drained?.()
    }
  }

  async #read<T>(signal: AbortSignal | undefined, work: (store: ArchiveStore) => Promise<T>): Promise<T> {
    // Nobody may write for a while: whoever looks whether the archive is well brings it forward.
    if (this.#settle !== null && this.#still === null)
      this.settle().catch((error: unknown) =>
        this.#logger.warn({ err: error }, 'the move of the archive could not be finished, it is tried again'),
      )
    const store = this.#current
    try {
      return await work(store)
    } catch (error) {
      if (store === this.#current || signal?.aborted === true) throw error
      return work(this.#current)
    }
  }
}

/** Waits for `done`, or rejects with the signal's reason. */
async function abortable(done: Promise<void>, signal: AbortSignal | undefined): Promise<void> {
  if (signal === undefined) return done
  let stop = (): void => undefined
  const aborted = new Promise<never>((_, reject) => {
    stop = () => reject(signal.reason)
    signal.addEventListener('abort', stop, { once: true })
  })
  try {
    await Promise.race([done, aborted])
  } finally {
    signal.removeEventListener('abort', stop)
  }
}

function busy(drainMs: number): StratalogError {
  return new StratalogError(
    'timeout',
    `uploads into the archive went on for ${drainMs / 1_000} s, so it could not be held still: run the command again`,
    { retryable: true },
  )
}
