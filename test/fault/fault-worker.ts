import { readlink, writeSync } from 'node:fs'
import { basename } from 'node:path'
import process from 'node:process'
import { createInterface } from 'node:readline'
import { isStratalogError, type Log, openLog } from 'stratalog'
import { directoryArchive } from '../../archive/directory/store.js'
import type { Disk } from '../../src/ports/disk.js'
import { realDisk } from '../../src/system/disk.js'
import { silentLogger } from '../../src/system/logger.js'
import { type ArchiveFaults, faultyArchive } from '../helpers/faulty-archive.js'
import { replaceToTheEnd } from '../helpers/replace-store.js'
import { methodsOf } from '../helpers/store.js'
import {
  type Acknowledged,
  acknowledgedIn,
  acknowledgedLine,
  attemptPayload,
  witness,
} from '../helpers/witness.js'
import { type App, SCENARIOS, WORKER_OPTIONS } from './scenarios.js'
import { DENIED, HISTORY, TIERING_SCENARIOS } from './tiering-scenarios.js'

/*
 * A small application that faults are injected into from outside. It says on stdout, a line each, what has happened:
 *
 *   T main pool       the threads that make its system calls; then it waits for a line on stdin
 *   A …               an append was acknowledged (test/helpers/witness.ts)
 *   S what            a step of the scenario is done
 *   E code message    an append, a seal or a tiering pass failed with a named error, and it goes on
 *   D                 the scenario is at its end; then it waits for a line on stdin
 *   P attempts        it appends again, after so many attempts
 *   W records         everything acknowledged was read back in this process
 *   F code message    it could not go on, for a named reason
 *   X text            it failed in a way that no application should see
 */

/** How often and how long the worker tries to append again after its scenario. */
const PROBES_MAX = 40
const PROBE_PAUSE_MS = 100

const say = (line: string) => writeSync(1, `${line}\n`)

/** What a worker is told, as JSON in its first argument. */
export interface WorkerPlan {
  readonly directory: string
  /** Name of a scenario, or `stream`: append until killed. */
  readonly scenario: string
  /** First attempt of this worker; attempts of one log only go up. */
  readonly firstAttempt: number
  /** What was said of acknowledgements before. */
  readonly acknowledged: string
  /** Ends with `close()`, not with `exit()`. */
  readonly closes: boolean
  /** Syncs of frames are claimed and not made: a negative control. */
  readonly lies: boolean
}

class Application implements App {
  readonly log: Log
  readonly archiveFaults: ArchiveFaults
  readonly acknowledged: Acknowledged[] = []
  #attempt: number

  constructor(log: Log, archiveFaults: ArchiveFaults, firstAttempt: number) {
    this.log = log
    this.archiveFaults = archiveFaults
    this.#attempt = firstAttempt
  }

  get directory(): string {
    return this.log.directory
  }

  async append(stream: string, count: number, bytes: number): Promise<void> {
    for (let i = 0; i < count; i += 1) await this.step(() => this.appendOne(stream, bytes))
  }

  async appendOne(stream: string, bytes: number): Promise<void> {
    const attempt = this.#attempt
    this.#attempt += 1
    const ack = await this.log.stream(stream).append(attemptPayload(stream, attempt, bytes))
    const acknowledged = { stream, attempt, sequenceId: ack.sequenceId, dlsn: ack.dlsn.toString() }
    this.acknowledged.push(acknowledged)
    say(acknowledgedLine(acknowledged))
  }

  async step(work: () => Promise<unknown>, what?: string): Promise<void> {
    try {
      await work()
      if (what !== undefined) say(`S ${what}`)
    } catch (error) {
      if (!isStratalogError(error) || error.code === 'internal') throw error
      say(`E ${error.code} ${oneLine(error.message)}`)
    }
  }

  /** A pass of the agent; what it could not do is in its report. */
  async tier(): Promise<void> {
    await this.step(async () => {
      const { failed } = await this.log.tier.run()
      for (const { kind, error } of failed) say(`E tier ${kind}: ${oneLine(error)}`)
    })
  }

  /** What fails of it is told, and gone on with: that is what the command says to do. */
  async replace(store: string): Promise<void> {
    const told = (problem: string) => say(`E store ${oneLine(problem)}`)
    await replaceToTheEnd(this.log, store, told)
  }

