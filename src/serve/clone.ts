import type { Log } from '../log.js'
import type { ClonedDto, CloneRequestDto } from '../model/control-clone.js'
import { parsePosition } from '../model/position.js'

/** Clones a stream of a log of this process; the answer is ready for JSON. */
export async function cloneStream(
  log: Log,
  name: string,
  { to, until }: CloneRequestDto,
): Promise<ClonedDto> {
  const parent = await log.stream(name).row()
  const nowMs = log.parts.segments.ledger.clock.nowMs()
  const options = until === undefined ? {} : { until: parsePosition(until, nowMs) }
  const { stream, fork, records, ...rest } = await log.streams.clone(name, to, options)
  return {
    name: stream.name,
    incarnation: stream.incarnation,
    parent: { name, incarnation: stream.parent?.incarnation ?? parent.incarnation },
    fork: fork.toString(),
    records: records.toString(),
    ...rest,
  }
}
