import cron from 'node-cron'
import { present } from '../src/model/assert.js'
import { isStratalogError, StratalogError } from '../src/model/errors.js'
import type { CopyWindow, ResolvedPolicy } from '../src/model/policy.js'
import type { SegmentRow, StreamRow } from '../src/model/segment.js'
import type { Lease } from '../src/ports/coordination.js'
import type { TieringContext, TieringEvent } from './context.js'
import { copySegment } from './copy.js'
import { evictSegment, settleDebts } from './evict.js'
import { PassLoop, raced } from './pass-loop.js'
import { dueActions, nextDueMs, type PlannedAction, plan } from './plan.js'
import { trimThrough } from './trim.js'
import { windowAt } from './window.js'

/** A step that gets no answer for this long is given up and tried again; a copy counts each byte as an answer. */
const SILENCE_MS_MAX = 120_000
/** Streams whose segments are moved side by side: one that hangs does not hold up the others. */
const STREAMS_AT_ONCE = 4
/** Rows of one stream the agent plans with at a time: the oldest there are, and the oldest with a hot copy. */
const OLDEST_MAX = 1_000
const HOT_MAX = 10_000
const STREAMS_PAGE = 1_000

/** What a pass did. */
export interface PassReport {
  sealed: number
  copied: number
  evicted: number
  trimmed: number
  freedHotBytes: number
  failed: { stream: string; segment: string; kind: string; error: string }[]
  /** Actions that are planned for later, and when the next of them is due. */
  waiting: number
  nextDueMs: number | null
}

export interface StreamPlan {
  readonly stream: StreamRow
  readonly policy: ResolvedPolicy
  readonly actions: readonly PlannedAction[]
}

export type AgentState = {
  archive: 'none' | 'ok' | 'down'
  downSinceMs: number | null
  lastError: string | null
  lastOkMs: number | null
}

/**
 * Carries segments through their life: plan, execute what is due, sleep until something is due again. Each action is
 * a state machine of its own that survives a crash before and after every step (copy.ts, evict.ts, trim.ts). One
 * stream's failure does not hold up the others.
 */
export class TieringAgent {
  readonly #context: TieringContext
  readonly #listeners = new Set<(event: TieringEvent) => void>()
  readonly #tasks = new Map<string, { stop(): void | Promise<void> }>()
  /** Seals need no archive, and must not wait for one. */
  readonly #seals: PassLoop<PassReport>
  readonly #moves: PassLoop<PassReport>
  #state: AgentState

