import { Buffer } from 'node:buffer'
import { crc32c } from '../../format/checksum.js'
import { present } from '../../model/assert.js'
import { isStratalogError, StratalogError } from '../../model/errors.js'
import type { Damage } from './damage.js'
import type { EntryPlace } from './entry-index.js'
import type { EntrySearch, FoundEntry, LoadedRows } from './entry-search.js'
import type { FileHandles } from './file-handles.js'
import { decodeFrameHeader, FRAME_HEADER_BYTES } from './frame.js'
import type { Ledger } from './ledger.js'
import { FileRange, type LogFile } from './log-file.js'

/** Frames of a ledger further apart than this are read one by one. */
const GAP_BYTES_MAX = 64 << 10
/** One read of consecutive frames. */
const RUN_BYTES_MAX = 4 << 20
/** Between short entries of many ledgers lies far more than is asked for: this bounds what is in memory (invariant 11). */
const RUNS_AT_ONCE = 4

interface Wanted {
  readonly file: LogFile
  readonly entryId: number
  readonly place: EntryPlace
}

/** Reads entries where the index says they are, and checks each frame whole on every read (invariant 9). */
export class EntryReader {
  readonly #search: EntrySearch
  readonly #handles: FileHandles
  readonly #damage: Damage

  constructor(search: EntrySearch, handles: FileHandles, damage: Damage) {
    this.#search = search
    this.#handles = handles
    this.#damage = damage
  }

  /** An entry that was found in this turn. Throws `corrupt`. */
  async one({ range, rows, at }: FoundEntry): Promise<Uint8Array> {
    const wanted = { file: range.file, entryId: rows.idAt(at), place: rows.placeAt(at) }
    const [bytes] = await this.#run(range.ledgerId, [wanted])
    return present(bytes, 'entry')
  }

