import { present } from '../../model/assert.js'
import type { ControlFrame } from '../../ports/segment-store.js'
import type { EntryPlace } from './entry-index.js'
import type { FrameKind } from './frame.js'
import { Ledger } from './ledger.js'
import type { LogFile, LogFiles } from './log-file.js'
import { decodeControl, decodeLedgerHeader, decodeSealLength, ledgerIdentity } from './mark-body.js'

/** A durable frame that is not an entry. */
export interface Mark {
  readonly kind: Exclude<FrameKind, 'group' | 'entry'>
  readonly ledgerId: bigint
  readonly entryId: bigint
  readonly bornGeneration: bigint
  readonly body: Uint8Array
}

/** Told of what may wake somebody. */
export interface TableEvents {
  lacAdvanced(ledger: Ledger): void
  /** Sealed or deleted. */
  ledgerEnded(ledger: Ledger): void
  /** No live entry is left in the file. */
  fileDead(file: LogFile): void
}

interface StoredControl {
  readonly frame: ControlFrame
  file: LogFile
}

/**
 * The index in memory: everything durable, as the frames in their order say it. The same functions apply a
 * frame at start and when it has become durable, so that a restart can't see anything else. Applying a frame
 * again (it was carried to a newer file) changes only where it stands.
 */
export class LedgerTable {
  readonly #files: LogFiles
  readonly #events: TableEvents
  readonly #ledgers = new Map<bigint, Ledger>()
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
    }
    return ledger
  }

  /** Forgets a ledger of which nothing became durable. */
  forgetIfEmpty(ledger: Ledger): void {
    if (ledger.files.size === 0 && !ledger.fenceAsked && this.#ledgers.get(ledger.id) === ledger)
      this.#ledgers.delete(ledger.id)
  }

  ledgers(): IterableIterator<Ledger> {
    return this.#ledgers.values()
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
    if (ledger.deleted || ledger.isAboveSeal(entryId)) return
    const before = ledger.entries.set(entryId, place)
    file.liveEntries += 1
    file.liveBytes += place.bodyBytes
    ledger.sizeBytes += place.bodyBytes
    if (before !== null) this.#died(ledger, before)
    this.raiseLac(ledger, lac)
  }

  applyMark(mark: Mark, file: LogFile): void {
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
        ledger.headerAsked = ledgerIdentity(ledger.header)
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
    ledger.entries.removeAbove(Number(mark.entryId), (place) => this.#died(ledger, place))
    this.#events.ledgerEnded(ledger)
  }

  #applyDelete(ledger: Ledger, file: LogFile): void {
    ledger.deleted = true
    ledger.deleteAsked = true
    ledger.deleteFile = file
    ledger.entries.removeAbove(-1, (place) => this.#died(ledger, place))
    this.#events.ledgerEnded(ledger)
  }

  raiseLac(ledger: Ledger, lac: bigint): void {
    if (lac <= ledger.knownLac) return
    ledger.knownLac = lac
    this.#events.lacAdvanced(ledger)
  }

  /** Forgets a file that was freed, and the tombstones that nothing needs any more. */
  fileFreed(file: LogFile): void {
    for (const ledger of this.ledgersIn(file)) {
      ledger.files.delete(file)
      if (ledger.files.size === 0) this.#ledgers.delete(ledger.id)
    }
    file.ledgerIds.clear()
    this.#files.drop(file)
  }

  #touch(ledger: Ledger, file: LogFile): void {
    if (ledger.files.has(file)) return
    ledger.files.add(file)
    file.ledgerIds.add(ledger.id)
  }

  #died(ledger: Ledger, place: EntryPlace): void {
    const file = this.#files.at(place.slot)
    file.liveEntries -= 1
    file.liveBytes -= place.bodyBytes
    ledger.sizeBytes -= place.bodyBytes
    if (file.liveEntries === 0 && file.closed) this.#events.fileDead(file)
  }
}
