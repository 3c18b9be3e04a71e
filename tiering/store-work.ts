import type { LedgerContext } from '../src/ledger/context.js'
import { type MemberReplacement, renameMember, replaceMember } from '../src/ledger/rebuild.js'
import type { ColdCopies } from '../src/ledger/share-filler.js'
import type { UnrepairableEntry } from '../src/ledger/share-report.js'
import { membersOf, shareEntries } from '../src/ledger/shares.js'
import { isStratalogError, StratalogError } from '../src/model/errors.js'
import type { LedgerMetadata } from '../src/model/ledger.js'
import type { SegmentIndex } from '../src/ports/segment-index.js'
import type { ControlFrame, SegmentStore } from '../src/ports/segment-store.js'
import { isGivenUp, logUnrepairable } from './given-up.js'
import { Pace } from './pace.js'
import type { StoreWork } from './store-facts.js'

/** Ledgers copied side by side: enough that reading, writing and syncing overlap, few enough for the writers. */
const LEDGERS_AT_ONCE = 4
const METADATA_PAGE = 1_000
const NAMED_MAX = 100
/** Decisions sent to one store side by side: they share its syncs. */
const PUTS_AT_ONCE = 64

/** How far the work on one store is. */
export interface WorkProgress {
  readonly work: StoreWork
  /** Ledgers that named the store when this began, and payload bytes of its share of them, nearly. */
  ledgers: number
  totalBytes: number
  doneLedgers: number
  doneBytes: number
  /** Still open: they come when they are closed. */
  openLedgers: number
  /** Evicted or trimmed, and not deleted everywhere yet: the agent that tiers does that. */
  doomedLedgers: number
  /** Not whole: a copy was not to be had, or the new store failed. */
  incompleteLedgers: number
  copiedEntries: number
  copiedBytes: number
  readonly unrepairable: UnrepairableEntry[]
  /** Why the first incomplete one is, where a store was in the way. */
  problem: string | null
}

export interface WorkContext {
  readonly ledger: LedgerContext
  readonly index: SegmentIndex
  readonly cold: ColdCopies | null
  /** Stores that take no new ledgers, by id. */
  readonly out: ReadonlySet<string>
}

/** Whether nothing names the store any more. */
export function isFinished(progress: WorkProgress): boolean {
  return progress.openLedgers + progress.incompleteLedgers === 0
}

/**
 * Moves every copy of a store elsewhere, ledger by ledger: from many stores to the one that takes its place, or, when
 * it is drained, to many. Works on what the metadata say now, so it begins anew after any crash and finds done what
 * was done. Decisions that only stores keep go first: with them the new store counts as much as the old one did.
 */
export async function workOff(
  context: WorkContext,
  work: StoreWork,
  options: { readonly signal: AbortSignal; readonly onProgress?: (progress: WorkProgress) => void },
): Promise<WorkProgress> {
  const { signal, onProgress } = options
  await copyDecisions(context, work)
  const progress = await measure(context, work, signal)
  onProgress?.(progress)
  const pace = new Pace(context.ledger.clock, () => work.bytesPerSecond)
  const ledgers = ledgersOf(context.ledger, work.from)
  const move = async () => {
    for (let next = await ledgers.next(); !next.done; next = await ledgers.next()) {
      signal.throwIfAborted()
      await moveLedger(context, progress, next.value, pace, signal)
      onProgress?.(progress)
    }
  }
  // The first failure stops the others at their next ledger; what they are in the middle of may as well end.
  const results = await Promise.allSettled(Array.from({ length: LEDGERS_AT_ONCE }, move))
  for (const result of results) if (result.status === 'rejected') throw result.reason
  return progress
}

/** Whether any ledger still names a store. */
export async function isNamed(ledger: LedgerContext, storeId: string): Promise<boolean> {
  return !(await ledgersOf(ledger, storeId).next()).done
}

/** Ids and metadata of the ledgers that name a store, ascending. */
async function* ledgersOf(
  ledger: LedgerContext,
  storeId: string,
): AsyncGenerator<{ ledgerId: bigint; metadata: LedgerMetadata }, undefined, undefined> {
  for (let after = -1n; ; ) {
    const page = await ledger.metadata.list(after, METADATA_PAGE)
    for (const ledgerId of page) {
      const metadata = await metadataOf(ledger, ledgerId)
      if (metadata !== null && membersOf(metadata).includes(storeId)) yield { ledgerId, metadata }
    }
    const last = page.at(-1)
    if (last === undefined || page.length < METADATA_PAGE) return undefined
    after = last
  }
}

/** Null: deleted since it was listed. */
async function metadataOf(ledger: LedgerContext, ledgerId: bigint): Promise<LedgerMetadata | null> {
  try {
    return (await ledger.metadata.read(ledgerId)).metadata
  } catch (error) {
    if (isStratalogError(error, 'ledger_not_found')) return null
    throw error
  }
}

