import type { Incarnation, SegmentRow } from '../../src/model/segment.js'
import { isClosed, isHot } from '../../src/model/segment.js'
import type { SegmentIndex, SegmentPatch, SegmentTotals } from '../../src/ports/segment-index.js'
import { archiving, openRow } from '../contract/segment-rows.js'

/** One step of a history: what to do and to which row, as far as that fits the row. */
export interface Step {
  readonly kind: 'begin' | 'seal' | 'archive' | 'evict' | 'trim' | 'free' | 'remove'
  readonly at: number
  readonly sealedMs: number
  readonly lastTxid: number
  readonly records: number
}

/** A stream's segments as an array, asked by walking it: what an index has to agree with. */
export class PlainIndex {
  readonly rows: SegmentRow[] = []
  readonly #index: SegmentIndex
  readonly #incarnation: Incarnation
  #next = 1n

  constructor(index: SegmentIndex, incarnation: Incarnation) {
    this.#index = index
    this.#incarnation = incarnation
  }

  /** Does the step here and in the index. */
  async take(step: Step): Promise<void> {
    if (step.kind === 'begin') {
      const row = openRow(this.#incarnation, this.#next, { startSequenceId: this.#next * 10n })
      this.rows.push(await this.#index.beginSegment(row))
      this.#next += 1n
      return
    }
    const at = step.at % Math.max(1, this.rows.length)
    const row = this.rows[at]
    if (row === undefined) return
    if (step.kind === 'remove') return this.#remove(at, row)
    const patch = patchFor(step, row)
    if (patch !== null) this.rows[at] = await this.#index.updateSegment(row, patch)
  }

  first(fits: (row: SegmentRow) => boolean): SegmentRow | null {
    return this.rows.find(fits) ?? null
  }

  totals(): SegmentTotals {
    const living = this.rows.filter((row) => row.state !== 'trimmed')
    const hot = living.filter(isHot)
    const cold = living.filter((row) => row.state === 'archived' || row.state === 'cold')
    const bytes = (rows: readonly SegmentRow[]) => rows.reduce((sum, row) => sum + row.lengthBytes, 0)
    return {
      segments: living.length,
      records: living.reduce((sum, row) => sum + row.recordCount, 0n),
      hotSegments: hot.length,
      hotBytes: bytes(hot),
      coldSegments: cold.length,
      coldBytes: bytes(cold),
      bothBytes: bytes(cold.filter(isHot)),
    }
  }

  async #remove(at: number, row: SegmentRow): Promise<void> {
    const owesNothing = row.state === 'trimmed' && row.ledgerId === null && row.object === null
    const newest = row.segment === this.#next - 1n
    const empty = newest && row.state !== 'trimmed' && row.recordCount === 0n && row.object === null
    if (!owesNothing && !empty) return
    await this.#index.removeSegment(row)
    this.rows.splice(at, 1)
    if (!owesNothing) this.#next = row.segment
  }
}

function patchFor(step: Step, row: SegmentRow): SegmentPatch | null {
  switch (step.kind) {
    case 'seal':
      return isClosed(row.state) ? null : sealingOf(step)
    case 'archive':
      return row.state === 'sealed' ? archiving(row.segment) : null
    case 'evict':
      return row.state === 'archived' ? { state: 'cold', evictedMs: 1 } : null
    case 'trim':
      return ['sealed', 'archived', 'cold', 'gap'].includes(row.state) ? { state: 'trimmed' } : null
    case 'free':
      if (row.state === 'cold') return { ledgerId: null }
      return row.state === 'trimmed' ? { ledgerId: null, object: null } : null
    default:
      return null
  }
}

function sealingOf(step: Step): SegmentPatch {
  const sealed = { state: 'sealed', sealedMs: step.sealedMs, recordCount: BigInt(step.records) } as const
  if (step.records === 0) return sealed
  return { ...sealed, firstTxid: 0n, lastTxid: BigInt(step.lastTxid), lengthBytes: step.records * 7 }
}
