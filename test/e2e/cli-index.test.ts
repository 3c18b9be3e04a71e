import assert from 'node:assert/strict'
import { readdir, rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { Workplace } from '../helpers/cli.js'

let place: Workplace
before(async () => {
  place = await Workplace.make()
})
after(() => place.remove())

async function dropIndex(): Promise<void> {
  for (const name of await readdir(place.dir))
    if (/^index\.db(-wal|-shm)?$/.test(name)) await rm(join(place.dir, name))
}

describe('index rebuild', () => {
  test('says what it found; --json; exit 4 with a store away, 6 where a loss was accepted', async () => {
    for (const text of ['one', 'two']) await place.ok(['append', 'a', '--message', text])
    await place.ok(['tier', 'run'])
    assert.match(
      await place.ok(['index', 'rebuild']),
      /rebuilt .*index\.db: 1 stream, 2 segments \(2 hot, 0 cold, 2 of the hot ones in the archive too\)/,
    )
    await dropIndex()
    const report = JSON.parse(await place.ok(['index', 'rebuild', '--json'])) as Record<string, unknown>
    assert.deepEqual([report.streams, report.segments, report.keptAs, report.losses], [1, 2, null, []])
    await dropIndex()
    const store = join(place.dir, 'stores', '1')
    await rename(store, join(place.base, 'aside'))
    for (const args of [
      ['index', 'rebuild'],
      ['read', 'a'],
    ]) {
      const refused = await place.cli(args)
      assert.equal(refused.code, 4, refused.err)
      assert.match(refused.err, /stores\/1.*stratalog index rebuild --accept-loss/)
    }
    const accepted = await place.cli(['index', 'rebuild', '--accept-loss'])
    assert.equal(accepted.code, 6, accepted.err)
    assert.match(accepted.out, /^LOST {2}store .*stores\/1/m)
    assert.equal(await place.ok(['read', 'a', '--raw']), 'one\ntwo\n')
    await rename(join(place.base, 'aside'), store)
  })

  test('index.db gone: the next command finds everything', async () => {
    await dropIndex()
    assert.equal(await place.ok(['read', 'a', '--raw']), 'one\ntwo\n')
  })

  test('where there is no log', async () => {
    const none = await place.cli(['--dir', join(place.base, 'none'), 'index', 'rebuild'])
    assert.match(none.err, /there is no log/)
    assert.notEqual(none.code, 0)
  })
})
