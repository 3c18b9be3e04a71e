import cron from 'node-cron'
import { present } from '../src/model/assert.js'
import { isStratalogError, StratalogError } from '../src/model/errors.js'
import type { CopyWindow, ResolvedPolicy } from '../src/model/policy.js'
import type { SegmentRow, StreamRow } from '../src/model/segment.js'
import type { Timer } from '../src/ports/clock.js'
import type { Lease } from '../src/ports/coordination.js'
import type { TieringContext, TieringEvent } from './context.js'
import { copySegment } from './copy.js'
import { evictSegment, settleDebts } from './evict.js'
import { dueActions, nextDueMs, type PlannedAction, plan } from './plan.js'
import { trimSegment } from './trim.js'
import { windowAt } from './window.js'

/** The agent looks around at least this often, whatever the plans say. */
const PASS_INTERVAL_MS_MAX = 60_000
/** Between passes while something fails: doubled each time from the first to the last of these. */
const RETRY_MS_MIN = 500
const RETRY_MS_MAX = 60_000
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
  readonly #abort = new AbortController()
  readonly #tasks = new Map<string, { stop(): void | Promise<void> }>()
  #timer: Timer | null = null
  /** Monotonic time the timer is set for. */
  #timerAtMs = Number.POSITIVE_INFINITY
  #pass: Promise<PassReport> | null = null
  #following = false
  #wakeAgain = false
  #failures = 0
  #state: AgentState

  constructor(context: TieringContext) {
    this.#context = context
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

  /** Tells `listener` of every step; the returned function ends that. */
  onEvent(listener: (event: TieringEvent) => void): () => void {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }

  /** Works in the background until `close`. */
  follow(): void {
    this.#following = true
    this.#sleep(0)
  }

  /** Something happened (an append, a policy change): plan sooner. */
  wake(withinMs: number): void {
    if (!this.#following) return
    // A pass under way may have planned before this: look again right after it.
    if (this.#pass !== null) this.#wakeAgain = true
    else if (this.#context.ledger.clock.monotonicMs() + withinMs < this.#timerAtMs) this.#sleep(withinMs)
  }

  /** What there is to do for every stream, due or not. */
  async plans(only?: string): Promise<StreamPlan[]> {
    const plans: StreamPlan[] = []
    for await (const stream of this.#streams()) {
      if (only === undefined || stream.name === only) plans.push(await this.#planFor(stream))
    }
    return plans
  }

  /** One pass over all streams; passes never overlap. */
  runOnce(signal?: AbortSignal): Promise<PassReport> {
    this.#pass ??= this.#runPass(signal).finally(() => {
      this.#pass = null
    })
    return this.#pass
  }

  /**
   * Passes until no action is due now: what fails or waits for its time is left. Waits out a pass that is already
   * under way first, since that one planned before this call.
   */
  async runUntilSettled(signal?: AbortSignal): Promise<PassReport> {
    await this.#pass?.catch(() => {})
    const total = emptyReport()
    for (;;) {
      signal?.throwIfAborted()
      const report = await this.runOnce(signal)
      for (const key of ['sealed', 'copied', 'evicted', 'trimmed', 'freedHotBytes'] as const)
        total[key] += report[key]
      Object.assign(total, { failed: report.failed, waiting: report.waiting, nextDueMs: report.nextDueMs })
      if (report.sealed + report.copied + report.evicted + report.trimmed === 0) return total
    }
  }

  /** Stops after the step under way; everything is safe to leave as it is. */
  async close(): Promise<void> {
    this.#following = false
    this.#timer?.cancel()
    for (const task of this.#tasks.values()) await task.stop()
    this.#abort.abort(new StratalogError('closed', 'the log is being closed'))
    await this.#pass?.catch(() => {})
  }

  #sleep(delayMs: number): void {
    this.#timer?.cancel()
    this.#timerAtMs = this.#context.ledger.clock.monotonicMs() + delayMs
    this.#timer = this.#context.ledger.clock.setTimer(delayMs, () => void this.#followOnce())
  }

  async #followOnce(): Promise<void> {
    let delayMs = PASS_INTERVAL_MS_MAX
    this.#timerAtMs = Number.POSITIVE_INFINITY
    this.#wakeAgain = false
    try {
      const report = await this.runOnce()
      this.#failures = report.failed.length > 0 ? this.#failures + 1 : 0
      if (report.nextDueMs !== null)
        delayMs = Math.min(delayMs, Math.max(0, report.nextDueMs - this.#context.ledger.clock.nowMs()))
    } catch (error) {
      this.#failures += 1
      if (!this.#abort.signal.aborted)
        this.#context.ledger.logger.error({ err: error }, 'tiering pass failed, trying again')
    }
    if (this.#wakeAgain) delayMs = 0
    if (this.#failures > 0)
      delayMs = Math.min(RETRY_MS_MAX, RETRY_MS_MIN * 2 ** Math.min(this.#failures - 1, 10))
    if (this.#following) this.#sleep(delayMs)
  }

  async #runPass(caller?: AbortSignal): Promise<PassReport> {
    const signal = caller === undefined ? this.#abort.signal : AbortSignal.any([caller, this.#abort.signal])
    signal.throwIfAborted()
    const report = emptyReport()
    await settleDebts(this.#context, signal)
    for await (const stream of this.#streams()) {
      signal.throwIfAborted()
      await this.#runStream(stream, report, signal)
    }
    return report
  }

  async #runStream(stream: StreamRow, report: PassReport, signal: AbortSignal): Promise<void> {
    const { actions, policy } = await this.#planFor(stream)
    this.#scheduleWindow(stream, policy)
    const nowMs = this.#context.ledger.clock.nowMs()
    const due = dueActions(actions, nowMs)
    report.waiting += actions.length - due.length
    const next = nextDueMs(actions.filter((action) => !due.includes(action)))
    if (next !== null && (report.nextDueMs === null || next < report.nextDueMs)) report.nextDueMs = next
    if (due.length === 0) return
    let lease: Lease
    try {
      lease = await this.#context.coordination.acquire(`tiering/${stream.incarnation}`, {
        holder: this.#context.logId,
        waitMs: 0,
      })
    } catch (error) {
      if (isStratalogError(error, 'conflict')) return
      throw error
    }
    try {
      const failed = new Set<string>()
      for (const action of due) {
        // Copies and trims go oldest first and stop at the one that fails; a stuck copy holds up no eviction.
        if (failed.has(action.kind)) continue
        if (!(await this.#execute(stream, lease, action, report, signal))) failed.add(action.kind)
      }
    } finally {
      await lease.release()
    }
  }

  async #execute(
    stream: StreamRow,
    lease: Lease,
    action: PlannedAction,
    report: PassReport,
    signal: AbortSignal,
  ): Promise<boolean> {
    const about = { kind: action.kind, stream: stream.name, segment: action.segment, bytes: action.bytes }
    try {
      signal.throwIfAborted()
      this.#tell({ ...about, phase: 'begin' })
      const row = await this.#step(stream, lease, action, report, signal)
      if (action.kind === 'copy' || action.kind === 'trim') this.#archiveAnswered()
      this.#tell({ ...about, phase: 'done', ...(row === null ? {} : { row }) })
      return true
    } catch (error) {
      signal.throwIfAborted()
      // Somebody changed the row first: the next plan sees it as it is.
      if (isStratalogError(error, 'conflict')) return false
      const failure = error instanceof Error ? error : new Error(String(error))
      this.#archiveFailed(failure)
      report.failed.push({
        stream: stream.name,
        segment: action.segment.toString(),
        kind: action.kind,
        error: failure.message,
      })
      this.#context.ledger.logger.error(
        { err: failure, stream: stream.name, segment: action.segment.toString(), step: action.kind },
        'tiering step failed, it is tried again',
      )
      this.#tell({ ...about, phase: 'failed', error: failure })
      return false
    }
  }

  async #step(
    stream: StreamRow,
    lease: Lease,
    action: PlannedAction,
    report: PassReport,
    signal: AbortSignal,
  ): Promise<SegmentRow | null> {
    if (action.kind === 'seal') {
      await this.#context.writers.seal(stream, action.segment)
      report.sealed += 1
      return this.#context.index.segment(stream.incarnation, action.segment)
    }
    const row = present(
      await this.#context.index.segment(stream.incarnation, action.segment),
      'planned segment',
    )
    switch (action.kind) {
      case 'copy': {
        if (row.state !== 'sealed') return row
        const onProgress = (bytes: number) =>
          this.#tell({ kind: 'copy', phase: 'progress', stream: stream.name, segment: action.segment, bytes })
        const archived = await copySegment(this.#context, lease, stream, row, { signal, onProgress })
        report.copied += 1
        return archived
      }
      case 'evict': {
        if (row.state !== 'archived') return row
        const cold = await evictSegment(this.#context, lease, row)
        report.evicted += 1
        report.freedHotBytes += row.lengthBytes
        return cold
      }
      case 'trim': {
        await trimSegment(this.#context, lease, stream, row, signal)
        report.trimmed += 1
        return null
      }
    }
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
    const end = present(oldest.at(-1), 'oldest segments').segment
    const hot = (await index.listHotSegments(stream.incarnation, HOT_MAX)).filter((row) => row.segment > end)
    const segments = [...oldest, ...hot]
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
    const window: CopyWindow | null = this.#following ? policy.policy.copy.window : null
    if (window === null) return
    const key = `${window.cron} ${window.zone}`
    if (this.#tasks.has(key)) return
    const task = cron.schedule(window.cron, () => this.wake(0), {
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
    for (const listener of this.#listeners) listener(event)
  }
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
