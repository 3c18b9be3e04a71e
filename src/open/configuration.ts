import { lstat, readFile } from 'node:fs/promises'
import { delimiter, join, resolve } from 'node:path'
import process from 'node:process'
import { decodePolicyOverride, encodePolicyOverride } from '../config/code.js'
import { parseEnvironment } from '../config/env.js'
import { parseConfig } from '../config/file.js'
import { type ResolvedConfig, resolveConfig } from '../config/resolve.js'
import type { LogParts } from '../log-parts.js'
import { StratalogError } from '../model/errors.js'
import type { ResolvedPolicy } from '../model/policy.js'
import { policyQuorum } from '../model/quorum.js'
import type { OpenOptions } from '../options.js'
import type { SegmentIndex } from '../ports/segment-index.js'

/** Name of the configuration file in a log's directory. */
export const CONFIG_FILE = 'stratalog.yaml'
const STORES_DEFAULT = 3
const STREAMS_PAGE = 1_000

/** Code, environment and file put together; what is refused says where it was said. */
export async function readConfiguration(root: string, options: OpenOptions): Promise<ResolvedConfig> {
  const said = {
    ...(options.defaults ?? {}),
    ...(typeof options.archive === 'string' ? { archive: options.archive } : {}),
    ...(options.stores === undefined ? {} : { stores: options.stores }),
  }
  // Nothing said needs no checking, and to compile the schema takes half as long as all else an open does.
  const code = Object.keys(said).length > 0 ? said : null
  const layers =
    options.config === 'none'
      ? { code }
      : {
          code,
          env: parseEnvironment(process.env, delimiter),
          file: await readConfigFile(root, options.config),
        }
  const config = resolveConfig(layers)
  refuseOwnArchives(config)
  return config
}

/** A stream whose policy names an archive of its own must not end up in the log's: refused until that is honoured. */
function refuseOwnArchives(config: ResolvedConfig): void {
  const own = config.ownArchives[0]
  if (own === undefined) return
  throw new StratalogError(
    'unsupported',
    `${own.origin}: an archive of its own for some streams has no effect in this version: give these streams a log of their own`,
    {
      found: own.value,
    },
  )
}

async function readConfigFile(
  root: string,
  named: string | undefined,
): Promise<ReturnType<typeof parseConfig> | null> {
  const file = named ?? join(root, CONFIG_FILE)
  try {
    return parseConfig(await readFile(file, 'utf8'), named === undefined ? CONFIG_FILE : file)
  } catch (error) {
    // A link that leads nowhere is a configuration that is lost, not one that was never written.
    const absent = (error as NodeJS.ErrnoException).code === 'ENOENT' && named === undefined
    if (absent && (await lstat(file).catch(() => null)) === null) return null
    if (error instanceof StratalogError) throw error
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
  if (named === null)
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

/** The policies of a log, for those who know neither files nor layers. */
export function policyResolver(config: ResolvedConfig): LogParts['policies'] {
  const decode = (name: string, override: string | null) =>
    override === null ? null : decodePolicyOverride(override, name)
  return {
    resolve: (name, override) => config.policyFor(name, decode(name, override)),
    encode: (policy) => encodePolicyOverride(policy),
    losers: (name, override) => config.losers(name, decode(name, override)),
  }
}
