import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { createRequire } from 'node:module'
import process from 'node:process'
import { after, before, describe, test } from 'node:test'
import { present } from '../../src/model/assert.js'
import { isStratalogError } from '../../src/model/errors.js'
import type { ZooKeeper } from '../../src/zookeeper/client.js'
import { outcomeUnknown, ZK, zkCode } from '../../src/zookeeper/errors.js'
import { type NativeClient, NativeSession } from '../../src/zookeeper/native.js'
import { ManualClock } from '../helpers/manual-clock.js'
import { MemoryZooKeeper } from '../helpers/zookeeper-memory.js'
import { skipWithout } from '../servers/cache.js'
import { startZooKeeper, type ZooKeeperServer } from '../servers/zookeeper.js'
import { text, zooKeeperContract } from './contract.js'
import { freshRoot, openAt, PORTS, until } from './helpers.js'

/** Optional, and compiled where it is installed: `npm install --no-save zookeeper`, or a NODE_PATH that has it. */
function withoutNative(): string | false {
  try {
    createRequire(import.meta.url).resolve('zookeeper')
    return false
  } catch {
    return 'the package zookeeper is not installed'
  }
}

const native = withoutNative()

describe('ZooKeeper over the native client', { skip: (await skipWithout('bookkeeper')) || native }, () => {
  let started: ZooKeeperServer | undefined
  const server = (): ZooKeeperServer => present(started, 'the server')
  before(async () => {
    started = await startZooKeeper({ tickMs: 200 })
  })
  after(() => started?.stop())

  zooKeeperContract('native, multi over the socket', async () => {
    const chroot = await freshRoot(server().address)
    const all: ZooKeeper[] = []
    const another = async (): Promise<ZooKeeper> => {
      const zk = await openAt([server().address], { chroot, client: 'native' })
      all.push(zk)
      return zk
    }
    return {
      zk: await another(),
      another,
      cleanup: async () => {
        for (const zk of all) await zk.close()
      },
    }
  })

  test('invariant 3: a server that stands still costs the session by its own deadline, and no call hangs', async () => {
    const times = { sessionTimeoutMs: 1_500, connectTimeoutMs: 500 }
    const zk = await openAt([server().address], { client: 'native', ...times })
    const { lost } = zk
    server().pause()
    const startMs = performance.now()
    try {
      await assert.rejects(zk.create('/paused', text('')), (error) =>
        isStratalogError(error, 'metadata_unavailable'),
      )
      const tookMs = performance.now() - startMs
      assert.ok(tookMs < 2_000, `${tookMs} ms`)
    } finally {
      server().resume()
    }
    while (!lost.aborted) await new Promise((resolve) => setTimeout(resolve, 20))
    await zk.close()
  })

  test('nothing of it goes to standard output', () => {
    const helpers = new URL('./helpers.js', import.meta.url).href
    const program = `
      const { openAt } = await import(${JSON.stringify(helpers)})
      const zk = await openAt(['${server().address}'], { client: 'native' })
      await zk.exists('/')
      await zk.close()
      process.exit(0)`
    const run = spawnSync(process.execPath, ['--input-type=module', '-e', program], { encoding: 'utf8' })
    assert.deepEqual([run.status, run.stdout, run.stderr], [0, '', ''])
  })
})

describe('without the native client', { skip: (await skipWithout('bookkeeper')) || native === false }, () => {
  test('who asks for it is told how to get it', async () => {
    const server = await startZooKeeper({ tickMs: 200 })
    try {
      await assert.rejects(
        openAt([server.address], { client: 'native' }),
        (error) => isStratalogError(error, 'dependency_missing') && /npm install/.test(error.message),
      )
    } finally {
      await server.stop()
    }
  })
})

/** As much of the package as these tests call: it answers what it is told, when it is told. */
class FakeNative {
  static last: FakeNative | null = null
  readonly client_id = '4d'
  readonly timeout = 30_000
  /** What `a_sync` returns. */
  returns = 0
  readonly synced: ((code: number, error: string, path: string) => void)[] = []
  readonly created: ((code: number, error: string, path: string) => void)[] = []

  constructor() {
    FakeNative.last = this
  }

  on(event: 'connect' | 'close', listener: () => void): void {
    if (event === 'connect') queueMicrotask(listener)
  }
  init(): void {}
  close(): void {}
  a_exists(_path: string, _watch: false, done: (code: number, error: string, stat: null) => void): number {
    queueMicrotask(() => done(0, '', null))
    return 0
  }
  a_sync(_path: string, done: (code: number, error: string, path: string) => void): number {
    if (this.returns === 0) this.synced.push(done)
    return this.returns
  }
  a_create(
    _path: string,
    _data: Buffer,
    _flags: number,
    done: (code: number, error: string, path: string) => void,
  ): number {
    this.created.push(done)
    return 0
  }
}

describe('what the native client makes of the answers of its package', () => {
  const ZCLOSING = -116
  const open = async () => {
    const multis = await new MemoryZooKeeper().open()
    const times = { sessionTimeoutMs: 30_000, connectTimeoutMs: 3_000, chroot: '' }
    const settings = { servers: ['127.0.0.1:1'], ...times }
    const clock = new ManualClock()
    const Client = FakeNative as unknown as new () => NativeClient
    const session = await NativeSession.open(settings, Client, multis, { ...PORTS, clock })
    return { session, multis, fake: present(FakeNative.last, 'the client') }
  }

  test('a multi that was carried out is never one that was not sent, whatever becomes of the sync after it', async () => {
    for (const returns of [0, ZCLOSING]) {
      const { session, multis, fake } = await open()
      fake.returns = returns
      const multi = session.multi([{ op: 'create', path: '/a', data: text('') }])
      const told = assert.rejects(multi, outcomeUnknown)
      if (returns === 0) {
        await until(() => fake.synced.length === 1)
        fake.synced[0]?.(ZK.SESSION_EXPIRED, '', '')
      }
      await told
      assert.ok(await multis.exists('/a'))
      await session.close()
      await multis.close()
    }
  })

  test('a call that the end of the session answers may have been carried out; one it refuses was not', async () => {
    const { session, multis, fake } = await open()
    const told = assert.rejects(session.create('/a', text('')), outcomeUnknown)
    fake.created[0]?.(ZCLOSING, '', '')
    await told
    fake.returns = ZCLOSING
    await assert.rejects(
      session.sync('/'),
      (error) => isStratalogError(error, 'metadata_unavailable') && !outcomeUnknown(error),
    )
    await session.close()
    await multis.close()
  })

  test('invariant 3: the answer that the session has expired loses it before who called is told', async () => {
    const { session, multis, fake } = await open()
    const told = session.create('/a', text('')).catch((error: unknown) => {
      assert.equal(session.lost.aborted, true)
      throw error
    })
    fake.created[0]?.(ZK.SESSION_EXPIRED, '', '')
    await assert.rejects(told, (error) => zkCode(error) === ZK.SESSION_EXPIRED)
    await multis.close()
  })
})
