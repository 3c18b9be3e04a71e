import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Log } from '../../src/log.js'
import { present } from '../../src/model/assert.js'
import { Dlsn } from '../../src/model/dlsn.js'
import { isStratalogError } from '../../src/model/errors.js'
import { openLog } from '../../src/open.js'
import type { OpenOptions } from '../../src/options.js'
import type { PassReport } from '../../tiering/pass-report.js'
import { type JavaClient, JavaError, startJava } from '../helpers/java.js'
import type { JavaRecord } from '../helpers/java-verbs.js'
import { makePayload } from '../helpers/payloads.js'
import { type Bookies, startBookies } from '../servers/bookkeeper.js'
import { skipWithout } from '../servers/cache.js'

const skip = (await skipWithout('bookkeeper')) || (await skipWithout('java-clients'))
const ROOT = mkdtempSync(join(tmpdir(), 'stratalog-foreign-'))
const directory = () => mkdtempSync(join(ROOT, 'dir-'))
const namespace = '/messaging/foreign'
const SIZE = 300
const ONE = { ensemble: 1, writeQuorum: 1, ackQuorum: 1 } as const
/** A segment takes about nine records. */
const SMALL = { ...ONE, segmentBytes: '3000', bufferBytes: 1000 } as const

/** Streams that Java writers own, with Java's purge and truncation: what ours archives outlives both. */
describe('streams of Java writers', { skip }, () => {
  let cluster: Bookies | undefined
  let client: JavaClient | undefined
  const logs: Log[] = []
  const java = (): JavaClient => present(client, 'Java')
  before(async () => {
    cluster = await startBookies({ count: 1 })
    client = await startJava({ zookeeper: cluster.zk.address })
    await java().call('namespace.bind', { namespace })
  })
  after(async () => {
    for (const log of logs) await log.close()
    await client?.close()
    await cluster?.stop()
    rmSync(ROOT, { recursive: true, force: true })
  })

  /** A process of ours, with a cache of its own. */
  const open = async (options: Partial<OpenOptions> = {}): Promise<Log> => {
    const log = await openLog(directory(), {
      metadata: `zk://${present(cluster, 'cluster').zk.address}${namespace}`,
      stores: 'bookkeeper',
      archive: join(ROOT, 'archive'),
      zookeeper: { sessionTimeoutMs: 4_000 },
      defaults: { quorum: { copies: 1, ack: 1 }, evict: { lag: 0 }, hot: { for: 0 } },
      tiering: 'off',
      control: 'off',
      config: 'none',
      ...options,
    })
    logs.push(log)
    return log
  }

  const writer = async (stream: string, options: object = {}): Promise<string> => {
    const { handle } = await java().call('writer.open', { namespace, stream, ...SMALL, ...options })
    return handle
  }
  /** A few at a time: Java looks whether to roll before each write, at what was acknowledged by then. */
  const write = async (handle: string, from: number, count: number) => {
    const written: Pick<JavaRecord, 'dlsn' | 'txid'>[] = []
    for (let first = from; first < from + count; first += 5) {
      const numbers = { size: SIZE, first: String(first), txid: String(1000 + 10 * first) }
      const some = { count: Math.min(5, from + count - first), each: true }
      const { records = [] } = await java().call('writer.write', { handle, ...numbers, ...some })
      written.push(...records)
    }
    return written
  }
  /** Numbers of the segments in the tree, oldest first; `stream.info` opens ledgers, which a purge may take meanwhile. */
  const segments = async (stream: string): Promise<number[]> => {
    const { nodes } = await java().call('tree.dump', { path: `${namespace}/${stream}/<default>/ledgers` })
    return nodes
      .flatMap(({ path }) => /(?:logrecs|inprogress)_(\d+)$/.exec(path)?.[1] ?? [])
      .map(Number)
      .sort()
  }

  /** Completed two hours earlier than they were: Java's purge goes by whole hours. */
  const age = async (stream: string): Promise<void> => {
    const path = `${namespace}/${stream}/<default>/ledgers`
    const { nodes } = await java().call('tree.dump', { path })
    for (const { path: node, data } of nodes) {
      const fields = Buffer.from(data, 'base64').toString().split(';')
      if (fields.length !== 11) continue
      fields[4] = String(Number(fields[4]) - 2 * 3_600_000)
      await java().call('tree.put', { path: node, text: fields.join(';') })
    }
  }
  /** Java's writer rolls and then purges what has aged; what it wrote meanwhile, and the first segment that is left. */
  const purge = async (stream: string, from: number, options: object = {}) => {
    await age(stream)
    const [before] = await segments(stream)
    const handle = await writer(stream, { retentionHours: 1, ...options })
    let next = from
    for (let tries = 0; (await segments(stream))[0] === before; tries++) {
      assert.ok(tries < 50, 'nothing is purged')
      await write(handle, next, 10)
      next += 10
      await sleep(100)
    }
    return { handle, next }
  }

  const textsOf = (first: number, end: number): string[] =>
    Array.from({ length: end - first }, (_, i) => makePayload('text', BigInt(first + i), SIZE).toString())
  const texts = async (log: Log, stream: string, options: object = {}): Promise<string[]> => {
    const found: string[] = []
    for await (const record of log.stream(stream).read(options))
      found.push(Buffer.from(record.value as Uint8Array).toString())
    return found
  }
  const findings = async (log: Log, stream: string): Promise<string[]> => {
    const found: string[] = []
    for await (const part of log.archive.verify({ stream }))
      if (part.type === 'finding') found.push(part.finding.text)
    return found
  }
  const states = async (log: Log, stream: string): Promise<string[]> => {
    const found: string[] = []
    for await (const { state } of log.segments(stream)) found.push(state)
    return found
  }

  /** One pass, once the log sees what Java did to the tree: it is told a moment later. */
  const tier = async (log: Log, stream: string): Promise<PassReport> => {
    const path = `${namespace}/${stream}/<default>/ledgers`
    for (let tries = 0; ; tries++) {
      const { nodes } = await java().call('tree.dump', { path })
      const inTree = nodes.flatMap(({ path: node }) => /(logrecs|inprogress)_\d+$/.exec(node)?.[1] ?? [])
      const ours = (await states(log, stream)).filter((state) => state !== 'cold' && state !== 'gap')
      const open = (all: readonly string[], name: string) => all.filter((one) => one === name).length
      if (ours.length >= inTree.length && open(ours, 'open') === open(inTree, 'inprogress')) break
      assert.ok(tries < 100, 'the log sees the tree as it is')
      await sleep(50)
    }
    return log.tier.run()
  }

  test('archived ahead of the purge, and the whole history is readable after it (invariants 1, 2 and 12)', async () => {
    const stream = 'history'
    await java().call('stream.create', { namespace, stream })
    const first = await writer(stream)
    const records = await write(first, 0, 40)
    const log = await open()
    const report = await tier(log, stream)
    assert.deepEqual(report.failed, [])
    const found = await states(log, stream)
    assert.ok(found.length > 3 && found.pop() === 'open', found.join())
    assert.deepEqual(new Set(found), new Set(['archived']))
    // The segment in progress was neither fenced nor recovered: its writer goes on in it.
    records.push(...(await write(first, 40, 10)))
    await java().call('writer.close', { handle: first })
    await tier(log, stream)
    const { handle, next } = await purge(stream, 50)

    const fresh = await open()
    for (const ours of [log, fresh]) {
      assert.deepEqual(await texts(ours, stream), textsOf(0, next))
      for (const i of [1, 17, 33, 49]) {
        const { dlsn, txid } = present(records[i], 'a record')
        assert.deepEqual(await texts(ours, stream, { from: Dlsn.parse(dlsn), limit: 5 }), textsOf(i, i + 5))
        assert.deepEqual(
          await texts(ours, stream, { from: { txid: BigInt(txid) }, limit: 5 }),
          textsOf(i, i + 5),
        )
      }
    }
    assert.equal((await states(log, stream))[0], 'cold')
    const following = texts(log, stream, { follow: true, limit: next + 20 })
    await write(handle, next, 20)
    await java().call('writer.close', { handle })
    assert.deepEqual(await following, textsOf(0, next + 20))
  })

  test('a purge that was there before the copy is a gap that is named, and history goes on behind it (invariant 2)', async () => {
    const stream = 'raced'
    await java().call('stream.create', { namespace, stream })
    const first = await writer(stream)
    await write(first, 0, 20)
    await java().call('writer.close', { handle: first })
    const log = await open()
    await tier(log, stream)
    const archived = (await states(log, stream)).length
    const second = await writer(stream)
    await write(second, 20, 30)
    await java().call('writer.close', { handle: second })
    assert.ok((await states(log, stream)).length > archived + 1)
    const { handle, next } = await purge(stream, 50)
    await java().call('writer.close', { handle })
    const fresh = await open()
    for (const ours of [log, fresh]) {
      await ours.tier.run()
      const rows = await states(ours, stream)
      assert.deepEqual(new Set(rows.slice(0, archived)), new Set(['cold']))
      assert.equal(rows[archived], 'gap', rows.join())
      await assert.rejects(texts(ours, stream), /purged/)
      const seen: string[] = []
      const gaps: string[] = []
      for await (const item of ours.stream(stream).read({ onGap: 'yield' })) {
        if ('gap' in item) gaps.push(item.gap)
        else seen.push(Buffer.from(item.value as Uint8Array).toString())
      }
      assert.deepEqual([...new Set(gaps)], ['purged'])
      assert.deepEqual(seen.slice(0, 20), textsOf(0, 20))
      assert.deepEqual(seen.slice(20), textsOf(next - (seen.length - 20), next))
    }
    // The archive alone knows why, too (invariant 7).
    assert.deepEqual(await findings(fresh, stream), [])
  })

  test('of a stream that was purged before anybody looked, history begins where it does', async () => {
    const stream = 'late'
    await java().call('stream.create', { namespace, stream })
    const first = await writer(stream)
    await write(first, 0, 40)
    await java().call('writer.close', { handle: first })
    const reader = await java().call('reader.open', { namespace, stream })
    await java().call('reader.read', { handle: reader.handle, count: 3 })
    const { handle, next } = await purge(stream, 40)
    // What a Java reader meets that stands in what goes: an eviction of ours does no worse to it.
    await assert.rejects(
      java().call('reader.read', { handle: reader.handle, count: 60, timeoutMs: 3_000 }),
      (error) => error instanceof JavaError && /DLIllegalState/.test(error.type),
    )
    const log = await open()
    const { failed } = await tier(log, stream)
    assert.deepEqual(failed, [])
    await java().call('writer.close', { handle })
    const left = await texts(log, stream)
    assert.ok(left.length > 0)
    assert.deepEqual(left, textsOf(next - left.length, next))
    assert.deepEqual(await texts(await open(), stream), left)
    assert.deepEqual(await findings(log, stream), [])
  })

  test("Java's truncation is kept by default, and moves the trim point where it is followed (invariant 5)", async () => {
    const stream = 'cut'
    await java().call('stream.create', { namespace, stream })
    const handle = await writer(stream)
    const records = await write(handle, 0, 60)
    const log = await open()
    await tier(log, stream)
    const at = 33
    const dlsn = present(records[at], 'a record').dlsn
    await java().call('writer.truncate', { handle, dlsn })
    await tier(log, stream)
    assert.deepEqual(await texts(log, stream), textsOf(0, 60))

    const follower = await open({ bookkeeper: { truncation: 'follow', purge: 'never' } })
    await follower.stream(stream).hold({ id: 'case-7', from: Dlsn.parse(dlsn) })
    const first = Dlsn.parse(present(records[12], 'a record').dlsn)
    await follower.stream(stream).hold({ id: 'case-8', from: first, until: Dlsn.parse(dlsn) })
    await follower.tier.run()
    const held = await texts(follower, stream)
    assert.deepEqual(held, textsOf(60 - held.length, 60))
    assert.ok(held.length >= 48 && held.length < 60, `a hold binds: ${held.length} records are left`)
    for (const id of ['case-7', 'case-8']) await follower.stream(stream).release(id)
    const report = await follower.tier.run()
    assert.deepEqual(report.failed, [])
    for (const ours of [follower, log]) assert.deepEqual(await texts(ours, stream), textsOf(at, 60))
    const trimmed = present((await log.stream(stream).info()).trimmedBelow, 'a trim point')
    assert.equal(`${trimmed}`, dlsn)
    // Nothing more is cut, and Java reads and writes what is left.
    assert.equal((await follower.tier.run()).trimmed, 0)
    await write(handle, 60, 5)
    await java().call('writer.close', { handle })
    const reader = await java().call('reader.open', { namespace, stream, dlsn })
    const { count } = await java().call('reader.read', { handle: reader.handle, count: 65 - at })
    assert.equal(count, 65 - at)
    await java().call('reader.close', { handle: reader.handle })
  })

  test('a hold that the purge could break is refused, and doctor names one that stands', async () => {
    const stream = 'held'
    await java().call('stream.create', { namespace, stream })
    const handle = await writer(stream)
    const records = await write(handle, 0, 30)
    const log = await open()
    const all = { id: 'case-1' }
    const refused = (error: unknown) =>
      isStratalogError(error, 'refused') && /purge: never/.test(error.message)
    await assert.rejects(log.stream(stream).hold(all), refused)
    await tier(log, stream)
    // What is archived is out of the purge's reach; what is still to be written is not.
    await assert.rejects(log.stream(stream).hold(all), refused)
    const early = { id: 'case-2', until: Dlsn.parse(present(records[9], 'a record').dlsn) }
    await log.stream(stream).hold(early)
    const lines = async (of: Log) => (await of.doctor()).checks.filter(({ name }) => name === 'java')
    assert.deepEqual(
      (await lines(log)).map(({ state }) => state),
      ['ok'],
    )

    const stated = await open({ bookkeeper: { purge: 'never' } })
    await stated.stream(stream).hold(all)
    assert.deepEqual(
      (await lines(stated)).map(({ state }) => state),
      ['ok'],
    )
    const [ok, bad] = await lines(log)
    assert.match(`${ok?.text}`, /delete what is older than 3d/)
    assert.equal(bad?.state, 'bad')
    assert.match(`${bad.text}`, /case-1 of held/)
    assert.match(`${bad.mend}`, /logSegmentRetentionHours/)
    await stated.stream(stream).release('case-1')
    await java().call('writer.close', { handle })
    // A stream of ours is purged by nobody.
    await log.stream('own').append('x')
    await log.stream('own').hold(all)
  })

  test('eviction, where it is switched on, under a Java reader in the oldest hot segment (invariants 1 and 4)', async () => {
    const stream = 'evicted'
    await java().call('stream.create', { namespace, stream })
    const handle = await writer(stream)
    await write(handle, 0, 40)
    const reader = await java().call('reader.open', { namespace, stream })
    const read = (count: number) => java().call('reader.read', { handle: reader.handle, count, each: true })
    await read(3)
    const log = await open()
    await tier(log, stream)
    const count = (await segments(stream)).length
    assert.ok(count > 3)
    await tier(log, stream)
    assert.equal((await segments(stream)).length, count, 'nothing is evicted unless it is switched on')

    const evicting = await open({ bookkeeper: { evict: true } })
    await evicting.tier.run()
    const left = await segments(stream)
    // Without a hole, from the newest completed one on: a Java writer counts on from it.
    assert.deepEqual(left, [count - 1, count])
    await write(handle, 40, 20)
    await java().call('writer.close', { handle })
    assert.deepEqual(await texts(evicting, stream), textsOf(0, 60))
    const again = await writer(stream)
    await write(again, 60, 5)
    await java().call('writer.close', { handle: again })
    assert.deepEqual(await texts(log, stream), textsOf(0, 65))
    // One who begins anew reads what is left; the one who stood in what is gone is told, as after a purge of Java's.
    const fresh = await java().call('reader.open', { namespace, stream })
    const { records = [] } = await java().call('reader.read', {
      handle: fresh.handle,
      count: 65,
      timeoutMs: 1500,
      each: true,
    })
    assert.equal(records.at(-1)?.txid, String(1000 + 10 * 64))
    await assert.rejects(read(62), (error) => error instanceof JavaError && /DLIllegalState/.test(error.type))
    await java().call('reader.close', { handle: fresh.handle })
  })
})
