import assert from 'node:assert/strict'
import { afterEach, describe, test } from 'node:test'
import { entryHeaderBytes } from '../../../src/format/ledger-digest.js'
import type { LedgerContext, StoreDirectory } from '../../../src/ledger/context.js'
import { LedgerReader } from '../../../src/ledger/reader.js'
import { recoverLedger } from '../../../src/ledger/recovery.js'
import { StoreHealth } from '../../../src/ledger/store-health.js'
import { LedgerWriter } from '../../../src/ledger/writer.js'
import { createCluster } from '../../../src/metadata/zookeeper/cluster.js'
import { ZkLedgerMetadataStore } from '../../../src/metadata/zookeeper/ledger-metadata.js'
import { StratalogError } from '../../../src/model/errors.js'
import { realClock } from '../../../src/system/clock.js'
import { realRandom } from '../../../src/system/random.js'
import { memoryLogger } from '../../helpers/archive.js'
import { bookieAt, packagedText } from '../../helpers/bookie.js'
import { FakeBookie, type FakeRequest, framed } from '../../helpers/fake-bookie.js'
import { MemoryZooKeeper } from '../../helpers/zookeeper-memory.js'

const QUORUM = { ensemble: 3, copies: 3, ack: 2, min: 2 }
const QUICK = { addTimeoutMs: 300, readTimeoutMs: 300, connectTimeoutMs: 300, reconnectMs: 1 }
const ADD = 2
const number = (request: FakeRequest, name: string): bigint => request.fields.get(name) as bigint

/** Keeps entries in memory, as a bookie does. */
function honest(kept: Map<string, Uint8Array>): (request: FakeRequest) => void {
  return (request) => {
    const [ledger, entry] = [number(request, 'ledgerId'), number(request, 'entryId')]
    const at = { 1: 0n, 2: ledger, 3: entry }
    const body = kept.get(`${ledger}/${entry}`)
    if (request.operation === ADD) {
      kept.set(`${ledger}/${entry}`, Buffer.from(request.fields.get('body') as Uint8Array))
      request.answer(0, at)
    } else if (request.operation !== 1) request.answer(0, { 1: 0n, 2: ledger })
    else if (body === undefined) request.answer(403, at)
    else request.answer(0, { ...at, 4: body })
  }
}

