/**
 * The promises of the ports as suites for `node:test`: whoever writes an engine runs its suite against the real thing.
 *
 * @example
 * ```ts
 * import type { ArchiveStore } from 'stratalog'
 * import { archiveContract } from 'stratalog/testing'
 * declare function openMyArchive(): Promise<ArchiveStore>
 * archiveContract(async () => ({ store: await openMyArchive(), cleanup: async () => {} }), 'my archive')
 * ```
 */
export { archiveContract, type OpenedArchive } from './archive-store.js'
export { coordinationContract, type OpenedCoordination } from './coordination.js'
export { ledgerMetadataContract, type OpenedLedgerMetadata } from './ledger-metadata.js'
export { type OpenedIndex, segmentIndexContract } from './segment-index.js'
export { type SegmentStoreSubject, segmentStoreContract } from './segment-store.js'
