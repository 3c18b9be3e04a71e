import { mkdir, open, readdir, readFile, rename } from 'node:fs/promises'
import { join } from 'node:path'
import { StratalogError } from '../../model/errors.js'
import type { PolicyInput } from '../../model/policy-input.js'

/** Says that a directory is the demo's, when it began and which events are in it. */
const MARKER = 'demo.json'

/** Small limits, so that segments go through their whole life in seconds. The same as in `CONFIGURATION`. */
export const DEMO_POLICY: PolicyInput = {
  roll: { size: '256 KiB', age: '10s' },
  hot: { for: '2s' },
  evict: { lag: '0s' },
}

/** The least there is: a few megabytes of events must not take hundreds of preallocated ones. */
export const DEMO_FILE_BYTES: number = 4 * 1024 * 1024

/** What other commands find in the directory later. */
const CONFIGURATION = `# Written by "stratalog demo": small limits, so that segments go through their whole life in seconds.
version: 1
archive: ./archive
defaults:
  roll: { size: 256 KiB, age: 10s }
  hot: { for: 2s }
  evict: { lag: 0s }
`

/** What the marker remembers. */
export interface DemoMarker {
  readonly startedMs: number
  readonly what: string
  /** `DemoSource.digest`. */
  readonly digest: string
}

/**
 * The marker of an earlier run in that directory; null: there was none, and the directory is absent or empty. A
 * directory that holds something else is refused: the demo appends to it, and those records would stay.
 */
export async function readMarker(directory: string): Promise<DemoMarker | null> {
  const names = await entries(directory)
  if (!names.includes(MARKER)) {
    if (names.every((name) => name === `${MARKER}.tmp`)) return null
    throw new StratalogError(
      'refused',
      `${directory} holds something that no demo wrote: name a new directory, stratalog demo --dir ./another`,
      { found: names.slice(0, 10) },
    )
  }
  const text = await readFile(join(directory, MARKER), 'utf8')
  try {
    const { startedMs, what, digest } = JSON.parse(text) as DemoMarker
    if (Number.isSafeInteger(startedMs) && typeof what === 'string' && typeof digest === 'string') {
      return { startedMs, what, digest }
    }
  } catch {
    // Said below, together with markers that parse and are none.
  }
  throw new StratalogError(
    'corrupt',
    `${join(directory, MARKER)} is damaged: name a new directory with --dir`,
    {
      found: text.slice(0, 200),
    },
  )
}

/** Makes the directory the demo's, before the log is made in it; an earlier run with other events is refused. */
export async function claimDirectory(
  directory: string,
  found: DemoMarker | null,
  own: DemoMarker,
): Promise<void> {
  if (found !== null && found.digest !== own.digest) {
    throw new StratalogError(
      'refused',
      `${directory} holds a demo of other data (${found.what}): name a new directory with --dir, or remove that one`,
      { expected: own.digest, found: found.digest },
    )
  }
  await mkdir(directory, { recursive: true })
  const names = await entries(directory)
  if (!names.includes(MARKER))
    await writeWhole(directory, MARKER, `${JSON.stringify({ version: 1, ...own })}\n`)
  if (!names.includes('stratalog.yaml')) await writeWhole(directory, 'stratalog.yaml', CONFIGURATION)
}

/** A kill leaves the old file or the new one, never half of one. */
async function writeWhole(directory: string, name: string, text: string): Promise<void> {
  const temporary = join(directory, `${name}.tmp`)
  const file = await open(temporary, 'w')
  try {
    await file.writeFile(text)
    await file.sync()
  } finally {
    await file.close()
  }
  await rename(temporary, join(directory, name))
}

async function entries(directory: string): Promise<string[]> {
  try {
    return await readdir(directory)
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException
    if (code === 'ENOENT') return []
    const kind = code === 'ENOTDIR' ? 'invalid_argument' : 'access_denied'
    throw new StratalogError(kind, `${directory} can't be used: ${(cause as Error).message}`, { cause })
  }
}
