import type { LedgerHeader, LedgerSeal } from '../../ports/segment-store.js'
import type { FileRange, LogFile } from './log-file.js'

/** What the store knows of one ledger. Small while idle: 10,000 of them are normal. */
export class Ledger {
  readonly id: bigint
  header: LedgerHeader | null = null
  /** Generation whose file first held the header: the ledger has no frames in older ones. 0: not known. */
  bornGeneration = 0n
  fenced = false
  seal: LedgerSeal | null = null
  /** Generation whose file first held the seal; 0: what came before it may be lost (`Doubt.mayHaveLostTail`). */
  sealGeneration = 0n
  /** Deleted; kept as a tombstone as long as any file holds frames of it. */
  deleted = false
  /** Where its live entries are; ascending by `compareRank`. Their bounds overlap only where entries were written anew. */
  readonly ranges: FileRange[] = []
  /** Highest LAC that a durable entry carried or `writeLac` stated; −1n: none. */
  knownLac = -1n
  /** What `writeLac` stated; −1n: nothing. */
  explicitLac = -1n

  /** Files with any frame of it, dead ones too. */
  readonly files: Set<LogFile> = new Set()
  /** The files with the frame that counts. */
  headerFile: LogFile | null = null
  fenceFile: LogFile | null = null
  sealFile: LogFile | null = null
  deleteFile: LogFile | null = null

  // Asked for and perhaps not durable yet. They rule what is still accepted, never what is answered.
  headerAsked: LedgerHeader | null = null
  fenceAsked = false
  sealAsked: LedgerSeal | null = null
  deleteAsked = false

  constructor(id: bigint) {
    this.id = id
  }

  /** Whether an entry id lies above the seal: a seal outranks such entries. */
  isAboveSeal(entryId: number): boolean {
    return this.seal !== null && BigInt(entryId) > this.seal.lastEntryId
  }
}
