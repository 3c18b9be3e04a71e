import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import process from 'node:process'
import { after, describe, test } from 'node:test'

const cli = join(import.meta.dirname, '../../src/cli/main.js')
const root = mkdtempSync(join(tmpdir(), 'stratalog-demo-test-'))
after(() => rmSync(root, { recursive: true, force: true }))

type Step = { step: string } & Record<string, unknown>
interface Ended {
  readonly code: number | null
  readonly steps: Step[]
  readonly stderr: string
}

/** Runs `demo --json`; `onStep` is called as each step is told, with the process to do something to. */
function demo(args: readonly string[], onStep?: (step: Step, child: ChildProcess) => void): Promise<Ended> {
  const env = Object.fromEntries(Object.entries(process.env).filter(([key]) => !key.startsWith('STRATALOG_')))
  const child = spawn(process.execPath, [cli, 'demo', '--json', ...args], { env, cwd: root })
  const steps: Step[] = []
  let rest = ''
  let stderr = ''
  child.stdout.setEncoding('utf8').on('data', (chunk: string) => {
    const lines = (rest + chunk).split('\n')
    rest = lines.pop() ?? ''
    for (const line of lines) {
      const step = JSON.parse(line) as Step
      steps.push(step)
      onStep?.(step, child)
    }
  })
  child.stderr.setEncoding('utf8').on('data', (chunk: string) => {
    stderr += chunk
  })
  return new Promise((resolve, reject) => {
    child.on('error', reject)
    child.on('close', (code) => resolve({ code, steps, stderr }))
  })
}

const named = (ended: Ended, step: string) => ended.steps.filter((one) => one.step === step)

/** What every whole run must say, whatever came before it. */
function assertWhole(ended: Ended, records: number): void {
  assert.equal(ended.code, 0, ended.stderr)
  const [restore] = named(ended, 'restore')
  assert.equal(restore?.records, records)
  assert.equal(restore?.digestsEqual, true)
  assert.match(String(restore?.digest), /^sha256:[0-9a-f]{64}$/)
  assert.equal(restore?.digest, restore?.archiveDigest)
  const [verify] = named(ended, 'verify')
  assert.deepEqual([verify?.records, verify?.source, verify?.equal], [records, records, true])
  assert.equal(named(ended, 'read').length, 3)
}

