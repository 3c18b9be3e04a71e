import { dirname } from 'node:path'
import { type ErrorCode, StratalogError } from '../../src/model/errors.js'
import type { Disk, DiskFile } from '../../src/ports/disk.js'

/** Names of calls as `MemoryDisk.fail` sees them. */
export type DiskCall =
  | 'list'
  | 'makeDirectory'
  | 'open'
  | 'rename'
  | 'link'
  | 'remove'
  | 'syncDirectory'
  | 'stat'
  | 'write'
  | 'read'
  | 'dataSync'

interface Content {
  bytes: Buffer
  /** What a crash leaves of the bytes. */
  durable: Buffer
}

/** A disk in memory that forgets in a crash what was not made durable, and fails on demand. */
export class MemoryDisk implements Disk {
  readonly directories: Set<string> = new Set(['/'])
  readonly files: Map<string, Content> = new Map()
  /** Names as a crash would leave them. */
  #durable: Map<string, Content> = new Map()
  /** Set it to make calls fail: the code to fail with, null to let the call be. */
  fail: (call: DiskCall, path: string) => ErrorCode | null = () => null

  /** What a power cut leaves: synced bytes under synced names. Directories stay. */
  crash(): void {
    this.files.clear()
    for (const [path, content] of this.#durable) {
      this.files.set(path, { bytes: Buffer.from(content.durable), durable: content.durable })
    }
    this.fail = () => null
  }

  check(call: DiskCall, path: string): void {
    const code = this.fail(call, path)
    if (code !== null) throw new StratalogError(code, `${call} ${path} failed`)
  }

  async list(path: string): Promise<string[]> {
    this.check('list', path)
    if (!this.directories.has(path)) throw absent(path)
    const all = [...this.directories, ...this.files.keys()]
    return all
      .filter((one) => one !== '/' && dirname(one) === path)
      .map((one) => one.slice(one.lastIndexOf('/') + 1))
  }

  async makeDirectory(path: string): Promise<void> {
    this.check('makeDirectory', path)
    for (let at = path; !this.directories.has(at); at = dirname(at)) this.directories.add(at)
  }

  async open(path: string, mode: 'create' | 'write' | 'read'): Promise<DiskFile> {
    this.check('open', path)
    if (mode === 'create') {
      if (!this.directories.has(dirname(path))) throw absent(path)
      if (this.files.has(path)) throw new StratalogError('file_exists', `${path} exists`)
      this.files.set(path, { bytes: Buffer.alloc(0), durable: Buffer.alloc(0) })
    }
    const content = this.files.get(path)
    if (content === undefined) throw absent(path)
    return new MemoryFile(this, path, content)
  }

  async rename(from: string, to: string): Promise<void> {
    this.check('rename', from)
    const content = this.files.get(from)
    if (content === undefined) throw absent(from)
    this.files.set(to, content)
    this.files.delete(from)
  }

  async link(existing: string, name: string): Promise<void> {
    this.check('link', name)
    const content = this.files.get(existing)
    if (content === undefined) throw absent(existing)
    if (!this.directories.has(dirname(name))) throw absent(name)
    if (this.files.has(name) || this.directories.has(name))
      throw new StratalogError('file_exists', `${name} exists`)
    this.files.set(name, content)
  }

  async remove(path: string): Promise<void> {
    this.check('remove', path)
    if (!this.files.delete(path)) throw absent(path)
  }

  async syncDirectory(path: string): Promise<void> {
    this.check('syncDirectory', path)
    for (const name of this.#durable.keys()) if (dirname(name) === path) this.#durable.delete(name)
    for (const [name, content] of this.files) if (dirname(name) === path) this.#durable.set(name, content)
  }

  async stat(path: string): Promise<{ sizeBytes: number; directory: boolean } | null> {
    this.check('stat', path)
    if (this.directories.has(path)) return { sizeBytes: 0, directory: true }
    const content = this.files.get(path)
    return content === undefined ? null : { sizeBytes: content.bytes.length, directory: false }
  }

  async space(): Promise<{ freeBytes: number; totalBytes: number; device: string }> {
    return { freeBytes: 2 ** 40, totalBytes: 2 ** 40, device: 'memory' }
  }
}

class MemoryFile implements DiskFile {
  readonly #disk: MemoryDisk
  readonly #path: string
  readonly #content: Content

  constructor(disk: MemoryDisk, path: string, content: Content) {
    this.#disk = disk
    this.#path = path
    this.#content = content
  }

  async write(chunks: readonly Uint8Array[], offset: number): Promise<void> {
    this.#disk.check('write', this.#path)
    const data = Buffer.concat(chunks)
    const end = Math.max(this.#content.bytes.length, offset + data.length)
    const bytes = Buffer.alloc(end)
    this.#content.bytes.copy(bytes)
    data.copy(bytes, offset)
    this.#content.bytes = bytes
  }

  async read(target: Uint8Array, offset: number): Promise<number> {
    this.#disk.check('read', this.#path)
    const part = this.#content.bytes.subarray(offset, offset + target.length)
    target.set(part)
    return part.length
  }

  async dataSync(): Promise<void> {
    this.#disk.check('dataSync', this.#path)
    this.#content.durable = Buffer.from(this.#content.bytes)
  }

  async preallocate(sizeBytes: number): Promise<void> {
    if (sizeBytes > this.#content.bytes.length) {
      await this.write([Buffer.alloc(sizeBytes - this.#content.bytes.length)], this.#content.bytes.length)
    }
  }

  async truncate(sizeBytes: number): Promise<void> {
    this.#content.bytes = this.#content.bytes.subarray(0, sizeBytes)
  }

  async sizeBytes(): Promise<number> {
    return this.#content.bytes.length
  }

  async close(): Promise<void> {
    await this.#disk.stat(this.#path)
  }
}

function absent(path: string): StratalogError {
  return new StratalogError('file_not_found', `${path} is not there`)
}
