import type { LedgerContext } from '../src/ledger/context.js'
import { repairLedger } from '../src/ledger/repair.js'
import type { ColdCopies } from '../src/ledger/share-filler.js'
import { emptyReport, type UnrepairableEntry } from '../src/ledger/share-report.js'
import { present } from '../src/model/assert.js'
import type { Policy } from '../src/model/policy.js'
import type { StreamRow } from '../src/model/segment.js'
import type { SegmentIndex } from '../src/ports/segment-index.js'
import { isGivenUp, logUnrepairable } from './given-up.js'
import { Pace } from './pace.js'
import type { PassOutcome } from './pass-loop.js'

/** Where the position is kept. */
const FACT = 'scrub'
/** Bounds of the rate that follows from how much there is and how long a pass may take. */
const RATE_MIN = 2 ** 20
const RATE_MAX = 256 * 2 ** 20
/** A pass is planned to be done in this part of its time: the rest is for a log that is not always open. */
const PLANNED_PART = 0.8
/** Unrepairable entries that are named; more than that needs no list. */
const NAMED_MAX = 100
const STREAMS_PAGE = 1_000
/** The position is written at most this often: what is scrubbed twice after a crash is little. */
const SAVE_MS = 2_000

/** Where the scrub is and what it found, as it is remembered over restarts. */
export interface ScrubState {
  /** Null: no pass has begun yet. */
  readonly passStartedMs: number | null
  /** When the pass under way is to be over. */
  readonly passEndsMs: number | null
  /** End of the last pass that came to its end; null: none yet. */
  readonly lastPassMs: number | null
  /** The pass under way is over and waits for its time to begin again. */
  readonly idle: boolean
  /** Ledgers up to here are done in this pass. */
  readonly after: bigint
  readonly doneBytes: number
  readonly totalBytes: number
  /** Copies mended by scrubs since the log was made. */
  readonly repaired: number
  /** Copies that nothing can be taken for, as each was last looked at. */
  readonly unrepairable: readonly UnrepairableEntry[]
  /** Copies that could not be looked at in this pass, because a store was away. */
  readonly unreached: number
}

const FRESH: ScrubState = {
  passStartedMs: null,
  passEndsMs: null,
  lastPassMs: null,
  idle: false,
  after: -1n,
  doneBytes: 0,
  totalBytes: 0,
  repaired: 0,
  unrepairable: [],
  unreached: 0,
}

export interface ScrubContext {
  readonly ledger: LedgerContext
  readonly index: SegmentIndex
  readonly cold: ColdCopies | null
  readonly policy: (stream: StreamRow) => Promise<{ readonly policy: Policy }>
}

/**
 * Reads every copy of every closed ledger once in each `scrub.full-pass`, and mends what is bad (invariant 9): damage
 * that no reader meets would else wait until the last good copy is gone too. Ledgers come in the order of their ids,
 * so one number says where the scrub is, and what is begun meanwhile is at the end. It goes at the rate that gets it
 * through in time. What can't be mended is named and stays as it is: nothing is deleted.
 */
export class Scrub {
  readonly #context: ScrubContext
  readonly #pace: Pace
  #state: ScrubState | null = null
  #rate = RATE_MIN
  #savedMs = Number.NEGATIVE_INFINITY

  constructor(context: ScrubContext) {
    this.#context = context
    this.#pace = new Pace(context.ledger.clock, () => this.#rate)
  }

  /** Where it is now. */
  async state(): Promise<ScrubState> {
    this.#state ??= decode(await this.#context.index.fact(FACT))
    return this.#state
  }

  /** Scrubs the next ledger, or ends the pass, or waits for the next; says when it wants to be called again. */
  async step(signal: AbortSignal): Promise<PassOutcome> {
    const nowMs = this.#context.ledger.clock.nowMs()
    let state = await this.state()
    if (state.idle && state.passEndsMs !== null && nowMs < state.passEndsMs)
      return { failed: [], nextDueMs: state.passEndsMs }
    if (state.passStartedMs === null || state.idle) state = await this.#begin(state)
    else if (state.passEndsMs !== null) this.#setRate(state, state.passEndsMs - state.passStartedMs)
    const [ledgerId] = await this.#context.ledger.metadata.list(state.after, 1)
    if (ledgerId === undefined) {
      await this.#save({ ...state, idle: true, lastPassMs: nowMs, doneBytes: state.totalBytes }, true)
      return { failed: [], nextDueMs: state.passEndsMs }
    }
    await this.#scrub(state, ledgerId, signal)
    return { failed: [], nextDueMs: nowMs }
  }

