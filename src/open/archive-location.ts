import { resolve } from 'node:path'
import { StratalogError } from '../model/errors.js'

/** Where an archive is: addresses as they are, directories from `base` on. */
export function archiveLocation(value: string, base: string): string {
  if (schemeOf(value) === null) return resolve(base, value)
  return value
}

/** `s3`, `hdfs`; null: it is a directory. */
export function schemeOf(location: string): string | null {
  return /^([a-z][a-z0-9+.-]+):\/\//.exec(location)?.[1] ?? null
}

/** What stands before an @ may be a secret, and the address of an archive is in every message and log line about it. */
export function refuseCredentials(location: string): void {
  const scheme = schemeOf(location)
  if (scheme === null || !/^[^/]*:\/\/[^/]*@/.test(location)) return
  const right = scheme === 's3' ? 's3://bucket/prefix' : 'hdfs://namenode:9870/path'
  throw new StratalogError(
    'config_invalid',
    `credentials do not belong in the address of an archive: write ${right}; docs/configuration.md says where they come from`,
  )
}
