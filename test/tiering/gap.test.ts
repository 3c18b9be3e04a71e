import assert from 'node:assert/strict'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, test } from 'node:test'
import { readControls } from '../../archive/control-objects.js'
import { gapsOf } from '../../archive/decisions.js'
import { directoryArchive } from '../../archive/directory/store.js'
import { encodeDecision } from '../../src/format/control-frame.js'
import type { Log } from '../../src/log.js'
import { present } from '../../src/model/assert.js'
import { StratalogError } from '../../src/model/errors.js'
import type { Gap, LogRecord } from '../../src/model/record.js'
import type { SegmentRow, StreamRow } from '../../src/model/segment.js'
import type { SegmentIndex } from '../../src/ports/segment-index.js'
import type { TieringContext } from '../../tiering/context.js'
import { commitGap, freeDropped, tellGaps } from '../../tiering/gap.js'
import { type ArchiveFaults, faultyArchive } from '../helpers/faulty-archive.js'
import { Lives } from '../rebuild/helpers.js'

let lives = new Lives()
let faults: ArchiveFaults = {}
beforeEach(() => {
  lives = new Lives()
  faults = {}
  const archive = faultyArchive(directoryArchive(join(lives.root, 'archive')), faults)
  lives.options = { archive, defaults: { roll: { size: '16 KiB' } } }
})
afterEach(() => lives.end())

const SIGNAL = new AbortController().signal

/** Four sealed segments and an open one. */
async function fill(log: Log, name = 'a'): Promise<SegmentRow[]> {
  for (let round = 0; round < 4; round += 1) {
    await log.stream(name).appendAll(Array.from({ length: 10 }, (_, i) => `${round * 10 + i}`))
    await log.stream(name).seal()
  }
  await log.stream(name).append('40')
  return rows(log, name)
}

async function rows(log: Log, name = 'a'): Promise<SegmentRow[]> {
  const found: SegmentRow[] = []
  for await (const row of log.segments(name)) found.push(row)
  return found
}

function contextOf(log: Log): TieringContext {
  const { segments, archive, random, hub } = log.parts
  const { ledger, index } = segments
  const policy = async () => Promise.reject(new Error('not asked here'))
  const coordination = { acquire: () => Promise.reject(new Error('not here')), close: async () => {} }
  return { logId: log.logId, ledger, index, coordination, random, archive, writers: hub, policy }
}

const lease = { name: 'test', epoch: 1n, lost: SIGNAL, release: async () => {} }

async function streamOf(log: Log, name = 'a'): Promise<StreamRow> {
  return present(await log.streams.find(name), name)
}

async function read(log: Log, name = 'a'): Promise<string[]> {
  const seen: string[] = []
  for await (const one of log.stream(name).read({ onGap: 'yield' })) seen.push(textOf(one))
  return seen
}

function textOf(one: LogRecord<unknown> | Gap): string {
  if (!('gap' in one)) return `${one.sequenceId}=${Buffer.from(one.payload).toString()}`
  return `${one.gap} ${one.from} ${one.until} ${one.firstSequenceId}-${one.lastSequenceId}`
}

const records = (from: number, to: number) =>
  Array.from({ length: to - from }, (_, i) => `${from + i}=${from + i}`)
const dropped = (segment: number) =>
  `dropped ${segment}:0:0 ${segment + 1}:0:0 ${(segment - 1) * 10}-${segment * 10 - 1}`
const TWO_DROPPED = [dropped(1), dropped(2), ...records(20, 41)]

