import assert from 'node:assert/strict'
import { existsSync, renameSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, test } from 'node:test'
import fc from 'fast-check'
import { directoryArchive } from '../../archive/directory/store.js'
import type { Log } from '../../src/log.js'
import { present } from '../../src/model/assert.js'
import { StratalogError } from '../../src/model/errors.js'
import type { Gap, LogRecord } from '../../src/model/record.js'
import type { SegmentRow } from '../../src/model/segment.js'
import type { Disk } from '../../src/ports/disk.js'
import type { SegmentStore, StoreStatus } from '../../src/ports/segment-store.js'
import { realClock } from '../../src/system/clock.js'
import { realDisk } from '../../src/system/disk.js'
import { silentLogger } from '../../src/system/logger.js'
import { ARCHIVE_TRANSITIONS, ArchiveHealth, type ArchiveSign, signOf } from '../../tiering/archive-health.js'
import { ArchiveProbe } from '../../tiering/archive-probe.js'
import { DiskWatch } from '../../tiering/disk-watch.js'
import { chooseDrops, DropLedger, droppable, droppableRows } from '../../tiering/drop.js'
import { EventRing } from '../../tiering/events.js'
import { PassLoop } from '../../tiering/pass-loop.js'
import { type RunningStep, StepWatch } from '../../tiering/step-watch.js'
import { openRow, sealedRow } from '../contract/segment-rows.js'
import { countingRandom } from '../helpers/archive.js'
import { type ArchiveFaults, faultyArchive, outage } from '../helpers/faulty-archive.js'
import { ManualClock } from '../helpers/manual-clock.js'
import { Lives } from '../rebuild/helpers.js'

const MIB = 2 ** 20
const GIB = 2 ** 30
const away = new StratalogError('archive_unavailable', 'away', { retryable: true })

describe('how the archive is', () => {
  test('every sign in every state', () => {
    const signs: ArchiveSign[] = ['answered', 'failed', 'doubtful', 'probe-answered', 'probe-failed']
    const table = (Object.keys(ARCHIVE_TRANSITIONS) as (keyof typeof ARCHIVE_TRANSITIONS)[]).map(
      (state) => `${state}: ${signs.map((sign) => ARCHIVE_TRANSITIONS[state][sign]).join(' ')}`,
    )
    assert.deepEqual(table, [
      'none: none none none none none',
      'ok: ok failing failing ok down',
      'failing: ok down failing failing down',
      'down: ok down down failing down',
    ])
  })

  test('since when, how often and what; forgotten once all is well', () => {
    const clock = new ManualClock(1_000)
    const changes: string[] = []
    const health = new ArchiveHealth(
      true,
      () => clock.nowMs(),
      (state, before) => changes.push(`${before} ${state}`),
    )
    health.sign('answered')
    clock.jump(100)
    health.sign('failed', away)
    clock.jump(100)
    health.sign('failed', away)
    health.sign('failed', new StratalogError('archive_full', 'full'))
    assert.deepEqual(health.report, {
      archive: 'down',
      downSinceMs: 1_100,
      lastError: 'full',
      lastOkMs: 1_000,
      lastAnswerMs: 1_000,
      errors: [
        { code: 'archive_unavailable', count: 2, message: 'away' },
        { code: 'archive_full', count: 1, message: 'full' },
      ],
    })
    health.sign('probe-answered')
    assert.equal(health.report.downSinceMs, 1_100, 'read is not written')
    health.sign('answered')
    assert.deepEqual([health.report.errors, health.report.downSinceMs], [[], null])
    assert.deepEqual(changes, ['ok failing', 'failing down', 'down failing', 'failing ok'])
  })

  test('what an error says of it', () => {
    assert.equal(signOf(away), 'failed')
    assert.equal(signOf(new StratalogError('timeout', 'silent')), 'doubtful')
    assert.equal(signOf(new StratalogError('corrupt', 'one object')), null)
    assert.equal(signOf(new Error('bug')), null)
  })
})

