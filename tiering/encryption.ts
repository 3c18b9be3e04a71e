import { keysOf } from '../archive/keys.js'
import type { ObjectSealing } from '../archive/segment-writer.js'
import { ATTEMPT_BYTES, attemptOf } from '../src/format/archive-names.js'
import type { SegmentRow, StreamRow } from '../src/model/segment.js'
import type { ArchiveStore } from '../src/ports/archive-store.js'
import type { TieringContext } from './context.js'

/**
 * The keys of one new object as the stream's policy wants it; null: it is not to be encrypted. Rejects where the ring
 * of the policy is not to be had: nothing leaves in clear that was meant to be encrypted, it stays hot.
 */
export async function sealingFor(
  context: Pick<TieringContext, 'policy' | 'random'>,
  archive: ArchiveStore,
  stream: StreamRow,
  row: Pick<SegmentRow, 'incarnation' | 'segment'>,
  signal?: AbortSignal,
): Promise<ObjectSealing | null> {
  const { encryption } = (await context.policy(stream)).policy
  if (encryption === null) return null
  const attempt = attemptOf(context.random.bytes(ATTEMPT_BYTES))
  return keysOf(archive).seal(row.incarnation, row.segment, attempt, encryption, signal)
}
