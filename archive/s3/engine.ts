import { StratalogError } from '../../src/model/errors.js'
import type { ArchiveEngine } from '../../src/ports/archive-store.js'
import type { S3Settings } from './settings.js'

/** Opens an S3 archive: `s3://bucket/prefix`. */
export function s3Archive(location: string, _settings: S3Settings = {}): ArchiveEngine {
  return {
    apiVersion: 1,
    name: location,
    open: () => Promise.reject(new StratalogError('unsupported', `no engine for ${location} yet`)),
  }
}
