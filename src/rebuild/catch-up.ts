import { bindingFact, locationsIn, OWN_ARCHIVES_FACT, ownerFactOf } from '../../archive/bindings.js'
import { ARCHIVE_OWNER_FACT } from '../../archive/control-objects.js'
import {
  byAge,
  type DecidedGap,
  type DecidedStream,
  type Decision,
  type RecordedDecision,
} from '../format/control-frame.js'
import type { LedgerContext } from '../ledger/context.js'
import { isStratalogError } from '../model/errors.js'
import type { Incarnation, StreamRow } from '../model/segment.js'
import type { Logger } from '../ports/logger.js'
import type { SegmentIndex } from '../ports/segment-index.js'
import {
  type DecidedState,
  type DecisionWriter,
  type FoundDecisions,
  foldDecisions,
  isGivenUp,
} from './decisions.js'
import { gapOf, MARK_FACT, type RecordedIndex, SEQUENCE_FACT, trimOf } from './recorded-index.js'

const STREAMS_PAGE = 1_000
/** Gaps looked at in one start; what is beyond has its turn when these are written down. */
const GAPS_MAX = 10_000
/** More decisions than anybody attempts in one life of a log while stores are away. */
const SEQUENCES_LEFT_OUT = 2n ** 20n
/** The fact that is the last number left out so far. */
const LEFT_OUT_FACT = 'sequences-left-out'

/** The sequence of the newest decision an index knows of; 0n: it is from before there were any. */
async function knownSequence(index: SegmentIndex): Promise<bigint> {
  return BigInt((await index.fact(SEQUENCE_FACT)) ?? '0')
}

/** The sequence of the newest mark an index knows of; 0n: none. */
export async function knownMark(index: SegmentIndex): Promise<bigint> {
  return BigInt((await index.fact(MARK_FACT)) ?? '0')
}

/**
 * The highest sequence that may have been used: a mark that only the index knows of must not be drawn again. Where a
 * store could not be read many are left out: it may hold decisions that failed for want of other stores, and one of
 * those under the number of a later decision could outvote it.
 */
export async function lastSequence(
  index: SegmentIndex,
  found: Pick<FoundDecisions, 'recorded' | 'unread'>,
): Promise<bigint> {
  const leftOut = BigInt((await index.fact(LEFT_OUT_FACT)) ?? '0')
  const decided = foldDecisions(found.recorded).sequence
  const known = [decided, await knownSequence(index), await knownMark(index), leftOut]
  const highest = known.reduce((a, b) => (a > b ? a : b))
  if (found.unread.length === 0) return highest
  // Noted first: the next life with a store away must not leave out the same numbers and begin where this one did.
  const through = highest + SEQUENCES_LEFT_OUT
  await index.setFact(LEFT_OUT_FACT, through.toString())
  return through
}

/**
 * Brings an index forward to decisions that the stores have and it has not: a crash came between the two, or a copy
 * from before them was put back. Each is applied as it stands, so that doing it twice changes nothing.
 */
export async function catchUp(index: SegmentIndex, found: FoundDecisions, logger: Logger): Promise<void> {
  const known = await knownSequence(index)
  const newerDecisions = found.recorded.filter(({ sequence }) => sequence > known)
  const newer = foldDecisions(newerDecisions)
  if (newer.sequence <= known) return
  await catchUpNames(index, newer, logger)
  for (const [incarnation, atMs] of newer.deleted) {
    const row = await index.stream(incarnation)
    if (row !== null) await index.deleteStream(incarnation, row.version, atMs)
  }
  for (const stream of newer.streams.values()) {
    if (newer.deleted.has(stream.incarnation)) continue
    if ((await index.stream(stream.incarnation)) !== null) continue
    const taken = await index.streamByName(stream.name)
    if (taken === null) await index.createStream(stream)
    else logger.warn({ stream: stream.name }, 'a stream that was decided and never made stays unmade')
  }
  for (const [incarnation, { below }] of newer.trims) {
    const stream = await index.stream(incarnation)
    if (stream === null || (stream.trimmedBelow !== null && stream.trimmedBelow.compare(below) >= 0)) continue
    await index.updateStream(incarnation, stream.version, { trimmedBelow: below })
  }
  for (const [incarnation, finishedMs] of newer.finished) {
    const stream = await index.stream(incarnation)
    if (stream === null || stream.finishedMs !== null) continue
    await index.updateStream(incarnation, stream.version, { finishedMs })
  }
  for (const [incarnation, policy] of newer.policies)
    if ((await index.stream(incarnation)) !== null) await index.setPolicyOverride(incarnation, policy)
  for (const [incarnation, gaps] of newer.gaps) await catchUpDropped(index, incarnation, gaps)
  await catchUpHolds(index, newerDecisions)
  for (const [name, value] of newer.facts) await index.setFact(name, value)
  await index.setFact(SEQUENCE_FACT, newer.sequence.toString())
}

/** One by one in their order: a release may name a hold that the index knows already. */
async function catchUpHolds(index: SegmentIndex, newer: readonly RecordedDecision[]): Promise<void> {
  for (const { decision } of [...newer].sort(byAge)) {
    if (decision.kind !== 'hold' && decision.kind !== 'release') continue
    const { incarnation } = decision
    if ((await index.stream(incarnation)) === null) continue
    if (decision.kind === 'hold') await index.putHold(incarnation, decision.hold)
    else await index.releaseHold(incarnation, decision.id, decision.atMs)
  }
}

