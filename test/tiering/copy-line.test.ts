import assert from 'node:assert/strict'
import { afterEach, beforeEach, suite, test } from 'node:test'
import {
  ATTEMPT_BYTES,
  attemptOf,
  decodeSegmentKey,
  encodeControlKey,
} from '../../src/format/archive-names.js'
import type { Log } from '../../src/log.js'
import { StratalogError } from '../../src/model/errors.js'
import { CommitGate } from '../../tiering/commit-gate.js'
import { CopyLine, type CopyTurn } from '../../tiering/copy-line.js'
import { OwnerLook } from '../../tiering/owner-look.js'
import { bodyOf, MemoryArchive } from '../helpers/archive.js'
import { ManualClock } from '../helpers/manual-clock.js'
import { fillSegments, readAll, rowsOf, TieredLog } from '../helpers/tiered-log.js'

const OTHER_OWNER = encodeControlKey({
  incarnation: null,
  number: 2n,
  kind: 'owner',
  attempt: attemptOf(new Uint8Array(ATTEMPT_BYTES)),
})
const never = new AbortController().signal
const pause = () => new Promise((resolve) => setImmediate(resolve))

suite('a line of copies', () => {
  test('one is stored while the one before it is read back, and they are committed in order (invariant 5)', async () => {
    const line = new CopyLine(never)
    const commits: number[] = []
    let most = 0
    let now = 0
    for (let i = 0; i < 6; i += 1) {
      await line.add(async (turn) => {
        now += 1
        most = Math.max(most, now)
        turn.stored()
        // The later one began, the sooner it is ready.
        for (let waits = 0; waits < 10 - i; waits += 1) await pause()
        await turn.mayCommit()
        commits.push(i)
        now -= 1
        return true
      })
    }
    await line.drain()
    assert.deepEqual(commits, [0, 1, 2, 3, 4, 5])
    assert.equal(most, 2)
  })

  test('one that fails ends those behind it and not the one before it', async () => {
    const line = new CopyLine(never)
    const commits: number[] = []
    const ended: boolean[] = []
    const copy = (i: number) => async (turn: CopyTurn) => {
      turn.stored()
      for (let waits = 0; waits < (i === 1 ? 20 : 10 + 30 * i); waits += 1) await pause()
      if (i === 1) return false
      ended[i] = turn.signal.aborted
      await turn.mayCommit()
      commits.push(i)
      return true
    }
    for (const i of [0, 1, 2, 3]) await line.add(copy(i))
    await line.drain()
    assert.deepEqual(commits, [0])
    assert.deepEqual([ended[0], ended[2]], [false, true])
    assert.equal(line.failed, true)
  })

  test('the next begins only when the one before it has its name in the archive', async () => {
    const line = new CopyLine(never)
    let enter = () => {}
    const begun: number[] = []
    const first = line.add(async (turn) => {
      begun.push(0)
      await new Promise<void>((resolve) => {
        enter = resolve
      })
      turn.stored()
      return true
    })
    const second = first.then(() =>
      line.add(async () => {
        begun.push(1)
        return true
      }),
    )
    await pause()
    assert.deepEqual(begun, [0])
    enter()
    await second
    await line.drain()
    assert.deepEqual(begun, [0, 1])
  })

  test('what one throws is thrown where it ends', async () => {
    const line = new CopyLine(never)
    const error = new StratalogError('timeout', 'nothing answered: try again')
    await line.add(() => Promise.reject(error))
    await assert.rejects(line.drain(), (thrown) => thrown === error)
  })
})

