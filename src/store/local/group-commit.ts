import { assert, present } from '../../model/assert.js'
import { isStratalogError, StratalogError } from '../../model/errors.js'
import type { Clock, Timer } from '../../ports/clock.js'
import type { Logger } from '../../ports/logger.js'
import type { CommitItem } from './commit-item.js'
import { GROUP_HEADER_BYTES, PAGE_BYTES, pageEnd } from './frame.js'
import { GroupEncoder } from './group.js'
import type { StoreHealth } from './health.js'
import { indexBlockBytes, markBytes } from './index-block.js'
import { IndexRoom } from './index-room.js'
import { endWithIndexBlock } from './index-writer.js'
import type { Ledger } from './ledger.js'
import type { LogFile } from './log-file.js'
import type { Space, WritableFile } from './space.js'

/** Kept at the end of a file for the mark of a clean end, and before it for the mark of an idle log. */
const CLEAN_END_BYTES = PAGE_BYTES
const MARKS_BYTES = 2 * PAGE_BYTES

/** What the append path tells the index. */
export interface CommitEvents {
  /** The frame is durable at `offset`; called for all frames of a group before the first promise settles. */
  durable(item: CommitItem, file: LogFile, offset: number): void
  /** A file takes no more frames. */
  fileClosed(file: LogFile): void
}

export interface CommitOptions {
  readonly clock: Clock
  readonly logger: Logger
  readonly health: StoreHealth
  readonly space: Space
  readonly events: CommitEvents
  readonly fileBytes: number
  readonly groupBytesMax: number
  readonly pendingBytesMax: number
  readonly idleMarkMs: number
}

/** The file that is being written. */
interface OpenFile extends WritableFile {
  /** Where the next group begins. */
  end: number
  /** End of the last group: everything below is durable. */
  durableEnd: number
  groups: number
  /** The last group is an empty one: all others are known to be durable. */
  marked: boolean
  /** Taken from the reserve of a full disk: takes no entries until there is a reserve again. */
  marksOnly: boolean
  readonly previousGeneration: bigint
  readonly previousOffset: number
}

/**
 * The append path. Frames wait in one queue; one loop takes what waits as a group, writes it with one
 * vectored write and one sync, and settles its frames in order. While a group is on its way the next one
 * gathers, so groups grow with the load and there is one sync for a group whatever the number of ledgers.
 */
export class GroupCommit {
  readonly #options: CommitOptions
  readonly #encoder: GroupEncoder = new GroupEncoder()
  #waiting: CommitItem[] = []
  #inFlight: readonly CommitItem[] = []
  #pendingBytes = 0
  #open: OpenFile | null = null
  #loop: Promise<void> | null = null
  #markDue = false
  #timer: Timer | null = null
  #lastGroupMs = 0

  constructor(options: CommitOptions) {
    this.#options = options
  }

  /** Accepted and not yet durable. */
  get pendingBytes(): number {
    return this.#pendingBytes
  }

  /** Whether this run has a file to write to. */
  get isOpen(): boolean {
    return this.#open !== null
  }

  #checkRoom(item: CommitItem): void {
    const { fileBytes, pendingBytesMax } = this.#options
    // In an empty file, with its place in the index block: a mark stands there once more.
    const isEntry = item.kind === 'entry'
    const indexBytes = indexBlockBytes(isEntry ? 1 : 0, 1, isEntry ? 0 : markBytes(item))
    const room = (item.usesReserve ? marksEnd(fileBytes) : entriesEnd(fileBytes)) - indexBytes
    if (pageEnd(GROUP_HEADER_BYTES + item.bytes) > room) {
      throw new StratalogError(
        'invalid_argument',
        `a body of ${item.body.byteLength} bytes does not fit a file of ${fileBytes}: write smaller ones`,
        { expected: room - GROUP_HEADER_BYTES, found: item.bytes },
      )
    }
    // Marks may still come where entries may not: a fence or a delete must not wait for writers to slow down.
    const limit = item.kind === 'entry' ? pendingBytesMax : 2 * pendingBytesMax
    if (this.#pendingBytes > 0 && this.#pendingBytes + item.bytes > limit) {
      throw new StratalogError(
        'backpressure',
        `${this.#pendingBytes} bytes wait for the disk, the limit is ${limit}: await earlier appends`,
        { retryable: true, expected: limit, found: this.#pendingBytes },
      )
    }
  }

  /**
   * Puts a frame into the queue. Throws `invalid_argument` if no file can hold it, `backpressure` if too much
   * waits.
   */
  enqueue(item: CommitItem): void {
    this.#checkRoom(item)
    this.#waiting.push(item)
    this.#pendingBytes += item.bytes
    this.#kick()
  }

