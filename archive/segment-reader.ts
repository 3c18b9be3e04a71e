import { openEnvelope } from '../src/format/entry.js'
import { type DecodedRecord, decodeRecords } from '../src/format/record.js'
import {
  type BlockRow,
  blockPayloadOffsets,
  decodeBlock,
  ENTRY_HEADER_BYTES,
} from '../src/format/segment-block.js'
import {
  decodeObjectHeader,
  type ObjectAccess,
  type SegmentObjectFooter,
} from '../src/format/segment-object.js'
import type { SegmentObjectMeta } from '../src/format/segment-object-meta.js'
import { present } from '../src/model/assert.js'
import { isStratalogError } from '../src/model/errors.js'
import type { ArchivedObject } from '../src/model/segment.js'
import type { ArchiveStore } from '../src/ports/archive-store.js'
import { BlockCache, type DecodedBlock, type HeldBlock } from './block-cache.js'
import type { DiskBlock, DiskCache } from './disk-cache.js'
import { type ObjectIndex, type ObjectRange, readObjectIndex } from './object-index.js'
import type { ArchivedEntry } from './segment-writer.js'
import { abortable, type Release, SharedRequest, sharedResult } from './shared-request.js'

/** Stored bytes ahead of a reader that shares nothing with others, and of one of its requests. */
const ALONE_STORED_BYTES = 16 * 2 ** 20
const ALONE_REQUEST_BYTES = 2.5 * 2 ** 20

export interface SegmentReaderOptions {
  /** Decompressed bytes read ahead of a sequential reader. @default 8 MiB, at most half the cache */
  readonly readAheadBytes?: number
  readonly signal?: AbortSignal
}

/** What a reader may have ahead of what it reads. */
export interface ReadAheadAllowance {
  /** Decompressed. */
  readonly rawBytes: number
  /** As stored. */
  readonly storedBytes: number
}

/** Where a reader's bytes come from, and how many it may have ahead. */
export interface ObjectFetcher {
  /** `urgent`: somebody waits for it. Ends when `signal` is aborted. */
  fetch(range: ObjectRange, urgent: boolean, signal: AbortSignal): Promise<Uint8Array>
  readonly disk: DiskCache | null
  /** For read-ahead; asked each time. Who asks shares in it with all others that do. */
  allowance(): ReadAheadAllowance
  /** Stored bytes of neighbouring blocks that one request asks for. */
  requestBytes(): number
  /** The reader reads nothing ahead any more. */
  end(): void
  /** Others' turn, where nothing that was read lately left them one; null: not now. */
  turn?(signal: AbortSignal | undefined): Promise<void> | null
}

/**
 * Opens an archived segment with one request, for its index and footer. For one reader by itself; those of a log share
 * what `ColdReads` has.
 */
export async function openSegmentObject(
  store: ArchiveStore,
  object: ArchivedObject,
  cache: BlockCache = new BlockCache(),
  options: SegmentReaderOptions = {},
): Promise<SegmentObjectReader> {
  const read = ({ key, offset, lengthBytes }: ObjectRange, signal?: AbortSignal) =>
    store.readRange(key, offset, lengthBytes, signal)
  const index = await readObjectIndex(store, object, { signal: options.signal })
  const rawBytes = Math.min(options.readAheadBytes ?? 8 * 2 ** 20, cache.bytesMax / 2)
  const fetcher: ObjectFetcher = {
    fetch: (range, _, signal) => read(range, signal),
    disk: null,
    allowance: () => ({ rawBytes, storedBytes: ALONE_STORED_BYTES }),
    requestBytes: () => ALONE_REQUEST_BYTES,
    end: () => undefined,
  }
  return new SegmentObjectReader({ object, cache, fetcher, ...index })
}

interface Parts extends ObjectIndex {
  readonly object: ArchivedObject
  readonly cache: BlockCache
  readonly fetcher: ObjectFetcher
}

/**
 * Reads entries of one archived segment. Every block is checked before anything of it is handed out
 * (invariant 9). What it reads ahead ends with `close`, where nobody else waits for it.
 */
