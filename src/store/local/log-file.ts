import { join } from 'node:path'
import { assert } from '../../model/assert.js'
import { EntryIndex, type EntryPlace } from './entry-index.js'
import { frameSeed } from './frame.js'
import { type IndexSection, indexBlockBytes, markBytes } from './index-block.js'
import type { Mark } from './mark-body.js'
import { logName } from './names.js'

/** The live entries of one ledger in one file; all that memory holds of them once the file has an index block. */
export class FileRange {
  readonly ledgerId: bigint
  readonly file: LogFile
  /** The rows, until they stand in the file's index block. */
  rows: EntryIndex | null
  /** Where they stand there. */
  section: IndexSection | null
  count: number
  sizeBytes: number
  firstId: number
  /** Not above the ledger's seal: rows above it don't count. */
  lastId: number
  /** Highest LAC that one of them carried. */
  lac: bigint

  constructor(ledgerId: bigint, file: LogFile, section: IndexSection | null) {
    this.ledgerId = ledgerId
    this.file = file
    this.section = section
    this.rows = section === null ? new EntryIndex() : null
    this.count = section?.entries ?? 0
    this.sizeBytes = section?.sizeBytes ?? 0
    this.firstId = section?.firstId ?? Number.POSITIVE_INFINITY
    this.lastId = section?.lastId ?? -1
    this.lac = section?.lac ?? -1n
  }

  /** A seal cut rows off whose number is not known without reading them. */
  get clipped(): boolean {
    return this.section !== null && this.lastId < this.section.lastId
  }

  /** Only in a file without an index block. */
  set(rows: EntryIndex, entryId: number, place: EntryPlace, lac: bigint): void {
    const before = rows.set(entryId, place)
    this.#grew(1, place.bodyBytes)
    if (before !== null) this.#grew(-1, -before.bodyBytes)
    if (entryId < this.firstId) this.firstId = entryId
    if (entryId > this.lastId) this.lastId = entryId
    if (lac > this.lac) this.lac = lac
  }

  /** Entries above `id` don't count any more. */
  cutAbove(id: number): void {
    if (this.lastId <= id) return
    this.rows?.removeAbove(id, ({ bodyBytes }) => this.#grew(-1, -bodyBytes))
    this.lastId = this.rows === null ? id : this.rows.lastId
  }

  #grew(entries: number, bytes: number): void {
    this.count += entries
    this.sizeBytes += bytes
    this.file.liveEntries += entries
    this.file.liveBytes += bytes
  }
}

/** One file of the log and what is known of its contents. */
export class LogFile {
  readonly generation: bigint
  /**
   * Of two copies of an entry the one in the file of higher rank is newer. The generation; for a rewritten file, the
   * highest rank of the files it was made of.
   */
  readonly rank: bigint
  readonly path: string
  readonly seed: number
  sizeBytes: number
  /** Nothing is appended any more. */
  closed = false
  /** Its index block is durable; nothing of its rows and marks is in memory. */
  indexed = false
  /** Start found that durable frames of it no longer parse: it gets no index block, so that nobody forgets them. */
  damaged = false
  /** What rewriting would have to read of it can't be read. */
  unrewritable = false
  /** Its index block could not be written: its rows stay in memory, and nothing is synced in it again in this run. */
  unindexable = false
  beingRewritten = false
  cleanEnd = false
  /** Where its index block begins, once it has one. */
  blockOffset = 0
  /** Where its last group ends, once closed. */
  end = 0
  previousGeneration = 0n
  previousOffset = 0
  /** Entries of live ledgers, and their bytes: at 0 a closed file can be freed. Copies that a newer one replaced count. */
  liveEntries = 0
  liveBytes = 0
  /** Bytes of the entries that its index block tells of, dead since or not. */
  indexedBytes = 0
  readonly ranges: Map<bigint, FileRange> = new Map()
  /** Ledgers with any frame here, dead ones too: their tombstones must outlive this file. */
  readonly ledgerIds: Set<bigint> = new Set()
  /** In their order, until they stand in the index block. */
  marks: Mark[] = []
  #marksBytes = 0
  #entries = 0

  constructor(generation: bigint, rank: bigint, path: string, sizeBytes: number, seed: number) {
    this.generation = generation
    this.rank = rank
    this.path = path
    this.sizeBytes = sizeBytes
    this.seed = seed
  }

  /** It was made out of other files. */
  get rewritten(): boolean {
    return this.rank !== this.generation
  }

  /** Of a file that is not in the table yet: its contents are applied to it again from there. */
  forgetContents(): void {
    this.ranges.clear()
    this.ledgerIds.clear()
    this.liveEntries = 0
    this.liveBytes = 0
  }

  addMark(mark: Mark): void {
    this.marks.push(mark)
    this.#marksBytes += markBytes(mark)
  }

  /** Notes an entry's frame, so that the index block finds room; where it is replaced or dies, some is left over. */
  noteEntry(): void {
    this.#entries += 1
  }

  /** Room that its index block will take at most, with so much more in the file. */
  indexBytes(entries: number, ledgers: number, marksBytes: number): number {
    return indexBlockBytes(
      this.#entries + entries,
      this.ledgerIds.size + ledgers,
      this.#marksBytes + marksBytes,
    )
  }
}

/** Ascending by age of what the files hold: the last one's copy of an entry counts. */
export function compareRank(a: LogFile, b: LogFile): number {
  if (a.rank !== b.rank) return a.rank < b.rank ? -1 : 1
  return a.generation < b.generation ? -1 : a.generation > b.generation ? 1 : 0
}

/** The files that hold frames. */
export class LogFiles {
  readonly #directory: string
  readonly #storeId: string
  readonly #all = new Set<LogFile>()

  constructor(directory: string, storeId: string) {
    this.#directory = directory
    this.#storeId = storeId
  }

  /** A file that is not listed yet, or not here. */
  make(generation: bigint, rank: bigint, sizeBytes: number): LogFile {
    const path = join(this.#directory, logName(generation))
    return new LogFile(generation, rank, path, sizeBytes, frameSeed(this.#storeId, generation))
  }

  add(file: LogFile): LogFile {
    this.#all.add(file)
    return file
  }

  /** Forgets a file that nothing points to. */
  drop(file: LogFile): void {
    assert(file.liveEntries === 0, `a file with live entries is dropped: ${file.path}`)
    assert(this.#all.delete(file), `a file is dropped twice: ${file.path}`)
  }

  [Symbol.iterator](): IterableIterator<LogFile> {
    return this.#all.values()
  }
}
