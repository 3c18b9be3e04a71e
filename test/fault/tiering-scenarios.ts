import assert from 'node:assert/strict'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import {
  Dlsn,
  type Log,
  openArchive,
  openLog,
  planRestore,
  type RestoreReport,
  restoreArchive,
} from 'stratalog'
import { present } from '../../src/model/assert.js'
import { silentLogger } from '../../src/system/logger.js'
import { ArchivedLog, rowsOf } from '../helpers/archived-log.js'
import { outage } from '../helpers/faulty-archive.js'
import { type App, type Scenario, WORKER_OPTIONS } from './scenarios.js'

/** What tiering does, as faults meet it, and what has to be so once it was gone on with without any. */
export interface TieringScenario extends Scenario {
  /** Goes on where the fault left it, and checks what came of it; `said` is what the worker told. */
  readonly finish: (log: Log, said: string) => Promise<void>
}

/** Nothing but what is asked for: copies stay hot. */
const HOT = { ...WORKER_OPTIONS.defaults, hot: { for: '10 days' } } as const
const GIB = 2 ** 30
/** How often a restore that met a fault is run again by its worker. */
const RESTORES_MAX = 4

/** Streams `a` and `b` with three cold segments each: what every scenario begins with. */
export const HISTORY: Scenario = {
  opens: false,
  act: async (app) => {
    for (let turn = 0; turn < 3; turn += 1) {
      await sealed(app, 'a', 2)
      await sealed(app, 'b', 1)
    }
    await app.tier()
    await app.append('a', 1, 500)
  },
}

/** Its archive may not be written any more once this begins; it goes on once it may. */
export const DENIED: Scenario = {
  opens: false,
  prepare: async (app) => {
    await sealed(app, 'a', 2)
    await app.tier()
  },
  act: async (app) => {
    await sealed(app, 'a', 2)
    for (let pass = 0; pass < 3; pass += 1) await app.tier()
    await app.step(async () => undefined, 'denied')
    for (let pass = 0; pass < DENIED_PASSES_MAX; pass += 1) {
      const { failed, copied } = await app.log.tier.run()
      if (failed.length === 0 && copied > 0) return
      await new Promise((resolve) => setTimeout(resolve, 50))
    }
  },
}
const DENIED_PASSES_MAX = 400

async function sealed(app: App, stream: string, count: number): Promise<void> {
  await app.append(stream, count, 3_000)
  await app.step(() => app.log.stream(stream).seal())
}

