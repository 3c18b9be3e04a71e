import { FAULT_KINDS, type SimOptions, ZK_FAULT_KINDS } from './options.js'
import { type SimResult, simulate } from './world.js'

/** Runs that shrinking may take. */
const RUNS_MAX = 80

/**
 * A smaller run that still violates the same invariant: faults are taken away kind by kind, then fewer of each, then
 * fewer appends, streams and processes.
 */
export async function shrink(found: SimResult): Promise<SimResult> {
  let best = found
  let runs = 0
  const wanted = found.violations[0]?.invariant
  const try_ = async (options: SimOptions): Promise<boolean> => {
    if (runs >= RUNS_MAX) return false
    runs += 1
    const result = await simulate(options)
    if (result.violations[0]?.invariant !== wanted) return false
    best = result
    return true
  }
  for (const kind of [...FAULT_KINDS, ...ZK_FAULT_KINDS]) {
    if (best.options.faults[kind] === undefined) continue
    const { [kind]: _, ...faults } = best.options.faults
    await try_({ ...best.options, faults })
  }
  for (const kind of [...FAULT_KINDS, ...ZK_FAULT_KINDS]) {
    for (let count = best.options.faults[kind] ?? 0; count > 1; ) {
      count -= 1
      if (!(await try_({ ...best.options, faults: { ...best.options.faults, [kind]: count } }))) break
    }
  }
  for (const smaller of [
    (options: SimOptions): SimOptions => ({ ...options, appends: Math.floor(options.appends / 2) }),
    (options: SimOptions): SimOptions => ({ ...options, byHand: Math.floor(options.byHand / 2) }),
    (options: SimOptions): SimOptions => ({ ...options, streams: 1 }),
    (options: SimOptions): SimOptions => ({ ...options, clients: 2 }),
    (options: SimOptions): SimOptions => ({ ...options, archive: false }),
  ]) {
    while (JSON.stringify(smaller(best.options)) !== JSON.stringify(best.options)) {
      if (!(await try_(smaller(best.options)))) break
    }
  }
  return best
}
