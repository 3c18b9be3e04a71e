import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { LedgerReader } from '../../src/ledger/reader.js'
import { recoverLedger } from '../../src/ledger/recovery.js'
import { present } from '../../src/model/assert.js'
import { isStratalogError } from '../../src/model/errors.js'
import {
  appendPayloads,
  type ClusterClient,
  createLedger,
  digestOfEntries,
  openCluster,
  readLedger,
} from '../helpers/cluster.js'
import { type JavaClient, JavaError, startJava } from '../helpers/java.js'
import { dropMetadata } from '../helpers/protocol.js'
import { type Bookies, startBookies } from '../servers/bookkeeper.js'
import { skipWithout } from '../servers/cache.js'

const skip = (await skipWithout('bookkeeper')) || (await skipWithout('java-clients'))
const SIZE = 500
const QUORUMS = [
  { ensemble: 3, copies: 3, ack: 2, min: 2 },
  { ensemble: 4, copies: 3, ack: 2, min: 2 },
  { ensemble: 4, copies: 2, ack: 2, min: 2 },
] as const

/** Whether Java's writer was told that the ledger is no longer its own. */
const refused = (error: unknown): boolean =>
  error instanceof JavaError && /^BKLedger(Fenced|Closed)Exception$/.test(error.type)

/** Invariants 1 and 3 over clients that no one here wrote. */
describe('ledgers between ours and Java', { skip }, () => {
  let cluster: Bookies | undefined
  let client: JavaClient | undefined
  let opened: ClusterClient | undefined
  const java = (): JavaClient => present(client, 'Java')
  const ours = (): ClusterClient => present(opened, 'our client')
  before(async () => {
    cluster = await startBookies({ count: 4 })
    client = await startJava({ zookeeper: cluster.zk.address })
    opened = await openCluster(cluster)
  })
  after(async () => {
    await opened?.close()
    await client?.close()
    await cluster?.stop()
  })

  for (const quorum of QUORUMS) {
    const name = `E${quorum.ensemble} Qw${quorum.copies} Qa${quorum.ack}`
    const javas = { ensemble: quorum.ensemble, writeQuorum: quorum.copies, ackQuorum: quorum.ack }

    test(`${name}: Java reads ours, closed`, async () => {
      const writer = await createLedger(ours(), quorum)
      await appendPayloads(writer, 0n, 200, SIZE)
      await writer.close()
      const ledger = String(writer.ledgerId)
      const read = await java().call('ledger.open', { ledger })
      const found = await java().call('ledger.read', { handle: read.handle })
      assert.deepEqual([read.closed, found.count, found.digest], [true, 200, digestOfEntries(200, SIZE)])
      const metadata = await java().call('ledger.metadata', { ledger })
      // A bookie that was slow before may rest, and the ensemble be smaller by it.
      const { ensembleSize } = (await ours().context.metadata.read(writer.ledgerId)).metadata
      assert.ok(ensembleSize >= quorum.ensemble - 1, `${ensembleSize}`)
      assert.deepEqual(
        [metadata.ensemble, metadata.writeQuorum, metadata.ackQuorum, metadata.lastEntry, metadata.length],
        [ensembleSize, quorum.copies, quorum.ack, '199', String(200 * SIZE)],
      )
    })

    test(`${name}: Java recovers ours while we write, and nothing is acknowledged after it`, async () => {
      const writer = await createLedger(ours(), quorum)
      await appendPayloads(writer, 0n, 150, SIZE)
      const recovered = await java().call('ledger.open', { ledger: String(writer.ledgerId), recover: true })
      await assert.rejects(appendPayloads(writer, 150n, 1, SIZE), (error) =>
        isStratalogError(error, 'fenced'),
      )
      const found = await java().call('ledger.read', { handle: recovered.handle })
      assert.deepEqual([found.closed, found.digest], [true, digestOfEntries(150, SIZE)])
      assert.deepEqual((await readLedger(ours(), writer.ledgerId)).digest, found.digest)
    })

    test(`${name}: ours reads Java's, open and closed`, async () => {
      const { handle, ledger } = await java().call('ledger.create', javas)
      const written = await java().call('ledger.add', { handle, count: 200, size: SIZE })
      // Java tells its LAC by itself after 50 ms when nothing more is written.
      const reader = await LedgerReader.open(ours().context, BigInt(ledger))
      while ((await reader.lastConfirmed()) < 199n) await reader.waitAbove(await reader.lastConfirmed())
      assert.equal((await readLedger(ours(), BigInt(ledger))).digest, written.digest)
      await java().call('ledger.add', { handle, first: '200', count: 1, size: SIZE })
      await java().call('ledger.close', { handle })
      const { count, digest } = await readLedger(ours(), BigInt(ledger))
      assert.deepEqual([count, digest], [201, digestOfEntries(201, SIZE)])
    })

    test(`${name}: ours recovers Java's while it writes, and nothing is acknowledged after it`, async () => {
      const { handle, ledger } = await java().call('ledger.create', javas)
      const { digest } = await java().call('ledger.add', { handle, count: 150, size: SIZE })
      const seal = await recoverLedger(ours().context, BigInt(ledger))
      assert.deepEqual([seal.lastEntryId, BigInt(seal.lengthBytes)], [149n, BigInt(150 * SIZE)])
      await assert.rejects(java().call('ledger.add', { handle, count: 1 }), refused)
      const read = await java().call('ledger.open', { ledger })
      assert.equal(read.closed, true)
      const found = await java().call('ledger.read', { handle: read.handle })
      assert.equal(found.digest, digest)
      assert.equal((await readLedger(ours(), BigInt(ledger))).digest, digest)
    })
  }

  for (const digest of ['CRC32C', 'CRC32', 'MAC', 'DUMMY'] as const) {
    test(`ours reads and recovers Java's with digest ${digest} and a password`, async () => {
      const access = { digest, password: 'known to both' }
      const { handle, ledger } = await java().call('ledger.create', access)
      const written = await java().call('ledger.add', { handle, count: 20, size: SIZE })
      const knowing = await openCluster(present(cluster, 'cluster'), {
        settings: { password: access.password },
      })
      try {
        assert.equal((await recoverLedger(knowing.context, BigInt(ledger))).lastEntryId, 19n)
        assert.equal((await readLedger(knowing, BigInt(ledger))).digest, written.digest)
      } finally {
        await knowing.close()
      }
      const read = await java().call('ledger.open', { ledger, ...access })
      assert.equal((await java().call('ledger.read', { handle: read.handle })).digest, written.digest)
    })
  }

  test('Java reads and recovers ours with CRC32, the digest of its streams', async () => {
    const streaming = await openCluster(present(cluster, 'cluster'), { digest: 'CRC32' })
    try {
      const writer = await createLedger(streaming)
      await appendPayloads(writer, 0n, 30, SIZE)
      const ledger = String(writer.ledgerId)
      const read = await java().call('ledger.open', { ledger, digest: 'CRC32', recover: true })
      const found = await java().call('ledger.read', { handle: read.handle })
      assert.equal(found.digest, digestOfEntries(30, SIZE))
    } finally {
      await streaming.close()
    }
  })

  test('each follows the other live, entry by entry', async () => {
    const writer = await createLedger(ours())
    // Until it has an entry no bookie knows the ledger, and Java takes that for an error.
    await appendPayloads(writer, 0n, 1, SIZE)
    const { handle } = await java().call('ledger.open', { ledger: String(writer.ledgerId) })
    const following = java().call('ledger.follow', { handle, count: 50 })
    for (let i = 1n; i < 50n; i += 1n) await appendPayloads(writer, i, 1, SIZE)
    const followed = await following
    assert.deepEqual([followed.count, followed.digest], [50, digestOfEntries(50, SIZE)])
    await writer.close()

    const made = await java().call('ledger.create', {})
    const reader = await LedgerReader.open(ours().context, BigInt(made.ledger))
    const writing = (async () => {
      for (let i = 0; i < 50; i++) {
        await java().call('ledger.add', { handle: made.handle, first: String(i), size: SIZE })
      }
    })()
    for (let lac = -1n; lac < 49n; lac = await reader.lastConfirmed()) await reader.waitAbove(lac)
    await writing
    assert.equal((await readLedger(ours(), BigInt(made.ledger), 49n)).digest, digestOfEntries(50, SIZE))
  })

  test('both recover one ledger at once, with one result', async () => {
    for (let round = 0; round < 5; round++) {
      const { handle, ledger } = await java().call('ledger.create', { ensemble: 4, writeQuorum: 3 })
      await java().call('ledger.add', { handle, count: 60, size: SIZE })
      const [seal, opening] = await Promise.all([
        recoverLedger(ours().context, BigInt(ledger)),
        java().call('ledger.open', { ledger, recover: true }),
      ])
      assert.deepEqual([seal.lastEntryId, opening.lac], [59n, '59'])
      assert.equal((await readLedger(ours(), BigInt(ledger))).digest, digestOfEntries(60, SIZE))
    }
  })

  test('ids are never given out twice between the two', async () => {
    const ids = await Promise.all(
      Array.from({ length: 40 }, async (_, i) =>
        i % 2 === 0
          ? (await java().call('ledger.create', {})).ledger
          : String((await createLedger(ours())).ledgerId),
      ),
    )
    assert.equal(new Set(ids).size, 40)
  })

  test('an empty ledger is empty for both, open, recovered and closed', async () => {
    const writer = await createLedger(ours())
    const recovered = await java().call('ledger.open', { ledger: String(writer.ledgerId), recover: true })
    assert.deepEqual([recovered.closed, recovered.lac], [true, '-1'])
    assert.equal((await readLedger(ours(), writer.ledgerId)).last, -1n)
    const { ledger } = await java().call('ledger.create', {})
    assert.equal((await recoverLedger(ours().context, BigInt(ledger))).lastEntryId, -1n)
    const closed = await java().call('ledger.open', { ledger })
    assert.deepEqual([closed.closed, closed.lac, closed.length], [true, '-1', '0'])
  })

  test('a ledger that one deleted is not there for the other', async () => {
    const writer = await createLedger(ours())
    await appendPayloads(writer, 0n, 3, SIZE)
    await writer.close()
    await java().call('ledger.delete', { ledger: String(writer.ledgerId) })
    await assert.rejects(readLedger(ours(), writer.ledgerId), (error) =>
      isStratalogError(error, 'ledger_not_found'),
    )
    const { ledger, handle } = await java().call('ledger.create', {})
    await java().call('ledger.close', { handle })
    await dropMetadata(ours().context.metadata, BigInt(ledger))
    await assert.rejects(
      java().call('ledger.open', { ledger }),
      (error) => error instanceof JavaError && error.type.startsWith('BKNoSuchLedger'),
    )
  })
})
