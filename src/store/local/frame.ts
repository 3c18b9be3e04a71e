import { Buffer } from 'node:buffer'
import { asBuffer } from '../../format/bytes.js'
import { crc32c, crc32cOfFew } from '../../format/checksum.js'
import { assert } from '../../model/assert.js'

/*
 * The bytes of a log file (docs/formats/local-store.md). All integers are big-endian.
 *
 *   file   = group*                 each group begins at a multiple of PAGE_BYTES
 *   group  = group header frame, frame*, zeros up to the next page
 *   frame  = header of 40 bytes, body
 *
 *    0  headerCrc32c    u32   over bytes 4..40, continued from the file's seed
 *    4  kind            u8    FRAME_KINDS
 *    5  (zero)          3
 *    8  bodyBytes       u32
 *   12  bodyCrc32c      u32   over the body alone, so that one value serves every copy of an entry
 *   16  ledgerId        i64
 *   24  entryId         i64   of an entry; the last entry id of a seal; else 0
 *   32  bornGeneration  u64   generation of the file that held this frame first
 *
 * The seed is the CRC32C of the store id (16 bytes) and the file's generation (8 bytes). A recycled file is
 * full of frames of an older generation. Generations below 2^32 differ within 32 bits, and CRC32C finds every
 * difference confined to 32 bits, so the seeds differ, so none of those frames parses.
 */

/** Groups begin at multiples of this, so that no page that holds durable bytes is written again. */
export const PAGE_BYTES = 4096
export const FRAME_HEADER_BYTES = 40
/** A group's header frame, with its body. */
export const GROUP_HEADER_BYTES: number = FRAME_HEADER_BYTES + 56
/** Bodies of frames other than entries are read whole at start. */
export const CONTROL_BODY_BYTES_MAX: number = 512 << 10

/** What a frame says. Numbers are never reused; one that is not here was written by a newer version. */
export const FRAME_KINDS = {
  group: 1,
  entry: 2,
  ledger: 3,
  fence: 4,
  seal: 5,
  delete: 6,
  control: 7,
} as const

export type FrameKind = keyof typeof FRAME_KINDS

const KIND_NAMES = new Map<number, FrameKind>(
  (Object.keys(FRAME_KINDS) as FrameKind[]).map((kind) => [FRAME_KINDS[kind], kind]),
)

export interface FrameHeader {
  /** Null: valid, but of a kind this version does not know. */
  readonly kind: FrameKind | null
  readonly bodyBytes: number
  readonly bodyCrc32c: number
  readonly ledgerId: bigint
  readonly entryId: bigint
  readonly bornGeneration: bigint
}

/** What the checksum of every frame header of a file is continued from. */
export function frameSeed(storeId: string, generation: bigint): number {
  const bytes = Buffer.alloc(24)
  assert(bytes.write(storeId, 0, 'hex') === 16, 'a store id has 32 hexadecimal digits')
  bytes.writeBigUInt64BE(generation, 16)
  return crc32c(bytes)
}

/** Writes a frame header at `at` of `target`. */
export function encodeFrameHeader(
  target: Buffer,
  at: number,
  seed: number,
  frame: FrameHeader & { readonly kind: FrameKind },
): void {
  target.writeUInt32BE(FRAME_KINDS[frame.kind] * 0x1000000, at + 4)
  target.writeUInt32BE(frame.bodyBytes, at + 8)
  target.writeUInt32BE(frame.bodyCrc32c, at + 12)
  target.writeBigInt64BE(frame.ledgerId, at + 16)
  target.writeBigInt64BE(frame.entryId, at + 24)
  target.writeBigUInt64BE(frame.bornGeneration, at + 32)
  target.writeUInt32BE(crc32cOfFew(target, at + 4, at + FRAME_HEADER_BYTES, seed), at)
}

/** The frame header at `at`, or null if what stands there is none of this file's. */
export function decodeFrameHeader(bytes: Buffer, at: number, seed: number): FrameHeader | null {
  if (bytes.byteLength - at < FRAME_HEADER_BYTES) return null
  const code = bytes.readUInt32BE(at + 4)
  // Cheap first: where nothing was ever written stand zeros, and no kind is 0.
  if (code === 0 || (code & 0xffffff) !== 0) return null
  if (crc32c(bytes.subarray(at + 4, at + FRAME_HEADER_BYTES), seed) !== bytes.readUInt32BE(at)) return null
  return {
    kind: KIND_NAMES.get(code >>> 24) ?? null,
    bodyBytes: bytes.readUInt32BE(at + 8),
    bodyCrc32c: bytes.readUInt32BE(at + 12),
    ledgerId: bytes.readBigInt64BE(at + 16),
    entryId: bytes.readBigInt64BE(at + 24),
    bornGeneration: bytes.readBigUInt64BE(at + 32),
  }
}

