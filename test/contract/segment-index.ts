import assert from 'node:assert/strict'
import { afterEach, beforeEach, describe, test } from 'node:test'
import { AssertionFailed } from '../../src/model/assert.js'
import { Dlsn } from '../../src/model/dlsn.js'
import type { ErrorCode } from '../../src/model/errors.js'
import { isStratalogError } from '../../src/model/errors.js'
import type { SegmentIndex } from '../../src/ports/segment-index.js'
import { searchTests, workTests } from './segment-index-searches.js'
import {
  archiving,
  newIncarnation,
  newStream,
  openRow,
  sealedRow,
  sealedSegments,
  sealing,
  writableStream,
} from './segment-rows.js'

/** An empty engine for one test. `reopen` closes it and opens the same data again. */
export interface OpenedIndex {
  readonly subject: SegmentIndex
  readonly reopen?: () => Promise<SegmentIndex>
  cleanup(): Promise<void>
}

const code = (expected: ErrorCode) => (error: unknown) => isStratalogError(error, expected)

/** Every promise of `SegmentIndex`, as tests of one engine. */
export function segmentIndexContract(name: string, open: () => Promise<OpenedIndex>): void {
  describe(`segment index: ${name}`, () => {
    let opened: OpenedIndex
    let index: SegmentIndex
    const current = () => index
    beforeEach(async () => {
      opened = await open()
      index = opened.subject
    })
    afterEach(() => opened.cleanup())

    streamTests(current)
    beginTests(current)
    changeTests(current)
    removeTests(current)
    searchTests(current)
    workTests(current)
    watchTests(current)
    keepTests(current, () => opened.reopen)
  })
}

