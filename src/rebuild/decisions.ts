import {
  byAge,
  type DecidedGap,
  type DecidedRecall,
  type DecidedStream,
  type DecidedTrim,
  type Decision,
  decodeDecision,
  encodeDecision,
  type RecordedDecision,
} from '../format/control-frame.js'
import { ask, type LedgerContext } from '../ledger/context.js'
import { StratalogError } from '../model/errors.js'
import type { KeptHold } from '../model/hold.js'
import type { Incarnation } from '../model/segment.js'
import type { Random } from '../ports/random.js'
import type { ControlFrame } from '../ports/segment-store.js'

const NONCE_BYTES = 8
/** Frames sent to one store side by side when it is brought up to date. */
const PUTS_AT_ONCE = 64

/** Every decision that the readable stores hold. */
export interface FoundDecisions {
  /** Older first. */
  readonly recorded: readonly RecordedDecision[]
  /** Stores that could not be read, with why. */
  readonly unread: readonly { readonly store: string; readonly error: unknown }[]
  /** By store, the frames that others have and it has not. */
  readonly lacking: ReadonlyMap<string, readonly ControlFrame[]>
}

/** What all decisions together come to. */
export interface DecidedState {
  readonly streams: ReadonlyMap<Incarnation, DecidedStream>
  /** When streams were ended for ever. */
  readonly finished: ReadonlyMap<Incarnation, number>
  /** When streams were deleted. */
  readonly deleted: ReadonlyMap<Incarnation, number>
  readonly trims: ReadonlyMap<Incarnation, DecidedTrim>
  readonly policies: ReadonlyMap<Incarnation, string | null>
  readonly facts: ReadonlyMap<string, string>
  /** Ranges of segments that were given up. */
  readonly gaps: ReadonlyMap<Incarnation, readonly DecidedGap[]>
  /** Holds in the order they were put; released ones too: the archive may not know yet. */
  readonly holds: ReadonlyMap<Incarnation, readonly KeptHold[]>
  /** Ranges that were recalled; of two over one segment the later end counts. */
  readonly recalls: ReadonlyMap<Incarnation, readonly DecidedRecall[]>
  /** Ledger ids up to this one may have been given out; 0n: nobody wrote that down. */
  readonly idsThrough: bigint
  /** The newest mark; null: there is none. */
  readonly mark: { readonly sequence: bigint; readonly atMs: number } | null
  /** Of the newest decision; 0n: there is none. */
  readonly sequence: bigint
}

/** Reads the decisions of all stores. One store is enough for each: they are written to several. */
export async function readDecisions(context: LedgerContext): Promise<FoundDecisions> {
  const stores = context.stores.all()
  const lists = await Promise.allSettled(
    stores.map((store) => ask(context, store.id, (one) => one.listControls())),
  )
  const frames = new Map<string, ControlFrame>()
  const unread: { store: string; error: unknown }[] = []
  for (const [at, list] of lists.entries()) {
    if (list.status === 'rejected') unread.push({ store: stores[at]?.id ?? '', error: list.reason })
    else for (const frame of list.value) if (!frames.has(frame.id)) frames.set(frame.id, frame)
  }
  const recorded = [...frames.values()].flatMap(decodeDecision).sort(byAge)
  const ours = new Set(recorded.map(({ id }) => id))
  const lacking = new Map<string, ControlFrame[]>()
  for (const [at, list] of lists.entries()) {
    if (list.status === 'rejected') continue
    const there = new Set(list.value.map(({ id }) => id))
    const absent = [...frames.values()].filter(({ id }) => ours.has(id) && !there.has(id))
    if (absent.length > 0) lacking.set(stores[at]?.id ?? '', absent)
  }
  return { recorded, unread, lacking }
}

/** Folds decisions: the newest of each subject, of trims the largest, of ends the first. */
export function foldDecisions(recorded: readonly RecordedDecision[]): DecidedState {
  const streams = new Map<Incarnation, DecidedStream>()
  const finished = new Map<Incarnation, number>()
  const deleted = new Map<Incarnation, number>()
  const trims = new Map<Incarnation, DecidedTrim>()
  const policies = new Map<Incarnation, string | null>()
  const facts = new Map<string, string>()
  const gaps = new Map<Incarnation, DecidedGap[]>()
  const holds = new Map<Incarnation, KeptHold[]>()
  const recalls = new Map<Incarnation, DecidedRecall[]>()
  let idsThrough = 0n
  let mark: DecidedState['mark'] = null
  let newest = 0n
  for (const { sequence, decision } of [...recorded].sort(byAge)) {
    newest = sequence
    if (decision.kind === 'stream') streams.set(decision.stream.incarnation, decision.stream)
    else if (decision.kind === 'delete') deleted.set(decision.incarnation, decision.atMs)
    else if (decision.kind === 'finish') {
      // What ended once ended then: a second attempt of a writer that heard nothing of its first changes nothing.
      if (!finished.has(decision.incarnation)) finished.set(decision.incarnation, decision.finishedMs)
    } else if (decision.kind === 'trim') raiseTrim(trims, decision.incarnation, decision)
    else if (decision.kind === 'policy') policies.set(decision.incarnation, decision.policy)
    else if (decision.kind === 'fact') facts.set(decision.name, decision.value)
    else if (decision.kind === 'gap') {
      const { incarnation, kind: _, ...gap } = decision
      gaps.set(incarnation, [...(gaps.get(incarnation) ?? []), gap])
    } else if (decision.kind === 'recall') {
      const { incarnation, first, last, untilMs } = decision
      recalls.set(incarnation, [...(recalls.get(incarnation) ?? []), { first, last, untilMs }])
    } else if (decision.kind === 'hold' || decision.kind === 'release') foldHold(holds, decision)
    else if (decision.kind === 'mark') mark = { sequence, atMs: decision.atMs }
    else if (decision.through > idsThrough) idsThrough = decision.through
  }
  return {
    streams,
    finished,
    deleted,
    trims,
    policies,
    facts,
    gaps,
    holds,
    recalls,
    idsThrough,
    mark,
    sequence: newest,
  }
}

