import { validate } from 'node-cron'
import {
  type CronHours,
  checkZone,
  namesDay,
  namesHour,
  parseCronHours,
  type WallTime,
} from '../src/model/cron.js'
import { StratalogError } from '../src/model/errors.js'
import type { CopyWindow } from '../src/model/policy.js'

const MINUTE_MS = 60_000
const HOUR_MS = 60 * MINUTE_MS
/** Zones differ from UTC by whole quarters of an hour, so a window opens and closes at one. */
const QUARTER_MS = 15 * MINUTE_MS
/** Beyond the longest time between two openings that is usual: a February 29 to the next. */
const HORIZON_MS = 9 * 366 * 24 * HOUR_MS
/** Windows that are kept ready; a log has a few. */
const COMPILED_MAX = 256

/** Whether copies may start now, and if not, when they may (null: not within years, or they may now). */
export interface WindowState {
  readonly open: boolean
  readonly nextMs: number | null
}

interface Compiled {
  readonly cron: CronHours
  readonly wallTime: (ms: number) => WallTime
  /** A time in which it is known to be closed: until the next opening, which may be years away and slow to find. */
  closed: { readonly fromMs: number; readonly nextMs: number } | null
}

const compiled = new Map<string, Compiled>()

/**
 * A window is open in every hour, by the clock of its zone, in which its cron expression fires. An hour that
 * a clock change leaves out does not open it that day; one that comes twice opens it twice. No window is
 * always open. Throws `invalid_argument` for a window that can't be read.
 */
export function windowAt(window: CopyWindow | null, nowMs: number): WindowState {
  if (window === null) return { open: true, nextMs: null }
  const found = compile(window)
  const { cron, wallTime, closed } = found
  if (closed !== null && nowMs >= closed.fromMs && nowMs < closed.nextMs)
    return { open: false, nextMs: closed.nextMs }
  if (namesHour(cron, wallTime(nowMs))) return { open: true, nextMs: null }
  let at = Math.floor(nowMs / QUARTER_MS) * QUARTER_MS
  while (at <= nowMs + HORIZON_MS) {
    const wall = wallTime(at)
    if (namesHour(cron, wall)) {
      found.closed = { fromMs: nowMs, nextMs: at }
      return { open: false, nextMs: at }
    }
    at += stepMs(cron, wall)
  }
  return { open: false, nextMs: null }
}

/**
 * How far to look on. Never past the end of the day: clocks are changed by an hour at most, so from before
 * 21:00 a jump to 21:00 lands before midnight whatever happens on the way. Never past the next full hour
 * otherwise.
 */
function stepMs(cron: CronHours, wall: WallTime): number {
  const intoHourMs = wall.minute * MINUTE_MS
  if (!namesDay(cron, wall) && wall.hour < 21) return (21 - wall.hour) * HOUR_MS - intoHourMs
  return HOUR_MS - intoHourMs
}

function compile(window: CopyWindow): Compiled {
  const key = `${window.cron}\n${window.zone}`
  let found = compiled.get(key)
  if (found === undefined) {
    found = { cron: parseCronHours(window.cron), wallTime: wallClock(checkZone(window.zone)), closed: null }
    // The agent hands the same expression to node-cron to be woken: what one of them reads both must.
    if (!validate(window.cron)) {
      const why = `the scheduler can't read the copy window ${JSON.stringify(window.cron)}`
      throw new StratalogError('invalid_argument', `${why}: write hours as numbers, as "0 1-5 * * *"`, {
        found: window.cron,
      })
    }
    if (compiled.size >= COMPILED_MAX) compiled.clear()
    compiled.set(key, found)
  }
  return found
}

function wallClock(zone: string): (ms: number) => WallTime {
  const format = new Intl.DateTimeFormat('en-US', {
    timeZone: zone,
    calendar: 'gregory',
    numberingSystem: 'latn',
    hourCycle: 'h23',
    year: 'numeric',
    month: 'numeric',
    day: 'numeric',
    hour: 'numeric',
    minute: 'numeric',
  })
  return (ms) => {
    const parts: Record<string, number> = {}
    for (const { type, value } of format.formatToParts(ms)) parts[type] = Number(value)
    const { year = 0, month = 0, day = 0, hour = 0, minute = 0 } = parts
    return { month, day, hour, minute, weekday: new Date(Date.UTC(year, month - 1, day)).getUTCDay() }
  }
}
