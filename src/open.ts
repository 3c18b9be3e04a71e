import { existsSync } from 'node:fs'
import { mkdir } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import process from 'node:process'
import { BlockCache } from '../archive/block-cache.js'
import { TieringAgent } from '../tiering/agent.js'
import { readStoreFacts } from '../tiering/store-facts.js'
import { Upkeep } from '../tiering/upkeep.js'
import { WriterHub } from './append/writer-hub.js'
import type { ResolvedConfig } from './config/resolve.js'
import { nearest } from './config/suggest.js'
import type { LedgerContext } from './ledger/context.js'
import { RepairQueue } from './ledger/repair-queue.js'
import { StoreHealth } from './ledger/store-health.js'
import { Log } from './log.js'
import type { LogParts } from './log-parts.js'
import { StratalogError } from './model/errors.js'
import { policyQuorum } from './model/quorum.js'
import type { SegmentRow } from './model/segment.js'
import { archiveOpener } from './open/archives.js'
import {
  CONFIG_FILE,
  checkQuorums,
  policyResolver,
  readConfiguration,
  storeDirectories,
  storesNeeded,
} from './open/configuration.js'
import { readIdentity, writeIdentity } from './open/identity.js'
import { openIndex } from './open/index-open.js'
import { LivePolicies } from './open/live-policies.js'
import { storeFactsFile } from './open/store-facts-file.js'
import { systemPorts } from './open/system.js'
import { type FilledOptions, fillOptions, type OpenOptions, type SystemPorts } from './options.js'
import { ColdSource } from './read/cold.js'
import { HotSource } from './read/source.js'
import { SegmentRecoverer } from './recoverer.js'
import { StoreAdmin } from './store-admin.js'
import { LocalDirectory } from './store-directory.js'

/** A segment that was begun or sealed is looked at by the agent after this long: several often change together. */
const CHANGE_WAKES_MS = 200

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
  const close = () => closeAll(closers)
  try {
    const log = await assemble(root, options, filled, system, config, closers, close)
    await log.recover()
    if (filled.tiering === 'run') {
      log.parts.agent.follow()
      log.parts.upkeep.follow()
    }
    if (filled.control === 'socket') await serveControl(log, root, closers)
    return log
  } catch (error) {
    await close().catch((cause: unknown) =>
      system.logger.warn({ err: cause }, 'closing after a failed open failed as well'),
    )
    throw error
  }
}

/** Closes everything, whatever fails on the way: a lock that is kept because a store complained helps nobody. */
async function closeAll(closers: (() => Promise<void> | void)[]): Promise<void> {
  const failures: unknown[] = []
  for (const closer of closers.splice(0).reverse()) {
    try {
      await closer()
    } catch (error) {
      failures.push(error)
    }
  }
  if (failures.length > 0) throw failures[0]
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
  const directories = storeDirectories(root, config)
  checkQuorums(config, directories.length)
  const keeper = storeFactsFile(root, system.disk)
  const stores = await LocalDirectory.open(directories, {
    ...system,
    logId: identity.logId,
    fileBytes: filled.storeFileBytes,
    create: identity.created,
    remembered: await readStoreFacts(keeper),
  })
  closers.push(() => stores.close())
  const opened = await openIndex({ root, logId: identity.logId, stores, options, config, system }, identity)
  const { metadata, index, ledgers } = opened
  closers.push(() => metadata.close())
  if (identity.created) await writeIdentity(root, identity.logId, 'ready')

  const abort = new AbortController()
  const archive = archiveOpener(root, options, config, {
    logId: identity.logId,
    index,
    system,
    signal: abort.signal,
  })
  closers.push(async () => {
    abort.abort(new StratalogError('closed', 'the log is closed'))
    if (archive !== null) await (await archive.opened())?.close()
  })
  const { clock, logger } = system
  const ledger: LedgerContext = {
    stores,
    metadata: ledgers,
    clock,
    logger,
    health: new StoreHealth(clock, logger),
    damaged: (copy) => repairs.damaged(copy),
  }
  const repairs = new RepairQueue(ledger)
  const cache = new BlockCache()
  const openCold = async (row: SegmentRow) => {
    if (archive === null) throw archiveNeeded(root)
    return ColdSource.open(await archive.open(), row, cache)
  }
  const segments = { ledger, index, openCold }
  const policies = policyResolver(config)
  const live = new LivePolicies(index, policies.resolve, system.logger)
  closers.push(() => live.close())
  const hub = new WriterHub(segments, metadata.coordination, async (stream) => {
    const policy = await live.follow(stream, () => agent.wake(CHANGE_WAKES_MS))
    return {
      policy,
      quorum: () => policyQuorum(policy(), directories.length),
      inFlightBytesMax: filled.inFlightBytesMax,
      takenBytesMax: filled.takenBytesMax,
    }
  })
  const agent = new TieringAgent({
    logId: identity.logId,
    ledger,
    index,
    coordination: metadata.coordination,
    random: system.random,
    archive: archive?.open ?? null,
    writers: hub,
    policy: (stream) => live.of(stream),
  })
  const upkeep = new Upkeep({
    ledger,
    index,
    keeper,
    archive: archive?.open ?? null,
    policy: (stream) => live.of(stream),
    repairs,
  })
  const admin = new StoreAdmin({
    keeper,
    ledger,
    directory: stores,
    storesNeeded: () => storesNeeded(index, policies.resolve),
  })
  await admin.remember()
  const recoverer = new SegmentRecoverer({ hub, index, clock, logger })
  closers.push(() => hub.close())
  closers.push(() => recoverer.close())
  closers.push(() => agent.close())
  closers.push(() => upkeep.close())
  const parts: LogParts = {
    logId: identity.logId,
    directory: root,
    segments,
    hub,
    agent,
    upkeep,
    stores: admin,
    random: system.random,
    archive: archive?.open ?? null,
    archiveLocation: archive?.location ?? null,
    read: {
      index,
      clock: system.clock,
      logger: system.logger,
      openHot: (row) => HotSource.open(ledger, row.ledgerId ?? -1n),
      openCold,
      recover: (row, signal) => recoverer.recover(row, signal),
    },
    recoverer,
    policies,
    nearest,
    close,
  }
  return new Log(parts)
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

function archiveNeeded(root: string): StratalogError {
  return new StratalogError(
    'archive_missing',
    `the records asked for are in the archive, and the log in ${root} has none configured: name it under "archive" in ${CONFIG_FILE}`,
  )
}

export { openArchive } from './open/archives.js'
