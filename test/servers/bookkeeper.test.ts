import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { present } from '../../src/model/assert.js'
import { type Bookies, startBookies } from './bookkeeper.js'
import { skipWithout } from './cache.js'

describe('bookies for tests', { skip: await skipWithout('bookkeeper') }, () => {
  let started: Bookies | undefined
  const cluster = (): Bookies => present(started, 'bookies')
  const registered = async (): Promise<string[]> => {
    const dump = await cluster().zk.ask('dump')
    return [...dump.matchAll(/\/ledgers\/available\/(\S+)/g)]
      .map((match) => present(match[1], 'an id'))
      .sort()
  }
  before(async () => {
    started = await startBookies({ count: 2, sessionMs: 3000 })
  })
  after(() => started?.stop())

  test('are available, leave when killed, and come back; the data of ZooKeeper outlives kill -9', async () => {
    const ids = (): string[] => cluster().bookies.map((bookie) => bookie.id)
    assert.deepEqual(await registered(), ids().sort())
    const [first, second] = cluster().bookies
    await first?.kill()
    while ((await registered()).length > 1) await sleep(50)
    assert.deepEqual(await registered(), [second?.id])
    await cluster().zk.restart()
    await first?.restart()
    const third = await cluster().add()
    assert.ok(ids().includes(third.id))
    assert.deepEqual(await registered(), ids().sort())
  })

  test('a stopped ZooKeeper answers nothing until it goes on', async () => {
    cluster().zk.pause()
    await assert.rejects(cluster().zk.ask('srvr'), /no answer/)
    cluster().zk.resume()
    assert.match(await cluster().zk.ask('srvr'), /Mode: standalone/)
  })
})
