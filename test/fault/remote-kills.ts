import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { closeSync, openSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import process from 'node:process'
import { setTimeout as sleep } from 'node:timers/promises'
import { type Log, openArchive, openLog, planRestore, restoreArchive } from 'stratalog'
import { silentLogger } from '../../src/system/logger.js'
import { ONLY } from '../helpers/call-faults.js'
import { FaultProxy, type Moment, type PassedRequest } from '../helpers/fault-proxy.js'
import { type Acknowledged, acknowledgedIn, attemptPayload, witness } from '../helpers/witness.js'
import {
  REMOTE_OPTIONS,
  REMOTE_SCENARIOS,
  type RemotePlan,
  type RemoteScenarioName,
} from './remote-worker.js'

/*
 * SIGKILL of a process at a request to its archive: a proxy in front of the server kills the process when the request
 * comes, when the server has carried it out, or when its answer is back. Every step of tiering begins, ends or waits at
 * one of them, so that together they are every step, before and after.
 */

/** Above those of the workers. */
const LAST_ATTEMPT = 9_000_000
/** A worker that is not killed and does not end. */
const LIFE_MS_MAX = 120_000
const RETURNED_MS = 4

type ArchiveOptions = RemotePlan['archive']

/** Where archives of these tests are. */
export interface RemotePlace {
  /** Of the server, for the proxy. */
  readonly url: string
  /** How a log reaches the archive of that name through a proxy. */
  readonly archive: (name: string, proxyUrl: string) => ArchiveOptions & { readonly archive: string }
  /** What a request is for, without what differs from run to run. */
  readonly kindOf: (request: PassedRequest) => string
}

/** One moment of one request, counted among those of its kind. */
export interface KillCase {
  readonly scenario: RemoteScenarioName
  readonly moment: Moment
  readonly kind: string
  readonly nth: number
}

export interface KillRunOptions {
  readonly place: RemotePlace
  readonly root: string
  /** In (0, 1). */
  readonly random: () => number
}

/** Lives of workers that are killed at requests, and what is left after each. */
export class RemoteKills {
  readonly #options: KillRunOptions
  #runs = 0

  constructor(options: KillRunOptions) {
    this.#options = options
  }

  /** Every moment of every request of a life that nobody ends. */
  async casesOf(scenario: RemoteScenarioName): Promise<KillCase[]> {
    const cases: KillCase[] = []
    const seen = new Map<string, number>()
    await this.#live(scenario, null, async ({ requests, said, killed }) => {
      assert.ok(!killed)
      assert.match(said, /^D$/m, said)
      assert.doesNotMatch(said, /^[EX] /m, said)
      for (const request of requests) {
        const kind = this.#options.place.kindOf(request)
        const nth = (seen.get(kind) ?? 0) + 1
        seen.set(kind, nth)
        for (const moment of ['arrived', 'answered', 'returned'] as const)
          cases.push({ scenario, moment, kind, nth })
      }
    })
    return cases
  }

  /** One of each kind of request before a second of any. */
  sampleOf(cases: readonly KillCase[], count: number): KillCase[] {
    const seen = new Map<string, number>()
    return cases
      .map((one) => ({ one, at: this.#options.random() }))
      .sort((x, y) => x.at - y.at)
      .map(({ one }) => {
        const before = seen.get(one.kind) ?? 0
        seen.set(one.kind, before + 1)
        return { one, before }
      })
      .sort((x, y) => x.before - y.before)
      .slice(0, count)
      .map(({ one }) => one)
  }

  /** Kills at each of them and judges what is left; all failures are told. Returns how many kills met their request. */
  async runAll(cases: readonly KillCase[]): Promise<number> {
    const left = [...cases]
    const failures: string[] = []
    let met = 0
    const lane = async () => {
      for (let one = left.shift(); one !== undefined; one = left.shift()) {
        try {
          if (await this.#run(one)) met += 1
        } catch (error) {
          failures.push(`${nameOf(one)}\n${error instanceof Error ? error.stack : error}`)
        }
      }
    }
    await Promise.all(Array.from({ length: Math.min(2, availableParallelism()) }, lane))
    if (failures.length > 0)
      assert.fail(`${failures.length} of ${cases.length} failed:\n\n${failures.join('\n\n')}`)
    return met
  }

  async #run(one: KillCase): Promise<boolean> {
    return this.#live(one.scenario, one, async ({ directory, said, killed, archive }) => {
      assert.doesNotMatch(said, /^X /m, said)
      // Invariant 12: half of the time the index is lost with the process.
      const lots = createHash('sha256').update(nameOf(one)).digest()
      if (lots.readUInt8(0) % 2 === 0) loseIndex(directory)
      const acknowledged = acknowledgedIn(said)
      await checkRest(directory, archive, acknowledged, REMOTE_SCENARIOS[one.scenario].ended)
      return killed
    })
  }

  async #live<T>(
    scenario: RemoteScenarioName,
    kill: KillCase | null,
    judge: (life: Life) => Promise<T>,
  ): Promise<T> {
    this.#runs += 1
    const { place, root } = this.#options
    const name = `${scenario}-${this.#runs}`
    const directory = join(root, name)
    const proxy = await FaultProxy.start(place.url)
    try {
      const archive = place.archive(name, proxy.url)
      const output = openSync(`${directory}.said`, 'w')
      const script = join(import.meta.dirname, 'remote-worker.js')
      const plan: RemotePlan = { directory, scenario, archive }
      const worker = spawn(process.execPath, ['--no-warnings', script, JSON.stringify(plan)], {
        stdio: ['ignore', output, 'inherit'],
      })
      closeSync(output)
      const killed = await lifeOf(worker, proxy, kill, place.kindOf)
      proxy.watch = null
      const said = readFileSync(`${directory}.said`, 'utf8')
      return await judge({ directory, archive, said, killed, requests: [...proxy.requests] })
    } finally {
      await proxy.close()
      rmSync(directory, { recursive: true, force: true })
    }
  }
}

