import { present } from '../../src/model/assert.js'
import type { Random } from '../../src/ports/random.js'
import { seededRandom } from '../helpers/seeded-random.js'

/** Everything that is left to chance in a run, drawn from one seed. */
export class SimRandom implements Random {
  readonly #next: () => number

  constructor(seed: number) {
    this.#next = seededRandom(seed)
    // Seeds are small neighbouring numbers: their first draws would be alike.
    for (let i = 0; i < 4; i += 1) this.#next()
  }

  fraction(): number {
    return this.#next()
  }

  /** A whole number in [0, below). */
  below(below: number): number {
    return Math.floor(this.#next() * below)
  }

  /** A number in [from, to). */
  between(from: number, to: number): number {
    return from + this.#next() * (to - from)
  }

  chance(probability: number): boolean {
    return this.#next() < probability
  }

  pick<T>(items: readonly T[]): T {
    return present(items[this.below(items.length)], 'something to pick')
  }

  bytes(count: number): Uint8Array {
    return Uint8Array.from({ length: count }, () => this.below(256))
  }

  /** A generator of its own, so that what draws from one leaves the others as they are. */
  fork(): SimRandom {
    return new SimRandom(this.below(2 ** 31))
  }
}
