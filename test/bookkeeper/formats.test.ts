import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { openEnvelope } from '../../src/format/entry.js'
import { decodeLedgerMetadata, encodeLedgerMetadata } from '../../src/format/ledger-metadata.js'
import { decodeRecords } from '../../src/format/record.js'
import { decodeSegmentMetadata, encodeSegmentMetadata } from '../../src/format/segment-metadata.js'
import { completedName, inProgressName, parseSegmentName } from '../../src/format/segment-name.js'
import { present } from '../../src/model/assert.js'
import { type JavaClient, startJava } from '../helpers/java.js'
import type { JavaNode, JavaSegment } from '../helpers/java-verbs.js'
import { makePayload, PayloadDigest, type PayloadKind } from '../helpers/payloads.js'
import { type Bookies, startBookies } from '../servers/bookkeeper.js'
import { skipWithout } from '../servers/cache.js'

const skip = (await skipWithout('bookkeeper')) || (await skipWithout('java-clients'))
const namespace = '/messaging/formats'

/** What Java writes now, not what it wrote when the vectors were made: decoded by src/format, and encoded again. */
describe('the formats of a live Java client', { skip }, () => {
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

  const nodes = async (path: string): Promise<readonly JavaNode[]> =>
    (await java().call('tree.dump', { path })).nodes
  const nodeOf = async (ledger: string): Promise<Buffer> => {
    const name = ledger.padStart(10, '0')
    const path = `/ledgers/${name.slice(0, 2)}/${name.slice(2, 6)}/L${name.slice(6)}`
    return Buffer.from(present((await nodes(path))[0], path).data, 'base64')
  }

  test('payloads and digests of the tests are the same on both sides', async () => {
    for (const payload of ['text', 'random'] as const satisfies readonly PayloadKind[]) {
      const { handle } = await java().call('ledger.create', {})
      const first = 2n ** 40n + 5n
      const sizes = { count: 20, size: 333 }
      const written = await java().call('ledger.add', { handle, ...sizes, payload, first: String(first) })
      const ours = new PayloadDigest()
      for (let i = 0n; i < 20n; i++) ours.add(makePayload(payload, first + i, 333), i)
      assert.equal(written.digest, ours.hex())
    }
  })

  for (const digest of ['CRC32C', 'CRC32', 'MAC', 'DUMMY'] as const) {
    test(`the node of a ledger with digest ${digest}, open and closed, byte for byte`, async () => {
      const custom = { application: 'test', other: '' }
      const quorums = { ensemble: 3, writeQuorum: 2, ackQuorum: 2 }
      const made = await java().call('ledger.create', { ...quorums, digest, password: 'p', custom })
      const open = await nodeOf(made.ledger)
      const decoded = decodeLedgerMetadata(open)
      assert.equal(decoded.state, 'OPEN')
      assert.equal(decoded.digestType, digest === 'MAC' ? 'HMAC' : digest)
      assert.notEqual(decoded.cToken, 0n)
      assert.deepEqual(Buffer.from(encodeLedgerMetadata(decoded)), open)
      await java().call('ledger.add', { handle: made.handle, count: 3, size: 10 })
      await java().call('ledger.close', { handle: made.handle })
      const closed = await nodeOf(made.ledger)
      const after = decodeLedgerMetadata(closed)
      assert.deepEqual([after.state, after.lastEntryId, after.lengthBytes], ['CLOSED', 2n, 30n])
      assert.deepEqual([after.ensembleSize, after.writeQuorum, after.ackQuorum], [3, 2, 2])
      assert.equal(Buffer.from(present(after.customMetadata.get('application'), 'custom')).toString(), 'test')
      assert.deepEqual(Buffer.from(encodeLedgerMetadata(after)), closed)
    })
  }

  /** Digest over the user records of a segment, as Java digests what it wrote. */
  const readSegment = async (segment: JavaSegment, digest: PayloadDigest): Promise<number> => {
    const access = { ledger: segment.ledger, digest: 'CRC32' } as const
    const { handle } = await java().call('ledger.open', access)
    const { payloads = [] } = await java().call('ledger.read', { handle, each: true })
    let controls = 0
    for (const [entry, payload] of payloads.entries()) {
      for (const record of decodeRecords(openEnvelope(Buffer.from(payload, 'base64')))) {
        if (record.control) controls++
        if (record.control || record.endOfStream) continue
        const slot = BigInt(record.slot)
        digest.add(record.payload, BigInt(segment.segment), BigInt(entry), slot, record.txid)
      }
    }
    return controls
  }

  for (const compression of ['none', 'lz4'] as const) {
    for (const set of [0, 7]) {
      const what = `${compression === 'none' ? 'plain' : 'LZ4'} entries${set === 0 ? '' : ' of record sets'}`
      test(`${what}: the records Java wrote, at their positions, in several segments`, async () => {
        const stream = `${compression}-${set}`
        await java().call('stream.create', { namespace, stream })
        const options = { compression, segmentBytes: '4000', bufferBytes: 2000 }
        const { handle } = await java().call('writer.open', { namespace, stream, ...options })
        const parts: string[] = []
        const sets = set === 0 ? {} : ({ set, setCompression: compression } as const)
        for (let part = 0; part < 3; part++) {
          const count = { count: 60, size: 150, first: String(60 * part), txid: String(1000 + 1000 * part) }
          parts.push(
            (await java().call('writer.write', { handle, ...count, ...sets, payload: 'random' })).digest,
          )
        }
        await java().call('writer.close', { handle })
        const { segments } = await java().call('stream.info', { namespace, stream })
        assert.ok(segments.length >= 2, 'it rolled')
        const whole = new PayloadDigest()
        let controls = 0
        for (const segment of segments) controls += await readSegment(segment, whole)
        const { handle: reader } = await java().call('reader.open', { namespace, stream })
        const read = await java().call('reader.read', { handle: reader, count: 180 })
        assert.deepEqual([whole.count, whole.hex()], [180, read.digest])
        assert.ok(controls > 0, 'control records were there, and left out')
      })
    }
  }

  test('the nodes of segments: open, completed, truncated in part and whole, ended', async () => {
    const stream = 'nodes'
    await java().call('stream.create', { namespace, stream })
    const { handle } = await java().call('writer.open', { namespace, stream, segmentBytes: '1500' })
    const found = new Set<string>()
    const check = async (): Promise<void> => {
      for (const node of await nodes(`${namespace}/${stream}/<default>/ledgers`)) {
        const name = present(node.path.split('/').at(-1), 'a name')
        if (name === 'ledgers') continue
        const text = Buffer.from(node.data, 'base64').toString()
        const metadata = decodeSegmentMetadata(text)
        assert.equal(encodeSegmentMetadata(metadata), text)
        const segment = present(metadata.segment, 'a number')
        const open = metadata.completion === null
        assert.equal(name, open ? inProgressName(segment) : completedName(segment))
        assert.equal(parseSegmentName(name).kind, open ? 'inprogress' : 'completed')
        found.add(open ? 'open' : metadata.truncation)
      }
    }
    for (let part = 0; part < 4; part++) {
      await java().call('writer.write', { handle, count: 20, txid: String(1000 * part) })
      await check()
    }
    await java().call('writer.truncate', { handle, dlsn: '2:1:0' })
    await check()
    await java().call('writer.end', { handle })
    await java().call('writer.close', { handle })
    await check()
    assert.deepEqual([...found].sort(), ['active', 'open', 'partially_truncated', 'truncated'])
    const maxtxid = (await nodes(`${namespace}/${stream}/<default>/maxtxid`))[0]
    assert.equal(Buffer.from(present(maxtxid, 'maxtxid').data, 'base64').toString(), String(2n ** 63n - 1n))
  })
})