describe('the probe', () => {
  test('an archive that answers and takes nothing is tried as seldom as one that is silent', async () => {
    const clock = new ManualClock()
    const probe = new ArchiveProbe({
      clock,
      random: countingRandom(),
      ask: () => Promise.resolve(),
      outcome: () => {},
    })
    for (const delayMs of [1_000, 2_000, 4_000, 8_000]) {
      probe.start()
      assert.equal(present(probe.nextMs, 'next') - clock.nowMs(), delayMs)
      await clock.advance(delayMs)
    }
    probe.stop()
    probe.start()
    assert.equal(present(probe.nextMs, 'next') - clock.nowMs(), 1_000, 'all was well in between')
    probe.close()
  })

  test('asks later each time, one question at a time, and says when; an engine that hangs is not asked again', async () => {
    const clock = new ManualClock()
    const outcomes: (string | null)[] = []
    let asked = 0
    let answer: () => Promise<void> = () => Promise.reject(away)
    const probe = new ArchiveProbe({
      clock,
      random: countingRandom(),
      ask: () => {
        asked += 1
        return answer()
      },
      outcome: (error) => outcomes.push(error?.message ?? null),
    })
    assert.deepEqual([probe.nextMs], [null])
    probe.start()
    assert.equal(present(probe.nextMs, 'next') - clock.nowMs(), 1_000)
    for (const delayMs of [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000]) {
      assert.equal(present(probe.nextMs, 'next') - clock.nowMs(), delayMs)
      await clock.advance(delayMs)
    }
    assert.equal(asked, 8)
    answer = () => new Promise(() => {})
    const [one, two] = [probe.now(), probe.now()]
    await clock.advance(20_000)
    assert.match((await Promise.all([one, two])).join(), /did not answer.*did not answer/)
    assert.equal(asked, 9)
    assert.match(`${await probe.now()}`, /did not answer/)
    assert.equal(asked, 9, 'it has not returned')
    probe.stop()
    probe.close()
    assert.equal(clock.pending, 0)
  })
})

/** Stores of a disk of 100 GiB, with so much free. */
function storesWith(...freeBytes: number[]): { all(): SegmentStore[]; free: number[] } {
  const free = [...freeBytes]
  const store = (at: number) =>
    ({
      id: `store-${at}`,
      status: async (): Promise<StoreStatus> => ({
        id: `store-${at}`,
        location: `/disk${at}`,
        state: 'writable',
        reason: null,
        usedBytes: 0,
        freeBytes: free[at] ?? 0,
        totalBytes: 100 * GIB,
        device: `${at}`,
        pendingBytes: 0,
        corruptBytes: 0,
      }),
    }) as SegmentStore
  return { free, all: () => freeBytes.map((_, at) => store(at)) }
}

describe('the disks', () => {
  test('the rate is measured, and tells when they are full', async () => {
    const clock = new ManualClock()
    const stores = storesWith(50 * GIB, 60 * GIB)
    const watch = new DiskWatch(stores, clock, silentLogger())
    for (let round = 0; round < 200; round += 1) {
      await watch.look()
      await clock.advance(10_000)
      stores.free[0] = (stores.free[0] ?? 0) - 10 * MIB
    }
    const [falling, steady] = watch.forecasts()
    assert.equal(Math.round(falling?.bytesPerSecond ?? 0), MIB)
    const room = (50 * GIB - 1_990 * MIB - 256 * MIB) / MIB
    assert.ok(Math.abs((falling?.fullInMs ?? 0) / 1_000 - room) < 2, `${falling?.fullInMs}`)
    assert.deepEqual([steady?.bytesPerSecond, steady?.fullInMs], [0, null])
  })

  test('a disk that was just looked at has no rate yet', async () => {
    const watch = new DiskWatch(storesWith(GIB), new ManualClock(), silentLogger())
    await watch.look()
    assert.deepEqual([watch.forecasts()[0]?.bytesPerSecond, watch.forecasts()[0]?.fullInMs], [null, null])
  })

  test('writers are slowed before data is dropped, and the stores that are needed count', async () => {
    const clock = new ManualClock()
    const stores = storesWith(90 * GIB, 90 * GIB, 5 * GIB)
    const watch = new DiskWatch(stores, clock, silentLogger())
    await watch.look()
    assert.deepEqual([watch.slowRoom(2), watch.shortBytes(2)], [1, 0])
    assert.ok(watch.slowRoom(3) < 1 && watch.shortBytes(3) > 5 * GIB - MIB)
    stores.free.splice(0, 3, 15 * GIB, 15 * GIB, 15 * GIB)
    await clock.advance(2_000)
    await watch.look()
    assert.ok(watch.slowRoom(3) < 0.8 && watch.slowRoom(3) > 0.7)
    assert.equal(watch.shortBytes(3), 0)
    stores.free.splice(0, 3, 0, 0, 0)
    await clock.advance(2_000)
    await watch.look()
    assert.equal(watch.slowRoom(3), 0)
  })

  test('with a store lost, the others still count', async () => {
    const stores = storesWith(GIB, GIB, 90 * GIB)
    const [one, two, lost] = stores.all()
    const away = { ...present(lost, 'store'), status: () => Promise.reject(new Error('lost')) }
    const all = [present(one, 'store'), present(two, 'store'), away as SegmentStore]
    const watch = new DiskWatch({ all: () => all }, new ManualClock(), silentLogger())
    await watch.look()
    assert.ok(watch.slowRoom(3) < 0.1, `${watch.slowRoom(3)}`)
    assert.ok(watch.shortBytes(3) > 8 * GIB, `${watch.shortBytes(3)}`)
  })
})

