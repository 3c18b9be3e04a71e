import { join } from 'node:path'
import { assert, present } from '../../model/assert.js'
import type { Disk, DiskFile } from '../../ports/disk.js'
import type { FileSlot } from './entry-index.js'
import { frameSeed } from './frame.js'
import { logName } from './names.js'

/** One file of the log and what is known of its contents. */
export class LogFile {
  readonly generation: bigint
  readonly path: string
  readonly sizeBytes: number
  readonly slot: FileSlot
  readonly seed: number
  /** Nothing is appended any more. */
  closed = false
  /** Entries that the index points to, and their bytes: at 0 a closed file can be freed. */
  liveEntries = 0
  liveBytes = 0
  /** Ledgers with any frame here, dead ones too: their tombstones must outlive this file. */
  readonly ledgerIds: Set<bigint> = new Set()

  constructor(generation: bigint, path: string, sizeBytes: number, slot: FileSlot, seed: number) {
    this.generation = generation
    this.path = path
    this.sizeBytes = sizeBytes
    this.slot = slot
    this.seed = seed
  }
}

/** The files that hold frames, by slot and in order of generation. */
export class LogFiles {
  readonly #directory: string
  readonly #storeId: string
  readonly #bySlot: (LogFile | null)[] = []
  readonly #free: FileSlot[] = []
  readonly #all = new Set<LogFile>()

  constructor(directory: string, storeId: string) {
    this.#directory = directory
    this.#storeId = storeId
  }

  add(generation: bigint, sizeBytes: number): LogFile {
    const slot = this.#free.pop() ?? this.#bySlot.length
    const path = join(this.#directory, logName(generation))
    const file = new LogFile(generation, path, sizeBytes, slot, frameSeed(this.#storeId, generation))
    this.#bySlot[slot] = file
    this.#all.add(file)
    return file
  }

  /** Forgets a file that nothing points to. */
  drop(file: LogFile): void {
    assert(file.liveEntries === 0, `a file with live entries is dropped: ${file.path}`)
    assert(this.#bySlot[file.slot] === file, `a file is dropped twice: ${file.path}`)
    this.#bySlot[file.slot] = null
    this.#free.push(file.slot)
    this.#all.delete(file)
  }

  at(slot: FileSlot): LogFile {
    return present(this.#bySlot[slot], `file of slot ${slot}`)
  }

  /** In order of generation. */
  [Symbol.iterator](): IterableIterator<LogFile> {
    return this.#all.values()
  }
}

const HANDLES_MAX = 64

interface Handle {
  readonly opened: Promise<DiskFile>
  users: number
  /** Set when the file is to be closed for good: called when the last user is gone. */
  retired: (() => void) | null
}

/**
 * Open files for reading: at most {@link HANDLES_MAX} that nobody is using. A file is in use from the call of
 * `use` on, so that whoever looked a position up and calls in the same turn never reads a recycled file.
 */
export class FileHandles {
  readonly #disk: Disk
  readonly #handles = new Map<LogFile, Handle>()

  constructor(disk: Disk) {
    this.#disk = disk
  }

  async use<T>(file: LogFile, work: (handle: DiskFile) => Promise<T>): Promise<T> {
    const handle = this.#handles.get(file) ?? this.#open(file)
    handle.users += 1
    try {
      return await work(await handle.opened)
    } finally {
      handle.users -= 1
      if (handle.users === 0) await this.#idle(file, handle)
    }
  }

  #open(file: LogFile): Handle {
    const handle: Handle = { opened: this.#disk.open(file.path, 'read'), users: 0, retired: null }
    this.#handles.set(file, handle)
    return handle
  }

  async #idle(file: LogFile, handle: Handle): Promise<void> {
    if (handle.retired !== null) {
      handle.retired()
      return
    }
    if (!(await succeeded(handle.opened))) {
      // The next reader tries again; this one has already got the failure.
      if (this.#handles.get(file) === handle && handle.users === 0) this.#handles.delete(file)
      return
    }
    // Least recently used first: a map keeps the order of insertion.
    if (this.#handles.get(file) === handle) {
      this.#handles.delete(file)
      this.#handles.set(file, handle)
    }
    if (this.#handles.size <= HANDLES_MAX) return
    for (const [other, idle] of this.#handles) {
      if (idle.users > 0 || idle.retired !== null) continue
      this.#handles.delete(other)
      await (await idle.opened).close()
      return
    }
  }

  /** Waits until nobody reads the file, and closes it. */
  async retire(file: LogFile): Promise<void> {
    const handle = this.#handles.get(file)
    if (handle === undefined) return
    if (handle.users > 0) {
      await new Promise<void>((resolve) => {
        handle.retired = resolve
      })
    }
    this.#handles.delete(file)
    if (await succeeded(handle.opened)) await (await handle.opened).close()
  }

  async closeAll(): Promise<void> {
    for (const file of [...this.#handles.keys()]) await this.retire(file)
  }
}

async function succeeded(opened: Promise<DiskFile>): Promise<boolean> {
  return opened.then(
    () => true,
    () => false,
  )
}
