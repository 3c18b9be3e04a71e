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
/**
 * Attempts of one segment that are listed one by one, to bound memory; more than one are there only after crashes and
 * failed checks. How many there are never decides anything: the first of each digest is always among the listed.
 */
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
   * one. Beyond the first thousand attempts twins and losers are only counted: `unlisted`.
   */
  | {
      readonly kind: 'chosen'
      readonly segment: bigint
      readonly chosen: ListedSegment
      readonly twins: readonly ListedSegment[]
      readonly losers: readonly ListedSegment[]
      readonly unlisted: number
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
    // No more follow a page that is not full: every listing would cost a request to hear it again.
    if (page.length < PAGE) return
  }
}

/**
 * Chooses one object per segment. Objects with equal digests are twins: any of them *is* the segment, the
 * first is chosen. Digests made with different keys can't be compared: they are no conflict, and an encrypted object is
 * chosen before one in clear, which re-encryption left behind. `committed` gives the digest that an index committed,
 * null where none did; objects with another one lose.
 */
export async function* chooseSegments(
  listed: AsyncIterable<ListedSegment>,
  committed: (segment: bigint) => string | null = () => null,
): AsyncIterable<ChosenSegment> {
  let attempts: Attempts | null = null
  for await (const one of listed) {
    const { segment } = one.parsed
    if (attempts !== null && attempts.segment !== segment) {
      yield choose(attempts)
      attempts = null
    }
    attempts ??= { segment, committed: committed(segment), listed: [], digests: new Set(), unlisted: 0 }
    addAttempt(attempts, one)
  }
  if (attempts !== null) yield choose(attempts)
}

/** The objects of one segment while they are listed. */
interface Attempts {
  readonly segment: bigint
  readonly committed: string | null
  readonly listed: ListedSegment[]
  readonly digests: Set<string>
  unlisted: number
}

function addAttempt(attempts: Attempts, one: ListedSegment): void {
  const { committed, listed, digests } = attempts
  const { contentDigest } = one.parsed
  // Past a thousand different contents only the committed one still matters: without it they are a conflict anyway.
  const first = !digests.has(contentDigest) && (digests.size < ATTEMPTS_MAX || contentDigest === committed)
  if (first) digests.add(contentDigest)
  if (first || listed.length < ATTEMPTS_MAX) listed.push(one)
  else attempts.unlisted += 1
}

function choose({ segment, committed, listed: attempts, unlisted }: Attempts): ChosenSegment {
  const wanted = committed ?? onlyDigest(attempts)
  const [chosen, ...twins] = attempts.filter(({ parsed }) => parsed.contentDigest === wanted)
  if (chosen === undefined) {
    const why = wanted === undefined ? 'its objects differ in content' : 'no object has the committed content'
    return { kind: 'conflict', segment, attempts, error: conflict(attempts, why, wanted) }
  }
  const losers = attempts.filter(({ parsed }) => parsed.contentDigest !== wanted)
  return { kind: 'chosen', segment, chosen, twins, losers, unlisted }
}

/**
 * Digest of the one content that the objects of a segment claim, of an encrypted one where there is any; undefined where
 * two claims under one key differ.
 */
export function onlyDigest(attempts: readonly ListedSegment[]): string | undefined {
  const byKey = new Map<string, string>()
  for (const { parsed } of attempts) {
    const { keyId = '', contentDigest } = parsed
    if ((byKey.get(keyId) ?? contentDigest) !== contentDigest) return undefined
    byKey.set(keyId, contentDigest)
  }
  return [...byKey].find(([keyId]) => keyId !== '')?.[1] ?? byKey.get('')
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
    recalledUntilMs: null,
    version: 0,
  }
}
