import {
  bindingFact,
  LOG_ARCHIVE,
  locationsIn,
  OWN_ARCHIVES_FACT,
  ownArchiveOf,
  ownerFactOf,
} from '../../archive/bindings.js'
import type { OwnArchives } from '../../tiering/context.js'
import { isSamePlace } from '../../tiering/migrate-moves.js'
import { incarnationPart } from '../format/archive-names.js'
import type { ResolvedPolicy } from '../model/policy.js'
import type { Incarnation, StreamRow } from '../model/segment.js'
import type { ArchiveStore } from '../ports/archive-store.js'
import type { SegmentIndex } from '../ports/segment-index.js'
import { archiveLocation } from './archive-location.js'
import { type ArchiveOpener, type ArchiveUser, openerAt } from './archives.js'

/** What finding a stream's archive takes. */
export interface StreamArchivesParts {
  readonly root: string
  /** The archive of the log. */
  readonly log: ArchiveOpener
  readonly user: ArchiveUser
  readonly index: SegmentIndex
  readonly policy: (stream: StreamRow) => Promise<ResolvedPolicy>
}

/**
 * Which archive each stream lies in, and the way there (decision 0030). An incarnation is bound when its archive is
 * first asked for while its policy names one of its own: the facts are on the stores before any object of it is in any
 * archive, and they outlive every change of policy. One that has something in the log's archive already stays there.
 */
export class StreamArchives implements OwnArchives {
  readonly #parts: StreamArchivesParts
  readonly #openers = new Map<string, ArchiveOpener>()
  /** Incarnations that are being bound, and the list of archives that is being added to: one after another. */
  #binding: Promise<unknown> = Promise.resolve()

  constructor(parts: StreamArchivesParts) {
    this.#parts = parts
  }

  /** The archive of a stream, opened when it is first needed. */
  async of(incarnation: Incarnation): Promise<ArchiveStore> {
    return this.open(await this.#place(incarnation))
  }

  async locationOf(incarnation: Incarnation): Promise<string | null> {
    const bound = await ownArchiveOf(this.#parts.index, incarnation)
    return bound === null ? null : this.other(bound)
  }

  async locations(): Promise<readonly string[]> {
    const all = locationsIn(await this.#parts.index.fact(OWN_ARCHIVES_FACT))
    const others = await Promise.all(all.map((location) => this.other(location)))
    return others.filter((location) => location !== null)
  }

  open(location: string | null): Promise<ArchiveStore> {
    if (location === null) return this.#parts.log.open()
    const known = this.#openers.get(location)
    const opener = known ?? openerAt(location, null, this.#parts.user, ownerFactOf(location))
    this.#openers.set(location, opener)
    return opener.open()
  }

  async bindTo(incarnation: Incarnation, other: Incarnation): Promise<void> {
    const { index } = this.#parts
    await this.#place(other)
    // What is bound to nothing lies in the log's archive, and who shares its objects is found to do so (`#bind`).
    const bound = await index.fact(bindingFact(other))
    if (bound !== null) await index.setFact(bindingFact(incarnation), bound)
  }

  /** Closes those that were opened; the log's is closed by who opened it. */
  async close(): Promise<void> {
    for (const opener of this.#openers.values()) await (await opener.opened())?.close()
  }

  /** Where a stream lies; one that lies nowhere yet and whose policy names an archive of its own is bound to that. */
  async #place(incarnation: Incarnation): Promise<string | null> {
    const bound = await this.#parts.index.fact(bindingFact(incarnation))
    if (bound !== null) return this.other(bound)
    const wanted = await this.#wanted(incarnation)
    return wanted === null ? null : this.#alone(() => this.#bind(incarnation, wanted))
  }

  /**
   * Null: it is the archive of the log, by whatever name. A place that it left is one of its names, as it is in the
   * configuration: opened a second time it would not be held still when the archive moves on.
   */
  async other(bound: string): Promise<string | null> {
    const { log, index } = this.#parts
    if (bound === LOG_ARCHIVE) return null
    return (await isSamePlace(index, bound, log.location)) ? null : bound
  }

  /** What the policy of a stream names for it; null: nothing of its own. */
  async #wanted(incarnation: Incarnation): Promise<string | null> {
    const { index, policy, root } = this.#parts
    const stream = await index.stream(incarnation)
    if (stream === null) return null
    const { archive } = (await policy(stream)).policy
    return archive === null || archive === 'none' ? null : this.other(archiveLocation(archive, root))
  }

  async #bind(incarnation: Incarnation, wanted: string): Promise<string | null> {
    const { index } = this.#parts
    // Somebody else may have been as quick.
    const bound = await index.fact(bindingFact(incarnation))
    if (bound !== null) return this.other(bound)
    const parent = (await index.stream(incarnation))?.parent ?? null
    // A clone lies where the objects are that it shares, though nothing may be there under its own name.
    const shared = parent?.shares === true && (await ownArchiveOf(index, parent.incarnation)) === null
    if (shared || (await this.#isInLogs(incarnation))) {
      await index.setFact(bindingFact(incarnation), LOG_ARCHIVE)
      return null
    }
    // The list first: who goes through all archives must not miss one that a stream is bound to.
    const all = locationsIn(await index.fact(OWN_ARCHIVES_FACT))
    if (!all.includes(wanted)) await index.setFact(OWN_ARCHIVES_FACT, JSON.stringify([...all, wanted]))
    await index.setFact(bindingFact(incarnation), wanted)
    return wanted
  }

  /** Whether the log's archive has anything of a stream. Only its answer says no: what is unknown binds nothing. */
  async #isInLogs(incarnation: Incarnation): Promise<boolean> {
    const archive = await this.#parts.log.open()
    const found = await archive.listFrom(`${incarnationPart(incarnation)}/`, '', 1)
    return found.length > 0
  }

  #alone<T>(work: () => Promise<T>): Promise<T> {
    const done = this.#binding.then(work, work)
    this.#binding = done.catch(() => undefined)
    return done
  }
}
