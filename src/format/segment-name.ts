import { assert } from '../model/assert.js'
import { corrupt } from './bytes.js'

/*
 * Names of segment nodes under a stream's `ledgers` node (DistributedLog's `logSegmentNameVersion`):
 *
 *   version 1, written   inprogress_<segment, 18 digits>      logrecs_<segment, 18 digits>
 *   version 0, read      inprogress_<first txid, hex>         logrecs_<first txid>_<last txid>
 *                                                     logrecs_<first>_<last>_<segment>_<ledger>_<region>
 *                                                                 (the ledger as 12 or v1l12)
 *
 * Of `inprogress_` 18 digits or more are a segment and at most 16 hex digits a txid, so the two can't be
 * confused.
 */

/** What a segment's node name says; in version 0 the segment's number stands in the node's text. */
export type SegmentName =
  | { readonly kind: 'inprogress' | 'completed'; readonly nameVersion: 1; readonly segment: bigint }
  | { readonly kind: 'inprogress'; readonly nameVersion: 0; readonly firstTxid: bigint }
  | {
      readonly kind: 'completed'
      readonly nameVersion: 0
      readonly firstTxid: bigint
      readonly lastTxid: bigint
    }

const INT64_MAX = 2n ** 63n - 1n

/** The name of the node while the segment is in progress. */
export function inProgressName(segment: bigint): string {
  return `inprogress_${padded(segment)}`
}

/** The name of the node once the segment is completed. */
export function completedName(segment: bigint): string {
  return `logrecs_${padded(segment)}`
}

/** Reads both versions. Throws `corrupt` for a name that no segment has. */
export function parseSegmentName(name: string): SegmentName {
  const inProgress = /^inprogress_(?:(\d{18,19})|([0-9a-f]{1,16}))$/.exec(name)
  if (inProgress !== null) {
    const [, segment, firstTxid] = inProgress
    return segment !== undefined
      ? { kind: 'inprogress', nameVersion: 1, segment: int64(segment, name) }
      : { kind: 'inprogress', nameVersion: 0, firstTxid: int64(`0x${firstTxid}`, name) }
  }
  const completed = /^logrecs_(\d{1,19})(?:_(\d{1,19})(?:_\d{1,19}_(?:v\d{1,9}l)?\d{1,19}_\d{1,19})?)?$/.exec(
    name,
  )
  const [, first, last] = completed ?? []
  if (first === undefined) throw corrupt(`"${name.slice(0, 200)}" is not the name of a segment's node`)
  return last === undefined
    ? { kind: 'completed', nameVersion: 1, segment: int64(first, name) }
    : { kind: 'completed', nameVersion: 0, firstTxid: int64(first, name), lastTxid: int64(last, name) }
}

function padded(segment: bigint): string {
  assert(segment >= 0n && segment <= INT64_MAX, 'the number of a segment is a 64-bit number')
  return segment.toString().padStart(18, '0')
}

function int64(digits: string, name: string): bigint {
  const value = BigInt(digits)
  if (value > INT64_MAX) throw corrupt(`"${name}" has a number beyond 64 bits`)
  return value
}
