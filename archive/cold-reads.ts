import { beforeSegment, decodeSegmentKey, segmentPrefix } from '../src/format/archive-names.js'
import { StratalogError } from '../src/model/errors.js'
import type { ArchivedObject, Incarnation } from '../src/model/segment.js'
import type { ArchiveStore } from '../src/ports/archive-store.js'
import type { Clock } from '../src/ports/clock.js'
import { BlockCache } from './block-cache.js'
import type { DiskCache, DiskCacheCounts } from './disk-cache.js'
import { type DownloadLimit, WriterCourtesy } from './download-limit.js'
import { FetchWindow, type FetchWindowState } from './fetch-window.js'
import { onlyDigest } from './listing.js'
import { type ObjectIndex, type ObjectRange, readObjectIndex } from './object-index.js'
import {
  type ObjectFetcher,
  openSegmentObject,
  type ReadAheadAllowance,
  SegmentObjectReader,
} from './segment-reader.js'
import { SharedRequest, sharedResult } from './shared-request.js'

/** Blocks whose index rows are remembered, over all objects: about 200 bytes each. */
const INDEX_ROWS_MAX = 100_000
/** What remembering an object takes beside its blocks, in rows: many objects have one block only. */
const OBJECT_ROWS = 10
/** Attempts of a segment that are looked at; more are no sign of health. */
const ATTEMPTS_LISTED = 100
/** A reader that has read nothing ahead for so long does not share in the memory for it. */
const ACTIVE_MS = 10_000
/** Reads that are served from memory leave a turn to timers, signals and other readers this often. */
const TURN_MS = 20

/** Bounds of the cold reads of one log. */
export interface ColdReadsOptions {
  readonly clock: Clock
  /** Decompressed bytes held in memory, over all readers. @default 48 MiB */
  readonly memoryBytes?: number
  /** Bytes read ahead, over all readers; at most half of `memoryBytes`. @default half of it */
  readonly readAheadBytes?: number
  /** Requests under way at a time. @default 16 */
  readonly connections?: number
  /** Blocks kept on disk; absent or null: none. */
  readonly disk?: DiskCache | null
  /** Whether appends wait for their stores just now: cold reads then stand back for a moment. */
  readonly appendsWait?: () => boolean
}

/** What is opened, and how fast it may be read. */
export interface ColdOpenOptions {
  /** Shared by all reads of a stream. */
  readonly limit?: DownloadLimit | null
  /** Nobody waits for it yet. */
  readonly ahead?: boolean
  readonly signal?: AbortSignal
}

/** How a log's cold reads do, for `explain` and metrics. */
export interface ColdReadsState extends FetchWindowState {
  readonly memoryBytes: number
  /** Null: there is no disk cache. */
  readonly disk: (DiskCacheCounts & { readonly sizeBytes: number; readonly bytesMax: number }) | null
  /** Times a request stood back for appends, and for how long altogether. */
  readonly stoodBack: number
  readonly stoodBackMs: number
}

interface KnownIndex {
  readonly request: SharedRequest<ObjectIndex>
  rows: number
}

/**
 * What all readers of a log over its archive share: memory, disk cache, connections and the window of what is fetched
 * ahead. Many readers of a block or an index make one request.
 */
export class ColdReads {
  readonly cache: BlockCache
  readonly disk: DiskCache | null
  readonly #clock: Clock
  readonly #window: FetchWindow
  readonly #courtesy: WriterCourtesy
  readonly #readAheadBytes: number
  /** Least recently used first. */
  readonly #indexes = new Map<string, KnownIndex>()
  #indexRows = 0
  /** When each reader last read ahead. */
  readonly #active = new Map<object, number>()
  /** When reads last waited for something outside of this process. */
  #turnMs: number

