import { binds } from '../archive/decisions.js'
import { StratalogError } from '../src/model/errors.js'
import { TXID_MAX } from '../src/model/record.js'
import { isClosed, type StreamRow } from '../src/model/segment.js'
import { formatDuration } from '../src/model/units.js'
import type { TieringContext } from './context.js'
import { bindsRow, type StandingHold } from './holds.js'

/*
 * Streams that others write, as Java writers of DistributedLog do: they delete what is old whether or not it was
 * archived, and their applications truncate. What of that the operator stated is all that can be known: no node says it.
 */

/** Open and uncopied segments weighed for one hold; who has more of them is far behind anyhow. */
const HOT_MAX = 10_000

/** How old a completed segment of the stream gets before it may be purged; null: nobody purges what is not archived. */
export async function purgedAfterMs(
  { foreign }: TieringContext,
  { incarnation }: StreamRow,
): Promise<number | null> {
  if (foreign === undefined || foreign.purge === 'never') return null
  return (await foreign.isForeign(incarnation)) ? foreign.purgeAfterMs : null
}

/**
 * Whether a purge could take something the hold binds: what is not in the archive yet, and what is still to be written.
 * What the archive has is out of a purge's reach.
 */
export async function isBreakable(
  { foreign, index, ledger }: TieringContext,
  stream: StreamRow,
  hold: Pick<StandingHold, 'id' | 'from' | 'until'>,
): Promise<boolean> {
  const { incarnation, txidMode } = stream
  if (foreign?.purge !== 'aged' || !(await foreign.isForeign(incarnation))) return false
  const whole = { ...hold, kind: 'hold', reason: null, atMs: 0, by: null } as const
  const hot = await index.listHotSegments(incarnation, HOT_MAX)
  // The archive has, or nothing has, what is in any other state.
  const uncopied = hot.filter(({ state }) => state === 'sealed' || !isClosed(state))
  if (uncopied.some((row) => bindsRow(stream, row, whole))) return true
  if (stream.finishedMs !== null) return false
  const newest = await index.newestSegment(incarnation)
  const next = {
    segment: (newest?.segment ?? 0n) + 1n,
    firstTxid: newest?.lastTxid ?? 0n,
    lastTxid: TXID_MAX,
    openedMs: ledger.clock.nowMs(),
    sealedMs: null,
  }
  return binds(whole, next, txidMode)
}

/** Refuses a hold that could not be kept. */
export async function refuseBreakable(
  context: TieringContext,
  stream: StreamRow,
  hold: Pick<StandingHold, 'id' | 'from' | 'until'>,
): Promise<void> {
  if (!(await isBreakable(context, stream, hold))) return
  throw new StratalogError(
    'refused',
    `hold ${hold.id} of ${stream.name} can't be kept: ${purgeText(context)}; ${PURGE_MEND}, or end the hold at what is archived`,
    { expected: 'never or truncated', found: context.foreign?.purge },
  )
}

/** What the purge does, for people. */
export function purgeText({ foreign }: TieringContext): string {
  return `its Java writers delete segments ${formatDuration(foreign?.purgeAfterMs ?? 0)} after they were completed, archived or not`
}

/** What to do about it, for people. */
export const PURGE_MEND: string =
  'set logSegmentRetentionHours to 0, or explicitTruncationByApp to true, for those writers and say so here: bookkeeper: { purge: never }, or truncated'