  /** Writes the position down. */
  async close(): Promise<void> {
    if (this.#state !== null && this.#state.passStartedMs !== null) await this.#save(this.#state, true)
  }

  async #scrub(state: ScrubState, ledgerId: bigint, signal: AbortSignal): Promise<void> {
    const { ledger, cold } = this.#context
    const pace = (sizeBytes: number, stop?: AbortSignal) => this.#pace.take(sizeBytes, stop)
    const skip = await isGivenUp(this.#context, ledgerId)
    const report = skip ? emptyReport() : await repairLedger(ledger, ledgerId, { cold, pace, signal })
    // Evicted or trimmed under the scrub: what it did not find there is not lost.
    const bad = report.unrepairable.length > 0 && !(await isGivenUp(this.#context, ledgerId))
    const found = bad ? report.unrepairable : []
    logUnrepairable(this.#context, found)
    const unrepairable = [...state.unrepairable.filter((entry) => entry.ledgerId !== ledgerId), ...found]
    const done: ScrubState = {
      ...state,
      after: ledgerId,
      doneBytes: state.doneBytes + report.checkedBytes,
      repaired: state.repaired + report.repairedEntries,
      unrepairable: unrepairable.slice(0, NAMED_MAX),
      unreached: state.unreached + report.waitingEntries + report.unreachable.length,
    }
    if (report.repairedEntries > 0) {
      const fields = { ledger: ledgerId.toString(), entries: report.repairedEntries }
      ledger.logger.warn(fields, 'the scrub repaired copies')
    }
    await this.#save(done, report.repairedEntries > 0 || unrepairable.length !== state.unrepairable.length)
  }

  async #begin(before: ScrubState): Promise<ScrubState> {
    const { totalBytes, fullPassMs } = await this.#measure()
    const nowMs = this.#context.ledger.clock.nowMs()
    const state: ScrubState = {
      ...before,
      passStartedMs: nowMs,
      passEndsMs: nowMs + fullPassMs,
      idle: false,
      after: -1n,
      doneBytes: 0,
      totalBytes,
      unrepairable: await this.#stillThere(before.unrepairable),
      unreached: 0,
    }
    this.#setRate(state, fullPassMs)
    await this.#save(state, true)
    return state
  }

  #setRate({ totalBytes }: ScrubState, fullPassMs: number): void {
    const needed = (totalBytes * 1_000) / Math.max(1, fullPassMs * PLANNED_PART)
    this.#rate = Math.min(RATE_MAX, Math.max(RATE_MIN, needed))
  }

  /** A ledger that is gone by now has been trimmed or evicted: nothing of it is looked at any more. */
  async #stillThere(entries: readonly UnrepairableEntry[]): Promise<UnrepairableEntry[]> {
    const kept: UnrepairableEntry[] = []
    for (const entry of entries) {
      const [found] = await this.#context.ledger.metadata.list(entry.ledgerId - 1n, 1)
      if (found === entry.ledgerId) kept.push(entry)
    }
    return kept
  }

  /** What there is to read, with every copy, and the shortest time any stream wants it read in. */
  async #measure(): Promise<{ totalBytes: number; fullPassMs: number }> {
    const { index } = this.#context
    let totalBytes = 0
    let fullPassMs = Number.POSITIVE_INFINITY
    for (let after = ''; ; ) {
      const page = await index.listStreams(after, STREAMS_PAGE)
      for (const stream of page) {
        const { policy } = await this.#context.policy(stream)
        fullPassMs = Math.min(fullPassMs, policy.scrub.fullPassMs)
        totalBytes += (await index.totals(stream.incarnation)).hotBytes * policy.quorum.copies
      }
      if (page.length < STREAMS_PAGE) break
      after = present(page.at(-1), 'a stream').name
    }
    // Without streams there is nothing to read, and a while to wait for some.
    return { totalBytes, fullPassMs: fullPassMs === Number.POSITIVE_INFINITY ? 60_000 : fullPassMs }
  }

  async #save(state: ScrubState, now: boolean): Promise<void> {
    this.#state = state
    const sinceMs = this.#context.ledger.clock.monotonicMs() - this.#savedMs
    if (!now && sinceMs < SAVE_MS) return
    this.#savedMs = this.#context.ledger.clock.monotonicMs()
    await this.#context.index.setFact(FACT, encode(state))
  }
}

function encode(state: ScrubState): string {
  return JSON.stringify(state, (_, value: unknown) => (typeof value === 'bigint' ? value.toString() : value))
}

/** A position that can't be read is none: the scrub begins anew. */
function decode(text: string | null): ScrubState {
  if (text === null) return FRESH
  try {
    const raw = JSON.parse(text) as Record<keyof ScrubState, unknown>
    return {
      ...FRESH,
      ...(raw as Partial<ScrubState>),
      after: BigInt(String(raw.after)),
      unrepairable: (raw.unrepairable as Record<keyof UnrepairableEntry, string>[]).map((entry) => ({
        ledgerId: BigInt(entry.ledgerId),
        entryId: BigInt(entry.entryId),
        storeId: entry.storeId,
        reason: entry.reason,
      })),
    }
  } catch {
    return FRESH
  }
}
