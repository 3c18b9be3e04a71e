import assert from 'node:assert/strict'
import { readdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, test } from 'node:test'
import { ownArchiveOf } from '../../archive/bindings.js'
import type { Log } from '../../src/log.js'
import { openArchive } from '../../src/open.js'
import { planRestore } from '../../src/restore.js'
import { LocalControl } from '../../src/serve/control-api.js'
import { OwnArchiveLog, statesOf, valuesOf } from '../helpers/own-archive-log.js'

let own: OwnArchiveLog

beforeEach(() => {
  own = new OwnArchiveLog()
})
afterEach(() => own.end())

const PRIVATE = 'policies: [{ match: private/*, archive: ../private }]'
const at = (name: string) => join(own.root, name)

async function migrate(log: Log, to: string): Promise<void> {
  for await (const part of log.archive.migrate({ to: at(to) })) if (part.type === 'end') return
  assert.fail('a migration ends with its report')
}

async function segmentsIn(archive: string): Promise<number> {
  const store = await openArchive(at(archive))
  try {
    return (await planRestore(store)).segments
  } finally {
    await store.close()
  }
}

describe('the archive of a log moves while some streams have one to themselves', () => {
  test('theirs stays where it is, whatever comes after: an old configuration, an index that is made again (invariant 12)', async () => {
    {
      await using log = await own.open()
      await own.fill(log, 'private/a', '1')
      await own.fill(log, 'b', '2')
      await migrate(log, 'other')
      await own.fill(log, 'private/a', '3')
      await own.fill(log, 'b', '4')
    }
    assert.deepEqual(
      [own.keys('private').length, own.keys('archive').length, own.keys('other').length],
      [2, 1, 2],
    )
    for (const [archive, index] of [
      ['../archive', 'kept'],
      ['../other', 'lost'],
    ]) {
      own.configure(PRIVATE, `archive: ${archive}`)
      if (index === 'lost') own.dropIndex()
      await using log = await own.open()
      assert.deepEqual(await valuesOf(log, 'private/a'), ['1', '3'])
      assert.deepEqual(await valuesOf(log, 'b'), ['2', '4'])
      assert.deepEqual(await log.parts.tiering.own?.locations(), [at('private')])
    }
    assert.deepEqual([await segmentsIn('private'), await segmentsIn('other')], [2, 2])
    // One that is away holds up nobody but its own streams, wherever the other one is by now.
    const mount = own.unmount('private')
    await using log = await own.open()
    await own.fill(log, 'private/a', '5')
    await own.fill(log, 'b', '6')
    assert.deepEqual(await statesOf(log, 'private/a'), ['cold', 'cold', 'sealed'])
    assert.deepEqual(await statesOf(log, 'b'), ['cold', 'cold', 'cold'])
    mount()
  })

  test('a policy that names the place it left means the archive of the log, and opens no second way to it', async () => {
    const left = 'policies: [{ match: private/*, archive: ../archive }]'
    own.configure(left)
    {
      await using log = await own.open()
      await own.fill(log, 'private/a', '1')
      await migrate(log, 'other')
      await own.fill(log, 'private/b', '2')
    }
    rmSync(at('archive'), { recursive: true })
    own.configure(left, 'archive: ../other')
    for (const [name, index] of [
      ['private/c', 'kept'],
      ['private/d', 'lost'],
    ] as const) {
      if (index === 'lost') own.dropIndex()
      await using log = await own.open()
      await own.fill(log, name, '3')
      assert.deepEqual(await statesOf(log, name), ['cold'])
      assert.deepEqual(await valuesOf(log, name), ['3'])
      const { incarnation } = await log.stream(name).info()
      assert.equal(await ownArchiveOf(log.parts.segments.index, incarnation), null)
      assert.deepEqual(await log.parts.tiering.own?.locations(), [])
      const { conflicts } = await new LocalControl(log).policyTest(name, { atMs: Date.now() })
      assert.deepEqual(
        conflicts.filter(({ fields }) => fields.includes('archive')),
        [],
      )
    }
    // It moves on as a whole, with all of them.
    await using log = await own.open()
    await migrate(log, 'third')
    assert.equal(await segmentsIn('third'), 4)
  })

  test('a policy names the place it moved to, while the configuration names the one it left', async () => {
    {
      await using log = await own.open()
      await own.fill(log, 'b', '1')
      await migrate(log, 'other')
    }
    own.configure('policies: [{ match: private/*, archive: ../other }]')
    for (const index of ['kept', 'lost']) {
      if (index === 'lost') own.dropIndex()
      await using log = await own.open()
      await own.fill(log, 'private/a', index)
      assert.deepEqual(await log.parts.tiering.own?.locations(), [])
      assert.deepEqual(await valuesOf(log, 'b'), ['1'])
    }
  })

  test('it moves neither into, nor around, nor to one of theirs', async () => {
    await using log = await own.open()
    await own.fill(log, 'private/a', '1')
    await own.fill(log, 'b', '2')
    for (const to of [at('private'), at('private/inner'), own.root]) {
      await assert.rejects(log.archive.planMigration({ to }), { code: 'refused' })
      await assert.rejects(async () => {
        for await (const _ of log.archive.migrate({ to })) assert.fail('nothing is done')
      }, /lie one in the other|some streams have to themselves/)
    }
    assert.deepEqual(readdirSync(own.root).sort(), ['archive', 'log', 'private'])
    assert.equal(await log.archive.migration(), null)
  })

  test('one of theirs is not taken for it: what lies in the right one would count as lost (invariant 8)', async () => {
    {
      await using log = await own.open()
      await own.fill(log, 'private/a', '1')
      await own.fill(log, 'b', '2')
    }
    own.configure(PRIVATE, 'archive: ../private')
    {
      await using log = await own.open()
      await own.fill(log, 'b', '3')
      assert.deepEqual(await statesOf(log, 'b'), ['cold', 'sealed'])
      await assert.rejects(valuesOf(log, 'b'), { code: 'archive_missing', message: /have to themselves/ })
    }
    assert.equal(own.keys('private').length, 1)
    own.configure(PRIVATE)
    await using log = await own.open()
    await own.fill(log, 'b', '4')
    assert.deepEqual(await valuesOf(log, 'b'), ['2', '3', '4'])
  })

  test('all that is gone of a stream is missed before it moves (invariants 5 and 8)', async () => {
    await using log = await own.open()
    await own.fill(log, 'private/a', '1')
    await own.fill(log, 'b', '2')
    await own.fill(log, 'c', '3')
    const { incarnation } = await log.stream('b').info()
    const part = /^[^/]*/.exec(own.keys('archive').find((key) => key.includes('/')) ?? '')?.[0] ?? ''
    const names = readdirSync(at('archive')).filter((name) => !/^_|json$/.test(name))
    assert.ok(names.includes(part), `${incarnation} is one of ${names.join(' ')}`)
    rmSync(join(at('archive'), part), { recursive: true })
    await assert.rejects(migrate(log, 'other'), { code: 'corrupt' })
    assert.equal(log.parts.archiveLocation, at('archive'))
  })

  test('doctor asks all of them', async () => {
    {
      await using log = await own.open()
      await own.fill(log, 'private/a', '1')
      const { bad, checks } = await new LocalControl(log).doctor()
      const asked = checks.filter(({ name, area }) => area === 'archive' && name === 'archive')
      assert.equal(bad, 0)
      assert.deepEqual(
        asked.map(({ text }) => text.split(' ')[0]),
        [at('archive'), at('private')],
      )
    }
    const mount = own.unmount('private')
    await using log = await own.open()
    const { bad, checks } = await new LocalControl(log).doctor()
    assert.equal(bad, 1)
    const said = checks.find(({ state }) => state === 'bad')?.text ?? ''
    assert.equal(said.split(at('private')).length, 2, said)
    mount()
  })
})
