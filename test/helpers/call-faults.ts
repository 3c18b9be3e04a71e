import assert from 'node:assert/strict'
import { cpSync, rmSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import process from 'node:process'
import type { WorkerPlan } from '../fault/fault-worker.js'
import type { Scenario } from '../fault/scenarios.js'
import { FaultWorker } from './fault-run.js'
import { Strace, type SystemCall } from './strace.js'

/*
 * Faults at the system calls of a worker: which calls a scenario makes is found out by a run without faults; each of
 * them is then a case for each fault that fits. docs/faults.md says how to run all of them and how to replay one.
 */

export const SEED: number = Number(process.env.TEST_SEED ?? Date.now() % 1_000_000)
const FULL = process.env.TEST_FULL === '1'
/** Only cases whose name fits this regular expression. */
export const ONLY: string = process.env.TEST_ONLY ?? ''
/** Above every attempt of a template. */
const FIRST_ATTEMPT = 1_000_000
/** How often a case is run until its fault meets a call. */
const TRIES_MAX = 6

type Thread = 'main' | 'pool'
export type FaultKind = 'error' | 'lie' | 'kill'

/** One call of one scenario, and what becomes of it. */
export interface Case {
  readonly name: string
  readonly scenario: string
  readonly kind: FaultKind
  readonly thread: Thread
  /** What strace is told. */
  readonly inject: string
}

const SYNCS = ['fdatasync', 'fsync']
const WRITES = ['pwrite64', 'pwritev']
/** What a lying disk does to the index is SQLite's to say; the copies and the archive are ours. */
export const MAY_LIE: RegExp = /^(stores|archive)\//

/** What can become of a call. */
function faultsOf(call: SystemCall, bytes: number, killsReads: boolean): { kind: FaultKind; what: string }[] {
  const errors = SYNCS.includes(call.name) ? ['EIO'] : ['EIO', 'ENOSPC']
  const faults: { kind: FaultKind; what: string }[] = []
  const changes = !call.name.startsWith('pread') && (call.name !== 'openat' || call.line.includes('O_CREAT'))
  const wanted = changes ? errors : ['EIO']
  for (const error of wanted) faults.push({ kind: 'error', what: `error=${error}` })
  // A return value that is made up means that nothing is written: all of it, or its beginning.
  if (WRITES.includes(call.name) && bytes > 1) {
    faults.push({ kind: 'lie', what: `retval=${bytes}` }, { kind: 'lie', what: `retval=${bytes >> 1}` })
  }
  if (changes || killsReads) faults.push({ kind: 'kill', what: 'signal=SIGKILL' })
  return faults
}

/** What came of a case. */
export interface Outcome {
  /** The call the fault met, or null: this run took another way and did not make it. */
  readonly hit: SystemCall | null
  readonly said: string
  readonly directory: string
}

/** What faults are injected into, and where. */
export interface CallFaultsOptions {
  readonly root: string
  readonly scenarios: Readonly<Record<string, Scenario>>
  /** Cases of each kind of fault and scenario, unless all are run. */
  readonly sample: number
  /** Whether the process is killed where it only reads, too. */
  readonly killsReads: boolean
}

/** Runs of workers on copies of one log, each with one fault. */
export class CallFaults {
  /** The log that every case begins with. */
  readonly template: string
  /** What was acknowledged in it. */
  acknowledgedBefore = ''
  readonly #options: CallFaultsOptions
  #runs = 0

  constructor(options: CallFaultsOptions) {
    this.#options = options
    this.template = join(options.root, 'template')
  }

  /** Adds to the template what a scenario does, and ends it by closing it or by a kill. */
  async prepare(scenario: string, ends: 'closed' | 'killed', firstAttempt = 0): Promise<void> {
    const worker = new FaultWorker(join(this.#options.root, scenario), {
      ...this.#planOf(this.template, scenario),
      firstAttempt,
      closes: true,
    })
    worker.goOn()
    if (ends === 'closed') {
      worker.goOn()
      assert.deepEqual(await worker.exited(), [0, null], worker.said + worker.complaints)
    } else {
      await worker.waitFor('D')
      await worker.kill()
    }
    this.acknowledgedBefore += worker.said
  }

  /** Every case of a scenario: what its calls are is found out by a run without faults. */
  async casesOf(scenario: string): Promise<Case[]> {
    const { worker, base, directory, threads } = await this.#begin(scenario)
    const strace = await Strace.attach([threads.main, threads.pool], `${base}.trace`, null)
    worker.goOn()
    await worker.waitFor('D')
    const calls = (await strace.detach(null)).filter(({ path }) => path.startsWith(directory))
    worker.goOn()
    assert.deepEqual(await worker.exited(), [0, null], worker.said + worker.complaints)
    rmSync(directory, { recursive: true })
    return calls.flatMap((call) => {
      const thread = call.thread === threads.main ? 'main' : 'pool'
      const place = call.path.slice(directory.length + 1)
      return faultsOf(call, call.result, this.#options.killsReads)
        .filter(({ kind }) => kind !== 'lie' || MAY_LIE.test(place))
        .map(({ kind, what }) => ({
          name: `${scenario}: ${call.name} ${call.number} of ${thread} (${place}): ${what}`,
          scenario,
          kind,
          thread,
          inject: `${call.name}:${what}:when=${call.number}`,
        }))
    })
  }

  /** Those of the cases that are run. */
  sampleOf(cases: readonly Case[], random: () => number): Case[] {
    const wanted = cases.filter(({ name }) => new RegExp(ONLY).test(name))
    if (FULL || ONLY !== '') return wanted
    // One of each sort first: or most of a sample would be the index's many small writes.
    const seen = new Map<string, number>()
    return wanted
      .map((one) => ({ one, key: random() }))
      .sort((x, y) => x.key - y.key)
      .map(({ one }) => {
        const sort = one.name.replaceAll(/[0-9a-f]{16}|\d+/g, '')
        const before = seen.get(sort) ?? 0
        seen.set(sort, before + 1)
        return { one, before }
      })
      .sort((x, y) => x.before - y.before)
      .slice(0, this.#options.sample)
      .map(({ one }) => one)
  }

  /** Runs cases and judges each outcome; fails with what was found of all of them. */
  async runAll(
    chosen: readonly Case[],
    judge: (one: Case, outcome: Outcome) => Promise<void>,
  ): Promise<void> {
    let fired = 0
    const failures: string[] = []
    await inLanes(chosen, async (one) => {
      try {
        // Calls differ from run to run, by how appends fall into groups: who misses his has more tries.
        for (let attempt = 0, hit = false; attempt < TRIES_MAX && !hit; attempt += 1) {
          const outcome = await this.#run(one)
          if (outcome === null) continue
          hit = outcome.hit !== null
          await judge(one, outcome)
          rmSync(outcome.directory, { recursive: true })
          if (hit) fired += 1
        }
      } catch (error) {
        const text = error instanceof Error ? (error.stack ?? error.message) : String(error)
        failures.push(text)
        // At once: running all of them takes long, and one may not want to wait for the end.
        console.error(text)
      }
    })
    assert.ok(
      failures.length === 0,
      `${failures.length} of ${chosen.length} cases failed:\n\n${failures.join('\n\n')}`,
    )
    // On a busy machine appends fall into other groups, and a sample may have four cases.
    assert.ok(fired >= chosen.length / 2, `${fired} of ${chosen.length} faults met their call`)
  }

  /** A worker on a log of its own, waiting for its first line. */
  async #begin(
    scenario: string,
  ): Promise<{ worker: FaultWorker; base: string; directory: string; threads: Record<Thread, number> }> {
    this.#runs += 1
    const base = join(this.#options.root, `run-${this.#runs}`)
    const directory = `${base}.log`
    cpSync(this.template, directory, { recursive: true })
    this.#options.scenarios[scenario]?.before?.(directory)
    const worker = new FaultWorker(base, this.#planOf(directory, scenario))
    const said = await worker.waitFor('T')
    assert.ok(said !== null, `the worker did not start: ${worker.said}${worker.complaints}`)
    const [mainThread = 0, pool = 0] = said.split(' ').map(Number)
    return { worker, base, directory, threads: { main: mainThread, pool } }
  }

  #planOf(directory: string, scenario: string): WorkerPlan {
    return {
      directory,
      scenario,
      firstAttempt: FIRST_ATTEMPT,
      acknowledged: this.acknowledgedBefore,
      closes: this.#runs % 2 === 0,
      lies: false,
    }
  }

  /** Runs one case to the end of its worker. Null: it met a call that this fault can't befall, and says nothing. */
  async #run({ scenario, kind, thread, inject, name }: Case): Promise<Outcome | null> {
    const { worker, base, directory, threads } = await this.#begin(scenario)
    try {
      const strace = await Strace.attach([threads[thread]], `${base}.trace`, inject)
      worker.goOn()
      await worker.waitFor('[DF]')
      const calls = await strace.detach(threads[thread])
      const met = kind === 'kill' ? /= \?$/ : /\(INJECTED\)$/
      const found = calls.find(({ line }) => met.test(line)) ?? null
      worker.goOn()
      const [code, signal] = await worker.exited()
      // Whatever it did: libuv went on behind its buffers, as far as it was told that they were written.
      if (found !== null && found.result > bytesAsked(found)) {
        rmSync(directory, { recursive: true })
        return null
      }
      // Of some calls strace does not tell how they ended: nobody else kills it.
      const hit = found ?? (kind === 'kill' && signal === 'SIGKILL' ? (calls.at(-1) ?? null) : null)
      const fine = kind === 'kill' && hit !== null ? signal === 'SIGKILL' : code === 0
      assert.ok(fine, `${name}\nended with ${code} ${signal}: ${tailOf(worker)}`)
      return { hit, said: worker.said, directory }
    } finally {
      await worker.kill()
    }
  }
}

/**
 * How much a call wanted to write: no system says that it wrote more, and strace says what it is told to. Calls that
 * come in another order than they did without faults are of other sizes.
 */
export function bytesAsked({ name, line }: Pick<SystemCall, 'name' | 'line'>): number {
  if (name === 'pwrite64') return Number(/^.*, (\d+), \d+\) += /.exec(line)?.[1] ?? 0)
  if (name !== 'pwritev') return Number.POSITIVE_INFINITY
  const pieces = [...line.matchAll(/iov_len=(\d+)/g)]
  return pieces.reduce((sum, [, bytes]) => sum + Number(bytes), 0)
}

function tailOf(worker: FaultWorker): string {
  return `${worker.said.slice(-2_000)}\n${worker.complaints.slice(-2_000)}`
}

/** Two at a time: most of a case is waiting. */
async function inLanes<T>(items: readonly T[], work: (item: T) => Promise<void>): Promise<void> {
  const queue = [...items]
  const lane = async () => {
    for (let item = queue.shift(); item !== undefined; item = queue.shift()) await work(item)
  }
  await Promise.all(Array.from({ length: Math.min(2, availableParallelism()) }, lane))
}
