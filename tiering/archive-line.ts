import { ownerFactOf } from '../archive/bindings.js'
import { ownerOf } from '../archive/control-objects.js'
import { StratalogError } from '../src/model/errors.js'
import { ArchiveHealth, type ArchiveReport, type ArchiveState, signOf } from './archive-health.js'
import { ArchiveProbe } from './archive-probe.js'
import type { TieringContext } from './context.js'

/** One archive and when it is asked next whether it is back, milliseconds since the epoch; null: it is not. */
export interface LineReport extends ArchiveReport {
  readonly nextProbeMs: number | null
}

/** Told when what is known of an archive changes. */
export type LineChanged = (line: ArchiveLine, state: ArchiveState, before: ArchiveState) => void

/**
 * The way to one archive as the steps find it: what is known of it, and who asks it while it is down. Each archive of a
 * log has one of its own, so that one that is down holds up nobody else's streams (decision 0030).
 */
export class ArchiveLine {
  /** Where the archive is that some streams have to themselves; null: the one of the log. */
  readonly own: string | null
  readonly #context: TieringContext
  readonly #health: ArchiveHealth
  readonly #probe: ArchiveProbe
  #following = false
  #passFailed = false

  constructor(context: TieringContext, own: string | null, changed: LineChanged) {
    const { clock } = context.ledger
    this.own = own
    this.#context = context
    this.#health = new ArchiveHealth(
      context.archive !== null,
      () => clock.nowMs(),
      (state, before) => {
        changed(this, state, before)
        if (state === 'ok') this.#probe.stop()
        else if (state === 'down' && this.#following) this.#probe.start()
      },
    )
    this.#probe = new ArchiveProbe({
      clock,
      random: context.random,
      ask: (signal) => this.#ask(signal),
      outcome: (error) => {
        if (error === null) this.#health.sign('probe-answered')
        else this.#health.sign('probe-failed', error)
      },
    })
  }

  get state(): ArchiveState {
    return this.#health.state
  }

  /** Whether steps that need the archive are to be tried. */
  get answers(): boolean {
    return this.#health.state !== 'down'
  }

  get report(): LineReport {
    return { ...this.#health.report, nextProbeMs: this.#probe.nextMs }
  }

  /** Asks by itself while it is down, until `close`. */
  follow(): void {
    this.#following = true
    if (!this.answers) this.#probe.start()
  }

  close(): void {
    this.#following = false
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

  /** Asks it now where it is down: why it does not answer, or null. */
  async askNow(): Promise<Error | null> {
    if (this.answers) return null
    const error = await this.#probe.now()
    if (error !== null && this.#following) this.#probe.start()
    return error
  }

  /** Asks it if nothing is known of it yet, as in a process that only wants to tell how things are. */
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

  async #ask(signal: AbortSignal): Promise<void> {
    const { archive, index, logId } = this.#context
    if (archive === null) return
    // The log's own archive is that of a stream that nobody bound to another.
    const store = await (this.#context.own?.open(this.own) ?? archive(''))
    const known = await index.fact(ownerFactOf(this.own))
    const owner = await ownerOf(store, signal)
    // An empty mount point answers too, and is not our archive (decision 0008).
    if (known !== logId || owner?.logId === logId) return
    throw new StratalogError(
      'archive_missing',
      `what is at ${store.location} is not the archive of this log: mount it, or copy the whole archive there first`,
      { expected: logId, found: owner?.logId ?? null, retryable: true },
    )
  }
}
