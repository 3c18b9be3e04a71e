import assert from 'node:assert/strict'
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, test } from 'node:test'
import type { Log } from '../../src/log.js'
import { StratalogError } from '../../src/model/errors.js'
import { openLog } from '../../src/open.js'
import type { OpenOptions } from '../../src/options.js'
import { realDisk } from '../../src/system/disk.js'
import { silentLogger } from '../../src/system/logger.js'

let root = ''
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'stratalog-open-'))
})
afterEach(() => rmSync(root, { recursive: true, force: true }))

const common = {
  tiering: 'off',
  control: 'off',
  config: 'none',
  storeFileBytes: 4 * 1024 * 1024,
  system: { logger: silentLogger() },
} as const

const open = (options: OpenOptions = {}, name = 'log'): Promise<Log> =>
  openLog(join(root, name), { ...common, ...options })

async function fill(count = 50, options: OpenOptions = {}): Promise<void> {
  await using log = await open(options)
  await log.stream('a').appendAll(Array.from({ length: count }, (_, i) => `record ${i}`))
}

async function contents(log: Log): Promise<string[]> {
  const seen: string[] = []
  for await (const record of log.stream('a').read()) seen.push(Buffer.from(record.payload).toString())
  return seen
}

function bytesBelow(directory: string): number {
  return readdirSync(directory).reduce((sum, name) => {
    const found = statSync(join(directory, name))
    return sum + (found.isDirectory() ? bytesBelow(join(directory, name)) : found.size)
  }, 0)
}

const expected = (count = 50): string[] => Array.from({ length: count }, (_, i) => `record ${i}`)

