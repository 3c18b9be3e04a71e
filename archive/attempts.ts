import { beforeSegment, decodeSegmentKey } from '../src/format/archive-names.js'
import type { Incarnation, SegmentRow } from '../src/model/segment.js'
import type { ArchiveStore } from '../src/ports/archive-store.js'
import { type ForeignKey, type ListedSegment, listKeys, listSegments } from './listing.js'

/** Objects of one segment that are held in memory; more than one are there only after crashes and failed checks. */
const ATTEMPTS_MAX = 1_000

/** Every object of one segment there is. */
export interface SegmentAttempts {
  readonly segment: bigint
  readonly attempts: readonly ListedSegment[]
  /** Beyond the first thousand they are only counted. */
  readonly unlisted: number
}

/** A segment as the index and the listing have it; one of the two may not have it at all. */
export interface SegmentBeside {
  readonly segment: bigint
  readonly row: SegmentRow | null
  readonly found: SegmentAttempts | null
}

/** The objects of an incarnation by segment, ascending, from `fromSegment` on. */
export async function* listAttempts(
  store: ArchiveStore,
  incarnation: Incarnation,
  fromSegment: bigint,
  foreign?: ForeignKey,
  signal?: AbortSignal,
): AsyncGenerator<SegmentAttempts, void, undefined> {
  yield* bySegment(listSegments(store, incarnation, fromSegment, foreign, signal))
}

/** Objects in order of segments, those of one together. */
export async function* bySegment(
  listed: AsyncIterable<ListedSegment>,
): AsyncGenerator<SegmentAttempts, void, undefined> {
  let now: { segment: bigint; attempts: ListedSegment[]; unlisted: number } | null = null
  for await (const one of listed) {
    const { segment } = one.parsed
    if (now !== null && now.segment !== segment) {
      yield now
      now = null
    }
    now ??= { segment, attempts: [], unlisted: 0 }
    if (now.attempts.length < ATTEMPTS_MAX) now.attempts.push(one)
    else now.unlisted += 1
  }
  if (now !== null) yield now
}

/** The objects of one segment: nothing else is listed. */
export async function attemptsOfSegment(
  store: ArchiveStore,
  incarnation: Incarnation,
  segment: bigint,
  signal?: AbortSignal,
): Promise<SegmentAttempts> {
  const attempts: ListedSegment[] = []
  let unlisted = 0
  for await (const { key, sizeBytes } of listKeys(
    store,
    `${beforeSegment(incarnation, segment)}-`,
    '',
    signal,
  )) {
    const parsed = decodeSegmentKey(key)
    if (parsed === null) continue
    if (attempts.length < ATTEMPTS_MAX) attempts.push({ key, sizeBytes, parsed })
    else unlisted += 1
  }
  return { segment, attempts, unlisted }
}

/** Walks rows and listing side by side, ascending: in bounded memory, however long history is. */
export async function* besideRows(
  rows: AsyncIterable<SegmentRow>,
  listed: AsyncIterable<SegmentAttempts>,
): AsyncGenerator<SegmentBeside, void, undefined> {
  const left = rows[Symbol.asyncIterator]()
  const right = listed[Symbol.asyncIterator]()
  try {
    let row = await left.next()
    let found = await right.next()
    while (row.done !== true || found.done !== true) {
      const ofRow = row.done === true ? null : row.value
      const ofListing = found.done === true ? null : found.value
      const segment = lower(ofRow?.segment, ofListing?.segment)
      const hasRow = ofRow?.segment === segment
      const hasObjects = ofListing?.segment === segment
      yield { segment, row: hasRow ? ofRow : null, found: hasObjects ? ofListing : null }
      if (hasRow) row = await left.next()
      if (hasObjects) found = await right.next()
    }
  } finally {
    await left.return?.()
    await right.return?.()
  }
}

function lower(a: bigint | undefined, b: bigint | undefined): bigint {
  if (a === undefined) return b ?? 0n
  return b === undefined || a < b ? a : b
}
