import Database from 'better-sqlite3'
import type { ErrorCode } from '../../model/errors.js'
import { StratalogError } from '../../model/errors.js'

/** What a person does about a damaged index. */
export const REBUILD_HINT =
  'nothing was deleted: while no process has the log open, make it again from stores and archive: stratalog index rebuild'

/** What became of one call into SQLite, in our words. Codes of SQLite by prefix, the first that fits. */
const CODES: readonly (readonly [prefix: string, code: ErrorCode, hint: string])[] = [
  ['SQLITE_CORRUPT', 'corrupt', REBUILD_HINT],
  ['SQLITE_NOTADB', 'corrupt', REBUILD_HINT],
  ['SQLITE_FULL', 'disk_full', 'free some space; the call may then be made again'],
  ['SQLITE_BUSY', 'directory_in_use', 'another program has the file open and locked: close it'],
  ['SQLITE_LOCKED', 'directory_in_use', 'another program has the file open and locked: close it'],
  ['SQLITE_READONLY', 'access_denied', 'make the file and its directory writable for this user'],
  ['SQLITE_PERM', 'access_denied', 'make the file and its directory writable for this user'],
  ['SQLITE_AUTH', 'access_denied', 'make the file and its directory writable for this user'],
  ['SQLITE_CANTOPEN', 'access_denied', 'make the file and its directory readable and writable for this user'],
  ['SQLITE_IOERR_NOMEM', 'internal', 'there is no memory left'],
  ['SQLITE_IOERR', 'io_failed', 'look at the disk and the system log'],
  ['SQLITE_PROTOCOL', 'io_failed', 'its locks do not work: is it on a network file system?'],
]

const RETRYABLE: readonly ErrorCode[] = ['disk_full', 'directory_in_use']

/**
 * The error to throw for one that SQLite threw while `doing` something with `file`. Errors of ours and bugs
 * (constraints, wrong SQL) are returned as they are: a bug must not look like a disk. `damagedHint` says what to do
 * about a damaged file that is not the index.
 */
export function sqliteError(
  error: unknown,
  file: string,
  doing: string,
  damagedHint: string = REBUILD_HINT,
): unknown {
  if (error instanceof TypeError && error.message.includes('connection is not open')) {
    return new StratalogError('closed', `can't ${doing}: ${file} has been closed`, { cause: error })
  }
  if (!(error instanceof Database.SqliteError)) return error
  const found = CODES.find(([prefix]) => error.code.startsWith(prefix))
  if (found === undefined) return error
  const [, code] = found
  const hint = code === 'corrupt' ? damagedHint : found[2]
  return new StratalogError(code, `can't ${doing}: ${file}: ${error.message} (${error.code}); ${hint}`, {
    cause: error,
    retryable: RETRYABLE.includes(code),
    details: { file, sqliteCode: error.code },
  })
}

/** Whether the operating system refused to make written bytes durable. What was written before is then unknown. */
export function isFailedSync(error: unknown): boolean {
  return error instanceof Database.SqliteError && /^SQLITE_IOERR_(DIR_)?FSYNC$/.test(error.code)
}

/** The error to throw for one of the file system. */
export function fileError(error: unknown, file: string, doing: string): unknown {
  const errno = error instanceof Error && 'code' in error ? error.code : null
  if (typeof errno !== 'string') return error
  const known: Readonly<Record<string, readonly [ErrorCode, string]>> = {
    ENOENT: ['file_not_found', 'create its directory first, or correct the path'],
    ENOTDIR: ['file_not_found', 'a part of the path is no directory: correct the path'],
    EACCES: ['access_denied', 'make the file and its directory readable and writable for this user'],
    EPERM: ['access_denied', 'make the file and its directory readable and writable for this user'],
    EROFS: ['access_denied', 'the file system is mounted read-only'],
    ENOSPC: ['disk_full', 'free some space'],
    EDQUOT: ['disk_full', 'the quota is used up: free some space'],
  }
  const [code, hint] = known[errno] ?? ['io_failed', 'look at the disk and the system log']
  return new StratalogError(code, `can't ${doing} ${file}: ${errno}; ${hint}`, {
    cause: error,
    retryable: code === 'disk_full',
    details: { file, errno },
  })
}
