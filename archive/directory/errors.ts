import { isStratalogError, StratalogError } from '../../src/model/errors.js'

/**
 * What a disk's error means for an archive in a directory. Errors that are not the disk's pass as they are.
 */
export function archiveError(error: unknown, root: string, doing: string): unknown {
  if (!isStratalogError(error)) return error
  const as = (
    code: 'archive_full' | 'access_denied' | 'archive_unavailable',
    advice: string,
    retryable: boolean,
  ): StratalogError =>
    new StratalogError(code, `archive ${root}: ${doing} failed: ${error.message}; ${advice}`, {
      cause: error,
      retryable,
    })
  switch (error.code) {
    case 'disk_full':
      return as('archive_full', 'make room there', true)
    case 'access_denied':
      return as('access_denied', 'this process must be able to read and write there', false)
    case 'io_failed':
    case 'file_not_found':
    case 'file_exists':
      return as('archive_unavailable', 'check the disk or the mount', true)
    default:
      return error
  }
}

/** The directory is not there, or not the archive: most often a disk that is not mounted. */
export function archiveMissing(root: string, why: string, cause?: unknown): StratalogError {
  return new StratalogError('archive_missing', `archive ${root}: ${why}`, { cause, retryable: true })
}

/** Runs one step on the disk, its errors translated. */
export async function step<T>(root: string, doing: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work()
  } catch (error) {
    throw archiveError(error, root, doing)
  }
}
