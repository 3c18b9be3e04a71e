import { readStoreFacts } from '../../tiering/store-facts.js'
import type { OpenOptions } from '../options.js'
import { StoreAdmin } from '../stores/admin.js'
import { LocalDirectory } from '../stores/directory.js'
import { archiveSettings } from './archive-settings.js'
import { checkArchive } from './archives.js'
import { checkQuorums, storeDirectories } from './configuration.js'
import type { Ground, Opening } from './ground.js'
import { groundArchives } from './ground-archives.js'
import { readIdentity, writeIdentity } from './identity.js'
import { openIndex } from './index-open.js'
import { storeFactsFile } from './store-facts-file.js'

/**
 * The ground of a log in its directory alone. Opens the stores, then the index, which is checked against them, then what
 * leads to the archive.
 */
export async function openLocalGround(opening: Opening): Promise<Ground> {
  const { root, options, filled, system, config, closers } = opening
  const identity = await readIdentity(root)
  const { logId } = identity
  if (typeof options.archive !== 'object')
    await checkArchive(config.archive.value ?? '', archiveSettings(root, config))
  const directories = storeDirectories(root, config)
  checkQuorums(config, directories.length)
  const keeper = storeFactsFile(root, system.disk)
  const stores = await LocalDirectory.open(directories, {
    ...system,
    logId,
    fileBytes: filled.storeFileBytes,
    indexBytesMax: config.cache.indexBytes.value,
    create: identity.created,
    remembered: await readStoreFacts(keeper),
    allLost: whatIsLeft(options.archive ?? null, config.archive.value),
  })
  closers.push(() => stores.close())
  const { metadata, index, ledgers } = await openIndex(
    { root, logId, stores, options, config, system },
    identity,
  )
  closers.push(() => metadata.close())
  if (identity.created) await writeIdentity(root, logId, 'ready')
  return {
    logId,
    coordination: metadata.coordination,
    index,
    ledgers,
    stores,
    keeper,
    ...groundArchives(opening, logId, index),
    shared: null,
    keeping: async (ledger, needed) => {
      const admin = new StoreAdmin({ keeper, ledger, directory: stores, storesNeeded: needed })
      await admin.remember()
      return admin
    },
    checks: () => Promise.resolve([]),
  }
}

/** The command for who has lost every store: the archive has what was copied to it, and nothing else is left. */
function whatIsLeft(given: OpenOptions['archive'] | null, configured: string | null): string {
  if (typeof given === 'object' && given !== null)
    return 'restore from the archive that the application passes in, into another directory'
  if (configured === null) return 'this log has no archive, so only a backup of the stores brings it back'
  return `"stratalog restore --from ${configured} --into NEW_DIRECTORY" brings back what was archived`
}
