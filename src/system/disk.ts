import { Buffer } from 'node:buffer'
import fs from 'node:fs'
import { dirname } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { assert, present } from '../model/assert.js'
import { type ErrorCode, StratalogError } from '../model/errors.js'
import type { Disk, DiskFile } from '../ports/disk.js'

/** More chunks in one vectored write are refused by the kernel (IOV_MAX of Linux and macOS). */
const CHUNKS_PER_WRITE_MAX = 1024
const ZEROS_BYTES = 1 << 20
/** The process (EMFILE) or the machine (ENFILE) has as many files open as it may. */
const NO_DESCRIPTOR = ['EMFILE', 'ENFILE']
/** How long, and how often, a descriptor is waited for. */
const DESCRIPTOR_WAIT_MS = 30_000
const DESCRIPTOR_PAUSE_MS = 50

const CODES: Readonly<Record<string, ErrorCode>> = {
  ENOSPC: 'disk_full',
  EDQUOT: 'disk_full',
  ENOENT: 'file_not_found',
  EEXIST: 'file_exists',
  EACCES: 'access_denied',
  EPERM: 'access_denied',
  EROFS: 'access_denied',
}
const HINTS: Partial<Record<ErrorCode, string>> = {
  disk_full: 'the disk is full: free space on it',
  file_not_found: 'there is no such file or directory',
  file_exists: 'there is a file of that name already',
  access_denied:
    'access is denied: check the owner and mode, and whether the file system is mounted read-only',
}

/** The operating system's files behind the `Disk` port. */
export function realDisk(): Disk {
  return {
    list: (path) => opened<string[]>(path, 'list', (done) => fs.readdir(path, done)),
    makeDirectory: async (path) => {
      await promised(path, 'make directory', (done) => fs.mkdir(path, { recursive: true }, done))
    },
    open: async (path, mode) => {
      const flags = { create: 'wx+', write: 'r+', read: 'r' }[mode]
      return new RealFile(path, await opened<number>(path, 'open', (done) => fs.open(path, flags, done)))
    },
    rename: (from, to) => promised(from, 'rename', (done) => fs.rename(from, to, done)),
    link: (existing, name) => promised(name, 'link', (done) => fs.link(existing, name, done)),
    remove: (path) => promised(path, 'remove', (done) => fs.unlink(path, done)),
    syncDirectory,
    stat,
    space,
  }
}

async function stat(
  path: string,
): Promise<{ sizeBytes: number; directory: boolean; modifiedMs: number } | null> {
  try {
    const found = await promised<fs.Stats>(path, 'stat', (done) => fs.stat(path, done))
    return { sizeBytes: found.size, directory: found.isDirectory(), modifiedMs: found.mtimeMs }
  } catch (error) {
    if (error instanceof StratalogError && error.code === 'file_not_found') return null
    throw error
  }
}

async function syncDirectory(path: string): Promise<void> {
  const fd = await opened<number>(path, 'open', (done) => fs.open(path, 'r', done))
  try {
    await promised<void>(path, 'sync', (done) => fs.fsync(fd, done))
  } finally {
    await promised<void>(path, 'close', (done) => fs.close(fd, done))
  }
}

async function space(path: string): Promise<{ freeBytes: number; totalBytes: number; device: string }> {
  const found = await promised<fs.StatsFs>(path, 'statfs', (done) => fs.statfs(path, done))
  const about = await promised<fs.Stats>(path, 'stat', (done) => fs.stat(path, done))
  return {
    freeBytes: found.bavail * found.bsize,
    totalBytes: found.blocks * found.bsize,
    device: String(about.dev),
  }
}

type Callback<T> = (error: NodeJS.ErrnoException | null, value?: T) => void

/**
 * One callback call of node:fs as a promise: raw calls cost half of what `fs.promises` does on the append
 * path.
 */
function promised<T>(path: string, action: string, call: (done: Callback<T>) => void): Promise<T> {
  return new Promise((resolve, reject) => {
    call((error, value) => {
      if (error) reject(systemError(error, action, path))
      else resolve(value as T)
    })
  })
}

/**
 * A call that opens something. Where no descriptor is left it is made again: nothing has happened to the disk, and a
 * store would take the failure for one of the disk and write nothing any more until a restart (invariant 10). Whoever
 * waits for the store meanwhile treats it as one that is slow.
 */
async function opened<T>(path: string, action: string, call: (done: Callback<T>) => void): Promise<T> {
  const untilMs = performance.now() + DESCRIPTOR_WAIT_MS
  for (;;) {
    try {
      return await promised(path, action, call)
    } catch (error) {
      const errno = error instanceof StratalogError ? error.details.errno : null
      if (!NO_DESCRIPTOR.includes(String(errno)) || performance.now() >= untilMs) throw error
    }
    await sleep(DESCRIPTOR_PAUSE_MS)
  }
}

