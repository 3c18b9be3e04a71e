import type { Dlsn } from '../src/model/dlsn.js'
import { StratalogError } from '../src/model/errors.js'
import type { Incarnation, SegmentRow } from '../src/model/segment.js'
import type { SegmentIndex } from '../src/ports/segment-index.js'

const PAGE = 1_000

/** Part of a stream's history: `from` inclusive, `until` exclusive; null: to the end. */
export interface SegmentRange {
  readonly from: Dlsn
  readonly until: Dlsn | null
}

/** The segments a range touches: both included, null: all from the first on. Throws `invalid_argument` for an empty one. */
export function segmentsIn({ from, until }: SegmentRange): { first: bigint; last: bigint | null } {
  if (until === null) return { first: from.segment, last: null }
  if (from.compare(until) >= 0)
    throw new StratalogError(
      'invalid_argument',
      `the range from ${from} until ${until} is empty: turn from and until round`,
      { expected: from, found: until },
    )
  const whole = until.entry === 0n && until.slot === 0n
  return { first: from.segment, last: whole ? until.segment - 1n : until.segment }
}

/** Rows of the segments a range touches, oldest first, a page at a time. */
export async function* rowsIn(
  index: SegmentIndex,
  incarnation: Incarnation,
  range: SegmentRange,
): AsyncGenerator<SegmentRow, void, undefined> {
  const { first, last } = segmentsIn(range)
  for (let next = first; ; ) {
    const page = await index.listSegments(incarnation, next, PAGE)
    for (const row of page) {
      if (last !== null && row.segment > last) return
      yield row
    }
    const end = page.at(-1)
    if (end === undefined || page.length < PAGE) return
    next = end.segment + 1n
  }
}
