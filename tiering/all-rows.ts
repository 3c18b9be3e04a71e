import type { Incarnation, SegmentRow, StreamRow } from '../src/model/segment.js'
import type { SegmentIndex } from '../src/ports/segment-index.js'

const PAGE = 1_000

/** Every stream by name, a page at a time. */
export async function* streamsOf(index: SegmentIndex): AsyncGenerator<StreamRow, void, undefined> {
  for (let after = ''; ; ) {
    const page = await index.listStreams(after, PAGE)
    yield* page
    const last = page.at(-1)
    if (last === undefined || page.length < PAGE) return
    after = last.name
  }
}

/** Every row of a stream, ascending from a segment on, a page at a time. */
export async function* rowsOf(
  index: SegmentIndex,
  incarnation: Incarnation,
  from = 0n,
): AsyncGenerator<SegmentRow, void, undefined> {
  for (let next = from; ; ) {
    const page = await index.listSegments(incarnation, next, PAGE)
    yield* page
    const last = page.at(-1)
    if (last === undefined || page.length < PAGE) return
    next = last.segment + 1n
  }
}
