import assert from 'node:assert/strict'
import { cpSync, mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, test } from 'node:test'
import type { Log } from '../../src/log.js'
import { isStratalogError, StratalogError } from '../../src/model/errors.js'
import { openLog } from '../../src/open.js'
import type { OpenOptions, SystemPorts } from '../../src/options.js'
import { LocalDirectory } from '../../src/stores/directory.js'
import { realClock } from '../../src/system/clock.js'
import { realDisk } from '../../src/system/disk.js'
import { silentLogger } from '../../src/system/logger.js'
import { realRandom } from '../../src/system/random.js'
import { dropMetadata } from '../helpers/protocol.js'
import { methodsOf } from '../helpers/store.js'

let root = ''
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'stratalog-hot-'))
})
afterEach(() => rmSync(root, { recursive: true, force: true }))

const open = (system: Partial<SystemPorts> = {}, more: OpenOptions = {}): Promise<Log> =>
  openLog(join(root, 'log'), {
    tiering: 'off',
    control: 'off',
    config: 'none',
    storeFileBytes: 4 * 1024 * 1024,
    system: { logger: silentLogger(), ...system },
    ...more,
  })

async function contents(log: Log, stream = 'a'): Promise<string[]> {
  const seen: string[] = []
  for await (const record of log.stream(stream).read()) seen.push(Buffer.from(record.payload).toString())
  return seen
}

describe('an older index that was put back', () => {
  const index = () => readdirSync(join(root, 'log')).filter((name) => name.startsWith('index.db'))
  const copyTo = (name: string) => cpSync(join(root, 'log', 'index.db'), join(root, name))
  const putBack = (name: string) => {
    for (const file of index()) rmSync(join(root, 'log', file))
    cpSync(join(root, name), join(root, 'log', 'index.db'))
  }
  const append = async (stream: string, text: string) => {
    await using log = await open()
    await log.stream(stream).append(text)
  }

  for (const later of ['a', 'another']) {
    test(`is noticed and made again from the stores, never appended to (later records in ${later})`, async () => {
      await append('a', 'one')
      copyTo('old')
      await append(later, 'two')
      for (let tries = 0; tries < 2; tries += 1) {
        putBack('old')
        await using log = await open()
        const all = [...(await contents(log)), ...(later === 'a' ? [] : await contents(log, later))]
        assert.deepEqual(all, ['one', 'two'])
      }
      await using log = await open()
      assert.equal((await log.stream('a').append('three')).sequenceId, later === 'a' ? 2n : 1n)
    })

    test(`is refused where a store is away (later records in ${later})`, async () => {
      await append('a', 'one')
      copyTo('old')
      await append(later, 'two')
      putBack('old')
      rmSync(join(root, 'log', 'stores', '2'), { recursive: true })
      await assert.rejects(open(), (error: unknown) => {
        assert.ok(isStratalogError(error, 'index_missing'), String(error))
        assert.match(error.message, /index\.db is older than the stores .*stores\/2/)
        return true
      })
    })
  }

  test('is not what a deletion looks like that a kill cut short', async () => {
    {
      await using log = await open()
      for (const text of ['one', 'two']) {
        await log.stream('a').append(text)
        await log.stream('a').seal()
      }
      const { index, ledger } = log.parts.segments
      const stream = await log.streams.find('a')
      const [row] = await index.listSegments(stream?.incarnation ?? '', 0n, 1)
      await dropMetadata(ledger.metadata, row?.ledgerId ?? -1n)
    }
    await using log = await open()
    assert.equal((await log.stream('a').append('three')).dlsn.segment, 3n)
  })

  test('is not what a kill leaves between the deletion of copies and of their metadata', async () => {
    const archived = { archive: join(root, 'archive'), defaults: { hot: { for: '1ms' }, evict: { lag: 0 } } }
    {
      await using log = await open({}, archived)
      await log.stream('a').append('one')
      await log.stream('a').seal()
      const { metadata } = log.parts.segments.ledger
      metadata.delete = () => Promise.reject(new StratalogError('io_failed', 'killed'))
      assert.match((await log.tier.run()).failed[0]?.error ?? '', /killed/)
    }
    await using log = await open({}, archived)
    assert.ok(!index().some((name) => name.includes('.old-')), 'it was not made again')
    assert.deepEqual(await contents(log), ['one'])
  })
})

