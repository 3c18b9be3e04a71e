import { readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import Database from 'better-sqlite3'
import { StratalogError } from '../../model/errors.js'
import { fileError, sqliteError } from './errors.js'

/** The file holds nothing but the lock, and SQLite makes a new one. */
const DAMAGED_HINT = 'nothing is stored in it: remove lock.db while no process has the log open'

/** What the holder says of itself, for the message another gets. */
export interface LockAbout {
  readonly pid: number
  /** Anything else that helps to find it: the command, when it began. Never a secret. */
  readonly [key: string]: unknown
}

/** A directory that belongs to this process until `release`. */
export interface DirectoryLock {
  readonly directory: string
  /** Why lock.json could not be written, if so. The lock holds all the same; only its message says less. */
  readonly describeError: unknown
  /** Idempotent. */
  release(): void
}

/**
 * Takes a directory for this process alone, or throws `directory_in_use`. The lock is an exclusive transaction
 * that stays open on `lock.db`: the operating system ends it with the process, however that ends, so there is no
 * stale lock to clear. SQLite also refuses a second one within the process. Nobody else may open or even copy
 * lock.db in this process: closing any descriptor of a file drops all POSIX locks the process has on it.
 * Errors besides: `file_not_found`, `access_denied`, `io_failed`.
 */
export function lockDirectory(directory: string, about: LockAbout): DirectoryLock {
  checkDirectory(directory)
  const raw = take(directory)
  const note = join(directory, 'lock.json')
  let held = true
  return {
    directory,
    describeError: describe(note, about),
    release() {
      if (!held) return
      held = false
      // While the lock is still ours, so that it is never the next holder's note that goes.
      rmSync(note, { force: true })
      raw.close()
    },
  }
}

function checkDirectory(directory: string): void {
  let isDirectory: boolean
  try {
    isDirectory = statSync(directory).isDirectory()
  } catch (error) {
    throw fileError(error, directory, 'lock')
  }
  if (!isDirectory)
    throw new StratalogError(
      'file_not_found',
      `can't lock ${directory}: it is no directory; correct the path`,
    )
}

function take(directory: string): Database.Database {
  const file = join(directory, 'lock.db')
  let raw: Database.Database | null = null
  try {
    raw = new Database(file, { timeout: 0 })
    raw.pragma('locking_mode = EXCLUSIVE')
    raw.pragma('journal_mode = MEMORY')
    raw.exec('BEGIN EXCLUSIVE')
    return raw
  } catch (error) {
    raw?.close()
    const mapped = sqliteError(error, file, 'lock the directory', DAMAGED_HINT)
    if (mapped instanceof StratalogError && mapped.code === 'directory_in_use') throw inUse(directory, error)
    throw mapped
  }
}

function inUse(directory: string, cause: unknown): StratalogError {
  const { about, problem } = readNote(join(directory, 'lock.json'))
  const pid = about === null ? null : about.pid
  const holder =
    pid === null ? 'another process' : `process ${pid}${pid === process.pid ? ' (this one)' : ''}`
  return new StratalogError(
    'directory_in_use',
    `${directory} is in use by ${holder}: close it there first. Commands of \`stratalog\` work beside it, through its control socket`,
    {
      cause,
      retryable: true,
      ...(pid === null ? {} : { found: pid }),
      details: { directory, holder: about, ...(problem === null ? {} : { noteProblem: problem }) },
    },
  )
}

/** What the holder wrote. It writes after it took the lock, so for a moment there may be nothing yet. */
function readNote(note: string): { about: LockAbout | null; problem: string | null } {
  try {
    const about: unknown = JSON.parse(readFileSync(note, 'utf8'))
    if (typeof about === 'object' && about !== null && 'pid' in about && typeof about.pid === 'number') {
      return { about: { ...about, pid: about.pid }, problem: null }
    }
    return { about: null, problem: 'it names no process' }
  } catch (error) {
    return { about: null, problem: error instanceof Error ? error.message : String(error) }
  }
}

/** Writes the note in one step, so that nobody reads half of it. Gives back what went wrong, or null. */
function describe(note: string, about: LockAbout): unknown {
  const draft = `${note}.tmp`
  try {
    writeFileSync(draft, `${JSON.stringify(about)}\n`, { mode: 0o600 })
    renameSync(draft, note)
    return null
  } catch (error) {
    return fileError(error, note, 'write')
  }
}
