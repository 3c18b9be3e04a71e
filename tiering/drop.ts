import { readControls } from '../archive/control-objects.js'
import { type Hold, holdBody, standingHolds } from '../archive/decisions.js'
import { StratalogError } from '../src/model/errors.js'
import type { SegmentRow, StreamRow, TxidMode } from '../src/model/segment.js'
import type { Clock } from '../src/ports/clock.js'
import { rowsOf } from './all-rows.js'
import { alarmedSegments } from './cold-scrub.js'
import type { TieringContext } from './context.js'
import { evictUnasked } from './evict.js'
import { commitGap, freeDropped } from './gap.js'

import { bindsRow, decidedAlone, knownHolds } from './holds.js'
import { isPaused, tierOrders } from './orders.js'

/** Segments of one stream that are chosen from at a time, the oldest that may go: the next round has the next ones. */
const WEIGHED_MAX = 1_000
/** Space of what was dropped comes back when stores rewrite their files: until then it is not dropped for again. */
const SETTLE_MS = 10 * 60_000
/** What is held is asked of an archive that answers this often. */
const REMEMBER_MS = 10 * 60_000

/** A segment that may be dropped. */
export interface Droppable {
  readonly stream: StreamRow
  readonly row: SegmentRow
  /** Bytes it takes on a store, on the average of all stores. */
  readonly bytesEach: number
}

/**
 * As many as free `wantedBytes` on each store: the oldest of all streams that the archive has, of which nothing is lost;
 * then the oldest that it has not. Pure.
 */
export function chooseDrops(candidates: readonly Droppable[], wantedBytes: number): Droppable[] {
  const oldestFirst = [...candidates].sort(
    (a, b) =>
      Number(b.row.state === 'archived') - Number(a.row.state === 'archived') ||
      (a.row.sealedMs ?? 0) - (b.row.sealedMs ?? 0) ||
      (a.stream.name < b.stream.name ? -1 : a.stream.name > b.stream.name ? 1 : 0) ||
      (a.row.segment < b.row.segment ? -1 : 1),
  )
  const chosen: Droppable[] = []
  let freedBytes = 0
  for (const one of oldestFirst) {
    if (freedBytes >= wantedBytes) break
    chosen.push(one)
    freedBytes += one.bytesEach
  }
  return chosen
}

/**
 * What of a stream may be dropped: closed segments that no archive has, without those that a hold binds, and without
 * the newest row, from which numbering goes on. Pure.
 */
export function droppable(
  rows: readonly SegmentRow[],
  newest: bigint,
  holds: readonly Hold[],
  txidMode: TxidMode,
): SegmentRow[] {
  return rows.filter(
    (row) =>
      row.state === 'sealed' &&
      row.segment < newest &&
      !holds.some((hold) => bindsRow({ txidMode }, row, hold)),
  )
}

/** What binds a stream while the archive does not answer: what is known here, and what the archive held when it did. */
async function holdsWithoutArchive(context: TieringContext, stream: StreamRow): Promise<readonly Hold[]> {
  return [...(await knownHolds(context, stream)), ...(await rememberedHolds(context, stream))]
}

/** The rows of a stream that may be dropped now, oldest first. Rejects where what is held can't be known. */
export async function droppableRows(context: TieringContext, stream: StreamRow): Promise<SegmentRow[]> {
  const { index } = context
  // A pause stops whatever the agent would delete (decision 0020).
  if (isPaused(await tierOrders(context), stream.incarnation)) return []
  const newest = await index.newestSegment(stream.incarnation)
  if (newest === null) return []
  const [oldestHot] = await index.listHotSegments(stream.incarnation, 1)
  if (oldestHot === undefined) return []
  const found: SegmentRow[] = []
  let holds: readonly Hold[] | null = null
  // Before them lies what is verified in the archive and still hot, however much that is.
  for await (const row of rowsOf(index, stream.incarnation, oldestHot.segment)) {
    if (droppable([row], newest.segment, [], stream.txidMode).length === 0) continue
    holds ??= await holdsWithoutArchive(context, stream)
    found.push(...droppable([row], newest.segment, holds, stream.txidMode))
    if (found.length === WEIGHED_MAX) break
  }
  return found
}

/**
 * The oldest hot copies of a stream that are verified in the archive: freeing them loses nothing, and needs no leave.
 * The archive can't be asked whether it still has them, or has two that contradict each other; what the scrub last found
 * is remembered, and what it found to be bad keeps its hot copy (invariants 4, 9).
 */
export async function freeableRows(context: TieringContext, stream: StreamRow): Promise<SegmentRow[]> {
  const rows = await context.index.listHotSegments(stream.incarnation, WEIGHED_MAX)
  const isAlarmed = await alarmedSegments(context.index)
  const nowMs = context.ledger.clock.nowMs()
  // What somebody asked to be hot stays as long as that was asked for.
  return rows.filter(
    (row) => row.state === 'archived' && (row.recalledUntilMs ?? 0) <= nowMs && !isAlarmed(row),
  )
}

