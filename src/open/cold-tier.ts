import { join } from 'node:path'
import { ColdReads } from '../../archive/cold-reads.js'
import { DiskCache } from '../../archive/disk-cache.js'
import { DownloadLimit } from '../../archive/download-limit.js'
import { twinsOf } from '../../archive/twins.js'
import { isStratalogError } from '../model/errors.js'
import type { ResolvedPolicy } from '../model/policy.js'
import type { ArchivedObject, Incarnation, SegmentRow, StreamRow } from '../model/segment.js'
import type { SystemPorts } from '../options.js'
import type { ArchiveStore } from '../ports/archive-store.js'
import type { SegmentIndex } from '../ports/segment-index.js'
import { ColdSource } from '../read/cold.js'
import { thawingAdvice } from '../read/thawing.js'

/** The disk cache of an archive that is further away than a directory, where nobody says how large it is to be. */
const REMOTE_CACHE_BYTES = 256 * 2 ** 20
/** How long a stream's limit is used before its policy is looked up again. */
const LIMIT_MS = 2_000
/** Streams whose limit is remembered. */
const LIMITS_MAX = 10_000

/** How long a damaged object is left aside for its twins, and how many are remembered. */
const BAD_MS = 60_000
const BAD_MAX = 1_000

/** What cold reads of a log stand on. */
export interface ColdTierParts {
  readonly root: string
  readonly system: SystemPorts
  readonly index: SegmentIndex
  readonly openArchive: (incarnation: Incarnation) => Promise<ArchiveStore>
  readonly archiveLocation: string
  /** null: as much as suits the archive. */
  readonly diskCacheBytes: number | null
  /** Whether records wait for their stores. */
  readonly appendsWait: () => boolean
  readonly policy: (stream: StreamRow) => Promise<ResolvedPolicy>
}

interface StreamLimit {
  readonly limit: DownloadLimit
  rate: number | null
  lookedMs: number
}

/** The way to the cold tier of a log: what all its readers share, and how fast each stream may be read. */
export class ColdTier {
  readonly reads: ColdReads
  readonly #parts: ColdTierParts
  readonly #limits = new Map<string, StreamLimit>()
  /** Keys of objects that were missing or damaged when they were read, and when that was. */
  readonly #bad = new Map<string, number>()

  private constructor(parts: ColdTierParts, disk: DiskCache | null) {
    this.#parts = parts
    this.reads = new ColdReads({
      clock: parts.system.clock,
      disk,
      appendsWait: parts.appendsWait,
    })
  }

  static async open(parts: ColdTierParts): Promise<ColdTier> {
    const { disk, clock, logger } = parts.system
    // A directory is as near as its cache would be: every block would be written once more for nothing.
    const remote = /^[a-z][a-z0-9+.-]+:\/\//.test(parts.archiveLocation)
    const bytesMax = parts.diskCacheBytes ?? (remote ? REMOTE_CACHE_BYTES : 0)
    const directory = join(parts.root, 'cache')
    const cache = bytesMax === 0 ? null : await DiskCache.open({ disk, clock, logger, directory, bytesMax })
    return new ColdTier(parts, cache)
  }

  /** The copy of a segment in the archive. */
  async source(row: SegmentRow, signal?: AbortSignal, ahead = false): Promise<ColdSource> {
    const { openArchive } = this.#parts
    const key = row.object?.key ?? ''
    const bad = this.#isBad(key) ? await this.#twin(await openArchive(row.incarnation), row, signal) : null
    const used = bad === null ? row : { ...row, object: bad }
    try {
      return await this.#open(used, signal, ahead)
    } catch (error) {
      throw await this.#failed(used, error)
    }
  }

  async #open(row: SegmentRow, signal: AbortSignal | undefined, ahead: boolean): Promise<ColdSource> {
    const [archive, limit] = await Promise.all([
      this.#parts.openArchive(row.incarnation),
      this.#limit(row.incarnation),
    ])
    const failed = (error: unknown) => this.#failed(row, error)
    const options = { limit, ahead, ...(signal === undefined ? {} : { signal }) }
    return ColdSource.shared(this.reads, archive, row, options, failed)
  }

  /** Notes what is wrong with an object; one that can't be read yet is told with what to do. */
  async #failed(row: SegmentRow, error: unknown): Promise<unknown> {
    this.#noteFailure(row.object?.key ?? '', error)
    if (!isStratalogError(error, 'thawing')) return error
    const stream = await this.#parts.index.stream(row.incarnation)
    return thawingAdvice(error, row, stream?.name ?? null)
  }

  /** An object that is not what it should be is left aside for a while, if the segment has another one. */
  #noteFailure(key: string, error: unknown): void {
    if (!isStratalogError(error, 'corrupt') && !isStratalogError(error, 'object_not_found')) return
    this.#bad.delete(key)
    this.#bad.set(key, this.#parts.system.clock.monotonicMs())
    for (const oldest of this.#bad.keys()) {
      if (this.#bad.size <= BAD_MAX) break
      this.#bad.delete(oldest)
    }
  }

  #isBad(key: string): boolean {
    const sinceMs = this.#bad.get(key)
    return sinceMs !== undefined && this.#parts.system.clock.monotonicMs() - sinceMs < BAD_MS
  }

  /** Another object with the committed content; null: the one of the row has to do. */
  async #twin(store: ArchiveStore, row: SegmentRow, signal?: AbortSignal): Promise<ArchivedObject | null> {
    const twins = await twinsOf(store, row, signal)
    const twin = twins.find(({ key }) => !this.#isBad(key)) ?? null
    if (twin !== null) {
      this.#parts.system.logger.warn(
        { segment: row.segment.toString(), key: row.object?.key, twin: twin.key },
        'an object can not be read, reading another one of the same content',
      )
    }
    return twin
  }

  async close(): Promise<void> {
    await this.reads.disk?.close()
  }

  /** One for all reads of a stream; null where none is set. */
  async #limit(incarnation: string): Promise<DownloadLimit | null> {
    const { index, policy, system } = this.#parts
    const nowMs = system.clock.monotonicMs()
    const known = this.#limits.get(incarnation)
    if (known !== undefined && nowMs - known.lookedMs < LIMIT_MS)
      return known.rate === null ? null : known.limit
    const stream = await index.stream(incarnation)
    const rate = stream === null ? null : (await policy(stream)).policy.limits.coldReadBytesPerSecond
    const found = this.#limits.get(incarnation) ?? this.#newLimit(incarnation)
    found.rate = rate
    found.lookedMs = nowMs
    return rate === null ? null : found.limit
  }

  #newLimit(incarnation: string): StreamLimit {
    for (const oldest of this.#limits.keys()) {
      if (this.#limits.size < LIMITS_MAX) break
      this.#limits.delete(oldest)
    }
    const made: StreamLimit = {
      limit: new DownloadLimit(this.#parts.system.clock, () => made.rate),
      rate: null,
      lookedMs: 0,
    }
    this.#limits.set(incarnation, made)
    return made
  }
}
