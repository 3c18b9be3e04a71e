import { StratalogError } from '../../src/model/errors.js'
import type { ArchiveEngine } from '../../src/ports/archive-store.js'
import type { HdfsSettings } from './settings.js'

/** Opens an archive in HDFS: `hdfs://namenode:9870/path`. */
export function hdfsArchive(location: string, _settings: HdfsSettings = {}): ArchiveEngine {
  return {
    apiVersion: 1,
    name: location,
    open: () => Promise.reject(new StratalogError('unsupported', `no engine for ${location} yet`)),
  }
}
