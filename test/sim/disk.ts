import { dirname } from 'node:path'
import { type ErrorCode, StratalogError } from '../../src/model/errors.js'
import type { Disk, DiskFile } from '../../src/ports/disk.js'
import type { PlantedBug } from './options.js'
import { Inode, Platter } from './platter.js'
import type { SimRandom } from './random.js'
import type { Host, Scheduler } from './scheduler.js'
import type { Trace } from './trace.js'

const PAGE_BYTES = 4_096

/** What a disk does wrong from now on; counts go down as they take effect. */
export interface DiskFaults {
  writeErrors: number
  syncErrors: number
  misdirected: number
  /** Nothing new can be allocated. */
  full: boolean
  /** `dataSync` of a log file returns and does nothing. */
  lies: boolean
  /** No call returns before this virtual time. */
  stalledUntilMs: number
  /** Every call fails, as of a mount whose server is gone. */
  down: boolean
  /** It has only so much room left, and says so; null: plenty. */
  freeBytes: number | null
}

interface PendingWrite {
  readonly inode: Inode
  readonly data: Uint8Array
  readonly offset: number
}

/**
 * One disk under virtual time: calls take a while, and what is under way when the process dies happened wholly, in
 * part or not. Reads of what programs wrote see it at once; only `platter` knows what is durable.
 */
export class SimDisk {
  readonly name: string
  readonly platter: Platter = new Platter()
  readonly faults: DiskFaults = {
    writeErrors: 0,
    syncErrors: 0,
    misdirected: 0,
    full: false,
    lies: false,
    stalledUntilMs: 0,
    down: false,
    freeBytes: null,
  }
  /** Told of each file that is removed, before it is. */
  onRemove: (path: string) => void = () => {}
  readonly scheduler: Scheduler
  readonly random: SimRandom
  readonly trace: Trace
  readonly bug: PlantedBug | null
  readonly pending: Map<PendingWrite, Host> = new Map()

  constructor(name: string, scheduler: Scheduler, random: SimRandom, trace: Trace, bug: PlantedBug | null) {
    this.name = name
    this.scheduler = scheduler
    this.random = random
    this.trace = trace
    this.bug = bug
  }

  /** The disk as a process sees it. */
  mount(host: Host): Disk {
    return new MountedDisk(this, host)
  }

  /** The process died: what it was writing is written as far as it had got. */
  hostDied(host: Host): void {
    for (const [write, owner] of this.pending) {
      if (owner !== host) continue
      this.pending.delete(write)
      const pages = this.random.below(Math.ceil(write.data.byteLength / PAGE_BYTES) + 1)
      write.inode.write(write.data.subarray(0, pages * PAGE_BYTES), write.offset)
    }
  }

  powerCut(): void {
    this.platter.powerCut(this.random, (kind, chance) => {
      if (!this.random.chance(chance)) return false
      this.trace.faults.set(kind, (this.trace.faults.get(kind) ?? 0) + 1)
      return true
    })
  }
}

class MountedDisk implements Disk {
  readonly #disk: SimDisk
  readonly #host: Host

  constructor(disk: SimDisk, host: Host) {
    this.#disk = disk
    this.#host = host
  }

  async list(path: string): Promise<string[]> {
    this.checkUp(path)
    const { names, directories } = this.#disk.platter
    if (!directories.has(path)) throw failure('file_not_found', path)
    return [...directories, ...names.keys()]
      .filter((one) => one !== '/' && dirname(one) === path)
      .map((one) => one.slice(one.lastIndexOf('/') + 1))
      .sort()
  }

  async makeDirectory(path: string): Promise<void> {
    this.checkUp(path)
    const { directories } = this.#disk.platter
    for (let at = path; !directories.has(at); at = dirname(at)) directories.add(at)
  }

