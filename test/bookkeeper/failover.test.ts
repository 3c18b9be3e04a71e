import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { hostname, tmpdir } from 'node:os'
import { join } from 'node:path'
import process from 'node:process'
import { createInterface } from 'node:readline'
import { after, before, describe, test } from 'node:test'
import { isStratalogError } from '../../src/model/errors.js'
import { openLog } from '../../src/open.js'
import { finished, OPEN, start } from '../helpers/cli.js'
import type { Bookies } from '../servers/bookkeeper.js'
import { startBookies } from '../servers/bookkeeper.js'
import { skipWithout } from '../servers/cache.js'

const skip = await skipWithout('bookkeeper')
const SESSION_MS = 4_000
const ROOT = mkdtempSync(join(tmpdir(), 'stratalog-failover-'))

/** Appends numbers for ever and says each once it is acknowledged. */
const WRITER = `
import { openLog } from ${JSON.stringify(OPEN)}
const log = await openLog(process.argv[2], { tiering: 'off' })
for (let i = 0; ; i++) { await log.stream('s').append(String(i)); console.log(i) }
`

describe('processes that share a namespace', { skip }, () => {
  let cluster: Bookies
  let child: ChildProcess | null = null
  before(async () => {
    cluster = await startBookies()
  })
  after(async () => {
    child?.kill('SIGKILL')
    await cluster?.stop()
    rmSync(ROOT, { recursive: true, force: true })
  })

  /** A directory with the configuration of the namespace, and nothing else. */
  const directory = (name: string): string => {
    const path = join(ROOT, name)
    mkdirSync(path)
    const lines = [
      'version: 1',
      `metadata: zk://${cluster.zk.address}/shared`,
      'stores: bookkeeper',
      `archive: ${join(ROOT, 'archive')}`,
      `zookeeper: { session-timeout: ${SESSION_MS}ms }`,
    ]
    writeFileSync(join(path, 'stratalog.yaml'), `${lines.join('\n')}\n`)
    return path
  }

  test('a killed writer is replaced once its session is over; nothing acknowledged is lost (1, 3)', async (t) => {
    const script = join(ROOT, 'writer.mjs')
    writeFileSync(script, WRITER)
    child = spawn(process.execPath, [script, directory('one')], { stdio: ['ignore', 'pipe', 'inherit'] })
    let acknowledged = -1
    const lines = createInterface({ input: child.stdout as NodeJS.ReadableStream })
    lines.on('line', (line) => {
      acknowledged = Number(line)
    })
    while (acknowledged < 50) await once(lines, 'line')
    await using log = await openLog(directory('two'), { tiering: 'off' })
    const found: string[] = []
    const following = (async () => {
      for await (const { value } of log.stream('s').read({ follow: true })) {
        const text = Buffer.from(value as Uint8Array).toString()
        if (text === 'next') return Date.now()
        found.push(text)
      }
      return 0
    })()
    while (found.length < 50) await new Promise((resolve) => setTimeout(resolve, 20))
    // Only who writes a stream may seal what is open of it; who that is the other hears.
    await assert.rejects(log.stream('s').seal(), (error) => {
      assert.ok(isStratalogError(error, 'conflict'), String(error))
      return (
        error.found === `stratalog-${hostname()}-${child?.pid}` && /is open in stratalog-/.test(error.message)
      )
    })
    child.kill('SIGKILL')
    const killedMs = Date.now()
    await once(child, 'exit')
    await log.stream('s').append('next')
    const tookMs = (await following) - killedMs
    // A second is what it takes; a machine that does other things may need more.
    t.diagnostic(`the next record was read ${tookMs} ms after the kill; the session is ${SESSION_MS} ms`)
    assert.ok(tookMs < SESSION_MS + 6_000, `${tookMs} ms`)
    assert.ok(found.length > acknowledged, `${found.length} of ${acknowledged + 1} acknowledged`)
    assert.deepEqual(
      found,
      Array.from(found, (_, i) => String(i)),
    )
  })

  test('commands work on the namespace from a directory that has a configuration only', async () => {
    const at = directory('three')
    const run = async (...args: string[]) => finished(start(['--dir', at, ...args]))
    const appended = await finished(start(['--dir', at, 'append', 'cli']), 'hello\n')
    assert.equal(appended.code, 0, appended.err)
    const read = await run('read', 'cli')
    assert.match(read.out, /hello/)
    for (const command of [['status'], ['tier', 'status'], ['store', 'list'], ['doctor']]) {
      const { code, out, err } = await run(...command)
      assert.ok(code === 0, `${command.join(' ')}: ${code} ${out} ${err}`)
    }
    const sealed = await run('segment', 'seal', 'cli')
    assert.deepEqual([sealed.code, sealed.out], [0, 'nothing of cli is open\n'])
    const status = JSON.parse((await run('bookkeeper', 'status', '--json')).out)
    assert.equal(status.namespace, '/shared')
    assert.deepEqual(
      status.bookies.map(({ id, state }: { id: string; state: string }) => `${id} ${state}`).sort(),
      cluster.bookies.map(({ id }) => `${id} writable`).sort(),
    )
    assert.deepEqual([status.quorum.possible, status.underreplicated.ledgers], ['whole', 0])
    const shown = await run('bookkeeper', 'status', '--check')
    assert.equal(shown.code, 0, shown.err)
    assert.match(shown.out, /3 of 3 bookies take writes; a segment wants 3, and goes on with 2/)
    assert.match(shown.out, /no ledger waits for copies; no autorecovery runs/)
    const impact = await run('bookkeeper', 'check-impact', cluster.bookies[0]?.id ?? '')
    assert.equal(impact.code, 4, impact.err)
    assert.match(
      impact.out,
      /STREAM +SEGMENTS[\s\S]*\bcli +1[\s\S]*NOT SAFE:\n {2}no bookie that takes writes could take/,
    )
    const unknown = await run('bookkeeper', 'check-impact', '127.0.0.1:1')
    assert.deepEqual([unknown.code, /there is no bookie 127\.0\.0\.1:1/.test(unknown.err)], [3, true])
    const doctor = await run('doctor')
    for (const line of [
      /ok +stores +the clock here and that of ZooKeeper agree/,
      /loses its streams/,
      /tiered|moves/,
    ])
      assert.match(doctor.out, line)
    const refused = await run('store', 'drain', cluster.bookies[0]?.id ?? '')
    assert.equal(refused.code, 4)
    assert.match(refused.err, /are BookKeeper's to move/)
  })
})
