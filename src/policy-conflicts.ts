import { windowAt } from '../tiering/window.js'
import { holdEdgeText } from './config/holds.js'
import { REPLICA_LAG_BYTES_MAX } from './ledger/writer.js'
import type { PolicyConflict } from './model/control-policy.js'
import {
  effectiveRollAge,
  type Policy,
  type PolicyField,
  type PolicyHold,
  type PolicyHoldEdge,
  type ResolvedPolicy,
} from './model/policy.js'
import type { TxidMode } from './model/segment.js'
import { formatBytes, formatDuration, formatTime } from './model/units.js'

const HOUR_MS = 3_600_000
const DAY_MS = 24 * HOUR_MS
const WEEK_HOURS = 7 * 24
/** A window that stays closed for longer than this was hardly meant so. */
const RARE_MS = 366 * DAY_MS

/** A store as far as it fills. */
export interface DiskFacts {
  readonly location: string
  readonly freeBytes: number
  readonly totalBytes: number
}

/** What conflicts are found by, beside the values themselves. */
export interface PolicyFacts {
  readonly policy: ResolvedPolicy
  readonly nowMs: number
  readonly archive: boolean
  readonly txidMode: TxidMode
  readonly hotBytes: number
  /** Growth of the stream over the last day; 0: not known. */
  readonly bytesPerSecond: number
  readonly disks: readonly DiskFacts[]
}

type Finder = (facts: PolicyFacts, policy: Policy) => PolicyConflict[]

const sizeText = (bytes: number) => formatBytes(bytes).replace('.0 ', ' ')
const ageText = (ms: number) => (ms === 0 ? '0s' : formatDuration(ms).replace(/\.0s$/, 's'))
const rateText = (bytesPerSecond: number) => `${formatBytes(bytesPerSecond)}/s`
/** To the minute: what rests on a rate is no more exact. */
const aboutText = (ms: number) => formatTime(Math.round(ms / 60_000) * 60_000).replace(/:00Z$/, 'Z')

function conflict(
  fields: readonly PolicyField[],
  found: string,
  consequence: string,
  remedy: string,
): PolicyConflict[] {
  return [{ fields, found, consequence, remedy }]
}

/** Values that work against each other, or against what the stream does, with what comes of it. Pure. */
export function policyConflicts(facts: PolicyFacts): PolicyConflict[] {
  const { policy } = facts.policy
  return FINDERS.flatMap((find) => find(facts, policy))
}

/** Whether somebody said it: what is built in is no contradiction of anybody's. */
const said = ({ policy }: PolicyFacts, field: PolicyField): boolean => policy.origins[field] !== 'built-in'

const windowThatIsRare: Finder = ({ nowMs }, { copy }) => {
  const { open, nextMs } = windowAt(copy.window, nowMs)
  if (open || (nextMs !== null && nextMs - nowMs <= RARE_MS)) return []
  const opens = nextMs === null ? 'does not open within nine years' : `opens next at ${aboutText(nextMs)}`
  return conflict(
    ['copy.window'],
    `copy.window ${opens}`,
    'until then nothing is copied, everything stays on these disks alone',
    'Name more hours, or set copy.window: always.',
  )
}

const windowBehindHotMax: Finder = (facts, { copy, hot, quorum }) => {
  const { nowMs, hotBytes, bytesPerSecond, disks } = facts
  const { open, nextMs } = windowAt(copy.window, nowMs)
  if (open || nextMs === null || bytesPerSecond === 0) return []
  const untilSeconds = (nextMs - nowMs) / 1_000
  const copies = quorum.copies / Math.max(1, disks.length)
  const fillings = disks
    .filter(({ totalBytes }) => totalBytes > 0)
    .map(
      ({ totalBytes, freeBytes }) =>
        (totalBytes - freeBytes + bytesPerSecond * copies * untilSeconds) / totalBytes,
    )
  const fullest = Math.max(0, ...fillings)
  const opens = `copy.window opens ${aboutText(nextMs)}`
  const rate = `at today's ${rateText(bytesPerSecond)}`
  if (hot.maxBytes !== null && hotBytes + bytesPerSecond * untilSeconds > hot.maxBytes) {
    const reachedMs = nowMs + (Math.max(0, hot.maxBytes - hotBytes) / bytesPerSecond) * 1_000
    return conflict(
      ['copy.window', 'hot.max'],
      `${opens}, hot.max ${sizeText(hot.maxBytes)} is reached at about ${aboutText(reachedMs)} ${rate}`,
      `segments stay hot past the target until ${aboutText(nextMs)}, disks at ${percent(fullest)} by then`,
      'Widen the window or raise hot.max.',
    )
  }
  if (fullest < 1) return []
  return conflict(
    ['copy.window'],
    `${opens}, the disks are full before ${rate}`,
    'nothing can be freed before it is copied: appends are refused',
    'Widen the window.',
  )
}

const percent = (part: number) => `${Math.min(100, Math.round(part * 100))} %`

