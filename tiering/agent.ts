import cron from 'node-cron'
import { present } from '../src/model/assert.js'
import { isStratalogError } from '../src/model/errors.js'
import type { CopyWindow, Policy, ResolvedPolicy } from '../src/model/policy.js'
import type { Quorum } from '../src/model/quorum.js'
import type { SegmentRow, StreamRow } from '../src/model/segment.js'
import type { Lease } from '../src/ports/coordination.js'
import { announceDebts } from './announce.js'
import type { TieringContext, TieringEvent } from './context.js'
import { copySegment } from './copy.js'
import { settleDeletion } from './delete.js'
import { type Droppable, dropSegment } from './drop.js'
import { EventRing } from './events.js'
import { evictSegment, settleDebts } from './evict.js'
import { knownHolds } from './holds.js'
import { listSegmentsUpTo } from './list-segments.js'
import { isPaused, nextOrderEndMs, tierOrders } from './orders.js'
import { Outage, type OutageReport } from './outage.js'
import { PassLoop } from './pass-loop.js'
import { add, emptyReport, grouped, type PassReport, type Step } from './pass-report.js'
import { dueActions, nextDueMs, type PlannedAction, plan } from './plan.js'
import { SteadyTime } from './steady-time.js'
import { type RunningStep, StepWatch } from './step-watch.js'
import { finishTrim, trimIsUnfinished, trimThrough } from './trim.js'
import { UploadLimits } from './upload-limits.js'
import { windowAt } from './window.js'

/**
 * Streams whose segments are moved side by side: one that hangs does not hold up the others, and small segments, which
 * wait for syncs more than they work, share those. `CopyRoom` bounds the memory of large ones.
 */
const STREAMS_AT_ONCE = 16
/** Rows of one stream the agent plans with at a time: the oldest there are, and the oldest with a hot copy. */
const OLDEST_MAX = 1_000
/** A pass looks at so many of the oldest first: while none of them is due to be trimmed, no later one is. */
const OLDEST_FIRST = 4
const HOT_MAX = 10_000
const STREAMS_PAGE = 100

export type { PassReport } from './pass-report.js'

export interface StreamPlan {
  readonly stream: StreamRow
  readonly policy: ResolvedPolicy
  readonly actions: readonly PlannedAction[]
}

/** How the agent finds the world. */
export interface AgentState extends OutageReport {
  /** Steps under way that nothing has answered for a while, oldest first. */
  readonly stalled: readonly RunningStep[]
}

/**
 * Carries segments through their life: plan, execute what is due, sleep until something is due again. Each action is
 * a state machine of its own that survives a crash before and after every step (copy.ts, evict.ts, trim.ts). One
 * stream's failure does not hold up the others.
 */
export class TieringAgent {
  /** What happened lately. */
  readonly events: EventRing
  readonly #context: TieringContext
  readonly #outage: Outage
  readonly #steps: StepWatch
  readonly #listeners = new Set<(event: TieringEvent) => void>()
  readonly #tasks = new Map<string, { stop(): void | Promise<void> }>()
  /** Seals need no archive, and must not wait for one. */
  readonly #seals: PassLoop<PassReport>
  readonly #moves: PassLoop<PassReport>
  readonly #steady: SteadyTime
  readonly #uploads: UploadLimits
  /** Somebody waits for the next pass: an archive that is down is asked then, whenever its turn would be. */
  #byHand = false

  constructor(context: TieringContext) {
    this.#context = context
    const { clock, logger } = context.ledger
    this.#steady = new SteadyTime(clock, logger)
    this.#uploads = new UploadLimits(clock)
    this.#seals = new PassLoop(clock, logger, (signal) => this.#sealPass(signal))
    this.#moves = new PassLoop(clock, logger, (signal) => this.#movePass(signal))
    this.events = new EventRing(clock)
    this.#outage = new Outage(context, this.events, () => this.#moves.wake(0))
    this.#steps = new StepWatch(clock, (step) => this.#stalled(step))
  }