async function measure(context: WorkContext, work: StoreWork, signal: AbortSignal): Promise<WorkProgress> {
  const progress: WorkProgress = {
    work,
    ledgers: 0,
    totalBytes: 0,
    doneLedgers: 0,
    doneBytes: 0,
    openLedgers: 0,
    doomedLedgers: 0,
    incompleteLedgers: 0,
    copiedEntries: 0,
    copiedBytes: 0,
    unrepairable: [],
    problem: null,
  }
  for await (const { metadata } of ledgersOf(context.ledger, work.from)) {
    signal.throwIfAborted()
    progress.ledgers += 1
    progress.totalBytes += shareBytes(metadata, work.from)
  }
  return progress
}

/** Payload bytes of a store's share, if entries are of one size; 0 while the ledger is open. */
function shareBytes(metadata: LedgerMetadata, storeId: string): number {
  if (metadata.state !== 'CLOSED' || metadata.lastEntryId < 0n) return 0
  const entries = Number(metadata.lastEntryId + 1n)
  return Math.round((Number(metadata.lengthBytes) * Number(shareEntries(metadata, storeId))) / entries)
}

async function moveLedger(
  context: WorkContext,
  progress: WorkProgress,
  { ledgerId, metadata }: { readonly ledgerId: bigint; readonly metadata: LedgerMetadata },
  pace: Pace,
  signal: AbortSignal,
): Promise<void> {
  const { work } = progress
  // Its copies go for good: nobody reads them any more, and nothing of it is to be made anew.
  const to = work.to ?? (await placeFor(context, metadata))?.id ?? null
  if (await isGivenUp(context, ledgerId)) {
    progress.doomedLedgers += 1
    // A deletion waits for every store that is named, and this one may never answer again.
    if (to !== null && (await isLost(context, work.from)))
      await renameMember(context.ledger, ledgerId, { from: work.from, to })
    return
  }
  if (to === null) {
    progress.incompleteLedgers += 1
    progress.problem ??= `no store can take ledger ${ledgerId}: each has copies of it already, or can't be written`
    return
  }
  const moved = await replaceMember(
    context.ledger,
    ledgerId,
    { from: work.from, to },
    { cold: context.cold, pace: (sizeBytes, stop) => pace.take(sizeBytes, stop), signal },
  )
  if (moved.outcome === 'incomplete' && (await isGivenUp(context, ledgerId))) {
    progress.doomedLedgers += 1
    return
  }
  logUnrepairable(context, moved.unrepairable)
  count(progress, moved, shareBytes(metadata, work.from))
}

/** Whether a store can't be asked to delete anything, now and as far as we know. */
async function isLost({ ledger }: WorkContext, storeId: string): Promise<boolean> {
  const store = ledger.stores.get(storeId)
  if (store === null) return true
  const { state } = await store.status()
  return state === 'unreachable' || state === 'poisoned'
}

function count(progress: WorkProgress, moved: MemberReplacement, bytes: number): void {
  progress.copiedEntries += moved.repairedEntries
  progress.copiedBytes += moved.repairedBytes
  progress.unrepairable.push(...moved.unrepairable.slice(0, NAMED_MAX - progress.unrepairable.length))
  progress.problem ??= moved.unreachable[0]?.reason ?? null
  if (moved.outcome === 'open') progress.openLedgers += 1
  else if (moved.outcome === 'incomplete') {
    progress.incompleteLedgers += 1
    if (moved.waitingEntries > 0)
      progress.problem ??= `${moved.waitingEntries} entries are only on stores that do not answer now, or in an archive that does not`
  } else {
    progress.doneLedgers += 1
    progress.doneBytes += bytes
  }
}

/** A store that has nothing of the ledger yet; another one first each time, so that all of them share the work. */
async function placeFor(context: WorkContext, metadata: LedgerMetadata): Promise<SegmentStore | null> {
  const taken = new Set(membersOf(metadata))
  const candidates = await context.ledger.stores.writable()
  return candidates.find(({ id }) => !taken.has(id) && !context.out.has(id)) ?? null
}

/**
 * Gives what only control frames say to the stores that stay. A store that can't be asked has its frames on others:
 * each was written to two at least.
 */
async function copyDecisions(context: WorkContext, work: StoreWork): Promise<void> {
  const { stores, logger } = context.ledger
  const targets =
    work.to === null
      ? (await stores.writable()).filter(({ id }) => id !== work.from && !context.out.has(id))
      : [stores.get(work.to)].flatMap((store) => store ?? [])
  if (work.to !== null && targets.length === 0) {
    throw new StratalogError(
      'store_unavailable',
      `segment store ${work.to}, which takes the place of ${work.from}, is not there: bring it back`,
      { retryable: true, expected: work.to },
    )
  }
  const frames = new Map<string, ControlFrame>()
  for (const source of stores.all()) {
    try {
      for (const frame of await source.listControls()) frames.set(frame.id, frame)
    } catch (error) {
      if (!isStratalogError(error)) throw error
      logger.warn({ err: error, store: source.id }, 'decisions kept on a store could not be copied now')
    }
  }
  // A store that does not take them is no place for copies either: the work fails, and is tried again.
  for (const target of targets) {
    const there = new Set((await target.listControls()).map(({ id }) => id))
    const lacking = [...frames.values()].filter(({ id }) => !there.has(id))
    for (let at = 0; at < lacking.length; at += PUTS_AT_ONCE)
      await Promise.all(lacking.slice(at, at + PUTS_AT_ONCE).map((frame) => target.putControl(frame)))
  }
}