interface Life {
  readonly directory: string
  readonly archive: ArchiveOptions & { readonly archive: string }
  readonly said: string
  readonly killed: boolean
  readonly requests: readonly PassedRequest[]
}

export function nameOf({ scenario, moment, kind, nth }: KillCase): string {
  return `${scenario}: ${kind} ${nth} ${moment}`
}

/** Whether it met the request at which it is to be killed. */
async function lifeOf(
  worker: ChildProcess,
  proxy: FaultProxy,
  kill: KillCase | null,
  kindOf: (request: PassedRequest) => string,
): Promise<boolean> {
  const exited = once(worker, 'exit')
  let victim: PassedRequest | null = null
  let seen = 0
  let met = false
  proxy.watch = async (moment, request) => {
    if (kill === null || met) return
    if (moment === 'arrived' && victim === null && kindOf(request) === kill.kind) {
      seen += 1
      if (seen === kill.nth) victim = request
    }
    if (request !== victim || moment !== kill.moment) return
    met = true
    // What comes after an answer takes some time: where in it the process dies is chance.
    if (moment === 'returned') await sleep(Math.random() * RETURNED_MS)
    worker.kill('SIGKILL')
    await exited
  }
  const abort = new AbortController()
  const late = sleep(LIFE_MS_MAX, 'late', { signal: abort.signal }).catch(() => 'ended')
  try {
    const how = await Promise.race([exited, late])
    assert.notEqual(how, 'late', `a worker did not end in ${LIFE_MS_MAX} ms`)
  } finally {
    abort.abort()
    worker.kill('SIGKILL')
    await exited
  }
  return met
}

function loseIndex(directory: string): void {
  for (const file of directoryOf(directory)) if (file.startsWith('index.db')) rmSync(join(directory, file))
}

/** Nothing where it died before it made one. */
function directoryOf(directory: string): string[] {
  try {
    return readdirSync(directory)
  } catch {
    return []
  }
}

