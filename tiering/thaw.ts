import { present } from '../src/model/assert.js'
import { isStratalogError } from '../src/model/errors.js'
import type { Incarnation, SegmentRow } from '../src/model/segment.js'
import type { ArchiveStore } from '../src/ports/archive-store.js'
import type { TieringContext } from './context.js'

/**
 * How long an object that was thawed stays readable: it is copied as soon as it can be, but a process that is away over
 * a weekend must not have to begin again.
 */
const READABLE_MS = 3 * 86_400_000
/** Objects asked for at a time. */
const ASKED_AT_ONCE = 8
/** The archive is asked again after the first of these, then after twice as long, up to the last. */
const ASK_MS_MIN = 60_000
const ASK_MS_MAX = 15 * 60_000
/** Spans of one stream that are waited for; more are put together. */
const WAITS_MAX = 100

/** Segments that follow one another. */
export interface SegmentSpan {
  readonly first: bigint
  readonly last: bigint
}

/** A part of a stream that is to be recalled as soon as its objects can be read. */
export interface ThawWait extends SegmentSpan {
  /** How long what comes back is to stay hot, from then on. */
  readonly forMs: number
  /** When the archive was first asked. */
  readonly sinceMs: number
  readonly nextAskMs: number
  readonly asks: number
  /** Why it did not come back although it could be read; null: it can't be read yet. */
  readonly problem: string | null
}

/**
 * Where the waits of a stream are kept. A fact of the index alone: nothing is lost with it but the asking, and a recall
 * run again asks again.
 */
const factOf = (incarnation: Incarnation): string => `thaw/${incarnation}`

/** What of a stream is waited for, oldest segment first. */
export async function thawWaits(
  { index }: Pick<TieringContext, 'index'>,
  incarnation: Incarnation,
): Promise<readonly ThawWait[]> {
  const text = await index.fact(factOf(incarnation))
  if (text === null || text === '') return []
  const raw = JSON.parse(text) as (Omit<ThawWait, 'first' | 'last'> & { first: string; last: string })[]
  return raw.map((one) => ({ ...one, first: BigInt(one.first), last: BigInt(one.last) }))
}

/** Since when a segment is waited for; null: it is not. */
export async function thawingSince(
  context: Pick<TieringContext, 'index'>,
  { incarnation, segment }: Pick<SegmentRow, 'incarnation' | 'segment'>,
): Promise<number | null> {
  const waits = await thawWaits(context, incarnation)
  return waits.find((one) => isWithin([one], segment))?.sinceMs ?? null
}

async function saveWaits(
  { index }: Pick<TieringContext, 'index'>,
  incarnation: Incarnation,
  waits: readonly ThawWait[],
): Promise<void> {
  const plain = waits.map((one) => ({ ...one, first: `${one.first}`, last: `${one.last}` }))
  await index.setFact(factOf(incarnation), plain.length === 0 ? '' : JSON.stringify(plain))
}

/**
 * Asks that the objects of these rows can be read, all of them before the first is copied: each may take hours, and
 * they take them together. The segments that can't be read yet.
 */
export async function askThaw(
  archive: ArchiveStore,
  rows: AsyncIterable<SegmentRow>,
  signal: AbortSignal,
): Promise<SegmentSpan[]> {
  const { thaw } = archive
  if (thaw === undefined) return []
  const frozen: { first: bigint; last: bigint }[] = []
  const ask = async (row: SegmentRow) => {
    signal.throwIfAborted()
    const { key } = present(row.object, 'object of a cold segment')
    return (await thaw.call(archive, key, READABLE_MS, signal)) === 'readable' ? null : row.segment
  }
  const take = async (batch: readonly SegmentRow[]) => {
    for (const segment of await Promise.all(batch.map(ask))) {
      const last = frozen.at(-1)
      if (segment === null) continue
      if (last !== undefined && last.last + 1n === segment) last.last = segment
      else frozen.push({ first: segment, last: segment })
    }
  }
  let batch: SegmentRow[] = []
  for await (const row of rows) {
    if (row.state !== 'cold') continue
    batch.push(row)
    if (batch.length < ASKED_AT_ONCE) continue
    await take(batch)
    batch = []
  }
  await take(batch)
  return frozen
}

/** How many segments there are in spans. */
export function segmentsOf(spans: readonly SegmentSpan[]): number {
  return spans.reduce((sum, { first, last }) => sum + Number(last - first + 1n), 0)
}

/** Whether a segment is in one of them. */
export function isWithin(spans: readonly SegmentSpan[], segment: bigint): boolean {
  return spans.some(({ first, last }) => first <= segment && segment <= last)
}

/**
 * Takes note of segments that can't be read yet. What was waited for before goes on being waited for since then, and
 * what of it can be read by now stays noted until it was brought back (`forgetThawed`): a crash before that loses none.
 */
