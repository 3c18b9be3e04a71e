import assert from 'node:assert/strict'
import { mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, test } from 'node:test'
import { parseConfig } from '../../src/config/file.js'
import { resolveConfig } from '../../src/config/resolve.js'
import type { Log } from '../../src/log.js'
import { isStratalogError, StratalogError } from '../../src/model/errors.js'
import { LiveConfig } from '../../src/open/live-config.js'
import { openLog } from '../../src/open.js'
import { LocalControl } from '../../src/serve/control-api.js'
import { silentLogger } from '../../src/system/logger.js'
import { memoryLogger } from '../helpers/archive.js'
import { ManualClock } from '../helpers/manual-clock.js'

const yaml = (...lines: string[]) => `${['version: 1', ...lines].join('\n')}\n`
const HOT_1H = yaml('defaults: { hot: { for: 1h } }')
const HOT_2H = yaml('defaults: { hot: { for: 2h } }')
const HOUR = 3_600_000

describe('a file that is looked at', () => {
  let text: string | null = HOT_1H
  let unreadable = false
  let refuses: string | null = null
  let clock = new ManualClock()
  let lines: string[] = []
  let live: LiveConfig
  const hotHours = () => (live.current.policyFor('a').policy.hot.forMs ?? 0) / HOUR

  beforeEach(() => {
    text = HOT_1H
    unreadable = false
    refuses = null
    clock = new ManualClock()
    lines = []
    const source = {
      file: 'stratalog.yaml',
      read: async () => {
        if (unreadable) throw new StratalogError('config_invalid', 'it can not be read')
        return text
      },
      resolve: (found: string | null) =>
        resolveConfig({ file: found === null ? null : parseConfig(found, 'stratalog.yaml') }),
    }
    live = new LiveConfig(source, { config: source.resolve(text), text }, clock, memoryLogger(lines))
    live.use({
      policies: async (config) => {
        if (refuses !== null && config !== live.current) throw new StratalogError('config_invalid', refuses)
        return new Map([['1'.repeat(32), config.policyFor('a')]])
      },
      changed: () => undefined,
    })
    live.follow()
  })
  afterEach(() => live.close())

  test('is in force within a few seconds, after it was seen twice', async () => {
    text = HOT_2H
    await clock.advance(2_000)
    assert.equal(hotHours(), 1, 'seen once it may be half of what is being written')
    await clock.advance(2_000)
    assert.equal(hotHours(), 2)
    assert.equal(live.source.loadedMs, clock.nowMs())
  })

  test('that is written in pieces never counts half', async () => {
    for (const part of [yaml('defaults: { hot: { for: 1h } }'), yaml(), yaml('defaults:'), HOT_2H]) {
      text = part
      await clock.advance(2_000)
      assert.equal(hotHours(), 1)
    }
    await clock.advance(2_000)
    assert.equal(hotHours(), 2)
    assert.equal(live.source.problem, null)
  })

  for (const [what, now, said] of [
    ['invalid', { text: yaml('defaults: { hot: { fro: 1h } }') }, /stratalog\.yaml:2: unknown key "fro"/],
    ['of a newer version', { text: 'version: 9\n' }, /version 9 is not read here/],
    ['empty', { text: '' }, /empty/],
    ['gone', { text: null }, /stratalog\.yaml is gone: put it back/],
    ['unreadable', { text: HOT_2H, unreadable: true }, /can not be read/],
    ['unfit for a stream', { text: HOT_2H, refuses: 'quorum of a does not fit' }, /does not fit/],
  ] as const) {
    test(`that is ${what} keeps what was in force, says so once, and is taken when it is mended`, async () => {
      text = now.text
      unreadable = 'unreadable' in now
      refuses = 'refuses' in now ? now.refuses : null
      await clock.advance(20_000)
      assert.equal(hotHours(), 1)
      assert.match(live.source.problem?.message ?? '', said)
      assert.equal(
        lines.filter((line) => line.includes('is refused')).length,
        1,
        'said once, not at each look',
      )
      text = HOT_1H
      unreadable = false
      refuses = null
      await clock.advance(4_000)
      assert.equal(live.source.problem, null, 'what is in force is what it says again')
      text = HOT_2H
      await clock.advance(4_000)
      assert.equal(hotHours(), 2)
    })
  }

  test('a reload takes it at once, and rejects with what is wrong', async () => {
    text = HOT_2H
    const { changed, streams } = await live.reload()
    assert.deepEqual([changed, streams, hotHours()], [true, 1, 2])
    assert.equal((await live.reload()).changed, false)
    text = yaml('nonsense: 1')
    await assert.rejects(live.reload(), (error) => isStratalogError(error, 'config_invalid'))
    assert.equal(hotHours(), 2)
    assert.match(live.source.problem?.message ?? '', /nonsense/)
    text = HOT_2H
    assert.equal((await live.reload()).source.problem, null)
  })

  test('names what waits for the log to be opened again, and takes the rest', async () => {
    text = yaml('archive: ./elsewhere', 'stores: [a, b, c]', 'defaults: { hot: { for: 2h } }')
    const { source } = await live.reload()
    assert.deepEqual(
      source.needsRestart.map(({ setting, origin }) => [setting, origin]),
      [
        ['archive', 'stratalog.yaml:2'],
        ['stores', 'stratalog.yaml:3'],
      ],
    )
    assert.equal(hotHours(), 2)
    text = HOT_2H
    assert.deepEqual((await live.reload()).source.needsRestart, [])
  })

  test('is looked at no more after close', async () => {
    await live.close()
    assert.equal(clock.pending, 0)
    text = HOT_2H
    await clock.advance(10_000)
    assert.equal(hotHours(), 1)
  })
})

