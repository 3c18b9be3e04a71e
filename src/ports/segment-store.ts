import type { PackagedEntry } from '../format/packaged-entry.js'
import type { StratalogError } from '../model/errors.js'
import type { DigestType } from '../model/ledger.js'
import type { Incarnation } from '../model/segment.js'

/**
 * What a store is told when a ledger begins on it, and keeps with the ledger, so that the index can be rebuilt from
 * stores alone. On bookies this is custom metadata of the ledger.
 */
export interface LedgerHeader {
  readonly ledgerId: bigint
  readonly digestType: DigestType
  readonly ensembleSize: number
  readonly writeQuorum: number
  readonly ackQuorum: number
  /** The ensemble this store is a member of, and where it begins. */
  readonly members: readonly string[]
  readonly firstEntryId: bigint
  /** The segment the ledger stores; null for a ledger that is no segment. */
  readonly segment: {
    readonly incarnation: Incarnation
    readonly stream: string
    readonly segment: bigint
    readonly epoch: bigint
    readonly openedMs: number
    readonly firstTxid: bigint
    readonly startSequenceId: bigint
  } | null
  /** Seal of the segment before it in the stream, if it has one. */
  readonly preceding: (LedgerSeal & { readonly ledgerId: bigint }) | null
}

/** A ledger's end: −1n and 0 for an empty one. Outranks entries above it. */
export interface LedgerSeal {
  readonly lastEntryId: bigint
  readonly lengthBytes: number
}

/**
 * What a store knows of an entry.
 * - `entry`: the packaged bytes as stored, digest not yet checked; owned by the caller.
 * - `missing`: this store never acknowledged that entry. Decides data loss in recovery: never a guess.
 * - `suspect`: not here, but this store was cut off without a clean end, so it may have held an entry it had not
 *   made durable. Says nothing against other stores' entries; never the end of an answer of *missing*.
 * Every other failure (I/O, timeout, corruption, poisoned, unreachable) is thrown and means *unknown*.
 */
export type EntryAnswer =
  | { readonly kind: 'entry'; readonly bytes: Uint8Array }
  | { readonly kind: 'missing' }
  | { readonly kind: 'suspect' }

/** The last entry a store holds of a ledger (fence, readLac), and its explicit LAC (−1n: none). */
export interface LastEntryAnswer {
  readonly last: EntryAnswer
  readonly explicitLac: bigint
}

/** An operator's decision that no entry states (stream created, trimmed, held …), kept beside the ledgers. */
export interface ControlFrame {
  /** Unique in the log; a frame with an id that is there already is not stored again. */
  readonly id: string
  readonly kind: string
  /** JSON text. */
  readonly body: string
}

/** How a store is. */
export interface StoreStatus {
  readonly id: string
  /** Where it is, for people: a path or an address. */
  readonly location: string
  readonly state: 'writable' | 'full' | 'poisoned' | 'unreachable' | 'closed'
  /** Why it is not writable. */
  readonly reason: string | null
  readonly usedBytes: number
  readonly freeBytes: number
  readonly totalBytes: number
  /** Tells devices apart; two stores with one value share the fate of one disk. */
  readonly device: string
  /** Entries and bytes accepted and not yet durable. */
  readonly pendingBytes: number
  /** Damage found: bytes that were durable and no longer parse. */
  readonly corruptBytes: number
}

/**
 * One replica node: a local directory, a remote bookie, or the simulator's. The ledger protocol (src/ledger) sees
 * only this. All methods reject with `StratalogError`; `signal` aborts waiting, never what was begun.
 *
 * Order: adds of one ledger may be called without awaiting; they become durable in any order, each promise settles
 * when its own entry is durable (bookies: journalled). Nothing is acknowledged from memory.
 */
export interface SegmentStore {
  /** Stable name: what ensembles in ledger metadata list. */
  readonly id: string

  /**
   * Makes the ledger known with its header, durable before any entry of it is acknowledged; need not be awaited
   * before the first add. Idempotent for an equal header. Bookies: no-op.
   */
  openLedger(header: LedgerHeader): Promise<void>

  /**
   * Stores a packaged entry; resolves when it is durable. The same (ledger, entry) again is accepted (idempotent).
   * The buffer must not change until the promise settles. Fails with `fenced` on a fenced ledger unless `recovery`,
   * `store_full`, `store_poisoned`, `ledger_not_found` for a ledger that was deleted or never opened.
   */
  addEntry(
    ledgerId: bigint,
    entryId: bigint,
    entry: PackagedEntry,
    options?: { readonly recovery?: boolean },
  ): Promise<void>

  /** One entry. `fence` fences the ledger durably first (recovery reads). */
  readEntry(
    ledgerId: bigint,
    entryId: bigint,
    options?: { readonly fence?: boolean; readonly signal?: AbortSignal },
  ): Promise<EntryAnswer>

  /**
   * Consecutive entries from `first` to at most `last` that this store holds, packaged bytes in order, ending before
   * the first one it does not hold, or once `bytesMax` is reached; at least one if it holds `first`, else empty:
   * ask `readEntry` why. Owned by the caller.
   */
  readEntries(
    ledgerId: bigint,
    first: bigint,
    last: bigint,
    bytesMax: number,
    signal?: AbortSignal,
  ): Promise<Uint8Array[]>

  /** Fences durably: no later add without `recovery` succeeds, ever. Creates the fence also for an unknown ledger. */
  fence(ledgerId: bigint): Promise<LastEntryAnswer>

  /** Without fencing. */
  readLac(ledgerId: bigint): Promise<LastEntryAnswer>

  /** Publishes a LAC that no entry carried yet. Not durable, never goes back. */
  writeLac(ledgerId: bigint, lac: bigint): Promise<void>

  /**
   * Resolves with the store's known LAC of the ledger (from entries and writeLac) as soon as it is above `above`,
   * or the ledger is sealed here or deleted (then its last known LAC), or after `timeoutMs` with what is known.
   */
  waitForLac(ledgerId: bigint, above: bigint, timeoutMs: number, signal?: AbortSignal): Promise<bigint>

  /** Records the ledger's end durably. Idempotent; a different seal is `conflict`. Bookies: no-op (metadata says it). */
  sealLedger(ledgerId: bigint, seal: LedgerSeal): Promise<void>

  /** Forgets the ledger durably; its space comes back. Idempotent; unknown ledgers are fine. Bookies: no-op. */
  deleteLedger(ledgerId: bigint): Promise<void>

  /** What is here, above `after`, ascending, at most `limit`. */
  listLedgers(after: bigint, limit: number): Promise<LedgerSummary[]>

  /** Stores a decision durably. Idempotent by id. */
  putControl(frame: ControlFrame): Promise<void>
  /** Every decision ever stored, in no order. */
  listControls(): Promise<ControlFrame[]>

  status(): Promise<StoreStatus>
  /**
   * Ends cleanly: what was accepted is durable, and a later start knows that nothing is suspect. What is asked
   * afterwards fails with `reason`, where the store takes one; else with `closed`.
   */
  close(reason?: StratalogError): Promise<void>
}

export interface LedgerSummary {
  readonly ledgerId: bigint
  readonly header: LedgerHeader | null
  readonly seal: LedgerSeal | null
  readonly fenced: boolean
  readonly entries: number
  readonly lastEntryId: bigint
  readonly sizeBytes: number
}
