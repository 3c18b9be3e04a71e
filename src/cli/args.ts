import { StratalogError } from '../model/errors.js'
import { TXID_MAX } from '../model/record.js'
import { parseDuration, parseInteger, parseTime } from '../model/units.js'

const INT64_MAX = 2n ** 63n - 1n

/** A count of records: a whole decimal number. `0x10`, `-1`, `1e3` are refused. */
export function parseCount(text: string, what: string): number {
  return Number(parseInteger(text, what, 0n, BigInt(Number.MAX_SAFE_INTEGER)))
}

/** A txid as an option or a field says it: a whole number, or with `times` also an ISO date or time. */
export function parseTxid(value: unknown, what: string, times: boolean): bigint {
  if (typeof value === 'bigint') return parseInteger(value.toString(), what, 0n, TXID_MAX - 1n)
  if (typeof value === 'number') {
    if (Number.isSafeInteger(value)) return parseInteger(String(value), what, 0n, TXID_MAX - 1n)
    throw new StratalogError(
      'invalid_argument',
      `${what}: ${value} is not a whole number that JSON keeps exactly: write it as a string, or as an ISO date`,
      { found: value },
    )
  }
  if (typeof value !== 'string') {
    throw new StratalogError(
      'invalid_argument',
      `${what}: ${value === undefined ? 'there is no such field' : `${JSON.stringify(value)} is neither a number nor an ISO date`}`,
      { found: value },
    )
  }
  if (times && /^\d{4}-/.test(value)) {
    const ms = parseTime(value, 0)
    if (ms === null || ms < 0)
      throw new StratalogError(
        'invalid_argument',
        `${what}: "${value}" is not a date or time since 1970: write 2025-01-31 or 2025-01-31T10:00Z`,
        { found: value },
      )
    return BigInt(ms)
  }
  return parseInteger(value, what, 0n, TXID_MAX - 1n)
}

/** A segment number, from 1. */
export function parseSegment(text: string): string {
  return parseInteger(text, 'a segment number', 1n, INT64_MAX).toString()
}

/** A moment: `+7d` from now, or an ISO date or time. */
export function parseMoment(text: string, nowMs: number): number {
  const ms = text.startsWith('+') ? nowMs + parseDuration(text.slice(1)) : parseTime(text, nowMs)
  if (ms !== null && Number.isSafeInteger(ms)) return ms
  throw new StratalogError(
    'invalid_argument',
    `"${text}" is not a moment: write +7d, or a date or time as 2025-01-31T10:00Z`,
    { found: text },
  )
}

/** The value at a path of fields, `meta.at`; a field whose name has a dot is found as well. */
export function fieldOf(value: unknown, path: string): unknown {
  if (typeof value !== 'object' || value === null) return undefined
  if (Object.hasOwn(value, path)) return (value as Record<string, unknown>)[path]
  const dot = path.indexOf('.')
  return dot < 0
    ? undefined
    : fieldOf((value as Record<string, unknown>)[path.slice(0, dot)], path.slice(dot + 1))
}
