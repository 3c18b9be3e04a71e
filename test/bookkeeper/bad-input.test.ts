import assert from 'node:assert/strict'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, afterEach, before, describe, test } from 'node:test'
import { createCluster } from '../../src/metadata/zookeeper/cluster.js'
import { present } from '../../src/model/assert.js'
import type { ZooKeeper } from '../../src/zookeeper/client.js'
import { finished, type Result, start } from '../helpers/cli.js'
import { FakeBookie, type FakeRequest, framed } from '../helpers/fake-bookie.js'
import { skipWithout } from '../servers/cache.js'
import { startZooKeeper, type ZooKeeperServer } from '../servers/zookeeper.js'
import { openAt } from '../zookeeper/helpers.js'

const INSTANCE = '5cc77fa7-87f4-46dd-83e6-7d324500c8d4'
const EMPTY = new Uint8Array(0)
const text = (value: string): Uint8Array => Buffer.from(value)

/** What an operator is told on the command line of a cluster that is not as it should be: named, in time, by one sentence. */
describe('a cluster with something wrong, on the command line', {
  skip: await skipWithout('bookkeeper'),
}, () => {
  const root = mkdtempSync(join(tmpdir(), 'sl-bad-'))
  const bookies: FakeBookie[] = []
  let server: ZooKeeperServer | undefined
  let opened: ZooKeeper | undefined
  let made = 0
  const zk = (): ZooKeeper => present(opened, 'a session')
  before(async () => {
    server = await startZooKeeper()
    opened = await openAt([server.address])
  })
  afterEach(async () => {
    for (const bookie of bookies.splice(0)) await bookie.stop()
  })
  after(async () => {
    await opened?.close()
    await server?.stop()
    rmSync(root, { recursive: true, force: true })
  })

  /** A directory whose log is a namespace of its own, with its own ledgers; commands on it. */
  const place = async (options: { readonly servers?: string; readonly cluster?: boolean } = {}) => {
    const name = `n${made++}`
    const directory = join(root, name)
    const ledgers = `/${name}-ledgers`
    mkdirSync(directory)
    const lines = [
      'version: 1',
      `metadata: zk://${options.servers ?? server?.address}/${name}`,
      'stores: bookkeeper',
      'archive: ./archive',
      'zookeeper: { session-timeout: 4s, connect-timeout: 1s }',
      `bookkeeper: { ledgers: ${ledgers}, add-timeout: 1s, read-timeout: 1s, connect-timeout: 1s }`,
    ]
    writeFileSync(join(directory, 'stratalog.yaml'), `${lines.join('\n')}\n`)
    if (options.cluster !== false) {
      await createCluster(zk(), ledgers, INSTANCE)
      // Bookies that there were once; none of them is up.
      for (const port of [1, 2, 3]) await zk().create(`${ledgers}/cookies/127.0.0.1:${port}`, EMPTY)
    }
    const cli = (args: readonly string[], input = '', variables: Readonly<Record<string, string>> = {}) =>
      finished(start(['--dir', directory, ...args], root, variables), input)
    return { name, namespace: `/${name}`, ledgers, cli }
  }

  /** Refused with that code, by one sentence that names what is wrong and no stack. */
  const isNamed = ({ code, out, err }: Result, exit: number, ...patterns: readonly RegExp[]): void => {
    assert.equal(code, exit, `${out}${err}`)
    for (const pattern of patterns) assert.match(err, pattern)
    assert.doesNotMatch(err, /\n\s+at |\[object|undefined/)
  }

  test('no cluster at the path', async () => {
    const { cli } = await place({ cluster: false })
    isNamed(await cli(['status']), 2, /no BookKeeper cluster at .*-ledgers/, /initnewcluster/)
  })

  test('ledgers kept in a way that is not known', async () => {
    const { cli, ledgers } = await place()
    await zk().set(`${ledgers}/LAYOUT`, text('3\norg.example.Other:1'), 0)
    isNamed(await cli(['status']), 1, /keeps its ledgers in a way that is not known here/)
  })

  for (const [what, binding, pattern] of [
    ['a binding that is none', 'hello', /binding/i],
    ['a binding of a later version', '2\nBKDL\n{}', /binding/i],
    ['a binding of 600 kB', `1\nBKDL\n{"2":{"str":"${'x'.repeat(600_000)}"}}`, /binding|large|bytes/i],
  ] as const) {
    test(what, async () => {
      const { cli, namespace } = await place()
      await zk().create(namespace, text(binding))
      const found = await cli(['status'])
      assert.notEqual(found.code, 0)
      isNamed(found, present(found.code, 'an exit code'), pattern, new RegExp(namespace))
      // It is somebody's, whatever it is.
      assert.equal(Buffer.from((await zk().get(namespace))?.data ?? []).toString(), binding)
    })
  }

  test('a cluster that was formatted since: another log', async () => {
    const { cli, ledgers } = await place()
    // All of its bookies are down, and it says what is known.
    const first = await cli(['status'])
    assert.equal(first.code, 0, first.err)
    const refused = await cli(['append', 's'], 'x\n')
    isNamed(refused, present(refused.code, 'an exit code'), /needed and 0 can be written/)
    await zk().set(`${ledgers}/INSTANCEID`, text('00000000-0000-4000-8000-000000000000'), 0)
    const found = await cli(['status'])
    assert.notEqual(found.code, 0)
    isNamed(found, present(found.code, 'an exit code'), /log/)
  })

  test('nodes that only another user may read: NOAUTH, and with the login it works', async () => {
    const { cli, namespace } = await place()
    const auth = { scheme: 'digest', user: 'ann', password: 'secret' } as const
    const owner = await openAt([present(server, 'server').address], { auth, acl: 'creator' })
    await owner.create(namespace, EMPTY)
    await owner.set(namespace, EMPTY, 0)
    await owner.close()
    isNamed(await cli(['status']), 7, /NOAUTH/, new RegExp(namespace))
    const wrong = await cli(['status'], '', { STRATALOG_ZOOKEEPER_AUTH: 'bob:secret' })
    isNamed(wrong, 7, /NOAUTH/)
    isNamed(await cli(['status'], '', { STRATALOG_ZOOKEEPER_AUTH: 'ann' }), 2, /user:password/)
  })

  test('a ZooKeeper that takes connections and never answers, and one that is not there', async () => {
    const silent = createServer(() => undefined)
    await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve))
    const { port } = silent.address() as { readonly port: number }
    for (const servers of [`127.0.0.1:${port}`, '127.0.0.1:1']) {
      const { cli } = await place({ servers, cluster: false })
      const startMs = performance.now()
      const found = await cli(['status'])
      assert.notEqual(found.code, 0)
      isNamed(
        found,
        present(found.code, 'an exit code'),
        /start ZooKeeper, or name others/,
        new RegExp(servers),
      )
      // A second is configured; the rest is the start of a process on a busy machine.
      assert.ok(performance.now() - startMs < 15_000)
    }
    silent.close()
  })

  const garbage: readonly [string, (request: FakeRequest) => void][] = [
    ['never answer', () => {}],
    ['answer garbage', ({ socket }) => socket.write(framed(Buffer.alloc(40, 0xff)))],
    ['announce huge lengths', ({ socket }) => socket.write(Buffer.from('7fffffff00', 'hex'))],
    ['answer about another ledger', (request) => request.answer(0, { 1: 0n, 2: 99n, 3: 0n })],
    ['know no ledger and refuse all', (request) => request.answer(101)],
  ]
  for (const [what, answer] of garbage) {
    test(`bookies that ${what}: nothing is acknowledged, in the time that is configured`, async () => {
      const { cli, ledgers } = await place()
      for (let i = 0; i < 3; i++) {
        const bookie = await FakeBookie.start(answer)
        bookies.push(bookie)
        await zk().create(`${ledgers}/available/127.0.0.1:${bookie.port}`, EMPTY)
      }
      const startMs = performance.now()
      const found = await cli(['append', 's'], 'one\n')
      assert.notEqual(found.code, 0, found.out)
      isNamed(found, present(found.code, 'an exit code'), /bookie|store/)
      assert.doesNotMatch(found.out, /1:0:0/)
      assert.ok(performance.now() - startMs < 30_000, `${performance.now() - startMs} ms`)
    })
  }
})
