import { assert, present } from '../../model/assert.js'
import type { Disk, DiskFile } from '../../ports/disk.js'
import { pageEnd } from './frame.js'
import { encodeIndexBlock, type IndexSection, type SectionToWrite } from './index-block.js'
import type { LogFile } from './log-file.js'

const NO_ROWS = { count: 0, idAt: () => 0, placeAt: () => ({ offset: 0, bodyBytes: 0 }) }

/*
 * A file gets its index block when nothing is appended to it any more. Crash windows: all below the block is durable
 * before the block is written, so a block that is whole never speaks of frames that are not. Until its footer stands
 * at the end of the file the block is not there: start scans the file, and writes it again.
 */

/** Gives a closed file its index block, at the end of the space it has. The file grows if that is too small. */
export async function writeIndexBlock(disk: Disk, file: LogFile): Promise<void> {
  const handle = await disk.open(file.path, 'write')
  try {
    // Frames found after a crash may stand in the page cache only: nothing says that they were ever synced.
    await handle.dataSync()
    const place = (bytes: number): number => Math.max(pageEnd(file.end), pageEnd(file.sizeBytes - bytes))
    const sections = await writeBlock(file, handle, place)
    await handle.dataSync()
    leaveToBlock(file, sections)
  } finally {
    await handle.close()
  }
}

/** The same right behind the last group, and gives the rest of the space back; for a file of which all is synced. */
export async function endWithIndexBlock(file: LogFile, handle: DiskFile): Promise<IndexSection[]> {
  const sections = await writeBlock(file, handle, () => pageEnd(file.end))
  await handle.truncate(file.sizeBytes)
  await handle.dataSync()
  leaveToBlock(file, sections)
  return sections
}

async function writeBlock(
  file: LogFile,
  handle: DiskFile,
  place: (blockBytes: number) => number,
): Promise<IndexSection[]> {
  assert(file.closed && !file.indexed && !file.damaged, `an index block is not due: ${file.path}`)
  const rowsOf = [...file.ranges.values()].map((range) => ({ range, rows: present(range.rows, 'rows') }))
  const withRows = new Map<bigint, SectionToWrite>(
    rowsOf.map(({ range, rows }) => {
      const { ledgerId, sizeBytes, lac } = range
      return [ledgerId, { ledgerId, rows, sizeBytes, lac }]
    }),
  )
  // A dead ledger has a section too: its frames are still here, and its tombstone is needed as long as they are.
  const sectionsToWrite = [...file.ledgerIds].map(
    (ledgerId) => withRows.get(ledgerId) ?? { ledgerId, rows: NO_ROWS, sizeBytes: 0, lac: -1n },
  )
  const { bytes, sections, blockOffset } = encodeIndexBlock(
    file.seed,
    sectionsToWrite,
    file.marks,
    file,
    place,
  )
  file.blockOffset = blockOffset
  await handle.write([bytes], blockOffset)
  file.sizeBytes = blockOffset + bytes.byteLength
  return sections
}

/** From now on the rows are read from the block. What a seal cut off meanwhile stays cut off. */
function leaveToBlock(file: LogFile, sections: readonly IndexSection[]): void {
  for (const section of sections) {
    const range = file.ranges.get(section.ledgerId)
    if (range === undefined) continue
    range.section = section
    range.rows = null
  }
  file.marks = []
  file.indexed = true
}
