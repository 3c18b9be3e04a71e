import { attemptsOfSegment } from '../archive/attempts.js'
import { verifySegmentObject } from '../archive/segment-verify.js'
import { decodeSegmentKey } from '../src/format/archive-names.js'
import { sharedBelow } from '../src/model/clone.js'
import { isStratalogError, StratalogError } from '../src/model/errors.js'
import type { SegmentRow, StreamRow } from '../src/model/segment.js'
import type { ArchivedKey, StorageWishes } from '../src/ports/archive-store.js'
import { streamsOf } from './all-rows.js'
import { mendCold } from './cold-mend.js'
import type { TieringContext } from './context.js'
import { storageWishes } from './copy.js'
import { type Moving, moveObject } from './migrate-copy.js'
import type { Difference } from './migrate-sweep.js'
import { confirmOwner } from './ownership.js'

/** Something about one object that is not as it should be. */
export interface MigrationFinding {
  /**
   * `mended`: it was damaged, and its segment has another object now. `damaged`: nothing good is left of it. `missing`:
   * the index names it and the archive does not have it. `superseded`: damaged, and another object is the segment.
   * `kept`: in the new place alone, and needed. `removed`: deleted from the old place after it was copied.
   */
  readonly kind: 'mended' | 'damaged' | 'missing' | 'superseded' | 'kept' | 'removed'
  readonly key: string
  readonly text: string
}

/** What became of one difference. */
export type Brought = 'whole' | 'nothing' | 'thawing' | 'later' | 'damaged'

export interface ObjectMoverOptions {
  readonly context: TieringContext
  readonly moving: Moving
  /** Take what is damaged as it is, where nothing mends it. */
  readonly allowDamaged: boolean
  readonly found: (finding: MigrationFinding) => void
}

/** Brings single objects over, and knows what to do about those that are not as they should be. */
export class ObjectMover {
  readonly #options: ObjectMoverOptions
  /** Damaged objects that no row needs any more: they stay where they are. */
  readonly #superseded = new Set<string>()
  /** What is damaged and was not taken. */
  readonly #damaged = new Map<string, string>()
  #clones: readonly StreamRow[] | null = null

  constructor(options: ObjectMoverOptions) {
    this.#options = options
  }

  /** What nothing mends, with why; it is not in the new place. */
  get damaged(): ReadonlyMap<string, string> {
    return this.#damaged
  }

  /** Whether an object is left behind on purpose, or can't be brought. */
  isLeft(key: string): boolean {
    return this.#superseded.has(key) || this.#damaged.has(key)
  }

  /** A new round: streams may have come since. */
  begin(): void {
    this.#clones = null
  }

