import { present } from '../src/model/assert.js'
import { isStratalogError, StratalogError } from '../src/model/errors.js'
import type { ResolvedPolicy } from '../src/model/policy.js'
import type { Incarnation, SegmentRow, StreamRow } from '../src/model/segment.js'
import type { Lease } from '../src/ports/coordination.js'
import type { TieringContext, TieringEvent } from './context.js'
import { copySegment } from './copy.js'
import { CopyLine, type CopyTurn } from './copy-line.js'
import { type Droppable, dropSegment } from './drop.js'
import { evictSegment } from './evict.js'
import { FreshSteps } from './fresh-steps.js'
import { isPaused, nextOrderEndMs, tierOrders } from './orders.js'
import type { Outage } from './outage.js'
import { grouped, noteDue, type PassReport, type Step } from './pass-report.js'
import { dueActions, nextDueMs, type PlannedAction } from './plan.js'
import type { StreamPlan } from './planner.js'
import type { StepWatch } from './step-watch.js'
import { finishTrim, trimIsUnfinished, trimThrough } from './trim.js'
import { followedTruncation, followTruncation } from './truncation.js'
import { UploadLimits } from './upload-limits.js'

/** What carrying out steps needs beside the context. */
export interface StepServices {
  /** What there is to do for a stream as things are by now. */
  readonly plan: (stream: StreamRow) => Promise<StreamPlan>
  readonly outage: Outage
  readonly watch: StepWatch
  readonly tell: (event: TieringEvent) => void
}

/** What a step is carried out under. */
interface Conditions {
  readonly signal: AbortSignal
  readonly answered: () => void
  /** Of a copy: its place in the line of copies. */
  readonly turn: CopyTurn | null
}

/**
 * Carries out the steps of one stream after another under its lease. Each is a state machine of its own that survives a
 * crash before and after every one of its own steps (copy.ts, evict.ts, trim.ts, drop.ts).
 */
export class StreamSteps {
  readonly #context: TieringContext
  readonly #plan: StepServices['plan']
  readonly #outage: Outage
  readonly #watch: StepWatch
  readonly #tell: (event: TieringEvent) => void
  readonly #uploads: UploadLimits

  constructor(context: TieringContext, { plan, outage, watch, tell }: StepServices) {
    this.#context = context
    this.#plan = plan
    this.#outage = outage
    this.#watch = watch
    this.#tell = tell
    this.#uploads = new UploadLimits(context.ledger.clock)
  }