/** What faults are injected into, beside HISTORY. A new step of tiering gets its faults by one more line here. */
export const TIERING_SCENARIOS: Readonly<Record<string, TieringScenario>> = {
  // Read, written, read back, committed.
  copy: {
    opens: false,
    options: { defaults: HOT },
    act: async (app) => {
      await sealed(app, 'a', 2)
      await app.tier()
    },
    finish: async () => undefined,
  },
  verify: {
    opens: false,
    options: { defaults: HOT },
    prepare: async (app) => {
      await sealed(app, 'a', 2)
      await app.tier()
    },
    act: async (app) => {
      await app.step(() => nothingWrong(app.log, true), 'verify')
    },
    finish: (log) => nothingWrong(log, false),
  },
  evict: {
    opens: false,
    options: { defaults: HOT },
    prepare: async (app) => {
      await sealed(app, 'a', 2)
      await sealed(app, 'b', 2)
      await app.tier()
    },
    act: async (app) => {
      await app.step(() => app.log.stream('a').setPolicy({ hot: { for: '1ms' } }))
      await app.tier()
      await app.step(() => app.log.stream('b').evict())
    },
    finish: async (log) => {
      await log.stream('b').evict()
      await log.tier.run()
      for (const row of [...(await rowsOf(log, 'a')), ...(await rowsOf(log, 'b'))])
        assert.ok(row.state === 'cold' || row.state === 'open', `segment ${row.segment} is ${row.state}`)
    },
  },
  // By hand, and what the policy of a stream does not keep.
  trim: {
    opens: false,
    ended: new Set(['a', 'b']),
    act: async (app) => {
      await app.step(() => app.log.stream('a').trim({ before: new Dlsn(3n, 0n, 0n) }), 'trim')
      await app.step(() => app.log.stream('b').setPolicy({ keep: { for: '1ms' } }), 'keep')
      await app.tier()
    },
    finish: async (log, said) => {
      await endsAt(log, 'a', 3n, /^S trim$/m.test(said))
      await endsAt(log, 'b', 4n, false)
      await log.stream('a').trim({ before: new Dlsn(3n, 0n, 0n) })
      await endsAt(log, 'a', 3n, true)
    },
  },
  hold: {
    opens: false,
    ended: new Set(['a']),
    act: async (app) => {
      const stream = app.log.stream('a')
      const [two, three, four] = [new Dlsn(2n, 0n, 0n), new Dlsn(3n, 0n, 0n), new Dlsn(4n, 0n, 0n)]
      await app.step(() => stream.hold({ id: 'first', from: two, until: three }), 'first')
      await app.step(async () => {
        await stream.hold({ id: 'second', from: two, until: four })
        await app.step(() => stream.release('first'), 'release')
        // Whatever becomes of what follows, the second hold is there.
        await stream.setPolicy({ keep: { for: '1ms' } })
      }, 'second')
      await app.tier()
    },
    finish: async (log, said) => {
      await endsAt(log, 'a', 2n, false)
      const ids = new Set((await log.stream('a').holds()).map(({ id }) => id))
      if (/^S second$/m.test(said)) assert.ok(ids.has('second'), 'a hold that was put is there')
      if (/^S release$/m.test(said)) assert.ok(!ids.has('first'), 'a hold that was released is gone')
      else if (/^S first$/m.test(said) && !ids.has('first')) assert.ok(ids.has('second'))
      if (ids.has('second')) {
        const { held } = await log.stream('a').trim({ before: new Dlsn(4n, 0n, 0n) })
        assert.equal(held?.segment, 2n, 'what is held stays')
        await endsAt(log, 'a', 2n, true)
      }
    },
  },
  recall: {
    opens: false,
    act: async (app) => {
      await app.step(() => app.log.stream('a').recall({}, { for: '1h' }), 'recall')
    },
    finish: async (log) => {
      await log.stream('a').recall({}, { for: '1h' })
      for (const row of await rowsOf(log, 'a')) assert.notEqual(row.state, 'cold', `segment ${row.segment}`)
      await log.stream('a').evict()
    },
  },
  // While the archive is down and the disks are nearly full; then it comes back and is told.
  drop: {
    opens: false,
    ended: new Set(['d']),
    freeBytes: 2 * GIB,
    options: { defaults: HOT },
    prepare: async (app) => {
      await sealed(app, 'd', 1)
      await app.log.stream('d').setPolicy({ archiveDown: 'drop' })
      // What is held of it is asked before the archive is down.
      await app.tier()
      Object.assign(app.archiveFaults, { beforePut: outage, list: outage })
      for (let turn = 0; turn < 3; turn += 1) {
        await sealed(app, 'd', 1)
        if (turn < 2) await app.log.tier.run({ until: 'once' })
      }
      await app.append('d', 1, 500)
    },
    act: async (app) => {
      await app.tier()
      delete app.archiveFaults.beforePut
      delete app.archiveFaults.list
      await app.tier()
    },
    finish: async (log) => {
      const states = (await rowsOf(log, 'd')).map(({ state, gapReason }) => gapReason ?? state)
      assert.doesNotMatch(states[0] ?? '', /dropped/, 'what the archive had is not dropped (invariant 4)')
    },
  },
  restore: {
    opens: false,
    act: async (app) => {
      for (let attempt = 1; attempt <= RESTORES_MAX; attempt += 1) {
        let done = false
        await app.step(async () => {
          await restoreBeside(app.directory)
          done = true
        }, 'restore')
        if (done) return
      }
    },
    finish: async (log) => {
      await restoreBeside(log.directory)
    },
  },
  // One bad object has a hot copy, one has a twin.
  scrub: {
    opens: false,
    options: { defaults: HOT },
    prepare: async (app) => {
      await sealed(app, 'a', 2)
      await app.tier()
      const files = new ArchivedLog(app.directory)
      const [cold] = await rowsOf(app.log, 'b')
      const hot = (await rowsOf(app.log, 'a')).findLast(({ state }) => state === 'archived')
      const keys = [cold, hot].map((row) => present(row?.object, 'object').key)
      files.twin(present(keys[0], 'key'))
      for (const key of keys) {
        const bytes = Buffer.from(files.bytes(key))
        const at = Math.floor(bytes.length / 3)
        bytes[at] = (bytes[at] ?? 0) ^ 8
        writeFileSync(files.path(key), bytes)
      }
    },
    act: async (app) => {
      await app.step(() => app.log.archive.scrub(), 'scrub')
    },
    finish: async (log) => {
      const { alarms } = await log.archive.scrub()
      assert.deepEqual(alarms, [])
    },
  },
  gc: {
    opens: false,
    prepare: async (app) => {
      const files = new ArchivedLog(app.directory)
      for (const key of files.keys()) files.twin(key)
    },
    act: async (app) => {
      await app.step(async () => {
        for await (const _ of app.log.archive.collect({ graceMs: 0 }));
      }, 'gc')
    },
    finish: async () => undefined,
  },
  delete: {
    opens: false,
    ended: new Set(['b']),
    act: async (app) => {
      await app.step(() => app.log.streams.delete('b'), 'delete')
      await app.tier()
    },
    finish: async (log, said) => {
      if (/^S delete$/m.test(said)) assert.equal(await log.streams.find('b'), null)
      if ((await log.streams.find('b')) !== null) await log.streams.delete('b')
      await log.tier.run()
    },
  },
}

