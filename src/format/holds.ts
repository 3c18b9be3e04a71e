import { Dlsn } from '../model/dlsn.js'
import type { HoldEdge, KeptHold } from '../model/hold.js'
import { corrupt } from './bytes.js'

/*
 * Holds of one stream as JSON text: what an index keeps. `format` (1), `holds`: id, from, until, reason, atMs,
 * releasedMs; edges as in control objects: { dlsn: text } | { txid: text } | { timeMs: number } | null.
 */

const FORMAT = 1

/** The text of all holds of a stream. */
export function encodeHolds(holds: readonly KeptHold[]): string {
  return JSON.stringify({ format: FORMAT, holds }, (_, value: unknown) =>
    typeof value === 'bigint' ? value.toString() : value,
  )
}

/** Reads them. `corrupt` where any of it is not what it must be: a hold that is overlooked costs data (invariant 8). */
export function decodeHolds(text: string, stream: string): KeptHold[] {
  try {
    const { format, holds } = JSON.parse(text) as { format?: unknown; holds?: unknown }
    if (format !== FORMAT || !Array.isArray(holds)) throw new Error(`format ${String(format)}`)
    return holds.map((hold: Record<string, unknown>) => ({
      id: textOf(hold.id),
      from: edgeOf(hold.from),
      until: edgeOf(hold.until),
      reason: hold.reason === null ? null : textOf(hold.reason),
      atMs: timeOf(hold.atMs),
      releasedMs: hold.releasedMs === null ? null : timeOf(hold.releasedMs),
    }))
  } catch (cause) {
    throw corrupt(
      `the holds of stream ${stream} can't be read from the index: nothing of it is deleted; make the index again with "stratalog index rebuild"`,
      { cause },
    )
  }
}

function edgeOf(value: unknown): HoldEdge | null {
  if (value === null) return null
  const { dlsn, txid, timeMs } = value as { dlsn?: unknown; txid?: unknown; timeMs?: unknown }
  if (dlsn !== undefined) return { dlsn: Dlsn.parse(textOf(dlsn)) }
  if (txid !== undefined) return { txid: BigInt(textOf(txid)) }
  return { timeMs: timeOf(timeMs) }
}

function textOf(value: unknown): string {
  if (typeof value !== 'string' || value === '') throw new Error('no text where there must be one')
  return value
}

function timeOf(value: unknown): number {
  if (typeof value !== 'number' || !Number.isSafeInteger(value))
    throw new Error('no time where there must be one')
  return value
}
