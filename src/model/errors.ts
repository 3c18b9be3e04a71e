/**
 * Every way a call can fail, as a closed list. Docs: docs/errors.md. A code is part of the public API: it is
 * never renamed, only added.
 */
export const ERROR_CODES = [
  // what the caller asked for
  'invalid_argument',
  'stream_name_invalid',
  'stream_not_found',
  'stream_exists',
  'stream_finished',
  'record_too_large',
  'txid_out_of_range',
  'txid_not_monotonic',
  'position_invalid',
  'position_out_of_range',
  'config_invalid',
  'unsupported',
  'dependency_missing',
  'usage',
  'not_found',
  'refused',
  'stream_replaced',
  // who may write
  'fenced',
  'closed',
  'conflict',
  'lease_lost',
  'directory_in_use',
  // the hot tier
  'not_enough_stores',
  'store_unavailable',
  'store_poisoned',
  'store_full',
  'ledger_exists',
  'ledger_not_found',
  'ledger_recovering',
  'entry_missing',
  'backpressure',
  'timeout',
  'metadata_unavailable',
  // the disk
  'disk_full',
  'io_failed',
  'file_not_found',
  'file_exists',
  'access_denied',
  'directory_not_empty',
  // the archive
  'archive_missing',
  'archive_unavailable',
  'archive_full',
  'archive_conflict',
  'object_exists',
  'object_not_found',
  'thawing',
  'key_missing',
  'key_wrong',
  'archive_moved',
  // the bytes
  'corrupt',
  'version_unsupported',
  'index_missing',
  'gap',
  // ours
  'internal',
] as const

/** One of the closed list: never renamed, only added to (docs/errors.md). */
export type ErrorCode = (typeof ERROR_CODES)[number]

/** What an error says beside its code and message. */
export interface ErrorDetails {
  /** What failed underneath, kept whole. */
  cause?: unknown
  /** Whether the same call may succeed later without anybody changing anything. */
  retryable?: boolean
  expected?: unknown
  found?: unknown
  /** Anything else a program may want to look at. Never a secret. */
  details?: Record<string, unknown>
}

/**
 * The one class of errors stratalog throws on purpose. Anything else that reaches a caller is a bug of ours or
 * an error of the caller's own code (a codec, an iterable).
 *
 * @example
 * ```ts
 * import { isStratalogError } from 'stratalog'
 * const work = Promise.reject(new Error('x'))
 * await work.catch((error: unknown) => {
 *   if (isStratalogError(error, 'stream_not_found')) console.log(error.message)
 * })
 * ```
 */
export class StratalogError extends Error {
  override readonly name = 'StratalogError'
  readonly code: ErrorCode
  readonly retryable: boolean
  readonly expected: unknown
  readonly found: unknown
  readonly details: Readonly<Record<string, unknown>>

  constructor(code: ErrorCode, message: string, details: ErrorDetails = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause })
    this.code = code
    this.retryable = details.retryable ?? false
    this.expected = details.expected
    this.found = details.found
    this.details = details.details ?? {}
  }

  toJSON(): Record<string, unknown> {
    return {
      code: this.code,
      message: this.message,
      retryable: this.retryable,
      ...(this.expected === undefined ? {} : { expected: plainValue(this.expected) }),
      ...(this.found === undefined ? {} : { found: plainValue(this.found) }),
    }
  }
}

/** A value as JSON can hold it, bigints as decimal strings at any depth. Never throws: errors are shown with it. */
function plainValue(value: unknown): unknown {
  const replace = (_key: string, part: unknown) => (typeof part === 'bigint' ? part.toString() : part)
  try {
    return JSON.parse(JSON.stringify(value, replace) ?? 'null')
  } catch {
    return String(value)
  }
}

/** Whether `error` is ours, and of that code if one is given. */
export function isStratalogError(error: unknown, code?: ErrorCode): error is StratalogError {
  return error instanceof StratalogError && (code === undefined || error.code === code)
}
