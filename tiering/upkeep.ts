import type { LedgerContext } from '../src/ledger/context.js'
import type { ReadRepairs, RepairQueue } from '../src/ledger/repair-queue.js'
import { isStratalogError, StratalogError } from '../src/model/errors.js'
import type { Incarnation } from '../src/model/segment.js'
import type { ArchiveStore } from '../src/ports/archive-store.js'
import type { SegmentIndex } from '../src/ports/segment-index.js'
import { ArchiveCopies } from './cold-copies.js'
import { ColdScrub, type ColdScrubEvent, type ColdScrubState } from './cold-scrub.js'
import type { TieringContext } from './context.js'
import { collectOrphanLedgers, LEDGERS_LOOKED_MS } from './orphan-ledgers.js'
import { PassLoop, type PassOutcome } from './pass-loop.js'
import { Scrub, type ScrubContext, type ScrubState } from './scrub.js'
import { changeStoreFacts, readStoreFacts, type StoreFactsKeeper, withWork } from './store-facts.js'
import { isFinished, isNamed, type WorkProgress, workOff } from './store-work.js'

/** A log that was just opened has better things to do than to be scrubbed. */
const SCRUB_AFTER_MS = 30_000
/** How soon open ledgers that name a store in work are looked at again. */
const OPEN_LEDGERS_MS = 10_000

export interface UpkeepContext {
  readonly ledger: LedgerContext
  readonly index: SegmentIndex
  /** Where it is kept what becomes of lost stores. */
  readonly keeper: StoreFactsKeeper
  readonly archive: ((incarnation: Incarnation) => Promise<ArchiveStore>) | null
  readonly policy: ScrubContext['policy']
  readonly repairs: Pick<RepairQueue, 'counts' | 'close'>
  /** Others keep the hot copies, as BookKeeper does: they are neither scrubbed nor moved here. @default false */
  readonly copiesAreKept?: boolean
  /** What mends copies in the archive and collects ledgers works under the agent's leases; absent: neither is done. */
  readonly tiering?: TieringContext
  /** Told of bad copies in the archive. */
  readonly onColdScrub?: (event: ColdScrubEvent) => void
}

/** What a pass over the stores in work came to. */
export interface WorkPass extends PassOutcome {
  readonly works: readonly WorkProgress[]
  /** Works that could not be gone on with, by the store whose copies they move. */
  readonly broken: ReadonlyMap<string, StratalogError>
}

/** How the copies are. */
export interface UpkeepState {
  /** Others scrub and mend hot copies; of `onRead` the repaired ones are those they were asked for. */
  readonly copiesAreKept: boolean
  readonly scrub: ScrubState
  readonly onRead: ReadRepairs
  /** Null: there is no archive. */
  readonly cold: ColdScrubState | null
}

/**
 * Keeps the hot copies what they should be: scrubs them all the time, and goes on with what `store replace` and
 * `store drain` began, also after a restart.
 */
export class Upkeep {
  readonly #context: UpkeepContext
  readonly #scrub: Scrub
  readonly #scrubs: PassLoop<PassOutcome>
  readonly #works: PassLoop<WorkPass>
  readonly #cold: ColdScrub | null
  readonly #colds: PassLoop<PassOutcome>
  readonly #collects: PassLoop<PassOutcome>
  readonly #listeners = new Set<(progress: WorkProgress) => void>()
  readonly #scrubFromMs: number

