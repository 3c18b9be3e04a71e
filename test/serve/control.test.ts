import assert from 'node:assert/strict'
import { cp, mkdtemp, readFile, rm, stat } from 'node:fs/promises'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { ControlClient } from '../../src/client/control-client.js'
import type { Log } from '../../src/log.js'
import { present } from '../../src/model/assert.js'
import type { ControlApi, DumpPart, ReadPart, TierRunPart } from '../../src/model/control-api.js'
import { isStratalogError } from '../../src/model/errors.js'
import { openLog } from '../../src/open.js'
import { LocalControl } from '../../src/serve/control-api.js'
import { startControl } from '../../src/serve/control-server.js'
import { silentLogger } from '../../src/system/logger.js'

const bytes = (text: string): Uint8Array => new Uint8Array(Buffer.from(text))

async function all<T>(parts: AsyncIterable<T>): Promise<T[]> {
  const found: T[] = []
  for await (const part of parts) found.push(part)
  return found
}

function recordsOf(parts: readonly ReadPart[]) {
  return parts.flatMap((part) => (part.type === 'records' ? part.records : []))
}

const texts = (parts: readonly ReadPart[]): string[] =>
  recordsOf(parts).map((record) => Buffer.from(record.payload).toString())
const hasCode = (code: string) => (error: unknown) => isStratalogError(error) && error.code === code

async function codeOf(work: Promise<unknown>): Promise<string> {
  try {
    await work
  } catch (error) {
    assert.ok(isStratalogError(error), String(error))
    return error.code
  }
  return 'none'
}

