import {
  ATTEMPT_BYTES,
  attemptOf,
  beforeSegment,
  decodeSegmentKey,
  segmentPrefix,
} from '../src/format/archive-names.js'
import {
  beforeSummary,
  decodeSummary,
  decodeSummaryKey,
  encodeSummary,
  encodeSummaryKey,
  SUMMARY_BYTES_MAX,
  SUMMARY_SEGMENTS,
  type SummaryKey,
  summaryPrefix,
  summaryStart,
} from '../src/format/summary-object.js'
import { assert, present } from '../src/model/assert.js'
import { isStratalogError } from '../src/model/errors.js'
import type { Incarnation } from '../src/model/segment.js'
import type { ArchivedKey, ArchiveStore } from '../src/ports/archive-store.js'
import type { Random } from '../src/ports/random.js'
import { listControlKeys } from './control-objects.js'
import { type ForeignKey, type ListedSegment, listKeys } from './listing.js'

/*
 * A stream of a million segments is a thousand pages of names, and each page can only be asked for once the one before
 * it has come. Summaries say where every thousand begins: their ranges are asked for side by side, or, by who only wants
 * to look, not at all. They are never needed and never believed over a listing (decision 0025).
 */

/** A page of a listing: what S3 gives with one request. */
const PAGE = 1_000
/** Thousands that are fetched ahead, each at most a page or a summary in memory. */
const AHEAD = 4

/** How a listing goes about it. */
export interface SummarizedListing {
  /** @default 1n */
  readonly from?: bigint
  readonly foreign?: ForeignKey
  readonly signal?: AbortSignal
  /**
   * `listing`: exactly what `listSegments` gives; summaries only tell what to ask for side by side. `first`: what a
   * summary names, if the first of it that matters is there, since trims delete from the old end on; else the listing
   * of that thousand. Objects that were lost, or added since, do not show: who meets one that is missing lists.
   * @default 'listing'
   */
  readonly check?: 'listing' | 'first'
}

/** A range of segments, both ends included; `last` null: to the end. */
interface Span {
  readonly first: bigint
  readonly last: bigint | null
  /** Summaries of exactly this range. */
  readonly summaries: readonly (ArchivedKey & { readonly parsed: SummaryKey })[]
}

/** Segments' objects in order, as `listSegments`, for streams that may be long. */
export async function* listSummarized(
  store: ArchiveStore,
  incarnation: Incarnation,
  options: SummarizedListing = {},
): AsyncGenerator<ListedSegment> {
  const { from = 1n, foreign = () => undefined, signal } = options
  // A stream that fits one page has no use for summaries, and is not asked for any.
  const start = { first: from, last: summaryStart(from) + BigInt(SUMMARY_SEGMENTS) - 1n, summaries: [] }
  const head = fetchRange(store, incarnation, start, signal)
  if ((await head.page).length < PAGE) {
    yield* keysOf(store, incarnation, { ...start, last: null }, head, foreign, signal)
    return
  }
  const encrypted = once(() => hasKeys(store, incarnation, signal))
  yield* inOrder(
    spans(store, incarnation, from, signal),
    (span) => begin(store, incarnation, span, options, encrypted, span.first === from ? head : null),
    (fetched) => rest(store, incarnation, fetched, foreign, signal),
  )
}

/** What there is from `from` on, cut where summaries are. */
async function* spans(
  store: ArchiveStore,
  incarnation: Incarnation,
  from: bigint,
  signal: AbortSignal | undefined,
): AsyncGenerator<Span> {
  let next = from
  let span = null as Span | null
  const after = beforeSummary(incarnation, summaryStart(from < 1n ? 1n : from))
  for await (const found of listKeys(store, summaryPrefix(incarnation), after, signal)) {
    const parsed = decodeSummaryKey(found.key)
    if (parsed === null) continue
    const one = { ...found, parsed }
    if (span !== null && summaryStart(span.first) === parsed.firstSegment) {
      span = { ...span, summaries: [...span.summaries, one] }
      continue
    }
    if (span !== null) yield span
    const first = parsed.firstSegment > next ? parsed.firstSegment : next
    if (first > next) yield { first: next, last: first - 1n, summaries: [] }
    const last: bigint = parsed.firstSegment + BigInt(SUMMARY_SEGMENTS) - 1n
    span = { first, last, summaries: [one] }
    next = last + 1n
  }
  if (span !== null) yield span
  yield { first: next, last: null, summaries: [] }
}

