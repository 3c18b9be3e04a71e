import { join } from 'node:path'
import { assert, present } from '../../model/assert.js'
import { isStratalogError } from '../../model/errors.js'
import type { Disk, DiskFile } from '../../ports/disk.js'
import type { Logger } from '../../ports/logger.js'
import type { FileHandles } from './file-handles.js'
import type { StoreHealth } from './health.js'
import type { LogFile, LogFiles } from './log-file.js'
import { logName, spareName } from './names.js'
import { removeIfThere, type Superblock, writeSuperblock } from './superblock.js'

/** Spares made ahead: one to become the next file, and one so that deletes can still be written on a full disk. */
const SPARES_AHEAD = 2
/** Freed files kept as spares: what a burst frees the next one writes over, without allocating (DESIGN.md §5). */
const SPARES_MAX = 8

/**
 * Why a file is wanted: `entries` never takes the last spare, `marks` may. The first of a run does not wait
 * for two.
 */
export type FilePurpose = 'first' | 'entries' | 'marks'

export interface WritableFile {
  readonly file: LogFile
  readonly handle: DiskFile
}

/**
 * The files of the directory: allocates them ahead, gives the log its next one, takes freed ones back.
 * Everything that renames files or replaces the superblock happens here, one step at a time.
 *
 * Crash windows. A file becomes part of the log as spare → renamed to `log-<generation>` → listed in the
 * superblock (which syncs the directory) → first frame. Between rename and superblock the file is not listed:
 * start takes it as a spare. A file leaves the log as not listed → renamed to a spare. Between the two it has
 * its name and old frames, but is not listed: start takes it as a spare too. So a listed file that is absent
 * is a loss.
 */
export class Space {
  readonly #disk: Disk
  readonly #directory: string
  readonly #fileBytes: number
  readonly #files: LogFiles
  readonly #handles: FileHandles
  readonly #logger: Logger
  readonly #health: StoreHealth
  #superblock: Superblock
  readonly #spares: string[]
  #spareNumber: bigint
  #ahead: Promise<WritableFile | null> | null = null
  #last: Promise<unknown> = Promise.resolve()

  constructor(options: {
    readonly disk: Disk
    readonly directory: string
    readonly fileBytes: number
    readonly files: LogFiles
    readonly handles: FileHandles
    readonly logger: Logger
    readonly health: StoreHealth
    readonly superblock: Superblock
    /** Paths of spares of the right size, and the highest number any had. */
    readonly spares: readonly string[]
    readonly spareNumber: bigint
  }) {
    this.#disk = options.disk
    this.#directory = options.directory
    this.#fileBytes = options.fileBytes
    this.#files = options.files
    this.#handles = options.handles
    this.#logger = options.logger
    this.#health = options.health
    this.#superblock = options.superblock
    this.#spares = [...options.spares]
    this.#spareNumber = options.spareNumber
  }

  get spareBytes(): number {
    return this.#spares.length * this.#fileBytes
  }

  /** Replaces the superblock. Fails with `disk_full` only when no spare is left to give up for it. */
  async save(change: Partial<Superblock>): Promise<void> {
    await this.#exclusive(() => this.#save(change))
  }

  /** The next file of the log, listed, empty and open. Fails with `disk_full`: then nothing has changed. */
  async take(purpose: FilePurpose): Promise<WritableFile> {
    const ahead = await this.#takeAhead()
    return ahead ?? (await this.#exclusive(() => this.#prepare(purpose)))
  }

  /** Makes sure of one spare. Fails with `disk_full`. */
  async replenish(): Promise<void> {
    await this.#exclusive(async () => {
      if (this.#spares.length === 0) await this.#makeSpare()
    })
  }

