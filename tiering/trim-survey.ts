import { Dlsn } from '../src/model/dlsn.js'
import { isHot, type StreamRow } from '../src/model/segment.js'
import type { TieringContext } from './context.js'
import { allHolds, firstHeld, type StandingHold } from './holds.js'
import { rowsIn } from './ranges.js'
import { endsBelow } from './trim.js'

/** What a trim ends, or would end. */
export interface TrimSurvey {
  /** Where history begins after it; null: nothing changes. */
  readonly below: Dlsn | null
  readonly segments: number
  readonly records: bigint
  readonly hotBytes: number
  readonly archiveBytes: number
  /** What stops it short of what was asked; null: nothing does. */
  readonly held: { readonly segment: bigint; readonly hold: StandingHold } | null
}

/** What a trim below `asked` would come to, however long that history is. Changes nothing. */
export async function surveyTrim(
  context: TieringContext,
  stream: StreamRow,
  asked: Dlsn,
  signal: AbortSignal,
): Promise<TrimSurvey> {
  const sums = { segments: 0, records: 0n, hotBytes: 0, archiveBytes: 0 }
  const begins = stream.trimmedBelow
  const nothing = { ...sums, below: null, held: null }
  const oldest = await context.index.oldestSegment(stream.incarnation)
  const from = oldest === null ? asked : new Dlsn(oldest.segment, 0n, 0n)
  if (asked.compare(from) <= 0) return nothing
  const holds = await allHolds(context, stream, signal)
  let below: Dlsn | null = null
  for await (const row of rowsIn(context.index, stream.incarnation, { from, until: asked })) {
    signal.throwIfAborted()
    if (row.state === 'trimmed') continue
    const held = firstHeld(stream, [row], holds)
    if (held !== null) return { ...sums, below, held: { segment: row.segment, hold: held.hold } }
    if (row.segment === asked.segment && !endsBelow(row, asked)) break
    sums.segments += 1
    sums.records += row.recordCount
    if (isHot(row)) sums.hotBytes += row.lengthBytes
    sums.archiveBytes += row.object?.sizeBytes ?? 0
    below = new Dlsn(row.segment + 1n, 0n, 0n)
  }
  const moves = begins === null || begins.compare(asked) < 0
  return { ...sums, below: moves || below !== null ? asked : null, held: null }
}