function streamTests(index: () => SegmentIndex): void {
  test('a stream is found by name and by incarnation as it was created', async () => {
    const parent = { incarnation: newIncarnation(), fork: new Dlsn(3n, 2n ** 62n, 1n) }
    const asked = newStream('audit/login', { parent, txidMode: 'custom' })
    const row = await index().createStream(asked)
    const fresh = { epoch: 0n, trimmedBelow: null, finishedMs: null, version: 0 }
    assert.deepEqual({ ...row, version: 0 }, { ...asked, ...fresh })
    assert.deepEqual(await index().streamByName('audit/login'), row)
    assert.deepEqual(await index().stream(asked.incarnation), row)
    const unforked = await index().createStream(newStream('b', { parent: { ...parent, fork: null } }))
    assert.deepEqual((await index().stream(unforked.incarnation))?.parent, { ...parent, fork: null })
  })

  test('what is not there is null', async () => {
    assert.equal(await index().streamByName('nope'), null)
    assert.equal(await index().stream(newIncarnation()), null)
    assert.deepEqual(await index().listStreams('', 10), [])
  })

  test('a second stream of a name is stream_exists and changes nothing', async () => {
    const first = await index().createStream(newStream('a'))
    await assert.rejects(index().createStream(newStream('a')), code('stream_exists'))
    assert.deepEqual(await index().streamByName('a'), first)
    const both = await Promise.allSettled([
      index().createStream(newStream('c')),
      index().createStream(newStream('c')),
    ])
    assert.deepEqual(both.map((result) => result.status).sort(), ['fulfilled', 'rejected'])
  })

  test('an incarnation names one stream only', async () => {
    const first = await index().createStream(newStream('a'))
    await assert.rejects(
      index().createStream(newStream('b', { incarnation: first.incarnation })),
      code('conflict'),
    )
    assert.equal(await index().streamByName('b'), null)
  })

  test('streams are listed in code-point order, a page at a time', async () => {
    // UTF-16 would put U+10000 (a surrogate pair) before U+FF5E.
    const names = ['A', 'a', 'a-b', 'a/b', 'ab', '\u00e9', '\uff5e', '\u{10000}']
    for (const name of [...names].reverse()) await index().createStream(newStream(name))
    const list = async (after: string, limit: number) =>
      (await index().listStreams(after, limit)).map((row) => row.name)
    assert.deepEqual(await list('', 100), names)
    assert.deepEqual(await list('', 3), names.slice(0, 3))
    assert.deepEqual(await list('a-b', 2), ['a/b', 'ab'])
    assert.deepEqual(await list('a-', 1), ['a-b'])
    assert.deepEqual(await list('\u{10000}', 5), [])
    assert.deepEqual(await list('', 0), [])
  })

  test('a stream changes only from the version it was seen in', async () => {
    const before = await index().createStream(newStream('a'))
    const trimmedBelow = new Dlsn(2n, 0n, 2n ** 60n)
    const after = await index().updateStream(before.incarnation, before.version, {
      epoch: 2n ** 61n,
      trimmedBelow,
    })
    assert.deepEqual(after, { ...before, epoch: 2n ** 61n, trimmedBelow, version: after.version })
    assert.notEqual(after.version, before.version)
    assert.deepEqual(await index().stream(before.incarnation), after)
    await assert.rejects(
      index().updateStream(before.incarnation, before.version, { epoch: 2n ** 61n + 1n }),
      (error) =>
        isStratalogError(error, 'conflict') &&
        error.expected === before.version &&
        error.found === after.version,
    )
    assert.deepEqual(await index().stream(before.incarnation), after)
    await assert.rejects(index().updateStream(newIncarnation(), 0, { epoch: 1n }), code('stream_not_found'))
  })

  test('of many that raise the epoch from one version, one does', async () => {
    const stream = await index().createStream(newStream('a'))
    const raise = () => index().updateStream(stream.incarnation, stream.version, { epoch: stream.epoch + 1n })
    const results = await Promise.allSettled(Array.from({ length: 10 }, raise))
    assert.equal(results.filter((result) => result.status === 'fulfilled').length, 1)
    for (const result of results) if (result.status === 'rejected') assert.ok(code('conflict')(result.reason))
  })

  test('a stream is finished once, and for ever', async () => {
    const stream = await writableStream(index(), 'a')
    const { incarnation } = stream
    const finished = await index().updateStream(incarnation, stream.version, { finishedMs: 5 })
    assert.equal(finished.finishedMs, 5)
    assert.deepEqual(await index().stream(incarnation), finished)
    for (const finishedMs of [null, 6])
      await assert.rejects(
        index().updateStream(incarnation, finished.version, { finishedMs }),
        AssertionFailed,
      )
    const raised = await index().updateStream(incarnation, finished.version, { epoch: finished.epoch + 1n })
    assert.equal(raised.finishedMs, 5)
  })

  test('neither epoch nor trim point go back', async () => {
    const stream = await writableStream(index(), 'a')
    const { incarnation } = stream
    await assert.rejects(index().updateStream(incarnation, stream.version, { epoch: 0n }), AssertionFailed)
    const trimmed = await index().updateStream(incarnation, stream.version, {
      trimmedBelow: new Dlsn(5n, 0n, 0n),
    })
    const lower = { trimmedBelow: new Dlsn(4n, 9n, 9n) }
    await assert.rejects(index().updateStream(incarnation, trimmed.version, lower), AssertionFailed)
    await assert.rejects(
      index().updateStream(incarnation, trimmed.version, { trimmedBelow: null }),
      AssertionFailed,
    )
    assert.deepEqual(await index().stream(incarnation), trimmed)
  })
}

