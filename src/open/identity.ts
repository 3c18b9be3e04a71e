import { randomBytes } from 'node:crypto'
import { existsSync } from 'node:fs'
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { StratalogError } from '../model/errors.js'
import type { SegmentIndex } from '../ports/segment-index.js'
import { realDisk } from '../system/disk.js'

/** Version of the directory's layout; a newer one is refused. */
const LAYOUT_VERSION = 1

/** Which log a directory holds. */
export interface Identity {
  readonly logId: string
  /** The log is being made now: its stores and index may be new. */
  readonly created: boolean
}

/**
 * `log.json` names the log. It is written before anything else of a new log, as `making`, and again as `ready` once
 * stores and index are there: a start that dies in between leaves a log that the next one goes on making, under the
 * same id.
 */
export async function readIdentity(root: string): Promise<Identity> {
  const file = join(root, 'log.json')
  let text: string
  try {
    text = await readFile(file, 'utf8')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') {
      // It is written before anything else of a log, so whoever has an index has lost it.
      if (existsSync(join(root, 'index.db'))) throw identityMissing(root)
      const logId = randomBytes(16).toString('hex')
      await writeIdentity(root, logId, 'making')
      return { logId, created: true }
    }
    throw new StratalogError('access_denied', `${file} can't be read: ${(error as Error).message}`, {
      cause: error,
    })
  }
  let parsed: { version?: unknown; logId?: unknown; state?: unknown }
  try {
    parsed = (JSON.parse(text) ?? {}) as typeof parsed
  } catch (error) {
    throw new StratalogError(
      'corrupt',
      `${file} is damaged: restore it from a backup or from the superblock of a store (logId)`,
      { cause: error },
    )
  }
  if (typeof parsed.version === 'number' && parsed.version > LAYOUT_VERSION) {
    throw new StratalogError(
      'version_unsupported',
      `${root} was written by a newer stratalog (layout ${parsed.version}, this one reads ${LAYOUT_VERSION}): update stratalog`,
      {
        expected: LAYOUT_VERSION,
        found: parsed.version,
      },
    )
  }
  if (
    parsed.version !== LAYOUT_VERSION ||
    typeof parsed.logId !== 'string' ||
    !/^[0-9a-f]{32}$/.test(parsed.logId)
  ) {
    throw new StratalogError(
      'corrupt',
      `${file} is damaged: restore it from a backup or from the superblock of a store (logId)`,
      { found: text.slice(0, 200) },
    )
  }
  return { logId: parsed.logId, created: parsed.state === 'making' }
}

/** An index that knows nothing of this log is none: a new file, one cut to nothing, one of another log. */
export async function checkIndex(index: SegmentIndex, identity: Identity, root: string): Promise<void> {
  const found = await index.fact('log')
  if (found === identity.logId) return
  if (found === null && identity.created) return index.setFact('log', identity.logId)
  if (found === null) throw indexMissing(root)
  throw new StratalogError(
    'refused',
    `${join(root, 'index.db')} belongs to log ${found}, not to ${identity.logId}: put the right file back`,
    {
      expected: identity.logId,
      found,
    },
  )
}

/** Replaces log.json in one durable step. */
export async function writeIdentity(root: string, logId: string, state: 'making' | 'ready'): Promise<void> {
  const disk = realDisk()
  const file = join(root, 'log.json')
  await writeFile(`${file}.tmp`, `${JSON.stringify({ version: LAYOUT_VERSION, logId, state })}\n`, {
    flush: true,
  })
  await disk.rename(`${file}.tmp`, file)
  await disk.syncDirectory(root)
}

function identityMissing(root: string): StratalogError {
  return new StratalogError(
    'corrupt',
    `${join(root, 'log.json')} is gone and the rest of the log is there: put it back ({"version":1,"logId":"…","state":"ready"}; the logId stands in the superblock of each store)`,
    { found: root },
  )
}

/** Refused before anything is made: an empty index over full stores would give ids out twice. */
export function indexMissing(root: string): StratalogError {
  return new StratalogError(
    'index_missing',
    `${join(root, 'index.db')} is gone while the stores of this log are there`,
    { found: root },
  )
}

/** Makes a directory the cache of a log whose name comes from elsewhere. `refused` where it is that of another. */
export async function holdIdentity(root: string, logId: string): Promise<void> {
  if (!existsSync(join(root, 'log.json')) && !existsSync(join(root, 'index.db')))
    return writeIdentity(root, logId, 'ready')
  const found = await readIdentity(root)
  if (found.logId === logId) return
  throw new StratalogError(
    'refused',
    `${root} belongs to log ${found.logId}, and "metadata" leads to ${logId}: use another directory, or put "metadata" back`,
    { expected: logId, found: found.logId },
  )
}
