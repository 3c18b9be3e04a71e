import type { Disk, DiskFile } from '../../ports/disk.js'
import type { LogFile } from './log-file.js'

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
    const { opened, release } = this.hold(file)
    try {
      return await work(await opened)
    } finally {
      await release()
    }
  }

  /** Keeps a file from being recycled until `release` is called, once. */
  hold(file: LogFile): { readonly opened: Promise<DiskFile>; release(): Promise<void> } {
    const handle = this.#handles.get(file) ?? this.#open(file)
    handle.users += 1
    const release = async (): Promise<void> => {
      handle.users -= 1
      if (handle.users === 0) await this.#idle(file, handle)
    }
    return { opened: handle.opened, release }
  }

  #open(file: LogFile): Handle {
    const handle: Handle = { opened: this.#disk.open(file.path, 'read'), users: 0, retired: null }
    // Who only holds the file does not look at this; who reads gets the failure all the same.
    handle.opened.catch(() => undefined)
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
      // A failure to open is told to who wanted to read, and not to whoever happens to make room.
      if (await succeeded(idle.opened)) await (await idle.opened).close()
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
