import { StratalogError } from '../../model/errors.js'
import type { Clock } from '../../ports/clock.js'
import type { Coordination, Lease } from '../../ports/coordination.js'
import type { SqliteDatabase, SqlStatement } from './database.js'
import { ColumnReader, checkRow, withChecksum } from './rows.js'

/** Epochs are reserved on disk this many at a time; what is left of a block in a crash is never used. */
const EPOCH_BLOCK = 1_024n
const COUNTER = 'lease'

/** How many may wait for one lease: more is a loop somewhere, and memory is bounded (invariant 11). */
const WAITERS_MAX = 1_000

interface Waiter {
  readonly holder: string
  readonly granted: (lease: HeldLease) => void
  readonly refused: (error: unknown) => void
}

interface Name {
  held: HeldLease | null
  readonly waiting: Waiter[]
}

/** The options of {@link Coordination.acquire}. */
type AcquireOptions = Parameters<Coordination['acquire']>[1]

/**
 * Leases within the one process that has the directory (lock.ts keeps others out): who holds what is memory, and
 * only the counter of epochs is in the file, so that they grow over restarts. Waiters are served in the order they came.
 */
export class SqliteCoordination implements Coordination {
  readonly #database: SqliteDatabase
  readonly #clock: Clock
  readonly #sql: Readonly<Record<LeasesSql, SqlStatement>>
  readonly #names = new Map<string, Name>()
  /** Epochs from #next up to #reserved, exclusive, are reserved on disk and not yet given out. */
  #next = 0n
  #reserved = 0n
  #closed = false

  constructor(database: SqliteDatabase, clock: Clock) {
    this.#database = database
    this.#clock = clock
    this.#sql = database.prepareAll(LEASES_SQL)
  }