suite('copies that are committed together', () => {
  const small = 1024

  /** A copy that is ready when it is told to be; `passed` says whether it may be committed. */
  function copying(gate: CommitGate, bytes = small, signal = never) {
    const state = { passed: false, ready: () => {}, fail: () => {} }
    const done = gate.during(async (ready) => {
      await new Promise<void>((resolve, reject) => {
        state.ready = resolve
        state.fail = () => reject(new Error('the copy failed'))
      })
      ready()
      await gate.pass(bytes, signal)
      state.passed = true
    })
    done.catch(() => undefined)
    return { state, done }
  }

  test('one that is ready waits until as many are as are copied, and all go on in one turn', async () => {
    const clock = new ManualClock()
    const gate = new CommitGate(clock)
    const copies = Array.from({ length: 6 }, () => copying(gate))
    const passed = () => copies.map(({ state }) => state.passed)
    for (const at of [0, 1]) copies[at]?.state.ready()
    await pause()
    assert.deepEqual(passed(), [false, false, false, false, false, false])
    copies[2]?.state.ready()
    await pause()
    assert.deepEqual(passed(), [true, true, true, false, false, false])
    // Nobody waits for one that failed: the last two wait for none, or for each other.
    copies[3]?.state.fail()
    copies[4]?.state.ready()
    await pause()
    assert.equal(copies[4]?.state.passed, true)
    copies[5]?.state.ready()
    await pause()
    assert.equal(copies[5]?.state.passed, true)
    assert.equal(clock.pending, 0)
  })

  test('nobody waits longer than a moment, nor at all where one copy is under way or it is a large one', async () => {
    const clock = new ManualClock()
    const gate = new CommitGate(clock)
    const alone = copying(gate)
    alone.state.ready()
    await alone.done
    const many = Array.from({ length: 8 }, () => copying(gate))
    many[0]?.state.ready()
    await clock.advance(24)
    assert.equal(many[0]?.state.passed, false)
    await clock.advance(1)
    assert.equal(many[0]?.state.passed, true)
    many[1]?.state.ready()
    await pause()
    const large = copying(gate, 64 * 1024 * 1024)
    large.state.ready()
    await large.done
    assert.equal(many[1]?.state.passed, true)
    assert.equal(clock.pending, 0)
  })

  test('one that is given up while it waits is not committed, and leaves the others to theirs', async () => {
    const gate = new CommitGate(new ManualClock())
    const stop = new AbortController()
    const others = Array.from({ length: 4 }, () => copying(gate))
    const given = copying(gate, small, stop.signal)
    given.state.ready()
    await pause()
    stop.abort(new Error('given up'))
    await assert.rejects(given.done, /given up/)
    for (const at of [0, 1]) others[at]?.state.ready()
    await pause()
    assert.deepEqual(
      [given.state.passed, ...others.map(({ state }) => state.passed)],
      [false, true, true, false, false],
    )
  })

  test('who asks whose archive it is hears of what was there when it asked, and shares the listing', async () => {
    const archive = new MemoryArchive()
    let listings = 0
    let answer = () => {}
    const list = archive.listFrom.bind(archive)
    archive.listFrom = async (...args) => {
      listings += 1
      const found = await list(...args)
      await new Promise<void>((resolve) => {
        answer = resolve
      })
      return found
    }
    const look = new OwnerLook(archive)
    const first = [look.ask(), look.ask()]
    await pause()
    // Another log takes the archive over: who asks from now on must not be told of before.
    await archive.putIfAbsent(OTHER_OWNER, bodyOf('{}'))
    const stop = new AbortController()
    const later = [look.ask(), look.ask(), look.ask(stop.signal)]
    await pause()
    assert.equal(listings, 1)
    stop.abort(new Error('given up'))
    await assert.rejects(later.pop() ?? Promise.resolve(), /given up/)
    answer()
    assert.deepEqual(await Promise.all(first), [[], []])
    await pause()
    answer()
    for (const found of await Promise.all(later))
      assert.deepEqual(
        found.map(({ kind }) => kind),
        ['owner'],
      )
    assert.equal(listings, 2)
  })

  test('a look that fails fails for who shared it, and the next one is a new one', async () => {
    const archive = new MemoryArchive()
    const list = archive.listFrom.bind(archive)
    archive.listFrom = () => Promise.reject(new StratalogError('archive_unavailable', 'it is away: wait'))
    const look = new OwnerLook(archive)
    const results = await Promise.allSettled([look.ask(), look.ask()])
    assert.deepEqual(
      results.map(({ status }) => status),
      ['rejected', 'rejected'],
    )
    archive.listFrom = list
    assert.deepEqual(await look.ask(), [])
  })

  test('many small streams are copied whole, each row with what its own object is (invariants 4 and 5)', async () => {
    const tiered = new TieredLog()
    try {
      await using log = await tiered.open()
      const names = Array.from({ length: 24 }, (_, i) => `s${i}`)
      for (const name of names) await fillSegments(log, name, 2)
      const report = await log.tier.run({ until: 'settled' })
      assert.deepEqual([report.copied, report.evicted, report.failed], [48, 48, []])
      for (const name of names) {
        const rows = await rowsOf(log, name)
        assert.deepEqual(
          rows.map(({ state }) => state),
          ['cold', 'cold'],
        )
        const { texts, cold } = await readAll(log, name)
        assert.deepEqual([texts.length, cold, texts.at(-1)], [20, 20, `${name} 19`])
      }
    } finally {
      tiered.end()
    }
  })
})

