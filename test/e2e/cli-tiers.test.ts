import assert from 'node:assert/strict'
import { rename } from 'node:fs/promises'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { finished, start, values, Workplace } from '../helpers/cli.js'

let place: Workplace
const cli: Workplace['cli'] = (args, input) => place.cli(args, input)
const ok: Workplace['ok'] = (args, input) => place.ok(args, input)

before(async () => {
  place = await Workplace.make()
})
after(() => place.remove())

describe('stream, tier, policy, segment', () => {
  test('append and read in a process of their own', async () => {
    assert.match(await ok(['append', 'own', '--message', 'one']), /^1:0:0 /)
    assert.match(await ok(['append', 'own', '--message', 'two']), /^2:0:0 /)
    assert.equal(await ok(['read', 'own', '--raw']), 'one\ntwo\n')
    await ok(['tier', 'run'])
  })

  test('streams', async () => {
    assert.match(await ok(['stream', 'create', 'st/one', '--txid', 'custom']), /txid +custom/)
    const again = await cli(['stream', 'create', 'st/one'])
    assert.deepEqual([again.code, again.out], [4, ''])
    await ok(['append', 'st/one', '--txid', '5', '--message', 'x'])
    assert.equal(await ok(['read', 'st/one']), '1:0:0  txid 5  x\n')
    assert.match(await ok(['stream', 'show', 'st/one']), /records +1 ever appended/)
    assert.equal(
      (JSON.parse(await ok(['stream', 'show', 'st/one', '--json'])) as { nextSequenceId: string })
        .nextSequenceId,
      '1',
    )
    assert.ok(values(await ok(['stream', 'list', '--json'])).some((stream) => stream.name === 'st/one'))
    assert.match(await ok(['stream', 'list']), /^STREAM +RECORDS/)
  })

  test('plan, check, run, status: behind, then not', async () => {
    await ok(['append', 'tiers', '--message', 'x'])
    assert.match(await ok(['tier', 'plan', 'tiers']), /^copy +tiers seg 1 .*archive.* now$/m)
    assert.ok(
      values(await ok(['tier', 'plan', '--json'])).some(
        (action) => action.stream === 'tiers' && action.kind === 'copy',
      ),
    )
    const behind = await cli(['tier', 'status', '--check'])
    assert.equal(behind.code, 5)
    assert.match(behind.out, /^archive .* not used yet by this process$/m)
    assert.match(behind.out, /if these disks burned now: .*loses/)
    assert.match(await ok(['tier', 'run']), /^copy {3}tiers seg 1 {2}\d+ B$/m)
    const report = JSON.parse(await ok(['tier', 'run', '--once', '--json'])) as {
      copied: number
      failed: unknown[]
    }
    assert.deepEqual([report.copied, report.failed], [0, []])
    const checked = await cli(['tier', 'status', '--check'])
    assert.equal(checked.code, 0, checked.out)
    assert.match(checked.out, /if these disks burned now: nothing is lost/)
    assert.match(await ok(['tier', 'status', 'tiers']), /▓ both \d+ B/)
    const status = JSON.parse(await ok(['tier', 'status', '--json'])) as {
      behind: string[]
      archive: { state: string; lastOkMs: number | null }
    }
    assert.deepEqual(status.behind, [])
    assert.deepEqual([status.archive.state, status.archive.lastOkMs], ['ok', null])
    assert.equal((await cli(['tier', 'status', 'tires'])).code, 3)
  })

  test('policies', async () => {
    assert.match(await ok(['policy', 'show', 'not/there']), /^hot\.for +1h +stratalog\.yaml:4 {2}defaults$/m)
    assert.match(
      await ok(['policy', 'test', 'tiers', '--at', '+7d']),
      /^in 7d +frees \d+ B hot \(1 segment\), from .*Z on$/m,
    )
    const tested = JSON.parse(await ok(['policy', 'test', 'tiers', '--json', '--at', '2099-01-01'])) as {
      atMs: number
      evicts: { segments: number }
    }
    assert.deepEqual([tested.atMs, tested.evicts.segments], [Date.UTC(2099, 0, 1), 1])
  })

  test('segments', async () => {
    assert.match(await ok(['segment', 'list', 'tiers']), /^ +1 {2}archived/m)
    assert.deepEqual(
      values(await ok(['segment', 'list', 'tiers', '--json'])).map((row) => [row.segment, row.state]),
      [['1', 'archived']],
    )
    assert.match(
      await ok(['segment', 'dump', 'tiers', '1', '--payloads']),
      /1:0:0 {2}txid \d+ {2}seq 0 {2}1 B {2}x/,
    )
    assert.equal(values(await ok(['segment', 'dump', 'tiers', '1', '--json'])).length, 2)
    assert.equal((await cli(['segment', 'dump', 'tiers', '9'])).code, 3)
  })

  test('an archive that is away: said to people once, and logged only when asked for', async () => {
    const archive = join(place.dir, 'archive')
    await ok(['append', 'away', '--message', 'x'])
    await rename(archive, `${archive}.away`)
    try {
      const run = await cli(['tier', 'run'])
      assert.match(run.out, /^copy +away seg 1 +failed: archive .*is it mounted\?$/m)
      assert.equal(run.err, '')
      const logged = finished(
        start(['--dir', place.dir, 'tier', 'run'], place.base, { STRATALOG_LOG: 'warn' }),
      )
      assert.match((await logged).err, /^\{"level":/m)
    } finally {
      await rename(`${archive}.away`, archive)
    }
  })
})