  open(path: string, mode: 'create' | 'write' | 'read'): Promise<DiskFile> {
    return this.call(0.1, path, () => {
      const { platter, faults, trace } = this.#disk
      if (mode === 'create') {
        if (!platter.directories.has(dirname(path))) throw failure('file_not_found', path)
        if (platter.names.has(path)) throw failure('file_exists', path)
        if (faults.full) {
          trace.fault('disk-full', `${this.#disk.name} create ${path}`)
          throw failure('disk_full', path)
        }
        platter.set(path, new Inode())
      }
      const inode = platter.names.get(path)
      if (inode === undefined) throw failure('file_not_found', path)
      return new MountedFile(this, this.#disk, this.#host, path, inode)
    })
  }

  rename(from: string, to: string): Promise<void> {
    return this.call(0.1, from, () => {
      const { platter, trace } = this.#disk
      const inode = platter.names.get(from)
      if (inode === undefined) throw failure('file_not_found', from)
      if (platter.names.get(to)?.published) trace.violate(6, `${to} is replaced`)
      platter.set(to, inode, from)
    })
  }

  link(existing: string, name: string): Promise<void> {
    return this.call(0.1, name, () => {
      const { platter } = this.#disk
      const inode = platter.names.get(existing)
      if (inode === undefined || !platter.directories.has(dirname(name)))
        throw failure('file_not_found', existing)
      if (platter.names.has(name) || platter.directories.has(name)) throw failure('file_exists', name)
      inode.published = true
      platter.set(name, inode)
    })
  }

  remove(path: string): Promise<void> {
    return this.call(0.1, path, () => {
      if (!this.#disk.platter.names.has(path)) throw failure('file_not_found', path)
      this.#disk.onRemove(path)
      this.#disk.platter.remove(path)
    })
  }

  syncDirectory(path: string): Promise<void> {
    return this.call(1, path, () => {
      if (this.#disk.bug !== 'forgets-directory-sync') this.#disk.platter.syncDirectory(path)
    })
  }

  async stat(path: string): Promise<{ sizeBytes: number; directory: boolean } | null> {
    this.checkUp(path)
    const { names, directories } = this.#disk.platter
    if (directories.has(path)) return { sizeBytes: 0, directory: true }
    const inode = names.get(path)
    return inode === undefined ? null : { sizeBytes: inode.bytes.length, directory: false }
  }

  space(path: string): Promise<{ freeBytes: number; totalBytes: number; device: string }> {
    const freeBytes = this.#disk.faults.full ? 0 : (this.#disk.faults.freeBytes ?? 2 ** 30)
    return this.call(0.05, path, () => ({ freeBytes, totalBytes: 2 ** 31, device: this.#disk.name }))
  }

  checkUp(path: string): void {
    if (!this.#disk.faults.down) return
    throw failure('io_failed', path)
  }

  /** One call to the system: its effect, and its failure, come after a while. */
  call<T>(aboutMs: number, path: string, effect: () => T): Promise<T> {
    const { scheduler, random, faults } = this.#disk
    const stalledMs = Math.max(0, faults.stalledUntilMs - scheduler.nowMs)
    return new Promise((resolve, reject) => {
      scheduler.after(stalledMs + random.between(0.5, 1.5) * aboutMs, this.#host, () => {
        try {
          this.checkUp(path)
          resolve(effect())
        } catch (error) {
          reject(error)
        }
      })
    })
  }
}

class MountedFile implements DiskFile {
  readonly #mount: MountedDisk
  readonly #disk: SimDisk
  readonly #host: Host
  readonly #path: string
  readonly #inode: Inode

  constructor(mount: MountedDisk, disk: SimDisk, host: Host, path: string, inode: Inode) {
    this.#mount = mount
    this.#disk = disk
    this.#host = host
    this.#path = path
    this.#inode = inode
  }

  write(chunks: readonly Uint8Array[], offset: number): Promise<void> {
    // A copy, since half of it may be applied after the owner is gone.
    const write = { inode: this.#inode, data: Buffer.concat(chunks), offset }
    this.#disk.pending.set(write, this.#host)
    return this.#mount
      .call(0.3, this.#path, () => this.#written(write))
      .finally(() => this.#disk.pending.delete(write))
  }

  #written(write: PendingWrite): void {
    const { faults, trace, name, random } = this.#disk
    this.#disk.pending.delete(write)
    const { data, offset } = write
    if (this.#inode.published) trace.violate(6, `${this.#path} is written to under its name`)
    if (faults.full && offset + data.byteLength > this.#inode.bytes.length) {
      trace.fault('disk-full', `${name} write ${this.#path}`)
      throw failure('disk_full', this.#path)
    }
    if (faults.writeErrors > 0) {
      faults.writeErrors -= 1
      trace.fault('write-error', `${name} ${this.#path} at ${offset}`)
      this.#inode.write(data.subarray(0, random.below(data.byteLength)), offset)
      throw failure('io_failed', this.#path)
    }
    if (faults.misdirected > 0 && this.#isLog && this.#inode.bytes.length > data.byteLength) {
      faults.misdirected -= 1
      const elsewhere = PAGE_BYTES * random.below((this.#inode.bytes.length - data.byteLength) / PAGE_BYTES)
      trace.fault('misdirected-write', `${name} ${this.#path} ${offset} → ${elsewhere}`)
      this.#inode.write(data, elsewhere)
      return
    }
    this.#inode.write(data, offset)
  }

  get #isLog(): boolean {
    return this.#path.includes('/log-')
  }

  read(target: Uint8Array, offset: number): Promise<number> {
    return this.#mount.call(0.2, this.#path, () => {
      const part = this.#inode.bytes.subarray(offset, offset + target.length)
      target.set(part)
      return part.length
    })
  }

  dataSync(): Promise<void> {
    const { bug } = this.#disk
    const early = bug === 'acknowledges-before-sync' && this.#isLog
    const forgotten = bug === 'archive-forgets-sync' && this.#disk.name === 'archive'
    return this.#mount.call(early ? 0 : 2, this.#path, () => {
      if (early) void this.#mount.call(20, this.#path, () => this.#synced()).catch(() => {})
      else if (!forgotten) this.#synced()
    })
  }

  #synced(): void {
    const { faults, trace, name, random } = this.#disk
    if (faults.lies && this.#isLog) {
      trace.fault('lying-sync', `${name} ${this.#path}`)
      return
    }
    if (faults.syncErrors > 0) {
      faults.syncErrors -= 1
      trace.fault('sync-error', `${name} ${this.#path}`)
      // The pages are marked clean although some never reached the disk: a second sync would say that all is well.
      this.#inode.sync([...this.#inode.dirty].filter(() => random.chance(0.5)))
      throw failure('io_failed', this.#path)
    }
    this.#inode.sync()
  }

  preallocate(sizeBytes: number): Promise<void> {
    return this.#mount.call(3, this.#path, () => {
      const { faults, trace, name } = this.#disk
      const missing = sizeBytes - this.#inode.bytes.length
      if (missing <= 0) return
      if (faults.full) {
        trace.fault('disk-full', `${name} allocate ${this.#path}`)
        throw failure('disk_full', this.#path)
      }
      const grown = Buffer.alloc(sizeBytes)
      this.#inode.bytes.copy(grown)
      this.#inode.bytes = grown
      this.#inode.sync()
    })
  }

  async truncate(sizeBytes: number): Promise<void> {
    this.#inode.truncate(sizeBytes)
  }

  async sizeBytes(): Promise<number> {
    return this.#inode.bytes.length
  }

  async close(): Promise<void> {
    await Promise.resolve()
  }
}

function failure(code: ErrorCode, path: string): StratalogError {
  return new StratalogError(code, `${code} at ${path} in the simulator`, { retryable: code === 'disk_full' })
}
