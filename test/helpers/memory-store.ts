import { Buffer } from 'node:buffer'
import { readEntryHeader } from '../../src/format/ledger-digest.js'
import type { PackagedEntry } from '../../src/format/packaged-entry.js'
import { type ErrorCode, StratalogError } from '../../src/model/errors.js'
import type { Clock } from '../../src/ports/clock.js'
import type {
  ControlFrame,
  EntryAnswer,
  LastEntryAnswer,
  LedgerHeader,
  LedgerSeal,
  LedgerSummary,
  SegmentStore,
  StoreStatus,
} from '../../src/ports/segment-store.js'

/** The calls a fault can be put on. */
export type StoreCall =
  | 'openLedger'
  | 'addEntry'
  | 'readEntry'
  | 'readEntries'
  | 'fence'
  | 'readLac'
  | 'writeLac'
  | 'waitForLac'
  | 'sealLedger'
  | 'deleteLedger'

/**
 * What befalls a call. `before` runs first, `after` when it is done and not answered yet: each may wait (a held
 * answer) or throw (a failure that came before, or an answer that was lost).
 */
export interface StoreFault {
  readonly before?: (call: StoreCall, ledgerId: bigint, entryId: bigint | null) => Promise<void> | void
  readonly after?: (call: StoreCall, ledgerId: bigint, entryId: bigint | null) => Promise<void> | void
}

interface MemoryLedger {
  header: LedgerHeader | null
  readonly entries: Map<bigint, Buffer>
  /** Entries at and above it are answered `suspect` where they are absent. */
  suspectFrom: bigint | null
  fenced: boolean
  seal: LedgerSeal | null
  deleted: boolean
  lac: bigint
  explicitLac: bigint
  readonly waiters: Set<() => void>
}

/** What outlives a process: several stores may share one, as processes share a replica. */
export class MemoryReplica {
  readonly ledgers: Map<bigint, MemoryLedger> = new Map()
  readonly controls: Map<string, ControlFrame> = new Map()

  ledger(ledgerId: bigint): MemoryLedger {
    let ledger = this.ledgers.get(ledgerId)
    if (ledger === undefined) {
      ledger = {
        header: null,
        entries: new Map(),
        suspectFrom: null,
        fenced: false,
        seal: null,
        deleted: false,
        lac: -1n,
        explicitLac: -1n,
        waiters: new Set(),
      }
      this.ledgers.set(ledgerId, ledger)
    }
    return ledger
  }

  /** Loses an entry as if it had never come. */
  forget(ledgerId: bigint, entryId: bigint): void {
    this.ledger(ledgerId).entries.delete(entryId)
  }

  /** Loses what lies at and above an entry without a clean end. */
  tear(ledgerId: bigint, from: bigint): void {
    const ledger = this.ledger(ledgerId)
    for (const id of [...ledger.entries.keys()]) if (id >= from) ledger.entries.delete(id)
    ledger.suspectFrom = from
  }

  /** Flips a bit of a stored entry. */
  damage(ledgerId: bigint, entryId: bigint): void {
    const bytes = this.ledger(ledgerId).entries.get(entryId)
    if (bytes === undefined) throw new Error(`no entry ${entryId} to damage`)
    bytes[bytes.length - 1] = (bytes[bytes.length - 1] ?? 0) ^ 0x10
  }

  /** What a kill leaves: the explicit LAC was never durable. */
  restart(): void {
    for (const ledger of this.ledgers.values()) {
      ledger.explicitLac = -1n
      ledger.lac = -1n
      for (const bytes of ledger.entries.values()) {
        const { lac } = readEntryHeader(bytes)
        if (lac > ledger.lac) ledger.lac = lac
      }
    }
  }
}

/** A `SegmentStore` in memory that keeps every promise of its port, until the test says otherwise. */
export class MemoryStore implements SegmentStore {
  readonly id: string
  readonly replica: MemoryReplica
  /** Faults of this process's way to the replica. */
  fault: StoreFault = {}
  state: StoreStatus['state'] = 'writable'
  readonly calls: Map<StoreCall, number> = new Map()
  readonly #clock: Clock
  readonly #pending = new Set<Promise<unknown>>()
  readonly #failWaiters = new Set<(error: Error) => void>()

  constructor(id: string, clock: Clock, replica: MemoryReplica = new MemoryReplica()) {
    this.id = id
    this.#clock = clock
    this.replica = replica
  }

