import { Dlsn } from './dlsn.js'
import { StratalogError } from './errors.js'
import { TXID_MAX } from './record.js'
import { parseTime } from './units.js'

/** Where a read begins or ends. */
export type Position =
  | 'earliest'
  | 'latest'
  | Dlsn
  | { readonly txid: bigint }
  | { readonly sequenceId: bigint }
  /** ISO 8601 date or time (UTC unless it names a zone), `Date`, or milliseconds since the epoch. */
  | { readonly time: string | Date | number }

/** Reads a position as the command line writes it: `12:340:7`, `txid:N`, `seq:N`, an ISO date or time, `-1h`. */
export function parsePosition(text: string, nowMs: number): Position {
  if (text === 'earliest' || text === 'latest') return text
  if (/^\d+:\d+:\d+$/.test(text)) return Dlsn.parse(text)
  const tagged = /^(txid|seq):(\d{1,19})$/.exec(text)
  if (tagged) {
    const value = BigInt(tagged[2] as string)
    if (value > TXID_MAX) {
      throw new StratalogError(
        'position_invalid',
        `"${text}" is beyond 64 bits: ${TXID_MAX} is the highest number`,
        {
          found: text,
        },
      )
    }
    return tagged[1] === 'txid' ? { txid: value } : { sequenceId: value }
  }
  const timeMs = parseTime(text, nowMs)
  if (timeMs === null) {
    throw new StratalogError(
      'position_invalid',
      `"${text}" is not a position: use earliest, latest, a DLSN (12:340:7), txid:N, seq:N, an ISO date or time (2025-01-31, 2025-01-31T10:00Z) or an age (-1h)`,
      { found: text },
    )
  }
  return { time: timeMs }
}
