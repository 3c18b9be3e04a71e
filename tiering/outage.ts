import { ARCHIVE_OWNER_FACT, ownerOf } from '../archive/control-objects.js'
import { StratalogError } from '../src/model/errors.js'
import type { Policy } from '../src/model/policy.js'
import type { Quorum } from '../src/model/quorum.js'
import { policyQuorum } from '../src/model/quorum.js'
import type { SegmentRow, StreamRow } from '../src/model/segment.js'
import type { Timer } from '../src/ports/clock.js'
import { ArchiveHealth, type ArchiveReport, signOf } from './archive-health.js'
import { ArchiveProbe } from './archive-probe.js'
import type { TieringContext } from './context.js'
import { tellDeletions } from './delete.js'
import { DiskWatch, type StoreForecast } from './disk-watch.js'
import { chooseDrops, DropLedger, type Droppable, droppableRows, freeableRows, HoldsMemory } from './drop.js'
import type { EventRing } from './events.js'
import { tellGaps } from './gap.js'
import { isPaused, tierOrders } from './orders.js'

/** Between looks at the disks, for the forecast and for what has to be dropped. */
const LOOK_MS = 5_000
/** What an entry of a slowed stream waits at most, where its disks are about to be full. */
export const SLOW_MS_MAX: number = 1_000

/** How the archive is and what follows from it. */
export interface OutageReport extends ArchiveReport {
  /** When it is asked next whether it is back, milliseconds since the epoch; null: it is not. */
  readonly nextProbeMs: number | null
  /** Whether writers wait for their entries to go, because of it. */
  readonly slowing: boolean
  readonly forecasts: readonly StoreForecast[]
}

/**
 * What becomes of streams while the archive does not answer (DESIGN.md §8): copies wait, and nothing else does. A
 * policy says what is done about disks that fill up meanwhile: `hold` nothing, `backpressure` slows the stream's
 * writers, `drop` gives up the oldest of what no archive has. All of it ends by itself when the archive is back.
 */
export class Outage {
  readonly disks: DiskWatch
  readonly #context: TieringContext
  readonly #events: EventRing
  readonly #wake: () => void
  readonly #health: ArchiveHealth
  readonly #probe: ArchiveProbe
  readonly #drops: DropLedger
  readonly #holds: HoldsMemory
  #following = false
  #slowing = false
  #untold = true
  #passFailed = false
  #timer: Timer | null = null

