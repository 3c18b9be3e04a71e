import { assert, present } from '../../model/assert.js'
import type { ControlFrame } from '../../ports/segment-store.js'
import type { EntryPlace } from './entry-index.js'
import type { IndexSection } from './index-block.js'
import { Ledger } from './ledger.js'
import { compareRank, FileRange, type LogFile, type LogFiles } from './log-file.js'
import { decodeControl, decodeLedgerHeader, decodeSealLength, type Mark } from './mark-body.js'
import { SortedIds } from './sorted-ids.js'

/** Told of what may wake somebody. */
export interface TableEvents {
  lacAdvanced(ledger: Ledger): void
  /** Sealed or deleted. */
  ledgerEnded(ledger: Ledger): void
  /** Live entries of a closed file died. */
  fileShrunk(file: LogFile): void
}

/** A file that was made out of others, with what its index block tells. */
export interface RewrittenFile {
  readonly file: LogFile
  readonly sections: readonly IndexSection[]
  readonly marks: readonly Mark[]
}

interface StoredControl {
  readonly frame: ControlFrame
  file: LogFile
}

/**
 * What is durable, as the frames in their order say it: all marks, and of entries which file holds which range of
 * them. The same functions apply a frame at start and when it has become durable, so that a restart can't see
 * anything else. Applying a mark again (it was carried to a newer file) changes only where it stands.
 */
export class LedgerTable {
  readonly #files: LogFiles
  readonly #events: TableEvents
  readonly #ledgers = new Map<bigint, Ledger>()
  readonly #order: SortedIds = new SortedIds()
  readonly #controls = new Map<string, StoredControl>()

  constructor(files: LogFiles, events: TableEvents) {
    this.#files = files
    this.#events = events
  }

  find(ledgerId: bigint): Ledger | null {
    return this.#ledgers.get(ledgerId) ?? null
  }

  obtain(ledgerId: bigint): Ledger {
    let ledger = this.#ledgers.get(ledgerId)
    if (ledger === undefined) {
      ledger = new Ledger(ledgerId)
      this.#ledgers.set(ledgerId, ledger)
      this.#order.add(ledgerId)
    }
    return ledger
  }

  /** Forgets a ledger of which nothing became durable. */
  forgetIfEmpty(ledger: Ledger): void {
    if (ledger.files.size === 0 && !ledger.fenceAsked && this.#ledgers.get(ledger.id) === ledger)
      this.#forget(ledger)
  }

  #forget(ledger: Ledger): void {
    this.#ledgers.delete(ledger.id)
    this.#order.remove(ledger.id)
  }

  /** Live ledgers above `after` with anything durable, ascending, at most `limit`. */
  listed(after: bigint, limit: number): Ledger[] {
    const found: Ledger[] = []
    for (const id of this.#order.above(after)) {
      if (found.length >= limit) break
      const ledger = this.#ledgers.get(id)
      if (ledger !== undefined && !ledger.deleted && ledger.files.size > 0) found.push(ledger)
    }
    return found
  }

