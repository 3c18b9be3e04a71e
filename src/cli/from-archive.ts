import type { ArchiveSettings } from '../open/archive-settings.js'
import type { ArchiveStore } from '../ports/archive-store.js'
import type { CliIo } from './io.js'
import { quietSystem } from './quiet.js'

/**
 * How an archive that is opened without its log is reached: by `--config`, else by the stratalog.yaml where the command
 * runs, and by the environment. A directory needs none of it, and no configuration that is broken keeps it shut.
 */
export async function settingsFor(io: Pick<CliIo, 'config'>, location: string): Promise<ArchiveSettings> {
  if (!/^[a-z][a-z0-9+.-]+:\/\//.test(location)) return {}
  const { settingsBeside } = await import('../open/archive-settings.js')
  return settingsBeside(io.config)
}

/** Opens an archive by itself, read-only; `moved`: also what was left at a place that it moved away from. */
export async function openFrom(
  io: CliIo,
  location: string,
  { moved = false }: { readonly moved?: boolean } = {},
): Promise<ArchiveStore> {
  const { openArchive } = await import('../open.js')
  const ring = io.keyRing === undefined ? {} : { keyRing: io.keyRing }
  return openArchive(location, await quietSystem(), { ...ring, ...(await settingsFor(io, location)), moved })
}
