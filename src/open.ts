import { randomBytes } from 'node:crypto'
import { existsSync } from 'node:fs'
import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { delimiter, join, resolve } from 'node:path'
import process from 'node:process'
import { BlockCache } from '../archive/block-cache.js'
import { TieringAgent } from '../tiering/agent.js'
import { WriterHub } from './append/writer-hub.js'
import { decodePolicyOverride, encodePolicyOverride } from './config/code.js'
import { parseEnvironment } from './config/env.js'
import { parseConfig } from './config/file.js'
import { type ResolvedConfig, resolveConfig } from './config/resolve.js'
import { nearest } from './config/suggest.js'
import { Log } from './log.js'
import type { LogParts } from './log-parts.js'
import { StratalogError } from './model/errors.js'
import { policyQuorum } from './model/quorum.js'
import type { StreamRow } from './model/segment.js'
import { type FilledOptions, fillOptions, type OpenOptions, type SystemPorts } from './options.js'
import type { ArchiveEngine, ArchiveStore } from './ports/archive-store.js'
import type { SegmentIndex } from './ports/segment-index.js'
import { ColdSource } from './read/cold.js'
import { HotSource } from './read/source.js'
import { LocalDirectory } from './store-directory.js'

/** Name of the configuration file in a log's directory. */
export const CONFIG_FILE = 'stratalog.yaml'
/** Version of the directory's layout; a newer one is refused. */
const LAYOUT_VERSION = 1
const STORES_DEFAULT = 3

/** See lazy.ts, which is what programs call. */
export async function openLog(directory: string, options: OpenOptions = {}): Promise<Log> {
  const filled = fillOptions(options)
  const root = resolve(directory)
  const system = await systemPorts(options.system)
  const config = await readConfiguration(root, options, system)
  if (filled.create === 'never' && !existsSync(join(root, 'log.json'))) throw noLog(root)
  await makeDirectory(root)
  const { lockDirectory } = await import('./metadata/sqlite/lock.js')
  const lock = lockDirectory(root, {
    pid: process.pid,
    openedAt: new Date(system.clock.nowMs()).toISOString(),
  })
  // What is open is closed in reverse, also where opening fails half-way.
  const closers: (() => Promise<void> | void)[] = [() => lock.release()]
  const close = async () => {
    for (const closer of closers.splice(0).reverse()) await closer()
  }
  try {
    const log = await assemble(root, options, filled, system, config, closers, close)
    await log.recover()
    if (filled.tiering === 'run') log.parts.agent.follow()
    if (filled.control === 'socket') await serveControl(log, root, closers)
    return log
  } catch (error) {
    await close().catch((cause: unknown) =>
      system.logger.warn({ err: cause }, 'closing after a failed open failed as well'),
    )
    throw error
  }
}

