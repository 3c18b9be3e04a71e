import { effectiveRollAge, type ResolvedPolicy } from '../src/model/policy.js'
import { isClosed, isHot, type SegmentRow, type StreamRow } from '../src/model/segment.js'
import type { TieringContext } from './context.js'
import { purgedAfterMs } from './foreign.js'
import { knownHolds } from './holds.js'
import { listSegmentsUpTo } from './list-segments.js'
import type { Outage } from './outage.js'
import { type PlannedAction, plan } from './plan.js'
import { SteadyTime } from './steady-time.js'
import { windowAt } from './window.js'

/** Rows of one stream that are planned with at a time: the oldest there are, and the oldest with a hot copy. */
const OLDEST_MAX = 1_000
/** A pass looks at so many of the oldest first: while none of them is due to be trimmed, no later one is. */
export const OLDEST_FIRST = 4
const HOT_MAX = 10_000
/** The fact that tells the next process what time it was. */
const STEADY_FACT = 'steady-time'
/** Jumps are of days: so often is enough. */
const REMEMBER_MS = 3_600_000

/** What is to be done with a stream, and the policy that says so. */
export interface StreamPlan {
  readonly stream: StreamRow
  readonly policy: ResolvedPolicy
  readonly actions: readonly PlannedAction[]
  /** Segments that no archive has, oldest first, the open one among them; of very many the oldest. */
  readonly uncopied: readonly SegmentRow[]
}

/** Asks the world what `plan` depends on, in bounded memory. */
export class Planner {
  readonly #context: TieringContext
  readonly #outage: Pick<Outage, 'answers' | 'pressedBytes'>
  readonly #steady: SteadyTime
  #recalled = false
  #remembered: { readonly atMs: number; readonly ahead: boolean } | null = null

  constructor(context: TieringContext, outage: Pick<Outage, 'answers' | 'pressedBytes'>) {
    this.#context = context
    this.#outage = outage
    this.#steady = new SteadyTime(context.ledger.clock, context.ledger.logger)
  }

  /** Leaves to the next process what time it is. */
  async remember(): Promise<void> {
    const { clock, logger } = this.#context.ledger
    await this.#recall()
    const { ahead } = this.#steady
    const before = this.#remembered
    const atMs = clock.monotonicMs()
    if (before !== null && before.ahead === ahead && atMs - before.atMs < REMEMBER_MS) return
    try {
      await this.#context.index.setFact(STEADY_FACT, this.#steady.left)
      this.#remembered = { atMs, ahead }
    } catch (error) {
      // An index that takes no fact takes no trim either.
      logger.warn({ err: error }, 'what time it is could not be noted, it is tried again')
    }
  }