  /** Appends until it works again. */
  async probe(): Promise<void> {
    for (let attempts = 1; ; attempts += 1) {
      try {
        await this.appendOne('a', 100)
        say(`P ${attempts}`)
        return
      } catch (error) {
        if (!isStratalogError(error) || error.code === 'internal' || attempts === PROBES_MAX) throw error
        await new Promise((resolve) => setTimeout(resolve, PROBE_PAUSE_MS))
      }
    }
  }
}

/** A disk that says of a sync of frames that it is done, and does nothing. */
function lyingDisk(): Disk {
  const base = realDisk()
  return {
    ...methodsOf(base),
    open: async (path, mode) => {
      const file = await base.open(path, mode)
      if (basename(path).startsWith('log-')) file.dataSync = async () => undefined
      return file
    },
  }
}

/** A disk that says so much is left on it. */
function roomyDisk(base: Disk, freeBytes: number): Disk {
  const space = async (path: string) => ({
    ...(await base.space(path)),
    freeBytes,
    totalBytes: 50 * freeBytes,
  })
  return { ...methodsOf(base), space }
}

async function main(plan: WorkerPlan): Promise<void> {
  const scenario = { ...SCENARIOS, ...TIERING_SCENARIOS, history: HISTORY, denied: DENIED }[plan.scenario]
  const archiveFaults: ArchiveFaults = {}
  const disk = plan.lies ? lyingDisk() : realDisk()
  const { freeBytes } = scenario ?? {}
  const open = () =>
    openLog(plan.directory, {
      ...WORKER_OPTIONS,
      archive: faultyArchive(directoryArchive(`${plan.directory}/archive`), archiveFaults),
      ...scenario?.options,
      system: {
        logger: silentLogger(),
        disk: freeBytes === undefined ? disk : roomyDisk(disk, freeBytes),
      },
    })
  const begin = async () => new Application(await open(), archiveFaults, plan.firstAttempt)
  const opened = scenario?.opens ? null : await begin()
  if (opened !== null) await scenario?.prepare?.(opened)
  const input = lines()
  await sayThreads()
  await input.next()
  const app = opened ?? (await begin())
  if (scenario === undefined) return appendForEver(app)
  await scenario.act(app)
  say('D')
  await input.next()
  if (plan.scenario !== 'close') {
    await app.probe()
    const before = acknowledgedIn(plan.acknowledged)
    say(`W ${await witness(app.log, [...before, ...app.acknowledged], scenario.ended)}`)
  }
  if (plan.closes) await app.step(() => app.log.close())
  process.exit(0)
}

/** Two streams that append and roll as fast as they can. */
async function appendForEver(app: Application): Promise<void> {
  for (let turn = 1; ; turn += 1) {
    await Promise.all([app.appendOne('a', 300), app.appendOne('b', 5_000)])
    if (turn % 40 === 0) await app.log.stream('a').seal()
    if (turn % 100 === 0) await app.tier()
    // The disk is small: what is freed must keep up with what is appended.
    await new Promise((resolve) => setTimeout(resolve, 2))
  }
}

async function* lines(): AsyncGenerator<string, void, undefined> {
  yield* createInterface({ input: process.stdin })
}

/** With one thread in the pool, it and the main thread make every call. */
function sayThreads(): Promise<void> {
  return new Promise((resolve, reject) => {
    readlink('/proc/thread-self', (error, link) => {
      if (error) return reject(error)
      say(`T ${process.pid} ${link.split('/').at(-1)}`)
      resolve()
    })
  })
}

function oneLine(text: string): string {
  return text.replaceAll('\n', ' ')
}

if (process.argv[1]?.endsWith('fault-worker.js')) {
  main(JSON.parse(process.argv[2] ?? '{}') as WorkerPlan).catch((error: unknown) => {
    const named = isStratalogError(error) && error.code !== 'internal'
    say(
      named
        ? `F ${error.code} ${oneLine(error.message)}`
        : `X ${oneLine(error instanceof Error ? (error.stack ?? error.message) : String(error))}`,
    )
    process.exit(named ? 0 : 4)
  })
}