function beginTests(index: () => SegmentIndex): void {
  test('segments begin at 1 and follow each other', async () => {
    const { incarnation } = await writableStream(index(), 'a')
    for (const wrong of [2n, 7n]) {
      await assert.rejects(index().beginSegment(openRow(incarnation, wrong)), code('conflict'))
    }
    const first = await index().beginSegment(openRow(incarnation, 1n))
    assert.deepEqual({ ...first, version: 0 }, openRow(incarnation, 1n))
    assert.deepEqual(await index().segment(incarnation, 1n), first)
    await index().updateSegment(first, sealing(1n))
    for (const wrong of [1n, 3n]) {
      await assert.rejects(index().beginSegment(openRow(incarnation, wrong)), code('conflict'))
    }
    await index().beginSegment(openRow(incarnation, 2n))
    assert.equal((await index().newestSegment(incarnation))?.segment, 2n)
  })

  test('a writer of another epoch begins nothing (invariant 3)', async () => {
    const stream = await writableStream(index(), 'a')
    const { incarnation } = stream
    await index().updateStream(incarnation, stream.version, { epoch: 5n })
    for (const epoch of [4n, 6n]) {
      await assert.rejects(index().beginSegment(openRow(incarnation, 1n, { epoch })), code('conflict'))
    }
    assert.equal(await index().newestSegment(incarnation), null)
    await index().beginSegment(openRow(incarnation, 1n, { epoch: 5n }))
  })

  test('of two that begin a segment, one does', async () => {
    const { incarnation } = await writableStream(index(), 'a')
    const begin = (ledgerId: bigint) => index().beginSegment(openRow(incarnation, 1n, { ledgerId }))
    const results = await Promise.allSettled([begin(1n), begin(2n)])
    assert.equal(results.filter((result) => result.status === 'fulfilled').length, 1)
  })

  test('a stream that is not there has no segments', async () => {
    const incarnation = newIncarnation()
    await assert.rejects(index().beginSegment(openRow(incarnation, 1n)), code('stream_not_found'))
    await assert.rejects(index().adoptSegment(sealedRow(incarnation, 1n)), code('stream_not_found'))
    assert.equal(await index().segment(incarnation, 1n), null)
    assert.equal(await index().newestSegment(incarnation), null)
    assert.equal(await index().segmentForTxid(incarnation, 1n), null)
    assert.deepEqual(await index().listSegments(incarnation, 0n, 10), [])
  })

  test('the first segment of a restored or trimmed stream has any number', async () => {
    const parent = { incarnation: newIncarnation(), fork: null }
    const restored = await writableStream(index(), 'restored', { parent })
    await index().adoptSegment(sealedRow(restored.incarnation, 41n))
    await assert.rejects(index().adoptSegment(sealedRow(restored.incarnation, 43n)), code('conflict'))
    await index().beginSegment(openRow(restored.incarnation, 42n))

    const rebuilt = await writableStream(index(), 'rebuilt')
    await assert.rejects(index().adoptSegment(sealedRow(rebuilt.incarnation, 8n)), code('conflict'))
    await index().updateStream(rebuilt.incarnation, rebuilt.version, { trimmedBelow: new Dlsn(8n, 0n, 0n) })
    await index().adoptSegment(sealedRow(rebuilt.incarnation, 8n))
  })

  test('closed segments are adopted in order, whatever their epoch', async () => {
    const { incarnation } = await writableStream(index(), 'a')
    await index().adoptSegment(sealedRow(incarnation, 1n, { epoch: 77n }))
    const archived = sealedRow(incarnation, 2n, { ...archiving(2n) })
    const adopted = await index().adoptSegment(archived)
    assert.deepEqual(adopted, { ...archived, version: adopted.version })
    await assert.rejects(index().adoptSegment(openRow(incarnation, 3n)), AssertionFailed)
    await assert.rejects(
      index().adoptSegment(sealedRow(incarnation, 3n, { sealedMs: null })),
      AssertionFailed,
    )
    await assert.rejects(index().beginSegment(sealedRow(incarnation, 3n)), AssertionFailed)
  })

  test('numbers above 2^53 keep every digit', async () => {
    const big = 2n ** 63n - 2n
    const { incarnation } = await writableStream(index(), 'a')
    const row = sealedRow(incarnation, 1n, {
      epoch: big,
      ledgerId: big - 1n,
      firstTxid: big - 4n,
      lastTxid: big - 3n,
      startSequenceId: 2n ** 62n + 1n,
      lastEntryId: big - 5n,
      lastSlot: 2n ** 53n + 1n,
      lengthBytes: Number.MAX_SAFE_INTEGER,
    })
    await index().adoptSegment(row)
    const found = await index().segment(incarnation, 1n)
    assert.deepEqual(found, { ...row, version: found?.version })
  })
}

