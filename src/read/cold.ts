import type { BlockCache } from '../../archive/block-cache.js'
import type { ColdOpenOptions, ColdReads } from '../../archive/cold-reads.js'
import { openSegmentObject, type SegmentObjectReader } from '../../archive/segment-reader.js'
import { present } from '../model/assert.js'
import type { SegmentRow } from '../model/segment.js'
import type { ArchiveStore } from '../ports/archive-store.js'
import type { SegmentSource, SourceEntry } from './source.js'

/** Hears of an error of a read, and says which error the reader is to get. */
type ColdFailure = (error: unknown) => Promise<unknown>

/** The copy of a segment in the archive. */
export class ColdSource implements SegmentSource {
  readonly tier = 'cold'
  readonly #object: SegmentObjectReader
  readonly #row: SegmentRow
  readonly #failed: ColdFailure | undefined

  private constructor(object: SegmentObjectReader, row: SegmentRow, failed?: ColdFailure) {
    this.#object = object
    this.#row = row
    this.#failed = failed
  }

  static async open(archive: ArchiveStore, row: SegmentRow, cache: BlockCache): Promise<ColdSource> {
    return new ColdSource(
      await openSegmentObject(archive, present(row.object, 'object of a cold segment'), cache),
      row,
    )
  }

  /** The same with what all readers of a log share; `failed` hears of each error that a read meets, and says how to tell it. */
  static async shared(
    reads: ColdReads,
    archive: ArchiveStore,
    row: SegmentRow,
    options: ColdOpenOptions = {},
    failed?: ColdFailure,
  ): Promise<ColdSource> {
    return new ColdSource(
      await reads.open(archive, present(row.object, 'object of a cold segment'), options),
      row,
      failed,
    )
  }

  /** The object itself, for those who explain what a read takes. */
  get object(): SegmentObjectReader {
    return this.#object
  }

  lastEntry(): Promise<bigint> {
    return Promise.resolve(this.#row.lastEntryId)
  }

  async readEntries(
    first: bigint,
    last: bigint,
    bytesMax: number,
    signal?: AbortSignal,
  ): Promise<readonly SourceEntry[]> {
    const entries = await this.#told(this.#object.readEntries(first, bytesMax, signal, last))
    return entries.at(-1)?.entryId !== undefined && present(entries.at(-1), 'entry').entryId > last
      ? entries.filter((entry) => entry.entryId <= last)
      : entries
  }

  entryForTxid(txid: bigint, signal?: AbortSignal): Promise<bigint | null> {
    return this.#told(this.#object.entryForTxid(txid, signal))
  }

  entryForPosition(position: bigint, signal?: AbortSignal): Promise<bigint | null> {
    return this.#told(this.#object.entryForSequenceId(this.#row.startSequenceId + position - 1n, signal))
  }

  /** An archived segment grows no more. */
  waitAbove(): Promise<void> {
    return Promise.resolve()
  }

  async #told<T>(read: Promise<T>): Promise<T> {
    try {
      return await read
    } catch (error) {
      throw this.#failed === undefined ? error : await this.#failed(error)
    }
  }

  roomBeyond(entryId: bigint): number {
    return this.#object.roomBeyond(entryId)
  }

  readAhead(sizeBytes: number): void {
    this.#object.readAheadFrom(0n, sizeBytes)
  }

  close(): void {
    this.#object.close()
  }
}