  /** Seals what is due of a plan. */
  async seal(
    planned: Pick<StreamPlan, 'stream' | 'actions'>,
    report: PassReport,
    signal: AbortSignal,
  ): Promise<void> {
    const { stream, actions } = planned
    const due = this.#due(
      actions.filter(({ kind }) => kind === 'seal'),
      report,
    )
    if (due.length === 0) return
    const sealAll = async (lease: Lease | null) => {
      for (const action of grouped(due))
        if (!(await this.#execute(stream, lease, action, report, signal))) return
    }
    // Among several processes what a writer here has open is only its own to seal, whoever else tiers the stream: its
    // lock is all it takes.
    const { ledgersAreShared = false, writers } = this.#context
    if (ledgersAreShared && writers.openSegment(stream) !== null) await sealAll(null)
    else await this.#underLease(`sealing/${stream.incarnation}`, sealAll)
  }

  /** Copies, evicts and trims what is due of a plan, as far as no operator paused it and the archive answers. */
  async move(planned: StreamPlan, report: PassReport, signal: AbortSignal): Promise<void> {
    const { stream, policy } = planned
    const moves = planned.actions.filter(({ kind }) => kind !== 'seal')
    const orders = await tierOrders(this.#context)
    if (isPaused(orders, stream.incarnation)) {
      report.waiting += moves.length
      noteDue(report, nextOrderEndMs(orders))
      return
    }
    const due = this.#due(moves, report)
    if (!(await this.#outage.answers(stream.incarnation))) {
      // What needs the archive waits for a probe to be answered, and holds up nothing else.
      report.waiting += due.length
      return
    }
    await this.#remember(stream, policy, signal)
    report.trimmed += await this.#finishTrim(stream, report, signal)
    report.trimmed += await this.#followTruncation(stream, report, signal)
    if (due.length === 0) return
    await this.#underLease(`tiering/${stream.incarnation}`, (lease) =>
      this.#moveDue(stream, lease, due, report, signal),
    )
  }

  async #moveDue(
    stream: StreamRow,
    lease: Lease,
    due: readonly PlannedAction[],
    report: PassReport,
    signal: AbortSignal,
  ): Promise<void> {
    const steps = grouped(due)
    const fresh = new FreshSteps(this.#context, steps, async () => {
      const { actions } = await this.#plan(stream)
      return grouped(dueActions(actions, this.#context.ledger.clock.nowMs()))
    })
    const failed = new Set<string>()
    const copies = new CopyLine(signal)
    try {
      for (const planned of steps) {
        const { incarnation } = stream
        // What is freed and trimmed comes after the copies that were due before it.
        if (planned.kind !== 'copy') await copies.drain()
        if (!(await this.#outage.answers(incarnation))) return
        if (isPaused(await tierOrders(this.#context), incarnation)) return
        // Copies and trims go oldest first and stop at the one that fails; a stuck copy holds up no eviction.
        if (failed.has(planned.kind) || (planned.kind === 'copy' && copies.failed)) continue
        const action = await fresh.asNow(planned)
        if (action === null) continue
        if (action.kind === 'copy')
          await copies.add((turn) => this.#execute(stream, lease, action, report, turn.signal, turn))
        else if (!(await this.#execute(stream, lease, action, report, signal))) failed.add(action.kind)
      }
    } finally {
      // The lease is theirs until they end.
      await copies.drain()
    }
  }

  /** What of them is due; the others wait, and the report says until when. */
  #due(actions: readonly PlannedAction[], report: PassReport): PlannedAction[] {
    const due = dueActions(actions, this.#context.ledger.clock.nowMs())
    const dueNow = new Set(due)
    report.waiting += actions.length - due.length
    noteDue(report, nextDueMs(actions.filter((action) => !dueNow.has(action))))
    return due
  }

  /** Asks what is held of a stream that may have to be dropped once the archive is down, whether or not more is due. */
  async #remember(stream: StreamRow, { policy }: ResolvedPolicy, signal: AbortSignal): Promise<void> {
    const about = { kind: 'remember', stream: stream.name, segment: null }
    try {
      if (await this.#outage.remembers(policy, stream.incarnation))
        await this.#watch.run(about, signal, (stepSignal) => this.#outage.remember(stream, stepSignal))
    } catch (error) {
      signal.throwIfAborted()
      // What is not remembered binds when it comes to dropping; the steps at hand don't hang on it.
      await this.#outage.failed(asError(error), stream.incarnation)
      this.#context.ledger.logger.warn({ err: error, stream: stream.name }, 'what is held could not be asked')
    }
  }

  /** Makes room by a segment while the archive is down. */
  async drop(one: Droppable, report: PassReport, signal: AbortSignal): Promise<void> {
    const { stream, row } = one
    const kind = row.state === 'archived' ? ('evict' as const) : ('drop' as const)
    const about = { kind, stream: stream.name, segment: row.segment, bytes: row.lengthBytes }
    try {
      this.#tell({ ...about, phase: 'begin' })
      const after = await this.#watch.run(about, signal, () => dropSegment(this.#context, one))
      if (after === null) return
      this.#outage.dropped(one)
      report[kind === 'evict' ? 'evicted' : 'dropped'] += 1
      report.freedHotBytes += row.lengthBytes
      const what = kind === 'evict' ? 'a hot copy was freed before its time' : 'a segment was dropped'
      this.#context.ledger.logger.warn(
        { stream: stream.name, segment: `${row.segment}`, bytes: row.lengthBytes },
        `${what}: the archive is down and the disks are nearly full`,
      )
      this.#tell({ ...about, phase: 'done', row: after })
    } catch (error) {
      signal.throwIfAborted()
      if (isStratalogError(error, 'conflict')) return
      await this.#noteFailure(about, error, report, row.incarnation)
    }
  }

  /** A trim by hand that a crash cut short; nobody asks for it again. */
  async #finishTrim(stream: StreamRow, report: PassReport, signal: AbortSignal): Promise<number> {
    if (!(await trimIsUnfinished(this.#context, stream))) return 0
    const segment = stream.trimmedBelow?.segment ?? 0n
    return this.#trimWithoutPlan(stream, segment, report, signal, (_, stepSignal, answered) =>
      finishTrim(this.#context, stream, stepSignal, answered),
    )
  }

  /** What the stream's own application truncated, where that is followed; before any of it is copied. */
  async #followTruncation(stream: StreamRow, report: PassReport, signal: AbortSignal): Promise<number> {
    const below = await followedTruncation(this.#context, stream)
    if (below === null) return 0
    return this.#trimWithoutPlan(stream, below.segment, report, signal, (lease, stepSignal, answered) =>
      followTruncation(this.#context, lease, stream, below, { signal: stepSignal, answered }),
    )
  }

  /** A trim that no policy asks for. */
  async #trimWithoutPlan(
    stream: StreamRow,
    segment: bigint,
    report: PassReport,
    signal: AbortSignal,
    trim: (lease: Lease, signal: AbortSignal, answered: () => void) => Promise<number>,
  ): Promise<number> {
    const about = { kind: 'trim' as const, stream: stream.name, segment, bytes: 0 }
    let trimmed = 0
    await this.#underLease(`tiering/${stream.incarnation}`, async (lease) => {
      try {
        trimmed = await this.#watch.run(about, signal, (stepSignal, answered) =>
          trim(lease, stepSignal, answered),
        )
      } catch (error) {
        signal.throwIfAborted()
        await this.#noteFailure(about, error, report, stream.incarnation)
      }
    })
    return trimmed
  }

  /** Does nothing where another agent is at it. */
  async #underLease(name: string, work: (lease: Lease) => Promise<void>): Promise<void> {
    const { coordination, logId } = this.#context
    const lease = await coordination.acquire(name, { holder: logId, waitMs: 0 }).catch((error: unknown) => {
      if (isStratalogError(error, 'conflict')) return null
      throw error
    })
    if (lease === null) return
    try {
      await work(lease)
    } finally {
      await lease.release()
    }
  }

  /** False: actions of that kind stop here for this pass. */
  async #execute(
    stream: StreamRow,
    lease: Lease | null,
    action: Step,
    report: PassReport,
    signal: AbortSignal,
    turn: CopyTurn | null = null,
  ): Promise<boolean> {
    const about = { kind: action.kind, stream: stream.name, segment: action.segment, bytes: action.bytes }
    try {
      signal.throwIfAborted()
      this.#tell({ ...about, phase: 'begin' })
      const row = await this.#watch.run(about, signal, (stepSignal, answered) =>
        this.#step(stream, lease, action, report, { signal: stepSignal, answered, turn }),
      )
      // Freeing a hot copy only reads: it does not tell that an archive takes what is copied.
      if (action.kind === 'copy' || action.kind === 'trim') await this.#outage.answered(stream.incarnation)
      this.#tell({ ...about, phase: 'done', ...(row === null ? {} : { row }) })
      return true
    } catch (error) {
      signal.throwIfAborted()
      // Somebody changed the row first: the next plan sees it as it is.
      if (isStratalogError(error, 'conflict')) return false
      // The first that fails is the one to tell of. Rejects where that was one before it.
      await turn?.mayCommit()
      await this.#noteFailure(about, error, report, stream.incarnation)
      // An operator has to decide about this one segment; the others have nothing to do with it.
      return isStratalogError(error, 'archive_conflict')
    }
  }

  async #step(
    stream: StreamRow,
    held: Lease | null,
    action: Step,
    report: PassReport,
    { signal, answered, turn }: Conditions,
  ): Promise<SegmentRow | null> {
    const { index } = this.#context
    if (action.kind === 'seal') {
      await this.#context.writers.seal(stream, action.segment)
      report.sealed += 1
      return index.segment(stream.incarnation, action.segment)
    }
    const lease = present(held, 'the lease that streams are tiered under')
    if (action.kind === 'trim') {
      report.trimmed += await trimThrough(this.#context, lease, stream, action.through, signal, answered)
      return null
    }
    // Another process's agent may have trimmed and forgotten it since the plan, which is older than the lease.
    const row = await index.segment(stream.incarnation, action.segment)
    if (row === null) return null
    if (action.kind === 'copy') {
      if (row.state !== 'sealed') return row
      if (turn !== null) turn.heard = answered
      const moves = () => {
        answered()
        turn?.moved()
      }
      const onProgress = (bytes: number) => {
        moves()
        this.#tell({ kind: 'copy', phase: 'progress', stream: stream.name, segment: action.segment, bytes })
      }
      const archived = await copySegment(this.#context, lease, stream, row, {
        signal,
        onProgress,
        answered: moves,
        uploads: this.#uploads,
        ...(turn === null ? {} : { turn: this.#heedingOrders(stream, turn) }),
      })
      report.copied += 1
      return archived
    }
    // It may have been recalled since the plan, too: then it stays until that is over.
    if (row.state !== 'archived' || (row.recalledUntilMs ?? 0) > this.#context.ledger.clock.nowMs())
      return row
    const cold = await evictSegment(this.#context, lease, row, signal)
    report.evicted += 1
    report.freedHotBytes += row.lengthBytes
    this.#outage.freed((await this.#context.policy(stream)).policy, row.lengthBytes)
    return cold
  }

  /** One that began ahead of its time is not committed if an operator paused the stream since. */
  #heedingOrders({ incarnation }: StreamRow, turn: CopyTurn): Pick<CopyTurn, 'stored' | 'mayCommit'> {
    const mayCommit = async () => {
      await turn.mayCommit()
      if (turn.ahead && isPaused(await tierOrders(this.#context), incarnation))
        throw new StratalogError('conflict', 'an operator paused the stream: it is copied when it goes on')
    }
    return { stored: turn.stored, mayCommit }
  }

  async #noteFailure(
    about: Omit<TieringEvent, 'phase'>,
    error: unknown,
    report: PassReport,
    incarnation: Incarnation,
  ): Promise<void> {
    const { kind, stream } = about
    const failure = asError(error)
    if (kind !== 'seal' && kind !== 'drop') await this.#outage.failed(failure, incarnation)
    const segment = about.segment.toString()
    report.failed.push({ stream, segment, kind, error: failure.message })
    const fields = { err: failure, stream, segment, step: kind }
    this.#context.ledger.logger.error(fields, 'tiering step failed, it is tried again')
    this.#tell({ ...about, phase: 'failed', error: failure })
  }
}

/** Whatever was thrown, as an error. */
export function asError(error: unknown): Error {
  return error instanceof Error ? error : new Error(String(error))
}
