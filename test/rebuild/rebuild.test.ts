import assert from 'node:assert/strict'
import { existsSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, test } from 'node:test'
import { putControl } from '../../archive/control-objects.js'
import { encodeEnvelope } from '../../src/format/entry.js'
import { entryHeaderBytes } from '../../src/format/ledger-digest.js'
import { controlRecord } from '../../src/format/record.js'
import { LedgerReader } from '../../src/ledger/reader.js'
import { LedgerWriter } from '../../src/ledger/writer.js'
import type { Log } from '../../src/log.js'
import { present } from '../../src/model/assert.js'
import { isStratalogError } from '../../src/model/errors.js'
import { rebuildLogIndex as rebuild } from '../../src/open/rebuild-log.js'
import { openArchive } from '../../src/open.js'
import { foldDecisions } from '../../src/rebuild/decisions.js'
import { emptyReport } from '../../src/rebuild/report.js'
import { streamSources } from '../../src/rebuild/stream-sources.js'
import { silentLogger } from '../../src/system/logger.js'
import { decisions, everything, idsAndEpochs, Lives } from './helpers.js'

let lives = new Lives()
beforeEach(() => {
  lives = new Lives()
})
afterEach(() => lives.end())

/** The command's rebuild, with the options the log is opened with. */
const rebuildLogIndex = (acceptLoss = false) =>
  rebuild(
    lives.directory,
    { config: 'none', system: { logger: silentLogger() }, ...lives.options },
    { acceptLoss },
  )

async function append(log: Log, stream: string, from: number, count: number): Promise<void> {
  for (let i = from; i < from + count; i += 1) await log.stream(stream).append(`${stream}-${i}`)
}

/** Appends, seals, copies, evictions, trims, policies and restarts; what is left is hot, cold, both and open. */
async function fullLife(): Promise<void> {
  const archive = join(lives.root, 'archive')
  lives.options = { archive }
  await lives.life(async (log) => {
    await log.streams.create('numbers', { txid: 'custom' })
    for (const stream of ['a', 'b', 'gone', 'empty']) await log.streams.create(stream)
    await log.stream('numbers').appendAll(
      Array.from({ length: 20 }, (_, i) => `n${i}`),
      {
        txid: (value) => BigInt(`${value}`.slice(1)) * 10n,
      },
    )
    for (let segment = 0; segment < 4; segment += 1) {
      await append(log, 'a', segment * 5, 5)
      await append(log, 'gone', segment * 3, 3)
      await log.stream('a').seal()
      await log.stream('gone').seal()
    }
    await log.stream('b').setPolicy({ hot: { for: 0 }, evict: { lag: 0 } })
    for (let segment = 0; segment < 3; segment += 1) {
      await append(log, 'b', segment * 4, 4)
      await log.stream('b').seal()
    }
    await log.tier.run()
  })
  await lives.life(async (log) => {
    // Trimmed to its end: only the decision knows where its numbers go on.
    await log.stream('gone').setPolicy({ hot: { for: 0 }, evict: { lag: 0 }, keep: { for: 1 } })
    await new Promise((resolve) => setTimeout(resolve, 5))
    await log.tier.run()
    await append(log, 'a', 20, 3)
    await append(log, 'b', 12, 2)
  })
}

