import { StratalogError } from '../model/errors.js'
import type { SegmentStore, StoreStatus } from '../ports/segment-store.js'

/**
 * Stands for a configured store that could not be opened: a lost disk must not keep the other copies from their
 * readers. `id` is that of the store it stands for, where it is known. Every call
 * fails with `store_unavailable`, which the ledger protocol takes for *unknown*, never *missing*.
 */
export function absentStore(
  directory: string,
  cause: StratalogError,
  id: string = `absent:${directory}`,
): SegmentStore {
  const why = cause.message.includes(directory)
    ? cause.message
    : `the store in ${directory} is not there: ${cause.message}`
  const fail = () => Promise.reject(new StratalogError('store_unavailable', why, { cause, retryable: true }))
  const status: StoreStatus = {
    id,
    location: directory,
    state: 'unreachable',
    reason: cause.message,
    usedBytes: 0,
    freeBytes: 0,
    totalBytes: 0,
    device: `absent:${directory}`,
    pendingBytes: 0,
    corruptBytes: 0,
  }
  return {
    id: status.id,
    openLedger: fail,
    addEntry: fail,
    readEntry: fail,
    readEntries: fail,
    fence: fail,
    readLac: fail,
    writeLac: fail,
    waitForLac: fail,
    sealLedger: fail,
    deleteLedger: fail,
    listLedgers: fail,
    putControl: fail,
    listControls: fail,
    status: () => Promise.resolve(status),
    close: () => Promise.resolve(),
  }
}