interface FetchedRange {
  readonly kind: 'range'
  readonly span: Span
  /** The first page of keys; those beyond the range may be among them. */
  readonly page: Promise<ArchivedKey[]>
}

type Fetched =
  | FetchedRange
  | { readonly kind: 'named'; readonly span: Span; readonly named: Promise<ListedSegment[] | null> }

function begin(
  store: ArchiveStore,
  incarnation: Incarnation,
  span: Span,
  { check = 'listing', signal }: SummarizedListing,
  encrypted: () => Promise<boolean>,
  head: FetchedRange | null,
): Fetched {
  if (check === 'listing' || span.summaries.length === 0) {
    // The first page is here already: it begins where this range does, wherever that ends.
    return head === null ? fetchRange(store, incarnation, span, signal) : { ...head, span }
  }
  const named = readNamed(store, span, encrypted, signal)
  named.catch(() => undefined)
  return { kind: 'named', span, named }
}

function fetchRange(
  store: ArchiveStore,
  incarnation: Incarnation,
  span: Span,
  signal: AbortSignal | undefined,
): FetchedRange {
  const page = store.listFrom(
    segmentPrefix(incarnation),
    beforeSegment(incarnation, span.first),
    PAGE,
    signal,
  )
  // It is awaited when it is its turn; whoever stops before that has an error of its own to tell.
  page.catch(() => undefined)
  return { kind: 'range', span, page }
}

async function* rest(
  store: ArchiveStore,
  incarnation: Incarnation,
  fetched: Fetched,
  foreign: ForeignKey,
  signal: AbortSignal | undefined,
): AsyncGenerator<ListedSegment> {
  if (fetched.kind === 'range') {
    yield* keysOf(store, incarnation, fetched.span, fetched, foreign, signal)
    return
  }
  const named = await fetched.named
  if (named !== null) yield* named
  else {
    const range = fetchRange(store, incarnation, fetched.span, signal)
    yield* keysOf(store, incarnation, fetched.span, range, foreign, signal)
  }
}

/** The keys of a range: its first page, and further ones where it has many attempts. */
async function* keysOf(
  store: ArchiveStore,
  incarnation: Incarnation,
  { last }: Span,
  { page }: FetchedRange,
  foreign: ForeignKey,
  signal: AbortSignal | undefined,
): AsyncGenerator<ListedSegment> {
  // A key that is equal belongs to this range: the next one begins strictly above it.
  const end = last === null ? null : beforeSegment(incarnation, last + 1n)
  let keys = await page
  while (keys.length > 0) {
    for (const { key, sizeBytes } of keys) {
      if (end !== null && key > end) return
      const parsed = decodeSegmentKey(key)
      if (parsed === null) foreign(key)
      else yield { key, sizeBytes, parsed }
    }
    if (keys.length < PAGE) return
    const before = present(keys.at(-1), 'last key').key
    keys = await store.listFrom(segmentPrefix(incarnation), before, PAGE, signal)
    assert(
      keys.every(({ key }) => key > before),
      `${store.location} lists keys again after ${before}`,
    )
  }
}

/** Whether anything of a stream was ever encrypted; from the names of its decisions. */
async function hasKeys(
  store: ArchiveStore,
  incarnation: Incarnation,
  signal: AbortSignal | undefined,
): Promise<boolean> {
  return (await listControlKeys(store, incarnation, signal)).some(({ kind }) => kind === 'key')
}

function once<T>(work: () => Promise<T>): () => Promise<T> {
  let done: Promise<T> | null = null
  return () => {
    done ??= work()
    return done
  }
}

/**
 * What the first summary that can be read names of the range; null: none can, its first object is gone, or an object in
 * clear may have been encrypted since, which is then the segment.
 */