describe('index.db deleted while stopped (invariant 12)', () => {
  test('after a full life everything reads the same, decisions hold, ids and epochs go on', async () => {
    await fullLife()
    const before = await lives.life(async (log) => ({
      records: await everything(log),
      decided: await decisions(log),
      ids: await idsAndEpochs(log),
    }))
    assert.ok(before.records.length > 40)
    lives.dropIndex()
    await lives.life(async (log) => {
      assert.deepEqual(await everything(log), before.records)
      assert.deepEqual(await decisions(log), before.decided)
      const now = await idsAndEpochs(log)
      assert.ok(now.epochs.every((epoch, at) => epoch >= (before.ids.epochs[at] ?? 0n)))
      // Appends go on with the next sequence ids, also where all of a stream was trimmed.
      assert.equal((await log.stream('gone').append('on')).sequenceId, 12n)
      assert.equal((await log.stream('gone').append('on')).dlsn.segment, 5n)
      assert.equal((await log.stream('a').append('on')).sequenceId, 23n)
      assert.equal((await log.stream('empty').append('first')).sequenceId, 0n)
      const later = await idsAndEpochs(log)
      const old = new Set(now.ledgers)
      const made = later.ledgers.filter((id) => !old.has(id))
      const highest = before.ids.ledgers.reduce((a, b) => (a > b ? a : b), 0n)
      assert.ok(made.length > 0 && made.every((id) => id > highest), `${made} above ${highest}`)
    })
    const again = await lives.life(everything)
    lives.dropIndex()
    assert.deepEqual(await lives.life(everything), again)
  })

  test('what is in both tiers is read back again before its hot copy goes (invariant 4)', async () => {
    lives.options = { archive: join(lives.root, 'archive') }
    await lives.life(async (log) => {
      await append(log, 'a', 0, 5)
      await log.stream('a').seal()
      await log.tier.run()
      for await (const row of log.segments('a')) assert.equal(row.state, 'archived')
    })
    lives.dropIndex()
    await lives.life(async (log) => {
      for await (const row of log.segments('a')) assert.equal(row.state, 'sealed')
      await log.tier.run()
      for await (const row of log.segments('a')) assert.equal(row.state, 'archived')
    })
    const objects = readdirSync(join(lives.root, 'archive'), { recursive: true, encoding: 'utf8' })
    assert.equal(objects.filter((name) => /\/s[0-9a-v]{13}-/.test(name)).length, 1, 'no second object')
  })

  test('a crash between the marker of a trim and its decision: numbers go on from what is left (invariant 12)', async () => {
    for (const hot of ['0ms', '1h']) {
      lives.options = { archive: join(lives.root, `archive-${hot}`) }
      const stream = `trimmed-${hot}`
      await lives.life(async (log) => {
        await log.streams.create(stream)
        await log.stream(stream).setPolicy({ hot: { for: hot }, evict: { lag: 0 } })
        for (let segment = 0; segment < 2; segment += 1) {
          await append(log, stream, segment * 5, 5)
          await log.stream(stream).seal()
        }
        await log.tier.run()
        const { incarnation } = present(await log.parts.segments.index.streamByName(stream), 'stream')
        const archive = await present(log.parts.archive, 'archive')()
        // A policy ends all of it, and the process dies before the stores are told.
        await putControl(archive, incarnation, 90n, 'trim', { below: '3:0:0' }, log.parts.random)
      })
      lives.dropIndex()
      await lives.life(async (log) => {
        assert.deepEqual(await everything(log), [])
        const { sequenceId, dlsn } = await log.stream(stream).append('on')
        assert.deepEqual([sequenceId, dlsn.segment], [10n, 3n])
      })
      rmSync(lives.directory, { recursive: true })
    }
  })

  test('a stream that was finished stays finished, also where its stores were not told of the last seal', async () => {
    const log = await lives.open()
    await append(log, 'ended', 0, 5)
    await log.streams.create('unused')
    const seals = log.parts.segments.ledger.stores.all().map((store) => {
      const told = store.sealLedger.bind(store)
      Object.assign(store, { sealLedger: () => Promise.reject(new Error('cut off')) })
      return () => Object.assign(store, { sealLedger: told })
    })
    await log.stream('ended').finish()
    await log.stream('unused').finish()
    const decided = await decisions(log)
    const killed = lives.copyAs('killed')
    for (const restore of seals) restore()
    await log.close()
    rmSync(lives.directory, { recursive: true })
    renameSync(killed, lives.directory)
    lives.dropIndex()
    await lives.life(async (again) => {
      assert.deepEqual(await decisions(again), decided)
      assert.equal((await everything(again)).length, 5)
      for (const name of ['ended', 'unused'])
        await assert.rejects(again.stream(name).append('more'), { code: 'stream_finished' })
      for await (const row of again.segments('ended')) assert.equal(row.state, 'sealed')
    })
  })

  test('where the stores lost that a stream was finished, the archive says so: nothing is appended to it again', async () => {
    const location = join(lives.root, 'archive')
    lives.options = { archive: location }
    const finished = await lives.life(async (log) => {
      for (const name of ['ended', 'goes-on']) await append(log, name, 0, 2)
      await log.stream('ended').finish()
      await log.stream('goes-on').seal()
      await log.tier.run()
      return present(await log.streams.find('ended'), 'ended').finishedMs
    })
    const archive = await openArchive(location)
    const archives = { log: archive, own: new Map() }
    const sources = await streamSources(foldDecisions([]), [], archives, emptyReport())
    await archive.close()
    assert.deepEqual(
      sources.map(({ stream, finishedMs }) => [stream.name, finishedMs]),
      [
        ['ended', finished],
        ['goes-on', null],
      ],
    )
  })

  test('a kill: the open segment is fenced and recovered, every acknowledged record is there (invariant 1)', async () => {
    const log = await lives.open()
    await append(log, 'a', 0, 7)
    const killed = lives.copyAs('killed')
    await log.close()
    rmSync(lives.directory, { recursive: true })
    renameSync(killed, lives.directory)
    lives.dropIndex()
    await lives.life(async (log) => {
      assert.equal((await everything(log)).length, 7)
      const ack = await log.stream('a').append('on')
      assert.equal(ack.sequenceId, 7n)
      assert.equal(ack.dlsn.segment, 2n)
    })
  })

  test('by command: the report, the old file kept, and twice comes to the same', async () => {
    await fullLife()
    const before = await lives.life(everything)
    const first = await rebuildLogIndex()
    assert.equal(first.losses.length, 0)
    assert.equal(first.streams, 5)
    assert.ok(first.cold > 0 && first.both > 0 && first.hot >= first.both)
    assert.ok(first.keptAs !== null && existsSync(first.keptAs))
    const second = await rebuildLogIndex()
    const { keptAs: one, idsThrough: a, ...same } = first
    const { keptAs: other, idsThrough: b, ...too } = second
    assert.notEqual(one, other)
    assert.ok(b >= a)
    assert.deepEqual(too, same)
    assert.deepEqual(await lives.life(everything), before)
  })
})

