import { join, sep } from 'node:path'
import { isStratalogError } from '../../src/model/errors.js'
import type { Clock } from '../../src/ports/clock.js'
import type { Disk } from '../../src/ports/disk.js'
import { MARKER, TEMPORARY } from './open.js'

/** Directories whose names are remembered: the root, and those of the streams that are listed side by side. */
const REMEMBERED_MAX = 8
/** Names remembered of one directory; of a larger one the next that many (invariant 11). */
const NAMES_MAX = 50_000
/**
 * A directory that changed less than this before it was read may have changed again within the same tick of its clock:
 * its names are not remembered. The coarsest clock of a file system in use has two seconds.
 */
const SETTLED_MS = 3_000

/** A name in a directory, with the text it sorts by among keys. */
export interface OrderedName {
  readonly name: string
  /** Ends in `/` where it is known to be a directory. */
  readonly sortsAs: string
}

interface Remembered {
  readonly path: string
  readonly modifiedMs: number
  /** Only names that sort at or above this are among `names`. */
  readonly from: string
  readonly names: readonly OrderedName[]
  /** Whether no name follows the last of them. */
  readonly complete: boolean
}

/**
 * Names of an archive's directories in the order of the keys they begin. What was read is remembered while the
 * directory's time of change says that it is the same, so a listing of many pages reads each directory once and not
 * once a page. A file system that tells no such time has every directory read each time.
 */
export class DirectoryNames {
  readonly #disk: Disk
  readonly #clock: Clock
  #remembered: Remembered[] = []

  constructor(disk: Disk, clock: Clock) {
    this.#disk = disk
    this.#clock = clock
  }

  /**
   * This process changed something in a directory, and may have made it: that must show at once, whatever the file
   * system's clock says.
   */
  changed(directory: string): void {
    const holds = ({ path }: Remembered) => directory === path || directory.startsWith(`${path}${sep}`)
    this.#remembered = this.#remembered.filter((one) => !holds(one))
  }

  /**
   * Names from `from` on; `more`: others follow the last. None where there is no such directory. `root`: what is not an
   * object there is left out.
   */
  async from(
    path: string,
    from: string,
    root: boolean,
  ): Promise<{ names: readonly OrderedName[]; more: boolean }> {
    const about = await this.#disk.stat(path)
    if (about === null || !about.directory) return { names: [], more: false }
    const known = this.#known(path, from, about.modifiedMs)
    if (known !== null)
      return { names: known.names.slice(firstFrom(known.names, from)), more: !known.complete }
    const all = await ordered(this.#disk, path, await namesOf(this.#disk, path), root)
    const at = firstFrom(all, from)
    const names = all.slice(at, at + NAMES_MAX)
    const complete = at + names.length === all.length
    this.#remember({ path, from, names, complete }, about.modifiedMs)
    return { names, more: !complete }
  }

  #known(path: string, from: string, modifiedMs: number | undefined): Remembered | null {
    const known = this.#remembered.find((one) => one.path === path)
    if (known === undefined || known.modifiedMs !== modifiedMs || from < known.from) return null
    const last = known.names.at(-1)
    return known.complete || (last !== undefined && from <= last.sortsAs) ? known : null
  }

  /** The time was taken before the names were read: a change in between leaves a time that is not met again. */
  #remember(found: Omit<Remembered, 'modifiedMs'>, modifiedMs: number | undefined): void {
    const others = this.#remembered.filter(({ path }) => path !== found.path)
    const settled = modifiedMs !== undefined && this.#clock.nowMs() - modifiedMs > SETTLED_MS
    this.#remembered = settled
      ? [{ ...found, modifiedMs }, ...others].slice(0, REMEMBERED_MAX)
      : others.slice(0, REMEMBERED_MAX)
  }
}

/** Index of the first name that may begin a key at or above `from`. */
function firstFrom(names: readonly OrderedName[], from: string): number {
  let low = 0
  let high = names.length
  while (low < high) {
    const middle = (low + high) >>> 1
    if ((names[middle]?.sortsAs ?? '') < from) low = middle + 1
    else high = middle
  }
  // A directory that is not known to be one sorts below what it holds.
  while (low > 0 && from.startsWith(names[low - 1]?.name ?? ' ')) low -= 1
  return low
}

/**
 * A directory sorts as if its name ended in '/', which matters only where another name goes on with a character below
 * '/', that is '-' or '.': only there the kind has to be asked for, so that a directory of many objects costs one
 * listing.
 */
async function ordered(
  disk: Disk,
  path: string,
  all: readonly string[],
  root: boolean,
): Promise<OrderedName[]> {
  const names = all.filter((name) => /^[0-9a-z_~-][0-9a-z_~.-]*$/.test(name)).sort()
  const keyed: OrderedName[] = []
  let moved = false
  for (const [i, name] of names.entries()) {
    if (root && (name === MARKER || name === TEMPORARY)) continue
    const next = names[i + 1]
    const unclear = next?.startsWith(name) === true && (next[name.length] ?? '/') < '/'
    const directory = unclear && (await disk.stat(join(path, name)))?.directory === true
    moved ||= directory
    keyed.push({ name, sortsAs: directory ? `${name}/` : name })
  }
  return moved ? keyed.sort((a, b) => (a.sortsAs < b.sortsAs ? -1 : 1)) : keyed
}

async function namesOf(disk: Disk, path: string): Promise<string[]> {
  try {
    return await disk.list(path)
  } catch (error) {
    // The caller makes sure that the archive itself is there.
    if (isStratalogError(error, 'file_not_found')) return []
    throw error
  }
}
