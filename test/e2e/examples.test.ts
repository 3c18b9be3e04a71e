import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { readdirSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import process from 'node:process'
import { describe, test } from 'node:test'
import { promisify } from 'node:util'

const examples = join(import.meta.dirname, '../../examples')

/** What an example writes; it must end by itself, well, and without a word on stderr. */
async function run(name: string): Promise<string[]> {
  // Settings of whoever runs the tests are not the example's.
  const env = Object.fromEntries(Object.entries(process.env).filter(([key]) => !key.startsWith('STRATALOG_')))
  const script = join(examples, `${name}.js`)
  const options = { cwd: tmpdir(), env, timeout: 60_000 }
  const { stdout, stderr } = await promisify(execFile)(process.execPath, [script], options)
  assert.equal(stderr, '')
  return stdout.trimEnd().split('\n')
}

describe('examples', { concurrency: 2 }, () => {
  test('quick-start writes, copies, reads a month and follows', async () => {
    const lines = await run('quick-start')
    assert.match(lines[0] ?? '', /^90 records, 1:0:0 … 1:\d+:\d+$/)
    assert.match(lines[1] ?? '', /^1:\d+:\d+ durable on [23] stores$/)
    assert.match(lines[2] ?? '', /^0 steps failed, \d+ are for later$/)
    const january = lines.slice(3, 34)
    assert.match(january[0] ?? '', /^1:0:0 ACME 10.01$/)
    assert.ok(january.every((line) => /^1:\d+:\d+ ACME 10\.\d+$/.test(line)))
    assert.deepEqual(lines.slice(34), ['new 12.75'])
  })

  test('follow sees what is written meanwhile, and goes on at its position', async () => {
    const lines = await run('follow')
    assert.deepEqual(
      lines.map((line) => line.replace(/\d+:\d+:\d+/, '*')),
      [1, 2, 3, 4, 5].map((n) => `follow *  line ${n}`).concat('later  *  line 6'),
    )
  })

  test('retention shows each value with its origin', async () => {
    const lines = await run('retention')
    assert.equal(lines[0], 'audit/login: kept for ever (stratalog.yaml:8  policies[0]), evict.lag from code')
    assert.equal(lines[2], 'web: kept 90 days (stratalog.yaml:5  defaults), evict.lag from code')
    assert.equal(lines[3], 'web: kept 30 days (stream override), evict.lag from code')
    assert.ok(lines.some((line) => line.startsWith('web: seal by ')))
  })

  test('restore makes a new log from the archive alone', async () => {
    const lines = await run('restore')
    assert.deepEqual(lines.slice(0, 2), [
      'audit: 1000 records in 1 segments, 0 missing',
      'restored 1000 records, digests equal: true',
    ])
    assert.deepEqual(
      lines.slice(2).map((line) => line.split('  ')[1]),
      ['event 998', 'event 999'],
    )
  })

  test('there is no other example that nobody runs', () => {
    const names = readdirSync(examples).filter((name) => name.endsWith('.js'))
    const known = ['follow.js', 'quick-start.js', 'restore.js', 'retention.js', 'temporary-directory.js']
    assert.deepEqual(names.sort(), known)
  })
})
