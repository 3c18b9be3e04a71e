import assert from 'node:assert/strict'
import {
  chmodSync,
  copyFileSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, test } from 'node:test'
import { directoryArchive } from '../../archive/directory/store.js'
import { decodeSegmentKey } from '../../src/format/archive-names.js'
import type { Log } from '../../src/log.js'
import { present } from '../../src/model/assert.js'
import { isStratalogError } from '../../src/model/errors.js'
import { addRingKey, fileKeyRing } from '../../src/open/key-ring-file.js'
import { openArchive, openLog } from '../../src/open.js'
import type { OpenOptions } from '../../src/options.js'
import { planRestore, restoreArchive } from '../../src/restore.js'
import { silentLogger } from '../../src/system/logger.js'
import { realRandom } from '../../src/system/random.js'
import { type ArchiveFaults, faultyArchive } from '../helpers/faulty-archive.js'
import { MemoryRing } from '../helpers/key-ring.js'

let root = ''
let ring = ''
beforeEach(async () => {
  root = mkdtempSync(join(tmpdir(), 'stratalog-keys-'))
  ring = join(root, 'keys', 'strata.ring')
  await addRingKey(ring, 'one', { random: realRandom(), nowMs: 1 })
})
afterEach(() => rmSync(root, { recursive: true, force: true }))

const SECRET = 'a secret that is long enough to be found '.repeat(20)
const system = { logger: silentLogger() }
const code = (expected: string) => (error: unknown) => isStratalogError(error) && error.code === expected

function open(key: string | null = 'one', more: OpenOptions = {}, directory = 'log'): Promise<Log> {
  const defaults = {
    hot: { for: 0 },
    evict: { lag: 0 },
    encryption: key === null ? ({ ring } as const) : { ring, key },
  }
  const fixed = { tiering: 'off', control: 'off', config: 'none', storeFileBytes: 4 * 1024 * 1024 } as const
  return openLog(join(root, directory), {
    ...fixed,
    archive: join(root, 'archive'),
    defaults,
    system,
    ...more,
  })
}

async function tier(log: Log, ...values: string[]): Promise<Awaited<ReturnType<Log['tier']['run']>>> {
  for (const value of values) {
    await log.stream('a').append(value)
    await log.stream('a').seal()
  }
  return log.tier.run()
}

async function contents(log: Log): Promise<string[]> {
  const seen: string[] = []
  for await (const { payload } of log.stream('a').read()) seen.push(Buffer.from(payload).toString())
  return seen
}

async function all<T>(items: AsyncIterable<T>): Promise<T[]> {
  const found: T[] = []
  for await (const item of items) found.push(item)
  return found
}

const files = (): string[] =>
  readdirSync(join(root, 'archive'), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name))
const leaks = (text: string): string[] => files().filter((file) => readFileSync(file).includes(text))

async function objects(log: Log): Promise<{ key: string; keyId: string | null; state: string }[]> {
  const found = []
  for await (const { object, state } of log.segments('a')) {
    const { key } = present(object, 'object')
    found.push({ key, keyId: decodeSegmentKey(key)?.keyId ?? null, state })
  }
  return found
}

