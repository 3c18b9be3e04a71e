import { Buffer } from 'node:buffer'
import { crc32c } from '../../format/checksum.js'
import { assert, present } from '../../model/assert.js'
import { StratalogError } from '../../model/errors.js'
import type { EntryPlace, EntryRows } from './entry-index.js'
import {
  decodeFrameHeader,
  encodeFrameHeader,
  FRAME_HEADER_BYTES,
  type FrameHeader,
  pageEnd,
} from './frame.js'
import type { Mark } from './mark-body.js'

/*
 * The index block at the end of a closed log file (docs/formats/local-store.md). All integers are big-endian.
 *
 *   block    = rows, sections, marks, zeros, footer      whole pages; the footer ends the file
 *   row      = entryId u64, offset u32, bodyBytes u32    sorted by ledger, then entry
 *   section  = one ledger's rows in short, 48 bytes
 *   mark     = a frame that is not an entry, as it stands in the file
 *
 * Section:                                     Footer, 128 bytes:
 *    0  ledgerId    i64                           0  crc32c              u32  over bytes 4..128, from the file's seed
 *    8  entries     u32                           4  magic               8    "slindex1"
 *   12  rowsCrc32c  u32  over its rows           12  flags               u32  bit 0: CLEAN_END
 *   16  firstId     u64                          16  generation          u64
 *   24  lastId      u64                          24  blockOffset         u64
 *   32  sizeBytes   u64  bodies of its entries   32  end                 u64  of the last group: all below is durable
 *   40  lac         i64  highest one carried     40  previousGeneration  u64  as in group headers
 *                                                48  previousOffset      u64
 *                                                56  entries             u32
 *                                                60  sections            u32
 *                                                64  marksBytes          u32
 *                                                68  tableCrc32c         u32  over sections and marks
 */
const MAGIC = 'slindex1'
const CLEAN_END = 1
const ROW_BYTES = 16
const SECTION_BYTES = 48
export const FOOTER_BYTES = 128

/** The entries of one ledger in one file. */
export interface IndexSection {
  readonly ledgerId: bigint
  readonly entries: number
  /** Of the rows, counted from the block's begin. */
  readonly rowsOffset: number
  readonly rowsCrc32c: number
  readonly firstId: number
  readonly lastId: number
  readonly sizeBytes: number
  readonly lac: bigint
}

/** What a block says of its file; with it the file need not be scanned. */
export interface IndexFooter {
  readonly generation: bigint
  readonly cleanEnd: boolean
  readonly blockOffset: number
  readonly end: number
  readonly previousGeneration: bigint
  readonly previousOffset: number
  readonly entries: number
  readonly sections: number
  readonly marksBytes: number
  readonly tableCrc32c: number
}

/** Whole pages that a block takes. */
export function indexBlockBytes(entries: number, sections: number, marksBytes: number): number {
  return pageEnd(entries * ROW_BYTES + sections * SECTION_BYTES + marksBytes + FOOTER_BYTES)
}

/** Rows as they stand in a block. */
export function encodeRows(rows: EntryRows): Buffer {
  const bytes = Buffer.allocUnsafeSlow(rows.count * ROW_BYTES)
  for (let at = 0; at < rows.count; at += 1) {
    const { offset, bodyBytes } = rows.placeAt(at)
    const id = rows.idAt(at)
    bytes.writeUInt32BE(Math.floor(id / 2 ** 32), at * ROW_BYTES)
    bytes.writeUInt32BE(id % 2 ** 32, at * ROW_BYTES + 4)
    bytes.writeUInt32BE(offset, at * ROW_BYTES + 8)
    bytes.writeUInt32BE(bodyBytes, at * ROW_BYTES + 12)
  }
  return bytes
}

/** Rows read from a block, looked at where they are. */
export class BlockRows implements EntryRows {
  readonly count: number
  readonly #bytes: Buffer

  constructor(bytes: Buffer) {
    this.#bytes = bytes
    this.count = bytes.byteLength / ROW_BYTES
  }

  get sizeBytes(): number {
    return this.#bytes.byteLength
  }

  idAt(at: number): number {
    return this.#bytes.readUInt32BE(at * ROW_BYTES) * 2 ** 32 + this.#bytes.readUInt32BE(at * ROW_BYTES + 4)
  }

  placeAt(at: number): EntryPlace {
    return {
      offset: this.#bytes.readUInt32BE(at * ROW_BYTES + 8),
      bodyBytes: this.#bytes.readUInt32BE(at * ROW_BYTES + 12),
    }
  }
}