describe('one disk of three is gone or hangs', () => {
  // A call that really hangs keeps the process alive; these promises don't.
  let alive: NodeJS.Timeout | null = null
  beforeEach(() => {
    alive = setInterval(() => {}, 1_000)
  })
  afterEach(() => clearInterval(alive ?? undefined))

  for (const way of ['gone', 'hangs'] as const) {
    test(`${way}: the next segment begins on the others, and the status says so`, async () => {
      let broken = false
      const disk = methodsOf(realDisk())
      const limited = {
        ...disk,
        space: (path: string) => {
          if (!broken || !path.endsWith(join('stores', '2'))) return disk.space(path)
          return way === 'gone' ? disk.space(join(path, 'not-there')) : new Promise<never>(() => {})
        },
      }
      // Seconds pass fifty times as fast.
      const clock = realClock()
      const fast = { ...clock, setTimer: (ms: number, fire: () => void) => clock.setTimer(ms / 50, fire) }
      await using log = await open({ disk: limited, clock: fast })
      assert.equal((await log.stream('a').append('one')).copies >= 2, true)
      broken = true
      await log.stream('a').seal()
      await log.stream('a').append('two')
      await log.stream('a').seal()
      const states = (await log.stores()).map(({ state }) => state)
      assert.deepEqual(states, ['writable', 'unreachable', 'writable'])
      const status = await log.tier.status()
      assert.match(status.stores[1]?.reason ?? '', /can't be reached/)
      broken = false
      assert.deepEqual(await contents(log), ['one', 'two'])
    })
  }

  test('a status that rejects or never comes is not writable; all are closed before the first failure', async () => {
    const clock = realClock()
    const directory = await LocalDirectory.open(
      ['1', '2', '3'].map((name) => join(root, name)),
      {
        logId: '0'.repeat(32),
        fileBytes: 4 << 20,
        create: true,
        clock: { ...clock, setTimer: (ms, fire) => clock.setTimer(ms / 50, fire) },
        disk: realDisk(),
        random: realRandom(),
        logger: silentLogger(),
      },
    )
    const [one, two, three] = directory.all()
    assert.ok(one && two && three)
    one.status = () => Promise.reject(new Error('injected'))
    two.status = () => new Promise(() => {})
    assert.deepEqual(await directory.writable(), [three])
    const close = one.close.bind(one)
    one.close = async () => {
      await close()
      throw new Error('complains')
    }
    let closed = false
    const slow = three.close.bind(three)
    three.close = async () => {
      await new Promise((resolve) => setTimeout(resolve, 50))
      await slow()
      closed = true
    }
    await assert.rejects(directory.close(), /complains/)
    assert.ok(closed)
  })
})

test('more than the stores take at once: 100 streams with one large record each, none fails', async () => {
  await using log = await openLog(join(root, 'log'), {
    control: 'off',
    config: 'none',
    system: { logger: silentLogger() },
  })
  const payload = Buffer.alloc(900_000, 7)
  const names = Array.from({ length: 100 }, (_, i) => `s${i}`)
  const results = await Promise.allSettled(names.map((name) => log.stream(name).append(payload)))
  const failed = results.flatMap((result) => (result.status === 'rejected' ? [String(result.reason)] : []))
  assert.deepEqual(failed, [])
  for (const name of names) await log.stream(name).seal()
  for (const store of log.parts.segments.ledger.stores.all()) {
    const ledgers = await store.listLedgers(-1n, 1_000)
    assert.equal(ledgers.filter(({ entries }) => entries === 1).length, 100, `copies in ${store.id}`)
  }
})
