import cron from 'node-cron'
import { present } from '../src/model/assert.js'
import type { CopyWindow, Policy, ResolvedPolicy } from '../src/model/policy.js'
import type { Quorum } from '../src/model/quorum.js'
import type { Incarnation, StreamRow } from '../src/model/segment.js'
import { announceDebts } from './announce.js'
import type { TieringContext, TieringEvent } from './context.js'
import { settleDeletion } from './delete.js'
import { EventRing } from './events.js'
import { settleDebts } from './evict.js'
import { isPaused, tierOrders } from './orders.js'
import { Outage, type OutageReport } from './outage.js'
import { PassLoop } from './pass-loop.js'
import { add, emptyReport, type PassReport } from './pass-report.js'
import { settlePins } from './pins.js'
import { OLDEST_FIRST, Planner, type StreamPlan } from './planner.js'
import { settleRecalls } from './recall.js'
import { type RunningStep, StepWatch } from './step-watch.js'
import { asError, StreamSteps } from './stream-steps.js'
import { thawWaits } from './thaw.js'

/**
 * Streams whose segments are moved side by side: one that hangs does not hold up the others, and small segments, which
 * wait for syncs more than they work, share those. `CopyRoom` bounds the memory of large ones.
 */
const STREAMS_AT_ONCE = 16
const STREAMS_PAGE = 100