/** Bytes of so many rows. */
export function rowsBytes(entries: number): number {
  return entries * ROW_BYTES
}

/** A ledger's part of a block that is to be written. */
export interface SectionToWrite {
  readonly ledgerId: bigint
  readonly rows: EntryRows
  readonly sizeBytes: number
  readonly lac: bigint
}

/** A block as it stands at `blockOffset`, and what its sections came to be. */
export function encodeIndexBlock(
  seed: number,
  sectionsToWrite: readonly SectionToWrite[],
  marks: readonly Mark[],
  footer: Pick<IndexFooter, 'generation' | 'cleanEnd' | 'end' | 'previousGeneration' | 'previousOffset'>,
  place: (blockBytes: number) => number,
): { bytes: Buffer; sections: IndexSection[]; blockOffset: number } {
  const sorted = sectionsToWrite.toSorted((a, b) => (a.ledgerId < b.ledgerId ? -1 : 1))
  const entries = sorted.reduce((sum, { rows }) => sum + rows.count, 0)
  const marksBytes = marks.reduce((sum, mark) => sum + markBytes(mark), 0)
  const bytes = Buffer.alloc(indexBlockBytes(entries, sorted.length, marksBytes))
  const table = entries * ROW_BYTES
  const sections: IndexSection[] = []
  let rowsOffset = 0
  for (const { ledgerId, rows, sizeBytes, lac } of sorted) {
    const encoded = encodeRows(rows)
    encoded.copy(bytes, rowsOffset)
    const firstId = rows.count === 0 ? 0 : rows.idAt(0)
    const lastId = rows.count === 0 ? 0 : rows.idAt(rows.count - 1)
    const rowsCrc32c = crc32c(encoded)
    const section = { ledgerId, entries: rows.count, rowsOffset, rowsCrc32c, firstId, lastId, sizeBytes, lac }
    encodeSection(bytes, table + sections.length * SECTION_BYTES, section)
    sections.push(section)
    rowsOffset += encoded.byteLength
  }
  let at = table + sorted.length * SECTION_BYTES
  for (const mark of marks) at = encodeMark(bytes, at, seed, mark)
  const blockOffset = place(bytes.byteLength)
  encodeFooter(bytes, seed, {
    ...footer,
    blockOffset,
    entries,
    sections: sorted.length,
    marksBytes,
    tableCrc32c: crc32c(bytes.subarray(table, at)),
  })
  return { bytes, sections, blockOffset }
}

/** Bytes a mark takes in a block. */
export function markBytes(mark: { readonly body: Uint8Array }): number {
  return FRAME_HEADER_BYTES + mark.body.byteLength
}

function encodeSection(target: Buffer, at: number, section: IndexSection): void {
  target.writeBigInt64BE(section.ledgerId, at)
  target.writeUInt32BE(section.entries, at + 8)
  target.writeUInt32BE(section.rowsCrc32c, at + 12)
  target.writeBigUInt64BE(BigInt(section.firstId), at + 16)
  target.writeBigUInt64BE(BigInt(section.lastId), at + 24)
  target.writeBigUInt64BE(BigInt(section.sizeBytes), at + 32)
  target.writeBigInt64BE(section.lac, at + 40)
}

function encodeMark(target: Buffer, at: number, seed: number, mark: Mark): number {
  const { kind, ledgerId, entryId, bornGeneration, body } = mark
  const bodyCrc32c = crc32c(body)
  const header = { kind, ledgerId, entryId, bornGeneration, bodyBytes: body.byteLength, bodyCrc32c }
  encodeFrameHeader(target, at, seed, header)
  target.set(body, at + FRAME_HEADER_BYTES)
  return at + markBytes(mark)
}

function encodeFooter(block: Buffer, seed: number, footer: IndexFooter): void {
  const bytes = block.subarray(block.byteLength - FOOTER_BYTES)
  bytes.write(MAGIC, 4, 'latin1')
  bytes.writeUInt32BE(footer.cleanEnd ? CLEAN_END : 0, 12)
  bytes.writeBigUInt64BE(footer.generation, 16)
  bytes.writeBigUInt64BE(BigInt(footer.blockOffset), 24)
  bytes.writeBigUInt64BE(BigInt(footer.end), 32)
  bytes.writeBigUInt64BE(footer.previousGeneration, 40)
  bytes.writeBigUInt64BE(BigInt(footer.previousOffset), 48)
  bytes.writeUInt32BE(footer.entries, 56)
  bytes.writeUInt32BE(footer.sections, 60)
  bytes.writeUInt32BE(footer.marksBytes, 64)
  bytes.writeUInt32BE(footer.tableCrc32c, 68)
  bytes.writeUInt32BE(crc32c(bytes.subarray(4), seed), 0)
}

