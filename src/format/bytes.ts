import type { ErrorDetails } from '../model/errors.js'
import { StratalogError } from '../model/errors.js'

/** The same bytes as a `Buffer`, for its readers and writers of numbers; nothing is copied. */
export function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
}

/** The error of every decoder for bytes that nobody can have written. */
export function corrupt(message: string, details: ErrorDetails = {}): StratalogError {
  return new StratalogError('corrupt', message, details)
}

/** The error of every decoder for bytes that a newer version, or something else, has written. */
export function unsupportedVersion(message: string, details: ErrorDetails = {}): StratalogError {
  return new StratalogError('version_unsupported', message, details)
}
