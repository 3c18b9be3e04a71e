import assert from 'node:assert/strict'
import { rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, test } from 'node:test'
import { readControls } from '../../archive/control-objects.js'
import { standingHolds } from '../../archive/decisions.js'
import { encodeControlKey } from '../../src/format/archive-names.js'
import type { Log } from '../../src/log.js'
import { present } from '../../src/model/assert.js'
import { isBeingCloned } from '../../src/model/clone.js'
import { Dlsn } from '../../src/model/dlsn.js'
import { StratalogError } from '../../src/model/errors.js'
import type { SegmentIndex } from '../../src/ports/segment-index.js'
import { allOf } from '../helpers/archived-log.js'
import { outage } from '../helpers/faulty-archive.js'
import { fillSegments, readAll, TieredLog } from '../helpers/tiered-log.js'
import { Lives } from '../rebuild/helpers.js'

/*
 * A clone that is cut short at any of its steps is not there, keeps nothing pinned once the agent has looked, and can
 * be made again; what was there before is as it was (invariants 1, 5, 8).
 */

const FORK = new Dlsn(2n, 0n, 5n)

async function names(log: Log): Promise<string[]> {
  return (await allOf(log.streams.list())).map(({ name }) => name)
}

async function pins(log: Log, name: string): Promise<number> {
  const archive = await present(log.parts.archive, 'archive')()
  const { incarnation } = await log.stream(name).row()
  return standingHolds(await readControls(archive, incarnation)).length
}

type Change = (index: SegmentIndex) => Partial<SegmentIndex>

/** Changes some methods of the log's index, as an unruly world would. */
function unruly(log: Log, change: Change): () => void {
  const { tiering } = log.parts
  const { index } = tiering
  const changed = change(index)
  const proxy = new Proxy(index, {
    get(target, key) {
      const own = (changed as Record<PropertyKey, unknown>)[key]
      const value = own ?? Reflect.get(target, key, target)
      return typeof value === 'function' ? value.bind(target) : value
    },
  })
  Object.assign(tiering, { index: proxy })
  return () => Object.assign(tiering, { index })
}

class Killed extends Error {}

/** Dies before the n-th change of the index, and before everything after it: what a kill leaves. */
function killedAt(log: Log, step: number): { readonly steps: () => number; readonly end: () => void } {
  let done = 0
  const dies = <A extends unknown[], R>(work: (...args: A) => Promise<R>) => {
    return async (...args: A): Promise<R> => {
      done += 1
      if (done >= step) throw new Killed(`killed before step ${done}`)
      return work(...args)
    }
  }
  const end = unruly(log, (index) => ({
    createStream: dies(index.createStream.bind(index)),
    updateStream: dies(index.updateStream.bind(index)),
    adoptSegment: dies(index.adoptSegment.bind(index)),
    setFact: dies(index.setFact.bind(index)),
    deleteStream: dies(index.deleteStream.bind(index)),
    removeStream: dies(index.removeStream.bind(index)),
    updateSegment: dies(index.updateSegment.bind(index)),
  }))
  return { steps: () => done, end }
}

