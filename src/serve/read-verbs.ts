import type { Log } from '../log.js'
import type { ExplainRequest, LocatedPosition, ReadExplanation } from '../model/control-read.js'
import { type Position, parsePosition } from '../model/position.js'
import type { ReadRange } from '../read/context.js'

/** What reading a range would take, over the control API. */
export function explainRead(log: Log, name: string, request: ExplainRequest): Promise<ReadExplanation> {
  const nowMs = log.parts.segments.ledger.clock.nowMs()
  const at = (key: keyof ReadRange & keyof ExplainRequest) => {
    const text = request[key]
    return text === undefined ? {} : { [key]: parsePosition(text, nowMs) }
  }
  const range: ReadRange = { ...at('from'), ...at('after'), ...at('until') }
  return log.stream(name).explain(range)
}

/** Where a position lies, over the control API. */
export function locatePosition(log: Log, name: string, text: string): Promise<LocatedPosition> {
  const position: Position = parsePosition(text, log.parts.segments.ledger.clock.nowMs())
  return log.stream(name).locate(position)
}
