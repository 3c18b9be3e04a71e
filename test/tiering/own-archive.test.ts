import assert from 'node:assert/strict'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, test } from 'node:test'
import { ownArchiveOf } from '../../archive/bindings.js'
import { openLog } from '../../src/open.js'
import { silentLogger } from '../../src/system/logger.js'
import { OwnArchiveLog, statesOf, valuesOf } from '../helpers/own-archive-log.js'

let own: OwnArchiveLog

beforeEach(() => {
  own = new OwnArchiveLog()
})
afterEach(() => own.end())

const OWNER = /_log\/c[0-9a-v]{13}-owner-/

describe('an archive of their own for some streams', () => {
  test('each stream is copied, freed and read in its archive, and nothing of it is in the other (invariants 4 and 5)', async () => {
    await using log = await own.open()
    await own.fill(log, 'private/a', '1', '2')
    await own.fill(log, 'b', '3')
    assert.deepEqual([own.keys('private').length, own.keys('archive').length], [1, 1])
    assert.deepEqual([own.keys('private', OWNER).length, own.keys('archive', OWNER).length], [1, 1])
    for (const name of ['private/a', 'b']) {
      assert.deepEqual(await statesOf(log, name), ['cold'])
      const { incarnation } = await log.stream(name).info()
      const place = await ownArchiveOf(log.parts.segments.index, incarnation)
      assert.equal(place, name === 'b' ? null : join(own.root, 'private'))
    }
    assert.deepEqual(await valuesOf(log, 'private/a'), ['1', '2'])
    assert.deepEqual(await valuesOf(log, 'b'), ['3'])
  })

  test('a policy that changes moves no stream: those there are stay where they are, new ones go where it says', async () => {
    {
      await using log = await own.open()
      await own.fill(log, 'private/a', '1')
      await own.fill(log, 'b', '2')
    }
    own.configure('policies: [{ match: "**", archive: ../other }]')
    {
      await using log = await own.open()
      await own.fill(log, 'private/a', '3')
      await own.fill(log, 'b', '4')
      await own.fill(log, 'c', '5')
      assert.deepEqual(
        [own.keys('private').length, own.keys('archive').length, own.keys('other').length],
        [2, 2, 1],
      )
    }
    own.configure('policies: []')
    await using log = await own.open()
    assert.deepEqual(await valuesOf(log, 'private/a'), ['1', '3'])
    assert.deepEqual(await valuesOf(log, 'b'), ['2', '4'])
    assert.deepEqual(await valuesOf(log, 'c'), ['5'])
    await own.fill(log, 'c', '6')
    assert.deepEqual([own.keys('archive').length, own.keys('other').length], [2, 2])
  })

  test('a stream that was deleted and made again lies where the policy says by then', async () => {
    {
      await using log = await own.open()
      await own.fill(log, 'private/a', '1')
      await log.streams.delete('private/a')
      await log.tier.run()
    }
    own.configure('policies: [{ match: private/*, archive: ../other }]')
    await using log = await own.open()
    await own.fill(log, 'private/a', '2')
    assert.equal(own.keys('other').length, 1)
    assert.deepEqual(await valuesOf(log, 'private/a'), ['2'])
  })

  test('an index that is made again knows where each stream lies, and is not made while one archive is away (invariant 12)', async () => {
    {
      await using log = await own.open()
      await own.fill(log, 'private/a', '1', '2')
      await own.fill(log, 'b', '3')
    }
    own.configure('policies: []')
    own.dropIndex()
    const mount = own.unmount('private')
    await assert.rejects(own.open(), { message: /private/ })
    mount()
    await using log = await own.open()
    assert.deepEqual(await valuesOf(log, 'private/a'), ['1', '2'])
    assert.deepEqual(await valuesOf(log, 'b'), ['3'])
    await own.fill(log, 'private/a', '4')
    assert.deepEqual([own.keys('private').length, own.keys('archive').length], [2, 1])
  })

  test('an archive that is away is not made anew, and holds up nobody else (invariant 8)', async () => {
    {
      await using log = await own.open()
      await own.fill(log, 'private/a', '1')
    }
    const mount = own.unmount('private')
    await using log = await own.open()
    await own.fill(log, 'private/a', '2')
    await own.fill(log, 'b', '3')
    await log.tier.run()
    assert.equal(existsSync(join(own.root, 'private')), false)
    assert.deepEqual(await statesOf(log, 'private/a'), ['cold', 'sealed'])
    assert.deepEqual(await statesOf(log, 'b'), ['cold'])
    const { archive } = await log.tier.status()
    assert.equal(archive.archive, 'ok')
    assert.deepEqual(
      archive.own.map(({ location, archive: state }) => [location, state]),
      [[join(own.root, 'private'), 'down']],
    )
    await assert.rejects(valuesOf(log, 'private/a'), { code: 'archive_missing' })
    mount()
    await log.tier.run()
    await log.tier.run()
    assert.deepEqual(await statesOf(log, 'private/a'), ['cold', 'cold'])
    assert.deepEqual(await valuesOf(log, 'private/a'), ['1', '2'])
  })

  test('while the archive of the log is away, those that have another go on', async () => {
    {
      await using log = await own.open()
      await own.fill(log, 'private/a', '1')
      await own.fill(log, 'b', '2')
    }
    const mount = own.unmount('archive')
    await using log = await own.open()
    await own.fill(log, 'b', '3')
    await own.fill(log, 'private/a', '4')
    assert.deepEqual(await statesOf(log, 'private/a'), ['cold', 'cold'])
    assert.deepEqual(await statesOf(log, 'b'), ['cold', 'sealed'])
    // What lies nowhere yet is bound only when the archive of the log says that it has nothing of it.
    await own.fill(log, 'private/new', '5')
    assert.deepEqual(await statesOf(log, 'private/new'), ['sealed'])
    mount()
    await log.tier.run()
    await log.tier.run()
    assert.deepEqual(await statesOf(log, 'b'), ['cold', 'cold'])
    assert.deepEqual(await statesOf(log, 'private/new'), ['cold'])
    assert.equal(own.keys('private').length, 3)
  })

  test('one that belongs to another log takes nothing', async () => {
    {
      const options = { tiering: 'off', control: 'off', config: 'none' } as const
      const system = { logger: silentLogger() }
      await using other = await openLog(join(own.root, 'other-log'), {
        ...options,
        system,
        archive: join(own.root, 'private'),
        storeFileBytes: 4 * 2 ** 20,
      })
      await other.stream('x').append('theirs')
      await other.stream('x').seal()
      await other.tier.run()
    }
    await using log = await own.open()
    await log.stream('private/a').append('1')
    await log.stream('private/a').seal()
    const { failed } = await log.tier.run()
    assert.match(failed[0]?.error ?? '', /belongs to log/)
    assert.equal(own.keys('private').length, 1)
    assert.deepEqual(await statesOf(log, 'private/a'), ['sealed'])
  })

  test('stores and archives in one another are refused: who empties a store would empty the archive', async () => {
    const refused = async (stores: string, archive: string, message: RegExp) => {
      own.configure('policies: []', `stores: [${stores}]\narchive: ${archive}`)
      await assert.rejects(own.open(), { code: 'config_invalid', message })
    }
    await refused('./1, ./2, ./3', './2', /archive: \S+\/2 and the store \S+\/2 lie in one another/)
    await refused(
      './1, ./2, ./3',
      './2/archive',
      /and the store \S+\/2 lie in one another.*beside the stores/,
    )
    await refused('./a/1, ./2, ./3', './a', /and the store \S+\/a\/1 lie in one another/)
    await refused('./1, ./1/2, ./3', './a', /stores: \S+\/1 and \S+\/1\/2 lie in one another/)
    await refused('./1, ././1, ./3', './a', /stores: name one directory, \S+\/1, twice/)
    await refused(
      './1, ./2, ./3',
      '.',
      /holds the log itself: give it a directory of its own, as \S+\/archive/,
    )
    await refused('./1, ./2, ./3', '..', /holds the log itself/)
    await refused('./1, ./2, ./3', './cache', /\/cache is the log's own: .* as \S+\/archive/)
    await refused('./1, ./2, ./3', './cache/x', /\/cache is the log's own/)
    own.configure('policies: [{ match: x, archive: ./2/x }]', 'stores: [./1, ./2, ./3]\narchive: ./archive')
    await assert.rejects(own.open(), {
      code: 'config_invalid',
      message: /the store \S+\/2 lie in one another/,
    })
  })

  test('places that can not be told apart are refused before anything is opened, by the line that names them', async () => {
    own.configure('policies: [{ match: x, archive: ../archive/inner }]')
    await assert.rejects(own.open(), { code: 'config_invalid', message: /yaml:4 .*lie in one another/ })
    own.configure('policies: [{ match: x, archive: ../a }, { match: y, archive: ../a/b }]')
    await assert.rejects(own.open(), { code: 'config_invalid', message: /lie in one another/ })
    own.configure('policies: [{ match: x, archive: ../a }]', '')
    await assert.rejects(own.open(), {
      code: 'config_invalid',
      message: /the log has none: name its archive/,
    })
    own.configure('policies: [{ match: x, archive: ../archive/ }, { match: y, archive: ../archive-2 }]')
    await using log = await own.open()
    await own.fill(log, 'x', '1')
    assert.equal(own.keys('archive').length, 1)
  })
})
