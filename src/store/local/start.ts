import { Buffer } from 'node:buffer'
import { dirname, join } from 'node:path'
import { assert } from '../../model/assert.js'
import { isStratalogError, StratalogError } from '../../model/errors.js'
import type { Clock } from '../../ports/clock.js'
import type { Disk } from '../../ports/disk.js'
import type { Logger } from '../../ports/logger.js'
import type { Random } from '../../ports/random.js'
import { EntrySearch } from './entry-search.js'
import { FileHandles } from './file-handles.js'
import { beginsWithGroup, type FileScan, type Hole, type ScannedEntry, scanFile } from './file-scan.js'
import { frameSeed } from './frame.js'
import { readFileIndex } from './index-reader.js'
import { IndexRows } from './index-rows.js'
import type { Ledger } from './ledger.js'
import { LedgerTable, type TableEvents } from './ledger-table.js'
import { compareRank, type LogFile, LogFiles } from './log-file.js'
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

interface OpenedFile {
  readonly file: LogFile
  /** Null: its index block told all. */
  readonly scan: FileScan | null
}

/** Reads a store's directory: superblock, then the log files, those of lower rank first. */
export async function startStore(options: StartOptions, events: TableEvents): Promise<Started> {
  const superblock = await openSuperblock(options)
  const found = await sortOut(options, superblock)
  const files = new LogFiles(options.directory, superblock.storeId)
  const table = new LedgerTable(files, events)
  const opened: OpenedFile[] = []
  const lost: LogFile[] = []
  for (const file of listedFiles(files, superblock)) {
    const about = await options.disk.stat(file.path)
    if (about === null) lost.push(file)
    else {
      file.sizeBytes = about.sizeBytes
      opened.push(await openFile(options.disk, table, files.add(file)))
    }
  }
  const damage = await judge(table, opened, lost, superblock, options)
  const here = new Set(opened.map(({ file }) => file.generation))
  return {
    superblock: {
      ...superblock,
      files: superblock.files.filter((generation) => here.has(generation)),
      rewritten: superblock.rewritten.filter(({ generation }) => here.has(generation)),
      ends: superblock.ends.filter(({ generation }) => here.has(generation)),
      uncleanGeneration: endsClean(superblock, opened) ? superblock.uncleanGeneration : superblock.generation,
      corruptGeneration: damage.corruptGeneration,
    },
    files,
    table,
    spares: found.spares,
    spareNumber: found.spareNumber,
    corruptBytes: damage.corruptBytes,
  }
}