  /** `still`: nobody may write to the old archive, so nothing can be mended there. */
  async bring(difference: Difference, still: boolean): Promise<Brought> {
    if (difference.kind === 'extra') return this.#extra(difference)
    const { key, sizeBytes } = difference
    const wishes = { storage: await this.#storage(key), unread: difference.kind === 'unread', asItIs: false }
    const moved = await moveObject(this.#options.moving, { key, sizeBytes }, wishes)
    if (moved.kind === 'whole' || moved.kind === 'thawing') return moved.kind
    if (moved.kind === 'gone') return 'nothing'
    return still ? 'later' : this.#bad({ key, sizeBytes }, moved.why)
  }

  async #bad(object: ArchivedKey, why: string): Promise<Brought> {
    const { key } = object
    const { allowDamaged, found } = this.#options
    const mended = await this.#mend(key)
    if (mended === 'later') return 'later'
    if (mended !== null) {
      this.#superseded.add(key)
      found({ kind: mended, key, text: why })
      return 'nothing'
    }
    if (!allowDamaged) {
      this.#damaged.set(key, why)
      found({ kind: 'damaged', key, text: why })
      return 'damaged'
    }
    // Its other blocks may still be read one by one: whatever the old place has of it the new one has too.
    const wishes = { storage: await this.#storage(key), unread: false, asItIs: true }
    const moved = await moveObject(this.#options.moving, object, wishes)
    found({ kind: 'damaged', key, text: why })
    return moved.kind === 'damaged' ? 'later' : 'whole'
  }

  /** Null: nothing good is left. */
  async #mend(key: string): Promise<'mended' | 'superseded' | 'later' | null> {
    const { context, moving } = this.#options
    const rows = await this.#rowsNaming(key)
    if (rows.length === 0) return (await this.#hasTwin(key)) ? 'superseded' : null
    for (const { stream, row } of rows) {
      const outcome = await mendCold(context, stream, row, moving.signal)
      if (outcome.kind === 'alarm') return null
      if (outcome.kind !== 'mended') return 'later'
    }
    return 'mended'
  }

  /** No row names it: whatever it was, another object that is whole says the same. */
  async #hasTwin(key: string): Promise<boolean> {
    const { source, signal } = this.#options.moving
    const parsed = decodeSegmentKey(key)
    if (parsed === null) return false
    const { attempts } = await attemptsOfSegment(source, parsed.incarnation, parsed.segment, signal)
    for (const twin of attempts) {
      if (twin.key === key || twin.parsed.contentDigest !== parsed.contentDigest) continue
      try {
        await verifySegmentObject(source, twin.key, twin.parsed, { signal })
        return true
      } catch (error) {
        if (!isStratalogError(error, 'corrupt') && !isStratalogError(error, 'object_not_found')) throw error
      }
    }
    return false
  }

  /**
   * In the new place alone: deleted from the old one since it was copied, or lost there. What a row names is kept. The
   * rest goes, or what was ended on purpose would be there again: a marker that was withdrawn, a content that was not
   * chosen, a copy in clear. Positive knowledge (invariant 8): the old archive is ours and answers, has no such object,
   * and what goes is a copy that this migration made.
   */
  async #extra({ key }: Difference): Promise<Brought> {
    const { context, moving, found } = this.#options
    const { source, target, signal } = moving
    if ((await this.#rowsNaming(key)).length > 0) {
      found({ kind: 'kept', key, text: 'the old place has it no more and the index names it' })
      return 'nothing'
    }
    await confirmOwner(context, source, signal)
    if ((await source.head(key, signal)) !== null) return 'later'
    await target.delete(key, signal)
    found({ kind: 'removed', key, text: 'it was deleted from the old place since it was copied' })
    return 'nothing'
  }

  /** Rows whose committed object it is: of its own stream, and of clones. */
  async #rowsNaming(key: string): Promise<{ stream: StreamRow; row: SegmentRow }[]> {
    const { index } = this.#options.context
    const parsed = decodeSegmentKey(key)
    if (parsed === null) return []
    const own = await index.stream(parsed.incarnation)
    const rows: { stream: StreamRow; row: SegmentRow }[] = []
    for (const stream of [...(own === null ? [] : [own]), ...(await this.#cloned())]) {
      const row = await index.segment(stream.incarnation, parsed.segment)
      if (row?.object?.key === key) rows.push({ stream, row })
    }
    return rows
  }

  async #cloned(): Promise<readonly StreamRow[]> {
    if (this.#clones !== null) return this.#clones
    const clones: StreamRow[] = []
    for await (const stream of streamsOf(this.#options.context.index))
      if (sharedBelow(stream.parent) !== null) clones.push(stream)
    this.#clones = clones
    return clones
  }

  /** What the policy of its stream asks of the store. */
  async #storage(key: string): Promise<StorageWishes> {
    const { index, policy } = this.#options.context
    const parsed = decodeSegmentKey(key)
    const stream = parsed === null ? null : await index.stream(parsed.incarnation)
    return stream === null ? {} : storageWishes((await policy(stream)).policy)
  }
}

/** What a migration stops for; nothing was switched. */
export function lossesFound(losses: ReadonlyMap<string, string>): StratalogError {
  const [first] = losses
  return new StratalogError(
    'corrupt',
    `${losses.size} objects can't be brought over whole, and nothing was switched: ${first?.[0]}: ${first?.[1]}; mend them ("stratalog archive verify --deep"), or go on with --allow-damaged, which takes what there is of them`,
    { found: losses.size, details: { keys: [...losses.keys()].slice(0, 100) } },
  )
}