/** A trim that was reported is there, and none goes further than was asked. */
async function endsAt(log: Log, stream: string, segment: bigint, exactly: boolean): Promise<void> {
  const below = (await log.stream(stream).info()).trimmedBelow
  if (!exactly && below === null) return
  const compared = present(below, `trim of ${stream}`).compare(new Dlsn(segment, 0n, 0n))
  assert.ok(exactly ? compared === 0 : compared <= 0, `${stream} is trimmed below ${below}`)
}

/** Index, stores and archive say the same. What could not be read this time says nothing, where that may be. */
async function nothingWrong(log: Log, unreadableMayBe: boolean): Promise<void> {
  const wrong: string[] = []
  for await (const part of log.archive.verify({ deep: true })) {
    if (part.type !== 'finding' || (unreadableMayBe && part.finding.problem === 'unreadable')) continue
    wrong.push(`${part.finding.problem} ${part.finding.text}`)
  }
  for await (const part of log.fsck({ deep: true })) {
    if (part.type !== 'finding' || part.finding.severity === 'waste') continue
    if (unreadableMayBe && part.finding.severity === 'unknown') continue
    wrong.push(`${part.finding.problem} ${part.finding.text}`)
  }
  // Not a named error: a worker that meets it fails.
  if (wrong.length > 0) throw new Error(`wrong: ${wrong.join('; ')}`)
}

/** Restores the archive of the log in a directory into a log below it, or goes on with that. */
export async function restoreBeside(directory: string): Promise<RestoreReport> {
  const system = { logger: silentLogger() }
  const archive = await openArchive(join(directory, 'archive'), system)
  try {
    const options = { ...WORKER_OPTIONS, archive: 'none', system } as const
    const log = await openLog(join(directory, 'restored'), options)
    try {
      const plan = await planRestore(archive)
      const report = await restoreArchive(log, archive, plan, { strict: true })
      assert.equal(report.digest, plan.digest, 'the digest that the names of the archive say')
      return report
    } finally {
      await log.close()
    }
  } finally {
    await archive.close()
  }
}
