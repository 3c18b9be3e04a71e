import { StratalogError } from './errors.js'

const BYTE_UNITS: Readonly<Record<string, number>> = {
  B: 1,
  KB: 1e3,
  MB: 1e6,
  GB: 1e9,
  TB: 1e12,
  KiB: 2 ** 10,
  MiB: 2 ** 20,
  GiB: 2 ** 30,
  TiB: 2 ** 40,
}
const TIME_UNITS: readonly (readonly [RegExp, number])[] = [
  [/^(ms|milliseconds?)$/, 1],
  [/^(s|seconds?)$/, 1_000],
  [/^(m|min|minutes?)$/, 60_000],
  [/^(h|hours?)$/, 3_600_000],
  [/^(d|days?)$/, 86_400_000],
  [/^(w|weeks?)$/, 604_800_000],
  [/^(y|years?)$/, 31_536_000_000],
]

const invalid = (what: string, text: unknown, hint: string) =>
  new StratalogError('invalid_argument', `${JSON.stringify(text)} is not ${what}: ${hint}`, { found: text })

/** Reads `64 MiB`, `5GB` (powers of ten), `1.5 GiB` or a plain number of bytes. Throws `invalid_argument`. */
export function parseBytes(value: string | number): number {
  const hint =
    'write a number and B, KB, MB, GB, TB (powers of 1000) or KiB, MiB, GiB, TiB (powers of 1024), as 64 MiB'
  const match = /^(\d+(?:\.\d+)?)\s*([KMGT]i?B|B)?$/.exec(String(value).trim())
  if (!match) throw invalid('a size', value, hint)
  const bytes = Math.round(Number(match[1]) * (BYTE_UNITS[match[2] ?? 'B'] as number))
  if (!Number.isSafeInteger(bytes)) throw invalid('a size', value, 'it is too large')
  return bytes
}

/** Reads `20 MiB/s`, `20MiB` or a plain number of bytes a second. Throws `invalid_argument`. */
export function parseRate(value: string | number): number {
  return parseBytes(typeof value === 'number' ? value : value.trim().replace(/\s*\/\s*s$/, ''))
}

/** Reads `90s`, `1h`, `7 years` or a plain number of milliseconds. Throws `invalid_argument`. */
export function parseDuration(value: string | number): number {
  const hint = 'write a number and ms, s, m, h, d, w or y, as 90s or 7 years'
  const ms = durationOf(String(value).trim())
  if (ms === null) throw invalid('a duration', value, hint)
  if (!Number.isSafeInteger(ms)) throw invalid('a duration', value, 'it is too long')
  return ms
}

function durationOf(text: string): number | null {
  const match = /^(\d+(?:\.\d+)?)\s*([a-z]+)?$/.exec(text)
  if (!match) return null
  const [, count, name] = match
  const unit = name === undefined ? 1 : TIME_UNITS.find(([pattern]) => pattern.test(name))?.[1]
  return unit === undefined ? null : Math.round(Number(count) * unit)
}

/** Reads `12` as a whole decimal number within bounds; `0x10`, `1e3`, `-1`, `1.5` and 2^63 are refused. */
export function parseInteger(text: string, what: string, min: bigint, max: bigint): bigint {
  if (!/^-?\d{1,20}$/.test(text))
    throw invalid(what, text, `write a whole decimal number from ${min} to ${max}`)
  const value = BigInt(text)
  if (value < min || value > max) throw invalid(what, text, `it must lie between ${min} and ${max}`)
  return value
}

/**
 * Reads an ISO 8601 date or time; UTC where no zone is given (`2025-01-01`, `2025-01-01Z`, `2025-01-01T10:00`),
 * `now`, or an age as `-1h`. Milliseconds since the epoch, or null if it is none of these.
 */
export function parseTime(text: string, nowMs: number): number | null {
  if (text === 'now') return nowMs
  if (/^-\d/.test(text)) {
    const ageMs = durationOf(text.slice(1))
    return ageMs === null || !Number.isSafeInteger(ageMs) ? null : nowMs - ageMs
  }
  const match =
    /^(\d{4})-(\d{2})-(\d{2})(?:[T ](\d{2}:\d{2}(?::\d{2}(?:\.\d{1,9})?)?))?(Z|[+-]\d{2}:?\d{2})?$/.exec(text)
  if (!match) return null
  const [, year, month, day, clock, zone] = match
  const zoned = (zone ?? 'Z').replace(/^([+-]\d{2})(\d{2})$/, '$1:$2')
  const ms = Date.parse(`${year}-${month}-${day}T${clock ?? '00:00'}${zoned}`)
  // Date.parse turns 2025-02-30 into March; the calendar must agree with what was written.
  const exists = new Date(Date.UTC(Number(year), Number(month) - 1, Number(day))).getUTCDate() === Number(day)
  return Number.isNaN(ms) || !exists ? null : ms
}

/** `2025-01-01T00:00:00Z`, with milliseconds only where there are some. */
export function formatTime(ms: number): string {
  if (!Number.isFinite(ms) || Math.abs(ms) > 8.64e15) return String(ms)
  return new Date(ms).toISOString().replace('.000Z', 'Z')
}

/** `1.9 GiB`. */
export function formatBytes(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB']
  let value = bytes
  let unit = 0
  // By what will be shown: 1,048,575 bytes are 1.0 MiB, not 1024 KiB.
  while (Math.round(value) >= 1024 && unit < units.length - 1) {
    value /= 1024
    unit += 1
  }
  return `${unit === 0 || value >= 99.95 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`
}

/** `9h24m`, `23m`, `4.0s`: two units at most. */
export function formatDuration(ms: number): string {
  if (!Number.isFinite(ms)) return String(ms)
  if (Math.round(ms) < 1_000) return `${Math.round(ms)}ms`
  if (ms < 9_950) return `${(ms / 1_000).toFixed(1)}s`
  const parts: readonly (readonly [string, number])[] = [
    ['y', 31_536_000_000],
    ['d', 86_400_000],
    ['h', 3_600_000],
    ['m', 60_000],
    ['s', 1_000],
  ]
  const at = parts.findIndex(([, size]) => ms >= size)
  const [name, size] = parts[at] as readonly [string, number]
  const next = parts[at + 1]
  const rest = next === undefined ? 0 : Math.floor((ms % size) / next[1])
  return `${Math.floor(ms / size)}${name}${rest > 0 && next !== undefined ? `${rest}${next[0]}` : ''}`
}
