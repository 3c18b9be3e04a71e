import { corrupt } from '../src/format/bytes.js'
import { openEnvelope } from '../src/format/entry.js'
import { decodeRecords } from '../src/format/record.js'
import type { BlockRow } from '../src/format/segment-block.js'
import type { SegmentObjectMeta } from '../src/format/segment-object-meta.js'

/** The columns of an index row that come from records. */
export type RecordColumns = Pick<BlockRow, 'firstSequenceId' | 'firstTxid' | 'lastTxid'>

interface OpenColumns {
  firstSequenceId: bigint | null
  firstTxid: bigint | null
  lastTxid: bigint
}

/**
 * Counts the records of a segment's entries as they go by, block by block, and checks in the end that they
 * are the segment that the metadata describe (FORMATS.md §6.3). The planner and the verifier use the same
 * one, so an index that was written is the index that is found again.
 */
export class SegmentTally {
  readonly #meta: SegmentObjectMeta
  readonly #where: string
  readonly #blocks: OpenColumns[] = []
  #block: OpenColumns | null = null
  #records = 0n
  #lengthBytes = 0
  #entries = 0
  #maxTxid: bigint | null = null
  #lastUser: { entryId: bigint; slot: number } | null = null
  /** Whether a record of the log itself stands at the segment's last position. */
  #ownRecordAtEnd = false

  constructor(meta: SegmentObjectMeta, where: string) {
    this.#meta = meta
    this.#where = where
  }

  get entryCount(): number {
    return this.#entries
  }

  get lengthBytes(): number {
    return this.#lengthBytes
  }

  /** Counts one entry. Throws `corrupt` when it does not follow the one before or does not decode. */
  add(entryId: bigint, payload: Uint8Array): void {
    if (entryId !== BigInt(this.#entries)) {
      throw this.#wrong('entries are not consecutive from 0', this.#entries, entryId)
    }
    this.#entries += 1
    this.#lengthBytes += payload.length
    this.#block ??= {
      firstSequenceId: null,
      firstTxid: null,
      lastTxid: this.#maxTxid ?? this.#meta.firstTxid,
    }
    const block = this.#block
    for (const record of decodeRecords(openEnvelope(payload))) {
      if (record.control || record.endOfStream) {
        const atEnd = entryId === this.#meta.lastEntryId && BigInt(record.slot) === this.#meta.lastSlot
        this.#ownRecordAtEnd ||= atEnd
        continue
      }
      this.#records += 1n
      this.#lastUser = { entryId, slot: record.slot }
      block.firstSequenceId ??= this.#meta.startSequenceId + BigInt(record.position) - 1n
      block.firstTxid ??= record.txid
      if (this.#maxTxid === null || record.txid > this.#maxTxid) this.#maxTxid = record.txid
      block.lastTxid = this.#maxTxid
    }
  }

  /** Ends the current block. */
  cut(): void {
    if (this.#block !== null) this.#blocks.push(this.#block)
    this.#block = null
  }

  /** The columns of every block. Throws `corrupt` when what was counted is not what the metadata say. */
  finish(): RecordColumns[] {
    this.cut()
    this.#check()
    // A block without user records takes the values of the next one that has some: searches then go by one
    // rule.
    let firstSequenceId = this.#meta.startSequenceId + this.#records
    let firstTxid = this.#maxTxid ?? this.#meta.lastTxid
    const columns: RecordColumns[] = []
    for (const block of [...this.#blocks].reverse()) {
      firstSequenceId = block.firstSequenceId ?? firstSequenceId
      firstTxid = block.firstTxid ?? firstTxid
      columns.push({ firstSequenceId, firstTxid, lastTxid: block.lastTxid })
    }
    return columns.reverse()
  }

  #check(): void {
    const meta = this.#meta
    if (this.#entries === 0) throw this.#wrong('there is no entry', 'entries', 0)
    if (this.#records !== meta.recordCount) {
      throw this.#wrong('the number of records differs', meta.recordCount, this.#records)
    }
    if (this.#lengthBytes !== meta.lengthBytes) {
      throw this.#wrong('the sum of payload bytes differs', meta.lengthBytes, this.#lengthBytes)
    }
    if (this.#lastUser !== null && !this.#endsAsStated(this.#lastUser)) {
      const found = `${this.#lastUser.entryId}:${this.#lastUser.slot}`
      throw this.#wrong('the last record stands elsewhere', `${meta.lastEntryId}:${meta.lastSlot}`, found)
    }
    // Searches over segments trust the txid range: a record outside it would never be found by its txid.
    if (this.#maxTxid !== null && this.#maxTxid > meta.lastTxid) {
      throw this.#wrong('a record has a txid above the segment', meta.lastTxid, this.#maxTxid)
    }
  }

  /**
   * After a recovery by Java the last position may be that of a record of the log itself; no user record is
   * later.
   */
  #endsAsStated(last: { entryId: bigint; slot: number }): boolean {
    const { lastEntryId, lastSlot } = this.#meta
    if (last.entryId === lastEntryId && BigInt(last.slot) === lastSlot) return true
    const before =
      last.entryId < lastEntryId || (last.entryId === lastEntryId && BigInt(last.slot) < lastSlot)
    return before && this.#ownRecordAtEnd
  }

  #wrong(what: string, expected: unknown, found: unknown): Error {
    return corrupt(
      `${this.#where}: ${what} (expected ${expected}, found ${found}): repair it from another copy`,
      {
        expected,
        found,
      },
    )
  }
}