function changeTests(index: () => SegmentIndex): void {
  test('a segment goes through its life, field by field', async () => {
    const { incarnation } = await writableStream(index(), 'a')
    let row = await index().beginSegment(openRow(incarnation, 1n))
    const patches = [
      { state: 'recovering' as const },
      sealing(1n),
      archiving(1n),
      { state: 'cold' as const, evictedMs: 9_000 },
      { ledgerId: null },
      { state: 'trimmed' as const },
      { object: null },
    ]
    for (const patch of patches) {
      const after = await index().updateSegment(row, patch)
      assert.deepEqual(after, { ...row, ...patch, version: after.version })
      assert.notEqual(after.version, row.version)
      assert.deepEqual(await index().segment(incarnation, 1n), after)
      row = after
    }
  })

  test('a change from a version that is past is a conflict that says what was found', async () => {
    const { incarnation } = await writableStream(index(), 'a')
    const begun = await index().beginSegment(openRow(incarnation, 1n))
    const sealed = await index().updateSegment(begun, sealing(1n))
    await assert.rejects(
      index().updateSegment(begun, { state: 'recovering' }),
      (error) =>
        isStratalogError(error, 'conflict') &&
        error.expected === begun.version &&
        error.found === sealed.version,
    )
    await assert.rejects(index().updateSegment({ ...sealed, segment: 2n }, {}), code('conflict'))
    assert.deepEqual(await index().segment(incarnation, 1n), sealed)
  })

  test('of many that change one version, one does', async () => {
    const { incarnation } = await writableStream(index(), 'a')
    const begun = await index().beginSegment(openRow(incarnation, 1n))
    const results = await Promise.allSettled(
      Array.from({ length: 8 }, (_, i) => index().updateSegment(begun, { ...sealing(1n), lengthBytes: i })),
    )
    assert.equal(results.filter((result) => result.status === 'fulfilled').length, 1)
  })

  test('a state moves only along its table, and a wrong row is never written', async () => {
    const { incarnation } = await writableStream(index(), 'a')
    const begun = await index().beginSegment(openRow(incarnation, 1n))
    await assert.rejects(index().updateSegment(begun, { ...sealing(1n), ...archiving(1n) }), AssertionFailed)
    await assert.rejects(index().updateSegment(begun, { state: 'sealed' }), AssertionFailed)
    const sealed = await index().updateSegment(begun, sealing(1n))
    await assert.rejects(index().updateSegment(sealed, { state: 'cold', ledgerId: null }), AssertionFailed)
    // Invariant 4: no hot copy is given up without a verified object.
    await assert.rejects(index().updateSegment(sealed, { ledgerId: null }), AssertionFailed)
    await assert.rejects(index().updateSegment(sealed, { state: 'archived' }), AssertionFailed)
    await assert.rejects(index().updateSegment(sealed, { state: 'open' }), AssertionFailed)
    assert.deepEqual(await index().segment(incarnation, 1n), sealed)
  })
}

function removeTests(index: () => SegmentIndex): void {
  test('the newest segment goes when it is empty, and its number comes again', async () => {
    const { incarnation } = await writableStream(index(), 'a')
    await sealedSegments(index(), incarnation, 1)
    const empty = await index().beginSegment(openRow(incarnation, 2n))
    const recovering = await index().updateSegment(empty, { state: 'recovering' })
    await assert.rejects(index().removeSegment(empty), code('conflict'))
    await index().removeSegment(recovering)
    assert.equal(await index().segment(incarnation, 2n), null)
    assert.equal((await index().newestSegment(incarnation))?.segment, 1n)
    const again = await index().beginSegment({ ...openRow(incarnation, 2n), ledgerId: 77n })
    // Who recovered the empty one with others and comes late must not take the row of the next one for it.
    const now = await index().updateSegment(again, { state: 'recovering' })
    assert.equal(now.version, recovering.version)
    await assert.rejects(index().removeSegment(recovering), code('conflict'))
    assert.deepEqual(await index().segment(incarnation, 2n), now)
  })

  test('the only segment goes when it is empty, and 1 comes again', async () => {
    const { incarnation } = await writableStream(index(), 'a')
    await index().removeSegment(await index().beginSegment(openRow(incarnation, 1n)))
    assert.equal(await index().newestSegment(incarnation), null)
    await index().beginSegment(openRow(incarnation, 1n))
  })

  test('a trimmed segment goes when it owes nothing, and its number never comes again', async () => {
    const { incarnation } = await writableStream(index(), 'a')
    const [sealed] = await sealedSegments(index(), incarnation, 1)
    assert.ok(sealed)
    const trimmed = await index().updateSegment(sealed, { state: 'trimmed' })
    await assert.rejects(index().removeSegment(trimmed), AssertionFailed)
    const free = await index().updateSegment(trimmed, { ledgerId: null })
    await index().removeSegment(free)
    await assert.rejects(index().removeSegment(free), code('conflict'))
    assert.equal(await index().newestSegment(incarnation), null)
    await assert.rejects(index().beginSegment(openRow(incarnation, 1n)), code('conflict'))
    await index().beginSegment(openRow(incarnation, 2n))
  })

  test('nothing else is removed', async () => {
    const { incarnation } = await writableStream(index(), 'a')
    const [first, newest] = await sealedSegments(index(), incarnation, 2)
    assert.ok(first && newest)
    await assert.rejects(index().removeSegment(first), AssertionFailed)
    await assert.rejects(index().removeSegment(newest), AssertionFailed)
    assert.equal((await index().listSegments(incarnation, 0n, 10)).length, 2)
  })
}