describe('control API: in the process and through the socket the same', () => {
  let directory: string
  let log: Log
  let local: ControlApi
  let client: ControlApi
  let server: { close(): Promise<void> }

  before(async () => {
    directory = await mkdtemp(join(tmpdir(), 'sl-ctl-'))
    log = await openLog(directory, {
      archive: join(directory, 'archive'),
      tiering: 'off',
      control: 'off',
      storeFileBytes: 4 * 1024 * 1024,
      defaults: { hot: { for: '1h' }, evict: { lag: 0 } },
      system: { logger: silentLogger() },
    })
    server = await startControl(log, directory)
    local = new LocalControl(log)
    client = new ControlClient(join(directory, 'control.sock'))
  })
  after(async () => {
    await server.close()
    await log.close()
    await rm(directory, { recursive: true, force: true })
  })

  /** Asks both and compares; returns the answer. */
  async function both<T>(
    ask: (api: ControlApi) => Promise<T>,
    comparable: (answer: T) => unknown = (answer) => answer,
  ): Promise<T> {
    const [here, there] = [await ask(local), await ask(client)]
    // Payloads are Buffers on one side and plain arrays on the other: compared as JSON of their bytes.
    const shape = (value: unknown) =>
      JSON.parse(
        JSON.stringify(value, (_, one: unknown) =>
          one instanceof Uint8Array ? Array.from(one) : bufferBytes(one),
        ),
      )
    assert.deepEqual(shape(comparable(there)), shape(comparable(here)))
    return there
  }
  function bufferBytes(value: unknown): unknown {
    const buffer = value as { type?: unknown; data?: unknown } | null
    return typeof buffer === 'object' && buffer?.type === 'Buffer' ? buffer.data : value
  }

  test('ping names the log and its directory', async () => {
    const ping = await both((api) => api.ping())
    assert.equal(ping.logId, log.logId)
    assert.equal(ping.pid, process.pid)
  })

  test('the socket and its note are for the owner alone', async () => {
    assert.equal((await stat(join(directory, 'control.sock'))).mode & 0o777, 0o600)
    assert.equal((await stat(join(directory, 'control.json'))).mode & 0o777, 0o600)
    const note = JSON.parse(await readFile(join(directory, 'control.json'), 'utf8')) as {
      socket: string
      pid: number
      version: number
    }
    assert.deepEqual([note.socket, note.pid, note.version], [join(directory, 'control.sock'), process.pid, 1])
  })

  for (const [kind, api] of [
    ['local', () => local],
    ['client', () => client],
  ] as const) {
    test(`${kind}: append, read, tail`, async () => {
      const name = `a/${kind}/größe`
      const binary = new Uint8Array([0, 255, 10, 13, 128])
      const result = await api().append(name, [
        { payload: bytes('one'), txid: 1_000n },
        { payload: binary, txid: 2_000n },
        { payload: bytes('three'), txid: 2_000n },
      ])
      assert.deepEqual(
        result.acks.map((ack) => [ack.sequenceId, ack.txid]),
        [
          ['0', '1000'],
          ['1', '2000'],
          ['2', '2000'],
        ],
      )
      assert.deepEqual([result.failed, result.copiesWanted, result.txid], [null, 3, 'ms'])
      assert.ok(present(result.acks[0], 'an ack').copies >= 2)

      const parts = await all(api().read(name, { from: '1970-01-01T00:00:01Z', until: 'txid:3000' }))
      assert.deepEqual(parts[0], { type: 'begin', txid: 'ms', fromMs: 1_000, afterMs: null, untilMs: null })
      assert.deepEqual(parts.at(-1), { type: 'end', hot: 3, cold: 0 })
      assert.deepEqual(Array.from(present(recordsOf(parts)[1], 'a record').payload), Array.from(binary))
      assert.deepEqual(texts(await all(api().read(name, { after: 'seq:0', limit: 1 }))).length, 1)
      assert.deepEqual(texts(await all(api().tail(name, 1, { follow: false }))), ['three'])
      assert.deepEqual(texts(await all(api().tail(name, 99, { follow: false }))).length, 3)
      assert.deepEqual(texts(await all(api().tail(name, 0, { follow: false }))), [])
    })

    test(`${kind}: a follower gets what comes and ends with its signal`, async () => {
      const name = `f/${kind}`
      await api().append(name, [{ payload: bytes('0') }])
      const stop = new AbortController()
      const seen: string[] = []
      let end: ReadPart | undefined
      const reading = (async () => {
        for await (const part of api().read(name, { follow: true }, stop.signal)) {
          seen.push(...texts([part]))
          if (part.type === 'end') end = part
          if (seen.length === 1 && part.type === 'records')
            await api().append(name, [{ payload: bytes('1') }, { payload: bytes('2') }])
          if (seen.length === 3) stop.abort()
        }
      })()
      await reading
      assert.deepEqual(seen, ['0', '1', '2'])
      assert.deepEqual(end, { type: 'end', hot: 3, cold: 0 })
    })

    test(`${kind}: what is refused`, async () => {
      const name = `r/${kind}`
      const on = api()
      await on.append(name, [{ payload: bytes('x'), txid: 50n }])
      const cases: [string, () => Promise<unknown>][] = [
        ['stream_not_found', () => on.streamInfo('nowhere')],
        ['stream_not_found', () => all(on.read('nowhere', {}))],
        ['stream_not_found', () => all(on.tail('nowhere', 1, { follow: false }))],
        ['stream_not_found', () => on.segments('nowhere')],
        ['stream_not_found', () => on.tierPlan('nowhere')],
        ['stream_name_invalid', () => on.streamInfo('a//b')],
        ['stream_name_invalid', () => on.streamInfo('')],
        ['stream_name_invalid', () => on.createStream('a b', { txid: 'ms' })],
        ['stream_name_invalid', () => on.policyShow('.x')],
        ['stream_exists', () => on.createStream(name, { txid: 'ms' })],
        ['position_invalid', () => all(on.read(name, { from: '0x10' }))],
        ['position_invalid', () => all(on.read(name, { until: '1:2' }))],
        ['position_out_of_range', () => all(on.read(name, { from: '99:0:0' }))],
        ['txid_not_monotonic', () => on.append(name, [{ payload: bytes('y'), txid: 49n }])],
        [
          'txid_not_monotonic',
          () =>
            on.append(name, [
              { payload: bytes('y'), txid: 60n },
              { payload: bytes('z'), txid: 59n },
            ]),
        ],
        ['txid_out_of_range', () => on.append(name, [{ payload: bytes('y'), txid: -1n }])],
        ['txid_out_of_range', () => on.append(name, [{ payload: bytes('y'), txid: 2n ** 63n - 1n }])],
        ['record_too_large', () => on.append(name, [{ payload: new Uint8Array(1_100_000) }])],
        ['invalid_argument', () => on.segments(name, { after: 'x' })],
        ['invalid_argument', () => all(on.segmentDump(name, '0', { payloads: false }))],
        ['not_found', () => all(on.segmentDump(name, '77', { payloads: false }))],
      ]
      for (const [code, work] of cases) assert.equal(await codeOf(work()), code)
      // None of the refused records was appended.
      assert.equal((await on.streamInfo(name)).nextSequenceId, '1')
    })
  }

  test('an error carries what was expected and found', async () => {
    await local.append('err', [{ payload: bytes('x'), txid: 50n }])
    for (const api of [local, client]) {
      await assert.rejects(api.append('err', [{ payload: bytes('y'), txid: 49n }]), (error: unknown) => {
        assert.ok(isStratalogError(error, 'txid_not_monotonic'))
        assert.deepEqual([String(error.expected), String(error.found), error.retryable], ['50', '49', false])
        return true
      })
    }
  })

  test('streams, segments and plans', async () => {
    await local.createStream('custom', { txid: 'custom' })
    await local.append('seg', [{ payload: bytes('1'), txid: 1n }])
    await log.stream('seg').seal()
    await local.append('seg', [{ payload: bytes('2'), txid: 2n }])
    await log.stream('seg').seal()
    const streams = await both((api) => api.listStreams())
    assert.ok(streams.some((stream) => stream.name === 'custom' && stream.txid === 'custom'))
    const second = await both((api) =>
      api.listStreams({ after: present(streams[0], 'a stream').name, limit: 1 }),
    )
    assert.deepEqual(
      second.map((stream) => stream.name),
      [streams[1]?.name],
    )
    assert.equal((await both((api) => api.streamInfo('seg'))).nextSequenceId, '2')
    assert.deepEqual(
      (await both((api) => api.segments('seg'))).map((row) => [row.segment, row.state, row.recordCount]),
      [
        ['1', 'sealed', '1'],
        ['2', 'sealed', '1'],
      ],
    )
    assert.deepEqual(
      (await both((api) => api.segments('seg', { after: '1', limit: 5 }))).map((row) => row.segment),
      ['2'],
    )
    const plan = await both(
      (api) => api.tierPlan('seg'),
      (answer) => answer.actions.map(({ kind, segment, field }) => [kind, segment, field]),
    )
    assert.ok(plan.actions.some((action) => action.kind === 'copy' && action.segment === '1'))
    const policy = await both((api) => api.policyShow('seg'))
    assert.deepEqual(
      policy.values.find((value) => value.field === 'hot.for'),
      { field: 'hot.for', value: 3_600_000, origin: 'code' },
    )
    assert.equal((await both((api) => api.policyShow('not/yet'))).exists, false)
    const tested = await both(
      (api) => api.policyTest('seg', { atMs: Date.now() + 7_200_000 }),
      ({ nowMs, ...rest }) => ({ ...rest, now: nowMs > 0, atMs: 0 }),
    )
    assert.equal(tested.evicts.segments, 2)
  })

  test('a run tells its steps and its report; then a dump is read from both tiers', async () => {
    await local.append('run', [{ payload: bytes('hello'), txid: 7n }])
    await log.stream('run').seal()
    const hot = await both((api) => all(api.segmentDump('run', '1', { payloads: true })))
    const entry = hot.find((part): part is Extract<DumpPart, { type: 'entry' }> => part.type === 'entry')
    assert.deepEqual(
      entry?.entry.copies.map((copy) => copy.state).filter((state) => state === 'ok').length,
      3,
    )
    assert.equal(Buffer.from(present(entry?.entry.records[0]?.payload, 'a payload')).toString(), 'hello')

    const parts: TierRunPart[] = await all(client.tierRun({ until: 'settled' }))
    const last = parts.at(-1)
    assert.equal(last?.type, 'report')
    assert.ok(last?.type === 'report' && last.report.copied >= 1 && last.report.failed.length === 0)
    assert.ok(
      parts.some(
        (part) =>
          part.type === 'step' && part.kind === 'copy' && part.phase === 'done' && part.stream === 'run',
      ),
    )
    const status = await both(
      (api) => api.tierStatus(),
      ({ archive, streams }) => ({
        archive: archive.state,
        streams: streams.map((line) => [line.stream.name, line.atRiskBytes > 0]),
      }),
    )
    assert.equal(status.streams.find((line) => line.stream.name === 'run')?.stream.totals.coldSegments, 1)
    const history = await both(
      (api) => api.tierHistory('run'),
      ({ stream, gaps, holds, pieces }) => ({ stream, gaps, holds, pieces: pieces.length }),
    )
    assert.equal(history.pieces.at(-1), 'both')
    const events = await both((api) => all(api.events({ after: 0, follow: false })))
    assert.ok(events.some(({ kind, phase, stream }) => `${kind} ${phase} ${stream}` === 'copy done run'))
    assert.deepEqual(await all(client.events({ after: events.at(-1)?.sequence ?? 0, follow: false })), [])
    assert.equal(await codeOf(client.tierHistory('nowhere')), 'stream_not_found')
  })

  test('a large append and read pass through the socket', async () => {
    const payload = new Uint8Array(1_000_000).fill(97)
    const result = await client.append(
      'large',
      Array.from({ length: 8 }, () => ({ payload })),
    )
    assert.equal(result.acks.length, 8)
    assert.equal(
      recordsOf(await all(client.read('large', {}))).reduce(
        (sum, record) => sum + record.payload.byteLength,
        0,
      ),
      8_000_000,
    )
    assert.equal(
      await codeOf(
        client.append(
          'large',
          Array.from({ length: 20 }, () => ({ payload })),
        ),
      ),
      'invalid_argument',
    )
  })

  test('leaving a read early ends it on the other side', async () => {
    await client.append(
      'left',
      Array.from({ length: 100 }, (_, i) => ({ payload: bytes(String(i)) })),
    )
    for await (const part of client.read('left', { follow: true })) if (part.type === 'records') break
    const gone = new AbortController()
    const reading = all(client.read('left', {}, gone.signal))
    gone.abort(new Error('enough'))
    await assert.rejects(reading, /enough|abort/i)
  })

  test('garbage on the socket is answered with an error and harms nothing', async () => {
    for (const text of [
      'garbage\r\n\r\n',
      'POST /v1/streams HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 3\r\n\r\n{"a',
      'GET /v1/nothing HTTP/1.1\r\nhost: x\r\n\r\n',
    ]) {
      const answer = await new Promise<string>((resolve, reject) => {
        const socket = connect(join(directory, 'control.sock'), () => socket.end(text))
        let got = ''
        socket.on('data', (chunk) => {
          got += chunk.toString()
        })
        socket.on('close', () => resolve(got))
        socket.on('error', reject)
      })
      assert.match(answer, /^HTTP\/1\.1 4\d\d/)
    }
    await client.ping()
  })
})