export class SegmentObjectReader {
  readonly footer: SegmentObjectFooter
  /** Last entry the object holds; above the segment's last one where the ledger ends with control records. */
  readonly lastEntryId: bigint
  readonly #parts: Parts
  readonly #rows: readonly BlockRow[]
  /** Interest in what is read ahead and not here yet. */
  readonly #ahead = new Set<Release>()
  #header: SegmentObjectMeta | null = null
  #lastBlock = -2
  #closed = false

  constructor(parts: Parts) {
    this.#parts = parts
    this.#rows = parts.rows
    this.footer = parts.footer
    this.lastEntryId = this.#row(this.#rows.length - 1).lastEntryId
  }

  /** Ends what it reads ahead. Reading on is allowed, without read-ahead. Idempotent. */
  close(): void {
    this.#closed = true
    for (const release of this.#ahead) release()
    this.#ahead.clear()
    this.#parts.fetcher.end()
  }

  /** Block index rows, for those who explain what a read takes. */
  get blocks(): readonly BlockRow[] {
    return this.#rows
  }

  /** Number of the block that holds an entry; the number of blocks where none does. */
  blockOf(entryId: bigint): number {
    return firstWhere(this.#rows, (row) => row.lastEntryId >= entryId)
  }

  /** What reading some blocks in order would ask of the archive now. */
  costOf(first: number, last: number): { readonly storedBytes: number; readonly requests: number } {
    const { cache, fetcher } = this.#parts
    const most = fetcher.requestBytes()
    let storedBytes = 0
    let requests = 0
    let run = Number.POSITIVE_INFINITY
    for (let number = first; number <= last; number++) {
      if (cache.has(this.#id(number)) || fetcher.disk?.has(this.#diskId(number))) {
        run = Number.POSITIVE_INFINITY
        continue
      }
      const { blockBytes } = this.#row(number)
      storedBytes += blockBytes
      run += blockBytes
      if (run <= most) continue
      // The first is asked for alone: somebody waits for it.
      run = requests === 0 ? Number.POSITIVE_INFINITY : blockBytes
      requests += 1
    }
    return { storedBytes, requests }
  }

  /** What the object says of its segment; one request, then remembered. */
  async header(signal?: AbortSignal): Promise<SegmentObjectMeta> {
    if (this.#header === null) {
      const { fetcher, object } = this.#parts
      // The footer's size is checked against the index and lies below the object's size, so it bounds the
      // read.
      const range = { key: object.key, offset: 0, lengthBytes: this.footer.headerBytes }
      const request = new SharedRequest((stop) => fetcher.fetch(range, true, stop))
      this.#header = decodeObjectHeader(await sharedResult(request, signal), object.key, this.#parts.access)
    }
    return this.#header
  }

  /**
   * Entries from `firstEntryId` on, of one block, until their payloads reach `bytesMax`; at least one, none
   * only beyond the last. Payloads are views that stay valid. Calls that go forward make it read ahead, up to the
   * block of `lastWanted`.
   */
  async readEntries(
    firstEntryId: bigint,
    bytesMax: number,
    signal?: AbortSignal,
    lastWanted: bigint = this.lastEntryId,
  ): Promise<ArchivedEntry[]> {
    signal?.throwIfAborted()
    if (firstEntryId > this.lastEntryId) return []
    // What is cached comes without the event loop: whoever reads nothing else would keep timers and signals waiting.
    const turn = this.#parts.fetcher.turn?.(signal) ?? null
    if (turn !== null) await turn
    const number = this.blockOf(firstEntryId)
    const { block, release } = this.#hold(number)
    try {
      if (number === this.#lastBlock || number === this.#lastBlock + 1) {
        this.#readAhead(number, Math.min(this.blockOf(lastWanted), this.#rows.length - 1))
      }
      this.#lastBlock = number
      return entriesOf(await abortable(block, signal), firstEntryId, bytesMax)
    } finally {
      release()
    }
  }

  /** Reads ahead from an entry on for somebody who is not here yet, as far as the decompressed bytes go. */
  readAheadFrom(firstEntryId: bigint, rawBytes: number): void {
    if (this.#closed) return
    const allowed = { rawBytes, storedBytes: Number.POSITIVE_INFINITY }
    const least = this.#parts.fetcher.requestBytes() / 2
    this.#fetchAhead(this.blockOf(firstEntryId), this.#rows.length - 1, allowed, least)
  }

  /** Decompressed bytes of the allowance that are left over for what follows this object; not above 0: none. */
  roomBeyond(entryId: bigint): number {
    const { rawBytes, storedBytes } = this.#parts.fetcher.allowance()
    let raw = rawBytes
    let stored = storedBytes
    for (let number = this.blockOf(entryId); number < this.#rows.length && raw > 0 && stored > 0; number++) {
      raw -= this.#row(number).rawBytes
      stored -= this.#row(number).blockBytes
    }
    // What follows is taken to compress as well as this does.
    const { rawBytes: rawAll, blockBytes: storedAll } = this.#row(this.#rows.length - 1)
    return Math.min(raw, (stored * rawAll) / storedAll)
  }

  /** The entry of the first user record with txid ≥ `txid`; null if the segment has none. */
  async entryForTxid(txid: bigint, signal?: AbortSignal): Promise<bigint | null> {
    const number = firstWhere(this.#rows, (row) => row.lastTxid >= txid)
    return this.#findFrom(number, (record) => record.txid >= txid, signal)
  }

  /** The entry of the first user record with sequenceId ≥ `sequenceId`; null if the segment has none. */
  async entryForSequenceId(sequenceId: bigint, signal?: AbortSignal): Promise<bigint | null> {
    const { startSequenceId } = this
    // The last block that begins at or below: the one before the first that begins above.
    const above = firstWhere(this.#rows, (row) => row.firstSequenceId > sequenceId)
    const wanted = (record: DecodedRecord): boolean =>
      startSequenceId + BigInt(record.position) - 1n >= sequenceId
    return this.#findFrom(Math.max(0, above - 1), wanted, signal)
  }

  /** sequenceId of the segment's first record. */
  get startSequenceId(): bigint {
    return this.#row(0).firstSequenceId
  }

  /** Goes on to later blocks: the one that the index names may end with control records. */
  async #findFrom(
    first: number,
    wanted: (record: DecodedRecord) => boolean,
    signal?: AbortSignal,
  ): Promise<bigint | null> {
    for (let number = first; number < this.#rows.length; number++) {
      const block = await this.#blockNow(number, signal)
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

  async #blockNow(number: number, signal: AbortSignal | undefined): Promise<DecodedBlock> {
    const { block, release } = this.#hold(number)
    try {
      return await abortable(block, signal)
    } finally {
      release()
    }
  }

  /** A block that is here or on its way, else asked for now. */
  #hold(number: number): HeldBlock {
    const { cache, fetcher } = this.#parts
    const known = cache.hold(this.#id(number))
    if (known !== null) return known
    if (fetcher.disk?.has(this.#diskId(number))) this.#fromDisk(number, true)
    else this.#request(number, number, true)
    return present(cache.hold(this.#id(number)), 'requested block')
  }

  /** One ranged request for the blocks `first` to `last`, none of which the cache has. Held until it is done. */
  #request(first: number, last: number, urgent: boolean): void {
    const { object, cache, fetcher, access } = this.#parts
    const start = this.#row(first).offset
    const end = this.#row(last).offset + this.#row(last).blockBytes
    const range = { key: object.key, offset: start, lengthBytes: end - start }
    const request = new SharedRequest((signal) => fetcher.fetch(range, urgent, signal))
    this.#rows.slice(first, last + 1).forEach((row, i) => {
      const block = request.result.then((bytes) => {
        const stored = bytes.subarray(row.offset - start, row.offset - start + row.blockBytes)
        const decoded = decode(stored, row, object.key, access)
        // As it is stored: what is encrypted in the archive is encrypted on the cache's disk.
        fetcher.disk?.put(this.#diskId(first + i), stored)
        return decoded
      })
      cache.put(this.#id(first + i), block, row.rawBytes, request)
    })
    if (!urgent) this.#holdAhead(request)
  }

  /** A block of the disk cache; what is not there after all, or damaged, comes from the archive. */
  #fromDisk(number: number, urgent: boolean): void {
    const { object, cache, fetcher, access } = this.#parts
    const row = this.#row(number)
    const { key } = object
    const request = new SharedRequest(async (signal) => {
      const id = this.#diskId(number)
      const stored = (await fetcher.disk?.get(id)) ?? null
      try {
        if (stored !== null) return decode(stored, row, key, access)
      } catch (error) {
        if (!isStratalogError(error, 'corrupt')) throw error
        fetcher.disk?.drop(id)
      }
      signal.throwIfAborted()
      const range = { key, offset: row.offset, lengthBytes: row.blockBytes }
      const fetched = await fetcher.fetch(range, urgent, signal)
      const decoded = decode(fetched, row, key, access)
      fetcher.disk?.put(id, fetched)
      return decoded
    })
    cache.put(this.#id(number), request.result, row.rawBytes, request)
    if (!urgent) this.#holdAhead(request)
  }

  #holdAhead(request: SharedRequest<unknown>): void {
    const release = request.hold()
    const done = (): void => {
      this.#ahead.delete(release)
      release()
    }
    this.#ahead.add(release)
    request.result.then(done, done)
  }

  #diskId(number: number): DiskBlock {
    return { key: this.#parts.object.key, number, sizeBytes: this.#row(number).blockBytes }
  }

  /**
   * Tops the read-ahead up once there is room for a whole request, so that several blocks go into one and as many of
   * them are on their way as there is room for; a small allowance, once half of it is used.
   */
  #readAhead(current: number, last: number): void {
    if (this.#closed) return
    const { cache, fetcher } = this.#parts
    const allowed = fetcher.allowance()
    let rawBytes = 0
    let storedBytes = 0
    for (let next = current + 1; next <= last && cache.has(this.#id(next)); next++) {
      rawBytes += this.#row(next).rawBytes
      storedBytes += this.#row(next).blockBytes
    }
    const { rawBytes: rawAll, blockBytes: storedAll } = this.#row(this.#rows.length - 1)
    const most = fetcher.requestBytes()
    const full = (had: number, all: number, one: number) => had > Math.max(all / 2, all - one)
    // What is asked for next is taken to compress as well as the end of the object does.
    if (full(rawBytes, allowed.rawBytes, (most * rawAll) / storedAll)) return
    if (full(storedBytes, allowed.storedBytes, most)) return
    const least = Math.min(most, allowed.storedBytes / 2, allowed.rawBytes / 2) / 2
    this.#fetchAhead(current + 1, last, allowed, least)
  }

  /**
   * Asks for what is absent of the blocks from `first` to `last`, as far as the allowance goes. Where something is ahead
   * already, what would be less than `least` waits until there is room for more of it.
   */
  #fetchAhead(first: number, last: number, allowed: ReadAheadAllowance, least: number): void {
    const { cache, fetcher } = this.#parts
    const most = fetcher.requestBytes()
    let rawBytes = 0
    let storedBytes = 0
    let run: { readonly first: number; bytes: number } | null = null
    const flush = (next: number): void => {
      if (run !== null) this.#request(run.first, next - 1, false)
      run = null
    }
    let number = first
    for (; number <= last; number++) {
      const row = this.#row(number)
      const over =
        rawBytes + row.rawBytes > allowed.rawBytes || storedBytes + row.blockBytes > allowed.storedBytes
      // One block at least is ahead where there is room for any: a window below a block would fetch none.
      if (over && (rawBytes > 0 || row.rawBytes > allowed.rawBytes)) break
      rawBytes += row.rawBytes
      storedBytes += row.blockBytes
      const here = cache.has(this.#id(number))
      const onDisk = !here && (fetcher.disk?.has(this.#diskId(number)) ?? false)
      if (here || onDisk) {
        flush(number)
        if (onDisk) this.#fromDisk(number, false)
        continue
      }
      if (run !== null && run.bytes + row.blockBytes > most) flush(number)
      run ??= { first: number, bytes: 0 }
      run.bytes += row.blockBytes
    }
    if (number > last || run?.first === first || (run?.bytes ?? 0) >= least) flush(number)
  }
}

function decode(stored: Uint8Array, row: BlockRow, key: string, access: ObjectAccess | null): DecodedBlock {
  const raw = decodeBlock(stored, row, key, access)
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
