import { dirname, join, resolve } from 'node:path'
import { checkArchiveKey } from '../../src/format/archive-names.js'
import { assert } from '../../src/model/assert.js'
import { isStratalogError, StratalogError } from '../../src/model/errors.js'
import type {
  ArchiveCapabilities,
  ArchiveContext,
  ArchivedKey,
  ArchiveEngine,
  ArchiveStore,
  ReplayableBody,
} from '../../src/ports/archive-store.js'
import type { DiskFile } from '../../src/ports/disk.js'
import type { Writing } from '../engine/writing.js'
import { archiveError, archiveMissing, step } from './errors.js'
import { listDirectory } from './list.js'
import { DirectoryNames } from './names.js'
import { MARKER, prepareRoot, removeLeftovers, TEMPORARY, temporaryName } from './open.js'

/** Directories remembered as durable; there is one per incarnation. */
const DIRECTORIES_MAX = 10_000
/** Keys that are known to be durable. */
const SETTLED_MAX = 10_000
/** Memory for a range of at most so much is taken without asking how long the object is. */
const UNASKED_BYTES_MAX = 4 * 2 ** 20

/** An archive in a directory: of another disk, or of a mounted file system that has hard links. */
export function directoryArchive(root: string): ArchiveEngine {
  const path = resolve(root)
  return {
    apiVersion: 1,
    name: 'directory',
    async open(context) {
      const writing = await prepareRoot(path, context)
      return new DirectoryArchive(path, context, writing)
    },
  }
}

class DirectoryArchive implements ArchiveStore {
  readonly location: string
  readonly capabilities: ArchiveCapabilities = {
    putIfAbsent: 'native',
    checksums: [],
    listFrom: true,
    thaw: false,
  }
  readonly #context: ArchiveContext
  /** Directories whose names are known to be durable. */
  readonly #durable = new Set<string>()
  readonly #settled = new Set<string>()
  readonly #names: DirectoryNames
  readonly #writing: Writing
  #closed = false

  constructor(root: string, context: ArchiveContext, writing: Writing) {
    this.#writing = writing
    this.location = root
    this.#context = context
    this.#names = new DirectoryNames(context.disk, context.clock)
  }

  /*
   * The object is written under a temporary name, made durable, and only then linked to its own name, which
   * fails if that is taken: one winner, and never a part of an object under a key (invariant 6). A crash
   * before the link leaves a temporary file, which an open a day later removes; after it the object is whole,
   * though its name may be gone again until the directory is synced, and the caller was not told that it is
   * there.
   */
  async putIfAbsent(
    key: string,
    body: ReplayableBody,
    options: { readonly signal?: AbortSignal } = {},
  ): Promise<void> {
    const path = this.#path(key, options.signal)
    const { disk, logger } = this.#context
    if ((await step(this.location, 'looking for an object', () => disk.stat(path))) !== null) throw taken(key)
    await this.#writing.ready(options.signal)
    const temporary = join(this.location, TEMPORARY, temporaryName(this.#context))
    const file = await this.#createTemporary(temporary)
    try {
      try {
        await this.#write(file, body, options.signal)
      } finally {
        await step(this.location, 'closing an object', () => file.close())
      }
      await this.#publish(temporary, path, key)
    } finally {
      await disk.remove(temporary).catch((error: unknown) => {
        // The object's fate is decided and told; the file costs space until it is removed as a leftover.
        logger.warn({ error, path: temporary }, 'a temporary file of the archive could not be removed')
      })
    }
  }

  async #createTemporary(path: string): Promise<DiskFile> {
    try {
      return await this.#context.disk.open(path, 'create')
    } catch (error) {
      // The directory for temporary files is gone: with the archive, or alone, and then the next write makes it again.
      if (isStratalogError(error, 'file_not_found')) {
        await this.#requireMarker()
        this.#writing.doubt()
      }
      throw archiveError(error, this.location, 'making an object')
    }
  }

  async #write(file: DiskFile, body: ReplayableBody, signal: AbortSignal | undefined): Promise<void> {
    let offset = 0
    for await (const chunk of body.open()) {
      this.#check(signal)
      // Awaited before the next chunk is asked for: until then the chunk is ours.
      await step(this.location, 'writing an object', () => file.write([chunk], offset))
      offset += chunk.length
    }
    assert(offset === body.sizeBytes, `a body of ${offset} bytes that stated ${body.sizeBytes}`)
    this.#check(signal)
    await step(this.location, 'making an object durable', () => file.dataSync())
  }