  get state(): AgentState {
    const stalled = this.#steps.running.filter(({ stalledSinceMs }) => stalledSinceMs !== null)
    return { ...this.#outage.report, stalled }
  }

  /** Looks at the disks, and asks an archive of which nothing is known, so that `state` tells how things are. */
  async look(): Promise<void> {
    await Promise.all([this.#outage.disks.look(), this.#outage.askOnce()])
  }

  /** How long the next entry of a stream with that policy is to wait before it is sent. */
  slowMs(policy: Policy, quorum: Quorum): number {
    return this.#outage.slowMs(policy, quorum)
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
    this.#outage.follow()
  }

  /** Something happened (an append, a policy change): plan sooner. */
  wake(withinMs: number): void {
    this.#seals.wake(withinMs)
    this.#moves.wake(withinMs)
  }

  /** What there is to do for every stream, due or not, with so many of the oldest segments of each. */
  async plans(only?: string, oldestMax: number = OLDEST_MAX): Promise<StreamPlan[]> {
    const plans: StreamPlan[] = []
    for await (const stream of this.#streams()) {
      if (only === undefined || stream.name === only) plans.push(await this.#planFor(stream, oldestMax))
    }
    return plans
  }

  /** Seals what is due, then moves what is due, over all streams once. `signal` ends the wait, not the work. */
  async runOnce(signal?: AbortSignal): Promise<PassReport> {
    const total = emptyReport()
    add(total, await this.#seals.once(signal))
    this.#byHand = true
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
      const { sealed, copied, evicted, trimmed, dropped } = report
      if (sealed + copied + evicted + trimmed + dropped === 0) return total
    }
  }

  /** Stops after the steps under way; everything is safe to leave as it is. */
  async close(): Promise<void> {
    this.#outage.close()
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
    await this.#askArchive(report)
    // What lies in an archive that is down is freed when it is back.
    const context = this.#outage.archiveAnswers ? this.#context : { ...this.#context, archive: null }
    await this.#attempt('free', report, signal, (stepSignal, answered) =>
      settleDebts(context, stepSignal, answered),
    )
    await this.#attempt('tell', report, signal, (stepSignal) => this.#outage.tellGaps(stepSignal))
    const streams = this.#streams()
    const work = async () => {
      // One iterator for all: each takes the next stream there is.
      for (let next = await streams.next(); !next.done; next = await streams.next()) {
        const stream = next.value
        signal.throwIfAborted()
        if ((await this.#context.index.fact(`deleted/${stream.incarnation}`)) !== null) {
          await this.#guarded(stream, report, signal, async () => {
            await settleDeletion(this.#context, stream, signal)
          })
          continue
        }
        await this.#guarded(stream, report, signal, () => this.#runStream(stream, 'moves', report, signal))
        await this.#guarded(stream, report, signal, () => announceDebts(this.#context, stream))
      }
    }
    await Promise.all(Array.from({ length: STREAMS_AT_ONCE }, work))
    await this.#dropWhereShort(report, signal)
    if (report.failed.length === 0) await this.#outage.settled()
    return report
  }

  /** Who asked for a pass wants to know now whether the archive is back; in the background the probe has its own times. */
  async #askArchive(report: PassReport): Promise<void> {
    const byHand = this.#byHand || !this.following
    this.#byHand = false
    const error = byHand ? await this.#outage.ask() : null
    if (error !== null) report.failed.push({ stream: '', segment: '', kind: 'probe', error: error.message })
  }

  /** Work for all streams, which are gone on with if it fails. */
  async #attempt(
    kind: 'free' | 'tell',
    report: PassReport,
    signal: AbortSignal,
    work: (signal: AbortSignal, answered: () => void) => Promise<unknown>,
  ): Promise<void> {
    try {
      await this.#steps.run({ kind, stream: '', segment: null }, signal, work)
    } catch (error) {
      signal.throwIfAborted()
      const failure = error instanceof Error ? error : new Error(String(error))
      if (kind === 'tell') this.#outage.failed(failure)
      report.failed.push({ stream: '', segment: '', kind, error: failure.message })
      const what = kind === 'free' ? 'freeing what is owed failed' : 'the archive was not told of gaps'
      this.#context.ledger.logger.error({ err: failure }, `${what}, it is tried again`)
    }
  }

  /** While the archive is down: the oldest of what no archive has makes room where the policy says so. */
  async #dropWhereShort(report: PassReport, signal: AbortSignal): Promise<void> {
    const chosen = await this.#outage.toDrop(this.#streams(), (stream, error) => {
      const failure = error instanceof Error ? error : new Error(String(error))
      report.failed.push({ stream: stream.name, segment: '', kind: 'drop', error: failure.message })
      this.#context.ledger.logger.error(
        { err: failure, stream: stream.name },
        'nothing of a stream is dropped',
      )
    })
    for (const one of chosen) {
      // Never while the archive answers: what is back may take the rest.
      if (signal.aborted || this.#outage.archiveAnswers) return
      await this.#drop(one, report, signal)
    }
  }

  async #drop(one: Droppable, report: PassReport, signal: AbortSignal): Promise<void> {
    const { stream, row } = one
    const about = { kind: 'drop' as const, stream: stream.name, segment: row.segment, bytes: row.lengthBytes }
    try {
      this.#tell({ ...about, phase: 'begin' })
      const gap = await this.#steps.run(about, signal, () => dropSegment(this.#context, one))
      if (gap === null) return
      this.#outage.dropped(one)
      report.dropped += 1
      report.freedHotBytes += row.lengthBytes
      this.#context.ledger.logger.warn(
        { stream: stream.name, segment: `${row.segment}`, bytes: row.lengthBytes },
        'a segment was dropped: the archive is down and the disks are nearly full',
      )
      this.#tell({ ...about, phase: 'done', row: gap })
    } catch (error) {
      signal.throwIfAborted()
      if (isStratalogError(error, 'conflict')) return
      this.#noteFailure(about, error, report)
    }
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
    const { actions, policy } = await this.#planFor(stream, OLDEST_FIRST)
    if (kind === 'moves') this.#scheduleWindow(stream, policy)
    const mine = actions.filter((action) => (action.kind === 'seal') === (kind === 'seals'))
    const orders = await tierOrders(this.#context)
    const paused = kind === 'moves' && isPaused(orders, stream.incarnation)
    if (kind === 'moves' && !paused) report.trimmed += await this.#finishTrim(stream, signal)
    const due = paused ? [] : dueActions(mine, this.#context.ledger.clock.nowMs())
    const dueNow = new Set(due)
    // What needs the archive waits for a probe to be answered, and holds up nothing else.
    const now = due.filter(({ kind: step }) => step === 'seal' || this.#outage.archiveAnswers)
    report.waiting += mine.length - now.length
    const next = paused ? nextOrderEndMs(orders) : nextDueMs(mine.filter((action) => !dueNow.has(action)))
    if (next !== null && (report.nextDueMs === null || next < report.nextDueMs)) report.nextDueMs = next
    if (now.length === 0) return
    const lease = await this.#lease(`${kind === 'seals' ? 'sealing' : 'tiering'}/${stream.incarnation}`)
    if (lease === null) return
    try {
      if (kind === 'moves') await this.#outage.remember(stream, policy.policy, signal)
      const failed = new Set<string>()
      for (const action of grouped(now)) {
        if (action.kind !== 'seal' && !this.#outage.archiveAnswers) return
        // Copies and trims go oldest first and stop at the one that fails; a stuck copy holds up no eviction.
        if (failed.has(action.kind)) continue
        if (!(await this.#execute(stream, lease, action, report, signal))) failed.add(action.kind)
      }
    } finally {
      await lease.release()
    }
  }

  /** A trim by hand that a crash cut short; nobody asks for it again. */
  async #finishTrim(stream: StreamRow, signal: AbortSignal): Promise<number> {
    if (!(await trimIsUnfinished(this.#context, stream))) return 0
    const lease = await this.#lease(`tiering/${stream.incarnation}`)
    if (lease === null) return 0
    try {
      const about = { kind: 'trim', stream: stream.name, segment: null }
      return await this.#steps.run(about, signal, (stepSignal) =>
        finishTrim(this.#context, stream, stepSignal),
      )
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
      const row = await this.#steps.run(about, signal, (stepSignal, answered) =>
        this.#step(stream, lease, action, report, stepSignal, answered),
      )
      // Freeing a hot copy only reads: it does not tell that an archive takes what is copied.
      if (action.kind === 'copy' || action.kind === 'trim') this.#outage.answered()
      this.#tell({ ...about, phase: 'done', ...(row === null ? {} : { row }) })
      return true
    } catch (error) {
      signal.throwIfAborted()
      // Somebody changed the row first: the next plan sees it as it is.
      if (isStratalogError(error, 'conflict')) return false
      this.#noteFailure(about, error, report)
      // An operator has to decide about this one segment; the others have nothing to do with it.
      return isStratalogError(error, 'archive_conflict')
    }
  }

  #noteFailure(about: Omit<TieringEvent, 'phase'>, error: unknown, report: PassReport): void {
    const { kind, stream } = about
    const failure = error instanceof Error ? error : new Error(String(error))
    if (kind !== 'seal' && kind !== 'drop') this.#outage.failed(failure)
    const segment = about.segment.toString()
    report.failed.push({ stream, segment, kind, error: failure.message })
    const fields = { err: failure, stream, segment, step: kind }
    this.#context.ledger.logger.error(fields, 'tiering step failed, it is tried again')
    this.#tell({ ...about, phase: 'failed', error: failure })
  }

  #stalled(step: RunningStep): void {
    const { kind, stream, segment } = step
    this.#context.ledger.logger.warn(
      { stream, segment: `${segment ?? ''}`, step: kind },
      'a step stands still',
    )
    if (segment === null || !isStep(kind)) return
    this.#tell({ kind, phase: 'stalled', stream, segment, bytes: 0 })
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
      const archived = await copySegment(this.#context, lease, stream, row, {
        signal,
        onProgress,
        answered,
        uploads: this.#uploads,
      })
      report.copied += 1
      return archived
    }
    if (row.state !== 'archived') return row
    const cold = await evictSegment(this.#context, lease, row, signal)
    report.evicted += 1
    report.freedHotBytes += row.lengthBytes
    return cold
  }

  async #planFor(stream: StreamRow, oldestMax = OLDEST_MAX): Promise<StreamPlan> {
    const policy = await this.#context.policy(stream)
    const { segments, unlistedBytes } = await this.#segmentsOf(stream, oldestMax)
    const nowMs = this.#context.ledger.clock.nowMs()
    const window = windowAt(policy.policy.copy.window, nowMs)
    const actions = plan({
      policy,
      segments,
      unlistedBytes,
      open: this.#context.writers.openSegment(stream),
      nowMs,
      steadyMs: this.#steady.nowMs(),
      holds: (await knownHolds(this.#context, stream)).filter(({ origin }) => origin === 'stream'),
      txidMode: stream.txidMode,
      archiveConfigured: this.#context.archive !== null && policy.policy.archive !== 'none',
      archiveAnswers: this.#outage.archiveAnswers,
      windowOpen: window.open,
      nextWindowMs: window.nextMs,
    })
    const due = (action: PlannedAction) => action.kind === 'trim' && action.dueMs <= nowMs
    // Some of the first few are due: so may be many.
    if (oldestMax < OLDEST_MAX && actions.some(due)) return this.#planFor(stream)
    return { stream, policy, actions }
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
    const listedBytes = segments.reduce((sum, row) => sum + row.lengthBytes, 0)
    return { segments, unlistedBytes: Math.max(0, hotBytes + coldBytes - bothBytes - listedBytes) }
  }

  async *#streams(): AsyncGenerator<StreamRow> {
    for (let after = ''; ; ) {
      const page = await this.#context.index.listStreams(after, STREAMS_PAGE)
      yield* page
      if (page.length < STREAMS_PAGE) return
      // An index in this process answers without a turn: a pass over many streams must leave some to the appends.
      await this.#context.ledger.clock.sleep(0)
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

  #tell(event: TieringEvent): void {
    this.events.addStep(event)
    for (const listener of this.#listeners) {
      try {
        listener(event)
      } catch (error) {
        this.#context.ledger.logger.warn({ err: error }, 'a listener of tiering events failed')
      }
    }
  }
}

function isStep(kind: string): kind is TieringEvent['kind'] {
  return ['seal', 'copy', 'evict', 'trim', 'drop'].includes(kind)
}
