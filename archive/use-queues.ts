/** Part of the bytes that newcomers may have. */
const NEW_PART = 0.1
/** Uses of a block that are counted: so many turns it is spared. */
const USES_MAX = 3
/** Names remembered of what was evicted, and files altogether. */
const NAMES_MAX = 100_000

interface Entry {
  readonly sizeBytes: number
  uses: number
}

/**
 * Which names of a cache stay, by the rule of S3-FIFO: what is new waits in a small queue and leaves from there unless
 * it is used again, so that a scan passes through a tenth of the cache and leaves the rest alone. What comes back soon
 * after it left goes to the main queue at once. Names only, no I/O.
 */
export class UseQueues {
  readonly #bytesMax: number
  /** Oldest first, all three. */
  readonly #fresh = new Map<string, Entry>()
  readonly #main = new Map<string, Entry>()
  readonly #gone = new Set<string>()
  #freshBytes = 0
  #mainBytes = 0

  constructor(bytesMax: number) {
    this.#bytesMax = bytesMax
  }

  get sizeBytes(): number {
    return this.#freshBytes + this.#mainBytes
  }

  has(name: string): boolean {
    return this.#fresh.has(name) || this.#main.has(name)
  }

  add(name: string, sizeBytes: number): void {
    if (this.#gone.delete(name)) this.adopt(name, sizeBytes)
    else {
      this.#fresh.set(name, { sizeBytes, uses: 0 })
      this.#freshBytes += sizeBytes
    }
  }

  /** What proved its worth before. */
  adopt(name: string, sizeBytes: number): void {
    this.#main.set(name, { sizeBytes, uses: 0 })
    this.#mainBytes += sizeBytes
  }

  used(name: string): void {
    const entry = this.#fresh.get(name) ?? this.#main.get(name)
    if (entry !== undefined) entry.uses = Math.min(USES_MAX, entry.uses + 1)
  }

  /** Whether it was there. */
  remove(name: string): boolean {
    const fresh = this.#fresh.get(name)
    const entry = fresh ?? this.#main.get(name)
    if (entry === undefined) return false
    if (fresh !== undefined) this.#freshBytes -= entry.sizeBytes
    else this.#mainBytes -= entry.sizeBytes
    this.#fresh.delete(name)
    this.#main.delete(name)
    return true
  }

  /** Takes out what is too much and says what that was. */
  evict(): string[] {
    const out: string[] = []
    while (this.sizeBytes > this.#bytesMax || this.#fresh.size + this.#main.size > NAMES_MAX) {
      const many = this.#freshBytes > this.#bytesMax * NEW_PART || this.#main.size === 0
      const name = many ? this.#evictFresh() : this.#evictMain()
      if (name !== null) out.push(name)
    }
    return out
  }

  /** Null: it was used, and moved on instead. */
  #evictFresh(): string | null {
    const [first] = this.#fresh
    if (first === undefined) return this.#evictMain()
    const [name, { sizeBytes, uses }] = first
    this.remove(name)
    if (uses > 0) {
      this.adopt(name, sizeBytes)
      return null
    }
    this.#gone.add(name)
    for (const oldest of this.#gone) {
      if (this.#gone.size <= Math.min(NAMES_MAX, this.#fresh.size + this.#main.size + 100)) break
      this.#gone.delete(oldest)
    }
    return name
  }

  #evictMain(): string | null {
    const [first] = this.#main
    if (first === undefined) return null
    const [name, entry] = first
    this.#main.delete(name)
    if (entry.uses > 0) {
      entry.uses -= 1
      this.#main.set(name, entry)
      return null
    }
    this.#mainBytes -= entry.sizeBytes
    return name
  }
}
