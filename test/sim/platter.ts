import { dirname } from 'node:path'
import { present } from '../../src/model/assert.js'
import type { FaultKind } from './options.js'
import type { SimRandom } from './random.js'

/** What a disk writes as a whole, or tears. */
const SECTOR_BYTES = 512

/** A file's bytes as programs see them, and as a power cut would leave them. */
export class Inode {
  bytes: Buffer = Buffer.alloc(0)
  durable: Buffer = Buffer.alloc(0)
  /** Sectors that were written and not synced. */
  readonly dirty: Set<number> = new Set()
  /** Truncated and not synced: either size may be found after a power cut. */
  shrunk = false
  /** It has a name that promises that it never changes (invariant 6). */
  published = false

  write(data: Uint8Array, offset: number): void {
    const end = offset + data.byteLength
    if (end > this.bytes.length) {
      const grown = Buffer.alloc(end)
      this.bytes.copy(grown)
      this.bytes = grown
    }
    this.bytes.set(data, offset)
    for (let at = Math.floor(offset / SECTOR_BYTES); at * SECTOR_BYTES < end; at += 1) this.dirty.add(at)
  }

  truncate(sizeBytes: number): void {
    if (sizeBytes >= this.bytes.length) return
    this.bytes = Buffer.from(this.bytes.subarray(0, sizeBytes))
    this.shrunk = true
    for (const at of this.dirty) if (at * SECTOR_BYTES >= sizeBytes) this.dirty.delete(at)
  }

  /** Makes all that was written durable; `sectors`: only those, and the rest counts as clean all the same. */
  sync(sectors: readonly number[] | null = null): void {
    if (sectors === null && this.durable.length !== this.bytes.length) this.#resize(this.bytes.length)
    for (const at of sectors ?? this.dirty) this.#settle(at, SECTOR_BYTES)
    this.dirty.clear()
    this.shrunk = false
  }

  /** What a power cut leaves of what was not synced: each sector new, old, or a part of both. */
  powerCut(random: SimRandom, keeps: (kind: FaultKind, chance: number) => boolean): void {
    if (this.shrunk && random.chance(0.5)) this.#resize(this.bytes.length)
    for (const at of [...this.dirty].sort((a, b) => a - b)) {
      if (keeps('torn-sector', 0.1)) this.#settle(at, 1 + random.below(SECTOR_BYTES - 1))
      else if (keeps('unsynced-kept', 0.5)) this.#settle(at, SECTOR_BYTES)
      else keeps('unsynced-lost', 1)
    }
    this.dirty.clear()
    this.shrunk = false
    this.bytes = Buffer.from(this.durable)
  }

  /** Flips a bit of what is durable. */
  rot(random: SimRandom): void {
    if (this.durable.length === 0) return
    const at = random.below(this.durable.length)
    const mask = 1 << random.below(8)
    this.durable[at] = present(this.durable[at], 'byte') ^ mask
    if (at < this.bytes.length) this.bytes[at] = present(this.bytes[at], 'byte') ^ mask
  }

  #settle(sector: number, bytes: number): void {
    const from = sector * SECTOR_BYTES
    const to = Math.min(from + bytes, this.bytes.length)
    if (to <= from) return
    if (to > this.durable.length) this.#resize(to)
    this.bytes.copy(this.durable, from, from, to)
  }

  #resize(sizeBytes: number): void {
    const sized = Buffer.alloc(sizeBytes)
    this.durable.copy(sized)
    this.durable = sized
  }
}

type NameChange =
  | { readonly kind: 'set'; readonly path: string; readonly inode: Inode; readonly from: string | null }
  | { readonly kind: 'remove'; readonly path: string }

/** What is on a disk: names, bytes, and what of both a power cut would leave. Knows no time and no process. */
export class Platter {
  readonly names: Map<string, Inode> = new Map()
  readonly directories: Set<string> = new Set(['/'])
  #durable: Map<string, Inode> = new Map()
  /** Changes of names since the last sync of their directory, in order: a journal keeps a beginning of them. */
  readonly #changes = new Map<string, NameChange[]>()

  set(path: string, inode: Inode, from: string | null = null): void {
    this.names.set(path, inode)
    if (from !== null) this.names.delete(from)
    this.#change({ kind: 'set', path, inode, from })
  }

  remove(path: string): void {
    this.names.delete(path)
    this.#change({ kind: 'remove', path })
  }

  syncDirectory(path: string): void {
    this.#apply(path, Number.POSITIVE_INFINITY)
    this.#changes.delete(path)
  }

  /** The bytes that a power cut would leave under a name; null: it would leave no such file. */
  durableBytes(path: string): Buffer | null {
    return this.#durable.get(path)?.durable ?? null
  }

  /** Names that a power cut would leave, in their order. */
  durableNames(): string[] {
    return [...this.#durable.keys()].sort()
  }

  powerCut(random: SimRandom, keeps: (kind: FaultKind, chance: number) => boolean): void {
    for (const [path, changes] of this.#changes) this.#apply(path, random.below(changes.length + 1))
    this.#changes.clear()
    const inodes = new Set([...this.names.values(), ...this.#durable.values()])
    for (const inode of inodes) inode.powerCut(random, keeps)
    this.names.clear()
    for (const [path, inode] of this.#durable) this.names.set(path, inode)
  }

  /** All files are gone, as after a new file system was made. */
  format(): void {
    this.names.clear()
    this.#durable = new Map()
    this.#changes.clear()
  }

  #change(change: NameChange): void {
    const directory = dirname(change.path)
    const changes = this.#changes.get(directory) ?? []
    changes.push(change)
    this.#changes.set(directory, changes)
  }

  #apply(directory: string, count: number): void {
    for (const change of (this.#changes.get(directory) ?? []).slice(0, count)) {
      if (change.kind === 'remove') this.#durable.delete(change.path)
      else {
        this.#durable.set(change.path, change.inode)
        if (change.from !== null) this.#durable.delete(change.from)
      }
    }
  }
}