describe('a directory that can not be opened says why, and nothing is lost', () => {
  test('in use by another, also within one process; free again after close', async () => {
    const log = await open()
    await log.stream('a').append('x')
    await assert.rejects(open(), { code: 'directory_in_use' })
    await log.close()
    await (await open()).close()
  })

  test('a short run leaves kilobytes behind, not whole files', async () => {
    await fill(1)
    const before = bytesBelow(join(root, 'log', 'stores'))
    for (let i = 0; i < 5; i += 1) {
      await using log = await open()
      await log.stream('a').append('x')
    }
    const each = (bytesBelow(join(root, 'log', 'stores')) - before) / 5
    assert.ok(each < 100_000, `each run left ${each} bytes`)
  })

  test('no log there and none to be made', async () => {
    await assert.rejects(open({ create: 'never' }), { code: 'file_not_found', message: /stratalog init/ })
    assert.equal(existsSync(join(root, 'log')), false)
  })

  test('a file is in the way', async () => {
    writeFileSync(join(root, 'log'), 'x')
    await assert.rejects(open(), (error: unknown) => error instanceof StratalogError)
  })

  test('written by a newer version: log.json, superblock, index', async () => {
    await fill()
    const refuse = async (file: string, change: (text: string) => string) => {
      const path = join(root, 'log', file)
      const before = readFileSync(path)
      writeFileSync(path, change(before.toString('utf8')))
      await assert.rejects(open(), { code: 'version_unsupported' }, file)
      writeFileSync(path, before)
    }
    await refuse('log.json', (text) => text.replace('"version":1', '"version":99'))
    await using log = await open()
    assert.deepEqual(await contents(log), expected())
  })

  test('log.json damaged', async () => {
    await fill()
    const path = join(root, 'log', 'log.json')
    const before = readFileSync(path)
    for (const text of [
      '',
      '{',
      '{"version":1}',
      '{"version":1,"logId":"zz"}',
      before.toString().slice(0, 20),
    ]) {
      writeFileSync(path, text)
      await assert.rejects(open(), { code: 'corrupt' }, text)
    }
    writeFileSync(path, before)
    await using log = await open()
    assert.deepEqual(await contents(log), expected())
  })

  test('index.db gone: nothing begins anew over stores that hold records, it is made again from them', async () => {
    await fill()
    const drop = () => {
      for (const name of readdirSync(join(root, 'log')))
        if (/^index\.db(-wal|-shm)?$/.test(name)) rmSync(join(root, 'log', name))
    }
    drop()
    const store = join(root, 'log', 'stores', '1')
    cpSync(store, join(root, 'aside'), { recursive: true })
    rmSync(store, { recursive: true })
    // With a store away it is refused, also the second time: no attempt leaves an index behind that passes for one.
    for (let tries = 0; tries < 2; tries += 1)
      await assert.rejects(open(), { code: 'index_missing', message: /stores\/1.*--accept-loss/ })
    cpSync(join(root, 'aside'), store, { recursive: true })
    await using log = await open()
    assert.deepEqual(await contents(log), expected())
  })

  test('index.db cut to nothing, overwritten or cut off: made again, and the damaged file is kept', async () => {
    await fill()
    const file = join(root, 'log', 'index.db')
    for (const damage of [
      Buffer.alloc(0),
      Buffer.alloc(8_192, 0x5a),
      readFileSync(file).subarray(0, 5_000),
    ]) {
      writeFileSync(file, damage)
      await using log = await open()
      assert.deepEqual(await contents(log), expected(), `${damage.length} bytes`)
    }
    const kept = readdirSync(join(root, 'log')).filter((name) => name.startsWith('index.db.old-'))
    assert.equal(kept.filter((name) => !/-(wal|shm)$/.test(name)).length, 3)
  })

  test('a store that is gone, emptied or damaged: the log opens, reads and appends with the others, and says so', async () => {
    await fill()
    const one = join(root, 'log', 'stores', '1')
    cpSync(one, join(root, 'aside'), { recursive: true })
    const degraded = async (what: string) => {
      await using log = await open()
      assert.deepEqual((await contents(log)).slice(0, 50), expected(), what)
      const states = (await log.stores()).map(({ state }) => state).sort()
      assert.deepEqual(states, ['unreachable', 'writable', 'writable'], what)
      assert.equal((await log.stream('a').append('x')).copies, 2)
    }
    rmSync(one, { recursive: true })
    await degraded('gone')
    mkdirSync(one)
    await degraded('emptied')
    cpSync(join(root, 'aside'), one, { recursive: true })
    truncateSync(join(one, 'superblock'), 20)
    await degraded('superblock cut off')
    cpSync(join(root, 'aside'), one, { recursive: true })
    await using log = await open()
    assert.deepEqual((await contents(log)).slice(0, 50), expected())
    assert.equal((await contents(log)).length, 53)
  })

  test('two stores gone: what needs them says so, nothing is guessed', async () => {
    {
      const log = await open()
      await log.stream('a').append('record 0')
      await log.close()
    }
    for (const name of ['1', '2']) rmSync(join(root, 'log', 'stores', name), { recursive: true })
    await using log = await open()
    assert.deepEqual(await contents(log), ['record 0'])
    await assert.rejects(log.stream('a').append('x'), { code: 'not_enough_stores' })
    rmSync(join(root, 'log', 'stores', '3'), { recursive: true })
    await log.close()
    await assert.rejects(open(), { code: 'file_not_found' })
  })

  test('a store of another log, or one named twice', async () => {
    await fill()
    const one = join(root, 'log', 'stores', '1')
    {
      await using other = await open({}, 'other')
      await other.stream('b').append('x')
    }
    const stranger = [
      join(root, 'other', 'stores', '1'),
      join(root, 'log', 'stores', '2'),
      join(root, 'log', 'stores', '3'),
    ]
    await assert.rejects(open({ stores: stranger }), { code: 'refused' })
    const twice = [one, one, join(root, 'log', 'stores', '3')]
    await assert.rejects(open({ stores: twice }), (error: unknown) => error instanceof StratalogError)
    await using log = await open()
    assert.deepEqual(await contents(log), expected())
  })

  test('quorums that do not fit the stores, before anything is made', async () => {
    const refused = async (defaults: OpenOptions['defaults'], stores?: string[]) => {
      await assert.rejects(
        open({
          ...(defaults === undefined ? {} : { defaults }),
          ...(stores === undefined ? {} : { stores }),
        }),
        (error: unknown) => {
          return (
            error instanceof StratalogError &&
            ['config_invalid', 'invalid_argument'].includes(error.code) &&
            /quorum|copies|ack/.test(error.message)
          )
        },
      )
    }
    await refused({ quorum: { copies: 4, ack: 2 } })
    await refused({ quorum: { copies: 3, ack: 4 } })
    await refused({ quorum: { copies: 0, ack: 0 } })
    await refused({ quorum: { copies: 3, ack: 2 } }, [join(root, 's1'), join(root, 's2')])
    await using log = await open({ stores: [join(root, 's1')], defaults: { quorum: { copies: 1, ack: 1 } } })
    assert.equal((await log.stream('a').append('x')).copies, 1)
  })

  test('an archive that is missing: the log works, copies wait, and cold reads say so', async () => {
    await using log = await open({
      archive: join(root, 'no', 'such', 'parent'),
      defaults: { hot: { for: 0 }, evict: { lag: 0 } },
    })
    await log.stream('a').append('record 0')
    await log.stream('a').seal()
    const report = await log.tier.run()
    assert.match(report.failed[0]?.error ?? '', /parent|archive/)
    assert.deepEqual(await contents(log), ['record 0'])
  })

  test('unknown options, scheme without an engine', async () => {
    await assert.rejects(openLog(join(root, 'log'), { achive: 'x' } as OpenOptions), {
      code: 'invalid_argument',
      message: /achive/,
    })
    for (const allTakenBytesMax of [0, 1.5, Number.NaN]) {
      await assert.rejects(open({ allTakenBytesMax }), {
        code: 'invalid_argument',
        message: /allTakenBytesMax/,
      })
    }
    await using log = await open({ archive: 's3://bucket/prefix', defaults: { hot: { for: 0 } } })
    await log.stream('a').append('x')
    await log.stream('a').seal()
    assert.match((await log.tier.run()).failed[0]?.error ?? '', /s3/)
  })
})