  constructor(context: TieringContext, events: EventRing, wake: () => void) {
    const { clock, logger, stores } = context.ledger
    this.#context = context
    this.#events = events
    this.#wake = wake
    this.disks = new DiskWatch(stores, clock, logger)
    this.#drops = new DropLedger(clock)
    this.#holds = new HoldsMemory(context)
    this.#health = new ArchiveHealth(
      context.archive !== null,
      () => clock.nowMs(),
      (state, before) => this.#changed(state, before),
    )
    this.#probe = new ArchiveProbe({
      clock,
      random: context.random,
      ask: (signal) => this.#ask(signal),
      outcome: (error) => this.#probed(error),
    })
  }

  /** Whether steps that need the archive are to be tried. */
  get archiveAnswers(): boolean {
    return this.#health.state !== 'down'
  }

  get report(): OutageReport {
    return {
      ...this.#health.report,
      nextProbeMs: this.#probe.nextMs,
      slowing: this.#slowing,
      forecasts: this.disks.forecasts(),
    }
  }

  /** Asks an archive that is down by itself, and looks at the disks, until `close`. */
  follow(): void {
    this.#following = true
    if (!this.archiveAnswers) this.#probe.start()
    this.#look()
  }

  close(): void {
    this.#following = false
    this.#timer?.cancel()
    this.#probe.close()
  }

  /** A step that needs the archive was carried out. */
  answered(): void {
    this.#health.sign('answered')
  }

  /** A step failed; what is the archive's fault counts. */
  failed(error: Error): void {
    const sign = signOf(error)
    if (sign === null) return
    this.#passFailed = true
    this.#health.sign(sign, error)
    // Whether it was one object's trouble or the archive's: a probe tells, and holds nothing up.
    if (this.#following && this.#health.state === 'failing') this.#probe.start()
  }

  /** Asks the archive now where it is down: why it does not answer, or null. */
  async ask(): Promise<Error | null> {
    if (this.archiveAnswers) return null
    const error = await this.#probe.now()
    if (error !== null && this.#following) this.#probe.start()
    return error
  }

  /** Asks an archive of which nothing is known yet, as in a process that only wants to tell how things are. */
  async askOnce(): Promise<void> {
    const { archive, lastAnswerMs } = this.#health.report
    if (archive === 'ok' && lastAnswerMs === null && !this.#following) await this.#probe.now()
  }

  /** A pass over all streams begins. */
  passBegins(): void {
    this.#passFailed = false
  }

  /**
   * A pass over all streams is over. If nothing failed in it for the archive's sake, and no step had to ask it, a probe
   * does: what fails for another reason would leave it failing for ever.
   */
  async passEnded(): Promise<void> {
    if (!this.#passFailed && this.#health.state === 'failing' && (await this.#probe.now()) === null)
      this.answered()
  }

  /** And of deletions. Gaps first: what is copied after them is only then contiguous in the archive too (invariant 5). */
  async tellGaps(signal: AbortSignal): Promise<void> {
    if (!this.#untold || !this.archiveAnswers) return
    await tellDeletions(this.#context, signal)
    await tellGaps(this.#context, signal)
    this.#untold = false
  }

  /** Whether what is held of streams with that policy has to be known by the time the archive is down. */
  remembers({ archiveDown }: Policy): boolean {
    return archiveDown === 'drop' && this.#health.state === 'ok'
  }

  /** Asks what is held of a stream, now and then. Rejects with what the archive says. */
  async remember(stream: StreamRow, signal: AbortSignal): Promise<void> {
    await this.#holds.refresh(stream, signal)
  }

  /** How long the next entry of a stream is to wait before it is sent. Cheap: asked for each entry. */
  slowMs(policy: Policy, quorum: Quorum): number {
    if (policy.archiveDown !== 'backpressure' || this.archiveAnswers) return 0
    void this.disks.look()
    const lacking = 1 - this.disks.slowRoom(quorum.copies)
    const delayMs = Math.round(SLOW_MS_MAX * lacking ** 2)
    if (delayMs > 0) this.#slow(true)
    return delayMs
  }

  /**
   * What has to be dropped now, oldest first over all streams whose policy says so; empty while the archive answers and
   * while there is room. `unknown` hears of streams of which nothing can be dropped, and why.
   */
  async toDrop(
    streams: AsyncIterable<StreamRow>,
    unknown: (stream: StreamRow, error: unknown) => void,
  ): Promise<Droppable[]> {
    if (this.archiveAnswers || this.#health.state === 'none') return []
    await this.disks.look()
    const stores = this.#stores
    let chosen: Droppable[] = []
    // Where the store with the least room has enough, so have the others.
    if (this.disks.shortBytes(stores) <= 0) {
      this.#drops.settled()
      return chosen
    }
    const orders = await tierOrders(this.#context)
    for await (const stream of streams) {
      if (isPaused(orders, stream.incarnation)) continue
      const resolved = await this.#context.policy(stream)
      if (resolved.policy.archiveDown !== 'drop') continue
      const { min } = policyQuorum(resolved.policy, stores)
      const wantedBytes = this.#drops.wanted(this.disks.shortBytes(min))
      if (wantedBytes <= 0) continue
      const share = this.#shareOf(resolved.policy)
      const choose = (rows: readonly SegmentRow[]) => {
        const more = rows.map((row) => ({ stream, row, bytesEach: row.lengthBytes * share }))
        // Only what is chosen is kept in mind, however many streams there are.
        chosen = chooseDrops([...chosen, ...more], wantedBytes)
      }
      try {
        choose(await freeableRows(this.#context, stream))
        choose(await droppableRows(this.#context, stream))
      } catch (error) {
        unknown(stream, error)
      }
    }
    return chosen
  }

  /** It was dropped: the archive is to be told, and its space is awaited. */
  dropped(one: Droppable): void {
    this.#drops.dropped(one.bytesEach)
    this.#untold = true
  }

  /** A hot copy went: its space is awaited. */
  freed(policy: Policy, lengthBytes: number): void {
    this.#drops.dropped(lengthBytes * this.#shareOf(policy))
  }

  /** Bytes of hot copies of a stream that are to go before their time, for want of room on its stores. */
  pressedBytes(policy: Policy): number {
    // A log that only reads an archive has no disks.
    if (this.#stores === 0) return 0
    void this.disks.look()
    const { min } = policyQuorum(policy, this.#stores)
    return this.#drops.wanted(this.disks.shortBytes(min)) / this.#shareOf(policy)
  }

  get #stores(): number {
    return this.#context.ledger.stores.all().length
  }

  /** What of a byte of a stream lies on a store, on the average of all stores. */
  #shareOf(policy: Policy): number {
    const stores = Math.max(1, this.#stores)
    return Math.min(1, policyQuorum(policy, stores).copies / stores)
  }

  #look(): void {
    this.#timer = this.#context.ledger.clock.setTimer(LOOK_MS, () => {
      void this.disks.look().then(() => {
        if (!this.#following) return
        if (this.disks.shortBytes(this.#stores) > 0) this.#wake()
        if (this.disks.slowRoom(this.#stores) === 1) this.#slow(false)
        this.#look()
      })
    })
  }

  async #ask(signal: AbortSignal): Promise<void> {
    const { archive, index, logId } = this.#context
    if (archive === null) return
    const store = await archive()
    const known = await index.fact(ARCHIVE_OWNER_FACT)
    const owner = await ownerOf(store, signal)
    // An empty mount point answers too, and is not our archive (decision 0008).
    if (known !== logId || owner?.logId === logId) return
    throw new StratalogError(
      'archive_missing',
      `what is at ${store.location} is not the archive of this log: mount it, or copy the whole archive there first`,
      { expected: logId, found: owner?.logId ?? null, retryable: true },
    )
  }

  #probed(error: Error | null): void {
    if (error === null) this.#health.sign('probe-answered')
    else this.#health.sign('probe-failed', error)
  }

  #changed(state: ArchiveReport['archive'], before: ArchiveReport['archive']): void {
    const { lastError } = this.#health.report
    this.#events.add({ type: 'archive', state, before, error: lastError })
    const fields = { state, before, error: lastError }
    if (state === 'down') this.#context.ledger.logger.error(fields, 'the archive is down, copies wait for it')
    else this.#context.ledger.logger.info(fields, `the archive is ${state}`)
    if (state !== 'down') this.#slow(false)
    if (state === 'ok') this.#probe.stop()
    else if (state === 'down' && this.#following) this.#probe.start()
    if (before === 'down') this.#wake()
  }

  #slow(slowed: boolean): void {
    if (this.#slowing === slowed) return
    this.#slowing = slowed
    this.#events.add({ type: 'slow', slowed })
  }
}