/** Opens the log without faults, goes on until it rests, and compares everything with what was acknowledged. */
export async function checkRest(
  directory: string,
  archive: ArchiveOptions & { readonly archive: string },
  acknowledged: readonly Acknowledged[],
  ended: ReadonlySet<string>,
): Promise<void> {
  const log = await openLog(directory, { ...REMOTE_OPTIONS, ...archive, system: { logger: silentLogger() } })
  try {
    await witness(log, acknowledged, ended)
    await log.stream('a').append(attemptPayload('a', LAST_ATTEMPT, 100))
    await settle(log)
    await witness(log, acknowledged, ended)
  } finally {
    await log.close()
  }
  await checkRestored(`${directory}-restored`, archive, acknowledged, ended)
}

/** Everything archived, once; index, stores and archive agree in every byte (invariants 4, 5, 6 and 9). */
export async function settle(log: Log): Promise<void> {
  for await (const { name } of log.streams.list()) await log.stream(name).seal()
  assert.deepEqual((await log.tier.run()).failed, [])
  for await (const part of log.archive.collect({ graceMs: 0 })) {
    if (part.type === 'orphan') assert.equal(part.orphan.outcome, 'deleted', part.orphan.why)
  }
  for await (const part of log.archive.verify({ deep: true })) {
    if (part.type === 'finding') assert.fail(`${part.finding.problem}: ${part.finding.text}`)
    if (part.type === 'end') assert.equal(part.tally.extra, 0, 'objects that nobody refers to')
  }
  for await (const part of log.fsck({ deep: true })) {
    // A ledger that a crash left without a row waits for its time, and costs some space until then.
    if (part.type === 'finding') assert.equal(part.finding.severity, 'waste', part.finding.text)
  }
  const objects = new Map<string, string>()
  for await (const { parsed, key, committed } of log.archive.objects()) {
    const segment = `${parsed.incarnation} ${parsed.segment}`
    assert.ok(!objects.has(segment), `${key} is the second object of its segment`)
    assert.equal(committed, true, `${key} is no row's`)
    objects.set(segment, key)
  }
  for await (const { name } of log.streams.list()) {
    for await (const row of log.segments(name)) {
      if (row.state === 'trimmed' || row.state === 'gap' || row.state === 'open') continue
      assert.ok(objects.has(`${row.incarnation} ${row.segment}`), `${name} ${row.segment} is ${row.state}`)
    }
  }
}

/** Invariant 7: the archive alone has all of it, and says so with one digest. */
async function checkRestored(
  directory: string,
  options: ArchiveOptions & { readonly archive: string },
  acknowledged: readonly Acknowledged[],
  ended: ReadonlySet<string>,
): Promise<void> {
  const system = { logger: silentLogger() }
  const { archive: location, ...settings } = options
  const archive = await openArchive(location, system, settings)
  try {
    const log = await openLog(directory, { ...REMOTE_OPTIONS, archive: 'none', system })
    try {
      const plan = await planRestore(archive)
      const report = await restoreArchive(log, archive, plan, { strict: true })
      assert.equal(report.digest, plan.digest, 'the digest that the names of the archive say')
      assert.equal((await planRestore(archive)).digest, plan.digest)
      await witness(log, acknowledged, ended)
    } finally {
      await log.close()
    }
  } finally {
    await archive.close()
    rmSync(directory, { recursive: true, force: true })
  }
}

/** What an object of an archive is for, without what differs from run to run. */
export function kindOfKey(path: string): string {
  const control = /\/c[0-9a-v]{13}-([a-z]+)-/.exec(path)?.[1]
  if (control !== undefined) return control
  if (/\/s[0-9a-v]{13}-/.test(path)) return 'segment'
  const own = [
    '.tmp',
    '.stratalog-probe',
    '.stratalog-claims',
    '.stratalog-archive',
    'stratalog-archive.json',
  ]
  return own.find((name) => path.includes(name)) ?? 'directory'
}

/** A sample, or all with TEST_FULL=1; TEST_CASES for more of them, TEST_ONLY for those whose name fits. */
export function chosenOf(runs: RemoteKills, cases: readonly KillCase[], count: number): readonly KillCase[] {
  const fits = new RegExp(ONLY)
  const wanted = cases.filter((one) => fits.test(nameOf(one)))
  if (process.env.TEST_FULL === '1' || ONLY !== '') return wanted
  return runs.sampleOf(wanted, Number(process.env.TEST_CASES ?? count))
}
