import { openEnvelope } from '../src/format/entry.js'
import { type DecodedRecord, decodeRecords } from '../src/format/record.js'
import {
  type BlockRow,
  blockPayloadOffsets,
  decodeBlock,
  decodeObjectHeader,
  ENTRY_HEADER_BYTES,
  type ObjectAccess,
  type SegmentObjectFooter,
} from '../src/format/segment-object.js'
import type { SegmentObjectMeta } from '../src/format/segment-object-meta.js'
import { present } from '../src/model/assert.js'
import type { ArchivedObject } from '../src/model/segment.js'
import type { ArchiveStore } from '../src/ports/archive-store.js'
import { BlockCache, type DecodedBlock } from './block-cache.js'
import { readObjectIndex } from './object-index.js'
import type { ArchivedEntry } from './segment-writer.js'

/** Most stored bytes of neighbouring blocks that one ranged request asks for. */
const REQUEST_BYTES_MAX = 4 * 2 ** 20
/** Read-ahead requests under way of one reader. */
const REQUESTS_MAX = 4

export interface SegmentReaderOptions {
  /** Decompressed bytes read ahead of a sequential reader. @default 8 MiB, at most half the cache */
  readonly readAheadBytes?: number
  readonly signal?: AbortSignal
}

/** Opens an archived segment with one request, for its index and footer. */
export async function openSegmentObject(
  store: ArchiveStore,
  object: ArchivedObject,
  cache: BlockCache = new BlockCache(),
  options: SegmentReaderOptions = {},
): Promise<SegmentObjectReader> {
  const index = await readObjectIndex(store, object, { signal: options.signal })
  const readAheadBytes = Math.min(options.readAheadBytes ?? 8 * 2 ** 20, cache.bytesMax / 2)
  return new SegmentObjectReader({ store, object, cache, readAheadBytes, ...index })
}

interface Parts {
  readonly store: ArchiveStore
  readonly object: ArchivedObject
  readonly cache: BlockCache
  readonly readAheadBytes: number
  readonly rows: readonly BlockRow[]
  readonly footer: SegmentObjectFooter
  /** What it is decrypted with; null: it is not encrypted. */
  readonly access: ObjectAccess | null
}

/**
 * Reads entries of one archived segment. Every block is checked before anything of it is handed out
 * (invariant 9).
 */
export class SegmentObjectReader {
  readonly footer: SegmentObjectFooter
  /** Last entry the object holds; above the segment's last one where the ledger ends with control records. */
  readonly lastEntryId: bigint
  readonly #parts: Parts
  readonly #rows: readonly BlockRow[]
  #header: SegmentObjectMeta | null = null
  #requests = 0
  #lastBlock = -2

  constructor(parts: Parts) {
    this.#parts = parts
    this.#rows = parts.rows
    this.footer = parts.footer
    this.lastEntryId = this.#row(this.#rows.length - 1).lastEntryId
  }

  /** What the object says of its segment; one request, then remembered. */
  async header(signal?: AbortSignal): Promise<SegmentObjectMeta> {
    if (this.#header === null) {
      const { store, object } = this.#parts
      // The footer's size is checked against the index and lies below the object's size, so it bounds the
      // read.
      const bytes = await store.readRange(object.key, 0, this.footer.headerBytes, signal)
      this.#header = decodeObjectHeader(bytes, object.key, this.#parts.access)
    }
    return this.#header
  }

  /**
   * Entries from `firstEntryId` on, of one block, until their payloads reach `bytesMax`; at least one, none
   * only beyond the last. Payloads are views that stay valid. Calls that go forward make it read ahead.
   */
  async readEntries(firstEntryId: bigint, bytesMax: number, signal?: AbortSignal): Promise<ArchivedEntry[]> {
    signal?.throwIfAborted()
    if (firstEntryId > this.lastEntryId) return []
    const number = this.#blockOfEntry(firstEntryId)
    const loading = this.#block(number)
    if (number === this.#lastBlock || number === this.#lastBlock + 1) this.#readAhead(number)
    this.#lastBlock = number
    return entriesOf(await abortable(loading, signal), firstEntryId, bytesMax)
  }

  /** The entry of the first user record with txid ≥ `txid`; null if the segment has none. */
  async entryForTxid(txid: bigint, signal?: AbortSignal): Promise<bigint | null> {
    const number = firstWhere(this.#rows, (row) => row.lastTxid >= txid)
    return this.#findFrom(number, (record) => record.txid >= txid, signal)
  }

  /** The entry of the first user record with sequenceId ≥ `sequenceId`; null if the segment has none. */
  async entryForSequenceId(sequenceId: bigint, signal?: AbortSignal): Promise<bigint | null> {
    const { startSequenceId } = await this.header(signal)
    // The last block that begins at or below: the one before the first that begins above.
    const above = firstWhere(this.#rows, (row) => row.firstSequenceId > sequenceId)
    const wanted = (record: DecodedRecord): boolean =>
      startSequenceId + BigInt(record.position) - 1n >= sequenceId
    return this.#findFrom(Math.max(0, above - 1), wanted, signal)
  }

  /** Goes on to later blocks: the one that the index names may end with control records. */
  async #findFrom(
    first: number,
    wanted: (record: DecodedRecord) => boolean,
    signal?: AbortSignal,
  ): Promise<bigint | null> {
    for (let number = first; number < this.#rows.length; number++) {
      const block = await abortable(this.#block(number), signal)
      for (const { entryId, payload } of entriesOf(block, block.firstEntryId, Number.POSITIVE_INFINITY)) {
        const records = decodeRecords(openEnvelope(payload))
        if (records.some((record) => !record.control && !record.endOfStream && wanted(record))) return entryId
      }
    }
    return null
  }

  #row(number: number): BlockRow {
    return present(this.#rows[number], 'index row')
  }

  #id(number: number): string {
    return `${this.#parts.object.key}#${number}`
  }

  #blockOfEntry(entryId: bigint): number {
    return firstWhere(this.#rows, (row) => row.lastEntryId >= entryId)
  }

  #block(number: number): Promise<DecodedBlock> {
    const known = this.#parts.cache.get(this.#id(number))
    return known ?? present(this.#request(number, number)[0], 'requested block')
  }

  /** One ranged request for the blocks `first` to `last`, none of which the cache has. */
  #request(first: number, last: number): Promise<DecodedBlock>[] {
    const { store, object, cache, access } = this.#parts
    const start = this.#row(first).offset
    const end = this.#row(last).offset + this.#row(last).blockBytes
    // No caller's signal: others may come to wait for the same blocks. It ends by itself and is bounded.
    const bytes = store.readRange(object.key, start, end - start)
    return this.#rows.slice(first, last + 1).map((row, i) => {
      const block = bytes.then((range) => decode(range, row, start, object.key, access))
      cache.put(this.#id(first + i), block, row.rawBytes)
      return block
    })
  }

