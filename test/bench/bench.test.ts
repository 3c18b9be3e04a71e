import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import process from 'node:process'
import { after, describe, test } from 'node:test'
import type { BenchResult } from '../../bench/result.js'
import { alternate, median, percentile, ratioAtLeast, valueAtMost } from '../../bench/result.js'
import { skipWithout } from '../servers/cache.js'

const MAIN = join(import.meta.dirname, '..', '..', 'bench', 'main.js')
/** All figures there are, in the order they are told. */
const NAMES = [
  'append.1stream',
  'append.cpu',
  'append.64k',
  'append.100streams',
  'append.1000streams',
  'append.while_catchup',
  'append.latency',
  'append.latency.p99',
  'read.hot',
  'read.hot.cached',
  'read.hot.1000streams',
  'read.cold',
  'read.cold.first',
  'read.cold.first.bare',
  'open.after_kill',
  'tier.copy',
  'tier.copy.1000streams',
  'append.while_tiering',
  'tier.copy.encrypted',
  'rebuild.store',
  'rebuild.store.p99',
  'index.million',
  'index.million.open',
  'index.million.rss',
  'index.million.pass',
  'index.rebuild',
  'streams.10000',
  'streams.10000.p99',
  'memory.path',
  'memory.steady',
]

/** Those that need a server; left out, with the reason, where it can't be had. */
const REMOTE = {
  versitygw: [
    's3.copy',
    's3.read',
    's3.read.parallel',
    's3.read.first',
    's3.read.first.time',
    's3.rebuild',
    's3.rebuild.lists',
    's3.memory',
  ],
  hdfs: ['hdfs.copy', 'hdfs.read'],
  'java-clients': [
    'bk.add.raw',
    'bk.add.raw.cpu',
    'bk.add.plain',
    'bk.latency',
    'bk.latency.p99',
    'bk.append.1',
    'bk.cpu',
    'bk.append.100',
    'bk.read',
  ],
}

const directory = mkdtempSync(join(tmpdir(), 'stratalog-bench-test-'))
after(() => rmSync(directory, { recursive: true, force: true }))

function bench(...args: string[]) {
  return spawnSync(process.execPath, [MAIN, '--short', '--dir', directory, ...args], { encoding: 'utf8' })
}

describe('the benchmarks', () => {
  // No thresholds: whether this machine is fast, and alone, is not what a test can know.
  test('every one runs, tells finite figures, and leaves nothing behind', async () => {
    const { status, stdout, stderr } = bench('--json')
    assert.equal(status, 0, stderr)
    const results = stdout
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as BenchResult)
    assert.deepEqual(
      results.map((one) => one.name),
      [
        ...NAMES,
        ...((await skipWithout('versitygw')) === false ? REMOTE.versitygw : []),
        ...((await skipWithout('hdfs')) === false ? REMOTE.hdfs : []),
        ...((await skipWithout('java-clients')) === false ? REMOTE['java-clients'] : []),
      ],
    )
    for (const one of results) {
      const { name, value, reference, ratio } = one
      for (const figure of [value, reference.value, ratio]) {
        assert.ok(Number.isFinite(figure) && figure > 0, `${name}: ${JSON.stringify(one)}`)
      }
      assert.ok(Math.abs(ratio - value / reference.value) < 1e-9, name)
      assert.equal(typeof one.met, 'boolean', name)
    }
    assert.deepEqual(readdirSync(directory), [])
  })

  test('a name, or the beginning of several, chooses; the last lines are a table', () => {
    const { status, stdout } = bench('append.latency', '--only', 'append.cpu')
    assert.equal(status, 0)
    const rows = stdout.trim().split('\n').slice(-5)
    assert.match(`${rows[0]}`, /^name +value +reference +ratio +target/)
    assert.deepEqual(
      rows.slice(1).map((row) => row.split(' ')[0]),
      ['append.1stream', 'append.cpu', 'append.latency', 'append.latency.p99'],
    )
    for (const row of rows.slice(1)) assert.match(row, / (met|NOT MET) /)
  })

  test('without its server a member is left out, and why is told', () => {
    const args = [MAIN, '--short', '--json', '--dir', directory, 's3.copy']
    // No cache, and nothing to build one with.
    const env = { PATH: '/nonexistent', STRATALOG_TEST_SERVERS: join(directory, 'cache') }
    const { status, stdout, stderr } = spawnSync(process.execPath, args, { encoding: 'utf8', env })
    rmSync(join(directory, 'cache'), { recursive: true, force: true })
    assert.equal(status, 0, stderr)
    assert.equal(stdout, '')
    assert.match(stderr, /s3\.copy is left out: .*go /)
  })

  test('an unknown name is refused with those there are', () => {
    const { status, stderr } = bench('append.nothing')
    assert.equal(status, 2)
    assert.match(stderr, /nothing called append\.nothing.*append\.1stream/)
  })
})

describe('what figures are made of', () => {
  const measured = { name: 'a', value: 6, unit: 's', what: 'b', reference: 4 }

  test('medians and percentiles', () => {
    assert.equal(median([5, 1, 3]), 3)
    assert.equal(median([4, 1, 3, 2]), 2.5)
    assert.ok(Number.isNaN(median([])))
    assert.equal(percentile([10, 30, 20], 0.5), 20)
    assert.equal(percentile([10, 30, 20], 0.99), 30)
  })

  test('a result is met at its limit and not beyond it', () => {
    assert.equal(ratioAtLeast(measured, 1.5).met, true)
    assert.equal(ratioAtLeast(measured, 1.6).met, false)
    assert.equal(valueAtMost(measured, 6).met, true)
    assert.equal(valueAtMost(measured, 5.9).met, false)
  })

  test('measurements alternate, so that a slow moment hits all of them', async () => {
    const order: string[] = []
    const found = await alternate(2, {
      a: () => order.push('a'),
      b: async () => order.push('b'),
    })
    assert.deepEqual(order, ['a', 'b', 'a', 'b'])
    assert.deepEqual(found, { a: [1, 3], b: [2, 4] })
  })
})