const trimmedBeforeCopied: Finder = ({ nowMs, archive }, { copy, keep }) => {
  if (!archive || keep.forMs === null) return []
  const sealedNow = nowMs + copy.afterMs
  const { open, nextMs } = windowAt(copy.window, sealedNow)
  if (keep.forMs <= copy.afterMs)
    return conflict(
      ['keep.for', 'copy.after'],
      `keep.for ${ageText(keep.forMs)} is not longer than copy.after ${ageText(copy.afterMs)}`,
      'segments are trimmed before they would be copied, nothing reaches the archive',
      'Raise keep.for or lower copy.after.',
    )
  const copiedMs = open ? sealedNow : nextMs
  if (copiedMs !== null && copiedMs - nowMs < keep.forMs) return []
  return conflict(
    ['keep.for', 'copy.window'],
    `keep.for ${ageText(keep.forMs)} ends before copy.window opens for what is sealed now`,
    'such segments are trimmed before they would be copied, and are never in the archive',
    'Raise keep.for or widen the window.',
  )
}

const keptShorterThanHot: Finder = (facts, { keep, copy, evict, hot }) => {
  if (!facts.archive || keep.forMs === null || keep.forMs <= copy.afterMs) return []
  const freedMs = Math.max(hot.forMs ?? Number.POSITIVE_INFINITY, copy.afterMs + evict.lagMs)
  if (keep.forMs > freedMs) return []
  const field = copy.afterMs + evict.lagMs >= keep.forMs ? 'evict.lag' : 'hot.for'
  const limit =
    field === 'evict.lag' ? ageText(evict.lagMs) : hot.forMs === null ? 'forever' : ageText(hot.forMs)
  return conflict(
    ['keep.for', field],
    `keep.for ${ageText(keep.forMs)} is not longer than ${field} ${limit}`,
    'segments stay hot until they are trimmed in both tiers: the archive frees no disk',
    `Raise keep.for or lower ${field}.`,
  )
}

const lagBehindHot: Finder = (facts, { hot, evict }) => {
  const { archive } = facts
  if (!archive || hot.forMs === null || evict.lagMs <= hot.forMs || !said(facts, 'hot.for')) return []
  return conflict(
    ['evict.lag', 'hot.for'],
    `evict.lag ${ageText(evict.lagMs)} is longer than hot.for ${ageText(hot.forMs)}`,
    'segments stay hot for evict.lag after they were verified in the archive',
    'Lower evict.lag, or raise hot.for to what is meant.',
  )
}

const rollCutShort: Finder = (facts, policy) => {
  const age = effectiveRollAge(policy)
  if (age.field === 'roll.age' || !said(facts, 'roll.age')) return []
  return conflict(
    ['roll.age', 'hot.for'],
    `roll.age ${ageText(policy.roll.ageMs)} is more than half of hot.for ${ageText(policy.hot.forMs ?? 0)}`,
    `segments are sealed after ${ageText(age.ms)}, or they could not be freed in time`,
    'Lower roll.age or raise hot.for.',
  )
}

const hotBelowSegment: Finder = ({ archive }, { hot, roll, keep }) => {
  if (hot.maxBytes !== null && keep.maxBytes !== null && keep.maxBytes < hot.maxBytes && archive)
    return conflict(
      ['keep.max', 'hot.max'],
      `keep.max ${sizeText(keep.maxBytes)} is below hot.max ${sizeText(hot.maxBytes)}`,
      'history is trimmed before hot.max frees anything',
      'Raise keep.max or lower hot.max.',
    )
  if (hot.maxBytes === null || hot.maxBytes >= roll.sizeBytes || !archive) return []
  return conflict(
    ['hot.max', 'roll.size'],
    `hot.max ${sizeText(hot.maxBytes)} is below roll.size ${sizeText(roll.sizeBytes)}`,
    'every full segment is freed as soon as it is verified and evict.lag is over',
    'Raise hot.max, or lower roll.size.',
  )
}

const uploadTooSlow: Finder = ({ nowMs, bytesPerSecond, archive }, { copy, limits }) => {
  const limit = limits.uploadBytesPerSecond
  if (!archive || limit === null || bytesPerSecond === 0) return []
  let openHours = 0
  for (let hour = 0; hour < WEEK_HOURS; hour += 1)
    if (windowAt(copy.window, nowMs + hour * HOUR_MS).open) openHours += 1
  const dayBytes = (limit * 86_400 * openHours) / WEEK_HOURS
  const growthBytes = bytesPerSecond * 86_400
  if (openHours === 0 || dayBytes >= growthBytes) return []
  const within = copy.window === null ? '' : ` in the ${openHours} h a week that copy.window is open`
  return conflict(
    copy.window === null ? ['limits.upload'] : ['limits.upload', 'copy.window'],
    `limits.upload ${rateText(limit)} copies ${sizeText(dayBytes)} a day${within}, the stream grows by ${sizeText(growthBytes)}`,
    `${sizeText(growthBytes - dayBytes)} more each day are on these disks alone`,
    copy.window === null ? 'Raise limits.upload.' : 'Raise limits.upload or widen the window.',
  )
}

