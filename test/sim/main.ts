import { availableParallelism } from 'node:os'
import process from 'node:process'
import { parseArgs } from 'node:util'
import { type Job, jobGiven, runJob, runJobs } from './jobs.js'
import { PLANTED_BUGS, ZK_PLANTED_BUGS } from './options.js'

const USAGE = `npm run sim -- [--seeds N] [--seed S] [--jobs J] [--bug NAME] [--trace LINES] [--no-shrink] [--zookeeper]
  --seeds N      runs, with the seeds S, S + 1, …          (1000)
  --seed S       the first seed; alone it is the only one  (1)
  --jobs J       processes that share the work             (one a core)
  --bug NAME     plants a bug: ${PLANTED_BUGS.join(', ')}; with ZooKeeper ${ZK_PLANTED_BUGS.join(', ')}
  --trace LINES  lines of the trace shown with a failure   (40)
  --no-shrink    shows failures as they were found
  --zookeeper    the metadata are in ZooKeeper instead of SQLite
`
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
      zookeeper: { type: 'boolean', default: false },
    },
  })
  const seeds = Number(values.seeds ?? (values.seed === undefined ? 1_000 : 1))
  const bug = [...PLANTED_BUGS, ...ZK_PLANTED_BUGS].find((name) => name === values.bug) ?? null
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
    zookeeper: values.zookeeper,
    jobs: Math.max(1, Math.min(Number(values.jobs ?? availableParallelism()), seeds)),
  }
}

async function main(): Promise<void> {
  const given = jobGiven()
  if (given !== null) {
    // Nobody would hear of what it finds.
    process.on('disconnect', () => process.exit(1))
    process.channel?.unref()
    process.send?.(await runJob(given))
    return
  }
  const job = jobOf(process.argv.slice(2))
  const startedMs = performance.now()
  const total = await runJobs(job, job.jobs)
  const { seeds, violations, faults, works, deaths, ...sums } = total
  const seconds = (performance.now() - startedMs) / 1_000
  process.stdout.write(`${seconds.toFixed(1)} s; ${JSON.stringify(sums)}\n`)
  process.stdout.write(`works ${JSON.stringify(works)}\n`)
  process.stdout.write(`deaths ${JSON.stringify(deaths)}\n`)
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