  async acquire(name: string, options: AcquireOptions): Promise<Lease> {
    if (this.#closed) throw this.#closedError()
    options.signal?.throwIfAborted()
    const entry = this.#names.get(name) ?? { held: null, waiting: [] }
    if (entry.held === null) {
      const lease = this.#grant(name, entry, options.holder)
      this.#names.set(name, entry)
      return lease
    }
    if (options.waitMs <= 0) throw heldError(name, entry.held.holder, options.waitMs)
    if (entry.waiting.length >= WAITERS_MAX) {
      throw new StratalogError('backpressure', `${WAITERS_MAX} calls wait for the lease ${name} already`, {
        retryable: true,
      })
    }
    return this.#wait(name, entry, options)
  }

  /** Every lease is lost and every waiter refused. Idempotent. */
  async close(): Promise<void> {
    this.#closed = true
    for (const [name, entry] of this.#names) {
      for (const waiter of entry.waiting.splice(0)) waiter.refused(this.#closedError())
      entry.held?.lose(new StratalogError('lease_lost', `the lease ${name} is lost: the log has been closed`))
      entry.held = null
    }
    this.#names.clear()
  }

  async #wait(name: string, entry: Name, options: AcquireOptions): Promise<Lease> {
    const timer = new AbortController()
    const abandon = () => timer.abort(options.signal?.reason)
    options.signal?.addEventListener('abort', abandon, { once: true })
    let waiter: Waiter | null = null
    const granted = new Promise<HeldLease>((resolve, reject) => {
      waiter = { holder: options.holder, granted: resolve, refused: reject }
      entry.waiting.push(waiter)
    })
    const elapsed = this.#clock.sleep(options.waitMs, timer.signal).then(() => {
      throw heldError(name, entry.held?.holder ?? 'nobody', options.waitMs)
    })
    // The one that comes second ends with nobody listening: the sleep when it is aborted below.
    elapsed.catch(() => undefined)
    granted.catch(() => undefined)
    try {
      return await Promise.race([granted, elapsed])
    } catch (error) {
      const at = waiter === null ? -1 : entry.waiting.indexOf(waiter)
      if (at >= 0) entry.waiting.splice(at, 1)
      // Granted in the moment the time ran out: nobody will use it, so the next one gets it.
      else await granted.then((lease) => lease.release()).catch(() => undefined)
      throw error
    } finally {
      options.signal?.removeEventListener('abort', abandon)
      timer.abort()
    }
  }

  /** Draws the next epoch, which is above all before it on disk, and makes `holder` the holder. */
  #grant(name: string, entry: Name, holder: string): HeldLease {
    const lease = new HeldLease(name, this.#epoch(name), holder, (released) =>
      this.#handOn(name, entry, released),
    )
    entry.held = lease
    return lease
  }

  /** All names draw from one counter: ten thousand writers that are opened wait for a few syncs. */
  #epoch(name: string): bigint {
    const before = this.#before(name)
    if (this.#next >= this.#reserved || this.#next <= before) {
      // The mark is durable before the first epoch of the block is given out.
      const first = this.#database.write('reserve epochs of leases', () => {
        const mark = this.#mark()
        const from = mark > before ? mark : before + 1n
        this.#sql.setCounter.run(...withChecksum([COUNTER, from + EPOCH_BLOCK]))
        return from
      })
      this.#next = first
      this.#reserved = first + EPOCH_BLOCK
    }
    const epoch = this.#next
    this.#next += 1n
    return epoch
  }

  /** What files of 0.1.0 say of the name: there each one had an epoch of its own. */
  #before(name: string): bigint {
    const row = this.#database.read('look up a lease', () => this.#sql.read.get(name))
    if (row === undefined) return 0n
    checkRow(row, `lease ${name}`)
    return new ColumnReader(row.slice(1), `lease ${name}`).integer()
  }

  /** The lowest epoch that was never reserved. */
  #mark(): bigint {
    const row = this.#sql.counter.get(COUNTER)
    if (row === undefined) return 1n
    checkRow(row, 'counter of lease epochs')
    return new ColumnReader(row.slice(1), 'counter of lease epochs').integer()
  }

  /** Hands a released lease to the first that waits. One whose grant fails hears why, and the next is tried. */
  #handOn(name: string, entry: Name, released: HeldLease): void {
    if (entry.held !== released) return
    entry.held = null
    for (let waiter = entry.waiting.shift(); waiter !== undefined; waiter = entry.waiting.shift()) {
      try {
        waiter.granted(this.#grant(name, entry, waiter.holder))
        return
      } catch (error) {
        waiter.refused(error)
      }
    }
    this.#names.delete(name)
  }

  #closedError(): StratalogError {
    return new StratalogError('closed', `the index ${this.#database.file} has been closed`)
  }
}

class HeldLease implements Lease {
  readonly name: string
  readonly epoch: bigint
  readonly holder: string
  readonly #lost = new AbortController()
  readonly #released: (lease: HeldLease) => void

  constructor(name: string, epoch: bigint, holder: string, released: (lease: HeldLease) => void) {
    this.name = name
    this.epoch = epoch
    this.holder = holder
    this.#released = released
  }

  get lost(): AbortSignal {
    return this.#lost.signal
  }

  async release(): Promise<void> {
    this.#released(this)
  }

  lose(reason: StratalogError): void {
    this.#lost.abort(reason)
  }
}

function heldError(name: string, holder: string, waitMs: number): StratalogError {
  const waited = waitMs > 0 ? ` still after ${waitMs} ms` : ''
  return new StratalogError(
    'conflict',
    `the lease ${name} is held by ${holder}${waited}: wait for it or stop the holder`,
    {
      retryable: true,
      expected: null,
      found: holder,
    },
  )
}

type LeasesSql = 'read' | 'counter' | 'setCounter'

/** The statements of this file; tests look at their plans. */
export const LEASES_SQL: Readonly<Record<LeasesSql, string>> = {
  read: 'SELECT name, epoch, holder, checksum FROM leases WHERE name = ?',
  counter: 'SELECT name, next, checksum FROM counters WHERE name = ?',
  setCounter: 'INSERT OR REPLACE INTO counters (name, next, checksum) VALUES (?, ?, ?)',
}