function watchTests(index: () => SegmentIndex): void {
  const settled = () => new Promise<void>((resolve) => setTimeout(resolve, 20))

  test('a watch hears of every kind of change, after it happened', async () => {
    const stream = await writableStream(index(), 'a')
    const { incarnation } = stream
    let calls = 0
    let seen: unknown = null
    const watch = index().watch(incarnation, () => {
      calls += 1
      seen = index().newestSegment(incarnation)
    })
    const heard = async (what: string, change: () => Promise<unknown>) => {
      const before = calls
      await change()
      await settled()
      assert.ok(calls > before, `no call after ${what}`)
    }
    const begun = await index().beginSegment(openRow(incarnation, 1n))
    await settled()
    assert.deepEqual(await seen, begun)
    await heard('updateSegment', () => index().updateSegment(begun, sealing(1n)))
    await heard('updateStream', () => index().updateStream(incarnation, stream.version, { epoch: 9n }))
    await heard('adoptSegment', () => index().adoptSegment(sealedRow(incarnation, 2n)))
    watch.close()
    watch.close()
    const before = calls
    await index().adoptSegment(sealedRow(incarnation, 3n))
    await settled()
    assert.equal(calls, before)
  })

  test('a watch is called after the change, not within the call that makes it', async () => {
    const { incarnation, version } = await writableStream(index(), 'a')
    let calls = 0
    const watch = index().watch(incarnation, () => {
      calls += 1
    })
    const change = index().updateStream(incarnation, version, { epoch: 2n })
    assert.equal(calls, 0)
    await change
    await settled()
    assert.ok(calls > 0)
    watch.close()
  })

  test('a listener that throws keeps nothing from the others', async () => {
    const { incarnation } = await writableStream(index(), 'a')
    let calls = 0
    const bad = index().watch(incarnation, () => {
      throw new Error('a bug of the listener')
    })
    const good = index().watch(incarnation, () => {
      calls += 1
    })
    await index().beginSegment(openRow(incarnation, 1n))
    await settled()
    assert.ok(calls > 0)
    bad.close()
    good.close()
  })
}