describe('a clone that is cut short', () => {
  let tiered: TieredLog
  beforeEach(() => {
    tiered = new TieredLog()
  })
  afterEach(() => tiered.end())

  async function prepared(): Promise<{ log: Log; texts: string[] }> {
    const log = await tiered.open()
    await fillSegments(log, 'a', 2)
    await log.stream('a').appendAll(Array.from({ length: 20 }, (_, i) => `late ${i}`))
    await log.tier.run()
    return { log, texts: (await readAll(log, 'a')).texts }
  }

  test('before any change of the index it is not there or whole, and a restart clears up', async () => {
    const { log: first, texts } = await prepared()
    let log = first
    let finished = 0
    for (let step = 1; finished < 3; step += 1) {
      assert.ok(step < 60, 'it never comes to its end')
      const killed = killedAt(log, step)
      const outcome = await log.streams.clone('a', 'b', { until: FORK }).then(
        () => 'made',
        () => 'cut short',
      )
      killed.end()
      await log.close()
      log = await tiered.open()
      const there = (await names(log)).filter((name) => !name.startsWith('cloning/'))
      if (there.includes('b')) assert.deepEqual((await readAll(log, 'b')).texts, texts.slice(0, 15))
      else assert.equal(outcome, 'cut short', `at step ${step}`)
      assert.deepEqual((await log.tier.run()).failed, [])
      assert.deepEqual(await names(log), there)
      assert.equal(await pins(log, 'a'), there.includes('b') ? 1 : 0, `pins at step ${step}`)
      if (there.includes('b')) {
        finished += 1
        await log.streams.delete('b')
        assert.equal(await pins(log, 'a'), 0)
      }
      assert.deepEqual((await readAll(log, 'a')).texts, texts)
    }
    await log.streams.delete('a')
    await log.close()
  })

  test('before and after any write to the archive the same', async () => {
    const { log, texts } = await prepared()
    for (const when of ['beforePut', 'afterPut'] as const) {
      for (let step = 1, done = false; !done; step += 1) {
        assert.ok(step < 20, 'it never comes to its end')
        let puts = 0
        tiered.faults[when] = () => {
          puts += 1
          if (puts >= step) outage()
        }
        const cloned = await log.streams.clone('a', 'b', { until: FORK }).catch((error: unknown) => {
          assert.ok(error instanceof StratalogError, String(error))
          return null
        })
        done = puts < step
        delete tiered.faults[when]
        assert.deepEqual((await log.tier.run()).failed, [])
        assert.deepEqual(await names(log), cloned === null ? ['a'] : ['a', 'b'])
        assert.equal(await pins(log, 'a'), cloned === null ? 0 : 1)
        if (cloned === null) continue
        assert.deepEqual((await readAll(log, 'b')).texts, texts.slice(0, 15))
        // Told by the agent where the archive had not heard of it.
        const archive = await present(log.parts.archive, 'archive')()
        const controls = await readControls(archive, cloned.stream.incarnation)
        assert.equal(controls.filter(({ kind }) => kind === 'name').length, 1)
        await log.streams.delete('b')
      }
    }
    await log.close()
  })

  test('a range that was trimmed before the pin was read is given up', async () => {
    const { log } = await prepared()
    const { incarnation } = await log.stream('a').row()
    const key = encodeControlKey({ incarnation, number: 90n, kind: 'trim', attempt: '1111111111111' })
    tiered.faults.afterPut = (put) => {
      if (!put.includes('-pin-')) return
      delete tiered.faults.afterPut
      // As another process puts its marker.
      const body = { format: 1, kind: 'trim', below: '2:0:0' }
      writeFileSync(join(tiered.archive, key), JSON.stringify(body))
    }
    await assert.rejects(log.streams.clone('a', 'b'), { code: 'conflict' })
    assert.deepEqual(await names(log), ['a'])
    assert.equal(await pins(log, 'a'), 0)
    rmSync(join(tiered.archive, key))
    await log.streams.clone('a', 'b')
    await log.close()
  })

  test('a pin stays while nobody can know that its clone is gone (invariant 8)', async () => {
    const { log } = await prepared()
    const { stream } = await log.streams.clone('a', 'b')
    const { tiering } = log.parts
    const end = unruly(log, (index) => ({
      stream: async (incarnation) => (incarnation === stream.incarnation ? null : index.stream(incarnation)),
    }))
    const { settlePins } = await import('../../tiering/pins.js')
    assert.equal(await settlePins(tiering, new AbortController().signal), 1)
    end()
    assert.equal(await pins(log, 'a'), 1)
    await log.close()
  })
})

describe('an index from another time', () => {
  let lives: Lives
  beforeEach(() => {
    lives = new Lives()
    lives.options = { archive: join(lives.root, 'archive'), defaults: { hot: { for: 0 }, evict: { lag: 0 } } }
  })
  afterEach(() => lives.end())

  test('one from before a clone is made again, not caught up with', async () => {
    await lives.life(async (log) => {
      await fillSegments(log, 'a', 3)
      await log.tier.run()
    })
    const before = lives.copyAs('before')
    const expected = await lives.life(async (log) => {
      await log.streams.clone('a', 'b')
      return readAll(log, 'b')
    })
    lives.putBack(before)
    await lives.life(async (log) => {
      assert.deepEqual((await readAll(log, 'b')).texts, expected.texts)
      const { sequenceId } = await log.stream('b').append('next')
      assert.equal(sequenceId, 30n)
      assert.equal(await pins(log, 'a'), 1)
    })
  })

  test('a clone that was cut short is cleared away also by an index made again', async () => {
    await lives.life(async (log) => {
      await fillSegments(log, 'a', 3)
      await log.tier.run()
      const end = unruly(log, (index) => ({
        updateStream: async (incarnation, version, patch) => {
          if (patch.name !== undefined) throw new Killed('before its name')
          return index.updateStream(incarnation, version, patch)
        },
        setFact: async (name, value) => {
          if (value === '[]') throw new Killed('before it is forgotten')
          return index.setFact(name, value)
        },
        updateSegment: async () => {
          throw new Killed('before it is cleared away')
        },
      }))
      await assert.rejects(log.streams.clone('a', 'b'))
      end()
      assert.equal((await allOf(log.streams.list())).filter(isBeingCloned).length, 1)
    })
    lives.dropIndex()
    await lives.life(async (log) => {
      assert.equal((await allOf(log.streams.list())).filter(isBeingCloned).length, 1)
      assert.deepEqual((await log.tier.run()).failed, [])
      assert.deepEqual(await names(log), ['a'])
      assert.equal(await pins(log, 'a'), 0)
      assert.equal((await readAll(log, 'a')).texts.length, 30)
      await log.streams.clone('a', 'b')
    })
  })
})
