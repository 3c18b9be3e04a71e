import { Buffer } from 'node:buffer'
import { join } from 'node:path'
import type { StoreFactsKeeper } from '../../tiering/store-facts.js'
import { isStratalogError, StratalogError } from '../model/errors.js'
import type { Disk } from '../ports/disk.js'

/** Name of the file in a log's directory. */
const STORES_FILE = 'stores.json'
const BYTES_MAX = 1 << 20

/**
 * What is remembered of a log's stores, as a file beside `log.json`: replaced in one durable step (temporary file, sync,
 * rename, sync of the directory). A log whose file is lost looks for its stores where the configuration says.
 */
export function storeFactsFile(root: string, disk: Disk): StoreFactsKeeper {
  const path = join(root, STORES_FILE)
  return {
    read: async () => {
      const about = await disk.stat(path)
      if (about === null) return null
      const text = about.directory || about.sizeBytes > BYTES_MAX ? '' : await readText(disk, path)
      try {
        if (typeof (JSON.parse(text) as { version?: unknown } | null)?.version === 'number') return text
      } catch (error) {
        if (!(error instanceof SyntaxError)) throw error
      }
      throw new StratalogError(
        'corrupt',
        `${path} is damaged: restore it, or remove it if no store was ever replaced or drained`,
        { found: text.slice(0, 200) },
      )
    },
    write: async (text) => {
      const value = { version: 1, ...(JSON.parse(text) as object) }
      const temporary = `${path}.tmp`
      await disk.remove(temporary).catch((error: unknown) => {
        if (!isStratalogError(error, 'file_not_found')) throw error
      })
      const file = await disk.open(temporary, 'create')
      try {
        await file.write([Buffer.from(`${JSON.stringify(value)}\n`)], 0)
        await file.dataSync()
      } finally {
        await file.close()
      }
      await disk.rename(temporary, path)
      await disk.syncDirectory(root)
    },
  }
}

async function readText(disk: Disk, path: string): Promise<string> {
  const file = await disk.open(path, 'read')
  try {
    const bytes = Buffer.alloc(await file.sizeBytes())
    const filled = await file.read(bytes, 0)
    return bytes.toString('utf8', 0, filled)
  } finally {
    await file.close()
  }
}
