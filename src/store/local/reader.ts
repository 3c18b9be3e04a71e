import { Buffer } from 'node:buffer'
import { crc32c } from '../../format/checksum.js'
import { present } from '../../model/assert.js'
import { StratalogError } from '../../model/errors.js'
import type { EntryPlace } from './entry-index.js'
import { decodeFrameHeader, FRAME_HEADER_BYTES } from './frame.js'
import type { Ledger } from './ledger.js'
import type { FileHandles, LogFile, LogFiles } from './log-file.js'

/** Frames of a ledger further apart than this are read one by one. */
const GAP_BYTES_MAX = 64 << 10
/** One read of consecutive frames. */
const RUN_BYTES_MAX = 4 << 20

interface Wanted {
  readonly entryId: number
  readonly place: EntryPlace
}

/** Reads entries where the index says they are, and checks each frame whole on every read (invariant 9). */
export class EntryReader {
  readonly #files: LogFiles
  readonly #handles: FileHandles

  constructor(files: LogFiles, handles: FileHandles) {
    this.#files = files
    this.#handles = handles
  }

  /** The entry at `at` of the ledger's index. Throws `corrupt`. */
  async one(ledger: Ledger, at: number): Promise<Uint8Array> {
    const wanted = { entryId: ledger.entries.idAt(at), place: ledger.entries.placeAt(at) }
    const [bytes] = await this.#run(ledger, [wanted])
    return present(bytes, 'entry')
  }

  /**
   * Entries with consecutive ids from `first` to at most `last`, at most `bytesMax` bytes but at least one.
   * Throws `corrupt` if the first is damaged; before another damaged one the answer ends.
   */
  async consecutive(ledger: Ledger, first: number, last: number, bytesMax: number): Promise<Uint8Array[]> {
    const runs = splitRuns(this.#consecutive(ledger, first, last, bytesMax))
    // All are begun in this turn: the places were looked up now, and a file in use is not recycled.
    const results = await Promise.allSettled(runs.map((run) => this.#run(ledger, run)))
    const answer: Uint8Array[] = []
    for (const [at, result] of results.entries()) {
      if (result.status === 'rejected') {
        if (answer.length === 0) throw result.reason
        break
      }
      answer.push(...result.value)
      if (result.value.length < present(runs[at], 'run').length) break
    }
    return answer
  }

  #consecutive(ledger: Ledger, first: number, last: number, bytesMax: number): Wanted[] {
    const wanted: Wanted[] = []
    const { entries } = ledger
    let bytes = 0
    const from = entries.find(first)
    if (from < 0) return wanted
    for (let at = from; at < entries.count; at += 1) {
      const entryId = entries.idAt(at)
      if (entryId > last || entryId !== first + (at - from)) break
      const place = entries.placeAt(at)
      bytes += place.bodyBytes
      if (wanted.length > 0 && bytes > bytesMax) break
      wanted.push({ entryId, place })
    }
    return wanted
  }

  /**
   * Entries of one file that lie close together, with one read; ends before a damaged one that is not the
   * first.
   */
  async #run(ledger: Ledger, run: readonly Wanted[]): Promise<Uint8Array[]> {
    const from = present(run[0], 'first of run').place
    const file = this.#files.at(from.slot)
    const to = present(run.at(-1), 'last of run').place
    const bytes = Buffer.allocUnsafe(to.offset + FRAME_HEADER_BYTES + to.bodyBytes - from.offset)
    const filled = await this.#handles.use(file, (handle) => handle.read(bytes, from.offset))
    const answer: Uint8Array[] = []
    for (const { entryId, place } of run) {
      const at = place.offset - from.offset
      const body = filled < bytes.byteLength ? null : checkedBody(bytes, at, file, ledger.id, entryId, place)
      if (body !== null) {
        answer.push(body)
        continue
      }
      if (answer.length > 0) break
      throw damaged(file, ledger.id, entryId, place.offset)
    }
    return answer
  }
}

function checkedBody(
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
    const { slot, offset, bodyBytes } = next.place
    const run = runs.at(-1)
    const last = run?.at(-1)?.place
    const near = last?.slot === slot && offset >= end && offset - end <= GAP_BYTES_MAX
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
