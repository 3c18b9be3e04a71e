import { join } from 'node:path'
import type { ArchivedKey } from '../../src/ports/archive-store.js'
import type { Disk } from '../../src/ports/disk.js'
import type { DirectoryNames, OrderedName } from './names.js'

/** Objects whose sizes are asked for side by side. */
const STATS_AT_ONCE = 32

interface Query {
  readonly disk: Disk
  readonly names: DirectoryNames
  readonly root: string
  readonly prefix: string
  readonly after: string
  readonly limit: number
  readonly signal: AbortSignal | undefined
  readonly found: ArchivedKey[]
}

/**
 * Keys above `after` with `prefix` in byte order, at most `limit`: a walk that enters only directories that
 * matter, and begins in the one that the prefix names.
 */
export async function listDirectory(query: Omit<Query, 'found'>): Promise<ArchivedKey[]> {
  const found: ArchivedKey[] = []
  const base = query.prefix.slice(0, query.prefix.lastIndexOf('/') + 1)
  if (await isBelowDirectories(query, base)) await walk({ ...query, found }, base)
  return found
}

/**
 * Each part above the last is looked at: one that is a file holds no keys, and asking below it would be an error of the
 * disk. What the last one is shows where its names are read.
 */
async function isBelowDirectories({ disk, root }: Omit<Query, 'found'>, base: string): Promise<boolean> {
  let path = root
  for (const part of base.split('/').slice(0, -2)) {
    path = join(path, part)
    if ((await disk.stat(path))?.directory !== true) return false
  }
  return true
}

/** Adds the keys below directory `base` ('' or ending in '/'). */
async function walk(query: Query, base: string): Promise<void> {
  const { names, root, after, prefix, found, limit } = query
  // No key below the base lies between the two: the first name that matters begins with the larger one.
  const inside = (text: string) =>
    text.startsWith(base) ? (text.slice(base.length).split('/')[0] ?? '') : ''
  let from = [inside(after), inside(prefix)].sort().at(-1) ?? ''
  for (;;) {
    const page = await names.from(join(root, ...base.split('/')), from, base === '')
    for (let at = 0; at < page.names.length; ) {
      if (found.length >= limit) return
      const some = page.names.slice(at, at + Math.min(STATS_AT_ONCE, limit - found.length))
      if (beyond(base + (some[0]?.name ?? ''), prefix)) return
      await addSome(query, base, some)
      at += some.length
    }
    const last = page.names.at(-1)
    if (!page.more || last === undefined || found.length >= limit) return
    // '\0' is in no name: the next page begins behind the last of this one.
    from = `${last.sortsAs}\0`
  }
}

/** Whether neither this name nor one that follows it begins with the prefix. */
function beyond(key: string, prefix: string): boolean {
  return key > prefix && !key.startsWith(prefix) && !prefix.startsWith(key)
}

async function addSome(query: Query, base: string, some: readonly OrderedName[]): Promise<void> {
  const { disk, root, after, prefix, found } = query
  query.signal?.throwIfAborted()
  const keys = some.map(({ name }) => base + name).filter((key) => mayMatter(key, query))
  const abouts = await Promise.all(keys.map((key) => disk.stat(join(root, ...key.split('/')))))
  for (const [i, key] of keys.entries()) {
    if (found.length >= query.limit) return
    const about = abouts[i] ?? null
    // Deleted since it was listed.
    if (about === null) continue
    if (about.directory) {
      if (mayHold(`${key}/`, query)) await walk(query, `${key}/`)
    } else if (key > after && key.startsWith(prefix)) {
      found.push({ key, sizeBytes: about.sizeBytes })
    }
  }
}

/** Whether `key`, as an object or as a directory of objects, can matter: asked before the disk is. */
function mayMatter(key: string, query: Query): boolean {
  return (key > query.after && key.startsWith(query.prefix)) || mayHold(`${key}/`, query)
}

/** Whether keys that begin with `directory` (ending in '/') can be above `after` and have the prefix. */
function mayHold(directory: string, { after, prefix }: Query): boolean {
  const above = directory > after || after.startsWith(directory)
  return above && (directory.startsWith(prefix) || prefix.startsWith(directory))
}