suite('copies of one stream', () => {
  let tiered: TieredLog
  beforeEach(() => {
    tiered = new TieredLog()
  })
  afterEach(() => tiered.end())
  const segmentOf = (key: string) => decodeSegmentKey(key)?.segment ?? null
  const states = async (log: Log) => (await rowsOf(log, 's')).map(({ state }) => state)
  const named = () => tiered.objects().map((key) => Number(segmentOf(key)))

  test('the next is stored while one is read back, and no name is above one that is not there', async () => {
    await using log = await tiered.open({ defaults: { hot: { for: '1h' } } })
    await fillSegments(log, 's', 5)
    const puts: number[] = []
    tiered.faults.beforePut = (key) => {
      const segment = segmentOf(key)
      if (segment === null) return
      const number = Number(segment)
      assert.deepEqual(
        named(),
        Array.from({ length: number - 1 }, (_, i) => i + 1),
      )
      puts.push(number)
    }
    // Whoever reads back is slower than who stores: that one must not wait for it.
    let mayRead = () => {}
    const secondIsStored = new Promise<void>((resolve) => {
      mayRead = resolve
    })
    tiered.faults.afterPut = (key) => {
      if (segmentOf(key) === 2n) mayRead()
    }
    tiered.faults.readWaits = (key) => (segmentOf(key) === 1n ? secondIsStored : Promise.resolve())
    const report = await log.tier.run()
    assert.deepEqual(puts, [1, 2, 3, 4, 5])
    assert.deepEqual([report.copied, report.failed], [5, []])
    assert.deepEqual(await states(log), Array(5).fill('archived'))
  })

  test('one that does not read back whole commits none behind it (invariants 4, 5); what was stored is found', async () => {
    await using log = await tiered.open({ defaults: { hot: { for: '1h' } } })
    await fillSegments(log, 's', 4)
    tiered.faults.read = (key, bytes) => {
      if (segmentOf(key) === 2n) bytes.fill(0, 0, 16)
      return bytes
    }
    const report = await log.tier.run()
    assert.deepEqual([report.copied, report.failed.map(({ segment }) => segment)], [1, ['2']])
    assert.deepEqual(await states(log), ['archived', 'sealed', 'sealed', 'sealed'])
    // Segment 3 may have its name by then, 4 never.
    assert.ok(!named().includes(4))
    tiered.faults.read = (_, bytes) => bytes
    const again = await log.tier.run()
    assert.deepEqual([again.copied, again.failed], [3, []])
    assert.deepEqual([...new Set(named())], [1, 2, 3, 4])
    assert.equal(named().filter((segment) => segment > 2).length, 2)
    assert.deepEqual(await states(log), Array(4).fill('archived'))
  })
})
