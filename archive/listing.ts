import {
  beforeSegment,
  decodeSegmentKey,
  incarnationOfPart,
  type SegmentKey,
  segmentPrefix,
} from '../src/format/archive-names.js'
import type { SegmentObjectMeta } from '../src/format/segment-object-meta.js'
import { assert, present } from '../src/model/assert.js'
import { StratalogError } from '../src/model/errors.js'
import type { Incarnation, SegmentRow } from '../src/model/segment.js'
import type { ArchivedKey, ArchiveStore } from '../src/ports/archive-store.js'

/** Keys asked for at a time: what bounds memory and one answer of a store. */
const PAGE = 1000
/** Attempts of one segment that are looked at; there are more than one only after crashes. */
const ATTEMPTS_MAX = 1000

/**
 * Told of every key that does not parse. Such keys are of no use to us and none of our business: never
 * deleted.
 */
export type ForeignKey = (key: string) => void

/** One object of a segment, as a listing tells it. */
export interface ListedSegment extends ArchivedKey {
  readonly parsed: SegmentKey
}

/** What the objects of one segment amount to. */
export type ChosenSegment =
  /**
   * `chosen` is the first of the attempts with the right content; `twins` have the same, `losers` another
   * one.
   */
  | {
      readonly kind: 'chosen'
      readonly segment: bigint
      readonly chosen: ListedSegment
      readonly twins: readonly ListedSegment[]
      readonly losers: readonly ListedSegment[]
    }
  /** Attempts differ in content and nothing committed says which is right: an operator decides. */
  | {
      readonly kind: 'conflict'
      readonly segment: bigint
      readonly attempts: readonly ListedSegment[]
      readonly error: StratalogError
    }

/** Incarnations that have objects, ascending: one request each, however many objects they have. */
export async function* listIncarnations(
  store: ArchiveStore,
  foreign: ForeignKey = () => undefined,
  signal?: AbortSignal,
): AsyncIterable<Incarnation> {
  let after = ''
  for (;;) {
    const [next] = await store.listFrom('', after, 1, signal)
    if (next === undefined) return
    assert(next.key > after, `${store.location} lists ${next.key} after ${after}`)
    const [part = '', ...rest] = next.key.split('/')
    const incarnation = rest.length === 0 ? null : incarnationOfPart(part)
    if (incarnation !== null) yield incarnation
    else if (part !== '_log') foreign(next.key)
    // '0' follows '/': this stands above every key that begins with the part and a slash.
    after = incarnation !== null || part === '_log' ? `${part}0` : next.key
  }
}

/**
 * Segments' objects of an incarnation in order of segments, from `fromSegment` on; attempts of one are
 * adjacent.
 */
export async function* listSegments(
  store: ArchiveStore,
  incarnation: Incarnation,
  fromSegment: bigint = 0n,
  foreign: ForeignKey = () => undefined,
  signal?: AbortSignal,
): AsyncIterable<ListedSegment> {
  const start = beforeSegment(incarnation, fromSegment)
  for await (const { key, sizeBytes } of listKeys(store, segmentPrefix(incarnation), start, signal)) {
    const parsed = decodeSegmentKey(key)
    if (parsed === null) foreign(key)
    else yield { key, sizeBytes, parsed }
  }
}

/** Every key with `prefix` above `after`, a page at a time. */
export async function* listKeys(
  store: ArchiveStore,
  prefix: string,
  after: string,
  signal?: AbortSignal,
): AsyncIterable<ArchivedKey> {
  let last = after
  for (;;) {
    const page = await store.listFrom(prefix, last, PAGE, signal)
    for (const found of page) {
      // An engine that repeats keys would keep this loop going for ever.
      assert(found.key > last, `${store.location} lists ${found.key} after ${last}`)
      last = found.key
      yield found
    }
    if (page.length === 0) return
  }
}

/**
 * Chooses one object per segment. Objects with equal digests are twins: any of them *is* the segment, the
 * first is chosen. `committed` gives the digest that an index committed, null where none did; objects with
 * another one lose.
 */
export async function* chooseSegments(
  listed: AsyncIterable<ListedSegment>,
  committed: (segment: bigint) => string | null = () => null,
): AsyncIterable<ChosenSegment> {
  let attempts: ListedSegment[] = []
  for await (const one of listed) {
    if (attempts.length > 0 && attempts[0]?.parsed.segment !== one.parsed.segment) {
      yield choose(attempts, committed)
      attempts = []
    }
    attempts.push(one)
    if (attempts.length > ATTEMPTS_MAX) {
      throw conflict(attempts, `there are more than ${ATTEMPTS_MAX} objects of it`)
    }
  }
  if (attempts.length > 0) yield choose(attempts, committed)
}

function choose(
  attempts: readonly ListedSegment[],
  committed: (segment: bigint) => string | null,
): ChosenSegment {
  const segment = present(attempts[0], 'attempt').parsed.segment
  const digests = new Set(attempts.map(({ parsed }) => parsed.contentDigest))
  const wanted = committed(segment) ?? (digests.size === 1 ? [...digests][0] : undefined)
  const [chosen, ...twins] = attempts.filter(({ parsed }) => parsed.contentDigest === wanted)
  if (chosen === undefined) {
    const why = wanted === undefined ? 'its objects differ in content' : 'no object has the committed content'
    return { kind: 'conflict', segment, attempts, error: conflict(attempts, why, wanted) }
  }
  const losers = attempts.filter(({ parsed }) => parsed.contentDigest !== wanted)
  return { kind: 'chosen', segment, chosen, twins, losers }
}

function conflict(attempts: readonly ListedSegment[], why: string, expected?: string): StratalogError {
  const { segment, incarnation } = present(attempts[0], 'attempt').parsed
  return new StratalogError(
    'archive_conflict',
    `segment ${segment} of ${incarnation}: ${why}; none is used until an operator keeps the right one and removes the others`,
    { expected, details: { keys: attempts.map(({ key }) => key) } },
  )
}

/**
 * The index row of a cold segment from its name alone. What names do not say is filled in as well as can be:
 * epoch 0, opened when completed, and the object's size for the ledger's length. With the object's header all
 * is exact.
 */
export function segmentRowFromKey(listed: ListedSegment, header?: SegmentObjectMeta): SegmentRow {
  const { parsed, key, sizeBytes } = listed
  return {
    incarnation: parsed.incarnation,
    segment: parsed.segment,
    state: 'cold',
    epoch: header?.epoch ?? 0n,
    ledgerId: null,
    firstTxid: parsed.firstTxid,
    startSequenceId: parsed.startSequenceId,
    openedMs: header?.openedMs ?? parsed.completionMs,
    lastTxid: parsed.lastTxid,
    lastEntryId: parsed.lastEntryId,
    lastSlot: parsed.lastSlot,
    recordCount: parsed.recordCount,
    lengthBytes: header?.lengthBytes ?? sizeBytes,
    sealedMs: parsed.completionMs,
    contentDigest: parsed.contentDigest,
    object: { key, sizeBytes, indexBytes: parsed.indexBytes },
    archivedMs: parsed.completionMs,
    evictedMs: null,
    version: 0,
  }
}
