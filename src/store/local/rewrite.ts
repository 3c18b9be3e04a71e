import { Buffer } from 'node:buffer'
import { crc32c } from '../../format/checksum.js'
import { present } from '../../model/assert.js'
import { isStratalogError, StratalogError } from '../../model/errors.js'
import type { Clock } from '../../ports/clock.js'
import type { DiskFile } from '../../ports/disk.js'
import type { Logger } from '../../ports/logger.js'
import { carriedMarks } from './carried-marks.js'
import type { Damage } from './damage.js'
import type { DiskLook } from './disk-look.js'
import type { EntryPlace, EntryRows } from './entry-index.js'
import type { EntrySearch, LoadedRows } from './entry-search.js'
import type { FileHandles } from './file-handles.js'
import { FRAME_HEADER_BYTES } from './frame.js'
import type { FrameToWrite } from './group.js'
import type { StoreHealth } from './health.js'
import type { LedgerTable, RewrittenFile } from './ledger-table.js'
import { FileRange, type LogFile, type LogFiles } from './log-file.js'
import { checkedBody } from './reader.js'
import { RewriteOutput } from './rewrite-output.js'
import { chooseDeadest, chooseSources } from './rewrite-plan.js'
import type { Space } from './space.js'

/** Bodies in memory at once. */
const CHUNK_BYTES = 8 << 20
/** Frames of a chunk nearer than this are read together, this much at most. */
const GAP_BYTES_MAX = 16 << 10
const PIECE_BYTES_MAX = 1 << 20
/** No rate is so low that a copy may rest longer between pieces. */
const PAUSE_MS_MAX = 60_000
/** After a failure nothing is tried for so long. */
const RETRY_MS = 10_000

interface Wanted {
  readonly file: LogFile
  readonly ledgerId: bigint
  readonly entryId: number
  readonly place: EntryPlace
}

export interface RewriterOptions {
  readonly files: LogFiles
  readonly table: LedgerTable
  readonly search: EntrySearch
  readonly handles: FileHandles
  readonly damage: Damage
  readonly health: StoreHealth
  readonly space: Space
  readonly look: DiskLook
  readonly clock: Clock
  readonly logger: Logger
  readonly fileBytes: number
  readonly groupBytesMax: number
  readonly rewriteBytesPerSecond: number
  /** Appends wait for the disk. */
  isBusy(): boolean
}

/**
 * Copies what lives of some files into new ones, sorted by ledger and entry, and puts these in their place. Marks that
 * still matter go along with the generations they were born in.
 *
 * Age. Of each entry only the newest copy is taken, and none that a file outside has a newer one of. The new files
 * have the highest rank of the old ones: whatever is written after the choice stands in a file of higher rank, so it
 * stays newer than what is copied here, and what was older stays older.
 *
 * Crash windows. Until the superblock lists the new files and, in the same step, no longer the old ones, nothing has
 * changed: a new file is a spare to the next start. After that the old ones are. Each new file is durable as a whole,
 * index block included, before. What a delete, a seal or a repair changed while the copy was made is found where it
 * was written; the table applies the new files as a start would.
 */
export class Rewriter {
  readonly #options: RewriterOptions
  readonly #stopped = new AbortController()
  #notBeforeMs = Number.NEGATIVE_INFINITY

  constructor(options: RewriterOptions) {
    this.#options = options
  }

  /** Gives up what is under way. */
  stop(): void {
    this.#stopped.abort()
  }

  /**
   * Rewrites what is due next, if anything; whether it did. `mayGoOn` is asked and `meanwhile` called between pieces:
   * other work of the background must not wait for a long copy. Never rejects for what a disk does.
   */
  async rewriteNext(mayGoOn: () => boolean, meanwhile: () => Promise<void>): Promise<boolean> {
    if (this.#options.clock.monotonicMs() < this.#notBeforeMs) return false
    const { sources, reserved } = await this.#choose()
    if (sources.length === 0 || !mayGoOn()) return false
    const job = new RewriteJob(this.#options, sources, reserved, async (bytes, sinceMs) => {
      await this.#pace(bytes, sinceMs)
      await meanwhile()
      return mayGoOn()
    })
    for (const file of sources) file.beingRewritten = true
    try {
      return await job.run()
    } catch (error) {
      this.#failed(error, sources)
      return false
    } finally {
      for (const file of sources) file.beingRewritten = false
      await job.abandonRest()
    }
  }

