/** Senders that try at a time whether a store has room again. */
const TRYING_MAX = 16

/**
 * Who waits for room in a store's queue, of all ledgers. A store that refuses thousands of ledgers at once must not be
 * asked by each of them every few milliseconds: the asking alone would take all the time there is. Turns go round.
 */
export class RoomLine {
  #trying = 0
  readonly #line: (() => void)[] = []

  /** Resolves when it is the caller's turn; `end` must follow. */
  turn(): Promise<void> {
    if (this.#trying >= TRYING_MAX) return new Promise((resolve) => this.#line.push(resolve))
    this.#trying += 1
    return Promise.resolve()
  }

  /** The turn of the next one. */
  end(): void {
    const next = this.#line.shift()
    if (next === undefined) this.#trying -= 1
    else next()
  }
}
