import { join } from 'node:path'
import { StratalogError } from '../model/errors.js'
import type { LedgerMetadataStore } from '../ports/ledger-metadata.js'
import type { SegmentIndex } from '../ports/segment-index.js'
import type { LedgerSummary, SegmentStore } from '../ports/segment-store.js'

/** Ledgers a store lists at once: each page costs it one look over its whole table. */
const STORE_PAGE = 100_000
const METADATA_PAGE = 10_000

/** What is compared. */
export interface IndexAndStores {
  readonly index: SegmentIndex
  readonly ledgers: LedgerMetadataStore
  readonly stores: readonly SegmentStore[]
}

/**
 * Refuses an index that is older than what the stores hold, as a backup is that was put back: it would give ids and
 * positions out a second time, over acknowledged records. Nothing has been written when this throws.
 *
 * A ledger without metadata tells. Its metadata is durable before a store hears of it, and deleting takes the
 * metadata away first, while a row of the stream at or above that segment stays (the newest row is never removed). So
 * a segment's ledger that has no metadata, and that lies above the newest row or belongs to an unknown stream, was
 * made after this index was.
 */
export async function checkIndexAge(root: string, { index, ledgers, stores }: IndexAndStores): Promise<void> {
  for (const store of stores) {
    // One that is not there tells nothing; every ledger is on more than one store.
    if ((await store.status()).state === 'unreachable') continue
    for await (const ledger of withoutMetadata(store, ledgers)) {
      if (ledger.header === null || ledger.header.segment === null) continue
      const { incarnation, segment, stream } = ledger.header.segment
      const newest = (await index.newestSegment(incarnation))?.segment ?? null
      if (newest !== null && segment <= newest) continue
      throw new StratalogError(
        'index_missing',
        `${join(root, 'index.db')} is older than the stores (ledger ${ledger.ledgerId} holds segment ${segment} of ${stream}, and the index ends at ${newest ?? 'none'}): put back the newest copy, or restore the log from its archive into another directory: stratalog restore --from ARCHIVE --into DIR`,
        { expected: segment.toString(), found: newest?.toString() ?? null },
      )
    }
  }
}

/** The ledgers of a store that the metadata do not know: two ascending lists, walked side by side. */
async function* withoutMetadata(
  store: SegmentStore,
  metadata: LedgerMetadataStore,
): AsyncGenerator<LedgerSummary> {
  const ids = metadataIds(metadata)
  let known = await ids.next()
  for (let after = -1n; ; ) {
    const page = await store.listLedgers(after, STORE_PAGE)
    for (const ledger of page) {
      while (!known.done && known.value < ledger.ledgerId) known = await ids.next()
      if (known.done || known.value > ledger.ledgerId) yield ledger
    }
    const last = page.at(-1)
    if (last === undefined || page.length < STORE_PAGE) return
    after = last.ledgerId
  }
}

async function* metadataIds(metadata: LedgerMetadataStore): AsyncGenerator<bigint, undefined> {
  for (let after = -1n; ; ) {
    const page = await metadata.list(after, METADATA_PAGE)
    yield* page
    const last = page.at(-1)
    if (last === undefined || page.length < METADATA_PAGE) return undefined
    after = last
  }
}
