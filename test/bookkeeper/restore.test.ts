import assert from 'node:assert/strict'
import { once } from 'node:events'
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { openArchive, planRestore, restoreArchive } from '../../src/lazy.js'
import type { Log } from '../../src/log.js'
import { present } from '../../src/model/assert.js'
import { Dlsn } from '../../src/model/dlsn.js'
import { isStratalogError } from '../../src/model/errors.js'
import type { Ack } from '../../src/model/record.js'
import { openLog } from '../../src/open.js'
import type { OpenOptions } from '../../src/options.js'
import type { RestoreSelection } from '../../src/restore.js'
import { finished, start, values } from '../helpers/cli.js'
import { type JavaClient, JavaError, startJava } from '../helpers/java.js'
import { makePayload, PayloadDigest } from '../helpers/payloads.js'
import { type Bookies, startBookies } from '../servers/bookkeeper.js'
import { skipWithout } from '../servers/cache.js'

const skip = (await skipWithout('bookkeeper')) || (await skipWithout('java-clients'))
const BASE = mkdtempSync(join(tmpdir(), 'sl-restore-'))
const directory = () => mkdtempSync(join(BASE, 'dir-'))
const SIZE = 300

/** What an archive holds becomes ledgers and nodes again, and Java reads it (invariant 7). */
describe('restore into BookKeeper', { skip }, () => {
  let cluster: Bookies | undefined
  let client: JavaClient | undefined
  const java = (): JavaClient => present(client, 'Java')
  before(async () => {
    cluster = await startBookies({ count: 3 })
    client = await startJava({ zookeeper: cluster.zk.address })
  })
  const opened: Log[] = []
  const open = async (dir: string, options: OpenOptions): Promise<Log> => {
    const log = await openLog(dir, options)
    opened.push(log)
    return log
  }
  after(async () => {
    // Those that a failed test left open too: without a cluster they would wait for it for long.
    await Promise.allSettled(opened.map((log) => log.close()))
    await client?.close()
    await cluster?.stop()
    rmSync(BASE, { recursive: true, force: true })
  })

  const defaults: OpenOptions = {
    defaults: { roll: { size: '4 KiB' }, evict: { lag: 0 }, hot: { for: 0 } },
    tiering: 'off',
    control: 'off',
    config: 'none',
  }
  const inCluster = (namespace: string, archive: string | 'none' = 'none'): OpenOptions => ({
    ...defaults,
    metadata: `zk://${present(cluster, 'cluster').zk.address}/${namespace}`,
    stores: 'bookkeeper',
    archive,
    zookeeper: { sessionTimeoutMs: 4_000 },
    bookkeeper: { evict: true },
  })

  const append = async (log: Log, name: string, first: number, count: number): Promise<Ack[]> => {
    const acks: Ack[] = []
    if (first === 0) await log.streams.create(name, { txid: 'custom' })
    const stream = log.stream(name)
    for (let i = first; i < first + count; ) {
      const together: Promise<Ack>[] = []
      for (let k = 0; k < 5 && i < first + count; k++, i++) {
        const txid = BigInt(1000 + 10 * i)
        together.push(stream.append(makePayload('text', BigInt(i), SIZE), { txid }))
      }
      acks.push(...(await Promise.all(together)))
    }
    return acks
  }

  const digestOf = (acks: readonly Ack[]): string => {
    const digest = new PayloadDigest()
    for (const [i, { dlsn, txid }] of acks.entries())
      digest.add(makePayload('text', BigInt(i), SIZE), dlsn.segment, dlsn.entry, dlsn.slot, txid)
    return digest.hex()
  }

  const readJava = async (
    namespace: string,
    stream: string,
    count: number,
    from: { readonly dlsn?: string; readonly txid?: string } = {},
    timeoutMs = 10_000,
  ) => {
    const { handle } = await java().call('reader.open', { namespace, stream, ...from })
    const found = await java().call('reader.read', { handle, count, timeoutMs, each: true })
    await java().call('reader.close', { handle })
    return found
  }

  const positions = async (log: Log, name: string): Promise<Dlsn[]> => {
    const found: Dlsn[] = []
    for await (const { dlsn } of log.stream(name).read()) found.push(dlsn)
    return found
  }
  const settled = async <T>(parts: AsyncIterable<T>): Promise<T[]> => {
    const all: T[] = []
    for await (const part of parts) all.push(part)
    return all
  }
  const countOf = async (log: Log, name: string): Promise<number> => (await positions(log, name)).length

  const restore = async (into: Log, location: string, selection: RestoreSelection = {}) => {
    const archive = await openArchive(location)
    try {
      const plan = await planRestore(archive, selection)
      const report = await restoreArchive(into, archive, plan)
      assert.equal(report.digest, plan.digest)
      return report
    } finally {
      await archive.close()
    }
  }

  test('a namespace from the archive of another: Java reads it whole, we append on, Java reads on', async () => {
    const location = join(BASE, 'archive-first')
    const first = await open(directory(), inCluster('first', location))
    const acks = await append(first, 'orders', 0, 100)
    await first.stream('orders').seal()
    for (let pass = 0; pass < 2; pass++) assert.deepEqual((await first.tier.run()).failed, [])
    await first.close()

    const second = await open(directory(), inCluster('second'))
    const report = await restore(second, location)
    assert.deepEqual([report.records, report.gaps], [100n, []])
    const namespace = '/second'
    const info = await java().call('stream.info', { namespace, stream: 'orders' })
    assert.deepEqual([info.records, info.last], [100, String(acks.at(-1)?.dlsn)])
    assert.equal((await readJava(namespace, 'orders', 100)).digest, digestOf(acks))
    const { dlsn, txid } = present(acks[57], 'an acknowledgement')
    for (const from of [{ dlsn: String(dlsn) }, { txid: String(txid) }])
      assert.equal((await readJava(namespace, 'orders', 43, from)).records?.[0]?.dlsn, String(dlsn))
    acks.push(...(await append(second, 'orders', 100, 20)))
    await second.stream('orders').seal()
    assert.equal((await readJava(namespace, 'orders', 120)).digest, digestOf(acks))
    await second.close()
  })

  test('a stream that a log in a directory archived', async () => {
    const location = join(BASE, 'archive-embedded')
    const dir = directory()
    const embedded = await open(dir, { ...defaults, archive: location })
    const acks = await append(embedded, 'orders', 0, 60)
    for (let i = 0; i < 10; i++)
      await embedded
        .stream('events')
        .append(makePayload('text', BigInt(i), SIZE), { producer: 'p', sequence: BigInt(i) })
    await embedded.stream('orders').seal()
    await embedded.stream('events').finish()
    for (let pass = 0; pass < 2; pass++) assert.deepEqual((await embedded.tier.run()).failed, [])
    await embedded.close()

    const log = await open(directory(), inCluster('embedded'))
    await restore(log, location)
    const namespace = '/embedded'
    assert.equal((await readJava(namespace, 'orders', 60)).digest, digestOf(acks))
    const ended = await readJava(namespace, 'events', 100, {}, 5_000)
    assert.deepEqual([ended.count, ended.why], [10, 'ended'])
    acks.push(...(await append(log, 'orders', 60, 10)))
    await log.stream('orders').seal()
    assert.equal((await readJava(namespace, 'orders', 70)).digest, digestOf(acks))
    await log.close()
  })

  const archiveAll = async (log: Log): Promise<void> => {
    for (let pass = 0; pass < 3; pass++) assert.deepEqual((await log.tier.run()).failed, [])
  }

  test('streams that were ended: with the record that says so, or without it where the restore ends before', async () => {
    const location = join(BASE, 'archive-ends')
    const log = await open(directory(), inCluster('ends', location))
    const counts = { open: 25, sealed: 25, empty: 0 }
    for (const [name, count] of Object.entries(counts)) {
      await append(log, name, 0, count)
      if (name === 'sealed') await log.stream(name).seal()
      await log.stream(name).finish()
    }
    await log.stream('timed').append('before the end')
    await sleep(20)
    await log.stream('timed').finish()
    const [sealed] = await settled(log.segments('timed'))
    const endedMs = present(sealed?.sealedMs, 'when it ended')
    await archiveAll(log)
    await log.close()

    const again = await open(directory(), inCluster('ends-again'))
    await restore(again, location)
    const inDirectory = await open(directory(), { ...defaults, archive: 'none' })
    await restore(inDirectory, location)
    for (const [name, count] of Object.entries(counts)) {
      const found = await readJava('/ends-again', name, 100, {}, 5_000)
      assert.deepEqual([found.count, found.why], [count, 'ended'], name)
      for (const one of [again, inDirectory]) {
        assert.equal(await countOf(one, name), count, name)
        await assert.rejects(one.stream(name).append('x'), (error) =>
          isStratalogError(error, 'stream_finished'),
        )
      }
    }

    // A moment before the end all records were there, and the streams went on: to the archive's names it is within.
    const earlier = await open(directory(), inCluster('ends-earlier'))
    await restore(earlier, location, { streams: ['open'], until: new Dlsn(1_000n, 0n, 0n) })
    assert.equal((await earlier.stream('open').info()).finishedMs !== null, true)
    const last = present((await positions(earlier, 'open')).at(-1), 'a record')
    const until = new Dlsn(last.segment, last.entry, last.slot + 1n)
    await restore(earlier, location, { streams: ['open'], until, as: { open: 'went-on' } })
    // Its txid is no time: the record is as old as its segment.
    for (const [name, time] of Object.entries({ 'timed-before': endedMs, 'timed-after': endedMs + 1 })) {
      await restore(earlier, location, { streams: ['timed'], until: { time }, as: { timed: name } })
      assert.equal(await countOf(earlier, name), 1)
      assert.equal((await earlier.stream(name).info()).finishedMs !== null, time > endedMs, name)
    }
    const acks = await append(earlier, 'went-on', 25, 5)
    await earlier.stream('went-on').seal()
    assert.equal((await readJava('/ends-earlier', 'went-on', 30)).last, String(acks.at(-1)?.dlsn))
  })

  test('what is missing in the archive is a gap: ours reads over it if told to, Java from behind it', async () => {
    const location = join(BASE, 'archive-gap')
    const log = await open(directory(), { ...defaults, archive: location })
    const acks = await append(log, 'orders', 0, 60)
    await log.stream('orders').seal()
    await archiveAll(log)
    await log.close()
    const lost = [1n, 3n]
    for (const key of readdirSync(location, { recursive: true, encoding: 'utf8' }))
      if (lost.some((segment) => key.includes(`/s${String(segment).padStart(13, '0')}-`)))
        rmSync(join(location, key))
    const again = await open(directory(), inCluster('gap'))
    const archive = await openArchive(location)
    const report = await restoreArchive(again, archive, await planRestore(archive))
    await archive.close()
    assert.deepEqual(
      report.gaps.map(({ first }) => first),
      lost,
    )
    const left = acks.filter(({ dlsn }) => !lost.includes(dlsn.segment))
    const found: string[] = []
    for await (const one of again.stream('orders').read({ onGap: 'yield' }))
      found.push('gap' in one ? `gap ${one.from.segment}` : String(one.dlsn))
    assert.deepEqual(
      found.filter((one) => !one.startsWith('gap')),
      left.map(({ dlsn }) => String(dlsn)),
    )
    assert.deepEqual(
      found.filter((one) => one.startsWith('gap')),
      ['gap 1', 'gap 3'],
    )
    // Java knows no gaps: one between others is a segment that was truncated, and no reader begins below it.
    await assert.rejects(readJava('/gap', 'orders', 1), (error) => error instanceof JavaError)
    const behind = left.filter(({ dlsn }) => dlsn.segment > 3n)
    assert.deepEqual(
      (await readJava('/gap', 'orders', behind.length, { dlsn: '4:0:0' })).records?.map(({ dlsn }) => dlsn),
      behind.map(({ dlsn }) => String(dlsn)),
    )
  })

  test('a stream that Java wrote, its control records with it', async () => {
    const location = join(BASE, 'archive-java')
    const log = await open(directory(), inCluster('java', location))
    await java().call('stream.create', { namespace: '/java', stream: 'theirs' })
    const { handle } = await java().call('writer.open', {
      ...{ namespace: '/java', stream: 'theirs', immediate: true, segmentBytes: '6000' },
    })
    const written = await java().call('writer.write', { handle, count: 60, size: SIZE })
    await java().call('writer.close', { handle })
    const before = await java().call('stream.info', { namespace: '/java', stream: 'theirs' })
    await archiveAll(log)
    const again = await open(directory(), inCluster('java-again'))
    await restore(again, location)
    const read = await readJava('/java-again', 'theirs', 60)
    assert.deepEqual([read.count, read.digest], [60, written.digest])
    const after = await java().call('stream.info', { namespace: '/java-again', stream: 'theirs' })
    assert.deepEqual([after.records, after.last], [before.records, before.last])
    const other = await java().call('writer.open', { namespace: '/java-again', stream: 'theirs' })
    await java().call('writer.write', {
      ...{ handle: other.handle, count: 10, size: SIZE, first: '60', txid: '1600' },
    })
    await java().call('writer.close', { handle: other.handle })
    assert.equal((await readJava('/java-again', 'theirs', 70)).count, 70)
  })

  test('killed half-way the same command goes on, and nobody writes meanwhile; its archive may be the one restored from', async () => {
    const location = join(BASE, 'archive-killed')
    const log = await open(directory(), { ...defaults, archive: location })
    const acks = await append(log, 'orders', 0, 400)
    await log.stream('orders').seal()
    await archiveAll(log)
    await log.close()

    const dir = directory()
    const { zk } = present(cluster, 'cluster')
    const config = `version: 1
metadata: zk://${zk.address}/killed
stores: bookkeeper
archive: ${location}
zookeeper: { session-timeout: 4s }
`
    writeFileSync(join(dir, 'stratalog.yaml'), config)
    const command = ['restore', '--from', location, '--into', dir]
    const dry = await finished(start([...command, '--dry-run']))
    assert.equal(dry.code, 0, dry.err)
    assert.match(dry.out, /for 3 copies, on bookies, whose free space is not known here/)

    const child = start([...command, '--yes'])
    const other = await open(directory(), inCluster('killed'))
    for (;;) {
      const stream = await other
        .stream('orders')
        .info()
        .catch(() => null)
      if ((stream?.newestSegment ?? 0n) >= 3n) break
      await sleep(5)
    }
    // It waits for the lock that the restore holds, and once it has it there is a part of the stream alone.
    const refused = assert.rejects(
      other.stream('orders').append('x'),
      /run the same "stratalog restore" again/,
    )
    child.kill('SIGKILL')
    await once(child, 'exit')
    await refused
    const again = await finished(start([...command, '--yes', '--json']))
    assert.equal(again.code, 0, again.err)
    const report = values(again.out)[0] ?? {}
    assert.ok(Number(report.resumed) >= 3, `${report.resumed} of ${report.segments} segments were there`)
    assert.equal((await readJava('/killed', 'orders', 400)).digest, digestOf(acks))
    acks.push(...(await append(other, 'orders', 400, 5)))
    await other.stream('orders').seal()
    assert.equal((await readJava('/killed', 'orders', 405)).digest, digestOf(acks))

    // The archive is still the old log's: nothing goes into it before it is taken over.
    const cli = (...args: string[]) => finished(start(['--dir', dir, ...args]))
    const pass = await cli('tier', 'run')
    assert.notEqual(pass.code, 0)
    assert.match(pass.err + pass.out, /archive own --take-over/)
    const taken = await cli('archive', 'own', '--take-over', '--yes')
    assert.equal(taken.code, 0, taken.err)
    const went = await cli('tier', 'run')
    assert.equal(went.code, 0, went.err + went.out)
    const fsck = await cli('fsck')
    assert.equal(fsck.code, 0, fsck.out + fsck.err)
    assert.match((await cli('tier', 'status')).out, /^scrub {4}hot copies are BookKeeper's to keep/m)
  })
})