  async #recall(): Promise<void> {
    if (this.#recalled) return
    const left = await this.#context.index.fact(STEADY_FACT)
    if (!this.#recalled) this.#steady.recall(left)
    this.#recalled = true
  }

  /** What is to be sealed of a stream that a writer of this process has a segment open of: nothing else is asked. */
  async sealsFor(stream: StreamRow): Promise<Pick<StreamPlan, 'stream' | 'actions'>> {
    const policy = await this.#context.policy(stream)
    const newest = await this.#context.index.newestSegment(stream.incarnation)
    const nowMs = this.#context.ledger.clock.nowMs()
    const planned = plan({
      policy,
      segments: newest === null ? [] : [newest],
      open: this.#context.writers.openSegment(stream),
      nowMs,
      holds: [],
      txidMode: stream.txidMode,
      archiveConfigured: false,
      windowOpen: true,
      nextWindowMs: null,
    })
    return { stream, actions: planned.filter(({ kind }) => kind === 'seal') }
  }

  /**
   * Whether nothing of a stream is to be sealed. Of a stream that only we write no more than the newest segment is ever
   * open or half recovered: each one names the seal of the one before it. Writers of others may have left several.
   */
  async isSealed({ incarnation }: StreamRow): Promise<boolean> {
    if (this.#context.ledgersAreShared === true) return false
    const newest = await this.#context.index.newestSegment(incarnation)
    return newest === null || isClosed(newest.state)
  }

  /** What there is to do for a stream, due or not, with so many of its oldest segments. */
  async planFor(stream: StreamRow, oldestMax: number = OLDEST_MAX): Promise<StreamPlan> {
    const policy = await this.#context.policy(stream)
    const { segments, unlistedBytes } = await this.#segmentsOf(stream, oldestMax)
    await this.#recall()
    const nowMs = this.#context.ledger.clock.nowMs()
    const window = windowAt(policy.policy.copy.window, nowMs)
    const open = this.#context.writers.openSegment(stream)
    const planned = plan({
      policy,
      segments,
      unlistedBytes,
      open,
      ...(open === null ? await this.#writerOf(stream, segments.at(-1), policy) : {}),
      nowMs,
      steadyMs: this.#steady.nowMs(),
      holds: (await knownHolds(this.#context, stream)).filter(({ origin }) => origin === 'stream'),
      txidMode: stream.txidMode,
      archiveConfigured: this.#context.archive !== null && policy.policy.archive !== 'none',
      archiveAnswers: await this.#outage.answers(stream.incarnation),
      pressedBytes: this.#outage.pressedBytes(policy.policy),
      purgedAfterMs: await purgedAfterMs(this.#context, stream),
      windowOpen: window.open,
      nextWindowMs: window.nextMs,
    })
    const evicts = this.#context.evictsByPolicy ?? true
    const actions = evicts ? planned : planned.filter(({ kind }) => kind !== 'evict')
    const due = (action: PlannedAction) => action.kind === 'trim' && action.dueMs <= nowMs
    // Some of the first few are due: so may be many.
    if (oldestMax < OLDEST_MAX && actions.some(due)) return this.planFor(stream)
    const uncopied = segments.filter((row) => isHot(row) && row.state !== 'archived')
    return { stream, policy, actions, uncopied }
  }

  /** Who has the open segment that is overdue, where other processes write as well. */
  async #writerOf(
    { incarnation, epoch }: StreamRow,
    newest: SegmentRow | undefined,
    { policy }: ResolvedPolicy,
  ): Promise<{ readonly writer?: string | null }> {
    const { coordination, ledger, ledgersAreShared } = this.#context
    if (ledgersAreShared !== true || newest?.state !== 'open' || coordination.holder === undefined) return {}
    if (newest.openedMs + effectiveRollAge(policy).ms > ledger.clock.nowMs()) return {}
    const writer = await coordination.holder(`writer/${incarnation}`)
    // Writers that are not ours may go without the lock: what only they ever wrote is never fenced by an agent.
    return writer === null && epoch === 0n ? {} : { writer }
  }

  /** What there is to plan with, in bounded memory however long the history is: its old end and what is hot. */
  async #segmentsOf(
    stream: StreamRow,
    oldestMax: number,
  ): Promise<{ segments: SegmentRow[]; unlistedBytes: number }> {
    const { index } = this.#context
    const first = await index.oldestSegment(stream.incarnation)
    if (first === null) return { segments: [], unlistedBytes: 0 }
    const oldest = await listSegmentsUpTo(index, stream.incarnation, first.segment, oldestMax)
    const end = oldest.at(-1)?.segment
    // The only segment there was: another process found that its ledger is empty, and removed it since.
    if (end === undefined) return { segments: [], unlistedBytes: 0 }
    const hot = (await index.listHotSegments(stream.incarnation, HOT_MAX)).filter((row) => row.segment > end)
    const newest = await index.newestSegment(stream.incarnation)
    // Beyond the most that are listed the open one must still be seen: it rolls by its age.
    const last = newest !== null && newest.segment > (hot.at(-1)?.segment ?? end) ? [newest] : []
    const segments = [...oldest, ...hot, ...last]
    const { hotBytes, coldBytes, bothBytes } = await index.totals(stream.incarnation)
    // As the totals have it: what is in no tier counts nowhere.
    const listed = segments.filter(({ state }) => state !== 'gap' && state !== 'trimmed')
    const listedBytes = listed.reduce((sum, row) => sum + row.lengthBytes, 0)
    return { segments, unlistedBytes: Math.max(0, hotBytes + coldBytes - bothBytes - listedBytes) }
  }
}
