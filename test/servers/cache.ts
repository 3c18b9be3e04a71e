import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import process from 'node:process'

/** A server that tests run against. */
export type ServerName = 'versitygw' | 'hdfs' | 'bookkeeper' | 'java-clients' | 'ceph'

/** Either where a server's program is, or why it can't be had here. */
export type Prepared = { readonly path: string } | { readonly why: string }

const SCRIPT = join(import.meta.dirname, '..', '..', '..', 'scripts', 'prepare-servers.mjs')
const answers = new Map<ServerName, Promise<Prepared>>()

/** Gets a server into the cache, which may take minutes the first time: `scripts/prepare-servers.mjs` does it. */
export function prepared(name: ServerName): Promise<Prepared> {
  const known = answers.get(name) ?? prepare(name)
  answers.set(name, known)
  return known
}

async function prepare(name: ServerName): Promise<Prepared> {
  const child = spawn(process.execPath, [SCRIPT, name], { stdio: ['ignore', 'pipe', 'pipe'] })
  let out = ''
  let said = ''
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    out += text
  })
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    said += text
  })
  await once(child, 'close')
  const path = new RegExp(`^${name} (.+)$`, 'm').exec(out)?.[1]
  return path === undefined ? { why: said.trim() || `${SCRIPT} said nothing` } : { path }
}

/** The path of a prepared server; fails with the reason why it can't be had. */
export async function pathOf(name: ServerName): Promise<string> {
  const got = await prepared(name)
  if ('why' in got) throw new Error(got.why)
  return got.path
}

/**
 * Why tests against a server are skipped, as `skip` of `describe` and `test` takes it: false when it is there. In CI
 * nothing is skipped: what is missing there is a failure.
 *
 * @example
 * ```ts
 * import { describe } from 'node:test'
 * import { skipWithout } from '../servers/cache.js'
 * describe('against versitygw', { skip: await skipWithout('versitygw') }, () => {})
 * ```
 */
export async function skipWithout(name: ServerName): Promise<string | false> {
  const got = await prepared(name)
  if ('path' in got) return false
  if (process.env.CI === 'true') throw new Error(`in CI every server must be there: ${got.why}`)
  return got.why
}