/** By rank: of two copies of an entry the later one counts. */
function listedFiles(files: LogFiles, superblock: Superblock): LogFile[] {
  const ranks = new Map(superblock.rewritten.map(({ generation, rank }) => [generation, rank]))
  return superblock.files
    .map((generation) => files.make(generation, ranks.get(generation) ?? generation, 0))
    .sort(compareRank)
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
      `there is no store in ${directory}: is its disk mounted, is the path right? Nothing makes one where one was`,
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
    rewritten: [],
    ends: [],
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

/** What a file holds goes into the table: from its index block, or, where it has none that is whole, from its frames. */
async function openFile(disk: Disk, table: LedgerTable, file: LogFile): Promise<OpenedFile> {
  assert(file.sizeBytes < 2 ** 32, 'offsets in a log file take 32 bits')
  file.closed = true
  const index = await readFileIndex(disk, file)
  if (index === null) return { file, scan: await scanInto(disk, table, file) }
  const { footer, sections, marks } = index
  noteEnd(file, footer)
  file.indexed = true
  file.blockOffset = footer.blockOffset
  for (const mark of marks) table.applyIndexedMark(mark, file)
  for (const section of sections) table.applySection(section, file)
  return { file, scan: null }
}

async function scanInto(disk: Disk, table: LedgerTable, file: LogFile): Promise<FileScan> {
  const scan = await scanFile(disk, file, {
    entry: (entry, lac) => applyScanned(table, file, entry, lac),
    mark: (mark) => table.applyMark(mark, file),
  })
  noteEnd(file, scan)
  return scan
}

function noteEnd(
  file: LogFile,
  from: Pick<FileScan, 'end' | 'cleanEnd' | 'previousGeneration' | 'previousOffset'>,
): void {
  file.end = from.end
  file.cleanEnd = from.cleanEnd
  file.previousGeneration = from.previousGeneration
  file.previousOffset = from.previousOffset
}

function applyScanned(table: LedgerTable, file: LogFile, entry: ScannedEntry, lac: bigint): void {
  const { offset, bodyBytes } = entry
  const ledger = table.obtain(entry.ledgerId)
  table.applyEntry(ledger, Number(entry.entryId), lac, file, { offset, bodyBytes })
}

/** Whether the newest file that was appended to says that nothing was on its way when the last run ended. */
function endsClean(superblock: Superblock, opened: readonly OpenedFile[]): boolean {
  const rewritten = new Set(superblock.rewritten.map(({ generation }) => generation))
  const newest = superblock.files.findLast((generation) => !rewritten.has(generation))
  if (newest === undefined) return true
  return opened.some(({ file }) => file.generation === newest && file.cleanEnd)
}

/**
 * Tells damage from torn ends. Every group says up to where its file was durable before it, and what the file
 * before it in the same run came to: a hole that begins below is damage, any other is an end of which nobody
 * knows. A file with an index block was durable as a whole before it; what became of it since shows when it is read.
 */
async function judge(
  table: LedgerTable,
  opened: readonly OpenedFile[],
  lost: readonly LogFile[],
  superblock: Superblock,
  options: StartOptions,
): Promise<{ corruptBytes: number; corruptGeneration: bigint }> {
  const durable = durableOffsets(opened, superblock)
  const damaged: { file: LogFile; entry: ScannedEntry }[] = []
  let { corruptGeneration } = superblock
  let corruptBytes = 0
  const corrupt = (file: LogFile, bytes: number, about: object): void => {
    corruptBytes += bytes
    file.damaged = true
    options.logger.error({ path: file.path, bytes, ...about }, 'durable bytes are damaged')
  }
  for (const { file, scan } of opened) {
    if (scan === null) continue
    const durableTo = durable.get(file.generation) ?? 0
    for (const hole of [...scan.holes, ...cutOff(scan, durableTo)]) {
      if (hole.from >= durableTo) continue
      corrupt(file, Math.min(hole.to, durableTo) - hole.from, { from: hole.from })
      if (hole.entry !== null) damaged.push({ file, entry: hole.entry })
      else corruptGeneration = maxOf(corruptGeneration, file.rank)
    }
  }
  for (const file of lost) {
    // The newest may never have got its name durably: then it is an end without a mark, which `endsClean`
    // says. A rewritten one was listed when it was whole, and what is known to have been durable had its name.
    const mayBeNew = !file.rewritten && file.generation === superblock.files.at(-1)
    if (mayBeNew && !durable.has(file.generation)) continue
    corrupt(file, options.fileBytes, { absent: logName(file.generation) })
    corruptGeneration = maxOf(corruptGeneration, file.rank)
  }
  // Known by name, so reads of them fail as damaged; unless another copy of the frame is good.
  for (const { file, entry } of damaged) {
    const { ledgerId, entryId } = entry
    if (await knownElsewhere(options.disk, table.obtain(ledgerId), Number(entryId))) continue
    applyScanned(table, file, entry, -1n)
  }
  return { corruptBytes, corruptGeneration }
}

async function knownElsewhere(disk: Disk, ledger: Ledger, entryId: number): Promise<boolean> {
  const handles = new FileHandles(disk)
  try {
    const search = new EntrySearch(new IndexRows(disk, handles, 1))
    return await search.holds(ledger, entryId)
  } catch (error) {
    // Where the rows of another file are damaged as well, nobody knows of a good copy: the entry reads as damaged.
    if (isStratalogError(error, 'corrupt')) return false
    throw error
  } finally {
    await handles.closeAll()
  }
}

/** What was durable beyond the end of a file that lost its end. */
function cutOff(scan: FileScan, durableTo: number): Hole[] {
  return durableTo > scan.sizeBytes ? [{ from: scan.sizeBytes, to: durableTo, entry: null }] : []
}

function durableOffsets(opened: readonly OpenedFile[], superblock: Superblock): Map<bigint, number> {
  const durable = new Map<bigint, number>()
  const note = (generation: bigint, offset: number): void => {
    durable.set(generation, Math.max(durable.get(generation) ?? 0, offset))
  }
  for (const { generation, end } of superblock.ends) note(generation, end)
  for (const { file, scan } of opened) {
    if (scan !== null) note(file.generation, scan.durableOffset)
    if (file.previousGeneration > 0n) note(file.previousGeneration, file.previousOffset)
  }
  return durable
}

function maxOf(a: bigint, b: bigint): bigint {
  return a > b ? a : b
}
