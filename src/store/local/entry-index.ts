import { present } from '../../model/assert.js'

/** Where an entry's frame begins in its file, and how long its body is. */
export interface EntryPlace {
  readonly offset: number
  readonly bodyBytes: number
}

/** The entries of one ledger in one file, in ascending order of id: in memory, or a piece of an index block. */
export interface EntryRows {
  readonly count: number
  idAt(at: number): number
  placeAt(at: number): EntryPlace
}

/** The first row with an id of at least `id`, or the number of rows. */
export function lowerBound(rows: EntryRows, id: number): number {
  if (rows.count === 0 || id > rows.idAt(rows.count - 1)) return rows.count
  let low = 0
  let high = rows.count
  while (low < high) {
    const middle = (low + high) >>> 1
    if (rows.idAt(middle) < id) low = middle + 1
    else high = middle
  }
  return low
}

/** The row of `id`, or −1. */
export function findRow(rows: EntryRows, id: number): number {
  const at = lowerBound(rows, id)
  return at < rows.count && rows.idAt(at) === id ? at : -1
}

const FIRST_CAPACITY = 4

/**
 * Rows in memory, while a file has no index block: in arrays that grow geometrically, 16 bytes an entry,
 * none for an empty ledger. Ids may have holes (striping) and come out of order (recovery); the usual one
 * goes to the end.
 */
export class EntryIndex implements EntryRows {
  #count = 0
  #ids = new Float64Array(0)
  #offsets = new Uint32Array(0)
  #bodyBytes = new Uint32Array(0)

  get count(): number {
    return this.#count
  }

  /** The highest id, or −1. */
  get lastId(): number {
    return this.#count === 0 ? -1 : this.idAt(this.#count - 1)
  }

  idAt(at: number): number {
    return present(this.#ids[at], 'entry id')
  }

  placeAt(at: number): EntryPlace {
    return {
      offset: present(this.#offsets[at], 'entry offset'),
      bodyBytes: present(this.#bodyBytes[at], 'entry length'),
    }
  }

  /** Adds an entry or moves one; returns where it was before. */
  set(id: number, place: EntryPlace): EntryPlace | null {
    const at = lowerBound(this, id)
    const known = at < this.#count && this.#ids[at] === id
    const before = known ? this.placeAt(at) : null
    if (!known) this.#insert(at)
    this.#ids[at] = id
    this.#offsets[at] = place.offset
    this.#bodyBytes[at] = place.bodyBytes
    return before
  }

  /** Forgets the entries above `id` (all: −1), after telling of each. */
  removeAbove(id: number, removed: (place: EntryPlace) => void): void {
    const from = lowerBound(this, id + 1)
    for (let at = from; at < this.#count; at += 1) removed(this.placeAt(at))
    this.#count = from
    if (from === 0) this.#resize(0)
  }

  #insert(at: number): void {
    if (this.#count === this.#ids.length) this.#resize(Math.max(FIRST_CAPACITY, this.#count * 2))
    for (const column of [this.#ids, this.#offsets, this.#bodyBytes]) {
      if (at < this.#count) column.copyWithin(at + 1, at, this.#count)
    }
    this.#count += 1
  }

  #resize(capacity: number): void {
    const grown = <T extends Float64Array | Uint32Array>(to: T, from: T): T => {
      to.set(from.subarray(0, Math.min(this.#count, capacity)))
      return to
    }
    this.#ids = grown(new Float64Array(capacity), this.#ids)
    this.#offsets = grown(new Uint32Array(capacity), this.#offsets)
    this.#bodyBytes = grown(new Uint32Array(capacity), this.#bodyBytes)
  }
}
