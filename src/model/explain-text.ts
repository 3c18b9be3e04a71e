import type { ExplainedSegment, ReadExplanation } from './control-read.js'
import { formatBytes } from './units.js'

/** What requests to an archive and its bytes cost. */
export interface Prices {
  /** Of whatever currency; shown before the figure. */
  readonly currency: string
  readonly perThousandRequests: number
  readonly perGiBEgress: number
}

const MIB = 2 ** 20
const HEAD = ['SEG', 'TIER', 'WHERE', 'RANGE', 'REQUESTS', 'NOTE'] as const
const RIGHT = new Set<string>(['SEG', 'RANGE'])

/** An explanation as lines for people; costs only where there are prices. */
export function explainText(plan: ReadExplanation, prices: Prices | null = null): string[] {
  const { records, exact, from, until, wantedBytes, fetchedBytes } = plan
  const factor = wantedBytes === 0 ? '' : ` (${(fetchedBytes / wantedBytes).toFixed(2)}×)`
  const bytes = `${formatBytes(wantedBytes)} wanted, ${formatBytes(fetchedBytes)} fetched${factor}`
  const head = `${some(records, 'record')} (${exact ? 'exact' : 'without what is gone'})  DLSN ${from} … ${until} (excl.)  ${bytes}`
  const more = plan.more > 0 ? [`  … and ${some(String(plan.more), 'more segment')}`] : []
  const table = plan.segments.length > 0 ? columns([[...HEAD], ...plan.segments.map(cells)]) : []
  return [head, ...table, ...more, sums(plan, prices), ...bound(plan)]
}

function cells(one: ExplainedSegment): string[] {
  return [one.segment, one.tier, whereOf(one), rangeOf(one), requestsOf(one), one.note]
}

/** Keys of objects are long: as much of them as tells one from another. `--json` and `locate` have the whole. */
function whereOf({ where, tier }: ExplainedSegment): string {
  const [name = '', incarnation = '', ...archive] = where.split('/').reverse()
  if ((tier !== 'cold' && tier !== 'cached') || archive.length === 0) return where
  const attempt = name.slice(name.lastIndexOf('-') + 1)
  return `${archive.length > 1 ? '…/' : ''}${archive[0]}/${incarnation.slice(0, 8)}…/…-${attempt}`
}

function rangeOf({ fromBytes, untilBytes, ofBytes }: ExplainedSegment): string {
  if (ofBytes === 0 || untilBytes === 0) return '—'
  if (fromBytes === 0 && untilBytes >= ofBytes) return `all ${formatBytes(ofBytes)}`
  const [unitBytes, unit] = ofBytes < MIB ? [2 ** 10, 'KiB'] : [MIB, 'MiB']
  const inUnits = (value: number) => (value / unitBytes).toFixed(1)
  return `${inUnits(fromBytes)}–${inUnits(untilBytes)} of ${inUnits(ofBytes)} ${unit}`
}

function requestsOf({ indexRequests, blockRequests }: ExplainedSegment): string {
  return indexRequests === 0 ? String(blockRequests) : `${indexRequests} index + ${blockRequests}`
}

function sums(plan: ReadExplanation, prices: Prices | null): string {
  const parts = [some(String(plan.requests), 'request')]
  if (prices !== null) parts.push(costOf(plan, prices))
  const trips = plan.firstRecordRequests
  parts.push(
    trips === 0 ? 'first record without the archive' : `first record ≈ ${some(String(trips), 'round trip')}`,
    `${gone(plan.gaps)}, ${plan.thaws === 0 ? 'no thaw' : `${some(String(plan.thaws), 'object')} to thaw`}`,
  )
  return parts.join(' · ')
}

function costOf(plan: ReadExplanation, prices: Prices): string {
  // Only what comes from the archive is paid for.
  const fetched = plan.segments
    .filter((one) => one.tier === 'cold')
    .reduce((sum, one) => sum + one.fetchedBytes, 0)
  const requests = (plan.requests / 1_000) * prices.perThousandRequests
  const egress = (fetched / 2 ** 30) * prices.perGiBEgress
  const money = (value: number) =>
    `${prices.currency}${value < 0.01 ? value.toPrecision(1) : value.toFixed(2)}`
  return `about ${money(requests)} requests + ${money(egress)} egress`
}

function bound({ bound }: ReadExplanation): string[] {
  if (bound === null) return []
  const speed =
    bound.bytesPerSecond === 0 ? 'not measured yet' : `${formatBytes(bound.bytesPerSecond)}/s lately`
  const limit =
    bound.coldReadBytesPerSecond === null
      ? 'limits.cold-read is not set'
      : `limits.cold-read ${formatBytes(bound.coldReadBytesPerSecond)}/s`
  return [`bound: the archive (${bound.connections} connections, ${speed}); ${limit}`]
}

function columns(rows: readonly (readonly string[])[]): string[] {
  const widths = HEAD.map((_, at) => Math.max(...rows.map((row) => [...(row[at] ?? '')].length)))
  return rows.map((row) => {
    const line = row.map((cell, at) => {
      const width = widths[at] ?? 0
      return RIGHT.has(HEAD[at] ?? '') ? cell.padStart(width) : cell.padEnd(width)
    })
    return `  ${line.join('  ')}`.trimEnd()
  })
}

function gone(gaps: number): string {
  if (gaps === 0) return 'no gap'
  return gaps === 1 ? '1 segment is not to be had' : `${gaps} segments are not to be had`
}

function some(digits: string, word: string): string {
  return `${digits.replace(/\B(?=(\d{3})+$)/g, ',')} ${word}${digits === '1' ? '' : 's'}`
}
