import { Buffer } from 'node:buffer'
import { dirname, join } from 'node:path'
import { assert } from '../../model/assert.js'
import { StratalogError } from '../../model/errors.js'
import type { Clock } from '../../ports/clock.js'
import type { Disk } from '../../ports/disk.js'
import type { Logger } from '../../ports/logger.js'
import type { Random } from '../../ports/random.js'
import { beginsWithGroup, type FileScan, type Hole, type ScannedEntry, scanFile } from './file-scan.js'
import { frameSeed } from './frame.js'
import { LedgerTable, type TableEvents } from './ledger-table.js'
import { type LogFile, LogFiles } from './log-file.js'
import { logName, parseName, spareName } from './names.js'
import { readSuperblock, removeIfThere, type Superblock, writeSuperblock } from './superblock.js'

export interface StartOptions {
  readonly directory: string
  readonly logId: string
  readonly create: boolean
  readonly fileBytes: number
  readonly disk: Disk
  readonly clock: Clock
  readonly random: Random
  readonly logger: Logger
}

/** What a directory holds. */
export interface Started {
  /** With what this start found out; not yet written. */
  readonly superblock: Superblock
  readonly files: LogFiles
  readonly table: LedgerTable
  readonly spares: readonly string[]
  readonly spareNumber: bigint
  /** Bytes that were durable and no longer parse. */
  readonly corruptBytes: number
}

interface ScannedFile {
  readonly file: LogFile
  readonly scan: FileScan
}

/** Reads a store's directory: superblock, then every log file in order of generation. */
export async function startStore(options: StartOptions, events: TableEvents): Promise<Started> {
  const superblock = await openSuperblock(options)
  const found = await sortOut(options, superblock)
  const files = new LogFiles(options.directory, superblock.storeId)
  const table = new LedgerTable(files, events)
  const scanned: ScannedFile[] = []
  const lost: bigint[] = []
  for (const generation of superblock.files) {
    const about = await options.disk.stat(join(options.directory, logName(generation)))
    if (about === null) lost.push(generation)
    else scanned.push(await scanInto(options.disk, table, files.add(generation, about.sizeBytes)))
  }
  const damage = judge(table, scanned, lost, superblock, options)
  for (const { file } of scanned) file.closed = true
  return {
    superblock: {
      ...superblock,
      files: scanned.map(({ file }) => file.generation),
      uncleanGeneration: endsClean(superblock, scanned)
        ? superblock.uncleanGeneration
        : superblock.generation,
      corruptGeneration: damage.corruptGeneration,
    },
    files,
    table,
    spares: found.spares,
    spareNumber: found.spareNumber,
    corruptBytes: damage.corruptBytes,
  }
}

async function openSuperblock(options: StartOptions): Promise<Superblock> {
  const { disk, directory, logId, create } = options
  const found = await readSuperblock(disk, directory)
  if (found !== null) {
    if (found.logId === logId) return found
    throw new StratalogError(
      'refused',
      `${directory} is a store of log ${found.logId}, not of ${logId}: name another directory`,
      { expected: logId, found: found.logId },
    )
  }
  if (!create) {
    throw new StratalogError(
      'file_not_found',
      `there is no store in ${directory}: check the path, or create the store`,
    )
  }
  await makeDirectoryDurably(disk, directory)
  // Invariant 8: frames whose superblock is gone are somebody's data, not an empty directory.
  if ((await disk.list(directory)).some((name) => parseName(name)?.kind === 'log')) {
    throw new StratalogError(
      'corrupt',
      `${directory} holds log files but no superblock: restore the file, or move the log files away`,
    )
  }
  const storeId = Buffer.from(options.random.bytes(16)).toString('hex')
  const superblock = {
    storeId,
    logId,
    createdMs: options.clock.nowMs(),
    generation: 0n,
    files: [],
    uncleanGeneration: 0n,
    corruptGeneration: 0n,
  }
  await writeSuperblock(disk, directory, superblock)
  return superblock
}

/**
 * A directory whose name, or whose parent's, were not synced would be lost with everything acknowledged in
 * it.
 */
async function makeDirectoryDurably(disk: Disk, directory: string): Promise<void> {
  const parent = dirname(directory)
  if ((await disk.stat(directory)) !== null || parent === directory) return
  await makeDirectoryDurably(disk, parent)
  await disk.makeDirectory(directory)
  await disk.syncDirectory(parent)
}

/** Makes spares of what a crash left over, and removes spares of another size. */
async function sortOut(
  options: StartOptions,
  superblock: Superblock,
): Promise<{ spares: string[]; spareNumber: bigint }> {
  const { disk, directory, fileBytes } = options
  const listed = new Set(superblock.files)
  const ours = (await disk.list(directory)).flatMap((name) => {
    const parsed = parseName(name)
    return parsed === null ? [] : [{ ...parsed, path: join(directory, name) }]
  })
  let spareNumber = ours.reduce(
    (max, { kind, number }) => (kind === 'spare' && number > max ? number : max),
    0n,
  )
  const spares: string[] = []
  for (const { kind, number, path } of ours) {
    if (kind === 'log' && listed.has(number)) continue
    if (kind === 'log') await refuseUnknownData(disk, superblock, number, path)
    const about = await disk.stat(path)
    if (about?.sizeBytes !== fileBytes || spares.length >= 2) await removeIfThere(disk, path)
    else if (kind === 'spare') spares.push(path)
    else {
      spareNumber += 1n
      const spare = join(directory, spareName(spareNumber))
      await disk.rename(path, spare)
      spares.push(spare)
    }
  }
  return { spares, spareNumber }
}