  async #publish(temporary: string, path: string, key: string): Promise<void> {
    const { disk } = this.#context
    const directory = dirname(path)
    await step(this.location, 'making a directory', () => this.#makeDirectory(directory))
    try {
      await disk.link(temporary, path)
      this.#names.changed(directory)
    } catch (error) {
      if (isStratalogError(error, 'file_exists')) throw taken(key)
      // Somebody may have removed the directory: the next try looks again.
      this.#durable.clear()
      throw archiveError(error, this.location, 'naming an object')
    }
    try {
      await disk.syncDirectory(directory)
    } catch (error) {
      // Whether the name is durable is unknown: take it back, so that failing means that nothing is there.
      await step(this.location, 'withdrawing an object', () => disk.remove(path))
      throw archiveError(error, this.location, 'making a name durable')
    }
    this.#note(key)
  }

  /**
   * Makes `path` below the root and its name durable. A directory that is there already may be another upload's that
   * has not synced its parent yet, or was left so by a crash: seeing it is not enough, so it is synced once by each
   * store that uses it.
   */
  async #makeDirectory(path: string): Promise<void> {
    if (path === this.location || this.#durable.has(path)) return
    const { disk } = this.#context
    const parent = dirname(path)
    await this.#makeDirectory(parent)
    if ((await disk.stat(path)) === null) await disk.makeDirectory(path)
    await disk.syncDirectory(parent)
    if (this.#durable.size >= DIRECTORIES_MAX) this.#durable.clear()
    this.#durable.add(path)
  }

  async head(key: string, signal?: AbortSignal): Promise<ArchivedKey | null> {
    const path = this.#path(key, signal)
    const about = await step(this.location, 'looking for an object', () => this.#context.disk.stat(path))
    if (about !== null && !about.directory) {
      await this.#settle(key, path)
      return { key, sizeBytes: about.sizeBytes }
    }
    if (about !== null) return null
    await this.#requireMarker()
    return null
  }

  /**
   * Makes a name durable that another process may have left in sight only: it died between naming an object and
   * syncing the directory. Whoever is told of the object may free what it was copied from (invariant 4).
   */
  async #settle(key: string, path: string): Promise<void> {
    if (this.#settled.has(key) || this.#context.readOnly === true) return
    const directory = dirname(path)
    await step(this.location, 'making a name durable', async () => {
      await this.#makeDirectory(directory)
      await this.#context.disk.syncDirectory(directory)
    })
    this.#note(key)
  }

  #note(key: string): void {
    if (this.#settled.size >= SETTLED_MAX) this.#settled.clear()
    this.#settled.add(key)
  }

  async readRange(
    key: string,
    offset: number,
    lengthBytes: number,
    signal?: AbortSignal,
  ): Promise<Uint8Array> {
    const path = this.#path(key, signal)
    for (const value of [offset, lengthBytes]) {
      assert(Number.isSafeInteger(value) && value >= 0, `a range of ${lengthBytes} bytes at ${offset}`)
    }
    // A larger range takes no more memory than there are bytes, whatever was asked for.
    const takenBytes =
      lengthBytes <= UNASKED_BYTES_MAX
        ? lengthBytes
        : Math.min(lengthBytes, await this.#bytesFrom(key, path, offset))
    const bytes = Buffer.allocUnsafe(takenBytes)
    const read = await this.#read(path, key, bytes, offset)
    return bytes.subarray(0, read)
  }

  /** How many bytes an object has from an offset on. */
  async #bytesFrom(key: string, path: string, offset: number): Promise<number> {
    const about = await step(this.location, 'looking for an object', () => this.#context.disk.stat(path))
    if (about === null || about.directory) return this.#refuseAbsent(key)
    return Math.max(0, about.sizeBytes - offset)
  }

  async #read(path: string, key: string, target: Uint8Array, offset: number): Promise<number> {
    let file: DiskFile
    try {
      file = await this.#context.disk.open(path, 'read')
    } catch (error) {
      if (isStratalogError(error, 'file_not_found')) return this.#refuseAbsent(key)
      throw archiveError(error, this.location, 'opening an object')
    }
    try {
      return await file.read(target, offset)
    } catch (error) {
      // A directory opens like a file, and is no object.
      const about = await this.#context.disk.stat(path).catch(() => null)
      if (about?.directory === true) await this.#refuseAbsent(key)
      throw archiveError(error, this.location, 'reading an object')
    } finally {
      await step(this.location, 'closing an object', () => file.close())
    }
  }

  /** Throws `object_not_found`, where the archive itself is there. */
  async #refuseAbsent(key: string): Promise<never> {
    await this.#requireMarker()
    throw absent(key, this.location)
  }

  async listFrom(prefix: string, after: string, limit: number, signal?: AbortSignal): Promise<ArchivedKey[]> {
    this.#check(signal)
    assert(Number.isSafeInteger(limit) && limit > 0, `a listing of at most ${limit} keys`)
    await this.#requireMarker()
    const { disk } = this.#context
    return step(this.location, 'listing objects', () =>
      listDirectory({ disk, names: this.#names, root: this.location, prefix, after, limit, signal }),
    )
  }

  async delete(key: string, signal?: AbortSignal): Promise<void> {
    const path = this.#path(key, signal)
    const { disk } = this.#context
    try {
      await disk.remove(path)
      this.#names.changed(dirname(path))
    } catch (error) {
      if (isStratalogError(error, 'file_not_found')) return this.#requireMarker()
      throw archiveError(error, this.location, 'deleting an object')
    }
    await step(this.location, 'making a deletion durable', () => disk.syncDirectory(dirname(path)))
  }

  async removeLeftovers(): Promise<number> {
    this.#check(undefined)
    await this.#requireMarker()
    return removeLeftovers(this.location, this.#context)
  }

  async close(): Promise<void> {
    this.#closed = true
  }

  #check(signal: AbortSignal | undefined): void {
    if (this.#closed) throw new StratalogError('closed', `archive ${this.location} is closed`)
    this.#context.signal.throwIfAborted()
    signal?.throwIfAborted()
  }

  #path(key: string, signal: AbortSignal | undefined): string {
    this.#check(signal)
    if (checkArchiveKey(key) === MARKER) {
      throw new StratalogError('invalid_argument', `"${key}" is the archive's own marker`, { found: key })
    }
    return join(this.location, ...key.split('/'))
  }

  /** Without its marker the directory is not the archive: "no such object" would be a lie that costs data. */
  async #requireMarker(): Promise<void> {
    const marker = join(this.location, MARKER)
    const found = await step(this.location, 'looking for its marker', () => this.#context.disk.stat(marker))
    if (found === null) {
      throw archiveMissing(this.location, `its ${MARKER} is not there: is the disk mounted?`)
    }
  }
}

function taken(key: string): StratalogError {
  return new StratalogError(
    'object_exists',
    `${key} is in the archive already: store it under a new attempt`,
    { found: key },
  )
}

function absent(key: string, location: string): StratalogError {
  return new StratalogError('object_not_found', `${key} is not in ${location}: look for its twins`, {
    found: key,
  })
}
