import { Buffer } from 'node:buffer'
import { join } from 'node:path'
import { crc32c } from '../../format/checksum.js'
import { present } from '../../model/assert.js'
import { isStratalogError, StratalogError } from '../../model/errors.js'
import type { Disk } from '../../ports/disk.js'
import { SUPERBLOCK_NAME, SUPERBLOCK_TEMPORARY_NAME } from './names.js'

/*
 * The superblock is a text file of two lines (docs/formats/local-store.md):
 *
 *   {"format":2,"storeId":"…","logId":"…","createdMs":…,"generation":"12","files":["3-5","9-12"], …}
 *   crc32c 89abcdef
 *
 * The second line is the checksum of the first with its line feed. It is replaced as a whole (temporary file,
 * sync, rename, sync of the directory) before the first frame of a generation is written and before a freed
 * log file loses its name, so what it lists is what the store's frames are in: a listed file that is not
 * there is a loss, a file that is not listed holds nothing.
 */
const FORMAT = 2
/** Without rewritten files; read, and replaced by the first write. */
const FORMAT_FIRST = 1
const SUPERBLOCK_BYTES_MAX = 32 << 20
const FILES_MAX = 1 << 20

/** Generation and rank of a rewritten file. */
export interface RewrittenFile {
  readonly generation: bigint
  readonly rank: bigint
}

/** Up to where a closed file was durable. */
export interface FileEnd {
  readonly generation: bigint
  readonly end: number
}

/** Whose store a directory is, and which files hold its frames. */
export interface Superblock {
  /** 32 hexadecimal digits; seeds every checksum. */
  readonly storeId: string
  readonly logId: string
  readonly createdMs: number
  /** Highest file generation ever handed out; the first is 1. */
  readonly generation: bigint
  /** Generations of the files that hold frames, ascending. */
  readonly files: readonly bigint[]
  /** Those of them that were made out of other files, ascending by generation, with their rank (`LogFile.rank`). */
  readonly rewritten: readonly RewrittenFile[]
  /** Closed files with an index block, ascending by generation: all of them below `end` was durable when it was written. */
  readonly ends: readonly FileEnd[]
  /**
   * Ledgers born up to here may have lost entries that a run without a clean end had not made durable. 0:
   * none.
   */
  readonly uncleanGeneration: bigint
  /** Ledgers born up to here may have lost durable entries to damage. 0: none. */
  readonly corruptGeneration: bigint
}

export function encodeSuperblock(superblock: Superblock): Uint8Array {
  const line = `${JSON.stringify({
    format: FORMAT,
    storeId: superblock.storeId,
    logId: superblock.logId,
    createdMs: superblock.createdMs,
    generation: superblock.generation.toString(),
    files: toRanges(superblock.files),
    rewritten: superblock.rewritten.map(({ generation, rank }) => `${generation}:${rank}`),
    ends: superblock.ends.map(({ generation, end }) => `${generation}:${end}`),
    uncleanGeneration: superblock.uncleanGeneration.toString(),
    corruptGeneration: superblock.corruptGeneration.toString(),
  })}\n`
  const checksum = crc32c(Buffer.from(line)).toString(16).padStart(8, '0')
  return Buffer.from(`${line}crc32c ${checksum}\n`)
}

/** Throws `corrupt` or `version_unsupported`; `where` names the file in messages. */
export function decodeSuperblock(bytes: Uint8Array, where: string): Superblock {
  const damaged = (why: string) =>
    new StratalogError(
      'corrupt',
      `${where} is damaged (${why}): the store's files can't be told apart without it; restore the file, ` +
        'or remove the store from the configuration and let the other stores rebuild it',
    )
  const text = Buffer.from(bytes).toString('utf8')
  const match = /^(.*\n)crc32c ([0-9a-f]{8})\n$/.exec(text)
  if (!match) throw damaged('it does not consist of two whole lines')
  const line = match[1] as string
  if (crc32c(Buffer.from(line)) !== Number.parseInt(match[2] as string, 16)) throw damaged('checksum')
  const fields = parseFields(line)
  if (fields === null) throw damaged('no JSON object')
  if (typeof fields.format !== 'number') throw damaged('no format number')
  if (fields.format !== FORMAT && fields.format !== FORMAT_FIRST) {
    throw new StratalogError(
      'version_unsupported',
      `${where} has format ${fields.format}, this version reads ${FORMAT}: use the stratalog that wrote it`,
      { expected: FORMAT, found: fields.format },
    )
  }
  const superblock = fromFields(fields)
  if (superblock === null) throw damaged('a field is absent or out of range')
  return superblock
}

function parseFields(line: string): Record<string, unknown> | null {
  try {
    const value: unknown = JSON.parse(line)
    return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : null
  } catch (error) {
    if (error instanceof SyntaxError) return null
    throw error
  }
}

