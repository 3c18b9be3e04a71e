import { ownArchiveOf, ownerFactOf } from '../../archive/bindings.js'
import { ARCHIVE_OWNER_FACT } from '../../archive/control-objects.js'
import { chooseSegments, segmentRowFromKey } from '../../archive/listing.js'
import { listSummarized } from '../../archive/summaries.js'
import { isSamePlace } from '../../tiering/migrate-moves.js'
import type { ColdConflict } from '../metadata/distributedlog/reconcile.js'
import { StratalogError } from '../model/errors.js'
import type { SegmentRow } from '../model/segment.js'
import type { ArchiveStore } from '../ports/archive-store.js'
import { archiveSettings } from './archive-settings.js'
import { type ArchiveUser, archiveOpener, openerAt } from './archives.js'
import type { Opening } from './ground.js'
import { ringsOf } from './key-rings.js'

/** Reads a fact of the log, see `SegmentIndex`. */
export type ReadFact = (name: string) => Promise<string | null>

/**
 * The names in the archives of a log, read while its index is being made from them: so nothing here may ask that index,
 * but for the facts that say which archive a stream lies in, and whether this log has used it. One that does not answer,
 * is not this log's, or was used and is not named here is an error, never an empty one: what it holds would be taken for
 * lost, and the archive be told so (invariant 8).
 */
export class ArchivedNames {
  readonly #opening: Opening
  readonly #user: ArchiveUser
  /** Where the configuration says that the log's archive is; null: it has none. */
  readonly #configured: string | null
  readonly #abort = new AbortController()
  /** By location; null: that of the log. */
  readonly #stores = new Map<string | null, Promise<ArchiveStore>>()

  constructor(opening: Opening, logId: string, fact: ReadFact) {
    const { root, options, config, live, system } = opening
    this.#opening = opening
    this.#user = {
      logId,
      index: { fact, setFact: () => Promise.resolve() },
      system,
      signal: this.#abort.signal,
      rings: ringsOf(
        root,
        options,
        () => live.current,
        system,
        () => Promise.resolve(null),
      ),
      settings: archiveSettings(root, config),
    }
    this.#configured = archiveOpener(root, options, config, this.#user)?.location ?? null
  }

  /** The rows of a stream's archived segments from a number on, ascending; conflicts too, for they are not nothing. */
  async *rows(incarnation: string, from: bigint): AsyncGenerator<SegmentRow | ColdConflict> {
    const store = await this.#storeOf(incarnation)
    if (store === null) return
    for await (const found of chooseSegments(
      listSummarized(store, incarnation, { from, signal: this.#abort.signal }),
    ))
      yield found.kind === 'chosen' ? segmentRowFromKey(found.chosen) : found
  }

  async close(): Promise<void> {
    this.#abort.abort(new StratalogError('closed', 'the log is closed'))
    for (const opening of this.#stores.values()) {
      const store = await opening.catch(() => null)
      await store?.close()
    }
  }

  /** Null: neither the stream nor the log ever had an archive. */
  async #storeOf(incarnation: string): Promise<ArchiveStore | null> {
    const { index } = this.#user
    const configured = this.#configured
    const bound = await ownArchiveOf(index, incarnation)
    const inOwn = bound !== null && (configured === null || !(await isSamePlace(index, bound, configured)))
    const own = inOwn ? bound : null
    if (own === null && configured === null) {
      if ((await index.fact(ARCHIVE_OWNER_FACT)) === null) return null
      throw notNamed()
    }
    const known = this.#stores.get(own)
    if (known !== undefined) return known
    const opening = this.#open(own)
    this.#stores.set(own, opening)
    opening.catch(() => this.#stores.delete(own))
    return opening
  }

  /** `own` null: that of the log. */
  async #open(own: string | null): Promise<ArchiveStore> {
    const { root, options, config } = this.#opening
    const { index, logId } = this.#user
    const ownerFact = ownerFactOf(own)
    const opener =
      own === null
        ? archiveOpener(root, options, config, this.#user)
        : openerAt(own, null, this.#user, ownerFact)
    if (opener === null) throw new StratalogError('archive_missing', 'the log has no archive any more')
    // One that was never used has no object of this log; to open it as its own would make it.
    return (await index.fact(ownerFact)) === logId ? opener.open() : opener.openAny(true)
  }
}

function notNamed(): StratalogError {
  return new StratalogError(
    'archive_missing',
    'this namespace has used an archive, and the configuration here names none: what is cold is not known without it; name it (archive: LOCATION in stratalog.yaml), as the other processes do',
  )
}
