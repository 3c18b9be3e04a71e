import { optionalCalls } from '../../archive/forward.js'
import { StratalogError } from '../../src/model/errors.js'
import type { ArchiveEngine, ArchiveStore } from '../../src/ports/archive-store.js'

/** What goes wrong with an archive; each hook may throw, or change what is returned. */
export interface ArchiveFaults {
  beforePut?: (key: string) => void
  /** Waited for before anything is stored: an archive that hangs. */
  putWaits?: Promise<void>
  head?: (key: string) => void
  /** The object is there, and the caller never hears of it. */
  afterPut?: (key: string) => void
  read?: (key: string, bytes: Uint8Array) => Uint8Array
  /** Waited for before anything is read: an archive that is slow to read. */
  readWaits?: (key: string) => Promise<void>
  beforeDelete?: (key: string) => void
  list?: () => void
}

export const outage = (): never => {
  throw new StratalogError('archive_unavailable', 'the archive does not answer: injected', {
    retryable: true,
  })
}

/** An engine whose stores fail as `faults` says; hooks may be changed at any time. */
export function faultyArchive(engine: ArchiveEngine, faults: ArchiveFaults): ArchiveEngine {
  return {
    apiVersion: 1,
    name: `faulty ${engine.name}`,
    open: async (context) => wrap(await engine.open(context), faults),
  }
}

function wrap(store: ArchiveStore, faults: ArchiveFaults): ArchiveStore {
  return {
    location: store.location,
    capabilities: store.capabilities,
    putIfAbsent: async (key, body, options) => {
      faults.beforePut?.(key)
      await faults.putWaits
      await store.putIfAbsent(key, body, options)
      faults.afterPut?.(key)
    },
    head: async (key, signal) => {
      faults.head?.(key)
      return store.head(key, signal)
    },
    readRange: async (key, offset, lengthBytes, signal) => {
      await faults.readWaits?.(key)
      const bytes = await store.readRange(key, offset, lengthBytes, signal)
      return faults.read?.(key, bytes) ?? bytes
    },
    listFrom: async (prefix, after, limit, signal) => {
      faults.list?.()
      return store.listFrom(prefix, after, limit, signal)
    },
    delete: async (key, signal) => {
      faults.beforeDelete?.(key)
      await store.delete(key, signal)
    },
    ...optionalCalls(store),
    close: () => store.close(),
  }
}
