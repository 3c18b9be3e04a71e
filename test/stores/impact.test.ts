import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import type { ImpactDto, ImpactPart } from '../../src/model/control-bookkeeper.js'
import { isStratalogError, StratalogError } from '../../src/model/errors.js'
import type { LedgerMetadata } from '../../src/model/ledger.js'
import { writeSet } from '../../src/model/quorum.js'
import type { LiveBookies } from '../../src/stores/bookies.js'
import { checkImpact, type ImpactParts, impactOf } from '../../src/stores/impact.js'
import { realClock } from '../../src/system/clock.js'
import { newLedger, World } from '../helpers/protocol.js'
import { StreamWorld } from '../helpers/stream-world.js'

const ledger = (changes: Partial<LedgerMetadata>): LedgerMetadata => ({
  formatVersion: 3,
  ensembleSize: 3,
  writeQuorum: 3,
  ackQuorum: 2,
  state: 'CLOSED',
  lastEntryId: 9n,
  lengthBytes: 10n,
  ensembles: [{ firstEntryId: 0n, members: ['a', 'b', 'c'] }],
  digestType: 'CRC32',
  password: new Uint8Array(),
  ctimeMs: 0n,
  customMetadata: new Map(),
  cToken: 0n,
  ...changes,
})
const without = (bookie: string, up: string, writable = up) => ({
  bookie,
  up: new Set(up),
  writable: [...writable],
})

describe('what a ledger would be without a bookie', () => {
  test('by its metadata and the bookies that are up', () => {
    const none = { open: 0, belowAck: 0, unreadable: 0, irreplaceable: 0, ledgers: 0 }
    assert.deepEqual(impactOf(ledger({}), without('a', 'bcd')), none)
    assert.equal(impactOf(ledger({}), without('d', 'abc')), null)
    assert.deepEqual(impactOf(ledger({}), without('a', 'bc')), { ...none, irreplaceable: 1 })
    assert.deepEqual(impactOf(ledger({}), without('a', 'bcd', 'bc')), { ...none, irreplaceable: 1 })
    assert.deepEqual(impactOf(ledger({}), without('a', 'cd')), { ...none, belowAck: 1 })
    assert.deepEqual(impactOf(ledger({}), without('a', 'd')), { ...none, belowAck: 1, unreadable: 1 })
    const written = { state: 'OPEN', lastEntryId: -1n } as const
    assert.deepEqual(impactOf(ledger(written), without('a', 'bcd')), { ...none, open: 1 })
    // It left before the first entry was there, or after the last one.
    assert.equal(impactOf(ledger({ lastEntryId: -1n }), without('a', 'bcd')), null)
    const ensembles = [
      { firstEntryId: 0n, members: ['a', 'b', 'c'] },
      { firstEntryId: 5n, members: ['d', 'b', 'c'] },
    ]
    assert.deepEqual(impactOf(ledger({ ensembles }), without('a', 'bcd')), none)
    assert.equal(impactOf(ledger({ ensembles, lastEntryId: 4n }), without('d', 'abc')), null)
  })

  test('and entry by entry it is the same', () => {
    const bookies = ['a', 'b', 'c', 'd', 'e', 'f']
    const shapes = fc
      .tuple(fc.integer({ min: 1, max: 5 }), fc.integer({ min: 1, max: 5 }), fc.integer({ min: 1, max: 5 }))
      .filter(([size, copies, ack]) => copies <= size && ack <= copies)
    const firsts = fc.uniqueArray(fc.integer({ min: 1, max: 12 }), { maxLength: 3 })
    const up = fc.subarray(bookies)
    fc.assert(
      fc.property(
        shapes,
        firsts,
        fc.integer({ min: -1, max: 15 }),
        up,
        fc.infiniteStream(fc.nat()),
        (shape, later, last, live, draws) => {
          const [ensembleSize, writeQuorum, ackQuorum] = shape
          const drawn = () => {
            const left = [...bookies]
            return Array.from(
              { length: ensembleSize },
              () => `${left.splice((draws.next().value ?? 0) % left.length, 1)}`,
            )
          }
          const ensembles = [0, ...later.sort((x, y) => x - y)].map((first) => ({
            firstEntryId: BigInt(first),
            members: drawn(),
          }))
          const metadata = ledger({
            ensembleSize,
            writeQuorum,
            ackQuorum,
            lastEntryId: BigInt(last),
            ensembles,
          })
          const rest = without('a', live.filter((id) => id !== 'a').join(''))
          const found = impactOf(metadata, rest)
          let fewest = Number.POSITIVE_INFINITY
          for (let entry = 0n; entry <= BigInt(last); entry += 1n) {
            const members = ensembles.findLast(({ firstEntryId }) => firstEntryId <= entry)?.members ?? []
            const holders = writeSet(entry, ensembleSize, writeQuorum).map((index) => members[index] ?? '')
            if (holders.includes('a'))
              fewest = Math.min(fewest, holders.filter((id) => rest.up.has(id)).length)
          }
          assert.equal(found?.belowAck ?? 0, fewest < ackQuorum ? 1 : 0)
          assert.equal(found?.unreadable ?? 0, fewest === 0 ? 1 : 0)
        },
      ),
    )
  })
})

