import { Buffer } from 'node:buffer'
import { cp, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { PackagedEntry } from '../../src/format/packaged-entry.js'
import { type ErrorCode, StratalogError } from '../../src/model/errors.js'
import type { Disk, DiskFile } from '../../src/ports/disk.js'
import type { LedgerHeader, SegmentStore } from '../../src/ports/segment-store.js'
import type { LocalStoreOptions } from '../../src/store/local/options.js'
import { openLocalStore } from '../../src/store/local/store.js'
import { realClock } from '../../src/system/clock.js'
import { realDisk } from '../../src/system/disk.js'
import { silentLogger } from '../../src/system/logger.js'
import { realRandom } from '../../src/system/random.js'
import { MemoryDisk } from './memory-disk.js'

export const LOG_ID = '0123456789abcdef0123456789abcdef'

/** Opens a small store that never marks itself idle within a test. */
export function openStore(directory: string, change: Partial<LocalStoreOptions> = {}): Promise<SegmentStore> {
  return openLocalStore({
    directory,
    logId: LOG_ID,
    create: true,
    disk: realDisk(),
    clock: realClock(),
    random: realRandom(),
    logger: silentLogger(),
    fileBytes: 256 << 10,
    idleMarkMs: 60_000,
    ...change,
  })
}

export function header(ledgerId: bigint): LedgerHeader {
  return {
    ledgerId,
    digestType: 'CRC32C',
    ensembleSize: 1,
    writeQuorum: 1,
    ackQuorum: 1,
    members: ['a'],
    firstEntryId: 0n,
    segment: null,
    preceding: null,
  }
}

/** An entry with the header the store looks at; the digest is left out. */
export function entryOf(
  ledgerId: bigint,
  entryId: bigint,
  payloadBytes: number,
  lac: bigint = entryId - 1n,
): PackagedEntry {
  const bytes = Buffer.alloc(36 + payloadBytes, Number((ledgerId * 31n + entryId * 7n) % 251n))
  bytes.writeBigInt64BE(ledgerId, 0)
  bytes.writeBigInt64BE(entryId, 8)
  bytes.writeBigInt64BE(lac, 16)
  return new PackagedEntry(bytes)
}

/** A fresh directory, and removers of all of them. */
export class TempDirectories {
  readonly #made: string[] = []

  async make(): Promise<string> {
    const path = await mkdtemp(join(tmpdir(), 'stratalog-store-'))
    this.#made.push(path)
    return path
  }

  /** A copy of a directory as it is now: what a killed process leaves. */
  async copyOf(directory: string): Promise<string> {
    const copy = join(await this.make(), 'copy')
    await cp(directory, copy, { recursive: true })
    return copy
  }

  async removeAll(): Promise<void> {
    for (const path of this.#made.splice(0)) await rm(path, { recursive: true, force: true })
  }
}

export type DiskAction = 'write' | 'dataSync' | 'preallocate' | 'open' | 'rename' | 'read' | 'syncDirectory'

/** The calls of a disk as an object that can be spread: one of a class has them in its prototype. */
export function methodsOf(disk: Disk): Disk {
  return {
    list: (path) => disk.list(path),
    makeDirectory: (path) => disk.makeDirectory(path),
    open: (path, mode) => disk.open(path, mode),
    rename: (from, to) => disk.rename(from, to),
    link: (existing, name) => disk.link(existing, name),
    remove: (path) => disk.remove(path),
    syncDirectory: (path) => disk.syncDirectory(path),
    stat: (path) => disk.stat(path),
    space: (path) => disk.space(path),
  }
}

/** A disk on which chosen calls fail. */
export class FaultyDisk {
  readonly disk: Disk
  /** Answers the code a call fails with, or null; `path` is the file's, as it was opened. */
  fault: (action: DiskAction, path: string) => ErrorCode | null = () => null
  /** Waited for before each sync: holds a group back. */
  gate: Promise<void> = Promise.resolve()
  readonly calls: { action: DiskAction; path: string }[] = []

  constructor(base: Disk = realDisk()) {
    const check = (action: DiskAction, path: string): void => {
      this.calls.push({ action, path })
      const code = this.fault(action, path)
      if (code !== null) throw new StratalogError(code, `${action} ${path}: injected`)
    }
    const wrap = (file: DiskFile, path: string): DiskFile => ({
      write: async (chunks, offset) => {
        check('write', path)
        await file.write(chunks, offset)
      },
      read: async (target, offset) => {
        check('read', path)
        return file.read(target, offset)
      },
      dataSync: async () => {
        await this.gate
        check('dataSync', path)
        await file.dataSync()
      },
      preallocate: async (sizeBytes) => {
        check('preallocate', path)
        await file.preallocate(sizeBytes)
      },
      truncate: (sizeBytes) => file.truncate(sizeBytes),
      sizeBytes: () => file.sizeBytes(),
      close: () => file.close(),
    })
    this.disk = {
      ...methodsOf(base),
      open: async (path, mode) => {
        check('open', path)
        return wrap(await base.open(path, mode), path)
      },
      rename: async (from, to) => {
        check('rename', from)
        await base.rename(from, to)
      },
      syncDirectory: async (path) => {
        check('syncDirectory', path)
        await base.syncDirectory(path)
      },
    }
  }
}

/** What is on a memory disk, as a disk of its own that nobody else writes to. */
export async function cloneOf(disk: MemoryDisk): Promise<MemoryDisk> {
  const clone = new MemoryDisk()
  for (const directory of disk.directories) clone.directories.add(directory)
  for (const [path, { bytes }] of disk.files) {
    clone.files.set(path, { bytes: Buffer.from(bytes), durable: Buffer.from(bytes) })
  }
  for (const directory of clone.directories) await clone.syncDirectory(directory)
  return clone
}

/**
 * What a power cut leaves: names and bytes that were synced, and of the rest any sectors (`keeps` decides for
 * each). The old disk fails from now on, so that what was abandoned on it can do nothing more.
 */
export async function afterPowerCut(disk: MemoryDisk, keeps: () => boolean): Promise<MemoryDisk> {
  const written = new Map([...disk.files.values()].map(({ durable, bytes }) => [durable, bytes]))
  disk.crash()
  disk.fail = () => 'io_failed'
  for (const content of disk.files.values()) {
    const bytes = written.get(content.durable)
    if (bytes === undefined) continue
    for (let at = 0; at < Math.min(bytes.byteLength, content.bytes.byteLength); at += 512) {
      if (keeps()) bytes.copy(content.bytes, at, at, at + 512)
    }
  }
  return cloneOf(disk)
}