describe('what is missing is never guessed (invariant 8)', () => {
  const refused = (pattern: RegExp) => (error: unknown) => {
    assert.ok(isStratalogError(error), String(error))
    assert.match(error.message, pattern)
    assert.match(error.message, /--accept-loss/)
    return true
  }

  test('a store is away: refused with its name, by openLog too; accepted, nothing acknowledged is lost', async () => {
    await lives.life((log) => append(log, 'a', 0, 10))
    const before = await lives.life(everything)
    lives.dropIndex()
    const store = join(lives.directory, 'stores', '2')
    renameSync(store, join(lives.root, 'aside'))
    for (let tries = 0; tries < 2; tries += 1)
      await assert.rejects(lives.open(), { code: 'index_missing', message: /stores\/2.*--accept-loss/ })
    await assert.rejects(rebuildLogIndex(), refused(/stores\/2/))
    const report = await rebuildLogIndex(true)
    assert.equal(report.lossCount, 1)
    // What the absent store alone may know of ids is left out by a wide berth.
    assert.ok(report.idsThrough > 2n ** 32n)
    assert.deepEqual(await lives.life(everything), before)
    renameSync(join(lives.root, 'aside'), store)
    assert.deepEqual(await lives.life(everything), before)
  })

  test('the archive is away: refused; accepted, what is only there is a gap, and a later rebuild has it again', async () => {
    await fullLife()
    const before = await lives.life(everything)
    lives.dropIndex()
    const archive = join(lives.root, 'archive')
    renameSync(archive, join(lives.root, 'aside'))
    await assert.rejects(lives.open(), { code: 'index_missing', message: /archive/ })
    await assert.rejects(lives.open({ archive: 'none' }), { code: 'index_missing', message: /archive/ })
    await rebuildLogIndex(true)
    await lives.life(async (log) => {
      const seen: string[] = []
      await assert.rejects(
        (async () => {
          for await (const record of log.stream('b').read({ from: 'earliest' })) seen.push(`${record.dlsn}`)
        })(),
        { code: 'gap' },
      )
    })
    renameSync(join(lives.root, 'aside'), archive)
    await rebuildLogIndex()
    assert.deepEqual(await lives.life(everything), before)
  })

  test('a segment that nobody has is named', async () => {
    await lives.life(async (log) => {
      for (let segment = 0; segment < 3; segment += 1) {
        await append(log, 'a', segment, 1)
        await log.stream('a').seal()
      }
      const stream = await log.streams.find('a')
      const row = await log.parts.segments.index.segment(stream?.incarnation ?? '', 2n)
      for (const store of log.parts.segments.ledger.stores.all())
        await store.deleteLedger(row?.ledgerId ?? 0n)
    })
    await assert.rejects(rebuildLogIndex(), refused(/stream a, segment 2/))
    const report = await rebuildLogIndex(true)
    assert.equal(report.lossCount, 1)
    await lives.life(async (log) => {
      const states: string[] = []
      for await (const row of log.segments('a')) states.push(row.state)
      assert.deepEqual(states, ['sealed', 'gap', 'sealed'])
      assert.equal((await log.stream('a').append('on')).sequenceId, 3n)
    })
    // Given up once, it is known: the next rebuild needs nobody's word for it.
    lives.dropIndex()
    await lives.life(async (log) => {
      const states: string[] = []
      for await (const row of log.segments('a')) states.push(row.state)
      assert.deepEqual(states, ['sealed', 'gap', 'sealed', 'sealed'])
    })
  })

  test('a ledger that a failed start left under the number of an archived segment does not stand for it', async () => {
    lives.options = { archive: join(lives.root, 'archive'), defaults: { hot: { for: 0 }, evict: { lag: 0 } } }
    const before = await lives.life(async (log) => {
      for (let segment = 0; segment < 3; segment += 1) {
        await log.stream('a').appendBatch([`${segment}-one`, `${segment}-two`])
        await log.stream('a').seal()
      }
      const { ledger, index } = log.parts.segments
      const row = present(await log.streams.find('a'), 'stream')
      const first = present(await index.segment(row.incarnation, 1n), 'segment')
      const reader = await LedgerReader.open(ledger, present(first.ledgerId, 'ledger'))
      const [entry] = await reader.readEntries(0n, 0n, 1)
      const payload = present(entry, 'entry').payload
      assert.equal((await log.tier.run()).evicted, 3)
      // As many entries as the object, and one that nobody was ever told of; no store hears of an end.
      const { segment, epoch, openedMs, firstTxid, startSequenceId, incarnation } = first
      const writer = await LedgerWriter.create(ledger, {
        quorum: { ensemble: 3, copies: 3, ack: 2, min: 2 },
        segment: { incarnation, stream: 'a', segment, epoch, openedMs, firstTxid, startSequenceId },
        preceding: null,
      })
      const room = entryHeaderBytes(writer.digestType)
      for (let at = 0; at < 2; at += 1) {
        const buffer = Buffer.alloc(room + payload.length)
        buffer.set(payload, room)
        await writer.append(buffer, payload.length)
      }
      return everything(log)
    })
    lives.dropIndex()
    await lives.life(async (log) => {
      assert.deepEqual(await everything(log), before)
      for await (const { segment, state } of log.segments('a'))
        assert.equal(`${segment} ${state}`, `${segment} cold`)
    })
  })

  test('ledgers of control records alone are no loss: recovery removed their rows, and their numbers are used again', async () => {
    const before = await lives.life(async (log) => {
      for (let segment = 0; segment < 2; segment += 1) {
        await append(log, 'a', segment, 1)
        await log.stream('a').seal()
      }
      const { ledger } = log.parts.segments
      const { incarnation, epoch } = present(await log.streams.find('a'), 'stream')
      // Of a writer that died before its first record: one under a number that was used again, one behind the last.
      for (const segment of [2n, 3n]) {
        const writer = await LedgerWriter.create(ledger, {
          quorum: { ensemble: 3, copies: 3, ack: 2, min: 2 },
          segment: {
            incarnation,
            stream: 'a',
            segment,
            epoch,
            openedMs: 0,
            firstTxid: 0n,
            startSequenceId: 1n,
          },
          preceding: null,
        })
        const payload = encodeEnvelope(controlRecord(0, 0n), 'none')
        await writer.append(
          Buffer.concat([Buffer.alloc(entryHeaderBytes(writer.digestType)), payload]),
          payload.length,
        )
        await writer.close()
      }
      return everything(log)
    })
    const report = await rebuildLogIndex()
    assert.deepEqual([report.lossCount, report.segments, report.orphanCount], [0, 2, 2])
    await lives.life(async (log) => {
      assert.deepEqual(await everything(log), before)
      const { dlsn, sequenceId } = await log.stream('a').append('on')
      assert.deepEqual([dlsn.segment, sequenceId], [3n, 2n])
    })
  })

  test('a damaged object at the end of one stream keeps no log shut, and epochs go above all it may have had (invariant 3)', async () => {
    const archive = join(lives.root, 'archive')
    lives.options = { archive, defaults: { hot: { for: 0 }, evict: { lag: 0 } } }
    const epoch = await lives.life(async (log) => {
      await append(log, 'a', 0, 1)
      await append(log, 'b', 0, 1)
      for (const stream of ['a', 'b']) await log.stream(stream).seal()
      assert.equal((await log.tier.run()).evicted, 2)
      const row = await log.streams.find('a')
      const newest = await log.parts.segments.index.newestSegment(row?.incarnation ?? '')
      const file = join(archive, newest?.object?.key ?? '')
      const bytes = readFileSync(file)
      const at = bytes.length - (newest?.object?.indexBytes ?? 0)
      bytes[at] = (bytes[at] ?? 0) ^ 1
      rmSync(file)
      writeFileSync(file, bytes)
      return row?.epoch ?? 0n
    })
    lives.dropIndex()
    await lives.life(async (log) => {
      await assert.rejects(everythingOf(log, 'a'), { code: 'corrupt' })
      assert.deepEqual(await everythingOf(log, 'b'), ['b-0'])
      assert.ok(((await log.streams.find('a'))?.epoch ?? 0n) > epoch)
    })
  })
})

async function everythingOf(log: Log, stream: string): Promise<string[]> {
  const found: string[] = []
  for await (const { payload } of log.stream(stream).read()) found.push(Buffer.from(payload).toString())
  return found
}