async function assemble(
  root: string,
  options: OpenOptions,
  filled: FilledOptions,
  system: SystemPorts,
  config: ResolvedConfig,
  closers: (() => Promise<void> | void)[],
  close: () => Promise<void>,
): Promise<Log> {
  const identity = await readIdentity(root)
  const { openSqliteMetadata } = await import('./metadata/sqlite/open.js')
  const file = join(root, 'index.db')
  // Looked at before it is opened: opening would make an empty one, which the next start would take for the index.
  if (!identity.created && !existsSync(file)) throw indexMissing(root)
  const metadata = openSqliteMetadata(file, { clock: system.clock, logger: system.logger })
  closers.push(() => metadata.close())
  await checkIndex(metadata.index, identity, root)

  const directories = storeDirectories(root, config)
  checkQuorums(config, directories.length)
  const stores = await LocalDirectory.open(directories, {
    ...system,
    logId: identity.logId,
    fileBytes: filled.storeFileBytes,
    create: identity.created,
  })
  closers.push(() => stores.close())
  if (identity.created) await writeIdentity(root, identity.logId, 'ready')

  const abort = new AbortController()
  const archive = archiveOpener(root, options, config, system, abort.signal)
  closers.push(async () => {
    abort.abort(new StratalogError('closed', 'the log is closed'))
    if (archive !== null) await (await archive.opened())?.close()
  })
  const ledger = { stores, metadata: metadata.ledgers, clock: system.clock, logger: system.logger }
  const segments = { ledger, index: metadata.index }
  const policies = policyResolver(config)
  const policyOf = async (stream: StreamRow) =>
    policies.resolve(stream.name, await metadata.index.policyOverride(stream.incarnation))
  const hub = new WriterHub(segments, metadata.coordination, async (stream) => {
    let current = await policyOf(stream)
    const watch = metadata.index.watch(stream.incarnation, () => {
      void policyOf(stream).then((fresh) => {
        current = fresh
      })
      agent.wake(200)
    })
    closers.push(() => watch.close())
    const quorum = () => policyQuorum(current.policy, directories.length)
    return {
      policy: () => current.policy,
      quorum,
      inFlightBytesMax: filled.inFlightBytesMax,
      takenBytesMax: filled.takenBytesMax,
    }
  })
  const agent = new TieringAgent({
    logId: identity.logId,
    ledger,
    index: metadata.index,
    coordination: metadata.coordination,
    random: system.random,
    archive: archive?.open ?? null,
    writers: hub,
    policy: policyOf,
  })
  closers.push(() => hub.close())
  closers.push(() => agent.close())
  const cache = new BlockCache()
  const parts: LogParts = {
    logId: identity.logId,
    directory: root,
    segments,
    hub,
    agent,
    random: system.random,
    archive: archive?.open ?? null,
    archiveLocation: archive?.location ?? null,
    read: {
      index: metadata.index,
      clock: system.clock,
      logger: system.logger,
      openHot: (row) => HotSource.open(ledger, row.ledgerId ?? -1n),
      openCold: async (row) => {
        if (archive === null) throw archiveNeeded(root)
        return ColdSource.open(await archive.open(), row, cache)
      },
    },
    policies,
    nearest,
    close,
  }
  return new Log(parts)
}

async function systemPorts(given: Partial<SystemPorts> | undefined): Promise<SystemPorts> {
  const [{ realDisk }, { realClock }, { realRandom }, { createLogger }] = await Promise.all([
    import('./system/disk.js'),
    import('./system/clock.js'),
    import('./system/random.js'),
    import('./system/logger.js'),
  ])
  return {
    disk: given?.disk ?? realDisk(),
    clock: given?.clock ?? realClock(),
    random: given?.random ?? realRandom(),
    logger: given?.logger ?? createLogger(),
  }
}

async function readConfiguration(
  root: string,
  options: OpenOptions,
  system: SystemPorts,
): Promise<ResolvedConfig> {
  const code = {
    ...(options.defaults ?? {}),
    ...(typeof options.archive === 'string' ? { archive: options.archive } : {}),
    ...(options.stores === undefined ? {} : { stores: options.stores }),
  }
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
  for (const setting of config.later)
    system.logger.info(
      { field: setting.field, origin: setting.origin },
      'this setting has no effect in this version',
    )
  return config
}

/** A stream whose policy names an archive of its own must not end up in the log's: refused until that is honoured. */
function refuseOwnArchives(config: ResolvedConfig): void {
  const own = config.later.find((setting) => setting.field === 'archive')
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
    if ((error as NodeJS.ErrnoException).code === 'ENOENT' && named === undefined) return null
    if (error instanceof StratalogError) throw error
    throw new StratalogError(
      'config_invalid',
      `the configuration ${file} can't be read: ${(error as Error).message}`,
      { cause: error },
    )
  }
}

interface Identity {
  readonly logId: string
  /** The log is being made now: its stores and index may be new. */
  readonly created: boolean
}

