import { BlockCache } from '../archive/block-cache.js'
import { openSegmentObject, type SegmentObjectReader } from '../archive/segment-reader.js'
import { corrupt } from '../src/format/bytes.js'
import { packageEntry } from '../src/format/ledger-digest.js'
import type { ColdCopies } from '../src/ledger/share-filler.js'
import type { LedgerMetadata } from '../src/model/ledger.js'
import type { Incarnation, SegmentRow } from '../src/model/segment.js'
import type { ArchiveStore } from '../src/ports/archive-store.js'
import type { Clock } from '../src/ports/clock.js'
import type { SegmentIndex } from '../src/ports/segment-index.js'
import type { LedgerHeader } from '../src/ports/segment-store.js'

/** Rows of segments in both tiers that are looked through for a ledger, and how often at most. */
const ROWS_MAX = 100_000
const LOOK_MS = 60_000
/** Objects being read: each remembers how far it is. */
const CURSORS_MAX = 8
const CACHE_BYTES = 32 * 2 ** 20

/** How far an object was read, and the payload bytes up to there: an entry states the ledger's length with it. */
interface Cursor {
  readonly reader: SegmentObjectReader
  next: bigint
  lengthBytes: bigint
}

/**
 * The archive as a source for repair: what is in both tiers can be had from either. Payloads are packaged anew, as
 * recovery does: digests and LACs of copies may differ, payloads can't.
 */
export class ArchiveCopies implements ColdCopies {
  readonly #index: SegmentIndex
  readonly #archive: (incarnation: Incarnation) => Promise<ArchiveStore>
  readonly #clock: Clock
  readonly #cache = new BlockCache(CACHE_BYTES)
  readonly #cursors = new Map<bigint, Cursor>()
  #places = new Map<bigint, Pick<SegmentRow, 'incarnation' | 'segment'>>()
  #lookedMs = Number.NEGATIVE_INFINITY

  constructor(
    index: SegmentIndex,
    archive: (incarnation: Incarnation) => Promise<ArchiveStore>,
    clock: Clock,
  ) {
    this.#index = index
    this.#archive = archive
    this.#clock = clock
  }

  async entries(
    ledgerId: bigint,
    metadata: LedgerMetadata,
    range: { readonly first: bigint; readonly last: bigint; readonly bytesMax: number },
    signal?: AbortSignal,
  ): Promise<Uint8Array[]> {
    const cursor = await this.#cursor(ledgerId, metadata, range.first, signal)
    if (cursor === null) return []
    const given: Uint8Array[] = []
    let bytes = 0
    while (cursor.next <= range.last && bytes < range.bytesMax) {
      const found = await cursor.reader.readEntries(cursor.next, range.bytesMax, signal)
      if (found.length === 0) break
      for (const { entryId, payload } of found) {
        if (entryId > range.last || bytes >= range.bytesMax) break
        cursor.next = entryId + 1n
        cursor.lengthBytes += BigInt(payload.byteLength)
        bytes += payload.byteLength
        if (entryId < range.first) bytes = 0
        else
          given.push(
            packageEntry(payload, metadata.digestType, ledgerId, entryId, entryId - 1n, cursor.lengthBytes),
          )
      }
    }
    return given
  }

  async segment(ledgerId: bigint): Promise<LedgerHeader['segment']> {
    const row = await this.#row(ledgerId)
    if (row === null) return null
    const { incarnation, segment, epoch, openedMs, firstTxid, startSequenceId } = row
    const stream = (await this.#index.stream(incarnation))?.name ?? ''
    return { incarnation, stream, segment, epoch, openedMs, firstTxid, startSequenceId }
  }

  /** Null: the archive has no object of that ledger. */
  async #cursor(
    ledgerId: bigint,
    metadata: LedgerMetadata,
    first: bigint,
    signal?: AbortSignal,
  ): Promise<Cursor | null> {
    const known = this.#cursors.get(ledgerId)
    if (known !== undefined && known.next <= first) return known
    const row = await this.#row(ledgerId)
    if (row === null || row.object === null) return null
    const options = signal === undefined ? {} : { signal }
    const reader = await openSegmentObject(
      await this.#archive(row.incarnation),
      row.object,
      this.#cache,
      options,
    )
    const lengthBytes = BigInt(reader.footer.lengthBytes)
    if (reader.lastEntryId !== metadata.lastEntryId || lengthBytes !== metadata.lengthBytes) {
      throw corrupt(
        `${row.object.key} ends at entry ${reader.lastEntryId} with ${lengthBytes} bytes, ledger ${ledgerId} at ${metadata.lastEntryId} with ${metadata.lengthBytes}: one of them is not the segment`,
      )
    }
    const cursor = { reader, next: 0n, lengthBytes: 0n }
    this.#cursors.delete(ledgerId)
    for (const oldest of this.#cursors.keys()) {
      if (this.#cursors.size < CURSORS_MAX) break
      this.#cursors.delete(oldest)
    }
    this.#cursors.set(ledgerId, cursor)
    return cursor
  }

  /** The row of the segment a ledger stores, if it is in both tiers. */
  async #row(ledgerId: bigint): Promise<SegmentRow | null> {
    if (!this.#places.has(ledgerId) && this.#clock.monotonicMs() - this.#lookedMs >= LOOK_MS) {
      const rows = await this.#index.segmentsInState(['archived'], ROWS_MAX)
      this.#places = new Map(
        rows.flatMap(({ ledgerId, incarnation, segment }) =>
          ledgerId === null ? [] : [[ledgerId, { incarnation, segment }] as const],
        ),
      )
      this.#lookedMs = this.#clock.monotonicMs()
    }
    const place = this.#places.get(ledgerId)
    if (place === undefined) return null
    const row = await this.#index.segment(place.incarnation, place.segment)
    return row !== null && row.ledgerId === ledgerId && row.state === 'archived' ? row : null
  }
}
