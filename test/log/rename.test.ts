import assert from 'node:assert/strict'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, test } from 'node:test'
import type { Log } from '../../src/log.js'
import { text } from '../../src/model/codec.js'
import { openArchive, openLog } from '../../src/open.js'
import { planRestore, restoreArchive } from '../../src/restore.js'
import { silentLogger } from '../../src/system/logger.js'
import { Lives } from '../rebuild/helpers.js'

let lives: Lives
beforeEach(() => {
  lives = new Lives()
  lives.options = { archive: join(lives.root, 'archive'), defaults: { hot: { for: 0 }, evict: { lag: 0 } } }
})
afterEach(() => lives.end())

async function names(log: Log): Promise<string[]> {
  const found: string[] = []
  for await (const { name } of log.streams.list()) found.push(name)
  return found
}

async function values(log: Log, name: string): Promise<string[]> {
  const found: string[] = []
  for await (const { value } of log.stream(name, { codec: text() }).read()) found.push(value)
  return found
}

describe('rename', () => {
  test('the stream goes on under its new name, with the policy of that name; the old one is free', async () => {
    await lives.life(async (log) => {
      const old = log.stream('a', { codec: text() })
      await old.append('one')
      const { incarnation } = await old.info()
      assert.equal((await log.streams.rename('a', 'b/c')).incarnation, incarnation)
      await assert.rejects(old.info(), { code: 'stream_not_found' })
      await log.stream('b/c').append('two')
      assert.deepEqual(await values(log, 'b/c'), ['one', 'two'])
      // The handle makes a new stream of the old name, as any append does.
      await old.append('another')
      assert.notEqual((await old.info()).incarnation, incarnation)
      assert.deepEqual(await names(log), ['a', 'b/c'])
      await assert.rejects(log.streams.rename('a', 'b/c'), { code: 'stream_exists' })
      await assert.rejects(log.streams.rename('nobody', 'x'), { code: 'stream_not_found' })
      await assert.rejects(log.streams.rename('a', 'b//c'), { code: 'stream_name_invalid' })
    })
  })

  test('appends under way are acknowledged or refused by name, none is lost (invariant 1)', async () => {
    await lives.life(async (log) => {
      const stream = log.stream('a', { codec: text() })
      await stream.append('0')
      const sent = Array.from({ length: 50 }, (_, i) => stream.append(`${i + 1}`))
      const renamed = log.streams.rename('a', 'b')
      const outcomes = await Promise.allSettled(sent)
      await renamed
      const acknowledged = outcomes.filter(({ status }) => status === 'fulfilled').length
      assert.equal((await values(log, 'b')).length, acknowledged + 1)
    })
  })

  test('stores and archive know it: an index made again, one from before, and a restore have the name', async () => {
    await lives.life(async (log) => {
      for (const name of ['a', 'b']) {
        await log.stream(name).append(name)
        await log.stream(name).seal()
      }
      assert.equal((await log.tier.run()).copied, 2)
    })
    const before = lives.copyAs('before')
    const renamedMs = Date.now()
    await lives.life(async (log) => {
      // Two streams take each other's names.
      await log.streams.rename('a', 'c')
      await log.streams.rename('b', 'a')
      await log.streams.rename('c', 'b')
    })
    lives.putBack(before)
    await lives.life(async (log) => {
      assert.deepEqual([await values(log, 'a'), await values(log, 'b')], [['b'], ['a']])
      await log.streams.rename('a', 'last')
      // A debt, paid without a copy.
      assert.deepEqual((await log.tier.run()).copied, 0)
    })
    lives.dropIndex()
    await lives.life(async (log) => {
      assert.deepEqual(await names(log), ['b', 'last'])
      assert.deepEqual(await values(log, 'last'), ['b'])
    })
    const archive = await openArchive(join(lives.root, 'archive'))
    for (const [until, expected] of [
      [undefined, { b: 'a', last: 'b' }],
      [renamedMs - 1, { a: 'a', b: 'b' }],
    ] as const) {
      const plan = await planRestore(archive, until === undefined ? {} : { until: { time: until } })
      await using log = await openLog(join(lives.root, `restored-${until}`), {
        tiering: 'off',
        control: 'off',
        config: 'none',
        storeFileBytes: 4 * 1024 * 1024,
        system: { logger: silentLogger() },
      })
      await restoreArchive(log, archive, plan)
      const found: Record<string, string | undefined> = {}
      for (const name of await names(log)) found[name] = (await values(log, name))[0]
      assert.deepEqual(found, expected)
    }
  })
})