function keepTests(index: () => SegmentIndex, reopener: () => OpenedIndex['reopen']): void {
  test('a policy override is kept, replaced and taken away', async () => {
    const { incarnation } = await index().createStream(newStream('a'))
    assert.equal(await index().policyOverride(incarnation), null)
    await index().setPolicyOverride(incarnation, '{"hot":{"for":"1h"}}')
    await index().setPolicyOverride(incarnation, '{"é":"\u{1f600}"}')
    assert.equal(await index().policyOverride(incarnation), '{"é":"\u{1f600}"}')
    await index().setPolicyOverride(incarnation, null)
    await index().setPolicyOverride(incarnation, null)
    assert.equal(await index().policyOverride(incarnation), null)
    await assert.rejects(index().setPolicyOverride(newIncarnation(), '{}'), code('stream_not_found'))
  })

  test('holds are kept in their order; a released one stays until the archive was told', async () => {
    const { incarnation } = await index().createStream(newStream('a'))
    const other = await index().createStream(newStream('b'))
    assert.deepEqual(await index().holds(incarnation), [])
    assert.deepEqual(await index().streamsOwingHolds(), [])
    const first = {
      id: 'é',
      from: { dlsn: new Dlsn(2n ** 62n, 1n, 2n) },
      until: { txid: 2n ** 61n },
      reason: 'x',
      atMs: 5,
    }
    const second = { id: 'b', from: null, until: { timeMs: -7 }, reason: null, atMs: 6 }
    await index().putHold(incarnation, first)
    await index().putHold(incarnation, second)
    const kept = [first, second].map((hold) => ({ ...hold, releasedMs: null as number | null }))
    assert.deepEqual(await index().holds(incarnation), kept)
    assert.deepEqual(await index().holds(other.incarnation), [])
    assert.deepEqual(await index().streamsOwingHolds(), [incarnation])
    await index().releaseHold(incarnation, 'nobody', 8)
    await index().releaseHold(incarnation, 'é', 8)
    await index().releaseHold(incarnation, 'é', 9)
    assert.deepEqual(await index().holds(incarnation), [{ ...first, releasedMs: 8 }, kept[1]])
    await index().holdsTold(incarnation)
    assert.deepEqual(await index().holds(incarnation), [kept[1]])
    assert.deepEqual(await index().streamsOwingHolds(), [])
    // One with the same id takes its place, and stands.
    await index().releaseHold(incarnation, 'b', 10)
    await index().putHold(incarnation, { ...second, atMs: 11 })
    assert.deepEqual(await index().holds(incarnation), [{ ...second, atMs: 11, releasedMs: null }])
    await assert.rejects(index().putHold(newIncarnation(), first), code('stream_not_found'))
  })

  test('a row says until when it is recalled, and a cold one may become archived again', async () => {
    const { incarnation } = await writableStream(index(), 'a')
    const [sealed] = await sealedSegments(index(), incarnation, 1)
    assert.ok(sealed)
    const archived = await index().updateSegment(sealed, archiving(1n))
    let row = await index().updateSegment(archived, { state: 'cold', ledgerId: null, evictedMs: 7 })
    row = await index().updateSegment(row, { ledgerId: 77n, recalledUntilMs: 2 ** 52 })
    // Being recalled: not hot yet, and a debt as any cold row with a ledger.
    assert.equal((await index().totals(incarnation)).hotSegments, 0)
    assert.deepEqual(await index().segmentsOwing(10), [row])
    row = await index().updateSegment(row, { state: 'archived' })
    assert.deepEqual(await index().segment(incarnation, 1n), row)
    assert.deepEqual([row.recalledUntilMs, row.ledgerId, row.evictedMs], [2 ** 52, 77n, 7])
    assert.equal((await index().totals(incarnation)).bothBytes, row.lengthBytes)
  })

  test('a fact is kept and replaced', async () => {
    assert.equal(await index().fact('log-id'), null)
    await index().setFact('log-id', 'x')
    await index().setFact('log-id', '')
    assert.equal(await index().fact('log-id'), '')
    assert.equal(await index().fact('other'), null)
  })

  test('everything is there after closing and opening again', async (context) => {
    const reopen = reopener()
    if (reopen === undefined) return context.skip('this engine can not be opened again')
    const stream = await writableStream(index(), 'a')
    const rows = await sealedSegments(index(), stream.incarnation, 3)
    await index().setPolicyOverride(stream.incarnation, '{}')
    await index().setFact('f', 'v')
    const totals = await index().totals(stream.incarnation)
    const again = await reopen()
    assert.deepEqual(await again.streamByName('a'), stream)
    assert.deepEqual(await again.listSegments(stream.incarnation, 0n, 10), rows)
    assert.deepEqual(await again.totals(stream.incarnation), totals)
    assert.equal(await again.policyOverride(stream.incarnation), '{}')
    assert.equal(await again.fact('f'), 'v')
    await again.beginSegment(openRow(stream.incarnation, 4n))
  })

  test('after close every call says closed; closing twice is fine', async () => {
    const { incarnation } = await index().createStream(newStream('a'))
    await index().close()
    await index().close()
    await assert.rejects(index().streamByName('a'), code('closed'))
    await assert.rejects(index().createStream(newStream('b')), code('closed'))
    await assert.rejects(index().segment(incarnation, 1n), code('closed'))
    await assert.rejects(index().setFact('a', 'b'), code('closed'))
  })
}
