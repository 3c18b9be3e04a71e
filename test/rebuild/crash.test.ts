import assert from 'node:assert/strict'
import { existsSync, readdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, test } from 'node:test'
import fc from 'fast-check'
import type { Log } from '../../src/log.js'
import { StratalogError } from '../../src/model/errors.js'
import { rebuildLogIndex } from '../../src/open/rebuild-log.js'
import { silentLogger } from '../../src/system/logger.js'
import { type DiskAction, FaultyDisk } from '../helpers/store.js'
import { decisions, everything, Lives } from './helpers.js'

let lives = new Lives()
beforeEach(() => {
  lives = new Lives()
})
afterEach(() => lives.end())

/** Streams with segments hot, cold and in both tiers. */
async function someLife(): Promise<string[]> {
  lives.options = { archive: join(lives.root, 'archive') }
  return lives.life(async (log) => {
    await log.stream('b').setPolicy({ hot: { for: 0 }, evict: { lag: 0 } })
    for (let segment = 0; segment < 3; segment += 1) {
      for (const stream of ['a', 'b']) {
        await log.stream(stream).append(`${stream}-${segment}`)
        await log.stream(stream).seal()
      }
    }
    await log.tier.run()
    await log.stream('a').append('last')
    return everything(log)
  })
}

describe('a rebuild that dies (invariant 12)', () => {
  const steps: readonly (readonly [DiskAction, string])[] = [
    ['dataSync', 'index.db.new'],
    ['rename', 'index.db'],
    ['rename', 'index.db.new'],
    ['syncDirectory', 'log'],
  ]
  for (const [action, name] of steps) {
    for (const nth of [1, 2, 3]) {
      test(`at ${action} of ${name}, the ${nth}. time: the next start comes to the same`, async () => {
        const before = await someLife()
        const faulty = new FaultyDisk()
        let met = 0
        faulty.fault = (found, path) => {
          if (found !== action || path !== join(lives.root, name === 'log' ? 'log' : join('log', name)))
            return null
          met += 1
          return met >= nth ? 'io_failed' : null
        }
        const system = { logger: silentLogger(), disk: faulty.disk }
        const died = rebuildLogIndex(
          lives.directory,
          { config: 'none', ...lives.options, system },
          { acceptLoss: false },
        )
        const outcome = await died.then(
          () => 'done',
          (error: unknown) => (error instanceof StratalogError ? error.code : String(error)),
        )
        // A step that is not met so often was not died at.
        assert.equal(outcome, met >= nth ? 'io_failed' : 'done')
        assert.ok(met > 0, 'the step is met at all')
        assert.deepEqual(await lives.life(everything), before)
      })
    }
  }

  test('half-way through the segments, or aborted: the old index stays, and a leftover is in nobody’s way', async () => {
    const before = await someLife()
    for (let at = 1; at < 7; at += 1) {
      let seen = 0
      const abort = new AbortController()
      const wishes = {
        acceptLoss: false,
        signal: abort.signal,
        onProgress: () => {
          seen += 1
          if (seen === at) abort.abort(new StratalogError('closed', 'killed'))
        },
      }
      const options = { config: 'none', ...lives.options, system: { logger: silentLogger() } } as const
      const outcome = await rebuildLogIndex(lives.directory, options, wishes).then(
        () => 'done',
        (error: StratalogError) => error.code,
      )
      assert.equal(outcome, 'closed', `after ${at} segments`)
      assert.deepEqual(await lives.life(everything), before)
    }
  })
})

