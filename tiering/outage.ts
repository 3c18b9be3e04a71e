import { isStratalogError, StratalogError } from '../src/model/errors.js'
import type { Policy } from '../src/model/policy.js'
import type { Quorum } from '../src/model/quorum.js'
import { policyQuorum } from '../src/model/quorum.js'
import type { Incarnation, SegmentRow, StreamRow } from '../src/model/segment.js'
import type { Timer } from '../src/ports/clock.js'
import type { ArchiveState } from './archive-health.js'
import { ArchiveLine, type LineReport } from './archive-line.js'
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
/** Streams whose own archive is remembered, to know at once whether their entries have to wait. */
const OWN_STREAMS_MAX = 100_000

/** How the archive of the log is, how those are that some streams have to themselves, and what follows from it. */
export interface OutageReport extends LineReport {
  readonly own: readonly (LineReport & { readonly location: string })[]
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
  /** The archive of the log, and those that some streams have to themselves by where they are. */
  readonly #log: ArchiveLine
  readonly #own = new Map<string, ArchiveLine>()
  /** Streams that were last seen to lie in an archive of their own. */
  readonly #ownOf = new Map<Incarnation, ArchiveLine>()
  readonly #drops: DropLedger
  readonly #holds: HoldsMemory
  #following = false
  #slowing = false
  #untold = true
  #timer: Timer | null = null

  constructor(context: TieringContext, events: EventRing, wake: () => void) {
    const { clock, logger, stores } = context.ledger
    this.#context = context
    this.#events = events
    this.#wake = wake
    this.disks = new DiskWatch(stores, clock, logger)
    this.#drops = new DropLedger(clock)
    this.#holds = new HoldsMemory(context)
    this.#log = this.#newLine(null)
  }