describe('committed gaps', () => {
  test('invariant 2: readers throw one or get it as an element, with its reason and its sequence ids', async () => {
    await lives.life(async (log) => {
      await fill(log)
      const gaps = await commitGap(contextOf(log), lease, await streamOf(log), {
        first: 1n,
        last: 2n,
        reason: 'dropped',
      })
      assert.deepEqual(
        gaps.map(({ state, gapReason, ledgerId }) => [state, gapReason, ledgerId !== null]),
        Array(2).fill(['gap', 'dropped', true]),
      )
      assert.deepEqual(await read(log), TWO_DROPPED)
      await assert.rejects(
        async () => {
          for await (const _ of log.stream('a').read()) break
        },
        { code: 'gap' },
      )
      assert.ok((await freeDropped(contextOf(log), gaps)) > 0)
      assert.deepEqual(
        (await rows(log)).slice(0, 2).map(({ ledgerId }) => ledgerId),
        [null, null],
      )
      assert.deepEqual(await read(log), TWO_DROPPED)
      assert.equal((await log.stream('a').append('41')).sequenceId, 41n)
    })
  })

  test('invariant 4: what is open, unknown or in the archive is not dropped', async () => {
    await lives.life(async (log) => {
      await fill(log)
      const stream = await streamOf(log)
      const drop = (first: bigint, last: bigint) =>
        commitGap(contextOf(log), lease, stream, { first, last, reason: 'dropped' })
      await assert.rejects(drop(5n, 5n), { code: 'refused' })
      await assert.rejects(drop(9n, 9n), { code: 'refused' })
      await log.tier.run()
      assert.equal((await rows(log))[0]?.state, 'archived')
      await assert.rejects(drop(1n, 1n), { code: 'refused' })
      assert.deepEqual(await read(log), records(0, 41))
    })
  })

  test('invariants 3 and 4: an agent that lost its lease declares nothing', async () => {
    await lives.life(async (log) => {
      await fill(log)
      const lost = AbortSignal.abort(new StratalogError('lease_lost', 'another agent has the stream'))
      const range = { first: 1n, last: 1n, reason: 'dropped' } as const
      await assert.rejects(commitGap(contextOf(log), { ...lease, lost }, await streamOf(log), range), {
        code: 'lease_lost',
      })
      assert.deepEqual(await read(log), records(0, 41))
    })
  })

  test('invariants 5 and 7: the archive is told once it answers, once, and again where the note of it is lost', async () => {
    await lives.life(async (log) => {
      await fill(log)
      const context = contextOf(log)
      const stream = await streamOf(log)
      await commitGap(context, lease, stream, { first: 1n, last: 1n, reason: 'dropped' })
      faults.beforePut = () => {
        throw new StratalogError('archive_unavailable', 'away', { retryable: true })
      }
      await assert.rejects(tellGaps(context, SIGNAL), { code: 'archive_unavailable' })
      await commitGap(context, lease, stream, { first: 2n, last: 2n, reason: 'dropped' })
      delete faults.beforePut
      assert.equal(await tellGaps(context, SIGNAL), 1)
      assert.equal(await tellGaps(context, SIGNAL), 0)
      const told = async () => {
        const archive = await present(context.archive, 'archive')(stream.incarnation)
        return gapsOf(await readControls(archive, stream.incarnation)).map(
          ({ first, last, reason }) => `${first}-${last} ${reason}`,
        )
      }
      assert.deepEqual(await told(), ['1-2 dropped'])
      await context.index.setFact(`gaps-told/${stream.incarnation}`, '')
      assert.equal(await tellGaps(context, SIGNAL), 1)
      assert.deepEqual(await told(), ['1-2 dropped'])
    })
  })

  test('invariants 5 and 7: very many gaps of one stream keep those of no other from being told', async () => {
    await lives.life(async (log) => {
      await fill(log)
      const context = contextOf(log)
      const stream = await streamOf(log)
      const [row] = await commitGap(context, lease, stream, { first: 1n, last: 2n, reason: 'dropped' })
      const index = new Proxy(context.index, {
        get: (target, name: keyof SegmentIndex) =>
          name === 'segmentsInState'
            ? async (_: unknown, limit: number) =>
                Array.from({ length: limit }, () => ({ ...present(row, 'gap'), incarnation: 'f'.repeat(32) }))
            : target[name].bind(target),
      })
      assert.equal(await tellGaps({ ...context, index }, SIGNAL), 1)
      assert.equal(await tellGaps({ ...context, index }, SIGNAL), 0)
      const controls = await readControls(
        await present(context.archive, 'archive')(stream.incarnation),
        stream.incarnation,
      )
      assert.deepEqual(
        gapsOf(controls).map(({ first, last }) => [first, last]),
        [[1n, 2n]],
      )
    })
  })

  test('invariant 12: a rebuilt index has the gap, whether or not its ledgers were freed, and numbers go on', async () => {
    for (const freed of [0, 1, 2]) {
      const name = `s${freed}`
      await lives.life(async (log) => {
        await fill(log, name)
        const range = { first: 1n, last: 2n, reason: 'dropped' } as const
        const gaps = await commitGap(contextOf(log), lease, await streamOf(log, name), range)
        await freeDropped(contextOf(log), gaps.slice(0, freed))
      })
    }
    lives.dropIndex()
    await lives.life(async (log) => {
      for (const freed of [0, 1, 2]) {
        assert.deepEqual(await read(log, `s${freed}`), TWO_DROPPED)
        assert.equal((await rows(log, `s${freed}`))[0]?.gapReason, 'dropped')
      }
    })
  })

  test('invariants 1 and 12: all there was is dropped, and a rebuilt index gives no number out twice', async () => {
    await lives.life(async (log) => {
      await log.stream('a').appendAll(Array.from({ length: 10 }, (_, i) => `${i}`))
      await log.stream('a').seal()
      const range = { first: 1n, last: 1n, reason: 'dropped' } as const
      await freeDropped(contextOf(log), await commitGap(contextOf(log), lease, await streamOf(log), range))
    })
    lives.dropIndex()
    await lives.life(async (log) => {
      const ack = await log.stream('a').append('10')
      assert.deepEqual([`${ack.dlsn}`, ack.sequenceId], ['2:0:0', 10n])
      assert.deepEqual(await read(log), [dropped(1), '10=10'])
    })
  })

  test('a crash between two segments of a range: one is a gap that owes its ledger, the other is whole', async () => {
    await lives.life(async (log) => {
      await fill(log)
      await commitGap(contextOf(log), lease, await streamOf(log), { first: 1n, last: 1n, reason: 'dropped' })
    })
    await lives.life(async (log) => {
      assert.deepEqual(await read(log), [dropped(1), ...records(10, 41)])
      await log.tier.run()
      const [one, two] = await rows(log)
      assert.deepEqual([one?.state, one?.ledgerId, two?.state], ['gap', null, 'archived'])
      assert.deepEqual(await read(log), [dropped(1), ...records(10, 41)])
    })
  })

  test('a crash between the decision and its row: the next start takes the decision for what it is', async () => {
    await lives.life(async (log) => {
      await fill(log)
      const { incarnation } = await streamOf(log)
      const decision = { kind: 'gap', incarnation, first: 1n, last: 2n, reason: 'dropped' } as const
      const frame = encodeDecision(1_000n, Buffer.alloc(8), decision)
      for (const store of log.parts.segments.ledger.stores.all()) await store.putControl(frame)
    })
    assert.deepEqual(await lives.life((log) => read(log)), TWO_DROPPED)
  })

  test('what reached the archive after a decision that nobody heard of is no gap', async () => {
    await lives.life(async (log) => {
      await fill(log)
      await log.tier.run()
      const { incarnation } = await streamOf(log)
      const decision = { kind: 'gap', incarnation, first: 1n, last: 2n, reason: 'dropped' } as const
      const frame = encodeDecision(1_000n, Buffer.alloc(8), decision)
      for (const store of log.parts.segments.ledger.stores.all()) await store.putControl(frame)
    })
    assert.deepEqual(await lives.life((log) => read(log)), records(0, 41))
    lives.dropIndex()
    assert.deepEqual(await lives.life((log) => read(log)), records(0, 41))
  })
})
