import { ask } from '../src/ledger/context.js'
import { allMembers } from '../src/ledger/ensembles.js'
import { deleteLedger } from '../src/ledger/reader.js'
import { recoverLedger } from '../src/ledger/recovery.js'
import { isStratalogError, StratalogError } from '../src/model/errors.js'
import type { LedgerMetadata } from '../src/model/ledger.js'
import { isClosed } from '../src/model/segment.js'
import type { SegmentIndex } from '../src/ports/segment-index.js'
import type { LedgerHeader } from '../src/ports/segment-store.js'
import { streamsOf } from './all-rows.js'
import { ORPHAN_GRACE_MS } from './collect.js'
import type { TieringContext } from './context.js'
import { SeenMemory } from './seen-memory.js'

/** How often the agent looks for ledgers that nobody refers to. */
export const LEDGERS_LOOKED_MS: number = 60 * 60 * 1_000
/** A ledger this young may be about to get its row. */
export const LEDGER_BEGUN_MS: number = 60_000
const FACT = 'orphan-ledgers'
const PAGE = 1_000
/** Rows with a hot copy that are looked through; a log with more collects no ledgers. */
const HOT_MAX = 2_000_000

/** A ledger that no row names. */
export interface OrphanLedger {
  readonly ledgerId: bigint
  /** What its stores say it was begun for; null: for no segment, or none of them says. */
  readonly segment: LedgerHeader['segment']
  readonly firstSeenMs: number
  readonly outcome: 'waiting' | 'due' | 'kept' | 'deleted'
  readonly why: string
}

/** What a look for orphan ledgers came to. */
export interface LedgerCollection {
  readonly waiting: readonly OrphanLedger[]
  readonly due: readonly OrphanLedger[]
  readonly deleted: readonly OrphanLedger[]
  readonly kept: readonly OrphanLedger[]
}

/**
 * Finds ledgers that no row names, which a crash between a ledger and its row leaves, and, if told to, deletes those
 * that hold nothing anybody may want: recovery, which fences them, says that they are empty, or the row of their
 * segment says that it is elsewhere. Neither can be said while too few stores answer; then they are kept (invariant 8).
 * No acknowledged record is in a ledger without a row: entries are only written once the row is there.
 */
export async function collectOrphanLedgers(
  context: TieringContext,
  options: { readonly graceMs?: number; readonly collect: boolean; readonly signal: AbortSignal },
): Promise<LedgerCollection> {
  const { index, ledger } = context
  const { graceMs = ORPHAN_GRACE_MS, signal } = options
  const seen = await SeenMemory.load(index, FACT)
  const found: Record<OrphanLedger['outcome'], OrphanLedger[]> = {
    waiting: [],
    due: [],
    deleted: [],
    kept: [],
  }
  // Ledgers first, rows after: one whose row came meanwhile is no orphan.
  const candidates = await unnamedLedgers(context, signal)
  const old: { ledgerId: bigint; about: Omit<OrphanLedger, 'outcome' | 'why'> }[] = []
  for (const ledgerId of candidates) {
    const nowMs = ledger.clock.nowMs()
    const metadata = await metadataOf(context, ledgerId)
    if (metadata === null) continue
    const firstSeenMs = seen.note(ledgerId.toString(), nowMs)
    const about = { ledgerId, segment: await segmentOf(context, ledgerId, metadata), firstSeenMs }
    // One that is begun at this moment has its row in the next: that is so whatever grace somebody asked for.
    const young = nowMs - Number(metadata.ctimeMs ?? 0n) < LEDGER_BEGUN_MS
    if (young || nowMs - firstSeenMs < graceMs)
      found.waiting.push({ ...about, outcome: 'waiting', why: 'no row names it' })
    else if (!options.collect) found.due.push({ ...about, outcome: 'due', why: 'no row names it' })
    else old.push({ ledgerId, about })
  }
  // Before anything is deleted: what is deleted and noted again costs a look, what is forgotten a day.
  await seen.save()
  for (const { ledgerId, about } of old) {
    signal.throwIfAborted()
    const against = await collect(context, ledgerId, about.segment)
    const { outcome, why } =
      against === null
        ? ({ outcome: 'deleted', why: 'no row names it' } as const)
        : ({ outcome: 'kept', why: against } as const)
    found[outcome].push({ ...about, outcome, why })
  }
  return found
}

