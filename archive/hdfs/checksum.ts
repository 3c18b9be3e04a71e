import { createHash, type Hash } from 'node:crypto'
import { crc32c } from '../../src/format/checksum.js'

/** Bytes under one CRC of HDFS, the default of every version that has CRC32C (`dfs.bytes-per-checksum`). */
const CHUNK_BYTES = 512
/** CRCs that are gathered before they are digested. */
const GATHERED = 8192

/**
 * The checksum that GETFILECHECKSUM tells of a replicated file, taken of the bytes as they pass: MD5 over the MD5 of
 * each block's CRC32Cs. Beside it a CRC32C of the whole, to compare with what is read back where HDFS tells another
 * kind of checksum.
 *
 *     chunk (512 bytes) → CRC32C, big endian ┐
 *     chunk             → CRC32C             ├ MD5 ┐
 *     …                                      ┘     ├ MD5 over those, zero-padded to 32, 64, 128, … bytes
 *     next block                             → MD5 ┘
 *
 * The padding is what Java's output buffer holds behind the digests: it begins with 32 bytes and doubles.
 */
export class HdfsChecksum {
  readonly #blockBytes: number
  readonly #blocks: Buffer[] = []
  readonly #crcs = Buffer.allocUnsafe(4 * GATHERED)
  #gathered = 0
  #block: Hash = createHash('md5')
  #blockFilled = 0
  /** CRC and length of a chunk that was begun in an earlier piece. */
  #begun = 0
  #begunBytes = 0
  #whole = 0
  #sizeBytes = 0

  /** `blockBytes` is a multiple of 512, as HDFS demands. */
  constructor(blockBytes: number) {
    this.#blockBytes = blockBytes
  }

  /** CRC32C of everything so far. */
  get wholeCrc(): number {
    return this.#whole
  }

  get sizeBytes(): number {
    return this.#sizeBytes
  }

  /** Takes the next bytes of the file. */
  update(bytes: Uint8Array): void {
    this.#whole = crc32c(bytes, this.#whole)
    this.#sizeBytes += bytes.length
    for (let at = 0; at < bytes.length; ) {
      const taken = Math.min(CHUNK_BYTES - this.#begunBytes, bytes.length - at)
      this.#begun = crc32c(bytes.subarray(at, at + taken), this.#begun)
      this.#begunBytes += taken
      at += taken
      if (this.#begunBytes === CHUNK_BYTES) this.#endChunk()
    }
  }

  #endChunk(): void {
    this.#crcs.writeUInt32BE(this.#begun, 4 * this.#gathered)
    this.#gathered += 1
    this.#blockFilled += this.#begunBytes
    this.#begun = 0
    this.#begunBytes = 0
    if (this.#blockFilled === this.#blockBytes) this.#endBlock()
    else if (this.#gathered === GATHERED) this.#digest()
  }

  #digest(): void {
    this.#block.update(this.#crcs.subarray(0, 4 * this.#gathered))
    this.#gathered = 0
  }

  #endBlock(): void {
    this.#digest()
    this.#blocks.push(this.#block.digest())
    this.#block = createHash('md5')
    this.#blockFilled = 0
  }

  /** The digest in lower-case hex; nothing may follow. Not defined for an empty file. */
  md5(): string {
    if (this.#begunBytes > 0) this.#endChunk()
    if (this.#blockFilled > 0) this.#endBlock()
    let capacity = 32
    while (capacity < 16 * this.#blocks.length) capacity *= 2
    const padded = Buffer.alloc(capacity)
    Buffer.concat(this.#blocks).copy(padded)
    return createHash('md5').update(padded).digest('hex')
  }
}

/** What GETFILECHECKSUM tells, null if it is of another kind than {@link HdfsChecksum} computes. */
export function md5Told(told: unknown): string | null {
  const { algorithm, bytes } = (told as { FileChecksum?: { algorithm?: unknown; bytes?: unknown } } | null)
    ?.FileChecksum ?? { algorithm: null, bytes: null }
  if (typeof algorithm !== 'string' || typeof bytes !== 'string') return null
  if (!/^MD5-of-\d+MD5-of-512CRC32C$/.test(algorithm)) return null
  // After i32 bytes per CRC and i64 CRCs per block, which the algorithm's name says too.
  return /^[0-9a-f]{56,}$/i.test(bytes) ? bytes.slice(24, 56).toLowerCase() : null
}