export type { PassReport } from './pass-report.js'
export type { StreamPlan } from './planner.js'

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
  readonly #watch: StepWatch
  readonly #planner: Planner
  readonly #steps: StreamSteps
  readonly #listeners = new Set<(event: TieringEvent) => void>()
  readonly #tasks = new Map<string, { stop(): void | Promise<void> }>()
  /** Seals need no archive, and must not wait for one. */
  readonly #seals: PassLoop<PassReport>
  readonly #moves: PassLoop<PassReport>
  /** Nothing but what writers of this process have open is sealed without being asked for. */
  #sealsOwnOnly = false
  /** Passes over all streams that somebody waits for. */
  #ordered = 0
  /** Somebody waits for the next pass: an archive that is down is asked then, whenever its turn would be. */
  #byHand = false

  constructor(context: TieringContext) {
    this.#context = context
    const { clock, logger } = context.ledger
    this.#seals = new PassLoop(clock, logger, (signal) => this.#sealPass(signal))
    this.#moves = new PassLoop(clock, logger, (signal) => this.#movePass(signal))
    this.events = new EventRing(clock)
    this.#outage = new Outage(context, this.events, () => this.#moves.wake(0))
    this.#watch = new StepWatch(clock, (step) => this.#stalled(step))
    this.#planner = new Planner(context, this.#outage)
    this.#steps = new StreamSteps(context, {
      plan: (stream) => this.#planner.planFor(stream, OLDEST_FIRST),
      outage: this.#outage,
      watch: this.#watch,
      tell: (event) => this.#tell(event),
    })
  }

  get state(): AgentState {
    const stalled = this.#watch.running.filter(({ stalledSinceMs }) => stalledSinceMs !== null)
    return { ...this.#outage.report, stalled }
  }

  /** Looks at the disks, and asks an archive of which nothing is known, so that `state` tells how things are. */
  async look(): Promise<void> {
    await Promise.all([this.#outage.disks.look(), this.#outage.askOnce()])
  }

  /** How long the next entry of a stream with that policy is to wait before it is sent. */
  slowMs(policy: Policy, quorum: Quorum, incarnation: Incarnation): number {
    return this.#outage.slowMs(policy, quorum, incarnation)
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

  /**
   * Seals by policy, in the background until `close`, what writers of this process have open, and nothing else: where
   * other processes tier the same streams none of them can do that.
   */
  followSeals(): void {
    this.#sealsOwnOnly = true
    this.#seals.follow()
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
  async plans(only?: string, oldestMax?: number): Promise<StreamPlan[]> {
    const plans: StreamPlan[] = []
    for await (const stream of this.#streams()) {
      if (only === undefined || stream.name === only)
        plans.push(await this.#planner.planFor(stream, oldestMax))
    }
    return plans
  }

  /** Seals what is due, then moves what is due, over all streams once. `signal` ends the wait, not the work. */
  async runOnce(signal?: AbortSignal): Promise<PassReport> {
    const total = emptyReport()
    this.#ordered += 1
    try {
      add(total, await this.#seals.once(signal))
    } finally {
      this.#ordered -= 1
    }
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
    if (this.#sealsOwnOnly && this.#ordered === 0) return this.#sealOwn(report, signal)
    await this.#planner.remember()
    for await (const stream of this.#streams()) {
      signal.throwIfAborted()
      await this.#guarded(stream, report, signal, async () => {
        // Of very many streams most rest, and a plan reads several times as much as this.
        if (await this.#planner.isSealed(stream)) return
        await this.#steps.seal(await this.#planner.planFor(stream, OLDEST_FIRST), report, signal)
      })
    }
    return report
  }

  /** What writers of this process have open. */
  async #sealOwn(report: PassReport, signal: AbortSignal): Promise<PassReport> {
    for (const incarnation of this.#context.writers.openStreams()) {
      signal.throwIfAborted()
      await this.#guarded({ name: incarnation }, report, signal, async () => {
        const stream = await this.#context.index.stream(incarnation)
        if (stream === null) return
        await this.#guarded(stream, report, signal, async () => {
          await this.#steps.seal(await this.#planner.sealsFor(stream), report, signal)
        })
      })
    }
    return report
  }

  async #movePass(signal: AbortSignal): Promise<PassReport> {
    const report = emptyReport()
    this.#outage.passBegins()
    const byHand = this.#byHand || !this.following
    await this.#askArchive(report)
    // What lies in an archive that is down is freed when it is back.
    const { context } = this.#outage
    await this.#attempt('free', report, signal, (stepSignal, answered) =>
      settleDebts(context, stepSignal, answered),
    )
    await this.#attempt('free', report, signal, (stepSignal) => settlePins(context, stepSignal))
    await this.#attempt('tell', report, signal, (stepSignal) => this.#outage.tellGaps(stepSignal))
    const streams = this.#streams()
    const work = async () => {
      // One iterator for all: each takes the next stream there is.
      for (let next = await streams.next(); !next.done; next = await streams.next()) {
        const stream = next.value
        signal.throwIfAborted()
        await this.#guarded(stream, report, signal, () => this.#attend(stream, byHand, report, signal))
      }
    }
    await Promise.all(Array.from({ length: STREAMS_AT_ONCE }, work))
    await this.#dropWhereShort(report, signal)
    await this.#outage.passEnded()
    return report
  }

  /** All that is due of one stream; what fails of it holds up nothing else of it. */
  async #attend(stream: StreamRow, byHand: boolean, report: PassReport, signal: AbortSignal): Promise<void> {
    if ((await this.#context.index.fact(`deleted/${stream.incarnation}`)) !== null) {
      if (isPaused(await tierOrders(this.#context), stream.incarnation)) return
      await this.#settle('delete', stream, report, signal, (stepSignal, answered) =>
        settleDeletion(this.#context, stream, stepSignal, answered),
      )
      return
    }
    await this.#guarded(stream, report, signal, () => this.#moveStream(stream, report, signal))
    await this.#settle('tell', stream, report, signal, () => announceDebts(this.#context, stream))
    await this.#guarded(stream, report, signal, () => this.#bringBack(stream, byHand, signal))
  }

  /** What the archive is owed of a stream beside its segments: while it is down that waits, and holds up nothing. */
  async #settle(
    kind: 'delete' | 'tell',
    stream: StreamRow,
    report: PassReport,
    signal: AbortSignal,
    work: (signal: AbortSignal, answered: () => void) => Promise<unknown>,
  ): Promise<void> {
    if (!(await this.#outage.answers(stream.incarnation))) return
    await this.#guarded(stream, report, signal, async () => {
      await this.#watch
        .run({ kind, stream: stream.name, segment: null }, signal, work)
        .catch(async (error: unknown) => {
          signal.throwIfAborted()
          await this.#outage.failed(asError(error), stream.incarnation)
          throw error
        })
    })
  }

  async #moveStream(stream: StreamRow, report: PassReport, signal: AbortSignal): Promise<void> {
    const planned = await this.#planner.planFor(stream, OLDEST_FIRST)
    this.#scheduleWindow(stream, planned.policy)
    await this.#steps.move(planned, report, signal)
  }

  /** What was recalled and could not be read then, as soon as it can. */
  async #bringBack(stream: StreamRow, now: boolean, signal: AbortSignal): Promise<void> {
    if (!(await this.#outage.answers(stream.incarnation))) return
    if ((await thawWaits(this.#context, stream.incarnation)).length === 0) return
    const about = { kind: 'recall', stream: stream.name, segment: null }
    const more = await this.#watch.run(about, signal, (stepSignal, answered) =>
      settleRecalls(this.#context, stream, { now, signal: stepSignal, answered }),
    )
    if (more) this.#moves.wake(0)
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
      await this.#watch.run({ kind, stream: '', segment: null }, signal, work)
    } catch (error) {
      signal.throwIfAborted()
      const failure = asError(error)
      report.failed.push({ stream: '', segment: '', kind, error: failure.message })
      const what = kind === 'free' ? 'freeing what is owed failed' : 'the archive was not told of gaps'
      this.#context.ledger.logger.error({ err: failure }, `${what}, it is tried again`)
    }
  }

  /** While the archive is down: the oldest of what no archive has makes room where the policy says so. */
  async #dropWhereShort(report: PassReport, signal: AbortSignal): Promise<void> {
    const chosen = await this.#outage.toDrop(this.#streams(), (stream, error) => {
      const failure = asError(error)
      report.failed.push({ stream: stream.name, segment: '', kind: 'drop', error: failure.message })
      this.#context.ledger.logger.error(
        { err: failure, stream: stream.name },
        'nothing of a stream is dropped',
      )
    })
    for (const one of chosen) {
      // Never while the archive answers: what is back may take the rest.
      if (signal.aborted) return
      if (await this.#outage.answers(one.stream.incarnation)) continue
      await this.#steps.drop(one, report, signal)
    }
  }

  /** One stream that can't be planned (a damaged row) must not stop the others. */
  async #guarded(
    stream: Pick<StreamRow, 'name'>,
    report: PassReport,
    signal: AbortSignal,
    work: () => Promise<void>,
  ): Promise<void> {
    try {
      await work()
    } catch (error) {
      signal.throwIfAborted()
      const failure = asError(error)
      report.failed.push({ stream: stream.name, segment: '', kind: 'plan', error: failure.message })
      this.#context.ledger.logger.error(
        { err: failure, stream: stream.name },
        'tiering of a stream failed, it is tried again',
      )
    }
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
