import { join } from 'node:path'
import { isStratalogError } from '../../src/model/errors.js'
import type { ArchivedKey } from '../../src/ports/archive-store.js'
import type { Disk } from '../../src/ports/disk.js'
import { MARKER, TEMPORARY } from './open.js'

interface Query {
  readonly disk: Disk
  readonly root: string
  readonly prefix: string
  readonly after: string
  readonly limit: number
  readonly signal: AbortSignal | undefined
  readonly found: ArchivedKey[]
}

/**
 * Keys above `after` with `prefix` in byte order, at most `limit`: a walk that enters only directories that
 * matter.
 */
export async function listDirectory(query: Omit<Query, 'found'>): Promise<ArchivedKey[]> {
  const found: ArchivedKey[] = []
  await walk({ ...query, found }, '')
  return found
}

/** Adds the keys below directory `base` ('' or ending in '/'). */
async function walk(query: Query, base: string): Promise<void> {
  const { disk, root, found } = query
  for (const name of await orderedNames(query, base)) {
    if (found.length >= query.limit) return
    query.signal?.throwIfAborted()
    const key = base + name
    if (!mayMatter(key, query)) continue
    const about = await disk.stat(join(root, ...key.split('/')))
    // Deleted since it was listed.
    if (about === null) continue
    if (about.directory) {
      if (mayHold(`${key}/`, query)) await walk(query, `${key}/`)
    } else if (key > query.after && key.startsWith(query.prefix)) {
      found.push({ key, sizeBytes: about.sizeBytes })
    }
  }
}

/**
 * Names of a directory in the order of the keys they begin. A directory sorts as if its name ended in '/',
 * which matters only where another name goes on with a character below '/', that is '-' or '.': only there
 * the kind has to be asked for, so that a directory of many objects costs one listing.
 */
async function orderedNames({ disk, root, prefix }: Query, base: string): Promise<string[]> {
  // What lies beside the prefix need not be looked at, whatever else is there.
  const wanted = prefix.length > base.length ? (prefix.slice(base.length).split('/')[0] ?? '') : ''
  const all = await namesOf(disk, join(root, ...base.split('/')))
  const names = all
    .filter((name) => /^[0-9a-z_~-][0-9a-z_~.-]*$/.test(name) && name.startsWith(wanted))
    .sort()
  const keyed: { name: string; sortsAs: string }[] = []
  for (const [i, name] of names.entries()) {
    if (base === '' && (name === MARKER || name === TEMPORARY)) continue
    const next = names[i + 1]
    const unclear = next?.startsWith(name) === true && (next[name.length] ?? '/') < '/'
    const directory = unclear && (await disk.stat(join(root, ...base.split('/'), name)))?.directory === true
    keyed.push({ name, sortsAs: directory ? `${name}/` : name })
  }
  keyed.sort((a, b) => (a.sortsAs < b.sortsAs ? -1 : 1))
  return keyed.map(({ name }) => name)
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

/** Whether `key`, as an object or as a directory of objects, can matter: asked before the disk is. */
function mayMatter(key: string, query: Query): boolean {
  return (key > query.after && key.startsWith(query.prefix)) || mayHold(`${key}/`, query)
}

/** Whether keys that begin with `directory` (ending in '/') can be above `after` and have the prefix. */
function mayHold(directory: string, { after, prefix }: Query): boolean {
  const above = directory > after || after.startsWith(directory)
  return above && (directory.startsWith(prefix) || prefix.startsWith(directory))
}