/** The footer that `bytes` end with, or null if there is none of this file. */
export function decodeIndexFooter(
  bytes: Buffer,
  seed: number,
  generation: bigint,
  fileBytes: number,
): IndexFooter | null {
  if (bytes.byteLength < FOOTER_BYTES) return null
  const footer = bytes.subarray(bytes.byteLength - FOOTER_BYTES)
  if (footer.toString('latin1', 4, 12) !== MAGIC) return null
  if (crc32c(footer.subarray(4), seed) !== footer.readUInt32BE(0)) return null
  if (footer.readBigUInt64BE(16) !== generation) return null
  const found = {
    generation,
    cleanEnd: (footer.readUInt32BE(12) & CLEAN_END) !== 0,
    blockOffset: Number(footer.readBigUInt64BE(24)),
    end: Number(footer.readBigUInt64BE(32)),
    previousGeneration: footer.readBigUInt64BE(40),
    previousOffset: Number(footer.readBigUInt64BE(48)),
    entries: footer.readUInt32BE(56),
    sections: footer.readUInt32BE(60),
    marksBytes: footer.readUInt32BE(64),
    tableCrc32c: footer.readUInt32BE(68),
  }
  // A file that was cut or grew is not the one the block was written for: scanning says what is left.
  const blockBytes = indexBlockBytes(found.entries, found.sections, found.marksBytes)
  return found.blockOffset + blockBytes === fileBytes ? found : null
}

/** Where sections and marks stand in the file. */
export function indexTableRange(footer: IndexFooter): { offset: number; bytes: number } {
  return {
    offset: footer.blockOffset + footer.entries * ROW_BYTES,
    bytes: footer.sections * SECTION_BYTES + footer.marksBytes,
  }
}

/** Sections and marks, whose bodies are parts of `bytes`; null if these are damaged. */
export function decodeIndexTable(
  bytes: Buffer,
  footer: IndexFooter,
  seed: number,
): { sections: IndexSection[]; marks: Mark[] } | null {
  if (bytes.byteLength !== indexTableRange(footer).bytes) return null
  if (crc32c(bytes) !== footer.tableCrc32c) return null
  const sections: IndexSection[] = []
  let rowsOffset = 0
  for (let at = 0; sections.length < footer.sections; at += SECTION_BYTES) {
    const entries = bytes.readUInt32BE(at + 8)
    sections.push({
      ledgerId: bytes.readBigInt64BE(at),
      entries,
      rowsOffset,
      rowsCrc32c: bytes.readUInt32BE(at + 12),
      firstId: Number(bytes.readBigUInt64BE(at + 16)),
      lastId: Number(bytes.readBigUInt64BE(at + 24)),
      sizeBytes: Number(bytes.readBigUInt64BE(at + 32)),
      lac: bytes.readBigInt64BE(at + 40),
    })
    rowsOffset += entries * ROW_BYTES
  }
  assert(rowsOffset === footer.entries * ROW_BYTES, 'sections of an index block do not add up')
  const marks: Mark[] = []
  for (let at = footer.sections * SECTION_BYTES; at < bytes.byteLength; ) {
    const header: FrameHeader = present(decodeFrameHeader(bytes, at, seed), 'mark of an index block')
    const { kind, ledgerId, entryId, bornGeneration, bodyBytes } = header
    if (kind === null) throw unknownKind(footer.generation)
    assert(kind !== 'group' && kind !== 'entry', 'an index block holds a frame that is no mark')
    const body = bytes.subarray(at + FRAME_HEADER_BYTES, at + FRAME_HEADER_BYTES + bodyBytes)
    marks.push({ kind, ledgerId, entryId, bornGeneration, body })
    at += FRAME_HEADER_BYTES + bodyBytes
  }
  return { sections, marks }
}

function unknownKind(generation: bigint): StratalogError {
  return new StratalogError(
    'version_unsupported',
    `log file ${generation} holds a frame of a kind this version does not know: use the stratalog that wrote it`,
  )
}
