import { parsePosition } from '../model/position.js'

/** The two ends of a range as a request takes them, refused here where they are no positions. */
export function checkRange({ from, until }: { readonly from?: string; readonly until?: string }): {
  from?: string
  until?: string
} {
  for (const text of [from, until]) if (text !== undefined) parsePosition(text, Date.now())
  return { ...(from === undefined ? {} : { from }), ...(until === undefined ? {} : { until }) }
}
