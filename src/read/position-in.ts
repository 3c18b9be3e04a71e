import type { Dlsn } from '../model/dlsn.js'
import type { Position } from '../model/position.js'
import { isHot, type SegmentRow, type StreamRow } from '../model/segment.js'
import { locate } from './locate.js'
import type { ReadContext } from './reader.js'

/** The least DLSN at or beyond a position: what verbs on a part of a stream are told. */
export function positionIn(context: ReadContext, stream: StreamRow, position: Position): Promise<Dlsn> {
  const openSource = (row: SegmentRow, avoid: 'hot' | null) =>
    isHot(row) && !(avoid === 'hot' && row.object !== null) ? context.openHot(row) : context.openCold(row)
  const recover = (row: SegmentRow) => context.recover?.(row) ?? Promise.resolve()
  const located = { index: context.index, nowMs: () => context.clock.nowMs(), openSource, recover }
  return locate(located, stream, position, false)
}