/** Deletes a ledger if it is proven dead; else says why it is kept. */
async function collect(
  context: TieringContext,
  ledgerId: bigint,
  segment: LedgerHeader['segment'],
): Promise<string | null> {
  const { ledger, index } = context
  try {
    const { lastEntryId } = await recoverLedger(ledger, ledgerId)
    if (lastEntryId >= 0n && !(await isElsewhere(index, ledgerId, lastEntryId, segment))) {
      return `it holds ${lastEntryId + 1n} entries, and no row says where else they are`
    }
    // Fenced by now, so nothing is added any more; a row may still have come to name it.
    if ((await named(index)).has(ledgerId)) return 'a row names it by now'
    await deleteLedger(ledger, ledgerId)
    return null
  } catch (error) {
    if (!isStratalogError(error)) throw error
    if (error.code === 'ledger_not_found') return null
    return error.message
  }
}

/**
 * Whether the row of the segment a ledger was begun for says that its entries are in another ledger or an object. A
 * ledger that goes on behind the end of the segment, or one of a segment that is open still, may hold what is nowhere
 * else: of two ledgers that claimed a segment an index that was made again chose one.
 */
async function isElsewhere(
  index: SegmentIndex,
  ledgerId: bigint,
  lastEntryId: bigint,
  segment: LedgerHeader['segment'],
): Promise<boolean> {
  if (segment === null) return false
  const row = await index.segment(segment.incarnation, segment.segment)
  if (row === null || !isClosed(row.state)) return false
  if (row.state === 'trimmed') return true
  const held = row.object !== null || (row.ledgerId !== null && row.ledgerId !== ledgerId)
  return held && lastEntryId <= row.lastEntryId
}

/** Ledgers with metadata that no row names; none where others have ledgers there as well (invariant 8). */
export async function unnamedLedgers(
  { ledger, index, ledgersAreShared = false }: TieringContext,
  signal: AbortSignal,
): Promise<bigint[]> {
  if (ledgersAreShared) return []
  const ids: bigint[] = []
  for (let after = -1n; ; ) {
    signal.throwIfAborted()
    const page = await ledger.metadata.list(after, PAGE)
    ids.push(...page)
    const last = page.at(-1)
    if (last === undefined || page.length < PAGE) break
    after = last
  }
  const referred = await named(index)
  return ids.filter((id) => !referred.has(id))
}

/** Every ledger that a row names, also those that are owed to be deleted. */
async function named(index: SegmentIndex): Promise<ReadonlySet<bigint>> {
  const ids = new Set<bigint>()
  const add = (ledgerId: bigint | null) => {
    if (ledgerId !== null) ids.add(ledgerId)
    if (ids.size > HOT_MAX) {
      throw new StratalogError('refused', `more than ${HOT_MAX} segments are hot: no ledgers are collected`)
    }
  }
  for await (const stream of streamsOf(index)) {
    for (const { ledgerId } of await index.listHotSegments(stream.incarnation, HOT_MAX)) add(ledgerId)
  }
  for (const { ledgerId } of await index.segmentsOwing(HOT_MAX)) add(ledgerId)
  return ids
}

/** What any of its stores was told of the ledger when it began. */
async function segmentOf(
  context: TieringContext,
  ledgerId: bigint,
  metadata: LedgerMetadata,
): Promise<LedgerHeader['segment']> {
  for (const id of allMembers(metadata.ensembles)) {
    try {
      const [found] = await ask(context.ledger, id, (store) => store.listLedgers(ledgerId - 1n, 1))
      if (found?.ledgerId === ledgerId && found.header !== null) return found.header.segment
    } catch (error) {
      // Another store may know; without any the ledger is kept, unless recovery finds it empty.
      if (!isStratalogError(error)) throw error
    }
  }
  return null
}

/** Null: deleted since it was listed. */
async function metadataOf(context: TieringContext, ledgerId: bigint): Promise<LedgerMetadata | null> {
  try {
    return (await context.ledger.metadata.read(ledgerId)).metadata
  } catch (error) {
    if (isStratalogError(error, 'ledger_not_found')) return null
    throw error
  }
}
