import { present } from '../../model/assert.js'

/** A set of ids that can be walked in order from anywhere; ids that come in ascending order cost nothing to sort. */
export class SortedIds {
  #ids: bigint[] = []
  #sorted = true
  /** Removed and still in the array. */
  readonly #removed = new Set<bigint>()

  add(id: bigint): void {
    if (this.#removed.delete(id)) return
    const last = this.#ids.at(-1)
    if (last !== undefined && id < last) this.#sorted = false
    this.#ids.push(id)
  }

  remove(id: bigint): void {
    this.#removed.add(id)
    if (this.#removed.size <= this.#ids.length / 2) return
    this.#ids = this.#ids.filter((one) => !this.#removed.has(one))
    this.#removed.clear()
  }

  /** The ids above `after`, ascending; the set must not change meanwhile. */
  *above(after: bigint): IterableIterator<bigint> {
    if (!this.#sorted) this.#ids.sort((a, b) => (a < b ? -1 : a > b ? 1 : 0))
    this.#sorted = true
    for (let at = this.#firstAbove(after); at < this.#ids.length; at += 1) {
      const id = present(this.#ids[at], 'id')
      if (!this.#removed.has(id)) yield id
    }
  }

  #firstAbove(after: bigint): number {
    let low = 0
    let high = this.#ids.length
    while (low < high) {
      const middle = (low + high) >>> 1
      if (present(this.#ids[middle], 'id') <= after) low = middle + 1
      else high = middle
    }
    return low
  }
}
