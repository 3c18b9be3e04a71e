import { present } from '../src/model/assert.js'
import { StratalogError } from '../src/model/errors.js'
import { isClosed, type SegmentRow, type StreamRow } from '../src/model/segment.js'
import type { Lease } from '../src/ports/coordination.js'
import type { TieringContext } from './context.js'
import { copySegment } from './copy.js'
import { evictSegment } from './evict.js'
import { rowsIn, type SegmentRange, segmentsIn } from './ranges.js'
import { forgetThawed } from './thaw.js'

/** How long the agent may take for the steps it is in, until the stream is free. */
const LEASE_WAIT_MS = 60_000

/** A step of an eviction by hand, when it is done. */
export interface EvictStep {
  readonly kind: 'seal' | 'copy' | 'evict'
  readonly segment: bigint
  readonly bytes: number
}

/**
 * Frees the hot copies of a range at once, whatever policies and recalls say: what is missing before that is done
 * first, sealed, copied and read back, and nothing is freed that is not verified in the archive (invariant 4). Yields
 * each step; leaving it stops it, and every segment is whole in one of its states.
 */
export async function* evictRange(
  context: TieringContext,
  stream: StreamRow,
  range: SegmentRange,
  signal: AbortSignal,
): AsyncGenerator<EvictStep, void, undefined> {
  if (context.archive === null)
    throw new StratalogError(
      'archive_missing',
      `the log has no archive: the hot copies of ${stream.name} are the only ones, and nothing of it is freed; name one under "archive"`,
    )
  const lease = await context.coordination.acquire(`tiering/${stream.incarnation}`, {
    holder: context.logId,
    waitMs: LEASE_WAIT_MS,
    signal,
  })
  try {
    for await (const found of rowsIn(context.index, stream.incarnation, range)) {
      signal.throwIfAborted()
      yield* freeSegment(context, lease, stream, found, signal)
    }
    // What is to be freed is not to come back either.
    const { first, last } = segmentsIn(range)
    const newest = (await context.index.newestSegment(stream.incarnation))?.segment ?? first
    await forgetThawed(context, stream.incarnation, { first, last: last ?? newest })
  } finally {
    await lease.release()
  }
}

async function* freeSegment(
  context: TieringContext,
  lease: Lease,
  stream: StreamRow,
  found: SegmentRow,
  signal: AbortSignal,
): AsyncGenerator<EvictStep, void, undefined> {
  const { incarnation, segment } = found
  let row: SegmentRow | null = found
  if (!isClosed(row.state)) {
    await context.writers.seal(stream, segment)
    row = await context.index.segment(incarnation, segment)
    // It held nothing, and is gone.
    if (row === null) return
    yield { kind: 'seal', segment, bytes: row.lengthBytes }
  }
  if (row.state === 'sealed') {
    await refuseKeptOut(context, stream, segment)
    row = await copySegment(context, lease, stream, row, { signal })
    yield { kind: 'copy', segment, bytes: present(row.object, 'object').sizeBytes }
  }
  if (row.state !== 'archived') return
  await evictSegment(context, lease, row, signal)
  yield { kind: 'evict', segment, bytes: row.lengthBytes }
}

/** What a policy keeps out of the archive is not copied there for an order that only asks for space. */
async function refuseKeptOut(context: TieringContext, stream: StreamRow, segment: bigint): Promise<void> {
  const { policy, origins } = await context.policy(stream)
  if (policy.archive !== 'none') return
  throw new StratalogError(
    'refused',
    `the policy of ${stream.name} keeps it out of the archive (archive: none, ${origins.archive}): the hot copy of segment ${segment} is the only one and stays; change the policy first, or trim`,
    { found: 'none' },
  )
}
