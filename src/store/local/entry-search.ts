import { isStratalogError } from '../../model/errors.js'
import { type EntryPlace, type EntryRows, findRow } from './entry-index.js'
import type { IndexRows } from './index-rows.js'
import type { Ledger } from './ledger.js'
import { FileRange } from './log-file.js'

/** An entry that is there. */
export interface FoundEntry {
  readonly range: FileRange
  readonly rows: EntryRows
  /** Its row. */
  readonly at: number
}

/** Rows that had to be read first. Kept by who searches, so that a cache that is too small can't make it search for ever. */
export type LoadedRows = Map<FileRange, EntryRows>

/** Looks entries up through the ranges of their ledger: the newest copy counts. */
export class EntrySearch {
  readonly #rows: IndexRows

  constructor(rows: IndexRows) {
    this.#rows = rows
  }

  /**
   * The entry, or null if it is not there, or a range whose rows must be loaded first; then ask again, as things may
   * have changed meanwhile. It answers in the turn of the call, so that the caller can hold the file.
   */
  now(ledger: Ledger, entryId: number, loaded: LoadedRows): FoundEntry | FileRange | null {
    for (let at = ledger.ranges.length - 1; at >= 0; at -= 1) {
      const range = ledger.ranges[at]
      if (range === undefined || entryId < range.firstId || entryId > range.lastId) continue
      const rows = loaded.get(range) ?? this.#rows.now(range)
      if (rows === null) return range
      const row = findRow(rows, entryId)
      if (row >= 0) return { range, rows, at: row }
    }
    return null
  }

  /** Loads what {@link now} asked for. */
  async load(range: FileRange, loaded: LoadedRows): Promise<void> {
    loaded.set(range, await this.#rows.load(range))
  }

  /** Up to which id from `entryId` on no newer range than `range` can hold the entries. */
  ruledUpTo(ledger: Ledger, range: FileRange, entryId: number): number {
    let upTo = range.lastId
    for (let at = ledger.ranges.length - 1; at >= 0 && ledger.ranges[at] !== range; at -= 1) {
      const newer = ledger.ranges[at]
      if (newer === undefined || newer.lastId < entryId) continue
      // One that surrounds it and does not hold it may still hold the next.
      upTo = Math.min(upTo, Math.max(entryId, newer.firstId - 1))
    }
    return upTo
  }

  /** Whether the entry is there, now or once its rows are read. */
  async holds(ledger: Ledger, entryId: number): Promise<boolean> {
    const loaded: LoadedRows = new Map()
    for (;;) {
      const found = this.now(ledger, entryId, loaded)
      if (!(found instanceof FileRange)) return found !== null
      await this.load(found, loaded)
    }
  }

  /** The highest entry id of a ledger, or −1. */
  async lastId(ledger: Ledger): Promise<number> {
    const loaded: LoadedRows = new Map()
    for (;;) {
      const found = this.#lastIdNow(ledger, loaded)
      if (typeof found === 'number') return found
      await this.load(found, loaded)
    }
  }

  #lastIdNow(ledger: Ledger, loaded: LoadedRows): number | FileRange {
    let last = -1
    for (const range of ledger.ranges) {
      if (range.lastId <= last) continue
      if (!range.clipped) last = range.lastId
      else {
        const rows = loaded.get(range) ?? this.#rows.now(range)
        if (rows === null) return range
        last = Math.max(last, lastAtMost(rows, range.lastId))
      }
    }
    return last
  }

  /** The same for a list of what is here: where the rows that would tell are damaged, the highest that it may be. */
  async lastIdListed(ledger: Ledger): Promise<number> {
    try {
      return await this.lastId(ledger)
    } catch (error) {
      if (!isStratalogError(error, 'corrupt')) throw error
      return Math.max(-1, ...ledger.ranges.map(({ lastId }) => lastId))
    }
  }

  /**
   * How many entries a ledger has, and their bytes: each once, though ranges overlap. Those of which only damaged rows
   * tell don't count: one damaged ledger is not to keep a store from listing all others.
   */
  async count(ledger: Ledger): Promise<{ entries: number; sizeBytes: number }> {
    const ranges = [...ledger.ranges]
    if (!overlap(ranges)) {
      return {
        entries: ranges.reduce((sum, { count }) => sum + count, 0),
        sizeBytes: ranges.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0),
      }
    }
    const cursors: { rows: EntryRows; lastId: number; at: number }[] = []
    for (const range of ranges) {
      // Rewritten or deleted while others were read: its file may be gone.
      if (!ledger.ranges.includes(range)) return this.count(ledger)
      // Rows in memory may change while others are read, which changes the answer by what happened meanwhile.
      const rows = await this.#wholeRows(range)
      if (rows !== null) cursors.push({ rows, lastId: range.lastId, at: 0 })
    }
    let entries = 0
    let sizeBytes = 0
    for (;;) {
      const place = nextPlace(cursors)
      if (place === null) return { entries, sizeBytes }
      entries += 1
      sizeBytes += place.bodyBytes
    }
  }

  async #wholeRows(range: FileRange): Promise<EntryRows | null> {
    try {
      return await this.#rows.load(range)
    } catch (error) {
      if (isStratalogError(error, 'corrupt')) return null
      throw error
    }
  }
}

/** Moves all cursors past the lowest id that is left and answers its newest place. */
function nextPlace(cursors: readonly { rows: EntryRows; lastId: number; at: number }[]): EntryPlace | null {
  let lowest = Number.POSITIVE_INFINITY
  for (const { rows, lastId, at } of cursors) {
    if (at < rows.count && rows.idAt(at) <= lastId) lowest = Math.min(lowest, rows.idAt(at))
  }
  let place: EntryPlace | null = null
  for (const cursor of cursors) {
    if (cursor.at >= cursor.rows.count || cursor.rows.idAt(cursor.at) !== lowest) continue
    place = cursor.rows.placeAt(cursor.at)
    cursor.at += 1
  }
  return place
}

function lastAtMost(rows: EntryRows, id: number): number {
  let at = rows.count - 1
  while (at >= 0 && rows.idAt(at) > id) at -= 1
  return at < 0 ? -1 : rows.idAt(at)
}

/** Whether an entry may be in two ranges, or a range holds rows that don't count. */
function overlap(ranges: readonly FileRange[]): boolean {
  const byFirst = ranges.toSorted((a, b) => a.firstId - b.firstId)
  let end = -1
  for (const range of byFirst) {
    if (range.clipped || range.firstId <= end) return true
    end = Math.max(end, range.lastId)
  }
  return false
}
