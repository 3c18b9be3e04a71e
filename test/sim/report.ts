import type { FaultKind } from './options.js'
import type { Work } from './trace.js'
import type { SimResult } from './world.js'

/** What many runs came to. */
export interface Tally {
  seeds: number
  violations: number
  events: number
  acked: number
  reads: number
  evictions: number
  trims: number
  duplicates: number
  conditional: number
  readonly faults: Partial<Record<FaultKind, number>>
  readonly works: Partial<Record<Work, number>>
  /** By the point of tiering at which processes died. */
  readonly deaths: Partial<Record<string, number>>
}

/** What a run counts. */
const COUNTS = ['events', 'acked', 'reads', 'evictions', 'trims', 'duplicates', 'conditional'] as const

/** Nothing yet. */
export function emptyTally(): Tally {
  const counts = Object.fromEntries(COUNTS.map((key) => [key, 0])) as Record<(typeof COUNTS)[number], number>
  return { seeds: 0, violations: 0, ...counts, faults: {}, works: {}, deaths: {} }
}

/** Counts a run; a run with several violations is one that failed. */
export function count(tally: Tally, result: SimResult): void {
  tally.seeds += 1
  tally.violations += result.violations.length > 0 ? 1 : 0
  for (const key of COUNTS) tally[key] += result[key]
  for (const [kind, times] of result.faults) tally.faults[kind] = (tally.faults[kind] ?? 0) + times
  for (const [work, times] of result.works) tally.works[work] = (tally.works[work] ?? 0) + times
  for (const [point, times] of result.deaths) tally.deaths[point] = (tally.deaths[point] ?? 0) + times
}

/** Adds what another process counted. */
export function merge(into: Tally, from: Tally): void {
  for (const key of ['seeds', 'violations', ...COUNTS] as const) into[key] += from[key]
  for (const [kind, times] of Object.entries(from.faults) as [FaultKind, number][])
    into.faults[kind] = (into.faults[kind] ?? 0) + times
  for (const [work, times] of Object.entries(from.works) as [Work, number][])
    into.works[work] = (into.works[work] ?? 0) + times
  for (const [point, times] of Object.entries(from.deaths))
    into.deaths[point] = (into.deaths[point] ?? 0) + (times ?? 0)
}

/** A run that failed, for people: how to have it again and what happened last. */
export function describe(result: SimResult, lines: number): string {
  const { options, violations } = result
  return [
    `seed ${options.seed}: ${violations.map(({ message }) => message).join('\n  ')}`,
    `  options ${JSON.stringify(options)}`,
    ...result.lines.slice(-lines).map((line) => `  ${line.slice(0, 240)}`),
  ].join('\n')
}
