import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import { promisify } from 'node:util'
import { directoryArchive } from '../../archive/directory/store.js'
import { resolveConfig } from '../../src/config/resolve.js'
import { present } from '../../src/model/assert.js'
import type { StreamRow } from '../../src/model/segment.js'
import { openLog } from '../../src/open.js'
import type { ArchiveEngine, ReplayableBody, StorageWishes } from '../../src/ports/archive-store.js'
import { LocalControl } from '../../src/serve/control-api.js'
import { silentLogger } from '../../src/system/logger.js'
import { MovableArchive } from '../../tiering/migrate-store.js'
import { UploadLimits } from '../../tiering/upload-limits.js'
import { ManualClock } from '../helpers/manual-clock.js'

const KIB = 1024

/** An archive that notes what was asked of it for each segment object. */
function noting(engine: ArchiveEngine, wishes: StorageWishes[]): ArchiveEngine {
  return {
    ...engine,
    open: async (context) => {
      const store = await engine.open(context)
      return new Proxy(store, {
        get(target, name) {
          if (name !== 'putIfAbsent') {
            const value = Reflect.get(target, name) as unknown
            return typeof value === 'function' ? value.bind(target) : value
          }
          return (
            key: string,
            body: ReplayableBody,
            options: StorageWishes & { signal?: AbortSignal } = {},
          ) => {
            const { signal: _, ...rest } = options
            if (body.sizeBytes > 2 * KIB) wishes.push(rest)
            return target.putIfAbsent(key, body, options)
          }
        },
      })
    },
  }
}

describe('what the policy says of copies', () => {
  test('storage class, key and tags reach the archive with the segments of the streams they are for', async () => {
    const root = mkdtempSync(join(tmpdir(), 'stratalog-upload-'))
    const wishes: StorageWishes[] = []
    try {
      await using log = await openLog(join(root, 'log'), {
        archive: noting(directoryArchive(join(root, 'archive')), wishes),
        tiering: 'off',
        control: 'off',
        config: 'none',
        system: { logger: silentLogger() },
        storeFileBytes: 4 * KIB * KIB,
      })
      const text = Array.from({ length: 200 }, (_, i) => `${i} ${'x'.repeat(100)}${Math.sqrt(i)}`)
      for (const name of ['audit', 'plain']) await log.stream(name).appendAll(text)
      await log
        .stream('audit')
        .setPolicy({ storage: { class: 'GLACIER_IR', kmsKey: 'alias/a', tags: { team: 'b' } } })
      for (const name of ['audit', 'plain']) await log.stream(name).seal()
      assert.equal((await log.tier.run()).copied, 2)
      // The two are copied side by side: which comes first is chance.
      wishes.sort((a, b) => Object.keys(a).length - Object.keys(b).length)
      assert.deepEqual(wishes, [{}, { storageClass: 'GLACIER_IR', kmsKey: 'alias/a', tags: { team: 'b' } }])
    } finally {
      rmSync(root, { recursive: true, force: true })
    }
  })
})

describe('the limit of an operator', () => {
  test('hides nothing that the archive behind it can do', async () => {
    const root = mkdtempSync(join(tmpdir(), 'stratalog-upload-'))
    try {
      await using log = await openLog(join(root, 'log'), {
        archive: directoryArchive(join(root, 'archive')),
        tiering: 'off',
        control: 'off',
        config: 'none',
        system: { logger: silentLogger() },
        storeFileBytes: 4 * KIB * KIB,
      })
      await log.stream('a').append('1')
      await log.stream('a').seal()
      await log.tier.run()
      const archive = await present(log.parts.archive, 'archive')()
      assert.ok(archive instanceof MovableArchive)
      const bare = archive.current
      const limited = await present(log.parts.tiering.archive, 'archive')('')
      for (const name of Object.keys(bare).concat(methodsOf(bare)))
        assert.equal(typeof Reflect.get(limited, name), typeof Reflect.get(bare, name), name)
    } finally {
      rmSync(root, { recursive: true, force: true })
    }
  })

  test('waits keep the process alive: a run by hand ends with its copies', async () => {
    const script = `
      import { openLog } from ${JSON.stringify(new URL('../../src/index.js', import.meta.url).href)}
      const log = await openLog(process.argv[1], { archive: process.argv[2], control: 'off', config: 'none', tiering: 'off' })
      const noise = () => Array.from({ length: 40 }, () => Math.random().toString(36).slice(2)).join('')
      await log.stream('a').appendAll(Array.from({ length: 100 }, noise))
      await log.stream('a').seal()
      await log.stream('a').setPolicy({ limits: { upload: '32 KiB/s' } })
      const { copied } = await log.tier.run()
      console.log('copied', copied)
      await log.close()`
    const root = mkdtempSync(join(tmpdir(), 'stratalog-upload-'))
    try {
      const args = ['--input-type=module', '-e', script, join(root, 'log'), join(root, 'archive')]
      const { stdout } = await promisify(execFile)(process.execPath, args, { timeout: 30_000 })
      assert.match(stdout, /copied 1/)
    } finally {
      rmSync(root, { recursive: true, force: true })
    }
  })
})

/** What a class gives its objects. */
function methodsOf(store: object): string[] {
  return Object.getOwnPropertyNames(Object.getPrototypeOf(store)).filter((name) => name !== 'constructor')
}