describe('damage in a store (invariant 9)', () => {
  test('each bit region of one store flipped: records are read from the other replicas', async () => {
    await fill(200)
    const store = join(root, 'log', 'stores', '2')
    const file = readdirSync(store).find((name) => name.startsWith('log-')) ?? ''
    const path = join(store, file)
    const whole = readFileSync(path)
    const used = statSync(path).size
    assert.ok(used > 0)
    for (let at = 0; at < 24_000; at += 1_999) {
      const flipped = Buffer.from(whole)
      flipped[at] = (flipped[at] ?? 0) ^ 0x40
      writeFileSync(path, flipped)
      await using log = await open()
      assert.deepEqual(await contents(log), expected(200), `bit in byte ${at}`)
    }
  })

  test('a store truncated to nothing or to half: the others serve', async () => {
    await fill(200)
    const store = join(root, 'log', 'stores', '3')
    for (const size of [3_000, 0]) {
      // A file that lost all its entries is used anew under another name.
      truncateSync(join(store, readdirSync(store).find((name) => name.startsWith('log-')) ?? ''), size)
      await using log = await open()
      assert.deepEqual(await contents(log), expected(200), `truncated to ${size}`)
    }
  })
})

describe('disks that fail (invariant 10)', () => {
  test('ENOSPC at the next file: appends fail as named, what was acknowledged stays, and it goes on when space is back', async () => {
    let full = false
    const disk = realDisk()
    const limited = {
      ...disk,
      open: async (path: string, mode: 'create' | 'write' | 'read') => {
        if (full && mode === 'create')
          throw new StratalogError('disk_full', `injected: ${path}`, { retryable: true })
        return disk.open(path, mode)
      },
    }
    await using log = await open({
      system: { logger: silentLogger(), disk: limited },
      defaults: { roll: { size: '1 MiB' } },
    })
    const stream = log.stream('a')
    const acked: string[] = []
    const payload = '.'.repeat(60_000)
    await stream.append('0')
    acked.push('0')
    full = true
    let refused: unknown = null
    for (let i = 1; i < 1_000 && refused === null; i += 1) {
      const text = `${i} ${payload}`
      await stream.append(text).then(
        () => acked.push(text),
        (error: unknown) => {
          refused = error
        },
      )
    }
    assert.ok(refused instanceof StratalogError && refused.retryable, String(refused))
    assert.ok(['not_enough_stores', 'store_full', 'disk_full'].includes(refused.code), refused.code)
    const seen = new Set(await contents(log))
    for (const text of acked) assert.ok(seen.has(text), 'an acknowledged record is gone')
    full = false
    await new Promise((resolve) => setTimeout(resolve, 1_200))
    for (let tries = 0; ; tries += 1) {
      const ok = await stream.append('after').then(
        () => true,
        () => false,
      )
      if (ok) break
      assert.ok(tries < 20, 'it did not go on after space came back')
      await new Promise((resolve) => setTimeout(resolve, 300))
    }
    assert.equal((await contents(log)).at(-1), 'after')
  })
})