  /** As much as there is room for; on a full disk the one file that gives most back goes into the reserve. */
  async #choose(): Promise<{ sources: LogFile[]; reserved: boolean }> {
    const { files, fileBytes, look } = this.#options
    const sources = chooseSources(files, fileBytes)
    if (sources.length === 0) return { sources, reserved: false }
    const { space, failure } = await look.take()
    if (failure !== null) return { sources: [], reserved: false }
    const bytes = sources.reduce((sum, file) => sum + file.sizeBytes, 0)
    if (space.freeBytes >= bytes + 2 * fileBytes) return { sources, reserved: false }
    return { sources: chooseDeadest(files, fileBytes), reserved: true }
  }

  #failed(error: unknown, sources: readonly LogFile[]): void {
    const { logger, health, clock } = this.#options
    this.#notBeforeMs = clock.monotonicMs() + RETRY_MS
    const paths = sources.map(({ path }) => path)
    logger.warn({ error, paths }, 'files could not be rewritten')
    // What failed while something was written has poisoned the store there; what can't be read is no reason to.
    if (!isStratalogError(error)) health.poison(error)
  }

  async #pace(bytes: number, sinceMs: number): Promise<void> {
    const { clock, rewriteBytesPerSecond, isBusy } = this.#options
    const rate = rewriteBytesPerSecond / (isBusy() ? 4 : 1)
    const restMs = (bytes / rate) * 1_000 - (clock.monotonicMs() - sinceMs)
    if (restMs <= 1 || this.#stopped.signal.aborted) return
    try {
      await clock.sleep(Math.min(restMs, PAUSE_MS_MAX), this.#stopped.signal)
    } catch (error) {
      if (!this.#stopped.signal.aborted) throw error
    }
  }
}

/** One copy of some files into new ones. */
class RewriteJob {
  readonly #options: RewriterOptions
  readonly #sources: readonly LogFile[]
  readonly #among: ReadonlySet<LogFile>
  readonly #reserved: boolean
  readonly #pause: (bytes: number, sinceMs: number) => Promise<boolean>
  readonly #begun: RewriteOutput[] = []
  readonly #finished: RewrittenFile[] = []
  #output: RewriteOutput | null = null
  #listed = false

  constructor(
    options: RewriterOptions,
    sources: readonly LogFile[],
    reserved: boolean,
    pause: (bytes: number, sinceMs: number) => Promise<boolean>,
  ) {
    this.#options = options
    this.#sources = sources
    this.#among = new Set(sources)
    this.#reserved = reserved
    this.#pause = pause
  }

  /** Whether it came to its end. */
  async run(): Promise<boolean> {
    const { table, space, logger, health } = this.#options
    if (!(await this.#copyEntries())) return false
    // After the entries: marks that came meanwhile stand in files that stay.
    await this.#write(
      carriedMarks(table, this.#sources).map((mark) => ({ ...mark, bodyCrc32c: crc32c(mark.body) })),
    )
    if (this.#output !== null) await this.#finish(this.#output)
    if (health.poisoned !== null) throw health.poisoned
    await space.replace(
      this.#sources,
      this.#finished.map(({ file }) => file),
      () => {
        this.#listed = true
        table.replaced(this.#sources, this.#finished)
      },
    )
    logger.debug({ from: this.#sources.length, to: this.#finished.length }, 'files rewritten')
    return true
  }

  /** Removes what is not going to be listed. */
  async abandonRest(): Promise<void> {
    const { logger } = this.#options
    const noted = (path: string) => (error: unknown) =>
      logger.warn({ error, path }, 'an unfinished file stays until the next start')
    if (this.#output !== null) await this.#output.close().catch(noted(this.#output.file.path))
    // What a failed superblock lists nobody knows: then the files must stay.
    if (this.#listed || this.#options.health.poisoned !== null) return
    for (const { file } of this.#begun) {
      await this.#options.space.abandonRewritten(file).catch(noted(file.path))
    }
  }

  async #copyEntries(): Promise<boolean> {
    const { clock } = this.#options
    let chunk: Wanted[] = []
    let bytes = 0
    let sinceMs = clock.monotonicMs()
    for await (const wanted of this.#living()) {
      chunk.push(wanted)
      bytes += FRAME_HEADER_BYTES + wanted.place.bodyBytes
      if (bytes < CHUNK_BYTES) continue
      await this.#write(await this.#read(chunk))
      if (!(await this.#pause(bytes, sinceMs))) return false
      chunk = []
      bytes = 0
      sinceMs = clock.monotonicMs()
    }
    await this.#write(await this.#read(chunk))
    return this.#pause(bytes, sinceMs)
  }

  /** The newest copies that stand in the sources, by ledger and entry. */
  async *#living(): AsyncGenerator<Wanted> {
    const { table, search } = this.#options
    const ledgerIds = new Set(this.#sources.flatMap((file) => [...file.ranges.keys()]))
    for (const ledgerId of [...ledgerIds].sort((a, b) => (a < b ? -1 : 1))) {
      const loaded: LoadedRows = new Map()
      const ranges = this.#sources.flatMap((file) => file.ranges.get(ledgerId) ?? [])
      for (const range of ranges) await this.#load(range, ranges, loaded)
      for (const entryId of idsOf(ranges.map((range) => present(loaded.get(range), 'rows')))) {
        const ledger = table.find(ledgerId)
        let found = ledger === null ? null : search.now(ledger, entryId, loaded)
        while (ledger !== null && found instanceof FileRange) {
          await this.#load(found, ranges, loaded)
          found = search.now(ledger, entryId, loaded)
        }
        if (found === null || found instanceof FileRange || !this.#among.has(found.range.file)) continue
        yield { file: found.range.file, ledgerId, entryId, place: found.rows.placeAt(found.at) }
      }
    }
  }

  async #load(range: FileRange, sources: readonly FileRange[], loaded: LoadedRows): Promise<void> {
    try {
      await this.#options.search.load(range, loaded)
    } catch (error) {
      // The same files would be tried for ever. Of a file outside nobody knows which copies of the ledger are newer.
      const staying = sources.includes(range) ? [range] : sources
      if (isStratalogError(error, 'corrupt')) for (const { file } of staying) file.unrewritable = true
      throw error
    }
  }

  /** Frames as they are to be written, in the order asked for; read in the order they lie in. */
  async #read(chunk: readonly Wanted[]): Promise<FrameToWrite[]> {
    const frames = new Map<Wanted, FrameToWrite>()
    const byPlace = chunk.toSorted((a, b) =>
      a.file === b.file ? a.place.offset - b.place.offset : a.file.generation < b.file.generation ? -1 : 1,
    )
    for (const piece of splitPieces(byPlace)) await this.#readPiece(piece, frames)
    return chunk.map((wanted) => present(frames.get(wanted), 'frame'))
  }

  async #readPiece(piece: readonly Wanted[], frames: Map<Wanted, FrameToWrite>): Promise<void> {
    const { file, place: first } = present(piece[0], 'first of piece')
    const last = present(piece.at(-1), 'last of piece').place
    const bytes = Buffer.allocUnsafe(last.offset + FRAME_HEADER_BYTES + last.bodyBytes - first.offset)
    const filled = await this.#options.handles.use(file, (handle) => readable(handle, bytes, first.offset))
    if (filled === null && piece.length > 1) {
      // A sector that can't be read, perhaps of something dead between: each frame for itself.
      for (const wanted of piece) await this.#readPiece([wanted], frames)
      return
    }
    const here = bytes.subarray(0, filled ?? 0)
    for (const wanted of piece) {
      const { ledgerId, entryId, place } = wanted
      const at = place.offset - first.offset
      const body = checkedBody(here, at, file, ledgerId, entryId, place)
      if (body === null) throw this.#damaged(wanted)
      // A copy: the piece is larger than what is wanted of it.
      frames.set(wanted, {
        kind: 'entry',
        ledgerId,
        entryId: BigInt(entryId),
        bornGeneration: 0n,
        body: Buffer.from(body),
        bodyCrc32c: bytes.readUInt32BE(at + 12),
      })
    }
  }

  #damaged({ file, ledgerId, entryId, place }: Wanted): StratalogError {
    this.#options.damage.found(file, place.offset, FRAME_HEADER_BYTES + place.bodyBytes)
    // Rewriting would turn what reads as damaged into what is absent: the file stays as it is.
    file.unrewritable = true
    return new StratalogError('corrupt', `entry ${entryId} of ledger ${ledgerId} is damaged in ${file.path}`)
  }

  async #write(frames: readonly FrameToWrite[]): Promise<void> {
    let left = frames
    while (left.length > 0) {
      this.#output ??= await this.#begin()
      const output = this.#output
      const written = await this.#writing(() => output.write(left))
      left = left.slice(written)
      if (left.length === 0) return
      await this.#finish(output)
    }
  }

  async #finish(output: RewriteOutput): Promise<void> {
    this.#finished.push(await this.#writing(() => output.finish()))
    this.#output = null
  }

  /** A failed write or sync poisons, here as anywhere (DESIGN.md §5). */
  async #writing<T>(work: () => Promise<T>): Promise<T> {
    try {
      return await work()
    } catch (error) {
      throw isStratalogError(error, 'disk_full') ? error : this.#options.health.poison(error)
    }
  }

  async #begin(): Promise<RewriteOutput> {
    const { space, fileBytes, groupBytesMax } = this.#options
    const rank = this.#sources.reduce((max, file) => (file.rank > max ? file.rank : max), 0n)
    const output = new RewriteOutput(
      await space.beginRewritten(rank, this.#reserved),
      fileBytes,
      groupBytesMax,
    )
    this.#begun.push(output)
    return output
  }
}

/** Bytes read; null where the disk refuses: a frame for which it does counts as damaged. */
async function readable(handle: DiskFile, bytes: Buffer, offset: number): Promise<number | null> {
  try {
    return await handle.read(bytes, offset)
  } catch (error) {
    if (isStratalogError(error, 'io_failed')) return null
    throw error
  }
}

/** The ids in any of the rows, ascending, each once. */
function* idsOf(all: readonly EntryRows[]): IterableIterator<number> {
  const at = all.map(() => 0)
  for (;;) {
    let lowest = Number.POSITIVE_INFINITY
    for (const [i, rows] of all.entries()) {
      const next = at[i] ?? 0
      if (next < rows.count) lowest = Math.min(lowest, rows.idAt(next))
    }
    if (lowest === Number.POSITIVE_INFINITY) return
    for (const [i, rows] of all.entries()) {
      const next = at[i] ?? 0
      if (next < rows.count && rows.idAt(next) === lowest) at[i] = next + 1
    }
    yield lowest
  }
}

function splitPieces(byPlace: readonly Wanted[]): Wanted[][] {
  const pieces: Wanted[][] = []
  let begin = 0
  let end = 0
  for (const wanted of byPlace) {
    const { offset, bodyBytes } = wanted.place
    const piece = pieces.at(-1)
    const frameEnd = offset + FRAME_HEADER_BYTES + bodyBytes
    const near = piece?.[0]?.file === wanted.file && offset - end <= GAP_BYTES_MAX
    if (piece !== undefined && near && frameEnd - begin <= PIECE_BYTES_MAX) piece.push(wanted)
    else {
      pieces.push([wanted])
      begin = offset
    }
    end = frameEnd
  }
  return pieces
}