/** As the index does: a hold takes the place of one with its id, a release marks it. */
function foldHold(
  holds: Map<Incarnation, KeptHold[]>,
  decision: Extract<Decision, { kind: 'hold' | 'release' }>,
): void {
  const kept = holds.get(decision.incarnation) ?? []
  const changed =
    decision.kind === 'hold'
      ? [...kept.filter(({ id }) => id !== decision.hold.id), { ...decision.hold, releasedMs: null }]
      : kept.map((hold) =>
          hold.id === decision.id && hold.releasedMs === null ? { ...hold, releasedMs: decision.atMs } : hold,
        )
  holds.set(decision.incarnation, changed)
}

/** Whether a segment was given up. */
export function isGivenUp(decided: DecidedState, incarnation: Incarnation, segment: bigint): boolean {
  return gapAt(decided.gaps.get(incarnation) ?? [], segment) !== null
}

/** The last of these gaps that covers a segment; null: none does. */
export function gapAt(gaps: readonly DecidedGap[], segment: bigint): DecidedGap | null {
  return gaps.findLast(({ first, last }) => first <= segment && segment <= last) ?? null
}

/** Until when a segment is to stay hot; null: nobody said so. */
export function recalledUntil(
  decided: DecidedState,
  incarnation: Incarnation,
  segment: bigint,
): number | null {
  const of = (decided.recalls.get(incarnation) ?? []).filter(
    ({ first, last }) => first <= segment && segment <= last,
  )
  return of.length === 0 ? null : Math.max(...of.map(({ untilMs }) => untilMs))
}

function raiseTrim(
  trims: Map<Incarnation, DecidedTrim>,
  incarnation: Incarnation,
  { below, tail }: DecidedTrim,
): void {
  const before = trims.get(incarnation)
  const order = before === undefined ? 1 : below.compare(before.below)
  if (order > 0 || (order === 0 && tail !== null)) trims.set(incarnation, { below, tail })
}

/** Gives each readable store the decisions it lacks: one that was away or is new. What fails is tried at the next start. */
export async function spreadDecisions(context: LedgerContext, found: FoundDecisions): Promise<void> {
  for (const [store, frames] of found.lacking) {
    try {
      for (let from = 0; from < frames.length; from += PUTS_AT_ONCE) {
        const some = frames.slice(from, from + PUTS_AT_ONCE)
        await Promise.all(some.map((frame) => ask(context, store, (one) => one.putControl(frame))))
      }
    } catch (error) {
      const message = 'a store could not be given the decisions it lacks, it is tried at the next start'
      context.logger.warn({ err: error, store }, message)
    }
  }
}

/** Writes decisions: each is durable on `storesMin` stores before it counts. */
export class DecisionWriter {
  readonly #context: LedgerContext
  readonly #random: Random
  readonly #storesMin: number
  #sequence: bigint

  /** `sequence`: the highest that was ever used. */
  constructor(context: LedgerContext, random: Random, storesMin: number, sequence: bigint) {
    this.#context = context
    this.#random = random
    this.#storesMin = storesMin
    this.#sequence = sequence
  }

  /** A sequence for one decision that the index is to know of before the stores do. */
  nextSequence(): bigint {
    this.#sequence += 1n
    return this.#sequence
  }

  /**
   * Resolves with the sequence once `storesMin` stores have the decision; `not_enough_stores` when that can't be
   * any more. A decision that failed this way may still be on a store: like any write without an answer it may count
   * later or never.
   */
  async write(decision: Decision, sequence: bigint = this.nextSequence()): Promise<bigint> {
    const frame = encodeDecision(sequence, this.#random.bytes(NONCE_BYTES), decision)
    await this.#put(decision, frame)
    return sequence
  }

  /** A store that hangs does not hold up the others: it gets the frame when it answers, or at the next start. */
  #put(decision: Decision, frame: ControlFrame): Promise<void> {
    const stores = this.#context.stores.all()
    const { logger } = this.#context
    let written = 0
    return new Promise((resolve, reject) => {
      const put = async (store: string) => {
        try {
          await ask(this.#context, store, (one) => one.putControl(frame))
          written += 1
          if (written >= this.#storesMin) resolve()
          return null
        } catch (error) {
          logger.warn({ err: error, store, kind: decision.kind }, 'a store did not take a decision')
          return error
        }
      }
      void Promise.all(stores.map(({ id }) => put(id))).then((failures) => {
        // Without effect where enough stores had it before.
        const cause = failures.find((one) => one !== null)
        reject(tooFew(decision, this.#storesMin, written, cause))
      })
    })
  }
}

function tooFew(decision: Decision, needed: number, written: number, cause: unknown): StratalogError {
  return new StratalogError(
    'not_enough_stores',
    `a decision (${decision.kind}) must be on ${needed} stores and could be written to ${written}: see "stratalog tier status"`,
    { cause, retryable: true, expected: needed, found: written },
  )
}
