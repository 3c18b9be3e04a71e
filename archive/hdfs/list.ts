import type { ArchivedKey } from '../../src/ports/archive-store.js'
import { HdfsFailure, isAbsent } from './errors.js'
import { jsonAnswer, type NameNodes } from './namenodes.js'
import type { FileStatus } from './namespace.js'

/** Below every name that begins with the character before, and above all that begin with one before that. */
const LAST = '\u007f'

interface Query {
  readonly namenodes: NameNodes
  /** Path of the archive. */
  readonly root: string
  readonly prefix: string
  readonly after: string
  readonly limit: number
  readonly signal: AbortSignal | undefined
  /** Names in the root that are no objects. */
  readonly hidden: ReadonlySet<string>
  readonly found: ArchivedKey[]
}

interface Page {
  readonly statuses: readonly FileStatus[]
  readonly more: boolean
}

/**
 * Keys above `after` with `prefix` in byte order, at most `limit`: a walk that enters only directories that matter, one
 * request for a thousand names.
 *
 * HDFS sorts names by their bytes, and keys sort as if a directory's name ended in '/': behind names that go on with '-'
 * or '.', which are below it. So a directory is kept back until a name above its '/' comes.
 */
export async function listKeys(query: Omit<Query, 'found'>): Promise<ArchivedKey[]> {
  const found: ArchivedKey[] = []
  const base = query.prefix.slice(0, query.prefix.lastIndexOf('/') + 1)
  await walk({ ...query, found }, base)
  return found
}

/** Adds the keys below directory `base` ('' or ending in '/'). */
async function walk(query: Query, base: string): Promise<void> {
  const { after, prefix, found, limit } = query
  const inside = (text: string) =>
    text.startsWith(base) ? (text.slice(base.length).split('/')[0] ?? '') : ''
  let startAfter = justBefore([inside(after), inside(prefix)].sort().at(-1) ?? '')
  const kept: string[] = []
  const enterBelow = async (sortsAs: string | null): Promise<void> => {
    while (kept.length > 0 && found.length < limit) {
      const first = kept.sort()[0] ?? ''
      if (sortsAs !== null && first > sortsAs) return
      kept.shift()
      await walk(query, base + first)
    }
  }
  for (;;) {
    const page = await pageOf(query, base, startAfter)
    for (const { pathSuffix: name, type, length } of page.statuses) {
      startAfter = name
      if (!isKeyPart(name) || (base === '' && query.hidden.has(name))) continue
      const key = base + name
      await enterBelow(name)
      if (found.length >= limit || beyond(key, prefix)) return
      if (type === 'DIRECTORY') {
        if (mayHold(`${key}/`, query)) kept.push(`${name}/`)
      } else if (type === 'FILE' && key > after && key.startsWith(prefix)) {
        found.push({ key, sizeBytes: length })
      }
    }
    if (!page.more || page.statuses.length === 0) return enterBelow(null)
  }
}

/** What a key's part may be; whatever else lies there is not ours. */
function isKeyPart(name: string): boolean {
  return /^[0-9a-z_~-][0-9a-z_~.-]*$/.test(name)
}

/**
 * What to start after, so that no name is missed that can begin a key at or above `from`: that is `from` itself, and a
 * directory whose name `from` goes on from with '-' or '.', as `a/` is above `a-b`. Starting at the shortest of those
 * costs the names in between, which for our keys are those of one segment.
 */
function justBefore(from: string): string {
  if (from === '') return ''
  const cut = from.search(/(?<=.)[-.]/)
  const first = cut === -1 ? from : from.slice(0, cut)
  const code = first.charCodeAt(first.length - 1) - 1
  // A name can't hold '/', and one at the beginning would mean a path.
  return first.slice(0, -1) + (code === 0x2f ? '.' : String.fromCharCode(code)) + LAST
}

async function pageOf({ namenodes, root, signal }: Query, base: string, startAfter: string): Promise<Page> {
  signal?.throwIfAborted()
  const path = base === '' ? root : `${root}/${base.slice(0, -1)}`
  const params = startAfter === '' ? {} : { startAfter }
  try {
    const operation = { method: 'GET', op: 'LISTSTATUS_BATCH', path, params } as const
    const answer = await namenodes.ask(operation, 'listing objects', signal)
    const listing = jsonAnswer<Listing>(answer).DirectoryListing
    const statuses = listing?.partialListing?.FileStatuses?.FileStatus
    if (!Array.isArray(statuses) || typeof listing?.remainingEntries !== 'number') {
      throw new HdfsFailure(`${answer.url.host} told no listing`, { status: answer.status })
    }
    // A file lists itself, under no name: below it there are no keys.
    const below = statuses.filter(({ pathSuffix }) => pathSuffix !== '')
    // A gateway that does not know `startAfter` tells the first page again and again.
    if (startAfter !== '' && below.some(({ pathSuffix }) => pathSuffix === startAfter)) {
      throw new HdfsFailure(`${answer.url.host} does not list names from one on`, { status: answer.status })
    }
    return { statuses: below, more: listing.remainingEntries > 0 }
  } catch (error) {
    // The caller makes sure that the archive itself is there.
    if (isAbsent(error)) return { statuses: [], more: false }
    throw error
  }
}

interface Listing {
  readonly DirectoryListing?: {
    readonly partialListing?: { readonly FileStatuses?: { readonly FileStatus?: FileStatus[] } }
    readonly remainingEntries?: unknown
  }
}

/** Names in one directory, in the order of HDFS, a thousand a request. */
export async function* namesIn(
  namenodes: NameNodes,
  path: string,
  signal?: AbortSignal,
): AsyncIterable<string> {
  const query = {
    namenodes,
    root: path,
    signal,
    prefix: '',
    after: '',
    limit: 0,
    hidden: new Set<string>(),
    found: [],
  }
  for (let startAfter = ''; ; ) {
    const page = await pageOf(query, '', startAfter)
    for (const { pathSuffix } of page.statuses) {
      startAfter = pathSuffix
      yield pathSuffix
    }
    if (!page.more || page.statuses.length === 0) return
  }
}

/** Whether neither this name nor one that follows it begins with the prefix. */
function beyond(key: string, prefix: string): boolean {
  return key > prefix && !key.startsWith(prefix) && !prefix.startsWith(key)
}

/** Whether keys that begin with `directory` (ending in '/') can be above `after` and have the prefix. */
function mayHold(directory: string, { after, prefix }: Query): boolean {
  const above = directory > after || after.startsWith(directory)
  return above && (directory.startsWith(prefix) || prefix.startsWith(directory))
}
