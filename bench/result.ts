/** One line of `npm run bench -- --json`. */
export interface BenchResult {
  readonly name: string
  readonly value: number
  readonly unit: string
  readonly reference: { readonly what: string; readonly value: number }
  readonly ratio: number
  readonly target: string
  readonly met: boolean
}

/** What a member is given: a directory of its own, which is removed after it, and how much it should do. */
export interface Bench {
  readonly directory: string
  /** Only as much as shows that it runs. */
  readonly short: boolean
  /** Times a measurement and its reference are taken, alternating; what is told are medians. */
  readonly rounds: number
  /** The amount of work: the first as asked, times the scale; the second for a smoke test. */
  amount(full: number, short: number): number
  /** The same for bytes: whole KiB. */
  bytes(full: number, short: number): number
}

/** A measurement. Some of its figures come from one run, so that a process is not warmed up twice. */
export interface BenchMember {
  readonly names: readonly string[]
  readonly what: string
  run(bench: Bench): Promise<BenchResult[]>
}

/** Thrown by a member that this machine, or this installation, has no means for: it is left out, and the reason is told. */
export class LeftOut extends Error {}

/** What is measured, in its unit, and what it is held against. */
export interface Measured {
  readonly name: string
  readonly value: number
  readonly unit: string
  readonly what: string
  readonly reference: number
}

/** Met where the value is at least that part of the reference. */
export function ratioAtLeast(measured: Measured, least: number): BenchResult {
  return result(measured, `ratio >= ${least}`, (ratio) => ratio >= least)
}

/** Met where the value is at most so many times the reference. */
export function ratioAtMost(measured: Measured, most: number): BenchResult {
  return result(measured, `ratio <= ${most}`, (ratio) => ratio <= most)
}

/** Met where the value itself is at most so much, whatever the reference. */
export function valueAtMost(measured: Measured, most: number): BenchResult {
  return result(measured, `value <= ${most}`, (_, value) => value <= most)
}

/** A result with a rule of its own. */
export function result(
  { name, value, unit, what, reference }: Measured,
  target: string,
  met: (ratio: number, value: number) => boolean,
): BenchResult {
  const ratio = value / reference
  return { name, value, unit, reference: { what, value: reference }, ratio, target, met: met(ratio, value) }
}

/** The value below which `fraction` of them lie. */
export function percentile(values: readonly number[], fraction: number): number {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * fraction))] ?? Number.NaN
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = Math.floor(sorted.length / 2)
  const upper = sorted[middle] ?? Number.NaN
  return sorted.length % 2 === 1 ? upper : (upper + (sorted[middle - 1] ?? Number.NaN)) / 2
}

/** Takes each measurement in turn, `rounds` times, so that a machine that changes its mind changes it for all. */
export async function alternate<K extends string, T>(
  rounds: number,
  measurements: Readonly<Record<K, () => Promise<T> | T>>,
): Promise<Record<K, T[]>> {
  const names = Object.keys(measurements) as K[]
  const found = Object.fromEntries(names.map((name) => [name, [] as T[]])) as Record<K, T[]>
  for (let round = 0; round < rounds; round += 1) {
    for (const name of names) found[name].push(await measurements[name]())
  }
  return found
}
