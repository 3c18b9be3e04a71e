import { isStratalogError } from '../../model/errors.js'
import type { Disk } from '../../ports/disk.js'
import type { Logger } from '../../ports/logger.js'
import { carriedMarks, type MarkFrame } from './carried-marks.js'
import type { GroupCommit } from './group-commit.js'
import type { StoreHealth } from './health.js'
import { writeIndexBlock } from './index-writer.js'
import type { LedgerTable } from './ledger-table.js'
import type { LogFile, LogFiles } from './log-file.js'
import type { Rewriter } from './rewrite.js'
import type { Space } from './space.js'

const CARRIED_AT_ONCE = 256
/** Closed files without an index block, because it could not be written. */
const UNINDEXED_MAX = 4

/**
 * Gives back closed files in which no entry lives. What else in such a file still matters (headers, fences
 * and seals of live ledgers, tombstones that other files' frames need, control frames) is first appended
 * again to the open file.
 *
 * Crash windows. Before the copies are durable: the file is complete and listed, nothing has changed. After
 * that and before the superblock: frames are there twice, and applying a mark twice changes nothing. After
 * the superblock: the file is not part of the store, start takes it as a spare (see `space.ts`). A copy may
 * follow the delete of its ledger in the log; a deleted ledger stays deleted whatever follows.
 */
export class Reclaimer {
  readonly #disk: Disk
  readonly #files: LogFiles
  readonly #table: LedgerTable
  readonly #space: Space
  readonly #commit: GroupCommit
  readonly #health: StoreHealth
  readonly #logger: Logger
  readonly #rewriter: Rewriter
  readonly #append: (mark: MarkFrame) => Promise<void>
  #wanted = true
  #running: Promise<void> | null = null

  constructor(options: {
    readonly disk: Disk
    readonly files: LogFiles
    readonly table: LedgerTable
    readonly space: Space
    readonly commit: GroupCommit
    readonly health: StoreHealth
    readonly logger: Logger
    readonly rewriter: Rewriter
    readonly append: (mark: MarkFrame) => Promise<void>
  }) {
    this.#disk = options.disk
    this.#files = options.files
    this.#table = options.table
    this.#space = options.space
    this.#commit = options.commit
    this.#health = options.health
    this.#logger = options.logger
    this.#rewriter = options.rewriter
    this.#append = options.append
  }

  /** There may be a file to free. */
  want(): void {
    this.#wanted = true
    this.proceed()
  }

  /**
   * Frees what can be freed, once this run has a file to carry frames to: a run that appends nothing writes
   * nothing.
   */
  proceed(): void {
    if (!this.#wanted || this.#running !== null || !this.#mayRun()) return
    this.#running = this.#run().finally(() => {
      this.#running = null
      this.proceed()
    })
  }

  async settled(): Promise<void> {
    while (this.#running !== null) await this.#running
  }

  #mayRun(): boolean {
    return this.#commit.isOpen && !this.#health.closed && this.#health.poisoned === null
  }

  async #run(): Promise<void> {
    // Not in the turn of the caller, who may be in the middle of applying a group.
    await Promise.resolve()
    while (this.#wanted && this.#mayRun()) {
      this.#wanted = false
      await this.#tidy()
      const rewrote = await this.#rewriter.rewriteNext(
        () => this.#mayRun(),
        () => this.#tidy(),
      )
      // What was left for the next time, and what the rewriting made possible.
      if (rewrote) this.#wanted = true
    }
  }

  async #tidy(): Promise<void> {
    await this.indexClosed()
    for (const file of [...this.#files]) {
      const dead = file.closed && file.liveEntries === 0 && !file.beingRewritten
      if (dead && this.#mayRun()) await this.#tryFree(file)
    }
  }

  /** Closed files that have no index block yet get one; until then their rows are in memory. */
  async indexClosed(): Promise<void> {
    for (const file of [...this.#files]) {
      const { closed, indexed, damaged, unindexable, end } = file
      const due = closed && !indexed && !damaged && !unindexable && end > 0
      if (!due || this.#health.poisoned !== null) continue
      try {
        await writeIndexBlock(this.#disk, file)
      } catch (error) {
        this.#noteUnindexed(file, error)
      }
    }
  }

  /**
   * Nothing is lost with an index block: the frames say the same, and the next start scans them. So one file that can't
   * be written, perhaps a bad spot at its end, doesn't make the store read-only; a disk that refuses file after file
   * does, also because the rows of those files stay in memory (invariant 11).
   */
  #noteUnindexed(file: LogFile, error: unknown): void {
    this.#logger.warn({ error, path: file.path }, 'the index of a file could not be written')
    // Only a file of an earlier version may have to grow for its block. Space returns, and no sync has failed.
    if (isStratalogError(error, 'disk_full')) return
    file.unindexable = true
    const refused = [...this.#files].filter(({ unindexable }) => unindexable).length
    if (refused > UNINDEXED_MAX || !isStratalogError(error)) this.#health.poison(error)
  }

  async #tryFree(file: LogFile): Promise<void> {
    const marks = carriedMarks(this.#table, [file])
    const bytes = marks.reduce((sum, mark) => sum + mark.body.byteLength, 0)
    // Carrying most of a file along gains nothing and might never end.
    if (bytes > file.sizeBytes / 2) return
    try {
      for (let from = 0; from < marks.length; from += CARRIED_AT_ONCE) {
        await Promise.all(marks.slice(from, from + CARRIED_AT_ONCE).map((mark) => this.#append(mark)))
      }
      await this.#space.free(file, () => this.#table.fileFreed(file))
      this.#logger.debug({ path: file.path, carried: marks.length }, 'file freed')
    } catch (error) {
      // The file stays what it is, and is tried again when another one dies or closes.
      const expected = ['store_full', 'store_poisoned', 'backpressure'] as const
      if (!expected.some((code) => isStratalogError(error, code)))
        this.#logger.error({ error, path: file.path }, 'a file could not be freed')
    }
  }
}
