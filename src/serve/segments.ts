import type { Log } from '../log.js'
import type { SealedDto } from '../model/control-segments.js'
import { isClosed } from '../model/segment.js'

/** Seals the open segment of a stream, and says what was in it. */
export async function sealSegment(log: Log, name: string): Promise<SealedDto> {
  const { index } = log.parts.segments
  const row = await log.streams.find(name)
  const newest = row === null ? null : await index.newestSegment(row.incarnation)
  // Also where nothing is open: a name that is none is refused there.
  await log.stream(name).seal()
  if (row === null || newest === null || isClosed(newest.state))
    return { stream: name, segment: null, records: '0' }
  const sealed = await index.segment(row.incarnation, newest.segment)
  return { stream: name, segment: `${newest.segment}`, records: `${sealed?.recordCount ?? 0n}` }
}
