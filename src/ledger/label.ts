import { Buffer } from 'node:buffer'
import type { LedgerMetadata } from '../model/ledger.js'
import type { Incarnation } from '../model/segment.js'

/** Custom metadata of a ledger that stores a segment: who made it, as BookKeeper's tools show it, and which segment. */
const APPLICATION = 'application'
const SEGMENT = 'stratalog/segment'

/** The segment that a ledger was made for. */
export interface LabelledSegment {
  readonly incarnation: Incarnation
  readonly segment: bigint
}

/** What a ledger's custom metadata say of its segment, where stores keep no headers that would say it. */
export function segmentLabel(segment: LabelledSegment | null): ReadonlyMap<string, Uint8Array> {
  if (segment === null) return new Map()
  return new Map([
    [APPLICATION, Buffer.from('stratalog')],
    [SEGMENT, Buffer.from(`${segment.incarnation}/${segment.segment}`)],
  ])
}

/** The segment a ledger is labelled with; null: it has no label, as one that a Java writer made. */
export function labelledSegment({
  customMetadata,
}: Pick<LedgerMetadata, 'customMetadata'>): LabelledSegment | null {
  const label = customMetadata.get(SEGMENT)
  if (label === undefined) return null
  const [incarnation = '', segment = ''] = Buffer.from(label).toString().split('/')
  // One that can't be read names nobody's segment: it is not to be taken for none.
  return /^\d{1,19}$/.test(segment)
    ? { incarnation, segment: BigInt(segment) }
    : { incarnation, segment: -1n }
}
