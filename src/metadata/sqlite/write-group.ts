import process from 'node:process'
import Database from 'better-sqlite3'

/** Changes in one transaction at most: one that takes long would hold up everything else in this process. */
const GROUP_MAX = 256

/** What became of one change within the transaction of its group. */
type Outcome = { readonly value: unknown } | { readonly error: unknown }

interface Waiting {
  readonly doing: string
  readonly body: () => unknown
  readonly resolve: (value: unknown) => void
  readonly reject: (error: unknown) => void
}

/**
 * Changes that come in one turn share a transaction: its sync is what a change costs, and it stops the whole process
 * for that long. So a thousand streams that begin a segment at once wait for a few syncs, not for a thousand. Nobody
 * hears of a change before the transaction it is in is durable.
 */
export class WriteGroup {
  readonly #write: <T>(doing: string, body: () => T) => T
  readonly #savepoint: (body: () => unknown) => unknown
  #waiting: Waiting[] = []

  /** `write`: one durable transaction. `savepoint`: within one, all or nothing of a body. */
  constructor(write: <T>(doing: string, body: () => T) => T, savepoint: (body: () => unknown) => unknown) {
    this.#write = write
    this.#savepoint = savepoint
  }

  /** `body` may run twice, and must come to what the tables say each time. */
  add<T>(doing: string, body: () => T): Promise<T> {
    return new Promise((resolve, reject) => {
      // After the microtasks of this turn: what one change sets off in others, they ask for there.
      if (this.#waiting.length === 0) queueMicrotask(() => process.nextTick(() => this.flush()))
      this.#waiting.push({ doing, body, resolve: resolve as (value: unknown) => void, reject })
    })
  }

  /** Writes what waits. Never throws. */
  flush(): void {
    const waiting = this.#waiting
    this.#waiting = []
    for (let at = 0; at < waiting.length; at += GROUP_MAX) this.#commit(waiting.slice(at, at + GROUP_MAX))
  }

  #commit(group: readonly Waiting[]): void {
    const [first] = group
    if (first === undefined) return
    if (group.length === 1) {
      this.#alone(first)
      return
    }
    let outcomes: Outcome[]
    try {
      outcomes = this.#write(first.doing, () => group.map((one) => this.#within(one)))
    } catch {
      // Nothing of the group is there, and it may have been one that did not fit: each is tried, and hears its own
      // error. After a failed sync the file refuses them all.
      for (const one of group) this.#alone(one)
      return
    }
    for (const [at, one] of group.entries()) settle(one, outcomes[at])
  }

  #alone(one: Waiting): void {
    let outcome: Outcome
    try {
      outcome = { value: this.#write(one.doing, one.body) }
    } catch (error) {
      outcome = { error }
    }
    settle(one, outcome)
  }

  /** A body that refuses is no reason for the others; what SQLite itself says is one for all. */
  #within({ body }: Waiting): Outcome {
    try {
      return { value: this.#savepoint(body) }
    } catch (error) {
      if (error instanceof Database.SqliteError) throw error
      return { error }
    }
  }
}

function settle(one: Waiting, outcome: Outcome | undefined): void {
  if (outcome !== undefined && 'value' in outcome) one.resolve(outcome.value)
  else one.reject(outcome?.error)
}
