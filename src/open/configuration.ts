import { lstat, readFile } from 'node:fs/promises'
import { delimiter, isAbsolute, join, resolve } from 'node:path'
import process from 'node:process'
import { decodePolicyOverride, encodePolicyOverride } from '../config/code.js'
import { parseEnvironment } from '../config/env.js'
import { parseConfig } from '../config/file.js'
import { type LayerName, type PlaceArchive, type ResolvedConfig, resolveConfig } from '../config/resolve.js'
import type { LogParts } from '../log-parts.js'
import { StratalogError } from '../model/errors.js'
import type { ResolvedPolicy } from '../model/policy.js'
import type { PolicyInput } from '../model/policy-input.js'
import { policyQuorum } from '../model/quorum.js'
import type { OpenOptions } from '../options.js'
import type { SegmentIndex } from '../ports/segment-index.js'
import { archiveLocation } from './archive-location.js'
import type { ConfigSource } from './live-config.js'

/** Name of the configuration file in a log's directory. */
export const CONFIG_FILE = 'stratalog.yaml'
const STORES_DEFAULT = 3
const STREAMS_PAGE = 1_000

/** Code, environment and file put together; what is refused says where it was said. */
export async function readConfiguration(root: string, options: OpenOptions): Promise<ResolvedConfig> {
  const source = configSource(root, options)
  return source.resolve(await source.read())
}

/** The configuration file of a log, to be read more than once. */
export function configSource(root: string, options: OpenOptions): ConfigSource {
  const said = {
    ...(options.defaults ?? {}),
    ...(typeof options.archive === 'string' ? { archive: options.archive } : {}),
    ...(options.stores === undefined ? {} : { stores: options.stores }),
    ...(options.s3 === undefined ? {} : { s3: options.s3 }),
    ...(options.hdfs === undefined ? {} : { hdfs: options.hdfs }),
    ...(options.metadata === undefined ? {} : { metadata: options.metadata }),
    ...(options.zookeeper === undefined ? {} : { zookeeper: options.zookeeper }),
    ...(options.bookkeeper === undefined ? {} : { bookkeeper: options.bookkeeper }),
  }
  // Nothing said needs no checking, and to compile the schema takes half as long as all else an open does.
  const code = Object.keys(said).length > 0 ? said : null
  const baseOf = (layer: LayerName) => (layer === 'file' ? root : process.cwd())
  const place: PlaceArchive = (value, layer) => archiveLocation(value, baseOf(layer))
  const checked = (config: ResolvedConfig) => {
    checkSize(config)
    const { value, layer } = config.archive
    const engine = typeof options.archive === 'object' ? options.archive.name : null
    const archive = engine ?? (value && archiveLocation(value, baseOf(layer)))
    checkPlaces(root, config, archive)
    return checkOwnArchives(config, archive)
  }
  if (options.config === 'none')
    return { file: null, read: async () => null, resolve: () => checked(resolveConfig({ code }, place)) }
  const path = options.config ?? join(root, CONFIG_FILE)
  const name = options.config === undefined ? CONFIG_FILE : path
  const env = parseEnvironment(process.env, delimiter)
  return {
    file: name,
    read: () => readConfigFile(path, options.config === undefined),
    resolve: (text) =>
      checked(resolveConfig({ code, env, file: text === null ? null : parseConfig(text, name) }, place)),
  }
}

/** Whether the log is one of a cluster: its metadata in ZooKeeper, its hot tier on bookies. */
export function isDistributed(config: ResolvedConfig): boolean {
  return config.metadata.value !== null
}

/** Metadata of one size with stores of another would be neither: two processes would write one store. */
function checkSize({ metadata, stores }: ResolvedConfig): void {
  const onBookies = stores.value === 'bookkeeper'
  if (onBookies === (metadata.value !== null)) return
  const why = onBookies
    ? `${stores.origin}: stores: bookkeeper needs the namespace of its cluster: add metadata: zk://host:2181/path`
    : `${metadata.origin}: metadata: ${metadata.value} goes with the bookies of that cluster: add stores: bookkeeper`
  throw new StratalogError('config_invalid', why, { found: onBookies ? null : stores.value })
}

/** Directories that a log makes in its own: what is in the cache is deleted as it likes. */
const KEPT_IN_LOG: readonly string[] = ['cache', 'stores']

/**
 * Refuses stores and archives that lie in one another: an archive within a store is lost with it, a store is emptied
 * before it is replaced, and what an archive lists must be its own.
 */
function checkPlaces(root: string, config: ResolvedConfig, logArchive: string | null): void {
  const { stores, archive } = config
  const directories = isDistributed(config) ? [] : storeDirectories(root, config)
  const refuse = (origin: string, why: string) => new StratalogError('config_invalid', `${origin}: ${why}`)
  for (const [at, store] of directories.entries()) {
    const other = directories.slice(0, at).find((one) => one === store || isNested(one, store))
    if (other === undefined) continue
    const why =
      other === store ? `name one directory, ${store}, twice` : `${other} and ${store} lie in one another`
    throw refuse(stores.origin, `stores: ${why}: give each a directory of its own, best on a disk of its own`)
  }
  const archives = [
    { value: logArchive, origin: archive.origin },
    ...config.ownArchives.filter(({ value }) => value !== 'none'),
  ]
  for (const { value, origin } of archives) {
    if (value === null || !isAbsolute(value)) continue
    if (value === root || isWithin(root, value))
      throw refuse(
        origin,
        `archive: ${value} holds the log itself: give it a directory of its own, as ${join(value, 'archive')}`,
      )
    const store = directories.find((one) => one === value || isNested(one, value))
    if (store !== undefined) {
      const why = `archive: ${value} and the store ${store} lie in one another`
      throw refuse(origin, `${why}: put the archive beside the stores, best on a disk of its own`)
    }
    const kept = KEPT_IN_LOG.map((name) => join(root, name)).find(
      (one) => one === value || isWithin(value, one),
    )
    if (kept !== undefined)
      throw refuse(
        origin,
        `archive: ${kept} is the log's own: give the archive a directory of its own, as ${join(root, 'archive')}`,
      )
  }
}