describe('what taking a bookie away would mean', () => {
  const four = (
    up: readonly string[] = ['s0', 's1', 's2', 's3'],
    readOnly: readonly string[] = [],
  ): LiveBookies => ({
    all: () => up.map((id) => ({ id, host: id, port: 1, readOnly: readOnly.includes(id) })),
    known: async () => ['s0', 's1', 's2', 's3'],
    changed: () => ({ close: () => undefined }),
  })
  const verdictOf = async (
    parts: ImpactParts,
    bookie: string,
  ): Promise<ImpactDto & { streams: ImpactPart[] }> => {
    const streams: ImpactPart[] = []
    for await (const part of checkImpact(parts, bookie)) {
      if (part.type === 'stream') streams.push(part)
      if (part.type === 'done') return { ...part.impact, streams }
    }
    throw new Error('it has no end')
  }

  test('is told stream by stream, then over every ledger of the cluster', async () => {
    const world = new StreamWorld(realClock(), new World(realClock(), 4))
    const { index } = world.world.metadata
    const { context } = world.process
    const parts = (bookies = four()): ImpactParts => ({
      ...{ ledger: context, index, bookies, needed: async () => 3, nearest: (name) => `${name}?` },
    })
    try {
      for (const name of ['one', 'two']) {
        await world.stream(name).append('first')
        await world.stream(name).seal()
        await world.stream(name).append('second')
      }
      // Somebody else's.
      await (await newLedger(context)).close()
      // Every ledger is on the first three.
      const safe = await verdictOf(parts(), 's0')
      assert.deepEqual(
        [safe.safe, safe.why, safe.state, safe.ledgers, safe.open, safe.others, safe.writableLeft],
        [true, [], 'writable', 4, 2, 0, 3],
      )
      assert.deepEqual(safe.streams[0], {
        ...{ type: 'stream', stream: 'one', firstSegment: '1', lastSegment: '2' },
        ...{ ledgers: 2, open: 1, belowAck: 0, unreadable: 0, irreplaceable: 0 },
      })
      assert.equal((await verdictOf(parts(), 's3')).ledgers, 0)
      const full = await verdictOf(parts(four(undefined, ['s3'])), 's0')
      assert.deepEqual([full.safe, full.irreplaceable, full.writableLeft], [false, 4, 2])
      const away = await verdictOf(parts(four(['s0', 's1', 's3'])), 's0')
      assert.deepEqual([away.safe, away.belowAck, away.unreadable], [false, 4, 0])
      assert.match(
        away.why.join(),
        /entries of 4 ledgers would have fewer copies than their acknowledgement took/,
      )
      const last = await verdictOf(parts(four(['s0', 's3'])), 's0')
      assert.match(last.why.join(), /entries of 4 ledgers would have no copy on a bookie that is up/)
      const down = await verdictOf(parts(four(['s1', 's2', 's3'])), 's0')
      assert.deepEqual([down.safe, down.state], [true, 'down'])
    } finally {
      await world.end()
    }
  })

  test('is unknown where metadata can not be read, and refused for a bookie that is none', async () => {
    const world = new World(realClock(), 4)
    const { context } = world.process()
    const read: ImpactParts['ledger']['metadata']['read'] = async () => {
      throw new StratalogError('corrupt', 'it is nothing')
    }
    const metadata = new Proxy(context.metadata, {
      get: (target, name) => {
        const value: unknown = name === 'read' ? read : Reflect.get(target, name)
        return typeof value === 'function' ? value.bind(target) : value
      },
    })
    const nearest = (_: string, names: readonly string[]) => names[0] ?? null
    const parts: ImpactParts = {
      ...{
        ledger: { metadata },
        index: world.metadata.index,
        bookies: four(),
        needed: async () => 3,
        nearest,
      },
    }
    try {
      await (await newLedger(context)).close()
      const found = await verdictOf(parts, 's0')
      assert.deepEqual([found.safe, found.unknown, found.ledgers], [false, 1, 0])
      assert.match(found.why.join(), /metadata of 1 ledger can't be read/)
      await assert.rejects(verdictOf(parts, 's9'), (error) => {
        return isStratalogError(error, 'not_found') && /no bookie s9 .*did you mean s0\?/.test(error.message)
      })
    } finally {
      await world.end()
    }
  })
})
