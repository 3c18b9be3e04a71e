import { checkArchiveKey } from '../../src/format/archive-names.js'
import { assert } from '../../src/model/assert.js'
import { StratalogError } from '../../src/model/errors.js'
import type {
  ArchiveCapabilities,
  ArchivedKey,
  ArchiveFinding,
  ArchiveStore,
  ReadInOrder,
  ReplayableBody,
} from '../../src/ports/archive-store.js'
import { archiveError, archiveMissing, HdfsFailure, isAbsent } from './errors.js'
import { findingsOf } from './findings.js'
import { listKeys } from './list.js'
import type { FileStatus } from './namespace.js'
import { MARKER } from './open.js'
import { OrderedRead } from './ordered-read.js'
import type { StoreParts } from './parts.js'
import { TEMPORARY } from './upload.js'

/** An archive below a path of HDFS. */
export class HdfsStore implements ArchiveStore {
  readonly location: string
  readonly capabilities: ArchiveCapabilities = {
    putIfAbsent: 'native',
    checksums: ['crc32c'],
    listFrom: true,
    thaw: false,
  }
  readonly #parts: StoreParts
  #closed = false

  constructor(parts: StoreParts) {
    this.#parts = parts
    this.location = parts.place.location
  }

  /*
   * The object is written under a temporary name, compared with what was sent, and only then renamed, which HDFS refuses
   * if the name is taken: one winner, and never a part of an object under a key (invariant 6). A crash before the rename
   * leaves a temporary file, which an open a day later removes.
   */
  async putIfAbsent(
    key: string,
    body: ReplayableBody,
    options: { readonly signal?: AbortSignal } = {},
  ): Promise<void> {
    const { signal } = options
    const path = this.#path(key, signal)
    const { namespace, uploads, publisher, writing } = this.#parts
    await this.#step('storing an object', async () => {
      if ((await namespace.status(path, signal)) !== null) throw taken(key)
      await writing.ready(signal)
      const { path: from, status } = await this.#upload(body, signal)
      try {
        if (!(await publisher.publish({ path: from, fileId: status.fileId }, path, signal))) throw taken(key)
      } catch (error) {
        await uploads.discard(from)
        throw error
      }
    })
  }

  async #upload(
    body: ReplayableBody,
    signal: AbortSignal | undefined,
  ): Promise<{ path: string; status: FileStatus }> {
    try {
      return await this.#parts.uploads.store(body, signal)
    } catch (error) {
      // The directory for temporary files is gone: with the archive, or alone, and then the next write makes it again.
      if (isAbsent(error)) {
        await this.#requireMarker(signal)
        this.#parts.writing.doubt()
      }
      throw error
    }
  }

  async head(key: string, signal?: AbortSignal): Promise<ArchivedKey | null> {
    const path = this.#path(key, signal)
    return this.#step('looking for an object', async () => {
      const found = await this.#parts.namespace.status(path, signal)
      if (found?.type === 'FILE') return { key, sizeBytes: found.length }
      await this.#requireMarker(signal)
      return null
    })
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
    return this.#step('reading an object', async () => {
      const { transfer, namespace } = this.#parts
      // Read at once: where nothing is missing nobody needs to be asked how long the object is.
      if (lengthBytes === 0) {
        if ((await namespace.status(path, signal))?.type !== 'FILE') return this.#absent(key, signal)
        return new Uint8Array(0)
      }
      try {
        return await transfer.run(signal, (attempt) =>
          this.#readOnce(path, { offset, lengthBytes, attempt }, signal),
        )
      } catch (error) {
        if (isAbsent(error)) return this.#absent(key, signal)
        throw error
      }
    })
  }

  readInOrder(key: string, offset: number, lengthBytes: number, signal?: AbortSignal): ReadInOrder {
    const path = this.#path(key, signal)
    const { transfer } = this.#parts
    const range = (asked: { offset: number; lengthBytes: number; attempt: number }) =>
      this.#readOnce(path, asked, signal)
    const reading = new OrderedRead({ transfer, path, offset, lengthBytes, signal, range })
    return {
      next: (pieceBytes) =>
        this.#step('reading an object', async () => {
          this.#check(signal)
          try {
            return await reading.next(pieceBytes)
          } catch (error) {
            if (isAbsent(error)) return this.#absent(key, signal)
            throw error
          }
        }),
      close: () => reading.close(),
    }
  }

  /** Fewer bytes than asked for are right only where the object ends, as the NameNode tells its length. */
  async #readOnce(
    path: string,
    { offset, lengthBytes, attempt }: { offset: number; lengthBytes: number; attempt: number },
    signal: AbortSignal | undefined,
  ): Promise<Uint8Array> {
    const { transfer, namespace } = this.#parts
    const reachable = async (): Promise<number> => {
      const status = await namespace.status(path, signal)
      return status === null ? -1 : Math.max(0, Math.min(lengthBytes, status.length - offset))
    }
    let bytes: Uint8Array
    try {
      bytes = await transfer.open(path, offset, lengthBytes, signal, attempt)
    } catch (error) {
      if (!(error instanceof HdfsFailure)) throw error
      // Beyond the end of a file HDFS fails, with an exception that says nothing but that.
      if (/out of the range/.test(error.message) && (await reachable()) === 0) return new Uint8Array(0)
      throw error
    }
    if (bytes.length === lengthBytes) return bytes
    const expected = await reachable()
    if (bytes.length === expected) return bytes
    throw new HdfsFailure(`${bytes.length} bytes came of the ${expected} that are there`)
  }

  async #absent(key: string, signal: AbortSignal | undefined): Promise<never> {
    await this.#requireMarker(signal)
    throw new StratalogError('object_not_found', `${key} is not in ${this.location}: look for its twins`, {
      found: key,
    })
  }

  async listFrom(prefix: string, after: string, limit: number, signal?: AbortSignal): Promise<ArchivedKey[]> {
    this.#check(signal)
    assert(Number.isSafeInteger(limit) && limit > 0, `a listing of at most ${limit} keys`)
    const { namenodes, place } = this.#parts
    const hidden = new Set([MARKER, TEMPORARY])
    const query = { namenodes, root: place.root, prefix, after, limit, signal, hidden }
    return this.#step('listing objects', async () => {
      await this.#requireMarker(signal)
      return listKeys(query)
    })
  }

  async delete(key: string, signal?: AbortSignal): Promise<void> {
    const path = this.#path(key, signal)
    const { namespace } = this.#parts
    await this.#step('deleting an object', async () => {
      // A directory is no object: HDFS would delete an empty one.
      const found = await namespace.status(path, signal)
      if (found?.type === 'FILE') await namespace.delete(path, signal)
      else await this.#requireMarker(signal)
    })
  }

  async removeLeftovers(): Promise<number> {
    this.#check(undefined)
    return this.#step('removing leftovers', async () => {
      await this.#requireMarker(undefined)
      return this.#parts.uploads.removeLeftovers()
    })
  }

  async findings(signal?: AbortSignal): Promise<ArchiveFinding[]> {
    this.#check(signal)
    return this.#step('asking about the cluster', () => findingsOf(this.#parts, signal))
  }

  async close(): Promise<void> {
    this.#closed = true
    this.#parts.http.close()
  }

  #check(signal: AbortSignal | undefined): void {
    if (this.#closed) throw new StratalogError('closed', `archive ${this.location} is closed`)
    this.#parts.context.signal.throwIfAborted()
    signal?.throwIfAborted()
  }

  #path(key: string, signal: AbortSignal | undefined): string {
    this.#check(signal)
    if (checkArchiveKey(key) === MARKER) {
      throw new StratalogError('invalid_argument', `"${key}" is the archive's own marker`, { found: key })
    }
    return `${this.#parts.place.root}/${key}`
  }

  async #step<T>(doing: string, work: () => Promise<T>): Promise<T> {
    try {
      return await work()
    } catch (error) {
      throw archiveError(error, this.location, doing)
    }
  }

  /** Without its marker the path is not the archive: "no such object" would be a lie that costs data. */
  async #requireMarker(signal: AbortSignal | undefined): Promise<void> {
    const { namespace, place } = this.#parts
    if ((await namespace.status(`${place.root}/${MARKER}`, signal))?.type === 'FILE') return
    throw archiveMissing(this.location, `its ${MARKER} is not there: is it the right path and cluster?`)
  }
}

function taken(key: string): StratalogError {
  return new StratalogError(
    'object_exists',
    `${key} is in the archive already: store it under a new attempt`,
    { found: key },
  )
}