  constructor(options: ColdReadsOptions) {
    const { clock, connections, memoryBytes = 48 * 2 ** 20 } = options
    this.#clock = clock
    this.#turnMs = clock.monotonicMs()
    this.cache = new BlockCache(memoryBytes)
    this.disk = options.disk ?? null
    this.#readAheadBytes = Math.min(options.readAheadBytes ?? memoryBytes / 2, memoryBytes / 2)
    this.#window = new FetchWindow(clock, {
      readAheadBytes: this.#readAheadBytes,
      ...(connections === undefined ? {} : { connections }),
    })
    this.#courtesy = new WriterCourtesy(clock, options.appendsWait ?? (() => false))
  }

  get state(): ColdReadsState {
    const { stoodBack, stoodBackMs } = this.#courtesy
    const cache = this.disk
    const disk = cache && { ...cache.counts, sizeBytes: cache.sizeBytes, bytesMax: cache.bytesMax }
    return { ...this.#window.state, memoryBytes: this.cache.sizeBytes, disk, stoodBack, stoodBackMs }
  }

  /** Whether an object opens without a request. */
  knows(object: ArchivedObject): boolean {
    return (this.#indexes.get(idOf(object))?.rows ?? 0) > 0
  }

  /** Stored bytes of one request for what is read ahead, as the window is now. */
  get requestBytes(): number {
    return this.#window.requestBytes
  }

  /** Opens an object with one request for its index, or none where that is known. */
  async open(
    store: ArchiveStore,
    object: ArchivedObject,
    options: ColdOpenOptions = {},
  ): Promise<SegmentObjectReader> {
    const { limit = null, ahead = false, signal } = options
    const fetch = (range: ObjectRange, urgent: boolean, stop: AbortSignal): Promise<Uint8Array> =>
      this.#fetch(store, range, urgent, limit, stop)
    const index = await this.#index(store, object, (range, stop) => fetch(range, !ahead, stop), signal)
    const reader: object = {}
    const fetcher: ObjectFetcher = {
      fetch,
      disk: this.disk,
      allowance: () => this.#allowance(reader),
      requestBytes: () => this.requestBytes,
      end: () => this.#active.delete(reader),
      turn: (stop) => this.#turn(stop),
    }
    return new SegmentObjectReader({ object, cache: this.cache, fetcher, ...index })
  }

  async #fetch(
    store: ArchiveStore,
    range: ObjectRange,
    urgent: boolean,
    limit: DownloadLimit | null,
    signal: AbortSignal,
  ): Promise<Uint8Array> {
    await limit?.take(range.lengthBytes, signal)
    await this.#courtesy.standBack(urgent, signal)
    const read = () => store.readRange(range.key, range.offset, range.lengthBytes, signal)
    const bytes = await this.#window.run(read, urgent, signal)
    // An answer came in, so all others had their turn, too.
    this.#turnMs = this.#clock.monotonicMs()
    return bytes
  }

  #turn(signal: AbortSignal | undefined): Promise<void> | null {
    const nowMs = this.#clock.monotonicMs()
    if (nowMs - this.#turnMs < TURN_MS) return null
    this.#turnMs = nowMs
    return this.#clock.sleep(0, signal)
  }

  /** Memory for read-ahead is shared alike by those who read ahead: not all of them can have all of it. */
  #allowance(reader: object): ReadAheadAllowance {
    const nowMs = this.#clock.monotonicMs()
    this.#active.delete(reader)
    this.#active.set(reader, nowMs)
    for (const [one, lastMs] of this.#active) {
      if (nowMs - lastMs < ACTIVE_MS) break
      this.#active.delete(one)
    }
    const readers = this.#active.size
    return { rawBytes: this.#readAheadBytes / readers, storedBytes: this.#window.bytes / Math.sqrt(readers) }
  }

  async #index(
    store: ArchiveStore,
    object: ArchivedObject,
    fetch: (range: ObjectRange, signal: AbortSignal) => Promise<Uint8Array>,
    signal: AbortSignal | undefined,
  ): Promise<ObjectIndex> {
    const id = idOf(object)
    let known = this.#indexes.get(id)
    if (known === undefined || !known.request.live) {
      const request = new SharedRequest((stop) =>
        readObjectIndex(store, object, { signal: stop, fetch: (range) => fetch(range, stop) }),
      )
      known = { request, rows: 0 }
      this.#remember(id, known)
    }
    this.#indexes.delete(id)
    this.#indexes.set(id, known)
    return sharedResult(known.request, signal)
  }

  #remember(id: string, known: KnownIndex): void {
    this.#forget(id)
    this.#indexes.set(id, known)
    known.request.result.then(
      (index) => {
        if (this.#indexes.get(id) !== known) return
        known.rows = index.rows.length + OBJECT_ROWS
        this.#indexRows += known.rows
        for (const oldest of this.#indexes.keys()) {
          if (this.#indexRows <= INDEX_ROWS_MAX) break
          this.#forget(oldest)
        }
      },
      // Whoever asked for it hears of it; the next one asks again.
      () => {
        if (this.#indexes.get(id) === known) this.#forget(id)
      },
    )
  }

  #forget(id: string): void {
    this.#indexRows -= this.#indexes.get(id)?.rows ?? 0
    this.#indexes.delete(id)
  }
}

/**
 * Opens a segment of which nothing is known but its stream's incarnation and number: two requests, for its name and its
 * index. The first attempt is taken where all of a segment have one content; `archive_conflict` where they have not,
 * `object_not_found` where there is none.
 */
export async function openFromNames(
  store: ArchiveStore,
  incarnation: Incarnation,
  segment: bigint,
): Promise<SegmentObjectReader> {
  const prefix = segmentPrefix(incarnation)
  const page = await store.listFrom(prefix, beforeSegment(incarnation, segment), ATTEMPTS_LISTED)
  const attempts = page.flatMap(({ key, sizeBytes }) => {
    const parsed = decodeSegmentKey(key)
    return parsed !== null && parsed.segment === segment ? [{ key, sizeBytes, parsed }] : []
  })
  const digest = onlyDigest(attempts)
  const first = attempts.find(({ parsed }) => parsed.contentDigest === digest)
  if (attempts.length === 0) {
    throw new StratalogError(
      'object_not_found',
      `${store.location} has no object of segment ${segment} of ${incarnation}`,
      { found: segment },
    )
  }
  if (attempts.length === ATTEMPTS_LISTED || first === undefined) {
    throw new StratalogError(
      'archive_conflict',
      `the objects of segment ${segment} of ${incarnation} differ in content: an operator decides`,
      { details: { keys: attempts.map((one) => one.key) } },
    )
  }
  const { key, sizeBytes, parsed } = first
  return openSegmentObject(store, { key, sizeBytes, indexBytes: parsed.indexBytes })
}

/** Sizes of a row that is wrong give another index, or none: they belong to what is remembered. */
function idOf({ key, sizeBytes, indexBytes }: ArchivedObject): string {
  return `${key} ${sizeBytes} ${indexBytes}`
}
