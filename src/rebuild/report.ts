/** What a rebuild found and made. Numbers of ledgers and losses beyond the listed ones are in the counts. */
export interface RebuildReport {
  streams: number
  segments: number
  /** Segments with a hot copy; those the archive has too are read back again before that may go. */
  hot: number
  cold: number
  both: number
  /** Left open by their writer: recovered when the log is opened. */
  recovering: number
  ledgers: number
  /** Ledgers of no segment: kept, for not knowing what they are is no reason to delete them. */
  readonly orphans: string[]
  orphanCount: number
  /** Ledgers below a trim: kept, and not brought back. */
  trimmedLedgers: number
  /** What is not to be had any more, or could not be read. */
  readonly losses: string[]
  lossCount: number
  /** Ledger ids up to this one are not given out any more. */
  idsThrough: bigint
}

const LISTED_MAX = 1_000

export function emptyReport(): RebuildReport {
  return {
    streams: 0,
    segments: 0,
    hot: 0,
    cold: 0,
    both: 0,
    recovering: 0,
    ledgers: 0,
    orphans: [],
    orphanCount: 0,
    trimmedLedgers: 0,
    losses: [],
    lossCount: 0,
    idsThrough: 0n,
  }
}

export function noteLoss(report: RebuildReport, loss: string): void {
  report.lossCount += 1
  if (report.losses.length < LISTED_MAX) report.losses.push(loss)
}

export function noteOrphan(report: RebuildReport, orphan: string): void {
  report.orphanCount += 1
  if (report.orphans.length < LISTED_MAX) report.orphans.push(orphan)
}
