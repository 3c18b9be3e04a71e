import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, openSync, readFileSync, rmSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import process from 'node:process'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { faultDirectory } from '../helpers/fault-run.js'
import { seededRandom } from '../helpers/seeded-random.js'
import type { KillPlan } from './kill-worker.js'

/** Invariants 1, 2 and 4: kill -9 at any moment, hundreds of times, loses nothing acknowledged. */

const ROUNDS = Number(process.env.TEST_KILLS ?? (process.env.CI ? 300 : 100))
const SEED = Number(process.env.TEST_SEED ?? Date.now() % 1_000_000)
/** A log dies so often; then another begins, or each life would take longer than the one before. */
const LIVES_OF_A_LOG = 50
/** Each life checks this much of the end of each stream; every tenth, and the last of a log, checks all of it. */
const CHECKED_AGAIN = 300n
const CHECKS_ALL_EVERY = 10

/** A log that is killed again and again, and what it had acknowledged. */
class Victim {
  readonly total = { lives: 0, opened: 0, acked: 0, read: 0 }
  readonly #directory: string
  readonly #random: () => number
  readonly #acked = new Map<string, bigint>()
  readonly #samples: string[] = []

  constructor(directory: string, random: () => number) {
    this.#directory = directory
    this.#random = random
  }

  /** One life: some die while they start and recover, some while they check, most at work. */
  async live(): Promise<void> {
    const all = this.total.lives % CHECKS_ALL_EVERY === 0
    const moment = this.#random()
    if (moment < 0.2) await this.#live(all, null, 100 + this.#random() * 400)
    else if (moment < 0.4) await this.#live(all, 'O', this.#random() * 50)
    else await this.#live(all, 'A', this.#random() * 150)
  }

  /** A life that checks everything there is. */
  async checkAll(): Promise<void> {
    const { opened } = this.total
    await this.#live(true, 'A', 100)
    assert.equal(this.total.opened, opened + 1, 'the last life opened the log')
  }

  /** Killed `killMs` after its start, or after it said what is waited for. */
  async #live(all: boolean, waitsFor: string | null, killMs: number): Promise<void> {
    // A file, not a pipe: what was written to it before the kill is there after it.
    const said = `${this.#directory}.said`
    const output = openSync(said, 'w')
    const script = join(import.meta.dirname, 'kill-worker.js')
    const worker = spawn(process.execPath, [script, JSON.stringify(this.#plan(all))], {
      stdio: ['ignore', output, 'inherit'],
    })
    closeSync(output)
    const exited = once(worker, 'exit')
    try {
      const saidIt = () =>
        waitsFor === null || new RegExp(`^${waitsFor}`, 'm').test(readFileSync(said, 'utf8'))
      for (let waitedMs = 0; waitedMs < 30_000 && worker.exitCode === null && !saidIt(); waitedMs += 10)
        await sleep(10)
      await Promise.race([sleep(killMs), exited])
    } finally {
      worker.kill('SIGKILL')
      await exited
    }
    this.#judge(readFileSync(said, 'utf8').split('\n'))
  }

  #plan(all: boolean): KillPlan {
    const from = [...this.#acked].map(([stream, last]) => {
      const recent = last > CHECKED_AGAIN ? last - CHECKED_AGAIN : 0n
      return [stream, (all ? 0n : recent).toString()]
    })
    return {
      directory: this.#directory,
      from: Object.fromEntries(from),
      known: this.#samples.splice(0, 6),
    }
  }

  #judge(lines: readonly string[]): void {
    this.total.lives += 1
    for (const line of lines) {
      const [kind, stream = '', number = '', dlsn = ''] = line.split(' ')
      if (kind === 'X') assert.fail(`${line} (seed ${SEED})`)
      if (kind === 'O') this.total.opened += 1
      if (kind === 'R') this.total.read += 1
      if (kind === 'V') {
        const least = (this.#acked.get(stream) ?? -1n) + 1n
        assert.ok(
          BigInt(number) >= least,
          `${stream} holds ${number} records and ${least} were acknowledged (seed ${SEED})`,
        )
      }
      if (kind === 'A') {
        this.total.acked += 1
        if (BigInt(number) > (this.#acked.get(stream) ?? -1n)) this.#acked.set(stream, BigInt(number))
        if (this.#random() < 0.01) this.#samples.push(`${stream} ${number} ${dlsn}`)
      }
    }
  }
}

test(`kill -9 ${ROUNDS} times while appending, tiering and reading loses nothing acknowledged (seed ${SEED})`, {
  timeout: 1_200_000,
}, async () => {
  const root = faultDirectory('kill')
  const random = seededRandom(SEED)
  const victims: Victim[] = []
  let left = ROUNDS
  // Two logs die side by side: a good part of a life is waiting.
  const lane = async () => {
    while (left > 0) {
      const directory = join(root, String(victims.length))
      const victim = new Victim(directory, random)
      victims.push(victim)
      for (let life = 0; life < LIVES_OF_A_LOG && left > 0; life += 1) {
        left -= 1
        await victim.live()
      }
      await victim.checkAll()
      rmSync(directory, { recursive: true })
    }
  }
  try {
    await Promise.all(Array.from({ length: Math.min(2, availableParallelism()) }, lane))
    const sum = (what: keyof Victim['total']) => victims.reduce((all, { total }) => all + total[what], 0)
    // Evidence that the test tests: it was killed at work, and there was work to lose.
    assert.ok(sum('opened') >= ROUNDS / 4, `only ${sum('opened')} of ${sum('lives')} lives opened the log`)
    assert.ok(sum('acked') > ROUNDS * 10, `only ${sum('acked')} records were acknowledged`)
    assert.ok(sum('read') > 0, 'no record of an earlier life was read back by its DLSN')
  } finally {
    rmSync(root, { recursive: true, force: true })
  }
})
