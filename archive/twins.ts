import { beforeSegment, decodeSegmentKey, segmentPrefix } from '../src/format/archive-names.js'
import type { ArchivedObject, SegmentRow } from '../src/model/segment.js'
import type { ArchiveStore } from '../src/ports/archive-store.js'
import { objectOwner } from './shared.js'

/** Attempts of a segment that are looked at; more are no sign of health. */
const ATTEMPTS_LISTED = 100

/**
 * Other objects of a segment with the content that its row has committed: any of them is the segment. One request; in
 * order of names.
 */
export async function twinsOf(
  store: ArchiveStore,
  row: SegmentRow,
  signal?: AbortSignal,
): Promise<ArchivedObject[]> {
  const { segment, contentDigest, object } = row
  const incarnation = objectOwner(row)
  const after = beforeSegment(incarnation, segment)
  const page = await store.listFrom(segmentPrefix(incarnation), after, ATTEMPTS_LISTED, signal)
  return page.flatMap(({ key, sizeBytes }) => {
    const parsed = decodeSegmentKey(key)
    const same = parsed?.segment === segment && parsed.contentDigest === contentDigest && key !== object?.key
    return same ? [{ key, sizeBytes, indexBytes: parsed.indexBytes }] : []
  })
}
