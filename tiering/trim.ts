import { putControl, readControls } from '../archive/control-objects.js'
import { assert, present } from '../src/model/assert.js'
import { Dlsn } from '../src/model/dlsn.js'
import { isClosed, type SegmentRow, type StreamRow } from '../src/model/segment.js'
import type { Lease } from '../src/ports/coordination.js'
import { nextNumber } from './announce.js'
import type { TieringContext } from './context.js'
import { forgetTrimmed, releaseLedger, releaseObject } from './evict.js'

/**
 * Ends the oldest segment of a stream in both tiers. Order: the marker in the archive, so that the archive alone
 * knows it was ended on purpose; the index; then the copies. A crash after the marker repeats it (the largest trim
 * wins); after the index `settleDebts` deletes what is left. Invariants 5 and 8.
 */
export async function trimSegment(
  context: TieringContext,
  lease: Lease,
  stream: StreamRow,
  row: SegmentRow,
  signal: AbortSignal,
): Promise<void> {
  assert(isClosed(row.state), `segment ${row.segment} is ${row.state} and can't be trimmed`)
  const below = new Dlsn(row.segment + 1n, 0n, 0n)
  if (context.archive !== null) {
    const archive = await context.archive()
    const controls = await readControls(archive, stream.incarnation)
    await putControl(
      archive,
      stream.incarnation,
      nextNumber(controls),
      'trim',
      { below: below.toString() },
      context.random,
    )
  }
  lease.lost.throwIfAborted()
  // Read again: an unreadable or changed row means that nothing is deleted.
  const fresh = present(await context.index.stream(stream.incarnation), 'stream')
  await context.index.updateStream(stream.incarnation, fresh.version, { trimmedBelow: below })
  const trimmed = await context.index.updateSegment(row, { state: 'trimmed' })
  const released = await releaseObject(context, await releaseLedger(context, trimmed), signal)
  await forgetTrimmed(context, released)
}