  /** Ledgers with any frame in the file. */
  ledgersIn(file: LogFile): Ledger[] {
    return [...file.ledgerIds].map((id) => present(this.#ledgers.get(id), `ledger ${id}`))
  }

  control(id: string): ControlFrame | null {
    return this.#controls.get(id)?.frame ?? null
  }

  controls(): ControlFrame[] {
    return [...this.#controls.values()].map(({ frame }) => frame)
  }

  controlsIn(file: LogFile): ControlFrame[] {
    return [...this.#controls.values()].filter((stored) => stored.file === file).map(({ frame }) => frame)
  }

  /** Among frames of one entry the last one counts: a repair writes an entry anew. */
  applyEntry(ledger: Ledger, entryId: number, lac: bigint, file: LogFile, place: EntryPlace): void {
    this.#touch(ledger, file)
    file.noteEntry()
    if (ledger.deleted || ledger.isAboveSeal(entryId)) return
    const range = file.ranges.get(ledger.id) ?? this.#addRange(ledger, new FileRange(ledger.id, file, null))
    range.set(present(range.rows, 'rows of an open file'), entryId, place, lac)
    this.raiseLac(ledger, lac)
  }

  /** The entries of one ledger that an index block tells of. */
  applySection(section: IndexSection, file: LogFile): void {
    const ledger = this.obtain(section.ledgerId)
    this.#touch(ledger, file)
    file.indexedBytes += section.sizeBytes
    if (ledger.deleted || section.entries === 0 || ledger.isAboveSeal(section.firstId)) return
    const range = this.#addRange(ledger, new FileRange(ledger.id, file, section))
    file.liveEntries += range.count
    file.liveBytes += range.sizeBytes
    if (ledger.seal !== null) range.cutAbove(Number(ledger.seal.lastEntryId))
    this.raiseLac(ledger, section.lac)
  }

  #addRange(ledger: Ledger, range: FileRange): FileRange {
    const { ranges } = ledger
    let at = ranges.length
    while (at > 0 && compareRank(present(ranges[at - 1], 'range').file, range.file) > 0) at -= 1
    ranges.splice(at, 0, range)
    range.file.ranges.set(ledger.id, range)
    return range
  }

  applyMark(mark: Mark, file: LogFile): void {
    file.addMark(mark)
    this.applyIndexedMark(mark, file)
  }

  /** A mark that the file's index block holds. */
  applyIndexedMark(mark: Mark, file: LogFile): void {
    if (mark.kind === 'control') {
      const frame = decodeControl(mark.body)
      const stored = this.#controls.get(frame.id)
      if (stored === undefined) this.#controls.set(frame.id, { frame, file })
      else stored.file = file
      return
    }
    const ledger = this.obtain(mark.ledgerId)
    this.#touch(ledger, file)
    if (mark.kind === 'delete') this.#applyDelete(ledger, file)
    else if (!ledger.deleted) this.#applyLiveMark(ledger, mark, file)
  }

  #applyLiveMark(ledger: Ledger, mark: Mark, file: LogFile): void {
    if (mark.kind === 'fence') {
      ledger.fenced = true
      ledger.fenceAsked = true
      ledger.fenceFile = file
    } else if (mark.kind === 'ledger') {
      if (ledger.header === null) {
        ledger.header = decodeLedgerHeader(mark.body)
        ledger.headerAsked = ledger.header
        ledger.bornGeneration = mark.bornGeneration
      }
      ledger.headerFile = file
    } else if (mark.kind === 'seal') {
      if (ledger.seal === null) this.#applySeal(ledger, mark)
      ledger.sealFile = file
    }
  }

  #applySeal(ledger: Ledger, mark: Mark): void {
    ledger.seal = { lastEntryId: mark.entryId, lengthBytes: decodeSealLength(mark.body) }
    ledger.sealAsked = ledger.seal
    ledger.sealGeneration = mark.bornGeneration
    const lastId = Number(mark.entryId)
    for (const range of [...ledger.ranges]) {
      if (range.firstId > lastId) this.#dropRange(ledger, range)
      else range.cutAbove(lastId)
    }
    this.#events.ledgerEnded(ledger)
  }

  #applyDelete(ledger: Ledger, file: LogFile): void {
    ledger.deleted = true
    ledger.deleteAsked = true
    ledger.deleteFile = file
    for (const range of [...ledger.ranges]) this.#dropRange(ledger, range)
    this.#events.ledgerEnded(ledger)
  }

  #dropRange(ledger: Ledger, range: FileRange): void {
    const { file } = range
    ledger.ranges.splice(ledger.ranges.indexOf(range), 1)
    assert(file.ranges.delete(ledger.id), 'a range is dropped twice')
    file.liveEntries -= range.count
    file.liveBytes -= range.sizeBytes
    if (file.closed) this.#events.fileShrunk(file)
  }

  raiseLac(ledger: Ledger, lac: bigint): void {
    if (lac <= ledger.knownLac) return
    ledger.knownLac = lac
    this.#events.lacAdvanced(ledger)
  }

  /** Puts rewritten files in the place of their sources, as a start would find them. All in one turn. */
  replaced(sources: readonly LogFile[], outputs: readonly RewrittenFile[]): void {
    for (const { file, sections, marks } of outputs) {
      this.#files.add(file)
      for (const mark of marks) this.applyIndexedMark(mark, file)
      for (const section of sections) this.applySection(section, file)
    }
    for (const file of sources) this.fileFreed(file)
  }

  /** Forgets a file that was freed, and the tombstones that nothing needs any more. */
  fileFreed(file: LogFile): void {
    for (const range of [...file.ranges.values()]) {
      this.#dropRange(present(this.#ledgers.get(range.ledgerId), 'ledger of a range'), range)
    }
    for (const ledger of this.ledgersIn(file)) {
      ledger.files.delete(file)
      if (ledger.files.size === 0) this.#forget(ledger)
    }
    file.ledgerIds.clear()
    this.#files.drop(file)
  }

  #touch(ledger: Ledger, file: LogFile): void {
    if (ledger.files.has(file)) return
    ledger.files.add(file)
    file.ledgerIds.add(ledger.id)
  }
}
