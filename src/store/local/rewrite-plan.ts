import { compareRank, type LogFile } from './log-file.js'

/** Most files that are rewritten together: longer runs of a ledger come of it, and this much space is taken meanwhile. */
const FILES_AT_ONCE_MAX = 16
const LIVE_FILES_AT_ONCE_MAX = 4
/** So many small files are worth being put together. */
const SMALL_FILES_MIN = 8
/** A ledger with less than this part of a file in it is a short run. */
const RUN_PART = 1 / 64

/**
 * The files that are rewritten next, oldest first; empty if there are none. Those of which most is dead, those whose
 * entries belong to many ledgers, and small ones, once there are many (each short run leaves one). A rewritten file
 * is sorted already and whole, so each file is rewritten once until it dies or shrinks.
 */
export function chooseSources(files: Iterable<LogFile>, fileBytes: number): LogFile[] {
  const able = [...files].filter(isAble)
  const small = able.filter((file) => file.sizeBytes < fileBytes / 4)
  const chosen = able.filter((file) => mostlyDead(file, fileBytes) || scattered(file, fileBytes))
  if (small.length >= SMALL_FILES_MIN) chosen.push(...small)
  chosen.sort(compareRank)
  const sources: LogFile[] = []
  let liveBytes = 0
  for (const file of chosen) {
    liveBytes += file.liveBytes
    const tooMuch = liveBytes > LIVE_FILES_AT_ONCE_MAX * fileBytes || sources.length >= FILES_AT_ONCE_MAX
    if (tooMuch && sources.length > 0) break
    sources.push(file)
  }
  return sources
}

/** The one whose rewriting gives back most and fits into one file, for a disk that has no room for more. */
export function chooseDeadest(files: Iterable<LogFile>, fileBytes: number): LogFile[] {
  const dead = [...files].filter((file) => isAble(file) && mostlyDead(file, fileBytes))
  return dead.sort((a, b) => a.liveBytes - b.liveBytes).slice(0, 1)
}

/** A file with nothing alive is freed instead. */
function isAble({ closed, indexed, damaged, unrewritable, liveEntries }: LogFile): boolean {
  return closed && indexed && !damaged && !unrewritable && liveEntries > 0
}

/**
 * Rewriting it gives back half of it, and something worth the while. Marks and the space around them are no entries
 * and not dead: in a rewritten file only what died since counts, or it would be rewritten for ever.
 */
function mostlyDead(file: LogFile, fileBytes: number): boolean {
  const deadBytes = (file.rewritten ? file.indexedBytes : file.sizeBytes) - file.liveBytes
  return deadBytes > file.sizeBytes / 2 && deadBytes > fileBytes / 4
}

function scattered(file: LogFile, fileBytes: number): boolean {
  if (file.rewritten || file.liveBytes < fileBytes / 4) return false
  return file.liveBytes / file.ranges.size < fileBytes * RUN_PART
}
