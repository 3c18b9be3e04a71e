import assert from 'node:assert/strict'
import { Buffer } from 'node:buffer'
import { test } from 'node:test'
import fc from 'fast-check'
import { present } from '../../src/model/assert.js'
import { Dlsn } from '../../src/model/dlsn.js'
import type { Position } from '../../src/model/position.js'
import type { Ack } from '../../src/model/record.js'
import type { ReadOptions } from '../../src/stream.js'
import { ManualClock } from '../helpers/manual-clock.js'
import { quiet } from '../helpers/protocol.js'
import { StreamWorld } from '../helpers/stream-world.js'

type Step =
  | { readonly kind: 'append'; readonly steps: readonly number[]; readonly await: boolean }
  | { readonly kind: 'roll' }
  | { readonly kind: 'archive' }
  | { readonly kind: 'evict' }
  | { readonly kind: 'turn' }

const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 8,
    arbitrary: fc.record({
      kind: fc.constant('append' as const),
      steps: fc.array(fc.constantFrom(0, 0, 0, 1, 3), { minLength: 1, maxLength: 6 }),
      await: fc.boolean(),
    }),
  },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('roll' as const) }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('archive' as const) }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('evict' as const) }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('turn' as const) }) },
)

/** One of the ends of a range: what kind, at or near which record. */
const end = fc.record({
  kind: fc.constantFrom('none', 'earliest', 'latest', 'dlsn', 'next', 'txid', 'between', 'seq'),
  at: fc.double({ min: 0, max: 1, noNaN: true }),
})
type End = typeof end extends fc.Arbitrary<infer T> ? T : never

const range = fc.record({
  start: end,
  after: fc.boolean(),
  until: end,
  limit: fc.option(fc.nat(12)),
  batches: fc.boolean(),
})
type Range = typeof range extends fc.Arbitrary<infer T> ? T : never

interface Placed {
  readonly position: Position
  /** Index of the first record at or beyond it, and of the first beyond every record at it. */
  readonly at: number
  readonly beyond: number
}

/** Turns the drawn end into a position and what a plain list says of it. */
function place(all: readonly Ack[], { kind, at }: End): Placed | null {
  const index = Math.min(all.length - 1, Math.floor(at * all.length))
  const record = present(all[index], 'record')
  const from = (found: number) => (found < 0 ? all.length : found)
  const byTxid = (txid: bigint) => ({
    position: { txid },
    at: from(all.findIndex((one) => one.txid >= txid)),
    beyond: from(all.findIndex((one) => one.txid > txid)),
  })
  switch (kind) {
    case 'earliest':
      return { position: 'earliest', at: 0, beyond: 0 }
    case 'latest':
      return { position: 'latest', at: all.length, beyond: all.length }
    case 'dlsn':
      return { position: record.dlsn, at: index, beyond: index + 1 }
    case 'next':
      // A position between this record and the next one, also beyond the end of its entry.
      return {
        position: new Dlsn(record.dlsn.segment, record.dlsn.entry, record.dlsn.slot + 1n),
        at: index + 1,
        beyond: nextBeyond(all, index),
      }
    case 'txid':
      return byTxid(record.txid)
    case 'between':
      return byTxid(record.txid + 1n)
    case 'seq':
      return { position: { sequenceId: record.sequenceId }, at: index, beyond: index + 1 }
    default:
      return null
  }
}

/** Beyond (segment, entry, slot + 1): the record with that slot, if there is one, is passed over. */
function nextBeyond(all: readonly Ack[], index: number): number {
  const here = present(all[index], 'record').dlsn
  const next = all[index + 1]?.dlsn
  return next !== undefined && next.segment === here.segment && next.entry === here.entry
    ? index + 2
    : index + 1
}

/** Makes the history; the acknowledgements in order are the model. */
async function make(world: StreamWorld, steps: readonly Step[]): Promise<Ack[]> {
  await world.create('orders', 'custom')
  const stream = world.stream()
  const acks: Promise<Ack>[] = [stream.append('0', { txid: 0n })]
  let txid = 0n
  for (const one of steps) {
    if (one.kind === 'append') {
      for (const by of one.steps) {
        txid += BigInt(by)
        acks.push(stream.append(`${acks.length}`, { txid }))
      }
      if (one.await) await Promise.all(acks)
    } else if (one.kind === 'turn') {
      await quiet(1)
    } else if (one.kind === 'roll') {
      await acks.at(-1)
      await (await world.hub.writer(await world.row())).roll()
    } else {
      const state = one.kind === 'archive' ? 'sealed' : 'archived'
      const row = (await world.segments()).find((segment) => segment.state === state)
      if (row !== undefined) await world[one.kind](row)
    }
  }
  return Promise.all(acks)
}

async function check(world: StreamWorld, all: readonly Ack[], drawn: Range): Promise<void> {
  const start = place(all, drawn.start)
  const until = place(all, drawn.until)
  const options: ReadOptions = {
    ...(start === null ? {} : drawn.after ? { after: start.position } : { from: start.position }),
    ...(until === null ? {} : { until: until.position }),
    ...(drawn.limit === null ? {} : { limit: drawn.limit }),
  }
  const first = start === null ? 0 : drawn.after ? start.beyond : start.at
  // As an end `earliest` is where the read begins.
  const last = until === null ? all.length : until.position === 'earliest' ? first : until.at
  const expected = all
    .map((ack, at) => `${ack.dlsn} ${ack.sequenceId} ${ack.txid} ${at}`)
    .slice(first, Math.max(first, last))
    .slice(0, drawn.limit ?? all.length)
  const found: string[] = []
  const take = (record: { dlsn: Dlsn; sequenceId: bigint; txid: bigint; payload: Uint8Array }) =>
    found.push(`${record.dlsn} ${record.sequenceId} ${record.txid} ${Buffer.from(record.payload)}`)
  const records = world.stream().read(options)
  if (drawn.batches) for await (const batch of records.batches()) batch.forEach(take)
  else for await (const record of records) take(record)
  assert.deepEqual(found, expected)
}

test('any range of any history, whatever its tiers, is the slice of a plain list', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(step, { maxLength: 40 }),
      fc.constantFrom(60, 200, 2 ** 20),
      fc.array(range, { minLength: 10, maxLength: 20 }),
      async (steps, rollBytes, ranges) => {
        const world = new StreamWorld(new ManualClock())
        try {
          world.rollAt(rollBytes)
          const all = await make(world, steps)
          for (const one of ranges) await check(world, all, one)
        } finally {
          await world.end()
        }
      },
    ),
    { numRuns: 60 },
  )
})
