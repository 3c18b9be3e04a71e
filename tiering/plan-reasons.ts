import { effectiveRollAge, type PolicyField, type ResolvedPolicy } from '../src/model/policy.js'
import type { SegmentRow } from '../src/model/segment.js'
import { formatBytes, formatDuration } from '../src/model/units.js'

/** A duration for people; zero has a unit like any other. */
export function timeText(ms: number): string {
  return ms <= 0 ? '0s' : formatDuration(ms).replace(/\.0s$/, 's')
}

/** `age 10m ≥ hot.for 10m` once the time is over, `age 3m of hot.for 10m` before. */
export function ageReason(what: string, passedMs: number, field: PolicyField, limitMs: number): string {
  return `${what} ${timeText(passedMs)} ${passedMs >= limitMs ? '≥' : 'of'} ${field} ${timeText(limitMs)}`
}

/** Why an open segment is, or will be, sealed; both origins where hot.for cuts roll.age short. */
export function sealReason(
  policy: ResolvedPolicy,
  row: Pick<SegmentRow, 'openedMs'>,
  open: { readonly lengthBytes: number; readonly lastAppendMs: number },
  due: { readonly field: PolicyField },
  nowMs: number,
): string {
  const { roll, hot } = policy.policy
  if (due.field === 'roll.size')
    return `${formatBytes(open.lengthBytes)} ≥ roll.size ${formatBytes(roll.sizeBytes)}`
  if (due.field === 'roll.idle') return ageReason('idle', nowMs - open.lastAppendMs, 'roll.idle', roll.idleMs)
  const ageMs = nowMs - row.openedMs
  const limitMs = effectiveRollAge(policy.policy).ms
  const from = (field: PolicyField) => `(${policy.origins[field].replace(/ +/g, ' ')})`
  if (due.field === 'roll.age') return ageReason('age', ageMs, 'roll.age', limitMs)
  const hotFor = `hot.for ${timeText(hot.forMs ?? 0)} ${from('hot.for')}`
  const cut = `roll.age ${timeText(roll.ageMs)} ${from('roll.age')} cut to half of ${hotFor}`
  return `age ${timeText(ageMs)} ${ageMs >= limitMs ? '≥' : 'of'} ${timeText(limitMs)}: ${cut}`
}