describe('random lives, then index.db is gone (invariants 1, 8, 12)', () => {
  type Step =
    | { kind: 'append'; stream: number; count: number }
    | { kind: 'seal'; stream: number }
    | { kind: 'policy'; stream: number; hot: number }
    | { kind: 'trim'; stream: number }
    | { kind: 'tier' }
    | { kind: 'restart' }
    | { kind: 'kill' }
    | { kind: 'lose'; from: 'nothing' | 'copy' }
  const stream = fc.nat({ max: 2 })
  const step: fc.Arbitrary<Step> = fc.oneof(
    { weight: 6, arbitrary: fc.record({ kind: fc.constant('append' as const), stream, count: fc.nat(4) }) },
    { weight: 4, arbitrary: fc.record({ kind: fc.constant('seal' as const), stream }) },
    { weight: 1, arbitrary: fc.record({ kind: fc.constant('policy' as const), stream, hot: fc.nat(1) }) },
    { weight: 1, arbitrary: fc.record({ kind: fc.constant('trim' as const), stream }) },
    { weight: 3, arbitrary: fc.record({ kind: fc.constant('tier' as const) }) },
    { weight: 1, arbitrary: fc.record({ kind: fc.constant('restart' as const) }) },
    { weight: 1, arbitrary: fc.record({ kind: fc.constant('kill' as const) }) },
    {
      weight: 2,
      arbitrary: fc.record({
        kind: fc.constant('lose' as const),
        from: fc.constantFrom('nothing' as const, 'copy' as const),
      }),
    },
  )
  const name = (at: number) => ['x', 'y', 'deep/z'][at] ?? 'x'

  test('everything acknowledged reads the same, decisions hold, appends go on', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 4, maxLength: 24 }), async (steps) => {
        const mine = new Lives()
        try {
          await live(mine, steps)
        } finally {
          mine.end()
        }
      }),
      { numRuns: Number(process.env.TEST_LIVES ?? 6) },
    )
  })

  async function live(mine: Lives, steps: readonly Step[]): Promise<void> {
    mine.options = { archive: join(mine.root, 'archive'), defaults: { evict: { lag: 0 } } }
    let copy = 0
    let older: string | null = null
    let made = 0
    let log = await mine.open()
    const reopen = async (before: () => void) => {
      const expected = { records: await everything(log), decided: await decisions(log) }
      await log.close()
      before()
      log = await mine.open()
      assert.deepEqual(await everything(log), expected.records)
      assert.deepEqual(await decisions(log), expected.decided)
    }
    try {
      for (const one of steps) {
        if (one.kind === 'append') {
          for (let i = 0; i < one.count; i += 1) {
            made += 1
            await log.stream(name(one.stream)).append(`${made}`)
          }
        } else if (one.kind === 'seal') await sealed(log, name(one.stream))
        else if (one.kind === 'policy')
          await log.stream(name(one.stream)).setPolicy({ hot: { for: one.hot === 0 ? 0 : '1h' } })
        else if (one.kind === 'trim') {
          await log.stream(name(one.stream)).setPolicy({ hot: { for: 0 }, keep: { for: 1 } })
          await new Promise((resolve) => setTimeout(resolve, 3))
          await log.tier.run()
        } else if (one.kind === 'tier') await log.tier.run()
        else if (one.kind === 'restart') await reopen(() => {})
        else if (one.kind === 'kill') {
          const records = await everything(log)
          copy += 1
          const killed = mine.copyAs(`killed${copy}`)
          await log.close()
          rmSync(mine.directory, { recursive: true })
          const { renameSync } = await import('node:fs')
          renameSync(killed, mine.directory)
          log = await mine.open()
          assert.deepEqual(await everything(log), records)
        } else if (one.from === 'nothing') await reopen(() => mine.dropIndex())
        else {
          const back: string | null = older
          if (back !== null) await reopen(() => mine.putBack(back))
          copy += 1
          older = mine.copyAs(`copy${copy}`)
        }
      }
      await reopen(() => mine.dropIndex())
      const last = (await everything(log)).length
      assert.ok(last >= 0)
      await log.stream('x').append('on')
      assert.equal((await everything(log)).length, last + 1)
    } finally {
      await log.close()
    }
    assert.ok(!existsSync(`${mine.index}.new`), `${readdirSync(mine.directory)}`)
  }

  async function sealed(log: Log, stream: string): Promise<void> {
    if ((await log.streams.find(stream)) !== null) await log.stream(stream).seal()
  }
})
