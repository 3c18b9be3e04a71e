import { openEnvelope } from '../format/entry.js'
import { type DecodedRecord, decodeRecords } from '../format/record.js'
import type { LedgerContext } from '../ledger/context.js'
import { LedgerReader } from '../ledger/reader.js'
import { present } from '../model/assert.js'

/** An entry of a segment, whichever tier it came from. */
export interface SourceEntry {
  readonly entryId: bigint
  readonly payload: Uint8Array
}

/** One tier's copy of a segment, open for reading. */
export interface SegmentSource {
  readonly tier: 'hot' | 'cold'
  /** Last entry a reader may see now; grows while the segment is open. */
  lastEntry(): Promise<bigint>
  /** Entries from `first`, in order, at least one if `first` ≤ lastEntry; about `bytesMax` bytes. */
  readEntries(
    first: bigint,
    last: bigint,
    bytesMax: number,
    signal?: AbortSignal,
  ): Promise<readonly SourceEntry[]>
  /** The first entry that holds a user record with txid ≥ `txid`; null: none does so far. */
  entryForTxid(txid: bigint, signal?: AbortSignal): Promise<bigint | null>
  /** The entry that holds the record with that position in the segment (from 1); null: none does so far. */
  entryForPosition(position: bigint, signal?: AbortSignal): Promise<bigint | null>
  /** Waits until there may be more than `above`. Only for open segments. */
  waitAbove(above: bigint, signal?: AbortSignal): Promise<void>
  /** Bytes that may be fetched of the segments after this one by a reader at that entry; 0: all are needed here. */
  roomBeyond?(entryId: bigint): number
  /** Begins to fetch its first bytes, at most so many, for a reader still to come. */
  readAhead?(sizeBytes: number): void
  /** Ends what it fetches ahead. */
  close?(): void
}

/** Made once: a `DOMException` with its stack for each segment would cost more than opening it. */
const CLOSED = new Error('nobody reads on in this segment')
/** Fetched of the next segment while the last of this one is read. */
const HOT_AHEAD_BYTES = 2 ** 20

/** The hot copy: the segment's ledger. */
export class HotSource implements SegmentSource {
  readonly tier = 'hot'
  readonly #reader: LedgerReader
  /** The first entries, where somebody asked for them ahead. */
  #begun: Promise<readonly SourceEntry[]> | null = null
  #stop: AbortController | null = null

  private constructor(reader: LedgerReader) {
    this.#reader = reader
  }

  static async open(context: LedgerContext, ledgerId: bigint): Promise<HotSource> {
    return new HotSource(await LedgerReader.open(context, ledgerId))
  }

  lastEntry(): Promise<bigint> {
    return this.#reader.lastConfirmed()
  }

  readEntries(
    first: bigint,
    last: bigint,
    bytesMax: number,
    signal?: AbortSignal,
  ): Promise<readonly SourceEntry[]> {
    const begun = this.#begun
    this.#begun = null
    if (begun === null || first !== 0n) return this.#reader.readEntries(first, last, bytesMax, signal)
    const relay = () => this.#stop?.abort(signal?.reason)
    signal?.addEventListener('abort', relay, { once: true })
    const settled = () => signal?.removeEventListener('abort', relay)
    return begun.then((entries) => entries.filter(({ entryId }) => entryId <= last)).finally(settled)
  }

  /** Of a closed ledger; the end of an open one is only known to who reads there. */
  readAhead(sizeBytes: number): void {
    const { state, lastEntryId } = this.#reader.metadata
    if (this.#begun !== null || state !== 'CLOSED' || lastEntryId < 0n) return
    this.#stop = new AbortController()
    this.#begun = this.#reader.readEntries(0n, lastEntryId, sizeBytes, this.#stop.signal)
    // Whoever comes to read hears of it.
    this.#begun.catch(() => undefined)
  }

  /** The last entries were asked for: what comes next may be fetched. */
  roomBeyond(entryId: bigint): number {
    const { state, lastEntryId } = this.#reader.metadata
    return state === 'CLOSED' && entryId > lastEntryId ? HOT_AHEAD_BYTES : 0
  }

  close(): void {
    this.#stop?.abort(CLOSED)
  }

  entryForTxid(txid: bigint, signal?: AbortSignal): Promise<bigint | null> {
    return this.#search((last) => last.txid >= txid, signal)
  }

  entryForPosition(position: bigint, signal?: AbortSignal): Promise<bigint | null> {
    return this.#search((last) => BigInt(last.position) >= position, signal)
  }

  waitAbove(above: bigint, signal?: AbortSignal): Promise<void> {
    return this.#reader.waitAbove(above, signal)
  }

  /** Binary search for the first entry whose last user record is at or beyond what is wanted: both only grow. */
  async #search(reached: (last: DecodedRecord) => boolean, signal?: AbortSignal): Promise<bigint | null> {
    let low = 0n
    let high = await this.lastEntry()
    let found: bigint | null = null
    while (low <= high) {
      const middle = (low + high) / 2n
      const [entry] = await this.#reader.readEntries(middle, middle, 1, signal)
      const records = decodeRecords(openEnvelope(present(entry, 'an entry').payload))
      // A control record carries the txid and position of the last user record before it (FORMATS.md §5.13).
      const last = records.findLast((record) => !record.endOfStream)
      if (last !== undefined && reached(last)) {
        found = middle
        high = middle - 1n
      } else {
        low = middle + 1n
      }
    }
    return found
  }
}

/** The records of an entry that readers see: neither control records nor the end of the stream. */
export function userRecords(payload: Uint8Array): DecodedRecord[] {
  const records = decodeRecords(openEnvelope(payload))
  return records.some((record) => record.control || record.endOfStream)
    ? records.filter((record) => !record.control && !record.endOfStream)
    : records
}