/*
 * Body of a group header frame, 56 bytes:
 *
 *    0  magic               8   "slgroup1"
 *    8  generation          u64
 *   16  groupNumber         u32  counted from 0 in the file
 *   20  flags               u32  bit 0: CLEAN_END, nothing follows
 *   24  groupBytes          u32  from the group's start to the end of its last frame
 *   28  (zero)              u32
 *   32  durableOffset       u64  this file was durable up to here before this group was written
 *   40  previousGeneration  u64  the file before this one in the same run; 0: none
 *   48  previousOffset      u64  and up to where that one was written, all of it durable
 */
const GROUP_MAGIC = 'slgroup1'
const CLEAN_END = 1

export interface GroupHeader {
  readonly generation: bigint
  readonly groupNumber: number
  readonly cleanEnd: boolean
  readonly groupBytes: number
  readonly durableOffset: number
  readonly previousGeneration: bigint
  readonly previousOffset: number
}

/** Writes a whole group header frame at `at` of `target`. */
export function encodeGroupHeader(target: Buffer, at: number, seed: number, group: GroupHeader): void {
  const body = at + FRAME_HEADER_BYTES
  target.write(GROUP_MAGIC, body, 'latin1')
  target.writeBigUInt64BE(group.generation, body + 8)
  target.writeUInt32BE(group.groupNumber, body + 16)
  target.writeUInt32BE(group.cleanEnd ? CLEAN_END : 0, body + 20)
  target.writeUInt32BE(group.groupBytes, body + 24)
  target.writeUInt32BE(0, body + 28)
  target.writeBigUInt64BE(BigInt(group.durableOffset), body + 32)
  target.writeBigUInt64BE(group.previousGeneration, body + 40)
  target.writeBigUInt64BE(BigInt(group.previousOffset), body + 48)
  encodeFrameHeader(target, at, seed, {
    kind: 'group',
    bodyBytes: GROUP_HEADER_BYTES - FRAME_HEADER_BYTES,
    bodyCrc32c: crc32c(target.subarray(body, at + GROUP_HEADER_BYTES)),
    ledgerId: 0n,
    entryId: 0n,
    bornGeneration: group.generation,
  })
}

/** The group header at `at`, or null if there is none of this generation. */
export function decodeGroupHeader(
  bytes: Buffer,
  at: number,
  seed: number,
  generation: bigint,
): GroupHeader | null {
  const header = decodeFrameHeader(bytes, at, seed)
  if (header?.kind !== 'group' || bytes.byteLength - at < GROUP_HEADER_BYTES) return null
  const body = at + FRAME_HEADER_BYTES
  if (header.bodyBytes !== GROUP_HEADER_BYTES - FRAME_HEADER_BYTES) return null
  if (crc32c(bytes.subarray(body, at + GROUP_HEADER_BYTES)) !== header.bodyCrc32c) return null
  if (bytes.toString('latin1', body, body + 8) !== GROUP_MAGIC) return null
  if (bytes.readBigUInt64BE(body + 8) !== generation) return null
  return {
    generation,
    groupNumber: bytes.readUInt32BE(body + 16),
    cleanEnd: (bytes.readUInt32BE(body + 20) & CLEAN_END) !== 0,
    groupBytes: bytes.readUInt32BE(body + 24),
    durableOffset: Number(bytes.readBigUInt64BE(body + 32)),
    previousGeneration: bytes.readBigUInt64BE(body + 40),
    previousOffset: Number(bytes.readBigUInt64BE(body + 48)),
  }
}

/** The next multiple of {@link PAGE_BYTES}. */
export function pageEnd(offset: number): number {
  return Math.ceil(offset / PAGE_BYTES) * PAGE_BYTES
}

const LAC_END = 24

/**
 * The last add confirmed that a packaged entry carries (FORMATS.md §2.2); −1n if it is too short to carry
 * one.
 */
export function lacOf(packaged: Uint8Array): bigint {
  if (packaged.byteLength < LAC_END) return -1n
  return asBuffer(packaged).readBigInt64BE(16)
}
