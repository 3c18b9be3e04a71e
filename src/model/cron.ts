import { StratalogError } from './errors.js'

/**
 * The hours a cron expression names, by local time of its zone. Days and months count from 1, Sunday is 0.
 */
export interface CronHours {
  readonly hours: ReadonlySet<number>
  readonly days: ReadonlySet<number>
  readonly months: ReadonlySet<number>
  readonly weekdays: ReadonlySet<number>
}

/** A moment as a clock on a wall of some zone shows it. */
export interface WallTime {
  readonly month: number
  readonly day: number
  readonly weekday: number
  readonly hour: number
  readonly minute: number
}

interface CronField {
  readonly name: string
  readonly min: number
  readonly max: number
  /** Names of the values from `min` on. */
  readonly names: readonly string[]
}

const MONTHS = ['jan', 'feb', 'mar', 'apr', 'may', 'jun', 'jul', 'aug', 'sep', 'oct', 'nov', 'dec']
const WEEKDAYS = ['sun', 'mon', 'tue', 'wed', 'thu', 'fri', 'sat']
/** Longest month of that number, in a leap year. */
const MONTH_DAYS = [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
const MINUTE: CronField = { name: 'minute', min: 0, max: 59, names: [] }
const HOUR: CronField = { name: 'hour', min: 0, max: 23, names: [] }
const DAY: CronField = { name: 'day of month', min: 1, max: 31, names: [] }
const MONTH: CronField = { name: 'month', min: 1, max: 12, names: MONTHS }
const WEEKDAY: CronField = { name: 'weekday', min: 0, max: 7, names: WEEKDAYS }

const refuse = (text: string, why: string) =>
  new StratalogError('invalid_argument', `${JSON.stringify(text)} is not a copy window: ${why}`, {
    found: text,
  })

function numberOf(text: string, field: CronField): number | null {
  const named = field.names.indexOf(text.toLowerCase())
  if (named >= 0) return named + field.min
  const value = /^\d{1,2}$/.test(text) ? Number(text) : Number.NaN
  return value >= field.min && value <= field.max ? value : null
}

/** `*`, `1`, `1-5`, `22-5` (round the end), with steps `0-23/2` and `1-5/2`, and lists of these. */
function parseField(whole: string, text: string, field: CronField): Set<number> {
  const found = new Set<number>()
  const bad = (part: string) =>
    refuse(
      whole,
      `"${part}" does not name a ${field.name} (${field.min} to ${field.max}, ranges 1-5, lists 1,3, steps */2)`,
    )
  for (const part of text.split(',')) {
    const match = /^(\*|[a-z0-9]+(?:-([a-z0-9]+))?)(?:\/(\d{1,2}))?$/i.exec(part)
    if (!match) throw bad(part)
    const [, range = '', high, stepText] = match
    const step = stepText === undefined ? 1 : Number(stepText)
    const first = range === '*' ? field.min : numberOf(range.split('-')[0] ?? '', field)
    const last = range === '*' ? field.max : high === undefined ? first : numberOf(high, field)
    if (first === null || last === null || step < 1) throw bad(part)
    if (stepText !== undefined && range !== '*' && high === undefined) throw bad(part)
    if (last >= first) for (let value = first; value <= last; value += step) found.add(value)
    else {
      // Cron readers disagree on where the steps of a range that runs round the end fall.
      if (step !== 1)
        throw refuse(whole, `"${part}" runs round the end and has a step: write the values as a list`)
      for (let value = first; value <= field.max; value += 1) found.add(value)
      for (let value = field.min; value <= last; value += 1) found.add(value)
    }
  }
  return found
}

/**
 * Reads a cron expression of five fields (minute hour day month weekday) as the hours it names. Stricter than
 * cron: windows open and close on the hour, so the minute is `0` or `*`; day of month and weekday are not
 * both restricted, because cron readers disagree on whether one or both must match; and it must name some
 * hour. Throws `invalid_argument`.
 */
export function parseCronHours(text: string): CronHours {
  const fields = text.trim().split(/\s+/)
  const [minute, hour, day, month, weekday] = fields
  if (fields.length !== 5 || !minute || !hour || !day || !month || !weekday) {
    throw refuse(text, 'write five fields, minute hour day month weekday, as "0 1-5 * * *"')
  }
  const minutes = parseField(text, minute, MINUTE)
  if (minutes.size !== 60 && !(minutes.size === 1 && minutes.has(0))) {
    throw refuse(text, `windows open and close on the hour: the minute must be 0 or *, not ${minute}`)
  }
  const weekdays = parseField(text, weekday, WEEKDAY)
  if (weekdays.delete(7)) weekdays.add(0)
  const found = {
    hours: parseField(text, hour, HOUR),
    days: parseField(text, day, DAY),
    months: parseField(text, month, MONTH),
    weekdays,
  }
  if (found.days.size < 31 && found.weekdays.size < 7) {
    throw refuse(text, 'day of month and weekday are both restricted: let one of them be *')
  }
  if (![...found.months].some((value) => Math.min(...found.days) <= (MONTH_DAYS[value - 1] ?? 0))) {
    throw refuse(text, 'no month it names has such a day, so the window would never open')
  }
  return found
}

/** Whether the expression fires at some hour of the day of `at`. */
export function namesDay(cron: CronHours, at: WallTime): boolean {
  return cron.days.has(at.day) && cron.months.has(at.month) && cron.weekdays.has(at.weekday)
}

/** Whether the expression fires within the hour of `at`. */
export function namesHour(cron: CronHours, at: WallTime): boolean {
  return namesDay(cron, at) && cron.hours.has(at.hour)
}

/** Checks the name of a time zone and returns it. Throws `invalid_argument`. */
export function checkZone(zone: string): string {
  try {
    new Intl.DateTimeFormat('en-US', { timeZone: zone })
    return zone
  } catch (cause) {
    const hint = 'use a name of the IANA list, as Europe/Berlin or UTC'
    throw new StratalogError('invalid_argument', `${JSON.stringify(zone)} is not a time zone: ${hint}`, {
      cause,
      found: zone,
    })
  }
}