  /**
   * Entries with consecutive ids from `first` to at most `last`, at most `bytesMax` bytes but at least one.
   * Throws `corrupt` if the first is damaged; before another damaged one the answer ends.
   */
  async consecutive(ledger: Ledger, first: number, last: number, bytesMax: number): Promise<Uint8Array[]> {
    // Files are held from the turn in which they are looked up, so none of them is recycled before it is read.
    const held = new Map<LogFile, { release(): Promise<void> }>()
    const hold = (file: LogFile): void => {
      if (!held.has(file)) held.set(file, this.#handles.hold(file))
    }
    try {
      const runs = splitRuns(await this.#plan(ledger, first, last, bytesMax, hold))
      const answer: Uint8Array[] = []
      for (let at = 0; at < runs.length; at += RUNS_AT_ONCE) {
        const some = runs.slice(at, at + RUNS_AT_ONCE)
        const results = await Promise.allSettled(some.map((run) => this.#run(ledger.id, run)))
        if (!addWhole(answer, some, results)) break
      }
      return answer
    } finally {
      for (const { release } of held.values()) await release()
    }
  }

  async #plan(
    ledger: Ledger,
    first: number,
    last: number,
    bytesMax: number,
    hold: (file: LogFile) => void,
  ): Promise<Wanted[]> {
    const wanted: Wanted[] = []
    const loaded: LoadedRows = new Map()
    let bytes = 0
    let next = first
    while (next <= last) {
      const found = this.#search.now(ledger, next, loaded)
      if (found === null) break
      if (found instanceof FileRange) {
        await this.#search.load(found, loaded)
        continue
      }
      const { range, rows } = found
      hold(range.file)
      const upTo = Math.min(last, this.#search.ruledUpTo(ledger, range, next))
      for (let { at } = found; at < rows.count && next <= upTo && rows.idAt(at) === next; at += 1) {
        const place = rows.placeAt(at)
        bytes += place.bodyBytes
        if (wanted.length > 0 && bytes > bytesMax) return wanted
        wanted.push({ file: range.file, entryId: next, place })
        next += 1
      }
    }
    return wanted
  }

  /** Entries of one file that lie close together; ends before one that can't be had and is not the first. */
  async #run(ledgerId: bigint, run: readonly Wanted[]): Promise<Uint8Array[]> {
    try {
      return await this.#read(ledgerId, run)
    } catch (error) {
      if (run.length === 1 || !isStratalogError(error, 'io_failed')) throw error
    }
    // A sector that can't be read, perhaps of what lies between: it is not to take its neighbours along.
    const answer: Uint8Array[] = []
    for (const wanted of run) {
      const [result] = await Promise.allSettled([this.#read(ledgerId, [wanted])])
      if (!addWhole(answer, [[wanted]], [result])) break
    }
    return answer
  }

  /** With one read. */
  async #read(ledgerId: bigint, run: readonly Wanted[]): Promise<Uint8Array[]> {
    const { file, place: from } = present(run[0], 'first of run')
    const to = present(run.at(-1), 'last of run').place
    const bytes = Buffer.allocUnsafe(to.offset + FRAME_HEADER_BYTES + to.bodyBytes - from.offset)
    const filled = await this.#handles.use(file, (handle) => handle.read(bytes, from.offset))
    const wantedBytes = run.reduce((sum, { place }) => sum + place.bodyBytes, 0)
    // An answer of a few short entries must not keep all that lay between them.
    const sparse = wantedBytes < bytes.byteLength / 2
    const answer: Uint8Array[] = []
    for (const { entryId, place } of run) {
      const at = place.offset - from.offset
      const body = checkedBody(bytes.subarray(0, filled), at, file, ledgerId, entryId, place)
      if (body !== null) {
        answer.push(sparse ? Buffer.from(body) : body)
        continue
      }
      this.#damage.found(file, place.offset, FRAME_HEADER_BYTES + place.bodyBytes)
      if (answer.length > 0) break
      throw damaged(file, ledgerId, entryId, place.offset)
    }
    return answer
  }
}

/**
 * Adds the entries up to the first that could not be read; whether all could. Throws what kept the first of the whole
 * answer from being read.
 */
function addWhole(
  answer: Uint8Array[],
  runs: readonly (readonly Wanted[])[],
  results: readonly PromiseSettledResult<Uint8Array[]>[],
): boolean {
  for (const [at, result] of results.entries()) {
    if (result.status === 'rejected') {
      if (answer.length === 0) throw result.reason
      return false
    }
    answer.push(...result.value)
    if (result.value.length < present(runs[at], 'run').length) return false
  }
  return true
}

/** The body of an entry's frame, if it stands whole at `at` of `bytes`; null for anything else. */
export function checkedBody(
  bytes: Buffer,
  at: number,
  file: LogFile,
  ledgerId: bigint,
  entryId: number,
  place: EntryPlace,
): Uint8Array | null {
  const header = decodeFrameHeader(bytes, at, file.seed)
  if (header?.kind !== 'entry' || header.bodyBytes !== place.bodyBytes) return null
  if (header.ledgerId !== ledgerId || header.entryId !== BigInt(entryId)) return null
  const body = bytes.subarray(at + FRAME_HEADER_BYTES, at + FRAME_HEADER_BYTES + place.bodyBytes)
  return crc32c(body) === header.bodyCrc32c ? body : null
}

function splitRuns(wanted: readonly Wanted[]): Wanted[][] {
  const runs: Wanted[][] = []
  let end = 0
  let begin = 0
  for (const next of wanted) {
    const { offset, bodyBytes } = next.place
    const run = runs.at(-1)
    const near = run?.at(-1)?.file === next.file && offset >= end && offset - end <= GAP_BYTES_MAX
    if (run !== undefined && near && offset + bodyBytes - begin <= RUN_BYTES_MAX) run.push(next)
    else {
      runs.push([next])
      begin = offset
    }
    end = offset + FRAME_HEADER_BYTES + bodyBytes
  }
  return runs
}

function damaged(file: LogFile, ledgerId: bigint, entryId: number, offset: number): StratalogError {
  return new StratalogError(
    'corrupt',
    `entry ${entryId} of ledger ${ledgerId} is damaged in ${file.path} at ${offset}: ask another store`,
    { details: { path: file.path, offset, ledgerId, entryId: BigInt(entryId) } },
  )
}
