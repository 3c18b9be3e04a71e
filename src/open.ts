import { existsSync } from 'node:fs'
import { mkdir } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import process from 'node:process'
import type { Log } from './log.js'
import { StratalogError } from './model/errors.js'
import { assemble } from './open/assemble.js'
import { readConfiguration } from './open/configuration.js'
import { systemPorts } from './open/system.js'
import { fillOptions, type OpenOptions } from './options.js'

/** See lazy.ts, which is what programs call. */
export async function openLog(directory: string, options: OpenOptions = {}): Promise<Log> {
  const filled = fillOptions(options)
  const root = resolve(directory)
  const system = await systemPorts(options.system)
  const config = await readConfiguration(root, options)
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
    const log = await assemble({ root, options, filled, system, config, closers, close })
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
