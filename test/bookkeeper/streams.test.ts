import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { after, before, describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { present } from '../../src/model/assert.js'
import { isStratalogError } from '../../src/model/errors.js'
import type { Position } from '../../src/model/position.js'
import type { Ack } from '../../src/model/record.js'
import type { Stream } from '../../src/stream.js'
import { type NamespaceClient, openNamespace } from '../helpers/cluster-streams.js'
import { type JavaClient, JavaError, startJava } from '../helpers/java.js'
import { makePayload, PayloadDigest } from '../helpers/payloads.js'
import { type Bookies, startBookies } from '../servers/bookkeeper.js'
import { skipWithout } from '../servers/cache.js'

const skip = (await skipWithout('bookkeeper')) || (await skipWithout('java-clients'))
const namespace = '/messaging/streams'
const SIZE = 300

/** Streams in DistributedLog's own form: either side reads, follows and takes over what the other writes. */
describe('streams between ours and Java', { skip }, () => {
  let cluster: Bookies | undefined
  let client: JavaClient | undefined
  let opened: NamespaceClient | undefined
  const java = (): JavaClient => present(client, 'Java')
  const ours = (): NamespaceClient => present(opened, 'our client')
  before(async () => {
    cluster = await startBookies({ count: 3 })
    client = await startJava({ zookeeper: cluster.zk.address })
    await java().call('namespace.bind', { namespace })
    opened = await openNamespace(cluster, namespace, { rollBytes: 20_000 })
  })
  after(async () => {
    await opened?.close()
    await client?.close()
    await cluster?.stop()
  })

  /** Records with numbers from `first` on, ten at a time, some `named` by a producer; their acknowledgements. */
  const append = async (stream: Stream, first: number, count: number, named = false): Promise<Ack[]> => {
    const acks: Ack[] = []
    for (let i = first; i < first + count; ) {
      const together: Promise<Ack>[] = []
      for (let k = 0; k < 10 && i < first + count; k++, i++) {
        const producer = named && i % 4 === 0 ? { producer: 'p', sequence: BigInt(i) } : {}
        const txid = BigInt(1000 + 10 * i)
        together.push(stream.append(makePayload('text', BigInt(i), SIZE), { txid, ...producer }))
      }
      acks.push(...(await Promise.all(together)))
    }
    return acks
  }

  /** Java writes records with the same payloads and transaction ids as `append`. */
  const write = (handle: string, first: number, count: number) =>
    java().call('writer.write', {
      ...{ handle, count, size: SIZE, first: String(first), txid: String(1000 + 10 * first) },
    })

  const digestOf = (acks: readonly Ack[], first = 0): string => {
    const digest = new PayloadDigest()
    for (const [i, { dlsn, txid }] of acks.entries()) {
      const payload = makePayload('text', BigInt(first + i), SIZE)
      digest.add(payload, dlsn.segment, dlsn.entry, dlsn.slot, txid)
    }
    return digest.hex()
  }

  /** What ours reads, with Java's digest over it. */
  const readOurs = async (
    name: string,
    options: { readonly from?: Position; readonly limit?: number; readonly follow?: boolean } = {},
  ): Promise<{ count: number; digest: string; texts: string[]; sequenceIds: bigint[] }> => {
    const digest = new PayloadDigest()
    const texts: string[] = []
    const sequenceIds: bigint[] = []
    for await (const { dlsn, txid, payload, sequenceId } of ours().stream(name).read(options)) {
      digest.add(Buffer.from(payload), dlsn.segment, dlsn.entry, dlsn.slot, txid)
      texts.push(Buffer.from(payload).toString())
      sequenceIds.push(sequenceId)
    }
    return { count: digest.count, digest: digest.hex(), texts, sequenceIds }
  }

  /** What was acknowledged last is told to the bookies a moment later, and what is in the tree to other processes. */
  const readWhole = async (name: string, count: number): ReturnType<typeof readOurs> => {
    for (let tries = 0; ; tries++) {
      const read = await readOurs(name)
      if (read.count >= count || tries === 100) return read
      await sleep(50)
    }
  }

  const readJava = async (
    stream: string,
    from: { readonly dlsn?: string; readonly txid?: string },
    count: number,
    timeoutMs = 10_000,
  ) => {
    const { handle } = await java().call('reader.open', { namespace, stream, ...from })
    const found = await java().call('reader.read', { handle, count, timeoutMs, each: true })
    await java().call('reader.close', { handle })
    return found
  }

  const textsOf = (count: number): string[] =>
    Array.from({ length: count }, (_, i) => makePayload('text', BigInt(i), SIZE).toString())

  /** Until the lock of a writer that is gone is free. */
  const patiently = async <T>(what: () => Promise<T>): Promise<T> => {
    for (let tries = 0; ; tries++) {
      try {
        return await what()
      } catch (error) {
        const held =
          error instanceof JavaError
            ? /Ownership|Lock/.test(error.type)
            : isStratalogError(error) && error.retryable
        if (!held || tries === 100) throw error
        await sleep(150)
      }
    }
  }

  test('Java reads what ours wrote, from the head, any DLSN and txid, over several segments', async () => {
    await ours().create('ours')
    const stream = ours().stream('ours')
    const acks = await append(stream, 0, 200, true)
    await stream.seal()
    const info = await java().call('stream.info', { namespace, stream: 'ours' })
    assert.ok(info.segments.length > 2, 'it rolled')
    assert.deepEqual([info.records, info.last], [200, String(acks.at(-1)?.dlsn)])
    assert.equal((await readJava('ours', {}, 200)).digest, digestOf(acks))
    for (const i of [1, 77, 150, 199]) {
      const { dlsn, txid } = present(acks[i], 'an acknowledgement')
      const expected = digestOf(acks.slice(i), i)
      assert.equal((await readJava('ours', { dlsn: String(dlsn) }, 200 - i)).digest, expected, `from ${dlsn}`)
      assert.equal((await readJava('ours', { txid: String(txid - 3n) }, 200 - i)).digest, expected)
    }
    const { records } = await readJava('ours', {}, 200)
    assert.deepEqual(
      records?.map(({ sequenceId }) => sequenceId),
      acks.map(({ sequenceId }) => String(sequenceId)),
    )
  })

  for (const compression of ['none', 'lz4'] as const) {
    for (const set of [0, 5]) {
      test(`ours reads what Java wrote: ${compression}, ${set === 0 ? 'records' : 'record sets'}`, async () => {
        const stream = `java-${compression}-${set}`
        await java().call('stream.create', { namespace, stream })
        const options = { compression, segmentBytes: '6000', bufferBytes: 3000 }
        const { handle } = await java().call('writer.open', { namespace, stream, ...options })
        const sets = set === 0 ? {} : ({ set, setCompression: compression } as const)
        const written = await java().call('writer.write', {
          ...{ handle, count: 150, size: SIZE, payload: 'random', each: true, ...sets },
        })
        await java().call('writer.close', { handle })
        assert.deepEqual(await readWhole(stream, 150).then(({ count, digest }) => [count, digest]), [
          150,
          written.digest,
        ])
        const whole = await readJava(stream, {}, 150)
        const records = present(whole.records, 'records')
        for (const i of [1, 60, 140]) {
          const { dlsn, txid } = present(records[i], 'a record')
          const later = await readJava(stream, { dlsn }, 150 - i)
          const [segment = 0n, entry = 0n, slot = 0n] = dlsn.split(':').map(BigInt)
          const from = present(
            await ours()
              .stream(stream)
              .read({ from: { txid: BigInt(txid) }, limit: 1 })
              [Symbol.asyncIterator]()
              .next(),
            'a record',
          )
          assert.equal(from.done, false)
          const first = records.find((record) => BigInt(record.txid) >= BigInt(txid))
          assert.equal(String(from.value?.dlsn), first?.dlsn)
          const at = present(from.value, 'a record').dlsn
          assert.ok(at.segment <= segment && (at.segment < segment || at.entry <= entry) && slot >= 0n)
          assert.equal(later.count, 150 - i)
        }
      })
    }
  }

  test('each follows the other live, over rolls', async () => {
    await ours().create('live-ours')
    const stream = ours().stream('live-ours')
    const acks = await append(stream, 0, 1)
    const { handle } = await java().call('reader.open', { namespace, stream: 'live-ours' })
    const following = java().call('reader.read', { handle, count: 150 })
    for (let i = 1; i < 150; i += 10) acks.push(...(await append(stream, i, Math.min(10, 150 - i))))
    assert.equal((await following).digest, digestOf(acks))
    await java().call('reader.close', { handle })

    await java().call('stream.create', { namespace, stream: 'live-java' })
    const options = { segmentBytes: '8000', immediate: true }
    const writer = await java().call('writer.open', { namespace, stream: 'live-java', ...options })
    await write(writer.handle, 0, 1)
    const reading = readOurs('live-java', { limit: 150, follow: true })
    for (let i = 1; i < 150; i += 10) await write(writer.handle, i, Math.min(10, 150 - i))
    assert.deepEqual((await reading).texts, textsOf(150))
    await java().call('writer.close', { handle: writer.handle })
  })

  test('they take turns as writers, and both read one history', async () => {
    const stream = 'turns'
    await java().call('stream.create', { namespace, stream })
    for (let turn = 0; turn < 4; turn++) {
      const first = turn * 30
      if (turn % 2 === 0) {
        const { handle } = await java().call('writer.open', { namespace, stream, lockTimeoutSeconds: 10 })
        await write(handle, first, 30)
        await java().call('writer.close', { handle })
      } else {
        const other = await openNamespace(present(cluster, 'cluster'), namespace)
        await append(other.stream(stream), first, 30)
        await other.close()
      }
    }
    const read = await readWhole(stream, 120)
    assert.deepEqual(read.texts, textsOf(120))
    assert.deepEqual(
      read.sequenceIds,
      Array.from({ length: 120 }, (_, i) => BigInt(i)),
    )
    assert.equal((await readJava(stream, {}, 120)).digest, read.digest)
  })

  test('Java takes over from a writer of ours that was killed, and nothing acknowledged is lost', async () => {
    const stream = 'killed-ours'
    await ours().create(stream)
    const program = join(import.meta.dirname, 'stream-writer.js')
    const { zk, ledgersPath } = present(cluster, 'cluster')
    const child: ChildProcess = spawn(
      process.execPath,
      [program, zk.address, ledgersPath, namespace, stream, '0', String(SIZE)],
      { stdio: ['ignore', 'pipe', 'inherit'] },
    )
    let acked = 0
    const lines = createInterface({ input: present(child.stdout, 'its output') })
    for await (const line of lines) {
      acked = Number(line)
      if (acked >= 300) break
    }
    child.kill('SIGKILL')
    await once(child, 'exit')
    const { handle, lastTxid } = await patiently(() => java().call('writer.open', { namespace, stream }))
    // What was on its way when it died may be there too.
    const there = (Number(lastTxid) - 1000) / 10 + 1
    assert.ok(there >= acked, `${there} of ${acked}`)
    await write(handle, there, 20)
    await java().call('writer.close', { handle })
    const read = await readWhole(stream, there + 20)
    assert.deepEqual(read.texts, textsOf(there + 20))
    assert.equal((await readJava(stream, {}, there + 20)).digest, read.digest)
  })

  test('ours takes over from a Java writer that was killed', async () => {
    const stream = 'killed-java'
    const mortal = await startJava({ zookeeper: present(cluster, 'cluster').zk.address })
    await mortal.call('stream.create', { namespace, stream })
    const options = { immediate: true, segmentBytes: '15000', sessionSeconds: 3 }
    const { handle } = await mortal.call('writer.open', { namespace, stream, ...options })
    await mortal.call('writer.write', { handle, count: 100, size: SIZE })
    await mortal.kill()
    const taking = ours().stream(stream)
    await patiently(() => append(taking, 100, 1))
    await append(taking, 101, 49)
    const read = await readWhole(stream, 150)
    assert.deepEqual(read.texts, textsOf(150))
    assert.equal((await readJava(stream, {}, 150)).digest, read.digest)
  })

  test("Java's truncation and end are seen by ours, and our end by Java", async () => {
    const stream = 'truncated'
    await java().call('stream.create', { namespace, stream })
    const options = { segmentBytes: '3000', bufferBytes: 1000 }
    const { handle } = await java().call('writer.open', { namespace, stream, ...options })
    const { records = [] } = await java().call('writer.write', { handle, count: 40, size: SIZE, each: true })
    await java().call('writer.write', { handle, count: 10, size: SIZE, first: '40', txid: '1400' })
    const cut = present(records[25], 'a record').dlsn
    await java().call('writer.truncate', { handle, dlsn: cut })
    await java().call('writer.end', { handle })
    await java().call('writer.close', { handle })
    const { texts } = await readOurs(stream)
    const theirs = await readJava(stream, {}, 50, 1500)
    assert.equal(theirs.why, 'ended')
    assert.deepEqual(texts.slice(-theirs.count), textsOf(50).slice(-theirs.count))
    await assert.rejects(append(ours().stream(stream), 50, 1), (error) =>
      isStratalogError(error, 'stream_finished'),
    )

    // With a segment open, with none, and without a record. The writer's process goes on, and Java needs its lock.
    for (const [name, count] of Object.entries({ ended: 25, 'ended-sealed': 25, 'ended-empty': 0 })) {
      await ours().create(name)
      await append(ours().stream(name), 0, count)
      if (name === 'ended-sealed') await ours().stream(name).seal()
      await ours().stream(name).finish()
      const found = await readJava(name, {}, 100, 5000)
      assert.deepEqual([found.count, found.why], [count, 'ended'], name)
      assert.deepEqual((await readOurs(name)).texts, textsOf(count), name)
      await assert.rejects(append(ours().stream(name), count, 1), (error) =>
        isStratalogError(error, 'stream_finished'),
      )
      await assert.rejects(
        java()
          .call('writer.open', { namespace, stream: name })
          .then(({ handle: writer }) => write(writer, count, 1)),
        (error) => error instanceof JavaError && /EndOfStream/.test(error.type),
        name,
      )
    }
  })
})
