import { isStratalogError } from '../src/model/errors.js'
import type { SegmentRow, StreamRow } from '../src/model/segment.js'
import type { Lease } from '../src/ports/coordination.js'
import type { TieringContext, TieringEvent } from './context.js'
import { copySegment } from './copy.js'
import { type Droppable, dropSegment } from './drop.js'
import { evictSegment } from './evict.js'
import { isPaused, nextOrderEndMs, tierOrders } from './orders.js'
import type { Outage } from './outage.js'
import { grouped, type PassReport, type Step } from './pass-report.js'
import { dueActions, nextDueMs } from './plan.js'
import type { StreamPlan } from './planner.js'
import type { StepWatch } from './step-watch.js'
import { finishTrim, trimIsUnfinished, trimThrough } from './trim.js'
import { UploadLimits } from './upload-limits.js'

/** What carrying out steps needs beside the context. */
export interface StepServices {
  readonly outage: Outage
  readonly watch: StepWatch
  readonly tell: (event: TieringEvent) => void
}

/**
 * Carries out the steps of one stream after another under its lease. Each is a state machine of its own that survives a
 * crash before and after every one of its own steps (copy.ts, evict.ts, trim.ts, drop.ts).
 */
export class StreamSteps {
  readonly #context: TieringContext
  readonly #outage: Outage
  readonly #watch: StepWatch
  readonly #tell: (event: TieringEvent) => void
  readonly #uploads: UploadLimits

  constructor(context: TieringContext, { outage, watch, tell }: StepServices) {
    this.#context = context
    this.#outage = outage
    this.#watch = watch
    this.#tell = tell
    this.#uploads = new UploadLimits(context.ledger.clock)
  }

  /** Carries out what is due of a plan: its seals, or all the rest. */
  async run(
    planned: StreamPlan,
    kind: 'seals' | 'moves',
    report: PassReport,
    signal: AbortSignal,
  ): Promise<void> {
    const { stream, actions, policy } = planned
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

  /** Drops a segment to make room. */
  async drop(one: Droppable, report: PassReport, signal: AbortSignal): Promise<void> {
    const { stream, row } = one
    const about = { kind: 'drop' as const, stream: stream.name, segment: row.segment, bytes: row.lengthBytes }
    try {
      this.#tell({ ...about, phase: 'begin' })
      const gap = await this.#watch.run(about, signal, () => dropSegment(this.#context, one))
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

  /** A trim by hand that a crash cut short; nobody asks for it again. */
  async #finishTrim(stream: StreamRow, signal: AbortSignal): Promise<number> {
    if (!(await trimIsUnfinished(this.#context, stream))) return 0
    const lease = await this.#lease(`tiering/${stream.incarnation}`)
    if (lease === null) return 0
    try {
      const about = { kind: 'trim', stream: stream.name, segment: null }
      return await this.#watch.run(about, signal, (stepSignal) =>
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
      const row = await this.#watch.run(about, signal, (stepSignal, answered) =>
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
}