  openLedger(header: LedgerHeader): Promise<void> {
    return this.#call('openLedger', header.ledgerId, null, () => {
      const ledger = this.replica.ledger(header.ledgerId)
      if (ledger.deleted) throw failure('ledger_not_found', `ledger ${header.ledgerId} was deleted`)
      if (ledger.header !== null && identity(ledger.header) !== identity(header)) {
        throw failure('ledger_exists', `ledger ${header.ledgerId} has another header`)
      }
      ledger.header ??= structuredClone(header)
    })
  }

  addEntry(
    ledgerId: bigint,
    entryId: bigint,
    entry: PackagedEntry,
    options?: { readonly recovery?: boolean },
  ): Promise<void> {
    return this.#call('addEntry', ledgerId, entryId, () => {
      const ledger = this.replica.ledgers.get(ledgerId)
      if (ledger === undefined || ledger.deleted) throw failure('ledger_not_found', `no ledger ${ledgerId}`)
      if (options?.recovery !== true) {
        if (ledger.fenced || ledger.seal !== null) throw failure('fenced', `ledger ${ledgerId} is fenced`)
        if (ledger.header === null) throw failure('ledger_not_found', `ledger ${ledgerId} was never opened`)
      } else if (ledger.seal !== null && entryId > ledger.seal.lastEntryId) {
        throw failure('conflict', `entry ${entryId} lies above the seal`)
      }
      ledger.entries.set(entryId, Buffer.from(entry.bytes))
      this.#raiseLac(ledger, readEntryHeader(entry.bytes).lac)
    })
  }

  readEntry(
    ledgerId: bigint,
    entryId: bigint,
    options?: { readonly fence?: boolean; readonly signal?: AbortSignal },
  ): Promise<EntryAnswer> {
    return this.#call('readEntry', ledgerId, entryId, () => {
      options?.signal?.throwIfAborted()
      if (options?.fence) this.replica.ledger(ledgerId).fenced = true
      return this.#answer(ledgerId, entryId)
    })
  }

  readEntries(
    ledgerId: bigint,
    first: bigint,
    last: bigint,
    bytesMax: number,
    signal?: AbortSignal,
  ): Promise<Uint8Array[]> {
    return this.#call('readEntries', ledgerId, first, () => {
      signal?.throwIfAborted()
      const found: Uint8Array[] = []
      let size = 0
      for (let id = first; id <= last && (found.length === 0 || size < bytesMax); id += 1n) {
        const answer = this.#answer(ledgerId, id)
        if (answer.kind !== 'entry') break
        size += answer.bytes.byteLength
        found.push(answer.bytes)
      }
      return found
    })
  }

  fence(ledgerId: bigint): Promise<LastEntryAnswer> {
    return this.#call('fence', ledgerId, null, () => {
      this.replica.ledger(ledgerId).fenced = true
      return this.#last(ledgerId)
    })
  }

  readLac(ledgerId: bigint): Promise<LastEntryAnswer> {
    return this.#call('readLac', ledgerId, null, () => this.#last(ledgerId))
  }

  writeLac(ledgerId: bigint, lac: bigint): Promise<void> {
    return this.#call('writeLac', ledgerId, null, () => {
      const ledger = this.replica.ledger(ledgerId)
      if (lac > ledger.explicitLac) ledger.explicitLac = lac
      this.#raiseLac(ledger, lac)
    })
  }

  waitForLac(ledgerId: bigint, above: bigint, timeoutMs: number, signal?: AbortSignal): Promise<bigint> {
    return this.#call('waitForLac', ledgerId, null, () => this.#wait(ledgerId, above, timeoutMs, signal))
  }

  sealLedger(ledgerId: bigint, seal: LedgerSeal): Promise<void> {
    return this.#call('sealLedger', ledgerId, null, () => {
      const ledger = this.replica.ledger(ledgerId)
      if (ledger.deleted) throw failure('ledger_not_found', `ledger ${ledgerId} was deleted`)
      const { seal: before } = ledger
      if (before !== null) {
        const same = before.lastEntryId === seal.lastEntryId && before.lengthBytes === seal.lengthBytes
        if (!same) throw failure('conflict', `ledger ${ledgerId} is sealed at ${before.lastEntryId}`)
        return
      }
      ledger.seal = { ...seal }
      for (const id of [...ledger.entries.keys()]) if (id > seal.lastEntryId) ledger.entries.delete(id)
      for (const wake of [...ledger.waiters]) wake()
    })
  }

  deleteLedger(ledgerId: bigint): Promise<void> {
    return this.#call('deleteLedger', ledgerId, null, () => {
      const ledger = this.replica.ledgers.get(ledgerId)
      if (ledger === undefined) return
      ledger.deleted = true
      ledger.entries.clear()
      for (const wake of [...ledger.waiters]) wake()
    })
  }

  async listLedgers(after: bigint, limit: number): Promise<LedgerSummary[]> {
    this.#checkOpen()
    const found = [...this.replica.ledgers].filter(([id, ledger]) => id > after && !ledger.deleted)
    found.sort(([a], [b]) => (a < b ? -1 : 1))
    return found.slice(0, limit).map(([ledgerId, ledger]) => ({
      ledgerId,
      header: ledger.header,
      seal: ledger.seal,
      fenced: ledger.fenced,
      entries: ledger.entries.size,
      lastEntryId: lastOf(ledger),
      sizeBytes: [...ledger.entries.values()].reduce((sum, bytes) => sum + bytes.length, 0),
    }))
  }

  async putControl(frame: ControlFrame): Promise<void> {
    this.#checkOpen()
    if (!this.replica.controls.has(frame.id)) this.replica.controls.set(frame.id, { ...frame })
  }

  async listControls(): Promise<ControlFrame[]> {
    this.#checkOpen()
    return [...this.replica.controls.values()]
  }

  async status(): Promise<StoreStatus> {
    return {
      id: this.id,
      location: `memory:${this.id}`,
      state: this.state,
      reason: this.state === 'writable' ? null : `the test made it ${this.state}`,
      usedBytes: 0,
      freeBytes: 1,
      totalBytes: 1,
      device: this.id,
      pendingBytes: 0,
      corruptBytes: 0,
    }
  }

  async close(): Promise<void> {
    this.state = 'closed'
    for (const fail of [...this.#failWaiters]) fail(failure('closed', `store ${this.id} is closed`))
    await Promise.allSettled([...this.#pending])
  }

  /** What it says of one entry, without faults. */
  #answer(ledgerId: bigint, entryId: bigint): EntryAnswer {
    const ledger = this.replica.ledgers.get(ledgerId)
    const bytes = ledger?.entries.get(entryId)
    if (bytes !== undefined) return { kind: 'entry', bytes: Buffer.from(bytes) }
    const from = ledger?.suspectFrom ?? null
    return from !== null && entryId >= from ? { kind: 'suspect' } : { kind: 'missing' }
  }

  #last(ledgerId: bigint): LastEntryAnswer {
    const ledger = this.replica.ledgers.get(ledgerId)
    if (ledger === undefined) return { last: { kind: 'missing' }, explicitLac: -1n }
    return { last: this.#answer(ledgerId, lastOf(ledger)), explicitLac: ledger.explicitLac }
  }

  #raiseLac(ledger: MemoryLedger, lac: bigint): void {
    if (lac <= ledger.lac) return
    ledger.lac = lac
    for (const wake of [...ledger.waiters]) wake()
  }

  #wait(
    ledgerId: bigint,
    above: bigint,
    timeoutMs: number,
    signal: AbortSignal | undefined,
  ): Promise<bigint> {
    return new Promise((resolve, reject) => {
      const ledger = this.replica.ledger(ledgerId)
      const over = new AbortController()
      const end = (settle: () => void) => {
        over.abort()
        ledger.waiters.delete(wake)
        this.#failWaiters.delete(fail)
        signal?.removeEventListener('abort', aborted)
        settle()
      }
      const wake = () => {
        if (ledger.lac > above || ledger.seal !== null || ledger.deleted) end(() => resolve(ledger.lac))
      }
      const fail = (error: Error) => end(() => reject(error))
      const aborted = () => end(() => reject(signal?.reason))
      this.#clock.sleep(timeoutMs, over.signal).then(
        () => end(() => resolve(ledger.lac)),
        () => undefined,
      )
      ledger.waiters.add(wake)
      this.#failWaiters.add(fail)
      signal?.addEventListener('abort', aborted, { once: true })
      if (signal?.aborted) aborted()
      else wake()
    })
  }

  /** What every call goes through: the replica changes in the turn of the call unless a fault comes before. */
  #call<T>(
    call: StoreCall,
    ledgerId: bigint,
    entryId: bigint | null,
    work: () => T | Promise<T>,
  ): Promise<T> {
    this.calls.set(call, (this.calls.get(call) ?? 0) + 1)
    const { before, after } = this.fault
    const run = async () => {
      this.#checkOpen()
      if (this.state === 'unreachable') throw failure('store_unavailable', `store ${this.id} is cut off`)
      const first = before?.(call, ledgerId, entryId)
      if (first instanceof Promise) await first
      const result = await work()
      await after?.(call, ledgerId, entryId)
      return result
    }
    const running = run()
    const tracked: Promise<unknown> = running.then(
      () => this.#pending.delete(tracked),
      () => this.#pending.delete(tracked),
    )
    this.#pending.add(tracked)
    return running
  }

  #checkOpen(): void {
    if (this.state === 'closed') throw failure('closed', `store ${this.id} is closed`)
  }
}

/** An error as stores throw it. */
export function failure(code: ErrorCode, message: string): StratalogError {
  return new StratalogError(code, message, {
    retryable: code === 'store_unavailable' || code === 'io_failed',
  })
}

/** A fault that holds calls until `open` is called; `held` counts those that wait. */
export class Gate {
  #open: (() => void)[] = []
  #passing = false

  get held(): number {
    return this.#open.length
  }

  wait(): Promise<void> | undefined {
    if (this.#passing) return undefined
    return new Promise((resolve) => this.#open.push(resolve))
  }

  /** Lets the n-th waiting call go. */
  release(at = 0): void {
    this.#open.splice(at, 1)[0]?.()
  }

  /** Lets all go, also later ones. */
  open(): void {
    this.#passing = true
    for (const resolve of this.#open.splice(0)) resolve()
  }
}

function lastOf(ledger: MemoryLedger): bigint {
  let last = -1n
  for (const id of ledger.entries.keys()) if (id > last) last = id
  return last
}

function identity(header: LedgerHeader): string {
  return JSON.stringify(header, (_, value: unknown) => (typeof value === 'bigint' ? `${value}n` : value))
}