describe('an archive of their own for some streams', () => {
  const root = () => mkdtempSync(join(tmpdir(), 'stratalog-own-'))
  const open = (directory: string) =>
    openLog(directory, {
      tiering: 'off',
      control: 'off',
      system: { logger: silentLogger() },
      storeFileBytes: 4 * KIB * KIB,
    })
  const configure = (directory: string, archive: string) =>
    writeFileSync(
      join(directory, 'stratalog.yaml'),
      [
        'version: 1',
        'archive: ./archive',
        'defaults: { hot: { for: 0s }, evict: { lag: 0s } }',
        `policies: [{ match: private/*, archive: ${archive} }]`,
      ].join('\n'),
    )

  test('none: what is private is sealed and stays on the stores, the rest is copied and freed', async () => {
    const directory = root()
    try {
      configure(directory, 'none')
      await using log = await open(directory)
      for (const name of ['private/a', 'b']) await log.stream(name).append('x')
      for (const name of ['private/a', 'b']) await log.stream(name).seal()
      assert.deepEqual((await log.tier.run()).copied, 1)
      const states: string[] = []
      for (const name of ['private/a', 'b'])
        for await (const { state } of log.segments(name)) states.push(state)
      assert.deepEqual(states, ['sealed', 'cold'])
      assert.deepEqual((await log.tier.plan('private/a'))[0]?.actions, [])
      const { values } = await new LocalControl(log).policyShow('private/a')
      assert.deepEqual(
        values.find(({ field }) => field === 'archive'),
        { field: 'archive', value: 'none', origin: 'stratalog.yaml:4  policies[0]' },
      )
    } finally {
      rmSync(directory, { recursive: true, force: true })
    }
  })
})

describe('limits.upload', () => {
  const stream = (name: string) => ({ name, incarnation: name.padEnd(32, '0') }) as StreamRow
  const config = resolveConfig({
    code: {
      limits: { upload: '64 KiB/s' },
      policies: [{ match: 'fast/*', limits: { upload: 'unlimited' } }],
    },
  })
  const body = (sizeBytes: number, chunkBytes = 16 * KIB): ReplayableBody => ({
    sizeBytes,
    async *open() {
      for (let at = 0; at < sizeBytes; at += chunkBytes)
        yield new Uint8Array(Math.min(chunkBytes, sizeBytes - at)).fill(7)
    },
  })
  const never = new AbortController().signal

  /** Reads a body to its end while the clock is moved; gives the time it took. */
  async function read(clock: ManualClock, bodies: readonly ReplayableBody[]): Promise<number> {
    const fromMs = clock.monotonicMs()
    let reading = bodies.length
    for (const one of bodies) {
      void (async () => {
        let bytes = 0
        for await (const chunk of one.open()) bytes += chunk.length
        assert.equal(bytes, one.sizeBytes)
        reading -= 1
      })()
    }
    for (let steps = 0; reading > 0; steps += 1) {
      assert.ok(steps < 1_000, 'it does not end')
      await clock.advance(50)
    }
    return clock.monotonicMs() - fromMs
  }

  test('one limit for all streams that get it from the same line, over all their copies', async () => {
    const clock = new ManualClock()
    const limits = new UploadLimits(clock)
    const limited = (name: string, sizeBytes: number) =>
      limits.limited(body(sizeBytes), stream(name), config.policyFor(name), never)
    const together = await read(clock, [limited('a', 128 * KIB), limited('b', 128 * KIB)])
    // 256 KiB at 64 KiB/s; what is taken last is not waited for.
    assert.ok(together >= 3_500 && together <= 4_100, `${together} ms`)
    const next = await read(clock, [limited('a', 64 * KIB)])
    assert.ok(next >= 700 && next <= 1_100, `the copy that follows keeps to it as well: ${next} ms`)
  })

  test('a stream with an override of its own has a limit of its own; unlimited lifts it', async () => {
    const clock = new ManualClock()
    const limits = new UploadLimits(clock)
    const own = (name: string) =>
      limits.limited(
        body(64 * KIB),
        stream(name),
        config.policyFor(name, { limits: { upload: '32 KiB/s' } }),
        never,
      )
    const tookMs = await read(clock, [own('a'), own('b')])
    assert.ok(tookMs >= 1_500 && tookMs <= 2_100, `${tookMs} ms`)
    const plain = body(64 * KIB)
    assert.equal(limits.limited(plain, stream('fast/x'), config.policyFor('fast/x'), never), plain)
  })

  test('waits in small steps that show it lives, changes its rate under way, and ends when it is aborted', async () => {
    const clock = new ManualClock()
    const limits = new UploadLimits(clock)
    const abort = new AbortController()
    let answers = 0
    const slow = limits.limited(
      body(64 * KIB, 64 * KIB),
      stream('a'),
      config.policyFor('a', { limits: { upload: '1 KiB/s' } }),
      abort.signal,
      () => {
        answers += 1
      },
    )
    const reading = (async () => {
      for await (const _ of slow.open());
    })()
    for (let second = 0; second < 20; second += 1) await clock.advance(1_000)
    assert.ok(answers >= 19, `${answers} answers in 20 s`)
    limits.limited(body(1), stream('a'), config.policyFor('a', { limits: { upload: '2 KiB/s' } }), never)
    const before = answers
    for (let second = 0; second < 10; second += 1) await clock.advance(1_000)
    assert.ok(answers - before >= 18, `${answers - before} KiB in 10 s at 2 KiB/s`)
    abort.abort(new Error('enough'))
    await assert.rejects(reading, /enough/)
    assert.equal(clock.pending, 0)
  })
})