  /** Tops the read-ahead up once half of it is used, so that several blocks go into one request. */
  #readAhead(current: number): void {
    const { cache, readAheadBytes } = this.#parts
    let aheadBytes = 0
    let next = current + 1
    while (next < this.#rows.length && cache.has(this.#id(next))) aheadBytes += this.#row(next++).rawBytes
    if (aheadBytes > readAheadBytes / 2) return
    while (next < this.#rows.length && this.#requests < REQUESTS_MAX) {
      const run = this.#runFrom(next, readAheadBytes - aheadBytes)
      if (run === null) return
      aheadBytes += run.rawBytes
      this.#requests += 1
      const done = (): void => {
        this.#requests -= 1
      }
      const last = present(this.#request(next, run.last).at(-1), 'requested block')
      last.then(done, done)
      next = run.last + 1
    }
  }

  /**
   * The longest run of absent blocks from `first` on that fits one request and `rawBytesMax`; null for none.
   */
  #runFrom(first: number, rawBytesMax: number): { last: number; rawBytes: number } | null {
    let rawBytes = 0
    let storedBytes = 0
    let number = first
    for (; number < this.#rows.length && !this.#parts.cache.has(this.#id(number)); number++) {
      const row = this.#row(number)
      const full = storedBytes + row.blockBytes > REQUEST_BYTES_MAX && number > first
      if (full || rawBytes + row.rawBytes > rawBytesMax) break
      rawBytes += row.rawBytes
      storedBytes += row.blockBytes
    }
    return number === first ? null : { last: number - 1, rawBytes }
  }
}

function decode(
  range: Uint8Array,
  row: BlockRow,
  rangeStart: number,
  key: string,
  access: ObjectAccess | null,
): DecodedBlock {
  const from = row.offset - rangeStart
  const bytes = range.subarray(from, from + row.blockBytes)
  let raw = decodeBlock(bytes, row, key, access)
  // A view would keep the whole range of several blocks in memory for the sake of one.
  if (raw.buffer === range.buffer && range.length > row.blockBytes) raw = Buffer.from(raw)
  return { firstEntryId: row.firstEntryId, raw, offsets: blockPayloadOffsets(raw, row, key) }
}

function entriesOf(block: DecodedBlock, firstEntryId: bigint, bytesMax: number): ArchivedEntry[] {
  const entries: ArchivedEntry[] = []
  let bytes = 0
  const count = block.offsets.length - 1
  for (let i = Number(firstEntryId - block.firstEntryId); i < count; i++) {
    const end = present(block.offsets[i + 1], 'offset') - ENTRY_HEADER_BYTES
    const payload = block.raw.subarray(block.offsets[i], end)
    if (entries.length > 0 && bytes + payload.length > bytesMax) break
    entries.push({ entryId: block.firstEntryId + BigInt(i), payload })
    bytes += payload.length
  }
  return entries
}

/**
 * Number of the first row for which `holds` is true, given that it stays true; the number of rows if none.
 */
function firstWhere(rows: readonly BlockRow[], holds: (row: BlockRow) => boolean): number {
  let low = 0
  let high = rows.length
  while (low < high) {
    const middle = (low + high) >> 1
    if (holds(present(rows[middle], 'index row'))) high = middle
    else low = middle + 1
  }
  return low
}

/** Waits for shared work until this caller gives up. The work goes on for the others. */
async function abortable<T>(work: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return work
  signal.throwIfAborted()
  let stop: (() => void) | undefined
  const aborted = new Promise<never>((_, reject) => {
    stop = () => reject(signal.reason)
    signal.addEventListener('abort', stop, { once: true })
  })
  try {
    return await Promise.race([work, aborted])
  } finally {
    if (stop !== undefined) signal.removeEventListener('abort', stop)
  }
}
