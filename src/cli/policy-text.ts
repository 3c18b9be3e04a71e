import type { CopyWindow } from '../model/policy.js'
import { formatBytes, formatDuration } from '../model/units.js'

const SIZES = new Set(['roll.size', 'hot.max', 'keep.max'])
const NO_LIMIT: Readonly<Record<string, string>> = {
  'keep.for': 'forever',
  'hot.for': 'forever',
  'hot.max': 'unlimited',
  'keep.max': 'unlimited',
  'copy.window': 'always',
  'quorum.ensemble': 'as copies',
  'quorum.min': 'as ack',
}
const PLAIN = new Set(['quorum.ensemble', 'quorum.copies', 'quorum.ack', 'quorum.min'])

/** A policy value as stratalog.yaml would say it. */
export function valueText(field: string, value: unknown): string {
  if (value === null) return NO_LIMIT[field] ?? 'none'
  if (field === 'copy.window') {
    const { cron, zone } = value as CopyWindow
    return `${cron} ${zone}`
  }
  if (typeof value !== 'number') return String(value)
  if (SIZES.has(field)) return formatBytes(value).replace('.0 ', ' ')
  return PLAIN.has(field) ? String(value) : value === 0 ? '0s' : formatDuration(value).replace(/\.0s$/, 's')
}
