import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { isStratalogError } from '../../src/model/errors.js'
import { openLog } from '../../src/open.js'
import type { OpenOptions } from '../../src/options.js'
import type { Bookies } from '../servers/bookkeeper.js'
import { startBookies } from '../servers/bookkeeper.js'
import { skipWithout } from '../servers/cache.js'

const skip = await skipWithout('bookkeeper')
const ARCHIVES = mkdtempSync(join(tmpdir(), 'stratalog-e2e-'))
const directory = () => mkdtempSync(join(ARCHIVES, 'dir-'))

describe('a log over ZooKeeper and bookies', { skip }, () => {
  let cluster: Bookies
  before(async () => {
    cluster = await startBookies()
  })
  after(async () => {
    await cluster?.stop()
    rmSync(ARCHIVES, { recursive: true, force: true })
  })

  const options = (namespace: string): OpenOptions => ({
    metadata: `zk://${cluster.zk.address}/${namespace}`,
    stores: 'bookkeeper',
    archive: join(ARCHIVES, namespace),
    zookeeper: { sessionTimeoutMs: 4_000 },
    bookkeeper: { evict: true },
    defaults: { roll: { size: '4 KiB' }, evict: { lag: 0 }, hot: { for: 0 } },
    tiering: 'off',
    control: 'off',
    config: 'none',
  })

  test('append, read, archive, evict, read across, and again without the cache (invariants 1, 4 and 12)', async () => {
    const payload = (i: number) => `record ${i} ${'x'.repeat(200)}`
    const log = await openLog(directory(), options('across'))
    const stream = log.stream('orders')
    for (let i = 0; i < 100; i++) await stream.append(payload(i))
    const read = async (of: typeof stream): Promise<string[]> => {
      const found: string[] = []
      for await (const record of of.read()) found.push(Buffer.from(record.value as Uint8Array).toString())
      return found
    }
    const all = Array.from({ length: 100 }, (_, i) => payload(i))
    assert.deepEqual(await read(stream), all)
    await log.tier.run()
    await log.tier.run()
    const states: string[] = []
    for await (const { state } of log.segments('orders')) states.push(state)
    assert.ok(states.filter((state) => state === 'cold').length >= 2, states.join())
    assert.deepEqual(await read(stream), all)
    const bad = (await log.doctor()).checks.filter(({ state }) => state === 'bad')
    assert.deepEqual(bad, [])
    const { logId } = log
    await log.close()

    // Another process, another directory: nothing but ZooKeeper, bookies and archive.
    const other = await openLog(directory(), options('across'))
    assert.equal(other.logId, logId)
    assert.deepEqual(await read(other.stream('orders')), all)
    await other.stream('orders').append('one more')
    assert.equal((await read(other.stream('orders'))).at(-1), 'one more')
    await other.close()
  })

  test('hot copies stay where eviction is not switched on: Java reads no archive', async () => {
    const { bookkeeper: _, ...plain } = options('kept')
    const log = await openLog(directory(), plain)
    const stream = log.stream('orders')
    for (let i = 0; i < 60; i++) await stream.append('x'.repeat(200))
    await stream.seal()
    await log.tier.run()
    const report = await log.tier.run()
    assert.deepEqual(report.failed, [])
    const states = new Set<string>()
    for await (const { state } of log.segments('orders')) states.add(state)
    assert.deepEqual([...states], ['archived'])
    await log.close()
  })

  test('two processes: a living writer is not fenced, and its records are followed (invariant 3)', async () => {
    const writer = await openLog(directory(), options('two'))
    const reader = await openLog(directory(), options('two'))
    await writer.stream('s').append('a')
    const seen: string[] = []
    const ends = new AbortController()
    const following = (async () => {
      for await (const record of reader.stream('s').read({ follow: true, signal: ends.signal })) {
        seen.push(Buffer.from(record.value as Uint8Array).toString())
        if (seen.length === 3) return
      }
    })()
    await sleep(500)
    await reader.tier.run({ until: 'once' })
    await writer.stream('s').append('b')
    await writer.stream('s').append('c')
    await following
    ends.abort()
    assert.deepEqual(seen, ['a', 'b', 'c'])
    await assert.rejects(reader.stream('s').append('not mine'), (error: unknown) =>
      isStratalogError(error, 'conflict'),
    )
    await writer.close()
    await reader.stream('s').append('mine now')
    await reader.close()
  })
})
