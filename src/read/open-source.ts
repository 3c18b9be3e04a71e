import { StratalogError } from '../model/errors.js'
import { isHot, type SegmentRow } from '../model/segment.js'
import type { ReadContext } from './context.js'
import type { LocateContext } from './locate.js'
import type { SegmentSource } from './source.js'

/** Hot is preferred; `avoid` names the tier that just failed. */
export async function openSource(
  context: ReadContext,
  row: SegmentRow,
  avoid: 'hot' | 'cold' | null,
  signal?: AbortSignal,
  ahead = false,
): Promise<SegmentSource> {
  const hot = isHot(row)
  const cold = row.object !== null
  if (hot && !(avoid === 'hot' && cold)) return context.openHot(row)
  if (cold) return context.openCold(row, signal, ahead)
  throw new StratalogError('internal', `segment ${row.segment} is ${row.state} and in no tier`, {
    found: row.state,
  })
}

/** What looking positions up needs of a reader's world. */
export function locating(context: ReadContext, signal: AbortSignal | undefined): LocateContext {
  return {
    index: context.index,
    nowMs: () => context.clock.nowMs(),
    openSource: (row, avoid) => openSource(context, row, avoid, signal),
    recover: (row) => context.recover?.(row, signal) ?? Promise.resolve(),
    signal,
  }
}
