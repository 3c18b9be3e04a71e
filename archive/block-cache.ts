import { assert, present } from '../src/model/assert.js'
import type { Release } from './shared-request.js'

/** A block decompressed and checked. */
export interface DecodedBlock {
  readonly firstEntryId: bigint
  readonly raw: Uint8Array
  /** Payload i lies in [offsets[i], offsets[i + 1] − 12). */
  readonly offsets: readonly number[]
}

/** What fetches a block; it ends when nobody holds it. */
export interface BlockRequest {
  readonly live: boolean
  hold(): Release
}

/** A block of the cache, with the interest of whoever asked for it. */
export interface HeldBlock {
  readonly block: Promise<DecodedBlock>
  /** To be called once the block has come, or is not wanted any more. */
  readonly release: Release
}

interface Slot {
  readonly block: Promise<DecodedBlock>
  readonly sizeBytes: number
  readonly request: BlockRequest
  loaded: boolean
}

const NOTHING_HELD: Release = () => undefined

/**
 * Decoded blocks in memory, least recently used first out, shared by readers. A block under way is in it too,
 * so that many readers of a block make one request. What is under way is not evicted and counts: the cache
 * exceeds `bytesMax` by no more than its readers' read-ahead.
 *
 * The blocks of one request leave together: those that are stored as they are lie in the bytes that came, so that one
 * that stayed would keep them all.
 */
export class BlockCache {
  readonly bytesMax: number
  readonly #slots = new Map<string, Slot>()
  /** What each request brought, least recently used first. */
  readonly #groups = new Map<BlockRequest, Map<string, Slot>>()
  #sizeBytes = 0

  constructor(bytesMax: number = 32 * 2 ** 20) {
    assert(bytesMax >= 0, 'a cache of negative size')
    this.bytesMax = bytesMax
  }

  get sizeBytes(): number {
    return this.#sizeBytes
  }

  has(id: string): boolean {
    return this.#slot(id) !== null
  }

  /** The block, loaded or under way; null if neither. Makes it the most recently used. */
  hold(id: string): HeldBlock | null {
    const slot = this.#slot(id)
    if (slot === null) return null
    const group = present(this.#groups.get(slot.request), 'blocks of a request')
    this.#groups.delete(slot.request)
    this.#groups.set(slot.request, group)
    return { block: slot.block, release: slot.loaded ? NOTHING_HELD : slot.request.hold() }
  }

  /** Takes a block that is being loaded; one whose loading fails leaves at once, and is asked for again. */
  put(id: string, block: Promise<DecodedBlock>, sizeBytes: number, request: BlockRequest): void {
    assert(!this.has(id), `block ${id} is loaded twice`)
    const slot: Slot = { block, sizeBytes, request, loaded: false }
    this.#slots.set(id, slot)
    const group = this.#groups.get(request) ?? new Map<string, Slot>()
    this.#groups.set(request, group.set(id, slot))
    this.#sizeBytes += sizeBytes
    block.then(
      () => {
        slot.loaded = true
        this.#evict()
      },
      // Whoever waits for the block gets the error from the promise itself; read-ahead that nobody waits for
      // is simply requested again when it is wanted.
      () => this.#remove(id, slot),
    )
    this.#evict()
  }

  #slot(id: string): Slot | null {
    const slot = this.#slots.get(id)
    if (slot === undefined) return null
    if (slot.loaded || slot.request.live) return slot
    // Given up by the last who wanted it, and not yet rejected: it would never come.
    this.#remove(id, slot)
    return null
  }

  #evict(): void {
    if (this.#sizeBytes <= this.bytesMax) return
    for (const group of this.#groups.values()) {
      for (const [id, slot] of group) if (slot.loaded) this.#remove(id, slot)
      if (this.#sizeBytes <= this.bytesMax) return
    }
  }

  #remove(id: string, slot: Slot): void {
    if (this.#slots.get(id) !== slot) return
    this.#slots.delete(id)
    this.#sizeBytes -= slot.sizeBytes
    const group = present(this.#groups.get(slot.request), 'blocks of a request')
    group.delete(id)
    if (group.size === 0) this.#groups.delete(slot.request)
  }
}
