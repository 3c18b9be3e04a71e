import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { after, before, describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { bindNamespace } from '../../src/metadata/distributedlog/binding.js'
import { present } from '../../src/model/assert.js'
import { type NamespaceClient, openNamespace } from '../helpers/cluster-streams.js'
import { Appender, checkHistory } from '../helpers/history.js'
import { type Bookies, startBookies } from '../servers/bookkeeper.js'
import { skipWithout } from '../servers/cache.js'
import { Cutter, openAt } from '../zookeeper/helpers.js'

const namespace = '/partitions'
const SESSION_MS = 3_000
/** What a writer waits for a bookie that it is cut from. */
const QUICK = { connectTimeoutMs: 1_000, addTimeoutMs: 1_500, readTimeoutMs: 1_500 }

/** A wire that can be torn: packets vanish as in a partition, or connections break as behind a firewall. */
class Wires {
  readonly cutters: readonly Cutter[]

  constructor(cutters: readonly Cutter[]) {
    this.cutters = cutters
  }

  tear(how: 'swallow' | 'cut'): void {
    for (const cutter of this.cutters) {
      cutter.onRequest = () => 'swallow'
      cutter.onAnswer = () => 'swallow'
      if (how === 'swallow') continue
      cutter.refuse = true
      cutter.cutAll()
    }
  }

  /** What was swallowed does not come any more, so connections of before are of no use. */
  mend(): void {
    for (const cutter of this.cutters) {
      cutter.onRequest = null
      cutter.onAnswer = null
      cutter.refuse = false
      cutter.cutAll()
    }
  }
}

/**
 * Two processes that want to write one stream, and the network between the one that does and ZooKeeper, the bookies, or
 * both. Network namespaces need root; proxies tear the same wires anywhere.
 */
describe('writers cut off from a part of the cluster', { skip: await skipWithout('bookkeeper') }, () => {
  let cluster: Bookies | undefined
  let other: NamespaceClient | undefined
  let made = 0
  const servers = (): Bookies => present(cluster, 'cluster')
  const theirs = (): NamespaceClient => present(other, 'the other process')
  before(async () => {
    cluster = await startBookies()
    const zk = await openAt([cluster.zk.address])
    const { address } = cluster.zk
    await bindNamespace(zk, namespace, {
      ...{ bookkeeperServers: address, bookkeeperServersForReaders: address },
      ...{ servers: address, serversForReaders: address, ledgersPath: cluster.ledgersPath },
      ...{ sanityCheckTxid: true, encodeRegionId: false, aclRoot: null, firstSegment: 1n, federated: false },
    })
    await zk.close()
    other = await openNamespace(cluster, namespace, { sessionTimeoutMs: SESSION_MS })
  })
  after(async () => {
    await other?.close()
    await cluster?.stop()
  })

  interface Cut {
    readonly name: string
    readonly zk: Wires
    readonly bookies: Wires
    /** The process behind the wires. */
    readonly mine: Appender
    /** One that reaches everything. */
    readonly theirs: Appender
    /** What a third process reads. */
    read(): Promise<string[]>
  }

  /** A stream whose writer is behind proxies, and has appended. */
  const behindProxies = async (use: (cut: Cut) => Promise<void>): Promise<void> => {
    const name = `s${made++}`
    const { zk, bookies, ledgersPath } = servers()
    const zkCutter = await Cutter.to(zk.port)
    const ports = new Map<string, Cutter>()
    for (const { id, port } of bookies) ports.set(id, await Cutter.to(port))
    const cutters = [zkCutter, ...ports.values()]
    const bookiePort = (id: string) => Number(present(ports.get(id), id).address.split(':')[1])
    const options = { sessionTimeoutMs: SESSION_MS, settings: QUICK, bookiePort }
    const behind = await openNamespace(
      { zk: { ...zk, address: zkCutter.address }, ledgersPath },
      namespace,
      options,
    )
    const reader = await openNamespace(servers(), namespace)
    try {
      await theirs().create(name, 'ms')
      const mine = new Appender(behind.stream(name), 'mine')
      const both = { mine, theirs: new Appender(theirs().stream(name), 'theirs') }
      assert.equal(await mine.append(20), 20)
      const [wiresZk, wiresBookies] = [new Wires([zkCutter]), new Wires([...ports.values()])]
      const read = () => checkHistory(reader.stream(name), Object.values(both))
      await use({ name, zk: wiresZk, bookies: wiresBookies, ...both, read })
    } finally {
      new Wires(cutters).mend()
      await reader.close()
      await behind.close()
      for (const cutter of cutters) await cutter.close()
    }
  }

  /** The other process asks until the lock is free, which takes as long as the session of the one that is cut off. */
  const takeOver = async (appender: Appender): Promise<void> => {
    for (let tries = 0; (await appender.append(1)) === 0; tries++) {
      assert.ok(tries < 200, `nobody takes over: ${appender.refused.slice(-3).join()}`)
      await sleep(50)
    }
    // While another lives it is refused, and by no other reason.
    assert.deepEqual(
      [...new Set(appender.refused)].filter((code) => code !== 'conflict'),
      [],
    )
    appender.refused.length = 0
    assert.equal(await appender.append(10), 10)
  }

  /** Whoever lost the stream hears so, as soon as it asks, and gets nothing acknowledged while the other one lives. */
  const isOut = async (appender: Appender): Promise<void> => {
    const acked = appender.acked.size
    for (let i = 0; i < 3; i++) await appender.append(3)
    assert.equal(appender.acked.size, acked, 'two writers are acknowledged')
    const allowed = ['fenced', 'lease_lost', 'conflict', 'metadata_unavailable']
    assert.deepEqual(
      appender.refused.slice(-9).filter((code) => !allowed.includes(code)),
      [],
    )
  }

  for (const how of ['swallow', 'cut'] as const) {
    test(`from ZooKeeper alone (${how}): the session ends, another takes over, and one history is read (1, 3)`, () =>
      behindProxies(async ({ zk, mine, theirs, read }) => {
        zk.tear(how)
        // What is open is written on: bookies say who may, until somebody has fenced it.
        assert.equal(await mine.append(5), 5)
        await takeOver(theirs)
        await isOut(mine)
        const history = await read()
        zk.mend()
        await isOut(mine)
        assert.equal(await theirs.append(5), 5)
        const after = await read()
        assert.deepEqual(after.slice(0, history.length), history, 'what was read stays')
      }))
  }

  test('from the bookies alone: it keeps its lock, acknowledges nothing, and goes on when they are back', () =>
    behindProxies(async ({ bookies, mine, theirs, read }) => {
      bookies.tear('swallow')
      const hanging = mine.append(5)
      await sleep(SESSION_MS + 1_000)
      // Its session lives: nobody else may write, and nobody is told that something was written.
      assert.equal(await theirs.append(1), 0)
      assert.deepEqual([...new Set(theirs.refused)], ['conflict'])
      assert.equal(mine.acked.size, 20)
      bookies.mend()
      await hanging
      for (let tries = 0; (await mine.append(1)) === 0; tries++) {
        assert.ok(tries < 100, `it goes on: ${mine.refused.slice(-3).join()}`)
        await sleep(100)
      }
      assert.equal(await mine.append(10), 10)
      await read()
    }))

  test('from everything at once: what was on its way is never acknowledged, and another goes on (1, 3)', () =>
    behindProxies(async ({ zk, bookies, mine, theirs, read }) => {
      zk.tear('swallow')
      bookies.tear('swallow')
      const hanging = mine.append(5)
      await takeOver(theirs)
      zk.mend()
      bookies.mend()
      await hanging
      assert.equal(mine.acked.size, 20)
      await isOut(mine)
      assert.equal(await theirs.append(5), 5)
      await read()
    }))

  test('stopped for longer than its session: it acknowledges nothing once another has the stream (1, 3)', async () => {
    const name = `s${made++}`
    const { zk, ledgersPath } = servers()
    await theirs().create(name, 'ms')
    const program = join(import.meta.dirname, 'appending-process.js')
    const args = [program, zk.address, ledgersPath, namespace, name, String(SESSION_MS)]
    const child: ChildProcess = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] })
    try {
      const lines: string[] = []
      const output = createInterface({ input: present(child.stdout, 'its output') })
      output.on('line', (line) => lines.push(line))
      const said = async (what: string, enough: () => boolean): Promise<void> => {
        for (let tries = 0; !enough(); tries++) {
          assert.ok(tries < 400, `${what}: ${lines.slice(-3).join()}`)
          await sleep(50)
        }
      }
      const acked = () => lines.filter((line) => line.startsWith('acked '))
      const refused = () => lines.filter((line) => line.startsWith('refused '))
      await said('it appends', () => acked().length >= 50)
      child.kill('SIGSTOP')
      const next = new Appender(theirs().stream(name), 'theirs')
      await takeOver(next)
      const before = acked().length
      child.kill('SIGCONT')
      await said('it is refused', () => refused().length >= 5)
      assert.equal(await next.append(10), 10)
      const history = new Set(await checkHistory(theirs().stream(name), [next]))
      // Answers of bookies from before the stop may have waited in its sockets: those records are in the history.
      const late = acked().slice(before)
      assert.ok(late.length <= 10, `${late.length} acknowledged after the stop`)
      for (const line of acked()) assert.ok(history.has(line.slice('acked '.length)), line)
      const codes = new Set(refused().map((line) => line.split(' ')[1]))
      for (const code of codes)
        assert.match(String(code), /^(fenced|lease_lost|conflict|metadata_unavailable)$/)
    } finally {
      child.kill('SIGKILL')
    }
  })
})
