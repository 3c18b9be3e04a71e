import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { encodeSegmentMetadata } from '../../src/format/segment-metadata.js'
import { completedName, inProgressName } from '../../src/format/segment-name.js'
import { LedgerReader } from '../../src/ledger/reader.js'
import { present } from '../../src/model/assert.js'
import type { Ack } from '../../src/model/record.js'
import { isClosed, type SegmentRow } from '../../src/model/segment.js'
import { type JavaClient, startJava } from '../helpers/java.js'
import { ManualClock } from '../helpers/manual-clock.js'
import { makePayload, PayloadDigest } from '../helpers/payloads.js'
import { StreamWorld } from '../helpers/stream-world.js'
import { type Bookies, startBookies } from '../servers/bookkeeper.js'
import { skipWithout } from '../servers/cache.js'

const skip = (await skipWithout('bookkeeper')) || (await skipWithout('java-clients'))
const namespace = '/messaging/entries'

/**
 * Entries that our writer made over stores in memory, copied verbatim into ledgers of Java, with segment nodes as
 * src/format encodes them: what DistributedLog makes of them shows whether they are what it expects, whoever carried
 * them there.
 */
describe('entries of our writer, to a Java reader', { skip }, () => {
  let cluster: Bookies | undefined
  let client: JavaClient | undefined
  const java = (): JavaClient => present(client, 'Java')
  before(async () => {
    cluster = await startBookies({ count: 3 })
    client = await startJava({ zookeeper: cluster.zk.address })
    await java().call('namespace.bind', { namespace })
  })
  after(async () => {
    await client?.close()
    await cluster?.stop()
  })

  /** Appends records of a producer and of nobody, in many segments; the acknowledgements. */
  const append = async (world: StreamWorld, count: number, size: number): Promise<Ack[]> => {
    world.rollAt(6000)
    const stream = world.stream()
    const acks: Ack[] = []
    for (let i = 0; i < count; ) {
      const together: Promise<Ack>[] = []
      for (let k = 0; k < 5 && i < count; k++, i++) {
        const payload = makePayload('random', BigInt(i), size)
        const mine = i % 3 === 0 ? { producer: `p${i % 2}`, sequence: BigInt(i) } : {}
        together.push(stream.append(payload, { txid: BigInt(1000 + 10 * i), ...mine }))
      }
      acks.push(...(await Promise.all(together)))
    }
    return acks
  }

  const digestOf = (acks: readonly Ack[], size: number, from = 0): string => {
    const digest = new PayloadDigest()
    for (let i = from; i < acks.length; i++) {
      const { dlsn, txid } = present(acks[i], 'an acknowledgement')
      digest.add(makePayload('random', BigInt(i), size), dlsn.segment, dlsn.entry, dlsn.slot, txid)
    }
    return digest.hex()
  }

  /** The same entries in a ledger of Java, and the node that leads to it. */
  const carry = async (world: StreamWorld, row: SegmentRow, stream: string): Promise<void> => {
    const reader = await LedgerReader.open(world.process.context, present(row.ledgerId, 'ledger'))
    const payloads: string[] = []
    const last = await reader.lastConfirmed()
    for (let id = 0n; id <= last; id += 1n) {
      const [entry] = await reader.readEntries(id, id, 1)
      payloads.push(Buffer.from(present(entry, 'entry').payload).toString('base64'))
    }
    const made = await java().call('ledger.create', { digest: 'CRC32' })
    await java().call('ledger.add', { handle: made.handle, payloads })
    const closed = isClosed(row.state)
    if (closed) await java().call('ledger.close', { handle: made.handle })
    const text = encodeSegmentMetadata({
      ...{ version: 5, ledgerId: BigInt(made.ledger), firstTxid: row.firstTxid, segment: row.segment },
      ...{ truncation: 'active', spareStatusBits: 0, regionId: 0, minActiveEntryId: 0n, minActiveSlotId: 0n },
      startSequenceId: closed ? row.startSequenceId : -1n,
      completion: closed
        ? {
            lastTxid: row.lastTxid,
            completedMs: present(row.sealedMs, 'when it was sealed'),
            recordCount: Number(row.recordCount),
            lastEntryId: row.lastEntryId,
            lastSlotId: row.lastSlot,
          }
        : null,
    })
    const root = `${namespace}/${stream}/<default>`
    const name = closed ? completedName(row.segment) : inProgressName(row.segment)
    await java().call('tree.put', { path: `${root}/ledgers/${name}`, text })
    await java().call('tree.put', { path: `${root}/ledgers`, text: String(row.segment) })
    if (closed) await java().call('tree.put', { path: `${root}/maxtxid`, text: String(row.lastTxid) })
  }

  test('are read whole, from any DLSN and txid; producers are not in the way; a Java writer goes on', async () => {
    const world = new StreamWorld(new ManualClock())
    try {
      const stream = 'carried'
      const size = 300
      await world.create('orders', 'custom')
      const acks = await append(world, 97, size)
      const rows = await world.segments()
      assert.ok(rows.length >= 4)
      assert.equal(rows.at(-1)?.state, 'open')
      await java().call('stream.create', { namespace, stream })
      for (const row of rows) await carry(world, row, stream)

      const read = async (
        from: { dlsn: string } | { txid: string } | Record<never, never>,
        count: number,
      ) => {
        const { handle } = await java().call('reader.open', { namespace, stream, ...from })
        const found = await java().call('reader.read', { handle, count })
        await java().call('reader.close', { handle })
        return found.digest
      }
      assert.equal(await read({}, 97), digestOf(acks, size))
      for (const i of [1, 4, 5, 50, 96]) {
        const { dlsn, txid } = present(acks[i], 'an acknowledgement')
        assert.equal(await read({ dlsn: String(dlsn) }, 97 - i), digestOf(acks, size, i), `from ${dlsn}`)
        assert.equal(await read({ txid: String(txid) }, 97 - i), digestOf(acks, size, i), `from txid ${txid}`)
        assert.equal(await read({ txid: String(txid - 9n) }, 97 - i), digestOf(acks, size, i))
      }

      // The open segment is recovered by Java, which counts its records itself.
      const writer = await java().call('writer.open', { namespace, stream, immediate: true })
      const last = present(acks.at(-1), 'the last')
      assert.equal(writer.lastTxid, String(last.txid))
      const more = await java().call('writer.write', { handle: writer.handle, txid: '5000', count: 3 })
      await java().call('writer.close', { handle: writer.handle })
      const info = await java().call('stream.info', { namespace, stream })
      assert.equal(info.records, 100)
      assert.equal(info.last, more.last)
      const recovered = present(info.segments[rows.length - 1], 'the recovered segment')
      assert.equal(recovered.open, false)
      assert.equal(recovered.records, 97 - Number(present(rows.at(-1), 'open').startSequenceId))
      assert.equal(recovered.startSequenceId, String(rows.at(-1)?.startSequenceId))
      assert.equal(recovered.lastTxid, String(last.txid))
      const { handle } = await java().call('reader.open', { namespace, stream })
      const whole = await java().call('reader.read', { handle, count: 100, each: true })
      assert.deepEqual(
        whole.records?.map(({ sequenceId }) => sequenceId),
        Array.from({ length: 100 }, (_, i) => String(i)),
      )
    } finally {
      await world.end()
    }
  })
})