export async function noteFrozen(
  context: Pick<TieringContext, 'index' | 'ledger'>,
  incarnation: Incarnation,
  frozen: readonly SegmentSpan[],
  forMs: number,
): Promise<void> {
  if (frozen.length === 0) return
  const before = await thawWaits(context, incarnation)
  const kept = frozen.reduce<readonly ThawWait[]>(
    (waits, span) => waits.flatMap((wait) => outside(wait, span)),
    before,
  )
  const nowMs = context.ledger.clock.nowMs()
  const noted = frozen.map((span): ThawWait => {
    const earlier = before.filter((wait) => overlap(wait, span))
    const asks = Math.max(0, ...earlier.map((wait) => wait.asks)) + 1
    const sinceMs = Math.min(nowMs, ...earlier.map((wait) => wait.sinceMs))
    return { ...span, forMs, sinceMs, nextAskMs: nowMs + pauseMs(asks), asks, problem: null }
  })
  const all = [...kept, ...noted].sort((a, b) => (a.first < b.first ? -1 : 1))
  await saveWaits(context, incarnation, merged(all))
}

/** Waits no longer for anything of a range but what is still frozen. */
export async function forgetThawed(
  context: Pick<TieringContext, 'index'>,
  incarnation: Incarnation,
  range: SegmentSpan,
  frozen: readonly SegmentSpan[] = [],
): Promise<void> {
  const before = await thawWaits(context, incarnation)
  if (before.length === 0) return
  const left = before.flatMap((wait) => [
    ...outside(wait, range),
    ...frozen.flatMap((one) => common(wait, one)),
  ])
  await saveWaits(
    context,
    incarnation,
    left.sort((a, b) => (a.first < b.first ? -1 : 1)),
  )
}

function overlap(one: SegmentSpan, other: SegmentSpan): boolean {
  return one.first <= other.last && other.first <= one.last
}

/** What of a wait lies outside a span. */
function outside(wait: ThawWait, { first, last }: SegmentSpan): ThawWait[] {
  if (!overlap(wait, { first, last })) return [wait]
  const before = wait.first < first ? [{ ...wait, last: first - 1n }] : []
  const behind = wait.last > last ? [{ ...wait, first: last + 1n }] : []
  return [...before, ...behind]
}

/** What of a wait lies within a span. */
function common(wait: ThawWait, { first, last }: SegmentSpan): ThawWait[] {
  if (!overlap(wait, { first, last })) return []
  const least = (a: bigint, b: bigint) => (a < b ? a : b)
  const most = (a: bigint, b: bigint) => (a > b ? a : b)
  return [{ ...wait, first: most(wait.first, first), last: least(wait.last, last) }]
}

/** Many small ones become few larger ones: what lies between is asked for as well, and is readable or hot. */
function merged(waits: readonly ThawWait[]): readonly ThawWait[] {
  if (waits.length <= WAITS_MAX) return waits
  const all: ThawWait[] = []
  const each = Math.ceil(waits.length / WAITS_MAX)
  for (let at = 0; at < waits.length; at += each) {
    const group = waits.slice(at, at + each)
    const head = present(group[0], 'a wait')
    all.push({
      ...head,
      last: present(group.at(-1), 'a wait').last,
      forMs: Math.max(...group.map(({ forMs }) => forMs)),
      sinceMs: Math.min(...group.map(({ sinceMs }) => sinceMs)),
    })
  }
  return all
}

function pauseMs(asks: number): number {
  return Math.min(ASK_MS_MAX, ASK_MS_MIN * 2 ** Math.min(asks - 1, 10))
}

/**
 * Goes on with what of a stream is waited for and due: `recall` asks again, and brings back what can be read by now.
 * What fails is said with the wait and tried again: nothing else of the stream waits for it.
 */
export async function settleThaws(
  context: Pick<TieringContext, 'index' | 'ledger'>,
  incarnation: Incarnation,
  options: { readonly now: boolean; readonly signal: AbortSignal },
  recall: (span: SegmentSpan, forMs: number) => Promise<void>,
): Promise<void> {
  const { clock, logger } = context.ledger
  for (const wait of await thawWaits(context, incarnation)) {
    if (!options.now && wait.nextAskMs > clock.nowMs()) continue
    try {
      await recall(wait, wait.forMs)
    } catch (error) {
      options.signal.throwIfAborted()
      if (!isStratalogError(error)) throw error
      // Somebody recalls by hand, or works on the stream: the next pass looks again.
      if (error.code === 'conflict' || error.code === 'lease_lost') continue
      logger.warn(
        { err: error, incarnation, first: `${wait.first}` },
        'a recall of what thaws is tried again',
      )
      await notedProblem(context, incarnation, wait, error.message)
    }
  }
}

async function notedProblem(
  context: Pick<TieringContext, 'index' | 'ledger'>,
  incarnation: Incarnation,
  span: SegmentSpan,
  problem: string,
): Promise<void> {
  const nowMs = context.ledger.clock.nowMs()
  const waits = (await thawWaits(context, incarnation)).map((one) => {
    if (!overlap(one, span)) return one
    return { ...one, problem, asks: one.asks + 1, nextAskMs: nowMs + pauseMs(one.asks + 1) }
  })
  await saveWaits(context, incarnation, waits)
}