/**
 * `log.json` names the log. It is written before anything else of a new log, as `making`, and again as `ready` once
 * stores and index are there: a start that dies in between leaves a log that the next one goes on making, under the
 * same id.
 */
async function readIdentity(root: string): Promise<Identity> {
  const file = join(root, 'log.json')
  let text: string
  try {
    text = await readFile(file, 'utf8')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') {
      const logId = randomBytes(16).toString('hex')
      await writeIdentity(root, logId, 'making')
      return { logId, created: true }
    }
    throw new StratalogError('access_denied', `${file} can't be read: ${(error as Error).message}`, {
      cause: error,
    })
  }
  let parsed: { version?: unknown; logId?: unknown; state?: unknown }
  try {
    parsed = JSON.parse(text) as typeof parsed
  } catch (error) {
    throw new StratalogError(
      'corrupt',
      `${file} is damaged: restore it from a backup or from the superblock of a store (logId)`,
      { cause: error },
    )
  }
  if (typeof parsed.version === 'number' && parsed.version > LAYOUT_VERSION) {
    throw new StratalogError(
      'version_unsupported',
      `${root} was written by a newer stratalog (layout ${parsed.version}, this one reads ${LAYOUT_VERSION}): update stratalog`,
      {
        expected: LAYOUT_VERSION,
        found: parsed.version,
      },
    )
  }
  if (
    parsed.version !== LAYOUT_VERSION ||
    typeof parsed.logId !== 'string' ||
    !/^[0-9a-f]{32}$/.test(parsed.logId)
  ) {
    throw new StratalogError(
      'corrupt',
      `${file} is damaged: restore it from a backup or from the superblock of a store (logId)`,
      { found: text.slice(0, 200) },
    )
  }
  return { logId: parsed.logId, created: parsed.state === 'making' }
}

/** An index that knows nothing of this log is none: a new file, one cut to nothing, one of another log. */
async function checkIndex(index: SegmentIndex, identity: Identity, root: string): Promise<void> {
  const found = await index.fact('log')
  if (found === identity.logId) return
  if (found === null && identity.created) return index.setFact('log', identity.logId)
  if (found === null) throw indexMissing(root)
  throw new StratalogError(
    'refused',
    `${join(root, 'index.db')} belongs to log ${found}, not to ${identity.logId}: put the right file back`,
    {
      expected: identity.logId,
      found,
    },
  )
}

async function writeIdentity(root: string, logId: string, state: 'making' | 'ready'): Promise<void> {
  const { realDisk } = await import('./system/disk.js')
  const disk = realDisk()
  const file = join(root, 'log.json')
  await writeFile(`${file}.tmp`, `${JSON.stringify({ version: LAYOUT_VERSION, logId, state })}\n`, {
    flush: true,
  })
  await disk.rename(`${file}.tmp`, file)
  await disk.syncDirectory(root)
}

function storeDirectories(root: string, config: ResolvedConfig): string[] {
  const named = config.stores.value
  if (named === null)
    return Array.from({ length: STORES_DEFAULT }, (_, i) => join(root, 'stores', String(i + 1)))
  // Relative directories of the file are relative to it; code's and environment's to where the program runs.
  const base = config.stores.layer === 'file' ? root : process.cwd()
  return named.map((one) => resolve(base, one))
}

/** Every pattern's quorum must fit the stores there are: said at the start, not at the first append. */
function checkQuorums(config: ResolvedConfig, stores: number): void {
  policyQuorum(config.policyFor('').policy, stores)
}

function policyResolver(config: ResolvedConfig): LogParts['policies'] {
  const decode = (name: string, override: string | null) =>
    override === null ? null : decodePolicyOverride(override, name)
  return {
    resolve: (name, override) => config.policyFor(name, decode(name, override)),
    encode: (policy) => encodePolicyOverride(policy),
    losers: (name, override) => config.losers(name, decode(name, override)),
  }
}