describe('a log whose file changes', () => {
  let root = ''
  let file = ''
  beforeEach(() => {
    root = mkdtempSync(join(tmpdir(), 'sl-reload-'))
    file = join(root, 'stratalog.yaml')
  })
  afterEach(() => rmSync(root, { recursive: true, force: true }))

  const open = (): Promise<Log> =>
    openLog(root, {
      tiering: 'off',
      control: 'off',
      storeFileBytes: 4 * 1024 * 1024,
      system: { logger: silentLogger() },
    })
  /** As editors do it. */
  const write = (text: string) => {
    writeFileSync(`${file}.new`, text)
    renameSync(`${file}.new`, file)
  }

  test('writers, plans and policy show follow; a stream’s override stays nearer', async () => {
    write(yaml('defaults: { roll: { size: 1 MiB } }'))
    await using log = await open()
    const api = new LocalControl(log)
    await log.stream('a').append('x'.repeat(3_000))
    await log.stream('own').append('x')
    await log.stream('own').setPolicy({ roll: { size: '9 MiB' } })
    write(yaml('defaults:', '  roll: { size: 2 KiB }', '  keep: { for: 1h }'))
    const { changed, streams } = await log.policies.reload()
    assert.deepEqual([changed, streams], [true, 2])
    assert.equal((await log.stream('a').policy()).origins['roll.size'], 'stratalog.yaml:3  defaults')
    assert.equal((await log.stream('own').policy()).policy.roll.sizeBytes, 9 * 2 ** 20)
    assert.equal((await log.tier.plan('a'))[0]?.actions[0]?.field, 'roll.size')
    await log.stream('a').append('y'.repeat(3_000))
    assert.ok((await log.tier.run()).sealed >= 1, 'the agent seals by the new size')
    const shown = await api.policyShow('own')
    assert.deepEqual(
      shown.losers.map(({ field, value, origin }) => [field, value, origin]),
      [['roll.size', 2_048, 'stratalog.yaml:3  defaults']],
    )
    assert.equal(shown.source.problem, null)
  })

  test('a file that does not fit the stores, or an override, is refused as a whole', async () => {
    write(yaml('defaults: { hot: { for: 1h } }'))
    await using log = await open()
    const api = new LocalControl(log)
    await log.stream('three').append('x')
    await log.stream('three').setPolicy({ quorum: { ack: 2 } })
    for (const text of [
      yaml('quorum: { copies: 5, ack: 2 }', 'defaults: { hot: { for: 9h } }'),
      yaml('quorum: { copies: 1, ack: 1 }', 'defaults: { hot: { for: 9h } }'),
    ]) {
      write(text)
      await assert.rejects(api.policyReload(), /quorum|stores|copies/)
      assert.equal((await log.stream('three').policy()).policy.hot.forMs, HOUR)
      assert.match((await api.policyShow('three')).source.problem?.message ?? '', /quorum|stores|copies/)
      assert.notEqual((await api.tierStatus()).policy.problem, null)
    }
    assert.equal((await log.stream('three').append('still')).copies >= 2, true)
  })
})