/**
 * Makes room by one segment under the stream's lease. The hot copy of one that the archive has goes, although the
 * archive can't be asked once more: it was verified (invariant 4), and otherwise what no archive has would go. Of others
 * the gap is committed before anything is freed. Null: another agent is at the stream, or it is not as it was.
 */
export async function dropSegment(context: TieringContext, one: Droppable): Promise<SegmentRow | null> {
  const { stream, row } = one
  const name = `tiering/${stream.incarnation}`
  const lease = await context.coordination.acquire(name, { holder: context.logId, waitMs: 0 })
  try {
    if (row.state === 'archived') {
      const fresh = await context.index.segment(stream.incarnation, row.segment)
      if (fresh?.state !== 'archived' || (await alarmedSegments(context.index))(fresh)) return null
      return await evictUnasked(context, lease, fresh)
    }
    const gaps = await decidedAlone(context, stream, async () => {
      const fresh = await context.index.segment(stream.incarnation, row.segment)
      if (fresh?.state !== 'sealed') return []
      // A hold may have come since the choice; one that comes now waits, and finds the gap.
      const holds = await holdsWithoutArchive(context, stream)
      if (holds.some((hold) => bindsRow(stream, fresh, hold))) return []
      const range = { first: row.segment, last: row.segment, reason: 'dropped' } as const
      return commitGap(context, lease, stream, range)
    })
    await freeDropped(context, gaps)
    return gaps[0] ?? null
  } finally {
    await lease.release()
  }
}

/** What was dropped and is not yet seen in the room on the disks. */
export class DropLedger {
  readonly #clock: Clock
  #awaited: { readonly atMs: number; readonly bytes: number }[] = []

  constructor(clock: Clock) {
    this.#clock = clock
  }

  dropped(bytesEach: number): void {
    this.#awaited.push({ atMs: this.#clock.monotonicMs(), bytes: bytesEach })
  }

  /** No disk is short: all of it has come back, or is not needed. */
  settled(): void {
    this.#awaited = []
  }

  /** What is still to be dropped where `shortBytes` are short now. */
  wanted(shortBytes: number): number {
    const since = this.#clock.monotonicMs() - SETTLE_MS
    this.#awaited = this.#awaited.filter(({ atMs }) => atMs > since)
    return Math.max(0, shortBytes - this.#awaited.reduce((sum, { bytes }) => sum + bytes, 0))
  }
}

/**
 * What the archive held of a stream when it was last asked, before it went down. One of which it never was, such as a
 * stream begun since or one of an index that was made again, is not to be touched (invariant 8).
 */
export async function rememberedHolds(
  context: Pick<TieringContext, 'index'>,
  stream: StreamRow,
): Promise<readonly Hold[]> {
  const { index } = context
  const fact = await index.fact(factOf(stream))
  if (fact !== null && fact !== '') return holdsFrom(fact)
  throw new StratalogError(
    'archive_unavailable',
    `what is held of ${stream.name} is not known while the archive does not answer: nothing of it is dropped`,
    { retryable: true },
  )
}

/** Asks the archive what is held of streams that may have to be dropped once it is down, now and then. */
export class HoldsMemory {
  readonly #context: TieringContext
  readonly #askedMs = new Map<string, number>()

  constructor(context: TieringContext) {
    this.#context = context
  }

  async refresh(stream: StreamRow, signal: AbortSignal): Promise<void> {
    const { archive, index, ledger } = this.#context
    const askedMs = this.#askedMs.get(stream.incarnation) ?? Number.NEGATIVE_INFINITY
    if (archive === null || ledger.clock.monotonicMs() - askedMs < REMEMBER_MS) return
    const controls = await readControls(
      await archive(stream.incarnation),
      stream.incarnation,
      undefined,
      signal,
    )
    const held = standingHolds(controls).map((hold) => ({ ...holdBody(hold), kind: hold.kind }))
    const fact = JSON.stringify(held, (_, value: unknown) =>
      typeof value === 'bigint' ? value.toString() : value,
    )
    if ((await index.fact(factOf(stream))) !== fact) await index.setFact(factOf(stream), fact)
    this.#askedMs.set(stream.incarnation, ledger.clock.monotonicMs())
  }
}

function factOf(stream: StreamRow): string {
  return `holds-seen/${stream.incarnation}`
}

/** The bodies as they stood in control objects, read by the same rules. */
function holdsFrom(fact: string): Hold[] {
  const bodies = JSON.parse(fact) as ({ kind: Hold['kind'] } & Record<string, unknown>)[]
  return standingHolds(
    bodies.map((body, at) => ({
      incarnation: null,
      number: BigInt(at + 1),
      kind: body.kind,
      attempt: '',
      key: `what was held of a stream, as the index remembers it (${at + 1})`,
      body,
    })),
  )
}
