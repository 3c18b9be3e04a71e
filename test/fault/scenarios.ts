import { readdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import type { Log, OpenOptions } from 'stratalog'
import type { ArchiveFaults } from '../helpers/faulty-archive.js'

/** What a scenario works with. */
export interface App {
  readonly log: Log
  readonly directory: string
  /** What goes wrong with the archive beside what is injected. */
  readonly archiveFaults: ArchiveFaults
  append(stream: string, count: number, bytes: number): Promise<void>
  tier(): Promise<void>
  /** Puts a new store in the place of a lost one and copies to it what there was. */
  replace(store: string): Promise<void>
  /** A step that may fail with a named error; says that `what` is done where it did not. */
  step(work: () => Promise<unknown>, what?: string): Promise<void>
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
  /** Streams of which history is ended or given up on purpose. */
  readonly ended?: ReadonlySet<string>
  /** Beside what every log of a worker is opened with. */
  readonly options?: OpenOptions
  /** What its disks say they have left. */
  readonly freeBytes?: number
  /** What is done before faults are injected. */
  readonly prepare?: (app: App) => Promise<void>
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