  /**
   * Begins to make the next file ready, so that going on to it costs nothing. A failure shows when it is
   * taken.
   */
  prepareAhead(): void {
    if (this.#ahead !== null) return
    this.#ahead = this.#exclusive(() => this.#prepare('entries')).catch((error: unknown) => {
      this.#logger.warn({ error, directory: this.#directory }, 'the next file could not be prepared')
      return null
    })
  }

  /** Before a clean end: a file that was made ready and not used leaves the log again. */
  async putAheadBack(): Promise<void> {
    const ahead = await this.#takeAhead()
    if (ahead === null) return
    await ahead.handle.close()
    await this.free(ahead.file, () => this.#files.drop(ahead.file))
  }

  /** For a store that writes nothing any more. */
  async closeAhead(): Promise<void> {
    await (await this.#takeAhead())?.handle.close()
  }

  async #takeAhead(): Promise<WritableFile | null> {
    const ahead = this.#ahead
    this.#ahead = null
    return ahead
  }

  /**
   * Takes a file out of the log. `unlisted` is called once it durably is no part of it; its name goes after
   * its last reader. What still matters of it must be durable elsewhere.
   */
  async free(file: LogFile, unlisted: () => void): Promise<void> {
    assert(file.liveEntries === 0, `a file with live entries is freed: ${file.path}`)
    await this.#exclusive(async () => {
      await this.#save({
        files: this.#superblock.files.filter((listed) => listed !== file.generation),
        rewritten: this.#superblock.rewritten.filter(({ generation }) => generation !== file.generation),
      })
      unlisted()
    })
    await this.#handles.retire(file)
    await this.#exclusive(() => this.#recycle(file))
  }

  /**
   * A file for what is rewritten: its generation is handed out durably and its name is durable, but it is not listed,
   * so after a crash it is a spare. `reserved` takes a spare on a full disk. Fails with `disk_full`.
   */
  beginRewritten(rank: bigint, reserved: boolean): Promise<WritableFile> {
    return this.#exclusive(async () => {
      const generation = this.#superblock.generation + 1n
      const file = this.#files.make(generation, rank, 0)
      // What is rewritten is mostly smaller and is cut to its size, which would use a spare up for ever: the next file of
      // the log would have to be filled with zeros while writers wait for the same disk.
      const recycled = reserved ? this.#spares.shift() : undefined
      if (recycled !== undefined) await this.#disk.rename(recycled, file.path)
      // An attempt that could not open the file may have left it; its generation was never handed out.
      else await removeIfThere(this.#disk, file.path)
      const handle = await this.#disk.open(file.path, recycled === undefined ? 'create' : 'write')
      try {
        await this.#save({ generation })
      } catch (error) {
        await handle.close()
        if (isStratalogError(error, 'disk_full')) await removeIfThere(this.#disk, file.path)
        throw error
      }
      return { file, handle }
    })
  }

  /** Removes a file that was begun and is not going to be listed. */
  abandonRewritten(file: LogFile): Promise<void> {
    return this.#exclusive(() => removeIfThere(this.#disk, file.path))
  }

  /**
   * Puts rewritten files, durable as a whole, in the place of what they were made of, in one step: the superblock
   * lists either the ones or the others. `replaced` is called once that is durable; it must leave nothing that points
   * to the old ones, whose names go after their last readers.
   */
  async replace(
    sources: readonly LogFile[],
    outputs: readonly LogFile[],
    replaced: () => void,
  ): Promise<void> {
    const going = new Set(sources.map(({ generation }) => generation))
    const coming = outputs.map(({ generation, rank }) => ({ generation, rank }))
    await this.#exclusive(async () => {
      const { files, rewritten } = this.#superblock
      const kept = files.filter((generation) => !going.has(generation))
      const change = {
        files: [...kept, ...coming.map(({ generation }) => generation)].sort(ascending),
        rewritten: [...rewritten.filter(({ generation }) => !going.has(generation)), ...coming].sort((a, b) =>
          ascending(a.generation, b.generation),
        ),
      }
      await this.#save(change, outputs)
      replaced()
    })
    for (const file of sources) {
      assert(file.liveEntries === 0, `a file with live entries is replaced: ${file.path}`)
      await this.#handles.retire(file)
      await this.#exclusive(() => this.#recycle(file))
    }
  }

  async #recycle(file: LogFile): Promise<void> {
    if (this.#spares.length >= SPARES_MAX || file.sizeBytes !== this.#fileBytes) {
      await removeIfThere(this.#disk, file.path)
      return
    }
    const spare = this.#nextSparePath()
    await this.#disk.rename(file.path, spare)
    this.#spares.push(spare)
  }

  async #prepare(purpose: FilePurpose): Promise<WritableFile> {
    const wanted = purpose === 'entries' ? SPARES_AHEAD : 1
    while (this.#spares.length < wanted) await this.#makeSpare()
    const generation = this.#superblock.generation + 1n
    const spare = present(this.#spares.shift(), 'spare file')
    const path = join(this.#directory, logName(generation))
    await this.#disk.rename(spare, path)
    try {
      // The generation is durably handed out before the first frame of it, and the rename with it.
      await this.#save({ generation, files: [...this.#superblock.files, generation] })
    } catch (error) {
      // Only after `disk_full` is it certain that the old superblock holds, and the store goes on.
      if (isStratalogError(error, 'disk_full')) {
        await this.#disk.rename(path, spare)
        this.#spares.unshift(spare)
      }
      throw error
    }
    const handle = await this.#disk.open(path, 'write')
    return { file: this.#files.add(this.#files.make(generation, generation, this.#fileBytes)), handle }
  }

  async #makeSpare(): Promise<void> {
    const path = this.#nextSparePath()
    const file = await this.#disk.open(path, 'create')
    try {
      await file.preallocate(this.#fileBytes)
    } catch (error) {
      await file.close()
      await removeIfThere(this.#disk, path)
      throw error
    }
    await file.close()
    this.#spares.push(path)
  }

  #nextSparePath(): string {
    this.#spareNumber += 1n
    return join(this.#directory, spareName(this.#spareNumber))
  }

  async #save(change: Partial<Superblock>, rewritten: readonly LogFile[] = []): Promise<void> {
    const next = this.#withEnds({ ...this.#superblock, ...change }, rewritten)
    for (;;) {
      try {
        await writeSuperblock(this.#disk, this.#directory, next)
        break
      } catch (error) {
        // Nobody knows which superblock holds, and a second sync may report success for what the first one dropped:
        // whoever asked, also ahead of need, nothing is written any more (DESIGN.md §5).
        if (!isStratalogError(error, 'disk_full')) {
          this.#health.poison(error)
          throw error
        }
        // A full disk must not keep files from being freed: a spare is space that can be given up.
        const spare = this.#spares.pop()
        if (spare === undefined) throw error
        await removeIfThere(this.#disk, spare)
      }
    }
    this.#superblock = next
  }

  /** Says of closed files how far they were durable: the file that followed one and says it too may be gone before it. */
  #withEnds(superblock: Superblock, rewritten: readonly LogFile[]): Superblock {
    const listed = new Set(superblock.files)
    const known = new Map(superblock.ends.map(({ generation, end }) => [generation, end]))
    for (const file of [...this.#files, ...rewritten]) if (file.indexed) known.set(file.generation, file.end)
    const ends = [...known]
      .filter(([generation]) => listed.has(generation))
      .map(([generation, end]) => ({ generation, end }))
      .sort((a, b) => ascending(a.generation, b.generation))
    return { ...superblock, ends }
  }

  /** One step at a time, in the order of the calls; a failed step does not hold up the next. */
  #exclusive<T>(step: () => Promise<T>): Promise<T> {
    const result = this.#last.then(step, step)
    this.#last = result.catch(() => undefined)
    return result
  }

  /** Resolves when nothing is under way. */
  async settled(): Promise<void> {
    await this.#ahead
    await this.#last
  }
}

function ascending(a: bigint, b: bigint): number {
  return a < b ? -1 : a > b ? 1 : 0
}