describe('what is dropped', () => {
  const stream = (name: string) => ({ name, incarnation: name.repeat(32) }) as never

  test('invariant 4: never more than is asked for, and the oldest of all streams first', () => {
    const size = fc.integer({ min: 1, max: 100 })
    const one = fc.record({ name: fc.constantFrom('a', 'b', 'c'), sealedMs: fc.nat(50), bytes: size })
    fc.assert(
      fc.property(fc.array(one, { maxLength: 30 }), fc.nat(1_000), (all, wanted) => {
        const candidates = all.map(({ name, sealedMs, bytes }, at) => ({
          stream: stream(name),
          row: sealedRow('x'.repeat(32), BigInt(at + 1), { sealedMs }),
          bytesEach: bytes,
        }))
        const chosen = chooseDrops(candidates, wanted)
        const bytes = chosen.reduce((sum, { bytesEach }) => sum + bytesEach, 0)
        const last = chosen.at(-1)
        assert.ok(last === undefined || bytes - last.bytesEach < wanted, 'no more than is needed')
        assert.ok(bytes >= wanted || chosen.length === candidates.length)
        const youngest = Math.max(-1, ...chosen.map(({ row }) => row.sealedMs ?? 0))
        const left = candidates.filter((candidate) => !chosen.includes(candidate))
        assert.ok(left.every(({ row }) => (row.sealedMs ?? 0) >= youngest))
      }),
    )
  })

  test('only what is sealed and not held, and never the newest', () => {
    const incarnation = 'x'.repeat(32)
    const rows: SegmentRow[] = [
      sealedRow(incarnation, 1n),
      sealedRow(incarnation, 2n),
      { ...sealedRow(incarnation, 3n), state: 'archived' },
      sealedRow(incarnation, 4n),
      openRow(incarnation, 5n),
    ]
    const hold = {
      kind: 'hold',
      id: 'case',
      from: null,
      until: { txid: 150n },
      reason: null,
      atMs: 0,
      by: null,
    } as const
    const numbers = (found: readonly SegmentRow[]) => found.map(({ segment }) => segment)
    assert.deepEqual(numbers(droppable(rows, 5n, [], 'custom')), [1n, 2n, 4n])
    assert.deepEqual(numbers(droppable(rows, 4n, [hold], 'custom')), [2n])
  })

  test('what is verified and still hot, however much, does not hide what may be dropped', async () => {
    const incarnation = 'x'.repeat(32)
    const rows = Array.from({ length: 2_500 }, (_, at): SegmentRow => {
      const row = sealedRow(incarnation, BigInt(at + 1))
      return at < 2_400 ? { ...row, state: 'archived' } : row
    })
    const index = {
      newestSegment: async () => rows.at(-1),
      listHotSegments: async (_: string, limit: number) => rows.slice(0, limit),
      listSegments: async (_: string, from: bigint, limit: number) =>
        rows.filter(({ segment }) => segment >= from).slice(0, limit),
      holds: async () => [],
      fact: async (name: string) => (name.startsWith('holds-seen/') ? '[]' : null),
    }
    const context = { index, policy: async () => ({ policy: { holds: [] }, origins: {} }) }
    const stream = { name: 'a', incarnation, txidMode: 'custom' }
    const found = await droppableRows(context as never, stream as never)
    assert.deepEqual([found.length, found[0]?.segment], [99, 2_401n])
  })

  test('space that is on its way is not dropped for again', async () => {
    const clock = new ManualClock()
    const drops = new DropLedger(clock)
    assert.equal(drops.wanted(100), 100)
    drops.dropped(80)
    assert.equal(drops.wanted(100), 20)
    await clock.advance(11 * 60_000)
    assert.equal(drops.wanted(100), 100)
    drops.dropped(80)
    assert.equal(drops.wanted(0), 0)
    assert.equal(drops.wanted(50), 0, 'another disk may have room')
    drops.settled()
    assert.equal(drops.wanted(50), 50)
  })
})

