import { resolve } from 'node:path'
import { StratalogError } from '../model/errors.js'

/**
 * Where an archive is: directories from `base` on, addresses with hosts in lower case and without slashes that say
 * nothing. A location is the archive's name in bindings, moves and marks: two spellings of one place must not be two.
 */
export function archiveLocation(value: string, base: string): string {
  const scheme = schemeOf(value)
  if (scheme === null) return resolve(base, value)
  if (scheme !== 's3' && scheme !== 'hdfs') return value
  const [authority = '', ...parts] = value.slice(`${scheme}://`.length).split('/')
  // Names of buckets are as they are; what is not an address is refused by who reads it, as it was written.
  const host = scheme === 'hdfs' ? authority.toLowerCase() : authority
  if (/[?#@]/.test(value)) return value
  return `${scheme}://${[host, ...parts.filter((part) => part !== '')].join('/')}`
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
