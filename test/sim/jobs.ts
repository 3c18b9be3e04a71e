import { type ChildProcess, fork } from 'node:child_process'
import { join } from 'node:path'
import process from 'node:process'
import { optionsOf, type PlantedBug, zooKeeperOptionsOf } from './options.js'
import { count, describe, emptyTally, merge, type Tally } from './report.js'
import { shrink } from './shrink.js'
import { simulate } from './world.js'

/** Failures that are shown in full; more of them are counted. */
const SHOWN_MAX = 5
/** Where a process of the simulator finds its job. */
const VARIABLE = 'STRATALOG_SIM'

/** Runs for one process. */
export interface Job {
  readonly seed: number
  readonly seeds: number
  /** Takes every `step`-th seed. */
  readonly step: number
  readonly bug: PlantedBug | null
  readonly trace: number
  readonly shrink: boolean
  /** The world with ZooKeeper. */
  readonly zookeeper?: boolean
}

/** The job of this process if it is one of several; null: it is the first. */
export function jobGiven(): Job | null {
  const given = process.env[VARIABLE]
  return given === undefined ? null : (JSON.parse(given) as Job)
}

/** Runs a job in this process; failures are printed. */
export async function runJob(job: Job): Promise<Tally> {
  const tally = emptyTally()
  for (let seed = job.seed; seed < job.seed + job.seeds; seed += job.step) {
    const result = await simulate((job.zookeeper === true ? zooKeeperOptionsOf : optionsOf)(seed, job.bug))
    count(tally, result)
    if (result.violations.length === 0 || tally.violations > SHOWN_MAX) continue
    process.stdout.write(`${describe(result, job.trace)}\n`)
    if (job.shrink) process.stdout.write(`shrunk: ${describe(await shrink(result), job.trace)}\n`)
  }
  return tally
}

/** Shares a job out among processes. */
export async function runJobs(job: Job, processes: number): Promise<Tally> {
  const parts =
    processes === 1
      ? [runJob(job)]
      : Array.from({ length: processes }, (_, i) =>
          inChild({ ...job, seed: job.seed + i, seeds: job.seeds - i, step: processes }),
        )
  const total = emptyTally()
  for (const tally of await Promise.all(parts)) merge(total, tally)
  return total
}

function inChild(job: Job): Promise<Tally> {
  return new Promise((resolve, reject) => {
    const child: ChildProcess = fork(join(import.meta.dirname, 'main.js'), {
      env: { ...process.env, [VARIABLE]: JSON.stringify(job) },
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