describe('steps that stand still', () => {
  test('are said, given up, and go on when something answers', async () => {
    const clock = new ManualClock(5_000)
    const said: RunningStep[] = []
    const watch = new StepWatch(clock, (step) => said.push(step))
    const about = { kind: 'copy', stream: 'a', segment: 3n }
    let answered = () => {}
    const signal = new AbortController().signal
    const hanging = watch.run(about, signal, (_, tell) => {
      answered = tell
      return new Promise<void>(() => {})
    })
    hanging.catch(() => {})
    await clock.advance(20_000)
    answered()
    await clock.advance(20_000)
    assert.deepEqual(said, [])
    await clock.advance(10_000)
    assert.deepEqual(said, [{ ...about, beganMs: 5_000, stalledSinceMs: 25_000 }])
    assert.deepEqual(watch.running, said)
    answered()
    assert.deepEqual(
      watch.running.map(({ stalledSinceMs }) => stalledSinceMs),
      [null],
    )
    await clock.advance(30_000)
    await clock.advance(90_000)
    await assert.rejects(hanging, { code: 'timeout' })
    assert.deepEqual([watch.running, clock.pending], [[], 0])
  })
})

describe('events', () => {
  test('a bounded ring, followed until the signal ends it', async () => {
    const ring = new EventRing(new ManualClock(7))
    for (let at = 0; at < 1_500; at += 1) ring.add({ type: 'slow', slowed: at % 2 === 0 })
    const kept = ring.since(0)
    assert.deepEqual([kept.length, kept[0]?.sequence, kept.at(-1)?.sequence], [1_000, 501, 1_500])
    const abort = new AbortController()
    const seen: number[] = []
    const reading = (async () => {
      for await (const { sequence } of ring.read({ after: 1_499, follow: true, signal: abort.signal })) {
        seen.push(sequence)
        if (sequence === 1_502) abort.abort()
      }
    })()
    await new Promise((resolve) => setImmediate(resolve))
    ring.add({ type: 'slow', slowed: true })
    ring.add({ type: 'slow', slowed: false })
    await reading
    assert.deepEqual(seen, [1_500, 1_501, 1_502])
  })
})

/** A disk that says how much room there is. */
function diskWith(room: { freeBytes: number }): Disk {
  const disk = realDisk()
  return new Proxy(disk, {
    get(target, key) {
      if (key === 'space')
        return async (path: string) => ({ ...(await target.space(path)), ...room, totalBytes: 100 * GIB })
      const value = Reflect.get(target, key) as unknown
      return typeof value === 'function' ? value.bind(target) : value
    },
  })
}