  constructor(context: TieringContext) {
    this.#context = context
    const { clock, logger } = context.ledger
    this.#seals = new PassLoop(clock, logger, (signal) => this.#sealPass(signal))
    this.#moves = new PassLoop(clock, logger, (signal) => this.#movePass(signal))
    this.#state = {
      archive: context.archive === null ? 'none' : 'ok',
      downSinceMs: null,
      lastError: null,
      lastOkMs: null,
    }
  }

  get state(): AgentState {
    return this.#state
  }

  /** Whether it works in the background. */
  get following(): boolean {
    return this.#moves.following
  }

  /** Tells `listener` of every step; the returned function ends that. */
  onEvent(listener: (event: TieringEvent) => void): () => void {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }

  /** Works in the background until `close`. */
  follow(): void {
    this.#seals.follow()
    this.#moves.follow()
  }

  /** Something happened (an append, a policy change): plan sooner. */
  wake(withinMs: number): void {
    this.#seals.wake(withinMs)
    this.#moves.wake(withinMs)
  }

  /** What there is to do for every stream, due or not. */
  async plans(only?: string): Promise<StreamPlan[]> {
    const plans: StreamPlan[] = []
    for await (const stream of this.#streams()) {
      if (only === undefined || stream.name === only) plans.push(await this.#planFor(stream))
    }
    return plans
  }

  /** Seals what is due, then moves what is due, over all streams once. `signal` ends the wait, not the work. */
  async runOnce(signal?: AbortSignal): Promise<PassReport> {
    const total = emptyReport()
    add(total, await this.#seals.once(signal))
    const moved = await this.#moves.once(signal)
    add(total, moved)
    return { ...total, waiting: moved.waiting, nextDueMs: moved.nextDueMs }
  }

  /** Passes until no action is due now: what fails or waits for its time is left. */
  async runUntilSettled(signal?: AbortSignal): Promise<PassReport> {
    const total = emptyReport()
    for (;;) {
      const report = await this.runOnce(signal)
      const failed = report.failed
      add(total, report)
      Object.assign(total, { failed, waiting: report.waiting, nextDueMs: report.nextDueMs })
      if (report.sealed + report.copied + report.evicted + report.trimmed === 0) return total
    }
  }

  /** Stops after the steps under way; everything is safe to leave as it is. */
  async close(): Promise<void> {
    for (const task of this.#tasks.values()) await task.stop()
    await Promise.all([this.#seals.close(), this.#moves.close()])
  }

  async #sealPass(signal: AbortSignal): Promise<PassReport> {
    const report = emptyReport()
    for await (const stream of this.#streams()) {
      signal.throwIfAborted()
      await this.#guarded(stream, report, signal, () => this.#runStream(stream, 'seals', report, signal))
    }
    return report
  }

  async #movePass(signal: AbortSignal): Promise<PassReport> {
    const report = emptyReport()
    try {
      await this.#unlessSilent(signal, (stepSignal, answered) =>
        settleDebts(this.#context, stepSignal, answered),
      )
    } catch (error) {
      signal.throwIfAborted()
      const failure = error instanceof Error ? error : new Error(String(error))
      report.failed.push({ stream: '', segment: '', kind: 'free', error: failure.message })
      this.#context.ledger.logger.error({ err: failure }, 'freeing what is owed failed, it is tried again')
    }
    const streams = this.#streams()
    const work = async () => {
      // One iterator for all: each takes the next stream there is.
      for (let next = await streams.next(); !next.done; next = await streams.next()) {
        const stream = next.value
        signal.throwIfAborted()
        await this.#guarded(stream, report, signal, () => this.#runStream(stream, 'moves', report, signal))
      }
    }
    await Promise.all(Array.from({ length: STREAMS_AT_ONCE }, work))
    return report
  }

  /** One stream that can't be planned (a damaged row) must not stop the others. */
  async #guarded(
    stream: StreamRow,
    report: PassReport,
    signal: AbortSignal,
    work: () => Promise<void>,
  ): Promise<void> {
    try {
      await work()
    } catch (error) {
      signal.throwIfAborted()
      const failure = error instanceof Error ? error : new Error(String(error))
      report.failed.push({ stream: stream.name, segment: '', kind: 'plan', error: failure.message })
      this.#context.ledger.logger.error(
        { err: failure, stream: stream.name },
        'tiering of a stream failed, it is tried again',
      )
    }
  }

  async #runStream(
    stream: StreamRow,
    kind: 'seals' | 'moves',
    report: PassReport,
    signal: AbortSignal,
  ): Promise<void> {
    const { actions, policy } = await this.#planFor(stream)
    if (kind === 'moves') this.#scheduleWindow(stream, policy)
    const mine = actions.filter((action) => (action.kind === 'seal') === (kind === 'seals'))
    const due = dueActions(mine, this.#context.ledger.clock.nowMs())
    const dueNow = new Set(due)
    report.waiting += mine.length - due.length
    const next = nextDueMs(mine.filter((action) => !dueNow.has(action)))
    if (next !== null && (report.nextDueMs === null || next < report.nextDueMs)) report.nextDueMs = next
    if (due.length === 0) return
    const lease = await this.#lease(`${kind === 'seals' ? 'sealing' : 'tiering'}/${stream.incarnation}`)
    if (lease === null) return
    try {
      const failed = new Set<string>()
      for (const action of grouped(due)) {
        // Copies and trims go oldest first and stop at the one that fails; a stuck copy holds up no eviction.
        if (failed.has(action.kind)) continue
        if (!(await this.#execute(stream, lease, action, report, signal))) failed.add(action.kind)
      }
    } finally {
      await lease.release()
    }
  }

  /** Null: another agent is at it. */
  async #lease(name: string): Promise<Lease | null> {
    try {
      return await this.#context.coordination.acquire(name, { holder: this.#context.logId, waitMs: 0 })
    } catch (error) {
      if (isStratalogError(error, 'conflict')) return null
      throw error
    }
  }

  /** False: actions of that kind stop here for this pass. */
  async #execute(
    stream: StreamRow,
    lease: Lease,
    action: Step,
    report: PassReport,
    signal: AbortSignal,
  ): Promise<boolean> {
    const about = { kind: action.kind, stream: stream.name, segment: action.segment, bytes: action.bytes }
    try {
      signal.throwIfAborted()
      this.#tell({ ...about, phase: 'begin' })
      const row = await this.#unlessSilent(signal, (stepSignal, answered) =>
        this.#step(stream, lease, action, report, stepSignal, answered),
      )
      if (action.kind !== 'seal' && this.#context.archive !== null) this.#archiveAnswered()
      this.#tell({ ...about, phase: 'done', ...(row === null ? {} : { row }) })
      return true
    } catch (error) {
      signal.throwIfAborted()
      // Somebody changed the row first: the next plan sees it as it is.
      if (isStratalogError(error, 'conflict')) return false
      // An operator has to decide about this one segment; the others have nothing to do with it.
      const alone = isStratalogError(error, 'archive_conflict')
      const failure = error instanceof Error ? error : new Error(String(error))
      this.#archiveFailed(failure)
      const segment = action.segment.toString()
      report.failed.push({ stream: stream.name, segment, kind: action.kind, error: failure.message })
      this.#context.ledger.logger.error(
        { err: failure, stream: stream.name, segment, step: action.kind },
        'tiering step failed, it is tried again',
      )
      this.#tell({ ...about, phase: 'failed', error: failure })
      return alone
    }
  }

  /**
   * Gives a step up when nothing answers for a while, also where an engine does not heed its signal. What such a step
   * still does later is harmless: every commit is a compare-and-set on the row it saw.
   */
  async #unlessSilent<T>(
    signal: AbortSignal,
    work: (signal: AbortSignal, answered: () => void) => Promise<T>,
  ): Promise<T> {
    const silence = new AbortController()
    const { clock } = this.#context.ledger
    const arm = () =>
      clock.setTimer(SILENCE_MS_MAX, () =>
        silence.abort(
          new StratalogError(
            'timeout',
            `nothing answered for ${SILENCE_MS_MAX / 1_000} s: it is tried again`,
            { retryable: true },
          ),
        ),
      )
    let timer = arm()
    const answered = () => {
      timer.cancel()
      timer = arm()
    }
    const either = AbortSignal.any([signal, silence.signal])
    try {
      return await raced(work(either, answered), either)
    } finally {
      timer.cancel()
    }
  }

  async #step(
    stream: StreamRow,
    lease: Lease,
    action: Step,
    report: PassReport,
    signal: AbortSignal,
    answered: () => void,
  ): Promise<SegmentRow | null> {
    const { index } = this.#context
    if (action.kind === 'seal') {
      await this.#context.writers.seal(stream, action.segment)
      report.sealed += 1
      return index.segment(stream.incarnation, action.segment)
    }
    if (action.kind === 'trim') {
      report.trimmed += await trimThrough(this.#context, lease, stream, action.through, signal, answered)
      return null
    }
    // Another process's agent may have trimmed and forgotten it since the plan, which is older than the lease.
    const row = await index.segment(stream.incarnation, action.segment)
    if (row === null) return null
    if (action.kind === 'copy') {
      if (row.state !== 'sealed') return row
      const onProgress = (bytes: number) => {
        answered()
        this.#tell({ kind: 'copy', phase: 'progress', stream: stream.name, segment: action.segment, bytes })
      }
      const archived = await copySegment(this.#context, lease, stream, row, { signal, onProgress })
      report.copied += 1
      return archived
    }
    if (row.state !== 'archived') return row
    const cold = await evictSegment(this.#context, lease, row, signal)
    report.evicted += 1
    report.freedHotBytes += row.lengthBytes
    return cold
  }

  async #planFor(stream: StreamRow): Promise<StreamPlan> {
    const policy = await this.#context.policy(stream)
    const { segments, unlistedBytes } = await this.#segmentsOf(stream)
    const nowMs = this.#context.ledger.clock.nowMs()
    const window = windowAt(policy.policy.copy.window, nowMs)
    const actions = plan({
      policy,
      segments,
      unlistedBytes,
      open: this.#context.writers.openSegment(stream),
      nowMs,
      txidMode: stream.txidMode,
      archiveConfigured: this.#context.archive !== null,
      windowOpen: window.open,
      nextWindowMs: window.nextMs,
    })
    return { stream, policy, actions }
  }

  /** What there is to plan with, in bounded memory however long the history is: its old end and what is hot. */
  async #segmentsOf(stream: StreamRow): Promise<{ segments: SegmentRow[]; unlistedBytes: number }> {
    const { index } = this.#context
    const first = await index.oldestSegment(stream.incarnation)
    if (first === null) return { segments: [], unlistedBytes: 0 }
    const oldest = await index.listSegments(stream.incarnation, first.segment, OLDEST_MAX)
    const end = oldest.at(-1)?.segment
    // The only segment there was: another process found that its ledger is empty, and removed it since.
    if (end === undefined) return { segments: [], unlistedBytes: 0 }
    const hot = (await index.listHotSegments(stream.incarnation, HOT_MAX)).filter((row) => row.segment > end)
    const newest = await index.newestSegment(stream.incarnation)
    // Beyond the most that are listed the open one must still be seen: it rolls by its age.
    const last = newest !== null && newest.segment > (hot.at(-1)?.segment ?? end) ? [newest] : []
    const segments = [...oldest, ...hot, ...last]
    const { hotBytes, coldBytes, bothBytes } = await index.totals(stream.incarnation)
    const listedBytes = segments.reduce((sum, row) => sum + row.lengthBytes, 0)
    return { segments, unlistedBytes: Math.max(0, hotBytes + coldBytes - bothBytes - listedBytes) }
  }

  async *#streams(): AsyncGenerator<StreamRow> {
    for (let after = ''; ; ) {
      const page = await this.#context.index.listStreams(after, STREAMS_PAGE)
      yield* page
      if (page.length < STREAMS_PAGE) return
      after = present(page.at(-1), 'a stream').name
    }
  }

  /** Wakes the agent when a copy window opens. */
  #scheduleWindow(stream: StreamRow, policy: ResolvedPolicy): void {
    const window: CopyWindow | null = this.#moves.following ? policy.policy.copy.window : null
    if (window === null) return
    const key = `${window.cron} ${window.zone}`
    if (this.#tasks.has(key)) return
    const task = cron.schedule(window.cron, () => this.#moves.wake(0), {
      timezone: window.zone,
      name: `copy window of ${stream.name}`,
    })
    this.#tasks.set(key, task)
  }

  #archiveAnswered(): void {
    this.#state = {
      archive: 'ok',
      downSinceMs: null,
      lastError: null,
      lastOkMs: this.#context.ledger.clock.nowMs(),
    }
  }

  #archiveFailed(error: Error): void {
    const down = ['archive_unavailable', 'archive_full', 'archive_missing', 'access_denied'] as const
    if (!down.some((code) => isStratalogError(error, code))) return
    this.#state = {
      ...this.#state,
      archive: 'down',
      downSinceMs: this.#state.downSinceMs ?? this.#context.ledger.clock.nowMs(),
      lastError: error.message,
    }
  }

  #tell(event: TieringEvent): void {
    for (const listener of this.#listeners) {
      try {
        listener(event)
      } catch (error) {
        this.#context.ledger.logger.warn({ err: error }, 'a listener of tiering events failed')
      }
    }
  }
}

/** Due actions with trims of neighbouring segments made one: one marker in the archive ends them all. */
type Step = PlannedAction & { readonly through: bigint }

function grouped(due: readonly PlannedAction[]): Step[] {
  const steps: Step[] = []
  const trims = due.filter((action) => action.kind === 'trim')
  const first = trims[0]
  for (const action of due) {
    if (action.kind !== 'trim') steps.push({ ...action, through: action.segment })
    else if (action === first) {
      // Planned from the old end without a hole (plan.ts), so the last one ends them all.
      const bytes = trims.reduce((sum, one) => sum + one.bytes, 0)
      steps.push({ ...action, bytes, through: present(trims.at(-1), 'last trim').segment })
    }
  }
  return steps
}

function add(total: PassReport, report: PassReport): void {
  for (const key of ['sealed', 'copied', 'evicted', 'trimmed', 'freedHotBytes'] as const)
    total[key] += report[key]
  total.failed.push(...report.failed)
}

function emptyReport(): PassReport {
  return {
    sealed: 0,
    copied: 0,
    evicted: 0,
    trimmed: 0,
    freedHotBytes: 0,
    failed: [],
    waiting: 0,
    nextDueMs: null,
  }
}
