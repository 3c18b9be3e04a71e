import { decodeSegmentKey, haveOneDigestKey } from '../src/format/archive-names.js'
import { isStratalogError, StratalogError } from '../src/model/errors.js'
import type { SegmentRow } from '../src/model/segment.js'
import type { ArchiveStore } from '../src/ports/archive-store.js'
import { attemptsOfSegment } from './attempts.js'
import type { ListedSegment } from './listing.js'
import { verifySegmentObject } from './segment-verify.js'
import { objectOwner } from './shared.js'

/**
 * An object of the segment that reads back whole and has another content than the committed one; null: there is none.
 * Until an operator decides between the two, neither is chosen and no hot copy is given up for either.
 */
export async function rivalOf(
  archive: ArchiveStore,
  row: SegmentRow,
  signal: AbortSignal,
): Promise<ListedSegment | null> {
  const { attempts } = await attemptsOfSegment(archive, objectOwner(row), row.segment, signal)
  for (const object of attempts) {
    // A digest under another key says nothing of the content: what it is worth the collector finds out.
    if (object.parsed.contentDigest === row.contentDigest || !isComparable(row, object)) continue
    try {
      await verifySegmentObject(archive, object.key, object.parsed, { signal })
      return object
    } catch (error) {
      // What its own name contradicts decides nothing.
      if (!isStratalogError(error, 'corrupt') && !isStratalogError(error, 'object_not_found')) throw error
    }
  }
  return null
}

/** Whether the digest of an object and the committed one were made with one key. */
export function isComparable({ object, incarnation }: SegmentRow, { parsed }: ListedSegment): boolean {
  return haveOneDigestKey(decodeSegmentKey(object?.key ?? '') ?? { incarnation }, parsed)
}

/** Refuses what must not happen to a segment while two of its objects contradict each other. */
export async function refuseRivals(
  archive: ArchiveStore,
  row: SegmentRow,
  streamName: string | null,
  signal: AbortSignal,
): Promise<void> {
  const rival = await rivalOf(archive, row, signal)
  if (rival !== null) throw rivalError(row, streamName ?? row.incarnation, rival)
}

/** Two objects of one segment, both whole, with unequal content. */
export function rivalError(row: SegmentRow, streamName: string, rival: ListedSegment): StratalogError {
  return new StratalogError(
    'archive_conflict',
    `segment ${row.segment} of ${streamName} has two contents in the archive, ${row.object?.key ?? 'the hot one'} and ${rival.key}: its hot copy is kept; look at both, then "stratalog archive resolve ${streamName} ${row.segment} --attempt ID"`,
    { expected: row.contentDigest, found: rival.parsed.contentDigest, details: { key: rival.key } },
  )
}
