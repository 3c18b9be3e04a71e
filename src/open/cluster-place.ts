import { createHash } from 'node:crypto'
import { readFile, stat } from 'node:fs/promises'
import process from 'node:process'
import type { ResolvedConfig } from '../config/resolve.js'
import { StratalogError } from '../model/errors.js'
import type { BookieSettings, BookieTls } from '../store/bookie/settings.js'
import { BOOKIE_DEFAULTS } from '../store/bookie/settings.js'
import type { ZooKeeperSettings } from '../zookeeper/client.js'
import { parseServer } from '../zookeeper/open.js'
import { engineSettings } from './archive-settings.js'

/** Rows as they were last read: may go at any time while no process has the directory open. */
export const CACHE_FILE = 'namespace.db'
const SESSION_TIMEOUT_MS = 10_000
const CONNECT_TIMEOUT_MS = 10_000
/** In place of a file: `user:password`. */
const AUTH_VARIABLE = 'STRATALOG_ZOOKEEPER_AUTH'

/** Where a log's cluster is, as `metadata` says it. */
export interface ClusterPlace {
  readonly servers: readonly string[]
  /** `zk1:2181,zk2:2181`: as it was written. */
  readonly authority: string
  readonly namespace: string
}

/** `zk://host:2181,host:2181/path`; its shape was checked with the configuration. */
export function clusterPlace(metadata: string): ClusterPlace {
  const [, authority = '', namespace = ''] = /^zk:\/\/([^/]+)(\/.*)$/.exec(metadata) ?? []
  return { servers: authority.split(','), authority, namespace }
}

/** How ZooKeeper is talked to. Rejects where the login can't be read, or can be read by others. */
export async function zooKeeperSettings(
  root: string,
  config: ResolvedConfig,
  servers: readonly string[],
): Promise<ZooKeeperSettings> {
  const { authFile, ...said } = engineSettings(root, config, 'zookeeper')
  const { sessionTimeoutMs = SESSION_TIMEOUT_MS, connectTimeoutMs = CONNECT_TIMEOUT_MS } = said
  const secret =
    typeof authFile === 'string' ? await readSecret(authFile) : (process.env[AUTH_VARIABLE] ?? null)
  return {
    servers,
    chroot: '',
    sessionTimeoutMs: Number(sessionTimeoutMs),
    connectTimeoutMs: Number(connectTimeoutMs),
    acl: said.acl === 'creator' ? 'creator' : 'open',
    ...(secret === null ? {} : { auth: login(secret, String(authFile ?? AUTH_VARIABLE)) }),
  }
}

/**
 * How the ZooKeeper is talked to that a namespace's node says looks after its bookies; null: it is that of the
 * namespace. Who may write that node may name any server there, so a login goes only where the configuration has it.
 */
export async function ledgersSettings(
  root: string,
  config: ResolvedConfig,
  { servers, namespace }: ClusterPlace,
  bookkeeperServers: string,
): Promise<ZooKeeperSettings | null> {
  const listed = (text: string) =>
    text
      .split(/[,;]/)
      .filter((part) => part.trim() !== '')
      .map(serverName)
  const own = servers.map(serverName)
  const named = listed(bookkeeperServers)
  if ([...own].sort().join() === [...named].sort().join()) return null
  const settings = await zooKeeperSettings(root, config, named)
  if (settings.auth === undefined) return settings
  const { loginServers = '' } = engineSettings(root, config, 'zookeeper')
  const trusted = new Set([...own, ...listed(String(loginServers))])
  const strangers = named.filter((server) => !trusted.has(server))
  if (strangers.length === 0) return settings
  throw new StratalogError(
    'config_invalid',
    `the namespace ${namespace} is bound to bookies of a ZooKeeper that "metadata" does not name, and the login is not sent to it: if ${strangers.join(',')} is right, add zookeeper: { login-servers: "${named.join(',')}" }`,
    { expected: own.join(','), found: named.join(',') },
  )
}

function serverName(text: string): string {
  const { host, port } = parseServer(text)
  return host.includes(':') ? `[${host}]:${port}` : `${host.toLowerCase()}:${port}`
}

/** How bookies are talked to. Rejects where a file of TLS can't be read. */
export async function bookieSettings(root: string, config: ResolvedConfig): Promise<BookieSettings> {
  const said = engineSettings(root, config, 'bookkeeper')
  const { tls, caFile, certFile, keyFile } = said
  const unused = [caFile, certFile, keyFile].find((file) => file !== undefined)
  if (tls !== true && unused !== undefined)
    throw new StratalogError('config_invalid', `bookkeeper: ${String(unused)} is for TLS: add tls: true`)
  // The other settings are none of a bookie's.
  const numbers = Object.fromEntries(Object.entries(said).filter(([field]) => field in BOOKIE_DEFAULTS))
  return { ...BOOKIE_DEFAULTS, ...numbers, tls: tls === true ? await tlsOf(caFile, certFile, keyFile) : null }
}

async function tlsOf(caFile: unknown, certFile: unknown, keyFile: unknown): Promise<BookieTls> {
  if ((certFile === undefined) !== (keyFile === undefined))
    throw new StratalogError('config_invalid', 'bookkeeper: cert-file and key-file go together: name both')
  const read = async (file: unknown) => (file === undefined ? null : readText(String(file)))
  const [ca, cert, key] = await Promise.all([read(caFile), read(certFile), read(keyFile)])
  return {
    ...(ca === null ? {} : { ca }),
    ...(cert === null || key === null ? {} : { cert, key }),
  }
}

/** Which log a namespace is: the same for every process, without anything being written, and another once it was made anew. */
export function clusterLogId(instanceId: string, namespace: string, czxid: bigint): string {
  const named = ['stratalog log 1', instanceId, namespace, czxid.toString()].join('\n')
  return createHash('sha256').update(named).digest('hex').slice(0, 32)
}

/** A file the configuration names. */
export async function readText(file: string): Promise<string> {
  try {
    return await readFile(file, 'utf8')
  } catch (cause) {
    throw new StratalogError('config_invalid', `${file} can't be read: ${(cause as Error).message}`, {
      cause,
    })
  }
}

async function readSecret(file: string): Promise<string> {
  const text = await readText(file)
  const { mode } = await stat(file)
  if ((mode & 0o077) === 0) return text
  throw new StratalogError(
    'access_denied',
    `${file} holds a password and others may read it: chmod 600 ${file}`,
    { found: (mode & 0o777).toString(8) },
  )
}

function login(text: string, from: string): NonNullable<ZooKeeperSettings['auth']> {
  const [, user, password] = /^([^:\s]+):([^\r\n]+)\r?\n?$/.exec(text) ?? []
  if (user !== undefined && password !== undefined) return { scheme: 'digest', user, password }
  throw new StratalogError('config_invalid', `${from} holds no login: write user:password in one line`)
}