/** What the system said, as the port names it. */
function systemError(error: NodeJS.ErrnoException, action: string, path: string): StratalogError {
  const code = CODES[error.code ?? ''] ?? 'io_failed'
  const hint = HINTS[code] ?? error.message
  return new StratalogError(code, `${action} ${path}: ${hint}`, {
    cause: error,
    retryable: code === 'disk_full',
    details: { path, directory: dirname(path), errno: error.code ?? null },
  })
}

/**
 * One open descriptor. It is closed only after the calls under way, or a reused number would get their bytes.
 */
class RealFile implements DiskFile {
  readonly #path: string
  readonly #fd: number
  #running = 0
  #closing: Promise<void> | null = null
  #drained: (() => void) | null = null

  constructor(path: string, fd: number) {
    this.#path = path
    this.#fd = fd
  }

  async write(chunks: readonly Uint8Array[], offset: number): Promise<void> {
    const total = chunks.reduce((sum, chunk) => sum + chunk.byteLength, 0)
    let at = offset
    let rest = chunks.filter((chunk) => chunk.byteLength > 0)
    while (rest.length > 0) {
      const now = rest.length > CHUNKS_PER_WRITE_MAX ? rest.slice(0, CHUNKS_PER_WRITE_MAX) : rest
      const written = await this.#call<number>('write', (done) => fs.writev(this.#fd, now, at, done))
      if (written === 0) {
        throw new StratalogError('io_failed', `write ${this.#path}: the system accepted no byte at ${at}`)
      }
      at += written
      rest = without(rest, written)
    }
    assert(at === offset + total, 'a write ended elsewhere than its chunks')
  }

  async read(target: Uint8Array, offset: number): Promise<number> {
    let filled = 0
    while (filled < target.byteLength) {
      const want = target.byteLength - filled
      const got = await this.#call<number>('read', (done) =>
        fs.read(this.#fd, target, filled, want, offset + filled, done),
      )
      if (got === 0) break
      filled += got
    }
    return filled
  }

  dataSync(): Promise<void> {
    return this.#call<void>('sync', (done) => fs.fdatasync(this.#fd, done))
  }

  async preallocate(sizeBytes: number): Promise<void> {
    const zeros = Buffer.alloc(Math.min(ZEROS_BYTES, sizeBytes))
    let at = await this.sizeBytes()
    while (at < sizeBytes) {
      const chunk = zeros.subarray(0, Math.min(zeros.byteLength, sizeBytes - at))
      await this.write([chunk], at)
      at += chunk.byteLength
    }
    // Not fdatasync: the new size and the allocation must be durable too, so that overwrites touch no
    // metadata.
    await this.#call<void>('sync', (done) => fs.fsync(this.#fd, done))
  }

  truncate(sizeBytes: number): Promise<void> {
    return this.#call<void>('truncate', (done) => fs.ftruncate(this.#fd, sizeBytes, done))
  }

  async sizeBytes(): Promise<number> {
    return (await this.#call<fs.Stats>('stat', (done) => fs.fstat(this.#fd, done))).size
  }

  close(): Promise<void> {
    this.#closing ??= this.#closeOnce()
    return this.#closing
  }

  async #closeOnce(): Promise<void> {
    if (this.#running > 0) {
      await new Promise<void>((resolve) => {
        this.#drained = resolve
      })
    }
    await promised<void>(this.#path, 'close', (done) => fs.close(this.#fd, done))
  }

  async #call<T>(action: string, call: (done: Callback<T>) => void): Promise<T> {
    // A call made while others still run on a closing file would be made on a number that may be reused.
    assert(this.#closing === null || this.#running > 0, `${action} of a closed file: ${this.#path}`)
    this.#running += 1
    try {
      return await promised<T>(this.#path, action, call)
    } finally {
      this.#running -= 1
      if (this.#running === 0) this.#drained?.()
    }
  }
}

/** The chunks that are left after `bytes` of them were written. */
function without(chunks: readonly Uint8Array[], bytes: number): Uint8Array[] {
  let left = bytes
  let at = 0
  while (at < chunks.length && left >= present(chunks[at], 'chunk').byteLength) {
    left -= present(chunks[at], 'chunk').byteLength
    at += 1
  }
  const rest = chunks.slice(at)
  if (left > 0) rest[0] = present(rest[0], 'chunk').subarray(left)
  return rest
}
