import { dirname, join } from 'node:path'
import { decodeBase32, encodeBase32, encodeBase32Bytes } from '../../src/format/base32.js'
import { assert } from '../../src/model/assert.js'
import { isStratalogError, StratalogError } from '../../src/model/errors.js'
import type { ArchiveContext } from '../../src/ports/archive-store.js'
import { Writing } from '../engine/writing.js'
import { archiveMissing, step } from './errors.js'

/*
 * Opening a directory as an archive:
 *
 *   <root>/stratalog-archive.json       the marker: {"format":1}
 *   <root>/.tmp/<made at 10>-<random>   objects that are being written
 *   <root>/<key>                        objects, the parts of their keys as directories
 */

export const MARKER = 'stratalog-archive.json'
export const TEMPORARY = '.tmp'

const FORMAT = 1
const MARKER_BYTES_MAX = 4096
const LEFTOVER_AGE_MS = 24 * 3_600_000
/** What a fresh file system has in its root. */
const NOT_OURS_BUT_FINE = new Set(['lost+found'])

/** A name for a temporary file that states when it was made: the port tells no file's age. */
export function temporaryName(context: ArchiveContext): string {
  return `${encodeBase32(BigInt(context.clock.nowMs()), 10)}-${encodeBase32Bytes(context.random.bytes(16))}`
}

/**
 * Makes the directory an archive, or makes sure that it is one that can be written. One that must exist already is
 * never made: neither the directory nor the marker, which are what tells a mounted disk from an empty mount point.
 */
export async function prepareRoot(root: string, context: ArchiveContext): Promise<Writing> {
  await makeRoot(root, context)
  const names = await step(root, 'listing it', () => context.disk.list(root))
  if (names.includes(MARKER)) await checkMarker(root, context)
  else if (context.existing) throw archiveMissing(root, `it has no ${MARKER}: is it mounted?`)
  else refuseOthersFiles(root, names)
  const writing = new Writing(async () => {
    await prepareWriting(root, context)
    if (!names.includes(MARKER)) await writeMarker(root, context)
    await removeLeftovers(root, context)
  })
  await writing.begin(context, root)
  return writing
}

/** Makes sure that it can be written: the directory for temporary files, and a file in it. */
async function prepareWriting(root: string, context: ArchiveContext): Promise<void> {
  await step(root, 'making its directory for temporary files', async () => {
    await context.disk.makeDirectory(join(root, TEMPORARY))
    await context.disk.syncDirectory(root)
  })
  await probe(root, context)
}

async function makeRoot(root: string, { disk, existing }: ArchiveContext): Promise<void> {
  const found = await step(root, 'looking at it', () => disk.stat(root))
  if (found?.directory === true) return
  if (found !== null) throw archiveMissing(root, 'it is a file: name a directory')
  if (existing) throw archiveMissing(root, 'there is no such directory: check the path; is it mounted?')
  const parent = dirname(root)
  // Parents are not made: a path that is wrong, or below a disk that is not mounted, must not be filled.
  const above = await step(root, 'looking at its parent', () => disk.stat(parent))
  if (above?.directory !== true) {
    throw archiveMissing(root, `there is no directory ${parent}: mount the disk, correct the path or make it`)
  }
  await step(root, 'making it', async () => {
    await disk.makeDirectory(root)
    await disk.syncDirectory(parent)
  })
}

function refuseOthersFiles(root: string, names: readonly string[]): void {
  // A crash between the first two steps of a first start leaves the directory for temporary files.
  const others = names.filter((name) => name !== TEMPORARY && !NOT_OURS_BUT_FINE.has(name))
  if (others.length === 0) return
  throw new StratalogError(
    'refused',
    `${root} is not empty and has no ${MARKER}, so it is not an archive of stratalog: name an empty directory, or put the marker {"format":1} back if it was removed`,
    { found: others.slice(0, 5) },
  )
}

async function checkMarker(root: string, { disk }: ArchiveContext): Promise<void> {
  const path = join(root, MARKER)
  const bytes = Buffer.alloc(MARKER_BYTES_MAX)
  const read = await step(root, 'reading its marker', async () => {
    const file = await disk.open(path, 'read')
    try {
      return await file.read(bytes, 0)
    } finally {
      await file.close()
    }
  })
  let format: unknown
  try {
    format = (JSON.parse(bytes.toString('utf8', 0, read)) as { format?: unknown } | null)?.format
  } catch (cause) {
    throw new StratalogError('corrupt', `${path} is damaged: restore it as {"format":${FORMAT}}`, { cause })
  }
  if (format === FORMAT) return
  const newer = typeof format === 'number' && Number.isInteger(format) && format > FORMAT
  throw new StratalogError(
    newer ? 'version_unsupported' : 'corrupt',
    newer
      ? `${root} is an archive of format ${format}; this stratalog reads ${FORMAT}: use a newer one`
      : `${path} states no format: restore it as {"format":${FORMAT}}`,
    { expected: FORMAT, found: format },
  )
}

/**
 * Writes and removes a file, so that an archive that can't be written is known now and not at the first copy.
 */
async function probe(root: string, context: ArchiveContext): Promise<void> {
  const path = join(root, TEMPORARY, temporaryName(context))
  await step(root, 'writing to it', async () => {
    const file = await context.disk.open(path, 'create')
    try {
      await file.write([Buffer.from('probe')], 0)
    } finally {
      await file.close()
      await context.disk.remove(path)
    }
  })
}

/** The marker appears whole: written under another name, made durable, then linked. */
async function writeMarker(root: string, context: ArchiveContext): Promise<void> {
  const { disk } = context
  const path = join(root, TEMPORARY, temporaryName(context))
  await step(root, 'writing its marker', async () => {
    const file = await disk.open(path, 'create')
    try {
      await file.write([Buffer.from(`{"format":${FORMAT}}\n`)], 0)
      await file.dataSync()
    } finally {
      await file.close()
    }
    try {
      await disk.link(path, join(root, MARKER))
    } catch (error) {
      // Another process made the archive in this moment.
      if (!isStratalogError(error, 'file_exists')) throw error
    }
    await disk.syncDirectory(root)
    await disk.remove(path)
  })
}

/** Removes what crashed uploads left more than a day ago, by the time in the name, and nothing else; says how many. */
export async function removeLeftovers(root: string, context: ArchiveContext): Promise<number> {
  let removed = 0
  const directory = join(root, TEMPORARY)
  const nowMs = context.clock.nowMs()
  await step(root, 'removing leftovers', async () => {
    for (const name of await context.disk.list(directory)) {
      const match = /^([0-9a-v]{10})-[0-9a-v]{26}$/.exec(name)
      if (match === null) continue
      const madeMs = Number(decodeBase32(match[1] ?? ''))
      assert(Number.isSafeInteger(madeMs), 'ten base32 digits are a number')
      if (nowMs - madeMs <= LEFTOVER_AGE_MS) continue
      try {
        await context.disk.remove(join(directory, name))
        removed += 1
      } catch (error) {
        // Another process that opens the archive now removes the same ones.
        if (!isStratalogError(error, 'file_not_found')) throw error
      }
    }
  })
  return removed
}
