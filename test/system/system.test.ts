import assert from 'node:assert/strict'
import { Buffer } from 'node:buffer'
import { spawnSync } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import process from 'node:process'
import { after, before, describe, test } from 'node:test'
import { isStratalogError } from '../../src/model/errors.js'
import { realClock } from '../../src/system/clock.js'
import { realDisk } from '../../src/system/disk.js'
import { realRandom } from '../../src/system/random.js'

describe('the real disk', () => {
  const disk = realDisk()
  let directory = ''
  before(async () => {
    directory = await mkdtemp(join(tmpdir(), 'stratalog-disk-'))
  })
  after(() => rm(directory, { recursive: true, force: true }))
  const at = (name: string): string => join(directory, name)
  const fails = (
    promise: Promise<unknown>,
    code: 'file_not_found' | 'file_exists' | 'io_failed',
  ): Promise<void> =>
    assert.rejects(promise, (error) => isStratalogError(error, code) && error.cause instanceof Error)

  test('writes more chunks than one system call takes, in order', async () => {
    const file = await disk.open(at('many'), 'create')
    const chunks = Array.from({ length: 2_500 }, (_, index) => Buffer.from(`${index},`))
    await file.write([...chunks, new Uint8Array(0)], 7)
    await file.dataSync()
    const whole = Buffer.concat(chunks)
    const target = Buffer.alloc(whole.byteLength + 100)
    assert.equal(await file.read(target, 7), whole.byteLength)
    assert.ok(target.subarray(0, whole.byteLength).equals(whole))
    assert.equal(await file.read(target, 1_000_000), 0)
    await file.close()
  })
  test('preallocates zeros and keeps what is there', async () => {
    const file = await disk.open(at('allocated'), 'create')
    await file.write([Buffer.from('head')], 0)
    await file.preallocate(3_000_001)
    assert.equal(await file.sizeBytes(), 3_000_001)
    const target = Buffer.alloc(8)
    await file.read(target, 0)
    assert.equal(target.toString('latin1'), 'head\0\0\0\0')
    await file.close()
  })
  test('names what is there and what is not', async () => {
    await disk.makeDirectory(at('a/b'))
    await disk.makeDirectory(at('a/b'))
    await (await disk.open(at('a/one'), 'create')).close()
    await fails(disk.open(at('a/one'), 'create'), 'file_exists')
    await fails(disk.open(at('a/two'), 'write'), 'file_not_found')
    await fails(disk.open(at('a/two'), 'read'), 'file_not_found')
    await fails(disk.list(at('absent')), 'file_not_found')
    await fails(disk.remove(at('absent')), 'file_not_found')
    await fails(disk.list(at('a/one')), 'io_failed')
    await disk.link(at('a/one'), at('a/two'))
    await fails(disk.link(at('a/one'), at('a/two')), 'file_exists')
    await disk.rename(at('a/one'), at('a/three'))
    await disk.syncDirectory(at('a'))
    assert.deepEqual((await disk.list(at('a'))).sort(), ['b', 'three', 'two'])
    assert.deepEqual(await disk.stat(at('a')).then((found) => found?.directory), true)
    assert.equal(await disk.stat(at('absent')), null)
    const space = await disk.space(directory)
    assert.ok(space.totalBytes >= space.freeBytes && space.freeBytes > 0)
  })
  test('a file is closed after the calls under way, and takes no others', async () => {
    const file = await disk.open(at('closing'), 'create')
    const write = file.write([Buffer.alloc(1 << 20)], 0)
    const closed = file.close()
    await write
    await Promise.all([closed, file.close()])
    await assert.rejects(file.read(Buffer.alloc(1), 0), /closed file/)
  })
})

describe('the real clock', () => {
  const clock = realClock()
  test('sleeps and can be woken', async () => {
    const begin = clock.monotonicMs()
    await clock.sleep(15)
    assert.ok(clock.monotonicMs() - begin >= 10)
    const abort = new AbortController()
    const sleeping = clock.sleep(60_000, abort.signal)
    abort.abort(new Error('wake up'))
    await assert.rejects(sleeping, /wake up/)
    await assert.rejects(clock.sleep(1, abort.signal), /wake up/)
  })
  test('a cancelled timer does not fire, one beyond 32 bits does not fire at once', async () => {
    let fired = 0
    clock.setTimer(5, () => (fired += 1)).cancel()
    const far = clock.setTimer(2 ** 40, () => (fired += 1))
    clock.setTimer(1, () => (fired += 10))
    await clock.sleep(30)
    far.cancel()
    assert.equal(fired, 10)
  })
})

test('random bytes are fresh', () => {
  const random = realRandom()
  assert.notDeepEqual(random.bytes(16), random.bytes(16))
  assert.equal(random.bytes(16).byteLength, 16)
  const fraction = random.fraction()
  assert.ok(fraction >= 0 && fraction < 1)
})

describe('the logger', () => {
  const run = (code: string, level?: string): { stdout: string; stderr: string; status: number | null } => {
    const module = new URL('../../src/system/logger.js', import.meta.url).href
    const script = `import { createLogger } from ${JSON.stringify(module)}; ${code}`
    const env = { ...process.env, STRATALOG_LOG: level }
    return spawnSync(process.execPath, ['--input-type=module', '-e', script], { encoding: 'utf8', env })
  }
  test('writes JSON lines to stderr without secrets', () => {
    const secrets = `token: 'T1', a: { b: { c: { secretAccessKey: 'T2' }, password: 'T3' } }`
    const fields = `{ ${secrets}, n: 12n, error: new Error('why') }`
    const { stdout, stderr } = run(
      `createLogger({ name: 'x' }).child({ authorization: 'T4' }).warn(${fields}, 'hello')`,
    )
    assert.equal(stdout, '')
    assert.doesNotMatch(stderr, /T[1-4]/)
    const line = JSON.parse(stderr)
    assert.equal(line.msg, 'hello')
    assert.equal(line.error.message, 'why')
  })
  test('says nothing below its level; the variable decides; a wrong one is refused', () => {
    const code = `createLogger({ level: 'error' }).info({}, 'hello')`
    assert.equal(run(code).stderr, '')
    assert.match(run(code, 'info').stderr, /hello/)
    const wrong = run(code, 'loud')
    assert.notEqual(wrong.status, 0)
    assert.match(wrong.stderr, /STRATALOG_LOG=loud/)
  })
})
