import { join } from 'node:path'
import { clonedThrough, isBeingCloned } from '../model/clone.js'
import { StratalogError } from '../model/errors.js'
import type { LedgerMetadataStore } from '../ports/ledger-metadata.js'
import type { SegmentIndex } from '../ports/segment-index.js'
import type { LedgerSummary, SegmentStore } from '../ports/segment-store.js'
import { knownMark } from '../rebuild/catch-up.js'
import type { DecidedState } from '../rebuild/decisions.js'

/** Ledgers a store lists at once: each page costs it one look over its whole table. */
const STORE_PAGE = 100_000
const METADATA_PAGE = 10_000
/** Segments that owe a deletion, looked at; with more of them the index may be made again, which loses nothing. */
const OWING_MAX = 1_000_000

/** What is compared. */
export interface IndexAndStores {
  readonly index: SegmentIndex
  readonly ledgers: LedgerMetadataStore
  readonly stores: readonly SegmentStore[]
  /** The decisions the stores hold. */
  readonly decided: DecidedState
}

/**
 * Refuses an index that is older than what the stores hold, as a backup is that was put back: it would give ids and
 * positions out a second time, over acknowledged records. Nothing has been written when this throws `index_missing`.
 *
 * A ledger without metadata tells. Its metadata is durable before a store hears of it, and when it is deleted a row of
 * the stream at or above that segment stays (the newest row is never removed). So
 * a segment's ledger that has no metadata, and that lies above the newest row or belongs to an unknown stream, was
 * made after this index was.
 *
 * A mark that the stores have and the index does not know tells that copies were given up since: what was open then,
 * or not begun, left no ledger that could tell (`RecordedIndex`). Closed metadata without a ledger tell the same of what
 * was closed, unless a row says that the ledger is owed its deletion: that takes the copies first, the metadata then,
 * and a kill may come between. Other decisions make no index old: they are caught up with.
 */
export async function checkIndexAge(root: string, compared: IndexAndStores): Promise<void> {
  const { index, ledgers, stores, decided } = compared
  const marked = decided.mark?.sequence ?? 0n
  const known = await knownMark(index)
  if (marked > known)
    throw older(root, 'copies were given up that it does not know of', `${marked}`, `${known}`)
  await checkClones(root, index, decided)
  const readable: string[] = []
  let absent: Set<bigint> | null = null
  for (const store of stores) {
    // One that is not there tells nothing; every ledger is on more than one store.
    if ((await store.status()).state === 'unreachable') continue
    readable.push(store.id)
    const absentHere = new Set<bigint>()
    for await (const one of differences(store, ledgers)) {
      if (typeof one === 'bigint') absentHere.add(one)
      // A store that was away when a stream was deleted brings back what was its.
      else if (!decided.deleted.has(one.header?.segment?.incarnation ?? ''))
        await checkUnknown(root, index, one)
    }
    absent = absent === null ? absentHere : intersection(absent, absentHere)
  }
  const owed = absent === null || absent.size === 0 ? null : await owedLedgers(index)
  for (const id of absent ?? []) {
    if (owed?.has(id)) continue
    const { metadata } = await ledgers.read(id)
    const unread = metadata.ensembles.some(({ members }) => members.some((one) => !readable.includes(one)))
    // An open one may not have become durable anywhere before a crash.
    const held = metadata.state === 'CLOSED' && metadata.lastEntryId >= 0n
    if (!unread && held) throw older(root, `ledger ${id} is on no store any more`, id.toString(), null)
  }
}

/** What a clone was made with is told by no ledger: an index from before it is made again, from the archive's names. */
async function checkClones(root: string, index: SegmentIndex, decided: DecidedState): Promise<void> {
  for (const stream of decided.streams.values()) {
    const last = clonedThrough(stream.parent)
    // One that was not finished is not gone on with.
    if (last === null || isBeingCloned(stream) || decided.deleted.has(stream.incarnation)) continue
    const trimmed = decided.trims.get(stream.incarnation)?.below.segment ?? 0n
    const newest = (await index.newestSegment(stream.incarnation))?.segment ?? 0n
    if (newest >= last || trimmed > last) continue
    const what = `${stream.name} is a clone up to segment ${last}, and the index ends at ${newest}`
    throw older(root, what, `${last}`, `${newest}`)
  }
}

/** Ledgers that are being deleted, as the index knows. */
async function owedLedgers(index: SegmentIndex): Promise<Set<bigint>> {
  const rows = await index.segmentsOwing(OWING_MAX)
  return new Set(rows.flatMap(({ ledgerId }) => (ledgerId === null ? [] : [ledgerId])))
}

async function checkUnknown(root: string, index: SegmentIndex, ledger: LedgerSummary): Promise<void> {
  const held = ledger.header?.segment ?? null
  if (held === null) return
  const { incarnation, segment, stream } = held
  const newest = (await index.newestSegment(incarnation))?.segment ?? null
  if (newest !== null && segment <= newest) return
  const what = `ledger ${ledger.ledgerId} holds segment ${segment} of ${stream}, and the index ends at ${newest ?? 'none'}`
  throw older(root, what, segment.toString(), newest?.toString() ?? null)
}

function older(root: string, what: string, expected: string, found: string | null): StratalogError {
  const message = `${join(root, 'index.db')} is older than the stores (${what})`
  return new StratalogError('index_missing', message, { expected, found })
}

function intersection(one: ReadonlySet<bigint>, other: ReadonlySet<bigint>): Set<bigint> {
  return new Set([...one].filter((id) => other.has(id)))
}

/** Ledgers of a store without metadata, and ids of metadata without a ledger there: two ascending lists, side by side. */
async function* differences(
  store: SegmentStore,
  metadata: LedgerMetadataStore,
): AsyncGenerator<LedgerSummary | bigint> {
  const ids = metadataIds(metadata)
  let known = await ids.next()
  for (let after = -1n; ; ) {
    const page = await store.listLedgers(after, STORE_PAGE)
    for (const ledger of page) {
      for (; !known.done && known.value < ledger.ledgerId; known = await ids.next()) yield known.value
      if (known.done || known.value > ledger.ledgerId) yield ledger
      else known = await ids.next()
    }
    const last = page.at(-1)
    if (last === undefined || page.length < STORE_PAGE) break
    after = last.ledgerId
  }
  for (; !known.done; known = await ids.next()) yield known.value
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
