import { compressSync, uncompressSync } from 'lz4-napi'
import { assert } from '../model/assert.js'
import { asBuffer, corrupt } from './bytes.js'

/*
 * LZ4 in its raw block format: no frame header, no size. What stands around a block says how long it is,
 * compressed and decompressed. The native module puts a little-endian decompressed size before each block:
 *
 *   ┌────────────────────┬───────────┐
 *   │ size: uint32 LE    │ LZ4 block │    of the module
 *   └────────────────────┴───────────┘
 *                        │ LZ4 block │    of DistributedLog and of ours
 *                        └───────────┘
 *
 * so it is stripped here and put back. The one file that imports the native module.
 */

/** How the bytes of an entry, a record set or a block are compressed. */
export type Codec = 'none' | 'lz4'

/**
 * No block of any format decompresses to more than this; what claims to is refused before memory is taken.
 */
export const DECOMPRESSED_BYTES_MAX: number = 64 * 2 ** 20

const SIZE_BYTES = 4
/** A byte of an LZ4 block stands for at most 255 bytes; so a small block can't ask for much memory. */
const LZ4_RATIO_MAX = 255

/** The raw LZ4 block of `bytes`, at most 64 MiB. An empty input makes a block of one byte. */
export function lz4Compress(bytes: Uint8Array): Uint8Array {
  assert(bytes.length <= DECOMPRESSED_BYTES_MAX, 'nothing above 64 MiB is compressed as one block')
  return compressSync(asBuffer(bytes)).subarray(SIZE_BYTES)
}

/**
 * What a raw LZ4 block holds, which must be exactly `decompressedBytes`. Throws `corrupt` for anything else,
 * and never takes more memory than that.
 */
export function lz4Decompress(bytes: Uint8Array, decompressedBytes: number): Uint8Array {
  const bound = Math.min(DECOMPRESSED_BYTES_MAX, bytes.length * LZ4_RATIO_MAX)
  if (!Number.isInteger(decompressedBytes) || decompressedBytes < 0 || decompressedBytes > bound) {
    throw corrupt(
      `an LZ4 block of ${bytes.length} bytes can't hold ${decompressedBytes} bytes: read another copy`,
      { expected: decompressedBytes, found: bound },
    )
  }
  const sized = Buffer.allocUnsafe(SIZE_BYTES + bytes.length)
  sized.writeUInt32LE(decompressedBytes, 0)
  sized.set(bytes, SIZE_BYTES)
  let plain: Uint8Array
  try {
    plain = uncompressSync(sized)
  } catch (cause) {
    throw corrupt('an LZ4 block does not decompress: read another copy', { cause })
  }
  if (plain.length !== decompressedBytes) {
    throw corrupt('an LZ4 block holds fewer bytes than its header says: read another copy', {
      expected: decompressedBytes,
      found: plain.length,
    })
  }
  return plain
}