/**
 * A file that holds frames of a generation never handed out means that the superblock is an older copy
 * (invariant 8).
 */
async function refuseUnknownData(
  disk: Disk,
  superblock: Superblock,
  generation: bigint,
  path: string,
): Promise<void> {
  if (generation <= superblock.generation) return
  const seed = frameSeed(superblock.storeId, generation)
  if (!(await beginsWithGroup(disk, { path, generation, seed }))) return
  throw new StratalogError(
    'corrupt',
    `${path} is newer than the superblock beside it: restore the superblock that belongs to it`,
    { expected: superblock.generation, found: generation },
  )
}

async function scanInto(disk: Disk, table: LedgerTable, file: LogFile): Promise<ScannedFile> {
  assert(file.sizeBytes < 2 ** 32, 'offsets in a log file take 32 bits')
  const scan = await scanFile(disk, file, {
    entry: (entry, lac) => applyScanned(table, file, entry, lac),
    mark: (mark) => table.applyMark(mark, file),
  })
  return { file, scan }
}

function applyScanned(table: LedgerTable, file: LogFile, entry: ScannedEntry, lac: bigint): void {
  const { offset, bodyBytes } = entry
  table.applyEntry(table.obtain(entry.ledgerId), Number(entry.entryId), lac, file, {
    slot: file.slot,
    offset,
    bodyBytes,
  })
}

/** Whether the newest file says that nothing was on its way to the disk when the last run ended. */
function endsClean(superblock: Superblock, scanned: readonly ScannedFile[]): boolean {
  const newest = superblock.files.at(-1)
  if (newest === undefined) return true
  const last = scanned.at(-1)
  return last?.file.generation === newest && last.scan.cleanEnd
}

/**
 * Tells damage from torn ends. Every group says up to where its file was durable before it, and what the file
 * before it in the same run came to: a hole that begins below is damage, any other is an end of which nobody
 * knows.
 */
function judge(
  table: LedgerTable,
  scanned: readonly ScannedFile[],
  lost: readonly bigint[],
  superblock: Superblock,
  options: StartOptions,
): { corruptBytes: number; corruptGeneration: bigint } {
  const durable = durableOffsets(scanned)
  const damaged: { file: LogFile; entry: ScannedEntry }[] = []
  let { corruptGeneration } = superblock
  let corruptBytes = 0
  const corrupt = (generation: bigint, bytes: number, about: object): void => {
    corruptBytes += bytes
    options.logger.error(
      { directory: options.directory, generation, bytes, ...about },
      'durable bytes are damaged',
    )
  }
  for (const { file, scan } of scanned) {
    const durableTo = durable.get(file.generation) ?? 0
    for (const hole of [...scan.holes, ...cutOff(scan, durableTo)]) {
      if (hole.from >= durableTo) continue
      corrupt(file.generation, Math.min(hole.to, durableTo) - hole.from, { path: file.path, from: hole.from })
      if (hole.entry !== null) damaged.push({ file, entry: hole.entry })
      else corruptGeneration = maxOf(corruptGeneration, file.generation)
    }
  }
  for (const generation of lost) {
    // The newest may never have got its name durably: then it is an end without a mark, which `endsClean`
    // says.
    if (generation === superblock.files.at(-1)) continue
    corrupt(generation, options.fileBytes, { absent: logName(generation) })
    corruptGeneration = maxOf(corruptGeneration, generation)
  }
  // Known by name, so reads of them fail as damaged; unless another copy of the frame is good.
  for (const { file, entry } of damaged) {
    const ledger = table.obtain(entry.ledgerId)
    if (ledger.entries.find(Number(entry.entryId)) < 0) applyScanned(table, file, entry, -1n)
  }
  return { corruptBytes, corruptGeneration }
}

/** What was durable beyond the end of a file that lost its end. */
function cutOff(scan: FileScan, durableTo: number): Hole[] {
  return durableTo > scan.sizeBytes ? [{ from: scan.sizeBytes, to: durableTo, entry: null }] : []
}

function durableOffsets(scanned: readonly ScannedFile[]): Map<bigint, number> {
  const durable = new Map<bigint, number>()
  const note = (generation: bigint, offset: number): void => {
    durable.set(generation, Math.max(durable.get(generation) ?? 0, offset))
  }
  for (const { file, scan } of scanned) {
    note(file.generation, scan.durableOffset)
    if (scan.previousGeneration > 0n) note(scan.previousGeneration, scan.previousOffset)
  }
  return durable
}

function maxOf(a: bigint, b: bigint): bigint {
  return a > b ? a : b
}
