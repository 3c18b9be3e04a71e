import { Buffer } from 'node:buffer'
import { isStratalogError } from '../../model/errors.js'
import type { Disk, DiskFile } from '../../ports/disk.js'
import {
  decodeIndexFooter,
  decodeIndexTable,
  type IndexFooter,
  type IndexSection,
  indexTableRange,
} from './index-block.js'
import type { LogFile } from './log-file.js'
import type { Mark } from './mark-body.js'

/** Of most blocks this much holds sections, marks and footer: one read. */
const TAIL_BYTES = 16 << 10

/** What an index block tells at start: all but the rows. */
export interface FileIndex {
  readonly footer: IndexFooter
  readonly sections: readonly IndexSection[]
  readonly marks: readonly Mark[]
}

/** The index block of a file, or null if it has none that is whole: then the frames must be scanned. */
export async function readFileIndex(disk: Disk, file: LogFile): Promise<FileIndex | null> {
  const handle = await disk.open(file.path, 'read')
  try {
    return await readIndex(handle, file)
  } catch (error) {
    // A sector that can't be read is a damaged block.
    if (isStratalogError(error, 'io_failed')) return null
    throw error
  } finally {
    await handle.close()
  }
}

async function readIndex(handle: DiskFile, file: LogFile): Promise<FileIndex | null> {
  const from = Math.max(0, file.sizeBytes - TAIL_BYTES)
  const tail = await readAt(handle, from, file.sizeBytes - from)
  const footer = decodeIndexFooter(tail, file.seed, file.generation, file.sizeBytes)
  if (footer === null) return null
  const { offset, bytes } = indexTableRange(footer)
  const table =
    offset >= from ? tail.subarray(offset - from, offset - from + bytes) : await readAt(handle, offset, bytes)
  const decoded = decodeIndexTable(table, footer, file.seed)
  return decoded === null ? null : { footer, ...decoded }
}

async function readAt(handle: DiskFile, offset: number, bytes: number): Promise<Buffer> {
  const target = Buffer.allocUnsafe(bytes)
  return target.subarray(0, await handle.read(target, offset))
}
