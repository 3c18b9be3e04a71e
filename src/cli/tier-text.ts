import type { PlannedDto } from '../model/control-api.js'
import { formatDuration, formatTime } from '../model/units.js'

const BLOCKED: Readonly<Record<string, string>> = {
  window: 'window',
  verify: 'needs verify',
  seal: 'after seal',
  archive: 'archive down',
  hold: 'held',
  clock: 'clock jumped',
  writer: 'by its writer',
}

/** When an action falls due, and what must come first: `now`, `in 3h at 2025-01-01T01:10:04Z, needs verify`. */
export function dueText(action: PlannedDto, nowMs: number): string {
  const blocked = action.blockedBy === null ? [] : [BLOCKED[action.blockedBy] ?? action.blockedBy]
  return [...whenText(action, nowMs), ...blocked].join(', ')
}

function whenText(action: PlannedDto, nowMs: number): string[] {
  // It may have been due for long: when is no matter while the hold stands.
  if (action.blockedBy !== null && ['hold', 'clock', 'writer'].includes(action.blockedBy)) return []
  if (action.never) return action.blockedBy === null ? ['not in sight'] : []
  if (action.dueMs <= nowMs) return action.blockedBy === null ? ['now'] : []
  return [`in ${formatDuration(action.dueMs - nowMs)} at ${formatTime(action.dueMs)}`]
}
