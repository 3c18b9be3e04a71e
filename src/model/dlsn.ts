import { StratalogError } from './errors.js'

const INT64_MAX = 2n ** 63n - 1n

/**
 * The position the log gives a record: (segment sequence number, entry id, slot id), compared in that order.
 * DistributedLog's DLSN; its binary and base64 forms are in `format/dlsn.ts`.
 *
 * @example
 * ```ts
 * import { Dlsn } from 'stratalog'
 * const at = Dlsn.parse('12:340:7')
 * console.log(`${at}`, at.compare(Dlsn.parse('12:341:0')) < 0) // 12:340:7 true
 * ```
 */
export class Dlsn {
  /** The position before any record of any stream. */
  static readonly first: Dlsn = new Dlsn(1n, 0n, 0n)

  readonly segment: bigint
  readonly entry: bigint
  readonly slot: bigint

  constructor(segment: bigint, entry: bigint, slot: bigint) {
    this.segment = segment
    this.entry = entry
    this.slot = slot
  }

  /** Reads `12:340:7`. Throws `position_invalid`. */
  static parse(text: string): Dlsn {
    const match = /^(\d{1,19}):(\d{1,19}):(\d{1,19})$/.exec(text)
    const parts = match?.slice(1).map((part) => BigInt(part))
    if (parts?.length !== 3 || parts.some((part) => part > INT64_MAX)) {
      throw new StratalogError(
        'position_invalid',
        `"${text}" is not a DLSN: write segment:entry:slot, as 12:340:7`,
        {
          found: text,
        },
      )
    }
    const [segment, entry, slot] = parts as [bigint, bigint, bigint]
    return new Dlsn(segment, entry, slot)
  }

  /** Below 0, 0 or above 0, as `Array.prototype.sort` wants it. */
  compare(other: Dlsn): number {
    if (this.segment !== other.segment) return this.segment < other.segment ? -1 : 1
    if (this.entry !== other.entry) return this.entry < other.entry ? -1 : 1
    if (this.slot !== other.slot) return this.slot < other.slot ? -1 : 1
    return 0
  }

  equals(other: Dlsn): boolean {
    return this.compare(other) === 0
  }

  /** The next position in the same entry: the least one above this. */
  next(): Dlsn {
    return new Dlsn(this.segment, this.entry, this.slot + 1n)
  }

  toString(): string {
    return `${this.segment}:${this.entry}:${this.slot}`
  }

  toJSON(): string {
    return this.toString()
  }
}