describe('a log whose archive is down', () => {
  let lives = new Lives()
  let faults: ArchiveFaults = {}
  let room = { freeBytes: 50 * GIB }
  beforeEach(() => {
    lives = new Lives()
    faults = {}
    room = { freeBytes: 50 * GIB }
    lives.options = {
      archive: faultyArchive(directoryArchive(join(lives.root, 'archive')), faults),
      defaults: { roll: { size: '16 KiB' } },
      system: { logger: silentLogger(), disk: diskWith(room) },
    }
  })
  afterEach(() => lives.end())

  async function fill(log: Log, name: string, segments = 4): Promise<void> {
    for (let round = 0; round < segments; round += 1) {
      await log.stream(name).appendAll(Array.from({ length: 10 }, (_, i) => `${round * 10 + i}`))
      await log.stream(name).seal()
    }
    await log.stream(name).append(`${segments * 10}`)
  }

  async function states(log: Log, name: string): Promise<string> {
    const found: string[] = []
    for await (const { state, gapReason } of log.segments(name)) found.push(gapReason ?? state)
    return found.join(' ')
  }

  async function read(log: Log, name: string): Promise<string[]> {
    const seen: string[] = []
    for await (const one of log.stream(name).read({ onGap: 'yield' })) seen.push(textOf(one))
    return seen
  }

  const textOf = (one: LogRecord<unknown> | Gap) =>
    'gap' in one
      ? `${one.gap} ${one.firstSequenceId}-${one.lastSequenceId}`
      : Buffer.from(one.payload).toString()
  const numbers = (from: number, to: number) => Array.from({ length: to - from }, (_, i) => `${from + i}`)

  /** The next copy of a segment waits until it is released. */
  function hangingCopy(): { begun: Promise<void>; release: () => void } {
    let release = () => {}
    const begun = new Promise<void>((resolve) => {
      faults.beforePut = (key) => {
        if (!/\/s[0-9a-v]{13}-/.test(key)) return
        faults.putWaits ??= new Promise<void>((done) => {
          release = () => {
            delete faults.putWaits
            done()
          }
        })
        resolve()
      }
    })
    return {
      begun,
      release: () => {
        delete faults.beforePut
        release()
      },
    }
  }

  function down(): void {
    faults.beforePut = outage
    faults.list = outage
  }

  test('drop: only while it is down and the disks are nearly full, the oldest first, and the archive is told', async () => {
    await lives.life(async (log) => {
      for (const name of ['clicks', 'audit']) await fill(log, name)
      await log.stream('clicks').setPolicy({ archiveDown: 'drop' })
      room.freeBytes = 2 * GIB
      await log.tier.run({ until: 'once' })
      assert.equal(await states(log, 'clicks'), 'archived archived archived archived open', 'it answers')
      room.freeBytes = 50 * GIB
      down()
      await new Promise((resolve) => setTimeout(resolve, 1_100))
      await fill(log, 'clicks')
      await log.tier.run()
      await log.tier.run()
      assert.equal((await log.tier.status()).archive.archive, 'down')
      const before = await states(log, 'clicks')
      assert.doesNotMatch(before, /dropped/, 'there is room')
      room.freeBytes = 2 * GIB
      await new Promise((resolve) => setTimeout(resolve, 1_100))
      await log.tier.pause({ stream: 'clicks' })
      assert.equal((await log.tier.run()).dropped, 0, 'a pause stops whatever deletes')
      await log.tier.resume()
      const report = await log.tier.run()
      assert.ok(report.dropped > 0)
      assert.match(await states(log, 'clicks'), /^(cold )+(dropped )+open$/, 'what loses nothing goes first')
      assert.match(await states(log, 'audit'), /^(archived )+open$/, 'it is to keep all hot')
      assert.doesNotMatch(await states(log, 'audit'), /dropped/)
      assert.ok((await read(log, 'clicks')).some((one) => one.startsWith('dropped')))
      delete faults.beforePut
      delete faults.list
      const back = await log.tier.run()
      assert.deepEqual(back.failed, [])
      assert.ok((await log.tier.status()).archive.archive !== 'down')
      const kinds = log.parts.agent.events
        .since(0)
        .map((event) => (event.type === 'step' ? event.kind : event.type))
      assert.ok(kinds.includes('drop') && kinds.includes('archive'))
    })
  })

  test('invariant 8: a stream whose holds nobody knows is not dropped, one that is held only where it is not', async () => {
    await lives.life(async (log) => {
      await fill(log, 'a')
      await log.tier.run({ until: 'once' })
      await fill(log, 'a')
      await log.stream('a').setPolicy({ archiveDown: 'drop' })
      const stream = present(await log.streams.find('a'), 'a')
      down()
      await log.tier.run()
      room.freeBytes = 2 * GIB
      await new Promise((resolve) => setTimeout(resolve, 1_100))
      const report = await log.tier.run()
      assert.equal(report.dropped, 0)
      assert.match(report.failed.map(({ error }) => error).join(), /what is held of a/)
      const held = [
        { kind: 'hold', id: 'x', from: null, until: { dlsn: '7:0:0' }, reason: null, atMs: 1, by: null },
      ]
      const { index } = log.parts.segments
      await index.setFact(`holds-seen/${stream.incarnation}`, JSON.stringify(held))
      assert.ok((await log.tier.run()).dropped > 0)
      assert.equal(await states(log, 'a'), 'cold cold cold cold sealed sealed dropped dropped open')
    })
  })

  test('invariants 1 and 2: backpressure slows its streams alone, loses and reorders nothing, and ends by itself', async () => {
    await lives.life(async (log) => {
      await log.stream('slow').setPolicy({ archiveDown: 'backpressure' })
      await fill(log, 'slow')
      await fill(log, 'fast')
      down()
      for (let round = 0; round < 3; round += 1) await log.tier.run()
      assert.equal((await log.tier.status()).archive.archive, 'down')
      room.freeBytes = 3 * GIB
      await log.parts.agent.look()
      await new Promise((resolve) => setTimeout(resolve, 1_100))
      await log.parts.agent.look()
      const took = async (name: string) => {
        const beganMs = performance.now()
        for (let at = 41; at < 44; at += 1) await log.stream(name).append(`${at}`)
        return performance.now() - beganMs
      }
      const [slowMs, fastMs] = [await took('slow'), await took('fast')]
      assert.ok(slowMs > 900, `three entries took ${slowMs} ms`)
      assert.ok(fastMs < slowMs / 2, `the other stream took ${fastMs} ms`)
      assert.equal((await log.tier.status()).archive.slowing, true)
      // Sent together they keep their order, and a seal does not wait for each.
      const appends = Promise.all(numbers(44, 200).map((value) => log.stream('slow').append(value)))
      const beganMs = performance.now()
      await log.stream('slow').seal()
      assert.ok(performance.now() - beganMs < 10_000)
      await appends
      assert.deepEqual(await read(log, 'slow'), numbers(0, 200))
      delete faults.beforePut
      delete faults.list
      await log.tier.run()
      assert.equal((await log.tier.status()).archive.slowing, false)
      const beganAgainMs = performance.now()
      for (const value of numbers(200, 220)) await log.stream('slow').append(value)
      assert.ok(performance.now() - beganAgainMs < 4_000, 'twenty slowed entries take six seconds')
    })
  })

  test('invariants 1 and 4: it fails at any step, any number of times, and all is there when it is back', async () => {
    const step = fc.constantFrom(
      'beforePut',
      'afterPut',
      'head',
      'list',
      'beforeDelete',
      'read',
    ) as fc.Arbitrary<keyof ArchiveFaults>
    const plan = fc.array(fc.record({ step, at: fc.nat(6) }), { minLength: 1, maxLength: 4 })
    // A stream for each run: what an earlier one appended is none of it.
    let runs = 0
    await fc.assert(
      fc.asyncProperty(plan, async (failures) => {
        runs += 1
        const name = `s${runs}`
        await lives.life(
          async (log) => {
            for (const { step: kind, at } of failures) {
              let left = at
              const hook = (_: string, bytes?: Uint8Array) => {
                if (left === 0) outage()
                left -= 1
                return bytes
              }
              Object.assign(faults, { [kind]: hook })
              await log.stream(name).append(`${at}`)
              await log.stream(name).seal()
              await log.tier.run({ until: 'once' })
            }
            for (const key of Object.keys(faults)) delete faults[key as keyof ArchiveFaults]
            // A probe first, where it was down; then a step that is carried out.
            for (let round = 0; round < 3; round += 1) await log.tier.run()
            assert.equal((await log.tier.status()).archive.archive, 'ok')
            assert.match(await states(log, name), /^cold( cold)*$/)
            assert.deepEqual(
              await read(log, name),
              failures.map(({ at }) => `${at}`),
            )
          },
          { defaults: { hot: { for: 0 }, evict: { lag: 0 } } },
        )
      }),
      { numRuns: 8 },
    )
  })

  test('what an operator says during a pass holds for what is left of it', async () => {
    await lives.life(async (log) => {
      await fill(log, 'a')
      await log.stream('a').setPolicy({ keep: { for: '1ms' } })
      const first = hangingCopy()
      const running = log.tier.run({ until: 'once' })
      await first.begun
      await log.stream('a').setPolicy(null)
      first.release()
      const { copied, trimmed } = await running
      assert.deepEqual([copied, trimmed], [4, 0], 'nothing is trimmed by a policy that is no more')

      await fill(log, 'b')
      const second = hangingCopy()
      const paused = log.tier.run({ until: 'once' })
      await second.begun
      await log.tier.pause()
      second.release()
      assert.equal((await paused).copied, 1)
    })
  })

  test('while it is down nothing but the probe asks it, and what is paused is not dropped', async () => {
    await lives.life(async (log) => {
      await fill(log, 'a')
      await log.stream('a').setPolicy({ archiveDown: 'drop' })
      await log.tier.run()
      await fill(log, 'a')
      down()
      for (let round = 0; round < 2; round += 1) await log.tier.run({ until: 'once' })
      assert.equal((await log.tier.status()).archive.archive, 'down')
      await log.streams.rename('a', 'b')
      const { failed } = await log.tier.run({ until: 'once' })
      assert.deepEqual(
        failed.map(({ kind }) => kind),
        ['probe'],
      )
      await log.tier.pause({ stream: 'b' })
      room.freeBytes = 2 * GIB
      await new Promise((resolve) => setTimeout(resolve, 1_100))
      assert.equal((await log.tier.run({ until: 'once' })).dropped, 0)
      await log.tier.resume()
      assert.ok((await log.tier.run({ until: 'once' })).dropped > 0)
    })
  })

  test('in the background: it is asked, comes back without a restart, and seals never waited', async () => {
    const defaults = {
      roll: { size: '16 KiB', age: '1s', idle: '1s' },
      hot: { for: '1h' },
      evict: { lag: 0 },
    } as const
    await lives.life(
      async (log) => {
        down()
        await log.stream('a').append('0')
        await until(async () => (await log.tier.status()).archive.archive === 'down')
        assert.match(await states(log, 'a'), /sealed/)
        const { nextProbeMs } = (await log.tier.status()).archive
        assert.ok(nextProbeMs === null || nextProbeMs < Date.now() + 80_000)
        delete faults.beforePut
        delete faults.list
        await until(async () => (await states(log, 'a')) === 'archived')
        assert.equal((await log.tier.status()).archive.archive, 'ok')
      },
      { tiering: 'run', defaults },
    )
  })

  test('an archive that was unmounted and is an empty directory now is not written into', async () => {
    await lives.life(async (log) => {
      await fill(log, 'a')
      await log.tier.run()
      renameSync(join(lives.root, 'archive'), join(lives.root, 'elsewhere'))
      await fill(log, 'a')
      await log.tier.run()
      await log.tier.run()
      assert.equal((await log.tier.status()).archive.archive, 'down')
      assert.ok(!existsSync(join(lives.root, 'archive')))
      renameSync(join(lives.root, 'elsewhere'), join(lives.root, 'archive'))
      assert.deepEqual((await log.tier.run()).failed, [])
      assert.deepEqual(await read(log, 'a'), [...numbers(0, 41), ...numbers(0, 41)])
    })
  })
})

async function until(holds: () => Promise<boolean>): Promise<void> {
  const clock = realClock()
  for (const endMs = clock.nowMs() + 15_000; !(await holds()); await clock.sleep(20))
    assert.ok(clock.nowMs() < endMs, 'it takes too long')
}

describe('passes that fail', () => {
  test('are not hurried by what is appended meanwhile, and are by who asks', async () => {
    const clock = new ManualClock()
    let passes = 0
    const loop = new PassLoop(clock, silentLogger(), async () => {
      passes += 1
      return { failed: ['a copy'], nextDueMs: null }
    })
    loop.follow()
    for (let at = 0; at < 600; at += 1) {
      await clock.advance(100)
      loop.wake(100)
    }
    assert.ok(passes < 20, `${passes} passes in a minute`)
    const before = passes
    loop.wake(0)
    await clock.advance(1)
    assert.equal(passes, before + 1)
    await loop.close()
  })
})
