import { type ErrorCode, StratalogError } from '../model/errors.js'

/** Exit codes of every command, by what happened (docs/errors.md). */
export const EXIT = {
  ok: 0,
  failed: 1,
  usage: 2,
  notFound: 3,
  refused: 4,
  partial: 5,
  loss: 6,
  access: 7,
} as const

/** The exit code of each error code. What is not listed has failed for a reason that may pass: 1. */
const BY_CODE: Partial<Record<ErrorCode, number>> = {
  invalid_argument: EXIT.usage,
  stream_name_invalid: EXIT.usage,
  position_invalid: EXIT.usage,
  txid_out_of_range: EXIT.usage,
  config_invalid: EXIT.usage,
  usage: EXIT.usage,
  unsupported: EXIT.usage,
  stream_not_found: EXIT.notFound,
  position_out_of_range: EXIT.notFound,
  not_found: EXIT.notFound,
  file_not_found: EXIT.notFound,
  ledger_not_found: EXIT.notFound,
  object_not_found: EXIT.notFound,
  refused: EXIT.refused,
  stream_exists: EXIT.refused,
  stream_finished: EXIT.refused,
  stream_replaced: EXIT.refused,
  file_exists: EXIT.refused,
  directory_not_empty: EXIT.refused,
  directory_in_use: EXIT.refused,
  index_missing: EXIT.refused,
  archive_moved: EXIT.refused,
  archive_conflict: EXIT.loss,
  corrupt: EXIT.loss,
  gap: EXIT.loss,
  entry_missing: EXIT.loss,
  access_denied: EXIT.access,
  key_missing: EXIT.access,
  key_wrong: EXIT.access,
}

/** What the process exits with after that error. */
export function exitCodeOf(error: unknown): number {
  return error instanceof StratalogError ? (BY_CODE[error.code] ?? EXIT.failed) : EXIT.failed
}
