import assert from 'node:assert/strict'
import { cpSync, readdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, test } from 'node:test'
import type { Log } from '../../src/log.js'
import type { ControlFrame } from '../../src/ports/segment-store.js'
import { silentLogger } from '../../src/system/logger.js'
import { FaultyDisk } from '../helpers/store.js'
import { decisions, everything, Lives } from './helpers.js'

let lives = new Lives()
beforeEach(() => {
  lives = new Lives()
})
afterEach(() => lives.end())

const oldFiles = () =>
  readdirSync(lives.directory).filter((name) => name.startsWith('index.db.old-') && !/-(wal|shm)$/.test(name))

async function controls(log: Log): Promise<ControlFrame[][]> {
  return Promise.all(log.parts.segments.ledger.stores.all().map((store) => store.listControls()))
}

describe('an index from before what the stores hold (invariants 1 and 12)', () => {
  test('only policies changed since: brought forward, and not made again', async () => {
    await lives.life((log) => log.stream('a').append('one'))
    const old = lives.copyAs('old')
    const after = await lives.life(async (log) => {
      await log.stream('a').setPolicy({ hot: { for: '1h' } })
      await log.stream('a').setPolicy({ hot: { for: '2h' } })
      return decisions(log)
    })
    lives.putBack(old)
    assert.deepEqual(await lives.life(decisions), after)
    assert.deepEqual(oldFiles(), [])
  })

  test('the stream was finished since: it is so again before anything can be appended', async () => {
    await lives.life(async (log) => {
      await log.stream('a').append('one')
      await log.stream('a').seal()
    })
    const old = lives.copyAs('old')
    const after = await lives.life(async (log) => {
      await log.stream('a').finish()
      return decisions(log)
    })
    lives.putBack(old)
    await lives.life(async (log) => {
      assert.deepEqual(await decisions(log), after)
      await assert.rejects(log.stream('a').append('more'), { code: 'stream_finished' })
    })
    assert.deepEqual(oldFiles(), [], 'brought forward, and not made again')
  })

  test('everything since was evicted, the segment was open in the copy: its number is not given out again', async () => {
    const archive = join(lives.root, 'archive')
    lives.options = { archive, defaults: { hot: { for: 0 }, evict: { lag: 0 } } }
    let old = ''
    const before = await lives.life(async (log) => {
      for (const text of ['one', 'two']) await log.stream('a').append(text)
      // Taken while the log is open, as a careless backup is.
      old = lives.copyAs('old')
      await log.stream('a').seal()
      await log.tier.run()
      for await (const row of log.segments('a')) assert.equal(row.ledgerId, null)
      return everything(log)
    })
    lives.putBack(old)
    await lives.life(async (log) => {
      assert.deepEqual(await everything(log), before)
      const ack = await log.stream('a').append('three')
      assert.equal(ack.dlsn.segment, 2n)
      assert.equal(ack.sequenceId, 2n)
    })
    assert.equal(oldFiles().length, 1)
  })

  test('everything since was evicted, the stream was not there yet in the copy', async () => {
    lives.options = { archive: join(lives.root, 'archive'), defaults: { hot: { for: 0 }, evict: { lag: 0 } } }
    await lives.life(async () => {})
    const old = lives.copyAs('old')
    const before = await lives.life(async (log) => {
      await log.stream('a').append('one')
      await log.stream('a').seal()
      await log.tier.run()
      for await (const row of log.segments('a')) assert.equal(row.ledgerId, null)
      return everything(log)
    })
    lives.putBack(old)
    await lives.life(async (log) => {
      assert.deepEqual(await everything(log), before)
      assert.equal((await log.stream('a').append('two')).sequenceId, 1n)
    })
  })

  test('everything since was evicted, the segment was closed in the copy', async () => {
    lives.options = { archive: join(lives.root, 'archive'), defaults: { hot: { for: 0 }, evict: { lag: 0 } } }
    await lives.life(async (log) => {
      await log.stream('a').append('one')
      await log.stream('a').seal()
    })
    const old = lives.copyAs('old')
    const before = await lives.life(async (log) => {
      await log.tier.run()
      return everything(log)
    })
    lives.putBack(old)
    assert.deepEqual(await lives.life(everything), before)
    assert.equal(oldFiles().length, 1)
  })

  test('a mark covers what was sealed before it: evictions write no frame each', async () => {
    lives.options = { archive: join(lives.root, 'archive') }
    await lives.life(async (log) => {
      for (let segment = 0; segment < 8; segment += 1) {
        await log.stream('a').append(`${segment}`)
        await log.stream('a').seal()
      }
      await log.tier.run()
      await new Promise((resolve) => setTimeout(resolve, 5))
      await log.stream('a').setPolicy({ hot: { for: 0 }, evict: { lag: 0 } })
      await log.tier.run()
      const found = (await controls(log))[0] ?? []
      assert.equal(found.filter(({ kind }) => kind === 'mark').length, 1)
    })
  })
})

describe('decisions are on the stores before the index has them', () => {
  test('with fewer than min stores a stream is not created, and no index knows of it', async () => {
    const faulty = new FaultyDisk()
    const log = await lives.open({ system: { logger: silentLogger(), disk: faulty.disk } })
    await log.stream('a').append('one')
    faulty.fault = (action, path) =>
      action === 'dataSync' && !path.includes(join('stores', '1')) ? 'io_failed' : null
    await assert.rejects(log.streams.create('b'), { code: 'not_enough_stores' })
    assert.equal(await log.streams.find('b'), null)
    await log.close().catch(() => undefined)
  })

  test('each is on every store, and a store that was away gets it at the next start', async () => {
    await lives.life((log) => log.streams.create('a'))
    const store = join(lives.directory, 'stores', '3')
    cpSync(store, join(lives.root, 'aside'), { recursive: true })
    rmSync(store, { recursive: true })
    await lives.life(async (log) => {
      await log.stream('a').setPolicy({ hot: { for: '1h' } })
    })
    cpSync(join(lives.root, 'aside'), store, { recursive: true })
    await lives.life(async (log) => {
      const all = (await controls(log)).map((frames) => frames.map(({ id }) => id).sort())
      assert.deepEqual(all[1], all[0])
      assert.deepEqual(all[2], all[0])
      assert.ok((all[0]?.length ?? 0) >= 2)
    })
  })
})
