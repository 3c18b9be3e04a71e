import type { FrameToWrite } from './group.js'
import type { Ledger } from './ledger.js'
import type { LedgerTable } from './ledger-table.js'
import type { LogFile } from './log-file.js'
import { encodeControl, encodeLedgerHeader, encodeSealLength, NO_BODY } from './mark-body.js'

/** A frame that is not an entry, before its checksum is taken. */
export type MarkFrame = Omit<FrameToWrite, 'bodyCrc32c'>

/** What still matters of the marks of files that go; with the generations that they were born in. */
export function carriedMarks(table: LedgerTable, files: readonly LogFile[]): MarkFrame[] {
  const going = new Set(files)
  const marks: MarkFrame[] = []
  for (const file of files) {
    for (const ledger of table.ledgersIn(file)) marks.push(...marksOfLedger(ledger, file, going))
    for (const control of table.controlsIn(file)) {
      const body = encodeControl(control)
      marks.push({ kind: 'control', ledgerId: 0n, entryId: 0n, bornGeneration: file.generation, body })
    }
  }
  return marks
}

function marksOfLedger(ledger: Ledger, file: LogFile, going: ReadonlySet<LogFile>): MarkFrame[] {
  const mark = (
    kind: MarkFrame['kind'],
    bornGeneration: bigint,
    body: Uint8Array,
    entryId = 0n,
  ): MarkFrame => ({
    kind,
    ledgerId: ledger.id,
    entryId,
    bornGeneration,
    body,
  })
  if (ledger.deleted) {
    // The tombstone goes with the last file it was for.
    const needed = ledger.deleteFile === file && [...ledger.files].some((other) => !going.has(other))
    return needed ? [mark('delete', file.generation, NO_BODY)] : []
  }
  const marks: MarkFrame[] = []
  const { header, seal } = ledger
  if (header !== null && ledger.headerFile === file) {
    marks.push(mark('ledger', ledger.bornGeneration, encodeLedgerHeader(header)))
  }
  if (ledger.fenceFile === file) marks.push(mark('fence', file.generation, NO_BODY))
  if (seal !== null && ledger.sealFile === file) {
    marks.push(mark('seal', ledger.sealGeneration, encodeSealLength(seal), seal.lastEntryId))
  }
  return marks
}