const withoutArchive: Finder = (facts) => {
  if (facts.archive) return []
  const idle = (['hot.for', 'hot.max', 'copy.window', 'archive-down', 'evict.lag'] as const).filter((field) =>
    said(facts, field),
  )
  if (idle.length === 0) return []
  return conflict(
    ['archive', ...idle],
    `there is no archive, and ${idle.join(', ')} ${idle.length === 1 ? 'is' : 'are'} set`,
    'nothing is copied or freed: only keep ends anything',
    'Name an archive, or leave these out.',
  )
}

const holdsThatOverlap: Finder = (_, { holds }) =>
  holds.flatMap((one, index) =>
    holds
      .slice(index + 1)
      .filter((other) => overlap(one, other))
      .flatMap((other) =>
        conflict(
          ['holds'],
          `the holds ${one.id} (${rangeText(one)}) and ${other.id} (${rangeText(other)}) overlap`,
          'what both hold stays until both are released',
          'Nothing to do if that is meant.',
        ),
      ),
  )

/** Ranges of one kind of edge are compared; of different kinds nobody knows without the records. */
function overlap(one: PolicyHold, other: PolicyHold): boolean {
  return !endsBefore(one, other) && !endsBefore(other, one)
}

function endsBefore({ until }: PolicyHold, { from }: PolicyHold): boolean {
  if (until === null || from === null) return false
  return order(until, from) !== null && (order(until, from) ?? 1) <= 0
}

function order(a: PolicyHoldEdge, b: PolicyHoldEdge): number | null {
  if ('timeMs' in a && 'timeMs' in b) return a.timeMs - b.timeMs
  if ('txid' in a && 'txid' in b) return a.txid < b.txid ? -1 : a.txid > b.txid ? 1 : 0
  return 'dlsn' in a && 'dlsn' in b ? a.dlsn.compare(b.dlsn) : null
}

function rangeText({ from, until }: PolicyHold): string {
  return `${from === null ? 'the beginning' : holdEdgeText(from)} … ${until === null ? 'for ever' : holdEdgeText(until)}`
}

const holdsAgainstLimits: Finder = (facts, { holds, archiveDown, keep }) => {
  if (holds.length === 0) return []
  const ids = holds.map(({ id }) => id).join(', ')
  const found: PolicyConflict[] = []
  if (archiveDown === 'drop' && facts.archive)
    found.push(
      ...conflict(
        ['archive-down', 'holds'],
        `archive-down is drop, and ${ids} must stay`,
        'what is held is not dropped: while the archive is down the disks may fill with it, then appends are refused',
        'Set archive-down: backpressure for held streams.',
      ),
    )
  if (keep.maxBytes !== null || keep.forMs !== null)
    found.push(
      ...conflict(
        [keep.forMs !== null ? 'keep.for' : 'keep.max', 'holds'],
        `${keep.forMs !== null ? `keep.for ${ageText(keep.forMs)}` : `keep.max ${sizeText(keep.maxBytes ?? 0)}`} is set, and ${ids} must stay`,
        'nothing is trimmed from the oldest held segment on, so the stream may grow past its limits',
        'Take the hold out when the case is closed.',
      ),
    )
  return found
}

const withoutEffect: Finder = (facts, { keep, encryption, limits }) => {
  const found: PolicyConflict[] = []
  if (keep.by === 'event' && keep.forMs !== null && facts.txidMode === 'custom')
    found.push(
      ...conflict(
        ['keep.by'],
        "keep.by is event, and the stream's txids are no times",
        'age counts from completion',
        'Set keep.by: completion.',
      ),
    )
  if (encryption === null && said(facts, 'encryption.ring') && !said(facts, 'encryption.key'))
    found.push(
      ...conflict(
        ['encryption.ring'],
        'encryption.ring is set without encryption.key',
        'objects are stored in clear',
        'Name a key for the streams that are to be encrypted.',
      ),
    )
  if (limits.replicaLagBytesMax !== null && limits.replicaLagBytesMax > REPLICA_LAG_BYTES_MAX)
    found.push(
      ...conflict(
        ['limits.replica-lag'],
        `limits.replica-lag is above ${formatBytes(REPLICA_LAG_BYTES_MAX)}`,
        'a store that is further behind is left all the same: what it owes is held in memory',
        `Set at most ${formatBytes(REPLICA_LAG_BYTES_MAX)}, or leave it out.`,
      ),
    )
  return found
}

const FINDERS: readonly Finder[] = [
  windowThatIsRare,
  windowBehindHotMax,
  trimmedBeforeCopied,
  keptShorterThanHot,
  lagBehindHot,
  rollCutShort,
  hotBelowSegment,
  uploadTooSlow,
  withoutArchive,
  holdsAgainstLimits,
  holdsThatOverlap,
  withoutEffect,
]