function fromFields(fields: Record<string, unknown>): Superblock | null {
  const { storeId, logId, createdMs } = fields
  const generation = toBigint(fields.generation)
  const uncleanGeneration = toBigint(fields.uncleanGeneration)
  const corruptGeneration = toBigint(fields.corruptGeneration)
  const files = fromRanges(fields.files)
  const first = fields.format === FORMAT_FIRST
  const ranks = first ? [] : fromPairs(fields.rewritten, files ?? [])
  const ends = first ? [] : fromPairs(fields.ends, files ?? [])
  if (!isHex32(storeId) || !isHex32(logId) || typeof createdMs !== 'number') return null
  if (generation === null || uncleanGeneration === null || corruptGeneration === null) return null
  if (files === null || ranks === null || ends === null) return null
  if (ranks.some(([of, rank]) => rank < 1n || rank >= of)) return null
  if (ends.some(([, end]) => end >= 2n ** 32n)) return null
  if ((files.at(-1) ?? 0n) > generation) return null
  return {
    storeId,
    logId,
    createdMs,
    generation,
    files,
    rewritten: ranks.map(([of, rank]) => ({ generation: of, rank })),
    ends: ends.map(([of, end]) => ({ generation: of, end: Number(end) })),
    uncleanGeneration,
    corruptGeneration,
  }
}

/** 128 bits in lower-case hexadecimal. */
export function isHex32(value: unknown): value is string {
  return typeof value === 'string' && /^[0-9a-f]{32}$/.test(value)
}

function toBigint(value: unknown): bigint | null {
  return typeof value === 'string' && /^\d{1,19}$/.test(value) ? BigInt(value) : null
}

/** `[3n, 4n, 5n, 9n]` as `["3-5", "9-9"]`: a store of many files has a short superblock. */
function toRanges(files: readonly bigint[]): string[] {
  const ranges: { from: bigint; to: bigint }[] = []
  for (const file of files) {
    const last = ranges.at(-1)
    if (last !== undefined && last.to + 1n === file) last.to = file
    else ranges.push({ from: file, to: file })
  }
  return ranges.map(({ from, to }) => `${from}-${to}`)
}

function fromRanges(value: unknown): bigint[] | null {
  if (!Array.isArray(value)) return null
  const files: bigint[] = []
  for (const range of value) {
    const match = typeof range === 'string' ? /^(\d{1,19})-(\d{1,19})$/.exec(range) : null
    if (!match) return null
    const from = BigInt(present(match[1], 'range'))
    const to = BigInt(present(match[2], 'range'))
    if (from < 1n || to < from || from <= (files.at(-1) ?? 0n)) return null
    if (to - from >= BigInt(FILES_MAX - files.length)) return null
    for (let file = from; file <= to; file += 1n) files.push(file)
  }
  return files
}

/** `["3:1", "9:4711"]`: what is said of listed files, ascending by generation. */
function fromPairs(value: unknown, files: readonly bigint[]): [bigint, bigint][] | null {
  if (!Array.isArray(value)) return null
  const listed = new Set(files)
  const pairs: [bigint, bigint][] = []
  for (const pair of value) {
    const match = typeof pair === 'string' ? /^(\d{1,19}):(\d{1,19})$/.exec(pair) : null
    if (!match) return null
    const generation = BigInt(present(match[1], 'generation'))
    if (!listed.has(generation) || generation <= (pairs.at(-1)?.[0] ?? 0n)) return null
    pairs.push([generation, BigInt(present(match[2], 'value'))])
  }
  return pairs
}

/** The superblock of a directory, or null if it has none. */
export async function readSuperblock(disk: Disk, directory: string): Promise<Superblock | null> {
  const path = join(directory, SUPERBLOCK_NAME)
  const about = await disk.stat(path)
  if (about === null) return null
  if (about.directory || about.sizeBytes > SUPERBLOCK_BYTES_MAX) {
    throw new StratalogError('corrupt', `${path} is no superblock: it is a directory or too large`)
  }
  const file = await disk.open(path, 'read')
  try {
    const bytes = Buffer.alloc(about.sizeBytes)
    const filled = await file.read(bytes, 0)
    return decodeSuperblock(bytes.subarray(0, filled), path)
  } finally {
    await file.close()
  }
}

/**
 * Replaces the superblock durably. Renames made before in the same directory are durable with it. After
 * `disk_full` the old one holds; after any other failure either may.
 */
export async function writeSuperblock(disk: Disk, directory: string, superblock: Superblock): Promise<void> {
  const temporary = join(directory, SUPERBLOCK_TEMPORARY_NAME)
  await removeIfThere(disk, temporary)
  const file = await disk.open(temporary, 'create')
  try {
    await file.write([encodeSuperblock(superblock)], 0)
    await file.dataSync()
  } finally {
    await file.close()
  }
  await disk.rename(temporary, join(directory, SUPERBLOCK_NAME))
  try {
    await disk.syncDirectory(directory)
  } catch (error) {
    // The new one has its name already: a full disk says nothing of which of the two a crash would leave.
    if (!isStratalogError(error, 'disk_full')) throw error
    throw new StratalogError('io_failed', `the name of ${temporary} could not be made durable`, {
      cause: error,
    })
  }
}

/** Removes a file that may be gone already. */
export async function removeIfThere(disk: Disk, path: string): Promise<void> {
  try {
    await disk.remove(path)
  } catch (error) {
    if (!isStratalogError(error, 'file_not_found')) throw error
  }
}
