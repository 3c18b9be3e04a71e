import { readdirSync, readlink, rmSync, writeSync } from 'node:fs'
import { basename, join } from 'node:path'
import process from 'node:process'
import { createInterface } from 'node:readline'
import { isStratalogError, type Log, type OpenOptions, openLog } from 'stratalog'
import type { Disk } from '../../src/ports/disk.js'
import { realDisk } from '../../src/system/disk.js'
import { silentLogger } from '../../src/system/logger.js'
import { replaceToTheEnd } from '../helpers/replace-store.js'
import { methodsOf } from '../helpers/store.js'
import {
  type Acknowledged,
  acknowledgedIn,
  acknowledgedLine,
  attemptPayload,
  witness,
} from '../helpers/witness.js'

/*
 * A small application that faults are injected into from outside. It says on stdout, a line each, what has happened:
 *
 *   T main pool       the threads that make its system calls; then it waits for a line on stdin
 *   A …               an append was acknowledged (test/helpers/witness.ts)
 *   E code message    an append, a seal or a tiering pass failed with a named error, and it goes on
 *   D                 the scenario is at its end; then it waits for a line on stdin
 *   P attempts        it appends again, after so many attempts
 *   W records         everything acknowledged was read back in this process
 *   F code message    it could not go on, for a named reason
 *   X text            it failed in a way that no application should see
 */

/** What a scenario works with. */
export interface App {
  readonly log: Log
  append(stream: string, count: number, bytes: number): Promise<void>
  tier(): Promise<void>
  /** Puts a new store in the place of a lost one and copies to it what there was. */
  replace(store: string): Promise<void>
  /** A step that may fail with a named error. */
  step(work: () => Promise<unknown>): Promise<void>
}

export interface Scenario {
  /** Whether opening the log, which a killed process left, is part of what faults are injected into. */
  readonly opens: boolean
  /** What befell the log before its process begins. */
  readonly before?: (directory: string) => void
  /** The store that `before` took away, and that `act` begins to replace. */
  readonly lost?: string
  /** Every store that is left has to answer, so that a failure of one is told of. */
  readonly needsAll?: boolean
  readonly act: (app: App) => Promise<void>
}

/** What faults are injected into. A new path through the disk gets its faults by one more line here. */
export const SCENARIOS: Readonly<Record<string, Scenario>> = {
  append: { opens: false, act: (app) => app.append('a', 4, 2_000) },
  roll: {
    opens: false,
    act: async (app) => {
      for (let turn = 0; turn < 2; turn += 1) {
        await app.append('a', 1, 500)
        await app.step(() => app.log.stream('a').seal())
      }
      await app.append('b', 1, 500)
    },
  },
  tier: {
    opens: false,
    act: async (app) => {
      await app.append('a', 2, 3_000)
      await app.step(() => app.log.stream('a').seal())
      await app.tier()
      await app.append('a', 1, 500)
    },
  },
  // Fills files of the stores, frees them, and goes on in what was freed.
  reclaim: {
    opens: false,
    act: async (app) => {
      await app.append('a', 7, 900_000)
      await app.step(() => app.log.stream('a').seal())
      await app.tier()
      await app.append('b', 6, 900_000)
    },
  },
  // Of what fills the first file most dies and some lives: the stores copy that out of it, in the background.
  rewrite: {
    opens: false,
    act: async (app) => {
      for (let turn = 0; turn < 4; turn += 1) {
        await app.append('a', 1, 900_000)
        await app.append('b', 1, 500)
      }
      await app.append('b', 1, 900_000)
      await app.step(() => app.log.stream('a').seal())
      await app.tier()
      await app.append('b', 1, 500)
      await new Promise((resolve) => setTimeout(resolve, REWRITE_MS))
    },
  },
  rebuild: {
    opens: false,
    lost: 'stores/2',
    needsAll: true,
    before: (directory) => rmSync(join(directory, 'stores', '2'), { recursive: true }),
    act: async (app) => {
      await app.append('a', 1, 500)
      await app.replace('stores/2')
      await app.append('b', 1, 500)
    },
  },
  index: {
    opens: true,
    needsAll: true,
    before: (directory) => {
      const files = readdirSync(directory).filter((name) => name.startsWith('index.db'))
      for (const name of files) rmSync(join(directory, name))
    },
    act: (app) => app.append('a', 1, 500),
  },
  start: { opens: true, act: (app) => app.append('a', 1, 500) },
  close: {
    opens: false,
    act: async (app) => {
      await app.append('a', 1, 500)
      await app.step(() => app.log.close())
    },
  },
}

/** How the tests open the log of a worker: nothing happens on its own. */
export const WORKER_OPTIONS: OpenOptions = {
  config: 'none',
  control: 'off',
  tiering: 'off',
  storeFileBytes: 4 * 1024 * 1024,
  defaults: { hot: { for: '1ms' }, evict: { lag: 0 } },
}

/** By then what is to be rewritten is. */
const REWRITE_MS = 400
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
  readonly acknowledged: Acknowledged[] = []
  #attempt: number

  constructor(log: Log, firstAttempt: number) {
    this.log = log
    this.#attempt = firstAttempt
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

  async step(work: () => Promise<unknown>): Promise<void> {
    try {
      await work()
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

async function main(plan: WorkerPlan): Promise<void> {
  const scenario = SCENARIOS[plan.scenario]
  const open = () =>
    openLog(plan.directory, {
      ...WORKER_OPTIONS,
      archive: `${plan.directory}/archive`,
      system: { logger: silentLogger(), ...(plan.lies ? { disk: lyingDisk() } : {}) },
    })
  const opened = scenario?.opens ? null : await open()
  const input = lines()
  await sayThreads()
  await input.next()
  const app = new Application(opened ?? (await open()), plan.firstAttempt)
  if (scenario === undefined) return appendForEver(app)
  await scenario.act(app)
  say('D')
  await input.next()
  if (plan.scenario !== 'close') {
    await app.probe()
    const before = acknowledgedIn(plan.acknowledged)
    say(`W ${await witness(app.log, [...before, ...app.acknowledged])}`)
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