/** Refuses archives of some streams' own that could not be told from the log's (decision 0030). */
function checkOwnArchives(config: ResolvedConfig, logArchive: string | null): ResolvedConfig {
  for (const { value, origin } of config.ownArchives) {
    if (value === 'none') continue
    const refuse = (why: string) =>
      new StratalogError('config_invalid', `${origin}: archive: ${value} ${why}`, { found: value })
    if (logArchive === null)
      throw refuse('is of some streams only, and the log has none: name its archive as well, under "archive"')
    if (isNested(value, logArchive))
      throw refuse(`and the archive of the log, ${logArchive}, lie in one another: put them side by side`)
    const other = config.ownArchives.find((one) => one.value !== value && isNested(value, one.value))
    if (other !== undefined)
      throw refuse(`and ${other.value} (${other.origin}) lie in one another: put them side by side`)
  }
  return config
}

/** Each would list the other's objects. */
function isNested(one: string, other: string): boolean {
  return isWithin(one, other) || isWithin(other, one)
}

/** Whether a place lies below another, by their names. */
export function isWithin(inner: string, outer: string): boolean {
  const ended = (location: string) => `${location.replace(/\/+$/, '')}/`
  return ended(inner) !== ended(outer) && ended(inner).startsWith(ended(outer))
}

async function readConfigFile(file: string, mayBeAbsent: boolean): Promise<string | null> {
  try {
    return await readFile(file, 'utf8')
  } catch (error) {
    // A link that leads nowhere is a configuration that is lost, not one that was never written.
    const absent = (error as NodeJS.ErrnoException).code === 'ENOENT' && mayBeAbsent
    if (absent && (await lstat(file).catch(() => null)) === null) return null
    throw new StratalogError(
      'config_invalid',
      `the configuration ${file} can't be read: ${(error as Error).message}`,
      { cause: error },
    )
  }
}

/** Where the stores are: as configured, else three below the log. */
export function storeDirectories(root: string, config: ResolvedConfig): string[] {
  const named = config.stores.value
  if (named === null || named === 'bookkeeper')
    return Array.from({ length: STORES_DEFAULT }, (_, i) => join(root, 'stores', String(i + 1)))
  // Relative directories of the file are relative to it; code's and environment's to where the program runs.
  const base = config.stores.layer === 'file' ? root : process.cwd()
  return named.map((one) => resolve(base, one))
}

/** Every pattern's quorum must fit the stores there are: said at the start, not at the first append. */
export function checkQuorums(config: ResolvedConfig, stores: number): void {
  policyQuorum(config.policyFor('').policy, stores)
}

/** Stores that the largest quorum of any stream needs. */
export async function storesNeeded(
  index: SegmentIndex,
  resolve: LogParts['policies']['resolve'],
): Promise<number> {
  const needs = ({ policy: { quorum } }: ResolvedPolicy) => quorum.ensemble ?? quorum.copies
  let needed = needs(resolve('', null))
  for (let after = ''; ; ) {
    const page = await index.listStreams(after, STREAMS_PAGE)
    for (const { name, incarnation } of page)
      needed = Math.max(needed, needs(resolve(name, await index.policyOverride(incarnation))))
    const last = page.at(-1)
    if (last === undefined) return needed
    after = last.name
  }
}

/** The policies of a log as they are now, for those who know neither files nor layers. */
export function policyResolver(config: () => ResolvedConfig): LogParts['policies'] {
  return {
    resolve: (name, override) => config().policyFor(name, decodeOverride(name, override)),
    encode: (policy) => encodePolicyOverride(policy),
    losers: (name, override) => config().losers(name, decodeOverride(name, override)),
  }
}

function decodeOverride(name: string, override: string | null): PolicyInput | null {
  return override === null ? null : decodePolicyOverride(override, name)
}

/** The policy of every stream under a configuration. Rejects where one does not fit its stream or the stores. */
export async function policiesUnder(
  config: ResolvedConfig,
  index: SegmentIndex,
  stores: number,
): Promise<ReadonlyMap<string, ResolvedPolicy>> {
  checkQuorums(config, stores)
  const found = new Map<string, ResolvedPolicy>()
  for (let after = ''; ; ) {
    const page = await index.listStreams(after, STREAMS_PAGE)
    for (const { name, incarnation } of page) {
      const override = decodeOverride(name, await index.policyOverride(incarnation))
      const resolved = config.policyFor(name, override)
      policyQuorum(resolved.policy, stores)
      found.set(incarnation, resolved)
    }
    const last = page.at(-1)
    if (last === undefined) return found
    after = last.name
  }
}