/**
 * A crash came between the decision to drop segments and their rows. As a rebuild does, the decision is taken for what
 * it is; only what reached the archive meanwhile is no gap. Others than dropped ones follow what is found.
 */
async function catchUpDropped(
  index: SegmentIndex,
  incarnation: Incarnation,
  gaps: readonly DecidedGap[],
): Promise<void> {
  for (const { first, last, reason } of gaps) {
    for (let segment = first; reason === 'dropped' && segment <= last; segment += 1n) {
      const row = await index.segment(incarnation, segment)
      if (row?.state === 'sealed') await index.updateSegment(row, { state: 'gap', gapReason: reason })
    }
  }
}

/** New names of streams there are; one that frees a name for another has it first. */
async function catchUpNames(
  index: SegmentIndex,
  { streams, deleted }: DecidedState,
  logger: Logger,
): Promise<void> {
  let left = [...streams.values()].filter(({ incarnation }) => !deleted.has(incarnation))
  for (let before = -1; left.length !== before; ) {
    before = left.length
    const waiting: typeof left = []
    for (const stream of left) {
      const row = await index.stream(stream.incarnation)
      if (row === null || row.name === stream.name) continue
      if ((await index.streamByName(stream.name)) !== null) waiting.push(stream)
      else await index.updateStream(row.incarnation, row.version, { name: stream.name })
    }
    left = waiting
    // Streams that took each other's names: one of them steps aside.
    const holder = left.length === before ? await heldInTurn(index, left) : null
    if (holder === null) continue
    await index.updateStream(holder.incarnation, holder.version, { name: holder.incarnation })
    before = -1
  }
  for (const { name } of left)
    logger.warn({ stream: name }, 'a name that was decided is taken, it stays ungiven')
}

/** A stream that has the name of another and waits for one itself. */
async function heldInTurn(index: SegmentIndex, waiting: readonly DecidedStream[]): Promise<StreamRow | null> {
  const all = new Set(waiting.map(({ incarnation }) => incarnation))
  for (const { name } of waiting) {
    const holder = await index.streamByName(name)
    if (holder !== null && all.has(holder.incarnation)) return holder
  }
  return null
}

/**
 * Writes decisions for what the index holds and the stores lack: those of a log that 0.1.0 made, and what an attempt
 * that failed left half told. With too few stores it is left for the next start.
 */
export async function recordWhatLacks(
  context: LedgerContext,
  index: RecordedIndex,
  decisions: DecisionWriter,
  decided: DecidedState,
): Promise<void> {
  try {
    const owner = await index.fact(ARCHIVE_OWNER_FACT)
    if (owner !== null && decided.facts.get(ARCHIVE_OWNER_FACT) !== owner)
      await decisions.write({ kind: 'fact', name: ARCHIVE_OWNER_FACT, value: owner })
    const all = await index.fact(OWN_ARCHIVES_FACT)
    for (const name of [OWN_ARCHIVES_FACT, ...locationsIn(all).map(ownerFactOf)]) {
      const value = await index.fact(name)
      if (value !== null && decided.facts.get(name) !== value)
        await decisions.write({ kind: 'fact', name, value })
    }
    for (const row of await index.segmentsInState(['gap'], GAPS_MAX))
      if (!isGivenUp(decided, row.incarnation, row.segment)) await decisions.write(gapOf(row))
    for await (const stream of streamsOf(index)) {
      for (const decision of await lackingOf(index, decided, stream)) await decisions.write(decision)
    }
  } catch (error) {
    if (!isStratalogError(error, 'not_enough_stores')) throw error
    const message = 'decisions could not be written to enough stores, it is tried at the next start'
    context.logger.warn({ err: error }, message)
  }
}

async function lackingOf(
  index: RecordedIndex,
  decided: DecidedState,
  row: StreamRow,
): Promise<readonly Decision[]> {
  const { incarnation, name, txidMode, createdMs, parent } = row
  if (decided.deleted.has(incarnation)) return []
  const lacking: Decision[] = []
  const there = decided.streams.get(incarnation)
  if (there?.name !== name || there.txidMode !== txidMode)
    lacking.push({ kind: 'stream', stream: { incarnation, name, txidMode, createdMs, parent } })
  if (row.finishedMs !== null && !decided.finished.has(incarnation))
    lacking.push({ kind: 'finish', incarnation, finishedMs: row.finishedMs })
  const below = decided.trims.get(incarnation)?.below ?? null
  if (row.trimmedBelow !== null && (below === null || below.compare(row.trimmedBelow) < 0))
    lacking.push(await trimOf(index, row))
  const policy = await index.policyOverride(incarnation)
  if ((decided.policies.get(incarnation) ?? null) !== policy)
    lacking.push({ kind: 'policy', incarnation, policy })
  const bound = await index.fact(bindingFact(incarnation))
  if (bound !== null && decided.facts.get(bindingFact(incarnation)) !== bound)
    lacking.push({ kind: 'fact', name: bindingFact(incarnation), value: bound })
  return lacking
}

async function* streamsOf(index: SegmentIndex): AsyncGenerator<StreamRow> {
  for (let after = ''; ; ) {
    const page = await index.listStreams(after, STREAMS_PAGE)
    yield* page
    const last = page.at(-1)
    if (last === undefined || page.length < STREAMS_PAGE) return
    after = last.name
  }
}