  /**
   * Takes back what a fence forbids and is not on its way to the disk yet; the rest settles before the fence.
   */
  takeBackPlainAdds(ledger: Ledger, error: StratalogError): void {
    this.#rejectWaiting(error, (item) => item.ledger === ledger && item.fenceable)
  }

  /** An add of that entry that has not settled. */
  pendingEntry(ledgerId: bigint, entryId: bigint): CommitItem | null {
    const wanted = (item: CommitItem): boolean =>
      item.kind === 'entry' && item.ledgerId === ledgerId && item.entryId === entryId
    return this.#inFlight.find(wanted) ?? this.#waiting.find(wanted) ?? null
  }

  /** Resolves when nothing waits. */
  async drain(): Promise<void> {
    while (this.#loop !== null) await this.#loop
  }

  /** After nothing is accepted any more: writes the mark of a clean end and closes the file. */
  async finish(): Promise<void> {
    this.#timer?.cancel()
    // The mark of an idle log may have fallen due since the queue was drained: both would be written to one place.
    await this.drain()
    const open = this.#open
    if (open === null) return
    this.#open = null
    try {
      if (this.#options.health.poisoned === null) {
        await this.#writeMark(open, true)
        closeFile(open)
        if (open.groups > 0) await this.#endWithIndex(open)
      }
    } catch (error) {
      throw this.#options.health.poison(error)
    } finally {
      await open.handle.close()
    }
  }

  /**
   * Nothing is ever appended to a file that was closed: what it did not use goes back, or each short run of a command
   * would leave a whole file behind. The mark is durable, so a block that can't be written loses nothing and is no
   * failure of the end: start scans the file.
   */
  async #endWithIndex({ file, handle }: OpenFile): Promise<void> {
    try {
      await endWithIndexBlock(file, handle)
    } catch (error) {
      if (!isStratalogError(error)) throw error
      this.#options.logger.warn({ error, path: file.path }, 'a file was closed without its index')
    }
  }

