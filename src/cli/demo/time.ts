import { parseTime } from '../../model/units.js'

/** The fields of one event. */
export type Row = Readonly<Record<string, unknown>>

/** Names of fields that hold the time of an event, the likeliest first. */
const TIME_FIELDS = ['time', 'at', 'timestamp', 'date', 'ts']
/** Whole numbers below this are seconds since the epoch: as milliseconds they would lie in 1973 or before. */
const SECONDS_BELOW = 100_000_000_000

/** The field that holds the time in the first event that has one; null: none does. */
export function timeField(rows: readonly Row[]): string | null {
  for (const row of rows) {
    const found = TIME_FIELDS.find((field) => rowTimeMs(row, field) !== null)
    if (found !== undefined) return found
  }
  return null
}

/** Milliseconds since the epoch, or null where the field holds no time from 1970 on. */
export function rowTimeMs(row: Row, field: string): number | null {
  const value = row[field]
  const number = typeof value === 'string' && /^\d{9,14}$/.test(value) ? Number(value) : value
  if (typeof number === 'number') {
    if (!Number.isFinite(number) || number < 0) return null
    return Math.floor(number < SECONDS_BELOW ? number * 1_000 : number)
  }
  if (typeof value !== 'string' || !/^\d{4}[-/]/.test(value)) return null
  const ms = parseTime(value.replace(/^(\d{4})\/(\d{2})\/(\d{2})/, '$1-$2-$3'), 0)
  return ms !== null && ms >= 0 ? ms : null
}
