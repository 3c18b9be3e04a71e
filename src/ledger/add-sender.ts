import { present } from '../model/assert.js'
import { isStratalogError, type StratalogError } from '../model/errors.js'
import type { Clock } from '../ports/clock.js'
import type { SegmentStore } from '../ports/segment-store.js'
import type { PendingAdd } from './add-queue.js'
import type { RoomLine } from './room-line.js'

/** Pauses between attempts while a store says `backpressure`: from the first to the last, doubling. */
const PAUSE_MS = 5
const PAUSE_MS_MAX = 100
/** An add that did not come back for this long was taken: a store says `backpressure` before it does any work. */
const TAKEN_MS = 1
/** Adds sent again in one turn before other ledgers have theirs. */
const TURN_ADDS = 64

/** What becomes of adds: one of these is called for each. */
export interface SenderEvents {
  stored(add: PendingAdd): void
  failed(add: PendingAdd, error: unknown): void
}

/**
 * Sends the adds of one ledger to one store. Backpressure is no failure: all ledgers share the store's queue, and
 * a store that has too much to do now still gets its copy later. What it sent back is sent again, and while
 * anything waits later adds queue behind it, in entry order. How much may wait is bounded by the ledger's writer
 * (invariant 11), which also gives a store up that makes no progress (`stop`).
 */
export class AddSender {
  readonly #store: SegmentStore
  readonly #ledgerId: bigint
  readonly #clock: Clock
  readonly #room: RoomLine
  readonly #events: SenderEvents
  /** By entry id. The head stays here while it is tried again, so that nothing overtakes it. */
  readonly #waiting: PendingAdd[] = []
  /** Ends a pause; most senders never make one. */
  #abort: AbortController | null = null
  #stopped: StratalogError | null = null
  #retrying = false
  #pauseMs = 0
  #idle: (() => void)[] = []

  constructor(store: SegmentStore, ledgerId: bigint, clock: Clock, room: RoomLine, events: SenderEvents) {
    this.#room = room
    this.#store = store
    this.#ledgerId = ledgerId
    this.#clock = clock
    this.#events = events
  }

  /** Whether the store has no room for what is to be sent. */
  get holdsBack(): boolean {
    return this.#waiting.length > 0
  }

  /** Sends an add, at once or behind those that wait. */
  send(add: PendingAdd): void {
    if (this.#waiting.length > 0) this.#waiting.push(add)
    else this.#attempt(add)
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
    this.#abort?.abort(error)
    for (const add of this.#waiting.splice(0)) this.#events.failed(add, error)
    this.#checkIdle()
  }

  /** The way of nearly every add: one promise, the store's own, and what hangs on it. */
  #attempt(add: PendingAdd): void {
    this.#store.addEntry(this.#ledgerId, add.entryId, add.entry).then(
      () => this.#events.stored(add),
      (error: unknown) => {
        if (isStratalogError(error, 'backpressure')) this.#hold(add)
        else this.#events.failed(add, error)
      },
    )
  }

  /** Keeps an add that was refused, at its place among those that wait. */
  #hold(add: PendingAdd): void {
    if (this.#stopped !== null) {
      this.#events.failed(add, this.#stopped)
      return
    }
    const before = this.#waiting.findIndex((other) => other.entryId > add.entryId)
    this.#waiting.splice(before < 0 ? this.#waiting.length : before, 0, add)
    this.#pauseMs = Math.max(PAUSE_MS, this.#pauseMs)
    this.#startRetrying()
  }

  #startRetrying(): void {
    if (this.#retrying) return
    this.#retrying = true
    void this.#retry()
  }

  async #retry(): Promise<void> {
    await this.#room.turn()
    try {
      await this.#retrySome()
    } finally {
      this.#room.end()
      this.#retrying = false
      // What is left, or was held since the last look.
      if (this.#waiting.length > 0) this.#startRetrying()
      this.#checkIdle()
    }
  }

  async #retrySome(): Promise<void> {
    for (let sent = 0; sent < TURN_ADDS; ) {
      let head = this.#waiting[0]
      if (head === undefined) return
      if (this.#pauseMs > 0 && !(await this.#pause())) return
      // While it paused an earlier one may have come back.
      head = present(this.#waiting[0], 'add that waits')
      if ((await this.#again(head)) === 'refused') {
        this.#pauseMs = Math.min(PAUSE_MS_MAX, Math.max(PAUSE_MS, 2 * this.#pauseMs))
        continue
      }
      sent += 1
      this.#pauseMs = 0
      this.#forget(head)
    }
  }

  /** Sends the head again; `taken` when it is on its way. One that is refused later than that is held anew. */
  #again(head: PendingAdd): Promise<'refused' | 'settled' | 'taken'> {
    return new Promise((resolve) => {
      let taken = false
      const timer = this.#clock.setTimer(TAKEN_MS, () => {
        taken = true
        resolve('taken')
      })
      const settled = (outcome: 'refused' | 'settled') => {
        timer.cancel()
        resolve(outcome)
      }
      this.#store.addEntry(this.#ledgerId, head.entryId, head.entry).then(
        () => {
          settled('settled')
          this.#events.stored(head)
        },
        (error: unknown) => {
          const refused = isStratalogError(error, 'backpressure')
          settled(refused ? 'refused' : 'settled')
          if (!refused) this.#events.failed(head, error)
          else if (taken) {
            this.#forget(head)
            this.#hold(head)
          }
        },
      )
    })
  }

  /** False when it was stopped. Keeps the process alive: the disk may have nothing to do while adds wait here. */
  async #pause(): Promise<boolean> {
    this.#abort ??= new AbortController()
    try {
      await this.#clock.sleep(this.#pauseMs, this.#abort.signal)
      return true
    } catch (error) {
      if (this.#stopped === null) throw error
      return false
    }
  }

  #forget(add: PendingAdd): void {
    const at = this.#waiting.indexOf(add)
    if (at >= 0) this.#waiting.splice(at, 1)
  }

  #checkIdle(): void {
    if (this.#waiting.length > 0) return
    for (const resolve of this.#idle.splice(0)) resolve()
  }
}