  #kick(): void {
    if (this.#loop !== null) return
    this.#loop = this.#run().finally(() => {
      this.#loop = null
      // Something may have been added after the last look at the queue.
      if (this.#waiting.length > 0) this.#kick()
    })
  }

  async #run(): Promise<void> {
    // What is appended in this same turn goes into the first group.
    await Promise.resolve()
    try {
      while (await this.#step()) await Promise.resolve()
    } catch (error) {
      const poisoned = this.#options.health.poison(error)
      const lost = this.#inFlight
      this.#inFlight = []
      for (const item of lost) this.#fail(item, poisoned)
      this.#rejectWaiting(poisoned, () => true)
    }
  }

  /** One group, one mark, or one new file; false when there is nothing to do. */
  async #step(): Promise<boolean> {
    const { poisoned } = this.#options.health
    if (poisoned !== null) throw poisoned
    if (this.#waiting.length === 0) {
      const open = this.#open
      if (!this.#markDue || open === null) return false
      this.#markDue = false
      if (!open.marked) await this.#writeMark(open, false)
      return true
    }
    const group = this.#takeGroup()
    if (group.length > 0) await this.#commit(present(this.#open, 'open file'), group)
    else await this.#makeRoom(present(this.#waiting[0], 'waiting frame'))
    return true
  }

  /** What waits, in order, as much as fits into a group and the file; nothing if the first does not. */
  #takeGroup(): CommitItem[] {
    const open = this.#open
    if (open === null) return []
    const { fileBytes, groupBytesMax } = this.#options
    const entryEnd = open.marksOnly ? 0 : entriesEnd(fileBytes)
    const index = new IndexRoom(open.file)
    let count = 0
    let groupBytes = GROUP_HEADER_BYTES
    for (const item of this.#waiting) {
      groupBytes += item.bytes
      const indexBytes = index.with(item)
      if (open.end + pageEnd(groupBytes) + indexBytes > (item.usesReserve ? marksEnd(fileBytes) : entryEnd))
        break
      if (count > 0 && groupBytes > groupBytesMax) break
      count += 1
    }
    const group = this.#waiting.slice(0, count)
    this.#waiting = this.#waiting.slice(count)
    return group
  }

  async #commit(open: OpenFile, group: readonly CommitItem[]): Promise<void> {
    this.#inFlight = group
    const begin = open.end
    const offsets = await this.#writeGroup(open, group, false)
    group.forEach((item, at) => {
      this.#options.events.durable(item, open.file, begin + present(offsets[at], 'frame offset'))
    })
    // In the same turn, and not before: whatever fails above must not leave anybody waiting.
    this.#inFlight = []
    for (const item of group) {
      this.#pendingBytes -= item.bytes
      item.succeed()
    }
    open.marked = false
    this.#lastGroupMs = this.#options.clock.monotonicMs()
    this.#armMark(this.#options.idleMarkMs)
    if (open.end > this.#options.fileBytes / 2) this.#options.space.prepareAhead()
  }

  /**
   * Writes and syncs one group and moves the end of the file behind it. Returns where its frames begin in it.
   */
  async #writeGroup(open: OpenFile, group: readonly CommitItem[], cleanEnd: boolean): Promise<number[]> {
    const { chunks, groupBytes, frameOffsets } = this.#encoder.encode(group, open.file.seed, {
      generation: open.file.generation,
      groupNumber: open.groups,
      cleanEnd,
      durableOffset: open.durableEnd,
      previousGeneration: open.previousGeneration,
      previousOffset: open.previousOffset,
    })
    assert(open.end + pageEnd(groupBytes) <= open.file.sizeBytes, 'a group does not fit into its file')
    await open.handle.write(chunks, open.end)
    await open.handle.dataSync()
    open.durableEnd = open.end + groupBytes
    open.end = pageEnd(open.durableEnd)
    open.groups += 1
    open.file.cleanEnd = cleanEnd
    return frameOffsets
  }

  /** An empty group states that all before it is durable: damage there is then told from a torn end. */
  async #writeMark(open: OpenFile, cleanEnd: boolean): Promise<void> {
    const limit = open.file.sizeBytes - open.file.indexBytes(0, 0, 0) - (cleanEnd ? 0 : CLEAN_END_BYTES)
    if (open.end + PAGE_BYTES > limit) return
    await this.#writeGroup(open, [], cleanEnd)
    open.marked = true
    this.#encoder.shrink()
  }

  /** Goes on to the next file, or, if there is no space, refuses what needs it. */
  async #makeRoom(first: CommitItem): Promise<void> {
    const { space, health } = this.#options
    const purpose = first.usesReserve ? 'marks' : 'entries'
    try {
      const open = this.#open
      if (open?.marksOnly && purpose === 'entries') {
        await space.replenish()
        open.marksOnly = false
      } else {
        await this.#goOn(await space.take(open === null ? 'first' : purpose), purpose)
      }
    } catch (error) {
      if (!isStratalogError(error, 'disk_full')) throw error
      const full = health.noteFull(error)
      this.#rejectWaiting(full, (item) => purpose === 'marks' || !item.usesReserve)
      return
    }
    if (purpose === 'entries') health.noteSpace()
  }

  async #goOn(next: WritableFile, purpose: 'marks' | 'entries'): Promise<void> {
    const last = this.#open
    this.#open = {
      ...next,
      end: 0,
      durableEnd: 0,
      groups: 0,
      marked: true,
      marksOnly: purpose === 'marks' && this.#options.health.full !== null,
      previousGeneration: last?.file.generation ?? 0n,
      previousOffset: last?.durableEnd ?? 0,
    }
    if (last === null) return
    await last.handle.close()
    closeFile(last)
    this.#options.events.fileClosed(last.file)
  }

  #rejectWaiting(error: StratalogError, which: (item: CommitItem) => boolean): void {
    const rejected = this.#waiting.filter(which)
    if (rejected.length === 0) return
    this.#waiting = this.#waiting.filter((item) => !which(item))
    for (const item of rejected) this.#fail(item, error)
  }

  #fail(item: CommitItem, error: StratalogError): void {
    this.#pendingBytes -= item.bytes
    item.fail(error)
  }

  #armMark(delayMs: number): void {
    this.#timer ??= this.#options.clock.setTimer(delayMs, () => {
      this.#timer = null
      const { clock, idleMarkMs } = this.#options
      const idleMs = clock.monotonicMs() - this.#lastGroupMs
      if (idleMs < idleMarkMs || this.#loop !== null) {
        // A group that is under way may hang for long, and what it ends with is idle at the earliest after the whole time.
        this.#armMark(this.#loop !== null ? idleMarkMs : Math.max(1, idleMarkMs - idleMs))
        return
      }
      this.#markDue = true
      this.#kick()
    })
  }
}

/** Nothing is appended to the file any more. */
function closeFile(open: OpenFile): void {
  const { file, durableEnd, previousGeneration, previousOffset } = open
  file.end = durableEnd
  file.previousGeneration = previousGeneration
  file.previousOffset = previousOffset
  file.closed = true
}

/** Behind it is room for the marks of an idle log and of a clean end. */
function marksEnd(fileBytes: number): number {
  return fileBytes - MARKS_BYTES
}

/** Entries end here, so that fences, seals and deletes still find room when the next file can't be had. */
function entriesEnd(fileBytes: number): number {
  return marksEnd(fileBytes) - (fileBytes >= 4 << 20 ? 64 << 10 : 2 * PAGE_BYTES)
}