describe('a stream whose policy encrypts it', () => {
  test('is encrypted in the archive, read from it, and read by a log that was opened again', async () => {
    {
      await using log = await open()
      const report = await tier(log, `one ${SECRET}`, `two ${SECRET}`)
      assert.deepEqual([report.copied, report.evicted, report.failed.length], [2, 2, 0])
      assert.deepEqual(await contents(log), [`one ${SECRET}`, `two ${SECRET}`])
      for (const { keyId, state } of await objects(log)) assert.ok(keyId !== null && state === 'cold')
    }
    assert.deepEqual(leaks('a secret'), [])
    assert.deepEqual(leaks(JSON.parse(readFileSync(ring, 'utf8')).keys[0].key), [])
    for (const key of ['one', null]) {
      // A ring without a key in the policy is for reading: what is new is stored in clear.
      await using log = await open(key)
      assert.deepEqual(await contents(log), [`one ${SECRET}`, `two ${SECRET}`])
    }
    await using log = await open(null)
    await tier(log, 'in clear')
    assert.deepEqual(
      (await objects(log)).map(({ keyId }) => keyId !== null),
      [true, true, false],
    )
  })

  test('is kept encrypted by the disk cache, which serves nobody who has no key', async () => {
    const cached = { diskCacheBytes: 8 * 1024 * 1024 }
    {
      await using log = await open('one', cached)
      await tier(log, `one ${SECRET}`, `two ${SECRET}`)
      assert.deepEqual(await contents(log), [`one ${SECRET}`, `two ${SECRET}`])
      await present(log.parts.coldReads?.disk, 'disk cache').settled()
    }
    const directory = join(root, 'log', 'cache')
    const kept = readdirSync(directory).map((name) => readFileSync(join(directory, name)))
    assert.equal(kept.length, 2)
    assert.ok(!kept.some((bytes) => bytes.includes('a secret')))
    {
      await using log = await open('one', cached)
      assert.deepEqual(await contents(log), [`one ${SECRET}`, `two ${SECRET}`])
      assert.equal(log.parts.coldReads?.disk?.counts.hits, 2)
    }
    const without = { hot: { for: 0 }, evict: { lag: 0 } }
    await using log = await open(null, { ...cached, defaults: without })
    await assert.rejects(contents(log), code('key_missing'))
    assert.equal(log.parts.coldReads?.disk?.counts.hits, 0)
  })

  test('is restored with its ring from the archive alone, twice alike, and not without (invariant 7)', async () => {
    {
      await using log = await open()
      await tier(log, 'one', 'two')
    }
    const digests = []
    for (const directory of ['restored', 'again']) {
      const archive = await openArchive(join(root, 'archive'), system, { keyRing: ring })
      const plan = await planRestore(archive)
      await using log = await open(null, { archive: 'none' }, directory)
      digests.push((await restoreArchive(log, archive, plan)).digest)
      assert.deepEqual(await contents(log), ['one', 'two'])
      await archive.close()
    }
    assert.equal(digests[0], digests[1])
    const archive = await openArchive(join(root, 'archive'), system)
    const plan = await planRestore(archive)
    await using log = await open(null, { archive: 'none' }, 'keyless')
    await assert.rejects(restoreArchive(log, archive, plan), code('key_missing'))
    await archive.close()
  })

  test('has its index made again, which needs no more than the archive and its ring (invariant 12)', async () => {
    {
      await using log = await open()
      await tier(log, 'one', 'two')
    }
    for (const name of readdirSync(join(root, 'log')).filter((one) => one.startsWith('index.db')))
      rmSync(join(root, 'log', name))
    await using log = await open()
    assert.deepEqual(await contents(log), ['one', 'two'])
  })

  test('without its ring stays hot: nothing goes out in clear, nothing is evicted, nothing is lost (invariant 4)', async () => {
    copyFileSync(ring, join(root, 'backup'))
    rmSync(ring)
    {
      await using log = await open()
      const report = await tier(log, SECRET)
      assert.deepEqual([report.copied, report.evicted], [0, 0])
      assert.match(report.failed[0]?.error ?? '', /there is no key ring .*"stratalog key add/)
      assert.deepEqual(leaks('a secret'), [])
      assert.deepEqual(await contents(log), [SECRET])
    }
    copyFileSync(join(root, 'backup'), ring)
    await using log = await open()
    assert.equal((await log.tier.run()).evicted, 1)
    assert.deepEqual(await contents(log), [SECRET])
  })

  test('a ring that others may read is refused, one of another log is named', async () => {
    {
      await using log = await open()
      await tier(log, 'one')
    }
    chmodSync(ring, 0o640)
    {
      await using log = await open()
      await assert.rejects(contents(log), code('access_denied'))
    }
    chmodSync(ring, 0o600)
    rmSync(ring)
    await addRingKey(ring, 'one', { random: realRandom(), nowMs: 2 })
    {
      await using log = await open()
      await assert.rejects(contents(log), code('key_missing'))
      assert.equal((await tier(log, 'two')).evicted, 0)
    }
  })

  test('a read-back that can not be decrypted evicts nothing (invariant 4)', async () => {
    const faults: ArchiveFaults = {}
    const archive = faultyArchive(directoryArchive(join(root, 'archive')), faults)
    await using log = await open('one', { archive })
    faults.read = (key, bytes) => {
      if (decodeSegmentKey(key) === null) return bytes
      const changed = Buffer.from(bytes)
      changed.writeUInt8(changed.readUInt8(changed.length >> 1) ^ 1, changed.length >> 1)
      return changed
    }
    const report = await tier(log, SECRET)
    assert.deepEqual([report.copied, report.evicted], [0, 0])
    assert.deepEqual(await contents(log), [SECRET])
    delete faults.read
    assert.equal((await log.tier.run()).evicted, 1)
    assert.deepEqual(await contents(log), [SECRET])
  })

  test('takes its key from a ring that was passed in', async () => {
    const keyRing = new MemoryRing('kms', 'k')
    const defaults = { hot: { for: 0 }, evict: { lag: 0 }, encryption: { ring: 'kms', key: 'k' } } as const
    await using log = await open('one', { keyRing, defaults })
    assert.equal((await tier(log, SECRET)).evicted, 1)
    assert.deepEqual(await contents(log), [SECRET])
    assert.deepEqual(leaks('a secret'), [])
  })
})

describe('rotation', () => {
  test('wraps keys by the key of the policy; the older one is needed no more', async () => {
    {
      await using log = await open()
      await tier(log, 'one')
    }
    await addRingKey(ring, 'two', { random: realRandom(), nowMs: 2 })
    const before = files()
    {
      await using log = await open('two')
      const rotated = []
      for await (const one of log.keys.rotate()) rotated.push(one)
      for await (const one of log.keys.rotate('a')) rotated.push(one)
      assert.deepEqual(rotated, [
        { stream: 'a', wrapped: 1 },
        { stream: 'a', wrapped: 0 },
      ])
      const [listed] = await all(log.keys.list())
      assert.deepEqual(listed?.policy, { ring, key: 'two' })
      assert.deepEqual(
        listed?.keys.map(({ wrappedBy }) => wrappedBy.map(({ key }) => key)),
        [['one', 'two']],
      )
    }
    assert.equal(files().length, before.length + 1)
    const body = JSON.parse(readFileSync(ring, 'utf8'))
    body.keys.shift()
    writeFileSync(ring, JSON.stringify(body))
    await using log = await open('two')
    assert.deepEqual(await contents(log), ['one'])
    assert.equal((await tier(log, 'two')).evicted, 1)
    assert.deepEqual(await contents(log), ['one', 'two'])
  })

  test('reencrypt writes what is in clear or has an older key anew, and leaves what has the newest', async () => {
    {
      await using log = await open(null)
      await tier(log, SECRET, `two ${SECRET}`)
      await assert.rejects(all(log.keys.reencrypt('a')), code('refused'))
      await assert.rejects(all(log.keys.reencrypt('b')), code('stream_not_found'))
    }
    assert.equal(leaks('a secret').length, 2)
    await using log = await open()
    const run = async (newKey: boolean) => {
      const done = await all(log.keys.reencrypt('a', { newKey }))
      return done.map(({ segment, written }) => `${segment} ${written}`)
    }
    const clear = await objects(log)
    assert.deepEqual(await run(false), ['1 true', '2 true'])
    const encrypted = await objects(log)
    assert.ok(encrypted.every(({ keyId, state }) => keyId !== null && state === 'cold'))
    assert.deepEqual(await run(false), ['1 false', '2 false'])
    assert.deepEqual(await run(true), ['1 true', '2 true'])
    const renewed = await objects(log)
    assert.equal(new Set([...clear, ...encrypted, ...renewed].map(({ key }) => key)).size, 6)
    // What lost stays until it is collected: readers may have it open.
    for (const { key } of clear) assert.ok(files().some((file) => file.endsWith(key)))
    assert.deepEqual(await contents(log), [SECRET, `two ${SECRET}`])
    // With nothing but the objects in clear gone the stream is whole.
    for (const file of leaks('a secret')) rmSync(file)
    assert.deepEqual(await contents(log), [SECRET, `two ${SECRET}`])
  })

  test('a crash before or after any write of it loses nothing, and running it again ends it', async () => {
    {
      await using log = await open(null)
      await tier(log, 'one', 'two', 'three')
    }
    let stops = 0
    for (let puts = 0; puts < 5; puts += 1) {
      const faults: ArchiveFaults = {}
      const archive = faultyArchive(directoryArchive(join(root, 'archive')), faults)
      let left = puts
      const fail = () => {
        if (left === 0) throw new Error('crash')
        left -= 1
      }
      if (puts % 2 === 0) faults.beforePut = fail
      else faults.afterPut = fail
      const log = await open('one', { archive })
      const stopped = await all(log.keys.reencrypt('a', { newKey: puts < 3 })).then(
        () => false,
        () => true,
      )
      if (stopped) stops += 1
      assert.deepEqual(await contents(log), ['one', 'two', 'three'], `${puts} ${stopped}`)
      await log.close()
    }
    assert.ok(stops >= 3, `${stops} of 5 runs were cut short`)
    await using log = await open()
    await all(log.keys.reencrypt('a'))
    assert.ok((await objects(log)).every(({ keyId }) => keyId !== null))
    assert.deepEqual(await contents(log), ['one', 'two', 'three'])
  })
})

describe('a ring in a file', () => {
  test('is readable by its owner only, takes no id twice, and says no key', async () => {
    assert.equal(statSync(ring).mode & 0o777, 0o600)
    await assert.rejects(addRingKey(ring, 'one', { random: realRandom(), nowMs: 2 }), code('file_exists'))
    await assert.rejects(
      addRingKey(ring, 'a b', { random: realRandom(), nowMs: 2 }),
      code('invalid_argument'),
    )
    const keys = await (await fileKeyRing(ring, realRandom())).keys()
    assert.deepEqual(keys, [{ id: 'one', createdMs: 1 }])
  })

  test('that is damaged, newer or missing is named without what is in it', async () => {
    const whole = readFileSync(ring, 'utf8')
    const { key } = JSON.parse(whole).keys[0] as { key: string }
    for (const [text, expected] of [
      [whole.slice(0, -5), 'corrupt'],
      [whole.replace('"format": 1', '"format": 2'), 'version_unsupported'],
      [whole.replace('"format": 1', '"format": "1"'), 'corrupt'],
      [whole.replace(key, key.slice(4)), 'corrupt'],
      [whole.replace('"id": "one"', '"id": 1'), 'corrupt'],
      ['null', 'corrupt'],
      ['', 'corrupt'],
    ] as const) {
      writeFileSync(ring, text)
      await assert.rejects(fileKeyRing(ring, realRandom()), (error: unknown) => {
        assert.ok(code(expected)(error), `${text}: ${String(error)}`)
        assert.equal(JSON.stringify(error).includes(key.slice(8)), false)
        assert.equal(String((error as Error).stack).includes(key.slice(8)), false)
        return true
      })
    }
    rmSync(ring)
    await assert.rejects(fileKeyRing(ring, realRandom()), code('key_missing'))
  })
})
