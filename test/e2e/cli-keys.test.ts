import assert from 'node:assert/strict'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { present } from '../../src/model/assert.js'
import { application, values, Workplace } from '../helpers/cli.js'

describe('keys beside an application that has the log open', () => {
  let place: Workplace
  let ring = ''
  let running: { close(): Promise<void> }

  const configure = (encryption: string) =>
    writeFile(
      join(place.dir, 'stratalog.yaml'),
      `version: 1\narchive: ./archive\ndefaults:\n  hot: { for: 0s }\n  evict: { lag: 0s }\n  encryption: ${encryption}\n`,
    )

  before(async () => {
    place = await Workplace.make()
    ring = join(place.base, 'strata.ring')
    await place.ok(['key', 'add', 'one', '--key-ring', ring])
    await place.ok(['key', 'add', 'two', '--key-ring', ring])
    await configure('{ ring: ../strata.ring, key: one }')
    await place.ok(['append', 'app'], 'archived before\n')
    await place.ok(['tier', 'run'])
    running = await application(place.dir)
  })
  after(async () => {
    await running.close()
    await place.remove()
  })

  test('are listed, wrapped and written anew by the application', async () => {
    const [listed] = values(await place.ok(['--json', 'key', 'list']))
    assert.equal(listed?.stream, 'app')
    assert.deepEqual(listed?.policy, { ring: '../strata.ring', key: 'one' })
    const rotated = values(await place.ok(['--json', 'key', 'rotate']))
    assert.deepEqual(rotated, [{ stream: 'app', wrapped: 0 }])
    const written = values(await place.ok(['--json', 'key', 'reencrypt', 'app', '--new-key']))
    assert.deepEqual(
      written.map(({ segment, written: anew }) => [segment, anew]),
      [['1', true]],
    )
    assert.match(await place.ok(['read', 'app']), /archived before[\s\S]*from the application/)
  })

  test('a stream that is not there is named with the exit code for it', async () => {
    for (const verb of ['list', 'rotate', 'reencrypt']) {
      const { code, err } = await place.cli(['key', verb, 'apq'])
      assert.equal(code, 3, err)
      assert.match(err, /did you mean app\?/)
    }
  })

  test('a ring says its keys by name only', async () => {
    const said = await place.ok(['--json', 'key', 'list', '--key-ring', ring])
    const [listed] = values(said)
    assert.deepEqual(
      (present(listed, 'ring').keys as { id: string }[]).map(({ id }) => id),
      ['one', 'two'],
    )
    assert.equal(/[0-9A-Za-z+/]{40}/.test(said), false)
    const { code } = await place.cli(['key', 'list', '--key-ring', join(place.base, 'none')])
    assert.equal(code, 7)
  })
})