interface ArchiveOpener {
  readonly location: string
  /** Opens the archive at the first call and after a failed one. */
  readonly open: () => Promise<ArchiveStore>
  readonly opened: () => Promise<ArchiveStore | null>
}

function archiveOpener(
  root: string,
  options: OpenOptions,
  config: ResolvedConfig,
  system: SystemPorts,
  signal: AbortSignal,
): ArchiveOpener | null {
  const given = options.archive
  const engine = typeof given === 'object' ? given : null
  const { value, layer } = config.archive
  if (engine === null && value === null) return null
  const location = engine?.name ?? archiveLocation(value ?? '', layer === 'file' ? root : process.cwd())
  let opening: Promise<ArchiveStore> | null = null
  const open = (): Promise<ArchiveStore> => {
    opening ??= (engine === null ? engineFor(location) : Promise.resolve(engine))
      .then((found) =>
        found.open({
          clock: system.clock,
          random: system.random,
          logger: system.logger,
          disk: system.disk,
          signal,
        }),
      )
      .catch((error: unknown) => {
        opening = null
        throw error
      })
    return opening
  }
  return { location, open, opened: async () => opening?.catch(() => null) ?? null }
}

function archiveLocation(value: string, base: string): string {
  const scheme = /^([a-z][a-z0-9+.-]+):\/\//.exec(value)?.[1]
  if (scheme === undefined) return resolve(base, value)
  return value
}

async function engineFor(location: string): Promise<ArchiveEngine> {
  const scheme = /^([a-z][a-z0-9+.-]+):\/\//.exec(location)?.[1]
  if (scheme !== undefined) {
    throw new StratalogError(
      'unsupported',
      `the archive ${scheme}://… has no engine in this version: name a directory, or pass an engine to openLog({ archive })`,
      { found: scheme },
    )
  }
  const { directoryArchive } = await import('../archive/directory/store.js')
  return directoryArchive(location)
}

/** Opens an archive by itself, without a log: what `restore` reads from. */
export async function openArchive(location: string, given?: Partial<SystemPorts>): Promise<ArchiveStore> {
  const system = await systemPorts(given)
  const resolved = archiveLocation(location, process.cwd())
  // An engine makes its directory for a log that begins; who wants to read an archive has misspelt it.
  if (!resolved.includes('://') && !existsSync(resolved)) {
    throw new StratalogError(
      'archive_missing',
      `there is no archive in ${resolved}: check the path and the mount`,
      { found: resolved },
    )
  }
  const engine = await engineFor(resolved)
  return engine.open({
    clock: system.clock,
    random: system.random,
    logger: system.logger,
    disk: system.disk,
    signal: new AbortController().signal,
  })
}

async function serveControl(log: Log, root: string, closers: (() => Promise<void> | void)[]): Promise<void> {
  const { startControl } = await import('./serve/control-server.js')
  const server = await startControl(log, root)
  closers.push(() => server.close())
}

async function makeDirectory(root: string): Promise<void> {
  try {
    await mkdir(root, { recursive: true })
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code === 'EEXIST' ? 'invalid_argument' : 'access_denied'
    throw new StratalogError(code, `${root} can't be a log's directory: ${(error as Error).message}`, {
      cause: error,
    })
  }
}

function noLog(root: string): StratalogError {
  return new StratalogError(
    'file_not_found',
    `there is no log in ${root}: make one with "stratalog init ${root}", or name another with --dir`,
    { found: root },
  )
}

function indexMissing(root: string): StratalogError {
  return new StratalogError(
    'index_missing',
    `${join(root, 'index.db')} is gone while the stores of this log are there: nothing was changed. Put the file back from a backup, or restore the log from its archive into another directory: stratalog restore --from ARCHIVE --into DIR`,
    { found: root },
  )
}

function archiveNeeded(root: string): StratalogError {
  return new StratalogError(
    'archive_missing',
    `the records asked for are in the archive, and the log in ${root} has none configured: name it under "archive" in ${CONFIG_FILE}`,
  )
}
