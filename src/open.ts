import { existsSync } from 'node:fs'
import { mkdir } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import process from 'node:process'
import type { Log } from './log.js'
import { StratalogError } from './model/errors.js'
import { assemble } from './open/assemble.js'
import { configSource, isDistributed } from './open/configuration.js'
import { LiveConfig } from './open/live-config.js'
import { systemPorts } from './open/system.js'
import { fillOptions, type OpenOptions } from './options.js'

/** See lazy.ts, which is what programs call. */
export async function openLog(directory: string, options: OpenOptions = {}): Promise<Log> {
  const filled = fillOptions(options)
  const root = resolve(directory)
  const system = await systemPorts(options.system)
  const source = configSource(root, options)
  const text = await source.read()
  const config = source.resolve(text)
  const attached = options.attach !== undefined
  // A log of a cluster is there whether or not this directory has ever been its cache.
  const here = attached || isDistributed(config) || existsSync(join(root, 'log.json'))
  if (filled.create === 'never' && !here) throw noLog(root)
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
    const live = new LiveConfig(source, { config, text }, system.clock, system.logger)
    const opening = { root, options, filled, system, config, live, closers, close }
    const log = attached
      ? await (await import('./open/attach.js')).assembleAttached(opening)
      : await assemble(opening)
    // Elsewhere a writer may be at work on what is open: in a cluster its segment is recovered by who writes or reads it.
    if (!isDistributed(config)) await log.recover()
    if (filled.tiering === 'run' && !attached) {
      log.parts.agent.follow()
      log.parts.upkeep.follow()
    } else if (isDistributed(config) && !attached) log.parts.agent.followSeals()
    live.follow()
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

export { openArchive } from './open/archives.js'
