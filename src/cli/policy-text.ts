import type { CopyWindow } from '../model/policy.js'
import { formatBytes, formatDuration } from '../model/units.js'

const SIZES = new Set(['roll.size', 'hot.max', 'keep.max', 'limits.replica-lag'])
const RATES = new Set(['limits.upload', 'limits.cold-read'])
const NO_LIMIT: Readonly<Record<string, string>> = {
  'keep.for': 'forever',
  'hot.for': 'forever',
  'hot.max': 'unlimited',
  'keep.max': 'unlimited',
  'copy.window': 'always',
  'quorum.ensemble': 'as copies',
  'quorum.min': 'as ack',
  'quorum.group': 'any',
  archive: "the log's",
  'storage.class': 'default',
  'storage.kms-key': 'default',
  'limits.upload': 'unlimited',
  'limits.cold-read': 'unlimited',
  'limits.replica-lag': 'unlimited',
}
const PLAIN = new Set(['quorum.ensemble', 'quorum.copies', 'quorum.ack', 'quorum.min'])

/** A policy value as stratalog.yaml would say it. */
export function valueText(field: string, value: unknown): string {
  if (value === null) return NO_LIMIT[field] ?? 'none'
  if (field === 'copy.window') {
    const { cron, zone } = value as CopyWindow
    return `${cron} ${zone}`
  }
  if (field === 'holds') return (value as readonly { id: string }[]).map(({ id }) => id).join(', ') || 'none'
  if (field === 'storage.tags') {
    const tags = Object.entries(value as Readonly<Record<string, string>>)
    return tags.map(([key, text]) => `${key}=${text}`).join(', ') || 'none'
  }
  if (typeof value !== 'number') return String(value)
  if (RATES.has(field)) return `${formatBytes(value).replace('.0 ', ' ')}/s`
  if (SIZES.has(field)) return formatBytes(value).replace('.0 ', ' ')
  return PLAIN.has(field) ? String(value) : value === 0 ? '0s' : formatDuration(value).replace(/\.0s$/, 's')
}
