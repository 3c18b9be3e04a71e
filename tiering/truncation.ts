import type { Dlsn } from '../src/model/dlsn.js'
import type { StreamRow } from '../src/model/segment.js'
import type { Lease } from '../src/ports/coordination.js'
import type { TieringContext } from './context.js'
import { type TrimOptions, trimBelow } from './trim.js'

/** Where history is to end because the stream's own application truncated it; null: it does not end further on. */
export async function followedTruncation(
  { foreign }: TieringContext,
  { incarnation, trimmedBelow }: StreamRow,
): Promise<Dlsn | null> {
  if (foreign?.followsTruncation !== true || !(await foreign.isForeign(incarnation))) return null
  const below = await foreign.truncatedBelow(incarnation)
  if (below === null || (trimmedBelow !== null && trimmedBelow.compare(below) >= 0)) return null
  return below
}

/** Ends history there, as a trim by hand does: as far as no hold binds it. Returns how many segments that were. */
export async function followTruncation(
  context: TieringContext,
  lease: Lease,
  stream: StreamRow,
  below: Dlsn,
  options: TrimOptions,
): Promise<number> {
  const { rows } = await trimBelow(context, lease, stream, below, options)
  return rows.length
}
