import type { PackagedEntry } from '../format/packaged-entry.js'
import { present } from '../model/assert.js'
import { isStratalogError, StratalogError } from '../model/errors.js'
import type { Clock } from '../ports/clock.js'
import type { SegmentStore } from '../ports/segment-store.js'

/** Pauses between attempts while a store says `backpressure`: from the first to the last, doubling. */
const PAUSE_MS = 5
const PAUSE_MS_MAX = 100
/** An add that did not come back for this long was taken: a store says `backpressure` before it does any work. */
const TAKEN_MS = 1

interface WaitingAdd {
  readonly entryId: bigint
  readonly entry: PackagedEntry
  readonly sentMs: number
  readonly resolve: () => void
  readonly reject: (error: unknown) => void
}

/**
 * Sends the adds of one ledger to one store. Backpressure is no failure: all ledgers share the store's queue, and
 * a store that has too much to do now still gets its copy later. What it sent back is sent again, and while
 * anything waits later adds queue behind it, in entry order. How much may wait is bounded by the ledger's writer
 * (invariant 11), how long by `timeoutMs`.
 */
export class AddSender {
  readonly #store: SegmentStore
  readonly #ledgerId: bigint
  readonly #clock: Clock
  readonly #timeoutMs: number
  /** By entry id. The head stays here while it is tried again, so that nothing overtakes it. */
  readonly #waiting: WaitingAdd[] = []
  readonly #abort = new AbortController()
  #stopped: StratalogError | null = null
  #retrying = false
  #pauseMs = 0
  #idle: (() => void)[] = []

  constructor(store: SegmentStore, ledgerId: bigint, clock: Clock, timeoutMs: number) {
    this.#store = store
    this.#ledgerId = ledgerId
    this.#clock = clock
    this.#timeoutMs = timeoutMs
  }

  /** Settles as the store's `addEntry` does, but for `backpressure`, which becomes `timeout` if it does not end. */
  send(entryId: bigint, entry: PackagedEntry): Promise<void> {
    return new Promise((resolve, reject) => {
      const add = { entryId, entry, sentMs: this.#clock.monotonicMs(), resolve, reject }
      if (this.#waiting.length > 0) this.#waiting.push(add)
      else
        void this.#attempt(add).then((outcome) => {
          if (outcome === 'refused') this.#hold(add)
        })
    })
  }

  /** Resolves when nothing waits to be sent again: what comes next for this ledger comes behind its adds. */
  idle(): Promise<void> {
    return new Promise((resolve) => {
      this.#idle.push(resolve)
      this.#checkIdle()
    })
  }

  /** Gives up what waits: the ledger goes on without the store, or not at all. */
  stop(error: StratalogError): void {
    if (this.#stopped !== null) return
    this.#stopped = error
    this.#abort.abort(error)
    for (const add of this.#waiting.splice(0)) add.reject(error)
    this.#checkIdle()
  }

  #attempt(add: WaitingAdd): Promise<'refused' | 'settled'> {
    return this.#store.addEntry(this.#ledgerId, add.entryId, add.entry).then(
      () => {
        add.resolve()
        return 'settled'
      },
      (error: unknown) => {
        if (isStratalogError(error, 'backpressure')) return 'refused'
        add.reject(error)
        return 'settled'
      },
    )
  }

  /** Keeps an add that was refused, at its place among those that wait. */
  #hold(add: WaitingAdd): void {
    if (this.#stopped !== null) {
      add.reject(this.#stopped)
      return
    }
    const before = this.#waiting.findIndex((other) => other.entryId > add.entryId)
    this.#waiting.splice(before < 0 ? this.#waiting.length : before, 0, add)
    this.#pauseMs = Math.max(PAUSE_MS, this.#pauseMs)
    if (this.#retrying) return
    this.#retrying = true
    void this.#retry()
  }

  async #retry(): Promise<void> {
    try {
      await this.#retryAll()
    } finally {
      this.#retrying = false
      this.#checkIdle()
    }
  }

  /** Ends in the turn in which nothing waits any more. */
  async #retryAll(): Promise<void> {
    for (let head = this.#waiting[0]; head !== undefined; head = this.#waiting[0]) {
      if (this.#pauseMs > 0 && !(await this.#pause())) return
      // While it paused an earlier one may have come back.
      head = present(this.#waiting[0], 'add that waits')
      if ((await this.#again(head)) === 'refused') {
        this.#pauseMs = Math.min(PAUSE_MS_MAX, Math.max(PAUSE_MS, 2 * this.#pauseMs))
        this.#expire(head)
        continue
      }
      this.#pauseMs = 0
      this.#forget(head)
    }
  }

  /** Sends the head again; `taken` when it is on its way. One that is refused later than that is held anew. */
  #again(head: WaitingAdd): Promise<'refused' | 'settled' | 'taken'> {
    return new Promise((resolve) => {
      let taken = false
      const timer = this.#clock.setTimer(TAKEN_MS, () => {
        taken = true
        resolve('taken')
      })
      void this.#attempt(head).then((outcome) => {
        timer.cancel()
        if (taken && outcome === 'refused') {
          this.#forget(head)
          this.#hold(head)
        }
        resolve(outcome)
      })
    })
  }

  /** False when it was stopped. Keeps the process alive: the disk may have nothing to do while adds wait here. */
  async #pause(): Promise<boolean> {
    try {
      await this.#clock.sleep(this.#pauseMs, this.#abort.signal)
      return true
    } catch (error) {
      if (this.#stopped === null) throw error
      return false
    }
  }

  #expire(add: WaitingAdd): void {
    const waitedMs = this.#clock.monotonicMs() - add.sentMs
    if (waitedMs < this.#timeoutMs) return
    this.#forget(add)
    add.reject(
      new StratalogError(
        'timeout',
        `segment store ${this.#store.id} had no room for entry ${add.entryId} for ${Math.round(waitedMs)} ms: look at its disk`,
        { retryable: true },
      ),
    )
  }

  #forget(add: WaitingAdd): void {
    const at = this.#waiting.indexOf(add)
    if (at >= 0) this.#waiting.splice(at, 1)
  }

  #checkIdle(): void {
    if (this.#waiting.length > 0) return
    for (const resolve of this.#idle.splice(0)) resolve()
  }
}
