import { type ChildProcess, fork } from 'node:child_process'
import { availableParallelism } from 'node:os'
import process from 'node:process'
import { parseArgs } from 'node:util'
import { optionsOf, PLANTED_BUGS, type PlantedBug } from './options.js'
import { count, describe, emptyTally, merge, type Tally } from './report.js'
import { shrink } from './shrink.js'
import { simulate } from './world.js'

const USAGE = `npm run sim -- [--seeds N] [--seed S] [--jobs J] [--bug NAME] [--trace LINES] [--no-shrink]
  --seeds N      runs, with the seeds S, S + 1, …          (1000)
  --seed S       the first seed; alone it is the only one  (1)
  --jobs J       processes that share the work             (one a core)
  --bug NAME     plants a bug: ${PLANTED_BUGS.join(', ')}
  --trace LINES  lines of the trace shown with a failure   (40)
  --no-shrink    shows failures as they were found
`
/** Failures that are shown in full; more of them are counted. */
const SHOWN_MAX = 5

interface Job {
  readonly seed: number
  readonly seeds: number
  /** Takes every `step`-th seed. */
  readonly step: number
  readonly bug: PlantedBug | null
  readonly trace: number
  readonly shrink: boolean
}

async function work(job: Job): Promise<Tally> {
  const tally = emptyTally()
  for (let seed = job.seed; seed < job.seed + job.seeds; seed += job.step) {
    const result = await simulate(optionsOf(seed, job.bug))
    count(tally, result)
    if (result.violations.length === 0 || tally.violations > SHOWN_MAX) continue
    process.stdout.write(`${describe(result, job.trace)}\n`)
    if (job.shrink) process.stdout.write(`shrunk: ${describe(await shrink(result), job.trace)}\n`)
  }
  return tally
}

function inChild(job: Job): Promise<Tally> {
  return new Promise((resolve, reject) => {
    const child: ChildProcess = fork(import.meta.filename, {
      env: { ...process.env, STRATALOG_SIM: JSON.stringify(job) },
    })
    let tally: Tally | null = null
    child.on('message', (message) => {
      tally = message as Tally
    })
    child.on('exit', (code) => {
      if (tally === null) reject(new Error(`a process of the simulator ended with ${code}`))
      else resolve(tally)
    })
  })
}

function jobOf(argv: readonly string[]): Job & { readonly jobs: number } {
  const { values } = parseArgs({
    args: [...argv],
    options: {
      seeds: { type: 'string' },
      seed: { type: 'string' },
      jobs: { type: 'string' },
      bug: { type: 'string' },
      trace: { type: 'string', default: '40' },
      'no-shrink': { type: 'boolean', default: false },
    },
  })
  const seeds = Number(values.seeds ?? (values.seed === undefined ? 1_000 : 1))
  const bug = PLANTED_BUGS.find((name) => name === values.bug) ?? null
  const numbers = [seeds, Number(values.seed ?? 1), Number(values.jobs ?? 1), Number(values.trace)]
  if (numbers.some((number) => !Number.isSafeInteger(number) || number < 0) || (values.bug ?? null) !== bug)
    throw new TypeError('an option has a value it can not have')
  return {
    seed: Number(values.seed ?? 1),
    seeds,
    step: 1,
    bug,
    trace: Number(values.trace),
    shrink: !values['no-shrink'],
    jobs: Math.max(1, Math.min(Number(values.jobs ?? availableParallelism()), seeds)),
  }
}

async function main(): Promise<void> {
  const given = process.env.STRATALOG_SIM
  if (given !== undefined) {
    process.send?.(await work(JSON.parse(given) as Job))
    return
  }
  const job = jobOf(process.argv.slice(2))
  const startedMs = performance.now()
  const parts =
    job.jobs === 1
      ? [work(job)]
      : Array.from({ length: job.jobs }, (_, i) =>
          inChild({ ...job, seed: job.seed + i, seeds: job.seeds - i, step: job.jobs }),
        )
  const total = emptyTally()
  for (const tally of await Promise.all(parts)) merge(total, tally)
  const { seeds, violations, faults, ...sums } = total
  const seconds = (performance.now() - startedMs) / 1_000
  process.stdout.write(`${seconds.toFixed(1)} s; ${JSON.stringify(sums)}\n`)
  process.stdout.write(`faults ${JSON.stringify(faults)}\n`)
  process.stdout.write(`${seeds} seeds, ${violations} violations\n`)
  process.exitCode = violations > 0 ? 1 : 0
}

try {
  await main()
} catch (error) {
  if (!(error instanceof TypeError)) throw error
  process.stderr.write(`${error.message}\n${USAGE}`)
  process.exitCode = 2
}
