import type { ListedSegment } from '../archive/listing.js'
import { isSummarized, putSummary } from '../archive/summaries.js'
import { decodeSegmentKey } from '../src/format/archive-names.js'
import { SUMMARY_SEGMENTS, summaryStart } from '../src/format/summary-object.js'
import { isStratalogError } from '../src/model/errors.js'
import type { SegmentRow } from '../src/model/segment.js'
import type { ArchiveStore } from '../src/ports/archive-store.js'
import type { TieringContext } from './context.js'

const THOUSAND = BigInt(SUMMARY_SEGMENTS)

/**
 * Writes the summary of the thousand that a committed copy completed, and that of the one before where a crash left it
 * out. A thousand with a gap, or with a segment that is trimmed, gets none: it is listed. The copy is committed
 * already, so a failure here is told and costs nothing but time of who lists.
 */
export async function summarizeAfter(
  context: TieringContext,
  archive: ArchiveStore,
  row: SegmentRow,
  signal: AbortSignal,
): Promise<void> {
  try {
    const first = summaryStart(row.segment)
    const last = first + THOUSAND - 1n
    // Copies go oldest first: but for one that was late, the thousand is complete with its last.
    const late = row.segment < last && (await isArchived(context, row.incarnation, last))
    if (row.segment !== last && !late) return
    await summarize(context, archive, row.incarnation, first, signal)
    const before = first - THOUSAND
    if (before >= 1n && !(await isSummarized(archive, row.incarnation, before, signal)))
      await summarize(context, archive, row.incarnation, before, signal)
  } catch (error) {
    signal.throwIfAborted()
    if (!isStratalogError(error)) throw error
    const fields = { err: error, incarnation: row.incarnation, segment: row.segment.toString() }
    context.ledger.logger.warn(fields, 'a summary of segments could not be written, they are listed instead')
  }
}

async function isArchived(context: TieringContext, incarnation: string, segment: bigint): Promise<boolean> {
  const row = await context.index.segment(incarnation, segment)
  return row !== null && committed(row) !== null
}

async function summarize(
  context: TieringContext,
  archive: ArchiveStore,
  incarnation: string,
  first: bigint,
  signal: AbortSignal,
): Promise<void> {
  const rows = await context.index.listSegments(incarnation, first, SUMMARY_SEGMENTS)
  const segments = rows.flatMap((row) => committed(row) ?? [])
  const whole =
    segments.length === SUMMARY_SEGMENTS && segments.at(-1)?.parsed.segment === first + THOUSAND - 1n
  if (whole) await putSummary(archive, segments, context.random, signal)
}

/** The object that the index committed for a segment; null: there is none, or it is given up. */
function committed(row: SegmentRow): ListedSegment | null {
  const { state, object } = row
  if (object === null || (state !== 'archived' && state !== 'cold')) return null
  const parsed = decodeSegmentKey(object.key)
  // A summary names objects of its own stream: what a clone shares is in its parent's.
  return parsed === null || parsed.incarnation !== row.incarnation
    ? null
    : { key: object.key, sizeBytes: object.sizeBytes, parsed }
}
