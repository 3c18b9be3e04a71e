import { decodeSegmentKey } from '../src/format/archive-names.js'
import { sharedBelow } from '../src/model/clone.js'
import { StratalogError } from '../src/model/errors.js'
import type { Incarnation, SegmentRow, StreamParent } from '../src/model/segment.js'
import type { ArchiveStore } from '../src/ports/archive-store.js'
import { bindingOf, readControls } from './control-objects.js'
import type { ListedSegment } from './listing.js'
import { listSummarized, type SummarizedListing } from './summaries.js'

/*
 * A clone names its parent and where it leaves it, in its own control objects; what it shares is found among the
 * parent's names, and what the parent shares itself among those of its own parent (decision 0026). An object is named
 * after the incarnation that wrote it, and only a stream of that incarnation ever deletes it.
 */

/** Clones of clones of clones that are followed: nobody makes more, and a circle is damage. */
const ANCESTORS_MAX = 1_000

/** A stream whose objects another one shares. */
export interface Ancestor {
  readonly incarnation: Incarnation
  /** Its segments below this one are shared. */
  readonly below: bigint
}

/** Whose object the row of a segment names: its own stream's, unless that was cloned. */
export function objectOwner({
  incarnation,
  object,
}: Pick<SegmentRow, 'incarnation' | 'object'>): Incarnation {
  return decodeSegmentKey(object?.key ?? '')?.incarnation ?? incarnation
}

/** Whether the object a row names is another stream's. */
export function isShared(row: Pick<SegmentRow, 'incarnation' | 'object'>): boolean {
  return objectOwner(row) !== row.incarnation
}

/** The streams whose objects a stream shares, its parent first. Rejects where what names them can't be read. */
export async function ancestorsOf(
  store: ArchiveStore,
  stream: { readonly incarnation: Incarnation; readonly parent: StreamParent | null },
  signal?: AbortSignal,
): Promise<Ancestor[]> {
  const ancestors: Ancestor[] = []
  let { parent } = stream
  for (let shared = sharedBelow(parent); parent !== null && shared !== null; shared = sharedBelow(parent)) {
    const { incarnation } = parent
    if (ancestors.length >= ANCESTORS_MAX)
      throw new StratalogError(
        'corrupt',
        `${stream.incarnation} is a clone of ${ANCESTORS_MAX} streams one of the other: their control objects in ${store.location} are damaged; put copies of them back from a backup`,
      )
    const before = ancestors.at(-1)?.below ?? shared
    ancestors.push({ incarnation, below: shared < before ? shared : before })
    parent = bindingOf(await readControls(store, incarnation, undefined, signal))?.parent ?? null
  }
  return ancestors
}

/** Objects of a stream's segments in order of segments, as `listSummarized`, those it shares with others among them. */
export async function* listHistory(
  store: ArchiveStore,
  stream: { readonly incarnation: Incarnation; readonly parent: StreamParent | null },
  options: SummarizedListing = {},
): AsyncGenerator<ListedSegment, void, undefined> {
  const ancestors = await ancestorsOf(store, stream, options.signal)
  yield* listWithAncestors(store, stream.incarnation, ancestors, options)
}

/** The same for who knows the ancestors. */
export async function* listWithAncestors(
  store: ArchiveStore,
  incarnation: Incarnation,
  ancestors: readonly Ancestor[],
  options: SummarizedListing = {},
): AsyncGenerator<ListedSegment, void, undefined> {
  const own = listSummarized(store, incarnation, options)
  const { foreign: _, ...quiet } = options
  const { from = 1n } = options
  const shared = ancestors
    .filter(({ below }) => below > from)
    .map((one) => segmentsBelow(listSummarized(store, one.incarnation, quiet), one.below))
  if (shared.length === 0) yield* own
  else yield* merged([...shared.reverse(), own])
}

async function* segmentsBelow(
  listed: AsyncIterable<ListedSegment>,
  below: bigint,
): AsyncGenerator<ListedSegment, void, undefined> {
  for await (const one of listed) {
    if (one.parsed.segment >= below) return
    yield one
  }
}

/** Listings side by side: attempts of one segment stay beside each other, whoever wrote them. */
async function* merged(
  listings: readonly AsyncGenerator<ListedSegment, void, undefined>[],
): AsyncGenerator<ListedSegment, void, undefined> {
  try {
    const heads = await Promise.all(listings.map((listing) => listing.next()))
    for (;;) {
      let lowest = -1
      for (const [at, head] of heads.entries()) {
        if (head.done === true) continue
        const best = lowest < 0 ? undefined : heads[lowest]
        const leads = best === undefined || best.done === true
        if (leads || head.value.parsed.segment < best.value.parsed.segment) lowest = at
      }
      const head = heads[lowest]
      const listing = listings[lowest]
      if (head === undefined || head.done === true || listing === undefined) return
      yield head.value
      heads[lowest] = await listing.next()
    }
  } finally {
    await Promise.all(listings.map((listing) => listing.return()))
  }
}
