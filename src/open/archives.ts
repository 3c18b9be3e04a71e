import { existsSync } from 'node:fs'
import { resolve } from 'node:path'
import process from 'node:process'
import type { ResolvedConfig } from '../config/resolve.js'
import { StratalogError } from '../model/errors.js'
import type { OpenOptions, SystemPorts } from '../options.js'
import type { ArchiveEngine, ArchiveStore } from '../ports/archive-store.js'
import { systemPorts } from './system.js'

/** The archive of a log, opened when it is first needed. */
export interface ArchiveOpener {
  readonly location: string
  /** Opens the archive at the first call and after a failed one. */
  readonly open: () => Promise<ArchiveStore>
  readonly opened: () => Promise<ArchiveStore | null>
}

/** Null: none is configured. */
export function archiveOpener(
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
  const { directoryArchive } = await import('../../archive/directory/store.js')
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