  /** Whether steps that need the archive of a stream are to be tried. */
  async answers(incarnation: Incarnation): Promise<boolean> {
    return (await this.#lineOf(incarnation)).answers
  }

  /** Whether every archive answers, as far as is known. */
  get allAnswer(): boolean {
    return this.#lines.every((line) => line.answers)
  }

  get report(): OutageReport {
    return {
      ...this.#log.report,
      own: [...this.#own].map(([location, line]) => ({ location, ...line.report })),
      slowing: this.#slowing,
      forecasts: this.disks.forecasts(),
    }
  }

  /**
   * The context for work over all streams: what needs an archive that is down fails at once, and the rest is done. Null
   * for an archive where there is only one and that is down: then nothing is tried that needs it.
   */
  get context(): TieringContext {
    if (this.allAnswer) return this.#context
    const { archive } = this.#context
    if (archive === null || this.#own.size === 0) return { ...this.#context, archive: null }
    const open = async (incarnation: Incarnation) => {
      const line = await this.#lineOf(incarnation)
      if (line.answers) return archive(incarnation)
      const why = line.report.lastError ?? 'it did not answer'
      throw new StratalogError('archive_unavailable', `${line.own ?? 'the archive'} is down: ${why}`, {
        retryable: true,
      })
    }
    return { ...this.#context, archive: open }
  }

  /** Asks archives that are down by itself, and looks at the disks, until `close`. */
  follow(): void {
    this.#following = true
    for (const line of this.#lines) line.follow()
    this.#look()
  }

  close(): void {
    this.#following = false
    this.#timer?.cancel()
    for (const line of this.#lines) line.close()
  }

  /** A step that needs the archive of a stream was carried out. */
  async answered(incarnation: Incarnation): Promise<void> {
    const line = await this.#lineOf(incarnation)
    line.answered()
  }

  /** A step of a stream failed; what is its archive's fault counts. */
  async failed(error: Error, incarnation: Incarnation): Promise<void> {
    // Where even that can't be known, the archive of the log was to say it.
    const line = await this.#lineOf(incarnation).catch(() => this.#log)
    line.failed(error)
  }

  /** Asks the archives now that are down: why one does not answer, or null. */
  async ask(): Promise<Error | null> {
    const errors = await Promise.all(this.#lines.map((line) => line.askNow()))
    return errors.find((error) => error !== null) ?? null
  }

  /** Asks archives of which nothing is known yet, as in a process that only wants to tell how things are. */
  async askOnce(): Promise<void> {
    for (const location of (await this.#context.own?.locations()) ?? []) this.#ownLine(location)
    await Promise.all(this.#lines.map((line) => line.askOnce()))
  }

  /** A pass over all streams begins. */
  passBegins(): void {
    for (const line of this.#lines) line.passBegins()
  }

  /** A pass over all streams is over. */
  async passEnded(): Promise<void> {
    await Promise.all(this.#lines.map((line) => line.passEnded()))
  }

  /** And of deletions. Gaps first: what is copied after them is only then contiguous in the archive too (invariant 5). */
  async tellGaps(signal: AbortSignal): Promise<void> {
    if (!this.#untold || !this.#lines.some((line) => line.answers)) return
    let first: StratalogError | null = null
    // One archive that is down keeps nothing from the others; what it was not told it is told when it is back.
    const failed = async (error: unknown, incarnation: Incarnation) => {
      signal.throwIfAborted()
      if (!isStratalogError(error)) throw error
      first ??= error
      await this.failed(error, incarnation)
    }
    const { context } = this
    await tellDeletions(context, signal, failed)
    await tellGaps(context, signal, failed)
    if (first !== null) throw first
    this.#untold = false
  }

  /** Whether what is held of a stream with that policy has to be known by the time its archive is down. */
  async remembers({ archiveDown }: Policy, incarnation: Incarnation): Promise<boolean> {
    return archiveDown === 'drop' && (await this.#lineOf(incarnation)).state === 'ok'
  }

  /** Asks what is held of a stream, now and then. Rejects with what the archive says. */
  async remember(stream: StreamRow, signal: AbortSignal): Promise<void> {
    await this.#holds.refresh(stream, signal)
  }

  /** How long the next entry of a stream is to wait before it is sent. Cheap: asked for each entry. */
  slowMs(policy: Policy, quorum: Quorum, incarnation: Incarnation): number {
    const line = this.#ownOf.get(incarnation) ?? this.#log
    if (policy.archiveDown !== 'backpressure' || line.answers) return 0
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
    if (this.allAnswer || this.#log.state === 'none') return []
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
      if (resolved.policy.archiveDown !== 'drop' || (await this.answers(stream.incarnation))) continue
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

  get #lines(): readonly ArchiveLine[] {
    return [this.#log, ...this.#own.values()]
  }

  #newLine(own: string | null): ArchiveLine {
    const line = new ArchiveLine(this.#context, own, (of, state, before) => this.#changed(of, state, before))
    if (this.#following) line.follow()
    return line
  }

  #ownLine(location: string): ArchiveLine {
    const line = this.#own.get(location) ?? this.#newLine(location)
    this.#own.set(location, line)
    return line
  }

  async #lineOf(incarnation: Incarnation): Promise<ArchiveLine> {
    const location = (await this.#context.own?.locationOf(incarnation)) ?? null
    if (location === null) return this.#log
    const line = this.#ownLine(location)
    if (this.#ownOf.size >= OWN_STREAMS_MAX) this.#ownOf.clear()
    this.#ownOf.set(incarnation, line)
    return line
  }

  #changed({ own, report }: ArchiveLine, state: ArchiveState, before: ArchiveState): void {
    const { lastError } = report
    this.#events.add({ type: 'archive', state, before, error: lastError, ...(own === null ? {} : { own }) })
    const fields = { state, before, error: lastError, ...(own === null ? {} : { archive: own }) }
    if (state === 'down') this.#context.ledger.logger.error(fields, 'the archive is down, copies wait for it')
    else this.#context.ledger.logger.info(fields, `the archive is ${state}`)
    if (this.allAnswer) this.#slow(false)
    if (before === 'down') this.#wake()
  }

  #slow(slowed: boolean): void {
    if (this.#slowing === slowed) return
    this.#slowing = slowed
    this.#events.add({ type: 'slow', slowed })
  }
}
