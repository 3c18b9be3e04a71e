import { writeSync } from 'node:fs'
import process from 'node:process'
import { Dlsn, isStratalogError, type Log, type OpenOptions, openLog } from 'stratalog'
import { silentLogger } from '../../src/system/logger.js'
import { type Acknowledged, acknowledgedLine, attemptPayload } from '../helpers/witness.js'
import { WORKER_OPTIONS } from './scenarios.js'

/*
 * A small application with its archive on a real server, which is killed at a request. It says on stdout, a line each,
 * what has happened:
 *
 *   A …               an append was acknowledged (test/helpers/witness.ts)
 *   S what            a step is done
 *   E code message    a step failed with a named error, and it goes on
 *   D                 it is at its end
 *   X text            it failed in a way that no application should see
 */

/** What is killed at each of its requests. */
export type RemoteScenarioName = 'tier' | 'large'

/** What a worker is told, as JSON in its first argument. */
export interface RemotePlan {
  readonly directory: string
  readonly scenario: RemoteScenarioName
  /** Where its archive is and how it is reached. */
  readonly archive: Pick<OpenOptions, 'archive' | 's3' | 'hdfs'>
}

/** What a log with a remote archive does until it is killed. */
export interface RemoteScenario {
  /** Streams of which history is ended on purpose. */
  readonly ended: ReadonlySet<string>
  readonly act: (app: RemoteApp) => Promise<void>
}

/** Small segments, and nothing hot for longer than it takes to be verified. */
export const REMOTE_OPTIONS: OpenOptions = {
  ...WORKER_OPTIONS,
  defaults: { ...WORKER_OPTIONS.defaults, roll: { size: '16 KiB' } },
}

const LARGE_BYTES = 900_000

/** What they do, and what of it was to end. */
export const REMOTE_SCENARIOS: Readonly<Record<RemoteScenarioName, RemoteScenario>> = {
  // Seal, copy, verify, commit, evict; then the history of one stream is ended and the other comes back for a time.
  tier: {
    ended: new Set(['a']),
    act: async (app) => {
      await app.append('a', 8, 6_000)
      await app.append('b', 4, 6_000)
      await app.seal('a', 'b')
      await app.tier()
      await app.append('a', 4, 6_000)
      await app.seal('a')
      const [two, three] = [new Dlsn(2n, 0n, 0n), new Dlsn(3n, 0n, 0n)]
      await app.step('hold', () =>
        app.log.stream('b').hold({ id: 'audit', from: new Dlsn(1n, 0n, 0n), until: two }),
      )
      await app.step('trim', () => app.log.stream('a').trim({ before: three }))
      await app.tier()
      await app.step('recall', () => app.log.stream('b').recall({}, { for: '1h' }))
      await app.step('release', () => app.log.stream('b').release('audit'))
      await app.step('gc', async () => {
        for await (const _ of app.log.archive.collect({ graceMs: 0 }));
      })
    },
  },
  // One object that takes several requests: parts of S3, blocks of HDFS.
  large: {
    ended: new Set<string>(),
    act: async (app) => {
      await app.step('create', () => app.log.streams.create('a'))
      await app.step('policy', () => app.log.stream('a').setPolicy({ roll: { size: '32 MiB' } }))
      await app.append('a', 14, LARGE_BYTES)
      await app.seal('a')
      await app.tier()
    },
  },
}

const say = (line: string) => writeSync(1, `${line}\n`)

class RemoteApp {
  readonly log: Log
  #attempt = 0

  constructor(log: Log) {
    this.log = log
  }

  /** One after the other, so that what is acknowledged is the beginning of what was appended. */
  async append(stream: string, count: number, bytes: number): Promise<void> {
    for (let i = 0; i < count; i += 1) {
      const attempt = this.#attempt
      this.#attempt += 1
      await this.step('append', async () => {
        const ack = await this.log.stream(stream).append(attemptPayload(stream, attempt, bytes))
        const told: Acknowledged = {
          stream,
          attempt,
          sequenceId: ack.sequenceId,
          dlsn: ack.dlsn.toString(),
        }
        say(acknowledgedLine(told))
      })
    }
  }

  async seal(...streams: string[]): Promise<void> {
    for (const name of streams) await this.step('seal', () => this.log.stream(name).seal())
  }

  async tier(): Promise<void> {
    await this.step('tier', async () => {
      const { failed } = await this.log.tier.run()
      for (const { kind, error } of failed) say(`E tier ${kind}: ${error.replaceAll('\n', ' ')}`)
    })
  }

  async step(what: string, work: () => Promise<unknown>): Promise<void> {
    try {
      await work()
      if (what !== 'append') say(`S ${what}`)
    } catch (error) {
      if (!isStratalogError(error) || error.code === 'internal') throw error
      say(`E ${error.code} ${what}: ${error.message.replaceAll('\n', ' ')}`)
    }
  }
}

async function main({ directory, scenario, archive }: RemotePlan): Promise<void> {
  const log = await openLog(directory, { ...REMOTE_OPTIONS, ...archive, system: { logger: silentLogger() } })
  await REMOTE_SCENARIOS[scenario].act(new RemoteApp(log))
  await log.close()
  say('D')
}

if (process.argv[1]?.endsWith('remote-worker.js')) {
  main(JSON.parse(process.argv[2] ?? '{}') as RemotePlan).catch((error: unknown) => {
    say(
      `X ${(error instanceof Error ? (error.stack ?? error.message) : String(error)).replaceAll('\n', ' ')}`,
    )
    process.exit(4)
  })
}
