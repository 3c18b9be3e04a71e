import { Dlsn } from '../model/dlsn.js'
import { StratalogError } from '../model/errors.js'
import { type Position, parsePosition } from '../model/position.js'

/** The two ends of a range as a request takes them, refused here where they are no positions. */
export function checkRange({ from, until }: { readonly from?: string; readonly until?: string }): {
  from?: string
  until?: string
} {
  checkEnds({ from, until })
  return { ...(from === undefined ? {} : { from }), ...(until === undefined ? {} : { until }) }
}

/**
 * Refuses positions that mean nothing before anything is opened, and an end that lies before the beginning: of such a
 * range there is nothing to show, and silence looks like a stream without records. Two kinds of positions can't be
 * compared without the stream.
 */
export function checkEnds(ends: {
  readonly from?: string | undefined
  readonly after?: string | undefined
  readonly until?: string | undefined
}): void {
  // One moment for all of them: ages are counted from it.
  const nowMs = Date.now()
  for (const text of [ends.from, ends.after, ends.until]) if (text !== undefined) parsePosition(text, nowMs)
  const begin = ends.from ?? ends.after
  if (begin === undefined || ends.until === undefined) return
  if (!isBefore(parsePosition(ends.until, nowMs), parsePosition(begin, nowMs))) return
  throw new StratalogError(
    'invalid_argument',
    `--until ${ends.until} lies before ${ends.from === undefined ? '--after' : '--from'} ${begin}: turn from and until round`,
    { expected: begin, found: ends.until },
  )
}

function isBefore(one: Position, other: Position): boolean {
  // From the present end on to a moment that is still to come is what a follower may ask for.
  if (typeof one === 'string' || typeof other === 'string') return one === 'earliest' && other !== 'earliest'
  if (one instanceof Dlsn || other instanceof Dlsn)
    return one instanceof Dlsn && other instanceof Dlsn && one.compare(other) < 0
  if ('txid' in one) return 'txid' in other && one.txid < other.txid
  if ('sequenceId' in one) return 'sequenceId' in other && one.sequenceId < other.sequenceId
  // What the command line reads as a time is milliseconds.
  return 'time' in other && Number(one.time) < Number(other.time)
}
