import type { Clock } from './clock.js'
import type { Disk } from './disk.js'
import type { Logger } from './logger.js'
import type { Random } from './random.js'

/** Bytes that can be produced more than once: an upload is retried from the start. */
export interface ReplayableBody {
  readonly sizeBytes: number
  /** The bytes in order, from the start, at each call. Chunks belong to the consumer until it asks for the next. */
  open(): AsyncIterable<Uint8Array>
}

/** An object of an archive, as a listing tells it. */
export interface ArchivedKey {
  readonly key: string
  readonly sizeBytes: number
}

/** Bytes of an object that are read in order, a piece at a time. */
export interface ReadInOrder {
  /**
   * Exactly the next bytes, as many as are asked for, which are the caller's. One call at a time, never beyond what was
   * opened. Fails as `readRange` does; after a failure the same bytes are next.
   */
  next(lengthBytes: number): Promise<Uint8Array>
  /** Lets go of what it holds, read to the end or not. Idempotent. */
  close(): void
}

/** What an engine can do; the contract suite probes what these claim. */
export interface ArchiveCapabilities {
  /** `native`: the store refuses a taken key atomically. `none`: unique attempt ids are the only guard. */
  readonly putIfAbsent: 'native' | 'none'
  readonly checksums: readonly ('crc32c' | 'sha256')[]
  readonly listFrom: boolean
  readonly thaw: boolean
}

/** One thing an engine found its store to do, or not to do. Never a secret. */
export interface ArchiveFinding {
  /** Short and stable: `conditional-put`, `checksums`, `safe-mode`. */
  readonly name: string
  /** `ok`: as it should be. `without`: not there, and done without safely. `bad`: somebody must do something. */
  readonly state: 'ok' | 'without' | 'bad'
  /** A sentence for people: what was seen and, unless `ok`, what follows from it. */
  readonly text: string
}

/** How an object is to be stored, in the words of the store. */
export interface StorageWishes {
  readonly storageClass?: string
  /** Key the store encrypts the object with. */
  readonly kmsKey?: string
  readonly tags?: Readonly<Record<string, string>>
}

/**
 * A flat store of immutable objects under keys of at most 200 bytes (`[0-9a-z_~/.-]`, parts divided by `/`), in byte
 * order of keys. Failures: `archive_unavailable` (retryable), `archive_full`, `access_denied`, `object_not_found`,
 * `object_exists`, `thawing`; never a partial success.
 */
export interface ArchiveStore {
  /** For people: `s3://bucket/prefix`, a path. Never credentials. */
  readonly location: string
  readonly capabilities: ArchiveCapabilities
  /**
   * Creates the object whole or not at all; durable when it resolves. `object_exists` if the key is taken. A crash
   * leaves no object under the key. Engines ignore the wishes they know nothing of.
   */
  putIfAbsent(
    key: string,
    body: ReplayableBody,
    options?: StorageWishes & { readonly signal?: AbortSignal },
  ): Promise<void>
  /** Size, or null if there is no such object. What it tells of is durable, also what a crashed process stored. */
  head(key: string, signal?: AbortSignal): Promise<ArchivedKey | null>
  /** Exactly the bytes [offset, offset + length), fewer only where the object ends. Owned by the caller. `object_not_found`. */
  readRange(key: string, offset: number, lengthBytes: number, signal?: AbortSignal): Promise<Uint8Array>
  /**
   * The bytes [offset, offset + length), all of which must be there, in order. Present where one request for all of them
   * costs much less than one for each piece; bounded in memory like `readRange` of a piece. Must be closed.
   */
  readInOrder?(key: string, offset: number, lengthBytes: number, signal?: AbortSignal): ReadInOrder
  /**
   * Keys strictly above `after` in byte order, with prefix `prefix`, at most `limit`, and fewer only where no more follow.
   * Strongly consistent.
   */
  listFrom(prefix: string, after: string, limit: number, signal?: AbortSignal): Promise<ArchivedKey[]>
  /** Idempotent: an absent key is fine. */
  delete(key: string, signal?: AbortSignal): Promise<void>
  /**
   * Removes what interrupted uploads left beside the objects, a day old or older, and says how many that were. Absent:
   * the engine leaves nothing.
   */
  removeLeftovers?(): Promise<number>
  /**
   * Asks that an object whose storage class is not read at once can be read for `forMs`: `readable` now, or `thawing`,
   * which takes minutes to hours; asking again is fine and tells how far it is. Present where `capabilities.thaw`;
   * until then a read fails as `thawing`, at once. `object_not_found`.
   */
  thaw?(key: string, forMs: number, signal?: AbortSignal): Promise<'readable' | 'thawing'>
  /** What the engine found out about its store: for `doctor` and for people. Absent: there is nothing to find out. */
  findings?(signal?: AbortSignal): Promise<ArchiveFinding[]>
  close(): Promise<void>
}

/** What an engine gets from the log. */
export interface ArchiveContext {
  readonly clock: Clock
  readonly random: Random
  readonly logger: Logger
  readonly disk: Disk
  readonly signal: AbortSignal
  /**
   * True: there must be an archive already, because this log has used it or somebody wants to read it. An engine makes
   * nothing then, and what is absent is `archive_missing`: an empty mount point must not become a new archive.
   */
  readonly existing: boolean
  /** True: nothing is ever written, not even to find out whether that would go. @default false */
  readonly readOnly?: boolean
}

/** A way to open an archive: built in, or an instance from elsewhere passed to `openLog`. */
export interface ArchiveEngine {
  readonly apiVersion: 1
  readonly name: string
  open(context: ArchiveContext): Promise<ArchiveStore>
}