describe('control server: its life', () => {
  test('closing ends followers at once, removes socket and note', async () => {
    const directory = await mkdtemp(join(tmpdir(), 'sl-ctl-'))
    const log = await openLog(directory, {
      tiering: 'off',
      storeFileBytes: 4 * 1024 * 1024,
      system: { logger: silentLogger() },
    })
    const client = new ControlClient(join(directory, 'control.sock'))
    await client.append('s', [{ payload: bytes('1') }])
    const follow = client.read('s', { follow: true })[Symbol.asyncIterator]()
    const seen: ReadPart[] = []
    while (texts(seen).length === 0) seen.push((await follow.next()).value as ReadPart)
    assert.deepEqual(texts(seen), ['1'])
    const rest = all({ [Symbol.asyncIterator]: () => follow })
    const startedMs = performance.now()
    await log.close()
    assert.ok(performance.now() - startedMs < 10_000, 'closing waited for a follower')
    assert.deepEqual(texts(await rest), [])
    await assert.rejects(stat(join(directory, 'control.json')))
    await assert.rejects(stat(join(directory, 'control.sock')))
    await assert.rejects(client.ping(), hasCode('closed'))
    await rm(directory, { recursive: true, force: true })
  })

  test('a long directory has its socket elsewhere, a copy of the note is told apart, a stale one is replaced', async () => {
    const base = await mkdtemp(join(tmpdir(), 'sl-ctl-'))
    const directory = join(base, 'd'.repeat(120))
    const options = {
      tiering: 'off',
      storeFileBytes: 4 * 1024 * 1024,
      system: { logger: silentLogger() },
    } as const
    const log = await openLog(directory, options)
    const note = JSON.parse(await readFile(join(directory, 'control.json'), 'utf8')) as {
      socket: string
      directoryId: string
    }
    assert.ok(note.socket.length <= 100 && !note.socket.startsWith(directory))
    assert.equal((await stat(join(note.socket, '..'))).mode & 0o777, 0o700)
    assert.equal((await new ControlClient(note.socket).ping()).directoryId, note.directoryId)

    // Another directory with the same note: opening a log there must leave the socket of the first alone.
    const copy = join(base, 'copy')
    await openLog(copy, options).then((other) => other.close())
    await cp(join(directory, 'control.json'), join(copy, 'control.json'))
    await openLog(copy, options).then((other) => other.close())
    await new ControlClient(note.socket).ping()
    await log.close()
    await assert.rejects(stat(join(note.socket, '..')))
    await rm(base, { recursive: true, force: true })
  })

  test('without a socket the log works all the same', async () => {
    const directory = await mkdtemp(join(tmpdir(), 'sl-ctl-'))
    const warnings: string[] = []
    const logger = {
      ...silentLogger(),
      warn: (_: object, message: string) => warnings.push(message),
      child: () => silentLogger(),
    }
    const log = await openLog(directory, {
      tiering: 'off',
      control: 'off',
      storeFileBytes: 4 * 1024 * 1024,
      system: { logger },
    })
    const server = await startControl(log, join(directory, 'is', 'not', 'there'))
    assert.match(warnings.join(), /no control socket/)
    await server.close()
    await log.stream('s').append('1')
    await log.close()
    await rm(directory, { recursive: true, force: true })
  })

  test('a client without a server, and one that never answers', async () => {
    assert.equal(await codeOf(new ControlClient(join(tmpdir(), 'there-is-no-socket')).ping()), 'closed')
    const directory = await mkdtemp(join(tmpdir(), 'sl-ctl-'))
    const { createServer } = await import('node:net')
    const mute = createServer((socket) => socket.resume()).listen(join(directory, 's'))
    assert.equal(await codeOf(new ControlClient(join(directory, 's'), { timeoutMs: 50 }).ping()), 'timeout')
    await new Promise((resolve) => mute.close(resolve))
    await rm(directory, { recursive: true, force: true })
  })
})
