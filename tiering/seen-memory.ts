import type { SegmentIndex } from '../src/ports/segment-index.js'

/** What is remembered under one name; what is beyond it is never old enough, and waits until others are gone. */
const ENTRIES_MAX = 10_000

/**
 * When something was first seen, kept in the index over restarts: archives don't all tell when an object was stored,
 * and nothing is collected that nobody has seen for a while. If the memory is lost, the waiting begins anew.
 */
export class SeenMemory {
  readonly #index: SegmentIndex
  readonly #fact: string
  readonly #before: ReadonlyMap<string, number>
  /** What is still seen: the rest is forgotten when this is saved. */
  readonly #now = new Map<string, number>()

  private constructor(index: SegmentIndex, fact: string, before: ReadonlyMap<string, number>) {
    this.#index = index
    this.#fact = fact
    this.#before = before
  }

  static async load(index: SegmentIndex, fact: string): Promise<SeenMemory> {
    return new SeenMemory(index, fact, decode(await index.fact(fact)))
  }

  /** It is seen at this moment; returns when it was first. */
  note(id: string, nowMs: number): number {
    // A clock that went back must not make anything old when it goes on.
    const firstMs = Math.min(this.#before.get(id) ?? nowMs, nowMs)
    if (this.#now.size >= ENTRIES_MAX) return nowMs
    this.#now.set(id, firstMs)
    return firstMs
  }

  forget(id: string): void {
    this.#now.delete(id)
  }

  /** Remembers what was noted, and only that. Writes nothing where nothing changed. */
  async save(): Promise<void> {
    const same =
      this.#now.size === this.#before.size &&
      [...this.#now].every(([id, firstMs]) => this.#before.get(id) === firstMs)
    if (!same) await this.#index.setFact(this.#fact, JSON.stringify([...this.#now]))
  }
}

/** A memory that can't be read is none. */
function decode(text: string | null): ReadonlyMap<string, number> {
  if (text === null) return new Map()
  try {
    const pairs = JSON.parse(text) as readonly (readonly [unknown, unknown])[]
    return new Map(
      pairs.flatMap(([id, ms]) => (typeof id === 'string' && typeof ms === 'number' ? [[id, ms]] : [])),
    )
  } catch {
    return new Map()
  }
}
