import { existsSync } from 'node:fs'
import { join, resolve } from 'node:path'
import process from 'node:process'
import { readStoreFacts } from '../../tiering/store-facts.js'
import { lockDirectory } from '../metadata/sqlite/lock.js'
import { StratalogError } from '../model/errors.js'
import { fillOptions, type OpenOptions } from '../options.js'
import { LocalDirectory } from '../stores/directory.js'
import { checkQuorums, isDistributed, readConfiguration, storeDirectories } from './configuration.js'
import { readIdentity } from './identity.js'
import { makeIndex, type RebuildWishes, type RebuiltIndex } from './rebuild-index.js'
import { storeFactsFile } from './store-facts-file.js'
import { systemPorts } from './system.js'

export type { RebuiltIndex }

/**
 * Makes the index of a log that no process has open again, from its stores and its archive, whatever state `index.db`
 * is in; the file that was there is kept under another name. See `rebuildIndex`, and for a namespace of a cluster, of
 * which the file is a cache, `rebuildNamespaceCache`.
 *
 * Errors: `refused` where something can't be read or is lost and that is not accepted, `directory_in_use`,
 * `file_not_found` where there is no log.
 */
export async function rebuildLogIndex(
  directory: string,
  options: OpenOptions,
  wishes: RebuildWishes,
): Promise<RebuiltIndex> {
  const filled = fillOptions(options)
  const root = resolve(directory)
  const system = await systemPorts(options.system)
  const config = await readConfiguration(root, options)
  if (isDistributed(config)) {
    const { rebuildNamespaceCache } = await import('./rebuild-cluster.js')
    return rebuildNamespaceCache(root, options, system, wishes)
  }
  if (!existsSync(join(root, 'log.json')))
    throw new StratalogError('file_not_found', `there is no log in ${root}: name another with --dir`, {
      found: root,
    })
  const openedAt = new Date(system.clock.nowMs()).toISOString()
  const lock = lockDirectory(root, { pid: process.pid, openedAt })
  try {
    const { logId, created } = await readIdentity(root)
    if (created)
      throw new StratalogError(
        'refused',
        `the log in ${root} was never made to the end: open it, there is no index to make again`,
      )
    const directories = storeDirectories(root, config)
    checkQuorums(config, directories.length)
    const fileBytes = filled.storeFileBytes
    const remembered = await readStoreFacts(storeFactsFile(root, system.disk))
    const where = { ...system, logId, fileBytes, create: false, remembered }
    const stores = await LocalDirectory.open(directories, where)
    try {
      return await makeIndex({ root, logId, stores, options, config, system }, wishes)
    } finally {
      await stores.close()
    }
  } finally {
    lock.release()
  }
}