/** Invariants 1 and 9: one bookie of three does what it likes, and nothing is lost, nor anything else shown. */
describe('one bookie of three misbehaves', { timeout: 60_000 }, () => {
  const ends: (() => Promise<void>)[] = []
  afterEach(async () => {
    for (const end of ends.splice(0).reverse()) await end()
  })

  type Script = (request: FakeRequest, kept: Map<string, Uint8Array>) => void
  const context = async (bad: Script) => {
    const server = new MemoryZooKeeper()
    const zk = await server.open()
    await createCluster(zk, '/ledgers', '5cc77fa7-87f4-46dd-83e6-7d324500c8d4')
    const stores = await Promise.all(
      [0, 1, 2].map(async (i) => {
        const kept = new Map<string, Uint8Array>()
        const bookie = await FakeBookie.start(i === 0 ? (request) => bad(request, kept) : honest(kept))
        ends.push(() => bookie.stop())
        const store = bookieAt(bookie.port, QUICK)
        ends.push(() => store.close())
        return store
      }),
    )
    const directory: StoreDirectory = {
      get: (id) => stores.find((store) => store.id === id) ?? null,
      all: () => stores,
      writable: async () => stores,
    }
    const [clock, random, logger] = [realClock(), realRandom(), memoryLogger()]
    const metadata = new ZkLedgerMetadataStore(zk, { ledgersPath: '/ledgers', random })
    const ledger: LedgerContext = {
      ...{ stores: directory, metadata, clock, logger },
      ...{ health: new StoreHealth(clock, logger), digestType: 'CRC32' as const },
    }
    return ledger
  }

  const scripts: readonly [string, Script][] = [
    ['never answers', () => {}],
    ['answers garbage', ({ socket }) => socket.write(framed(Buffer.alloc(30, 0xff)))],
    ['announces a huge length', ({ socket }) => socket.write(Buffer.from('7fffffff00', 'hex'))],
    ['refuses everything', (request) => request.answer(101)],
    [
      'gives the entry of another ledger',
      (request, kept) =>
        request.operation === 1
          ? request.answer(0, { 1: 0n, 2: number(request, 'ledgerId') + 1n, 3: number(request, 'entryId') })
          : honest(kept)(request),
    ],
    [
      'changes a byte, so that the digest is wrong',
      (request, kept) => {
        if (request.operation === ADD) {
          const body = request.fields.get('body') as Uint8Array
          body[body.length - 1] = (body.at(-1) ?? 0) ^ 1
        }
        honest(kept)(request)
      },
    ],
  ]
  for (const [what, script] of scripts) {
    test(`it ${what}`, async () => {
      const at = await context(script)
      const writer = await LedgerWriter.create(at, { quorum: QUORUM, segment: null, preceding: null })
      const room = entryHeaderBytes('CRC32')
      const startMs = performance.now()
      const acks = await Promise.all(
        Array.from({ length: 20 }, (_, i) => {
          const payload = Buffer.from(`entry ${i}`)
          return writer.append(Buffer.concat([Buffer.alloc(room), payload]), payload.length)
        }),
      )
      assert.equal(acks.at(-1)?.entryId, 19n)
      assert.equal((await writer.close()).lastEntryId, 19n)
      const reader = await LedgerReader.open(at, writer.ledgerId)
      const texts: string[] = []
      while (texts.length < 20) {
        const entries = await reader.readEntries(BigInt(texts.length), 19n, 1 << 20)
        for (const { payload } of entries) texts.push(Buffer.from(payload).toString())
      }
      assert.deepEqual(
        texts,
        Array.from({ length: 20 }, (_, i) => `entry ${i}`),
      )
      assert.ok(performance.now() - startMs < 20_000)
    })
  }

  // The first is above everything there is, the second among entries that one bookie alone has.
  for (const lie of [1_000n, 25n]) {
    test(`it claims a LAC of ${lie} when it is fenced: the recovery goes by what a digest covers`, async () => {
      const at = await context((request, kept) => {
        const [ledgerId, entryId] = [number(request, 'ledgerId'), number(request, 'entryId')]
        if (request.operation !== 1 || entryId !== -1n) return honest(kept)(request)
        request.answer(0, {
          1: 0n,
          2: ledgerId,
          3: entryId,
          4: kept.get(`${ledgerId}/19`) ?? Buffer.alloc(0),
          5: lie,
        })
      })
      const writer = await LedgerWriter.create(at, { quorum: QUORUM, segment: null, preceding: null })
      const room = entryHeaderBytes('CRC32')
      const append = (text: string) =>
        writer.append(Buffer.concat([Buffer.alloc(room), Buffer.from(text)]), Buffer.byteLength(text))
      await Promise.all(Array.from({ length: 20 }, (_, i) => append(`entry ${i}`)))
      // Ten more that one bookie alone got: whoever recovers must write them again on the others.
      const [first, ...others] = writer.members.map((id) => at.stores.get(id))
      for (let entryId = 20n; entryId < 30n; entryId += 1n) {
        await first?.addEntry(writer.ledgerId, entryId, packagedText(writer.ledgerId, entryId, 19n, 'late'))
      }
      writer.abandon(new StratalogError('closed', 'the writer died'))
      assert.equal((await recoverLedger(at, writer.ledgerId)).lastEntryId, 29n)
      for (const store of others) {
        for (let entryId = 20n; entryId < 30n; entryId += 1n) {
          assert.equal((await store?.readEntry(writer.ledgerId, entryId))?.kind, 'entry', `${entryId}`)
        }
      }
    })
  }
})