async function readNamed(
  store: ArchiveStore,
  span: Span,
  encrypted: () => Promise<boolean>,
  signal: AbortSignal | undefined,
): Promise<ListedSegment[] | null> {
  for (const { key, sizeBytes, parsed } of span.summaries) {
    const segments = await readSummary(store, key, sizeBytes, parsed, signal)
    const named = segments?.filter((one) => one.parsed.segment >= span.first) ?? []
    const [first] = named
    if (first === undefined) continue
    if (named.some(({ parsed: { keyId } }) => keyId === undefined) && (await encrypted())) return null
    return (await store.head(first.key, signal)) === null ? null : named
  }
  return null
}

/** What a summary names; null: it is damaged, of a newer version, or gone, and its thousand is listed instead. */
async function readSummary(
  store: ArchiveStore,
  key: string,
  sizeBytes: number,
  parsed: SummaryKey,
  signal: AbortSignal | undefined,
): Promise<ListedSegment[] | null> {
  if (sizeBytes > SUMMARY_BYTES_MAX) return null
  try {
    return decodeSummary(await store.readRange(key, 0, sizeBytes, signal), parsed, key)
  } catch (error) {
    const useless = ['corrupt', 'version_unsupported', 'object_not_found'] as const
    if (useless.some((code) => isStratalogError(error, code))) return null
    throw error
  }
}

/** Begins some of the spans ahead and gives what becomes of them in order. */
async function* inOrder<T>(
  all: AsyncIterable<Span>,
  begun: (span: Span) => T,
  done: (one: T) => AsyncIterable<ListedSegment>,
): AsyncGenerator<ListedSegment> {
  const ahead: T[] = []
  for await (const span of all) {
    ahead.push(begun(span))
    const first = ahead.length > AHEAD ? ahead.shift() : undefined
    if (first !== undefined) yield* done(first)
  }
  for (const one of ahead) yield* done(one)
}

/**
 * Writes the summary of the thousand that begins with `segments[0]` if there is none, and tells whether it did. Each
 * is the committed object of its segment; there is one for every segment.
 */
export async function putSummary(
  store: ArchiveStore,
  segments: readonly ListedSegment[],
  random: Random,
  signal?: AbortSignal,
): Promise<boolean> {
  const { incarnation, segment } = present(segments[0], 'segment').parsed
  const key = { incarnation, firstSegment: segment, attempt: attemptOf(random.bytes(ATTEMPT_BYTES)) }
  if (await isSummarized(store, incarnation, segment, signal)) return false
  const bytes = encodeSummary(segments)
  const body = {
    sizeBytes: bytes.length,
    async *open() {
      yield bytes
    },
  }
  await store.putIfAbsent(encodeSummaryKey(key), body, signal === undefined ? {} : { signal })
  return true
}

/** Whether there is a readable summary of the thousand that begins with `firstSegment`. */
export async function isSummarized(
  store: ArchiveStore,
  incarnation: Incarnation,
  firstSegment: bigint,
  signal?: AbortSignal,
): Promise<boolean> {
  const after = beforeSummary(incarnation, firstSegment)
  for await (const { key, sizeBytes } of listKeys(store, summaryPrefix(incarnation), after, signal)) {
    const parsed = decodeSummaryKey(key)
    if (parsed === null) continue
    if (parsed.firstSegment !== firstSegment) return false
    if ((await readSummary(store, key, sizeBytes, parsed, signal)) !== null) return true
  }
  return false
}

/** Summaries of which every segment is trimmed: of no use to anybody, and garbage for who collects. */
export async function* deadSummaries(
  store: ArchiveStore,
  incarnation: Incarnation,
  trimmedBelow: bigint,
  signal?: AbortSignal,
): AsyncGenerator<ArchivedKey> {
  for await (const found of listKeys(store, summaryPrefix(incarnation), '', signal)) {
    const parsed = decodeSummaryKey(found.key)
    if (parsed === null) continue
    if (parsed.firstSegment + BigInt(SUMMARY_SEGMENTS) > trimmedBelow) return
    yield found
  }
}