  constructor(context: UpkeepContext) {
    this.#context = context
    const { clock, logger } = context.ledger
    this.#scrub = new Scrub({
      ledger: context.ledger,
      index: context.index,
      cold: this.#coldCopies(),
      policy: context.policy,
    })
    this.#scrubFromMs = clock.nowMs() + SCRUB_AFTER_MS
    this.#scrubs = new PassLoop(clock, logger, (signal) => this.#scrubPass(signal))
    this.#works = new PassLoop(clock, logger, (signal) => this.#workPass(signal))
    const { tiering } = context
    this.#cold =
      tiering === undefined || tiering.archive === null ? null : new ColdScrub(tiering, context.onColdScrub)
    this.#colds = new PassLoop(clock, logger, (signal) => this.#coldPass(signal))
    this.#collects = new PassLoop(clock, logger, (signal) => this.#collectPass(signal))
  }

  async state(): Promise<UpkeepState> {
    return {
      copiesAreKept: this.#context.copiesAreKept === true,
      scrub: await this.#scrub.state(),
      onRead: this.#context.repairs.counts,
      cold: this.#cold === null ? null : await this.#cold.state(),
    }
  }

  /** Works in the background until `close`. */
  follow(): void {
    if (this.#cold !== null) this.#colds.follow(SCRUB_AFTER_MS)
    if (this.#context.copiesAreKept === true) return
    this.#scrubs.follow()
    this.#works.follow()
    if (this.#context.tiering !== undefined) this.#collects.follow(SCRUB_AFTER_MS)
  }

  /** Scrubs until the pass under way, or the one that is due, is over. `signal` ends the wait only. */
  scrubPass(signal?: AbortSignal): Promise<ScrubState> {
    return throughPass(this.#scrub, this.#scrubs, this.#context.ledger.clock, signal)
  }

  /** Scrubs all that is in the archive, from the beginning and at full speed. Rejects with what keeps it from going on; null: there is no archive. */
  async coldScrubPass(signal?: AbortSignal): Promise<ColdScrubState | null> {
    if (this.#cold === null) return null
    await this.#cold.beginNow()
    try {
      return await throughPass(this.#cold, this.#colds, this.#context.ledger.clock, signal)
    } finally {
      this.#cold.unhurried()
    }
  }

  /** Works off what there is now of the stores in work; `signal` ends the wait only. */
  async work(onProgress: (progress: WorkProgress) => void, signal?: AbortSignal): Promise<WorkPass> {
    this.#listeners.add(onProgress)
    try {
      return await this.#works.once(signal)
    } finally {
      this.#listeners.delete(onProgress)
    }
  }

  /** Stops after the step under way; the next start goes on from there. */
  async close(): Promise<void> {
    const loops = [this.#scrubs, this.#works, this.#colds, this.#collects]
    await Promise.all([...loops.map((loop) => loop.close()), this.#context.repairs.close()])
    await this.#scrub.close()
    await this.#cold?.close()
  }

  async #scrubPass(signal: AbortSignal): Promise<PassOutcome> {
    if (this.#scrubs.following && this.#context.ledger.clock.nowMs() < this.#scrubFromMs)
      return { failed: [], nextDueMs: this.#scrubFromMs }
    return this.#scrub.step(signal)
  }

  async #coldPass(signal: AbortSignal): Promise<PassOutcome> {
    if (this.#cold === null) return { failed: [], nextDueMs: null }
    return this.#cold.step(signal)
  }

  async #collectPass(signal: AbortSignal): Promise<PassOutcome> {
    const { tiering, ledger } = this.#context
    const nextDueMs = ledger.clock.nowMs() + LEDGERS_LOOKED_MS
    if (tiering === undefined) return { failed: [], nextDueMs }
    const { deleted, kept } = await collectOrphanLedgers(tiering, { collect: true, signal })
    if (deleted.length > 0)
      ledger.logger.info({ ledgers: deleted.length, kept: kept.length }, 'ledgers of no segment deleted')
    return { failed: [], nextDueMs }
  }

  async #workPass(signal: AbortSignal): Promise<WorkPass> {
    const { index, keeper, ledger } = this.#context
    const facts = await readStoreFacts(keeper)
    const broken = new Map<string, StratalogError>()
    const pass = {
      works: [] as WorkProgress[],
      broken,
      failed: [] as unknown[],
      nextDueMs: null as number | null,
    }
    for (const work of facts.works) {
      // Its store is still to be made: the command that began it does that when it is run again.
      if (work.kind === 'replace' && work.to === null) continue
      const context = { ledger, index, cold: this.#coldCopies(), out: new Set(facts.out) }
      const onProgress = (progress: WorkProgress) => {
        for (const listener of this.#listeners) listener(progress)
      }
      const progress = await workOff(context, work, { signal, onProgress }).catch((error: unknown) => {
        signal.throwIfAborted()
        if (!isStratalogError(error)) throw error
        return error
      })
      if (progress instanceof StratalogError) {
        // One store that is in trouble must not keep the copies of the others waiting.
        broken.set(work.from, progress)
        pass.failed.push(progress)
        ledger.logger.warn(
          { err: progress, store: work.from },
          'the copies of a store could not be moved now',
        )
        continue
      }
      pass.works.push(progress)
      if (progress.ledgers > 0) pass.nextDueMs = ledger.clock.nowMs() + OPEN_LEDGERS_MS
      if (progress.incompleteLedgers > 0) pass.failed.push(progress.problem)
      // Looked at once more: a ledger may have been begun on a store in the moment in which it was taken out of use.
      if (isFinished(progress) && !(await isNamed(ledger, work.from))) {
        await changeStoreFacts(keeper, (now) => withWork(now, work.from, null))
        const fields = { from: work.from, to: work.to, ledgers: progress.doneLedgers }
        ledger.logger.info(fields, 'no ledger names the store any more')
      }
    }
    return pass
  }

  #coldCopies(): ArchiveCopies | null {
    const { archive, index, ledger } = this.#context
    return archive === null ? null : new ArchiveCopies(index, archive, ledger.clock)
  }
}

interface ScrubLike<S> {
  state(): Promise<S>
}

/** Steps until a pass is over: the one under way, or the one that is due. */
async function throughPass<S extends { readonly idle: boolean }>(
  scrub: ScrubLike<S>,
  loop: PassLoop<PassOutcome>,
  clock: LedgerContext['clock'],
  signal?: AbortSignal,
): Promise<S> {
  for (;;) {
    signal?.throwIfAborted()
    const before = await scrub.state()
    const { nextDueMs, failed } = await loop.once(signal)
    const [problem] = failed
    if (problem !== undefined) throw problem
    const now = await scrub.state()
    if (now.idle && (before.idle ? nextDueMs !== null && nextDueMs > clock.nowMs() : true)) return now
  }
}