describe('stratalog demo', { concurrency: 2 }, () => {
  test('takes real events the whole way, and a second run says so', async () => {
    const directory = join(root, 'whole')
    const first = await demo(['--dir', directory])
    const records = Number(named(first, 'source')[0]?.events)
    assert.ok(records > 20_000, 'flights and earthquakes')
    assertWhole(first, records)
    assert.equal(named(first, 'resume').length, 0)
    const [old, recent] = named(first, 'append')
    assert.equal(Number(old?.records) + Number(recent?.records), records)
    assert.ok(Number(old?.p50Ms) > 0 && Number(old?.megabytesPerSecond) > 0, 'measured')
    const copied = named(first, 'copy').reduce((sum, one) => sum + Number(one.segments), 0)
    assert.ok(copied >= 10)
    assert.ok(Number(named(first, 'evict')[0]?.freedBytes) > 0)
    const [verify] = named(first, 'verify')
    assert.ok(Number(verify?.cold) > 0 && Number(verify?.hot) > 0, 'read from both tiers')

    const second = await demo(['--dir', directory])
    assertWhole(second, records)
    assert.deepEqual(
      named(second, 'resume').map(({ complete, equal }) => ({ complete, equal })),
      [{ complete: true, equal: true }],
    )
    assert.ok(named(second, 'append').every((step) => step.records === 0))
    assert.equal(named(second, 'restore')[0]?.digest, named(first, 'restore')[0]?.digest)
  })

  test('killed at each step it goes on, and nothing acknowledged is lost', async () => {
    const directory = join(root, 'killed')
    const file = join(root, 'lines.ndjson')
    const events = Array.from({ length: 3_000 }, (_, n) =>
      JSON.stringify({ ts: 1_700_000_000 + n, n, pad: 'x'.repeat(200) }),
    )
    writeFileSync(file, events.join('\n'))
    let acknowledged = 0
    for (const at of ['source', 'append', 'copy', 'evict', 'read', 'restore']) {
      const ended = await demo([file, '--dir', directory], (step, child) => {
        if (step.step === at) child.kill('SIGKILL')
      })
      const [resume] = named(ended, 'resume')
      assert.ok(Number(resume?.records ?? 0) >= acknowledged, `after ${at}`)
      acknowledged = Number(resume?.records ?? 0)
      for (const step of named(ended, 'append')) acknowledged += Number(step.records)
    }
    assert.equal(acknowledged, events.length)
    assertWhole(await demo([file, '--dir', directory]), events.length)
  })

  test('takes files of a user: CSV, JSON, plain lines', async () => {
    const file = (name: string, text: string) => {
      writeFileSync(join(root, name), text)
      return join(root, name)
    }
    const files = [
      file('orders.csv', 'at,item\n2024-02-01,"a ""big"", red one"\n2024-01-01T10:00,b\n'),
      file('list.json', '[{"time": 1700000000000, "n": 1}, {"time": 1600000000000, "n": 2}, 3]'),
      file('words.txt', 'one\ntwo\nthree\n'),
    ]
    const ended = await demo([...files, '--dir', join(root, 'files')])
    assertWhole(ended, 8)
    const { streams } = named(ended, 'source')[0] as Step & { streams: unknown }
    assert.deepEqual(streams, [
      { name: 'files/orders', events: 2 },
      { name: 'files/list', events: 3 },
      { name: 'files/words', events: 3 },
    ])
  })

  test('refuses what it must not touch or can not read', async () => {
    const foreign = mkdtempSync(join(root, 'foreign-'))
    writeFileSync(join(foreign, 'thesis.txt'), 'mine')
    const words = join(root, 'some words.txt')
    writeFileSync(words, 'one\n')
    const bad = join(root, 'bad.csv')
    writeFileSync(bad, 'a,b\n1,2\n1,2,3\n')
    const broken = join(root, 'broken.ndjson')
    writeFileSync(broken, '{"a":1}\n{"a":\n')
    const empty = join(root, 'empty.txt')
    writeFileSync(empty, '')
    const expected: [string[], number, string, RegExp][] = [
      [[words, '--dir', foreign], 4, 'refused', /no demo wrote/],
      [[join(root, 'absent.ndjson'), '--dir', join(root, 'n1')], 3, 'file_not_found', /absent\.ndjson/],
      [[bad, '--dir', join(root, 'n2')], 2, 'invalid_argument', /row 3 has 3 fields/],
      [[broken, '--dir', join(root, 'n3')], 2, 'invalid_argument', /broken\.ndjson line 2/],
      [[empty, '--dir', join(root, 'n4')], 2, 'invalid_argument', /no event/],
      [[words, '--dir', words], 2, 'invalid_argument', /can't be used/],
    ]
    for (const [args, exit, code, message] of expected) {
      const ended = await demo(args)
      assert.equal(ended.code, exit, ended.stderr)
      const { error } = JSON.parse(ended.stderr) as { error: { code: string; message: string } }
      assert.equal(error.code, code)
      assert.match(error.message, message)
      assert.deepEqual(ended.steps, [])
    }
    assert.deepEqual(readdirSync(foreign), ['thesis.txt'])
    for (const name of ['n1', 'n2', 'n3', 'n4'])
      assert.ok(!readdirSync(root).includes(name), 'nothing is made')
  })

  test('refuses a directory that holds the demo of other data', async () => {
    const directory = join(root, 'other')
    const words = join(root, 'first.txt')
    writeFileSync(words, 'one\n')
    await demo([words, '--dir', directory], (step, child) => {
      if (step.step === 'source') child.kill('SIGKILL')
    })
    writeFileSync(words, 'one\ntwo\n')
    const ended = await demo([words, '--dir', directory])
    assert.equal(ended.code, 4, ended.stderr)
    assert.match(ended.stderr, /demo of other data/)
  })
})
