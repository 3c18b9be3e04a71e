import { present } from '../src/model/assert.js'
import type { Incarnation, SegmentRow } from '../src/model/segment.js'
import type { SegmentIndex } from '../src/ports/segment-index.js'

const PAGE = 1_000

/** The segments of a stream from a number on, at most `max`; in pages, so that a long history holds up nobody else. */
export async function listSegmentsUpTo(
  index: Pick<SegmentIndex, 'listSegments'>,
  incarnation: Incarnation,
  from: bigint,
  max: number,
): Promise<SegmentRow[]> {
  const found: SegmentRow[] = []
  for (let next = from; found.length < max; ) {
    const limit = Math.min(PAGE, max - found.length)
    const page = await index.listSegments(incarnation, next, limit)
    found.push(...page)
    if (page.length < limit) break
    next = present(page.at(-1), 'a segment').segment + 1n
  }
  return found
}
