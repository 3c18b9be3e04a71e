import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  appendFile,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  realpath,
  rm,
  stat,
  writeFile,
} from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'

const MAIN = join(import.meta.dirname, '..', '..', 'src', 'cli', 'main.js')
const OPEN = join(import.meta.dirname, '..', '..', 'src', 'open.js')

interface Result {
  readonly code: number | null
  readonly out: string
  readonly err: string
}

let base: string
let dir: string

before(async () => {
  base = await realpath(await mkdtemp(join(tmpdir(), 'sl-cli-')))
  dir = join(base, 'log')
  await mkdir(dir)
  await writeFile(
    join(dir, 'stratalog.yaml'),
    'version: 1\narchive: ./archive\ndefaults:\n  hot: { for: 1h }\n  evict: { lag: 0s }\n',
  )
})
after(() => rm(base, { recursive: true, force: true }))

const environment = (more: Record<string, string> = {}): NodeJS.ProcessEnv => {
  const { STRATALOG_DIR: _, FORCE_COLOR: __, ...rest } = process.env
  return { ...rest, ...more }
}

function start(
  args: readonly string[],
  options: { cwd?: string; env?: Record<string, string> } = {},
): ChildProcess {
  return spawn(process.execPath, [MAIN, ...args], {
    cwd: options.cwd ?? base,
    env: environment(options.env),
    stdio: 'pipe',
  })
}

async function finished(child: ChildProcess, input?: string | Uint8Array): Promise<Result> {
  let [out, err] = ['', '']
  child.stdout?.setEncoding('utf8').on('data', (chunk: string) => {
    out += chunk
  })
  child.stderr?.setEncoding('utf8').on('data', (chunk: string) => {
    err += chunk
  })
  child.stdin?.on('error', () => undefined)
  child.stdin?.end(input ?? '')
  const [code] = (await once(child, 'close')) as [number | null]
  return { code, out, err }
}

/** Runs a command on the log of this test. */
const cli = (
  args: readonly string[],
  input?: string | Uint8Array,
  options: { cwd?: string; env?: Record<string, string> } = {},
): Promise<Result> => finished(start(['--dir', dir, ...args], options), input)

/** The same, and it must go well. */
async function ok(args: readonly string[], input?: string | Uint8Array): Promise<string> {
  const { code, out, err } = await cli(args, input)
  assert.equal(code, 0, `stratalog ${args.join(' ')}: exit ${code}\n${err}`)
  return out
}

const values = (out: string): Record<string, unknown>[] =>
  out
    .trim()
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as Record<string, unknown>)

describe('wrong use', () => {
  const cases: readonly [string, readonly string[], number, RegExp][] = [
    ['unknown command', ['raed'], 2, /^stratalog: unknown command "raed"\. Did you mean "read"\?\n$/],
    [
      'unknown command with nothing near',
      ['xyzzyq'],
      2,
      /^stratalog: unknown command "xyzzyq"\. See "stratalog --help"\.\n$/,
    ],
    [
      'unknown inner command',
      ['tier', 'statsu'],
      2,
      /^stratalog: unknown command "tier statsu"\. Did you mean "tier status"\?\n$/,
    ],
    [
      'unknown option',
      ['read', 's', '--form', '1:0:0'],
      2,
      /unknown option "--form" of stratalog read\. Did you mean "--from"\?/,
    ],
    ['missing argument', ['read'], 2, /stratalog read needs STREAM/],
    ['too many arguments', ['read', 'a', 'b'], 2, /fewer arguments/],
    ['option without its value', ['read', 'a', '--from'], 2, /--from needs a value/],
    ['a group alone', ['tier'], 2, /group of commands/],
    ['name with a space', ['read', 'a b'], 2, /can't name a stream/],
    ['empty name', ['append', ''], 2, /it is empty/],
    ['name with dots', ['stream', 'create', '../x'], 2, /starts with "\."/],
    ['name too long', ['stream', 'show', 'x'.repeat(256)], 2, /255 are the limit/],
    ['hexadecimal limit', ['read', 's', '--limit', '0x10'], 2, /"0x10" is not a limit/],
    ['negative limit', ['read', 's', '--limit', '-1'], 2, /"-1" is not a limit/],
    ['limit of 2^63', ['read', 's', '--limit', '9223372036854775808'], 2, /must lie between/],
    ['limit of half a record', ['read', 's', '--limit', '1.5'], 2, /"1.5" is not a limit/],
    ['exponent', ['tail', 's', '-n', '1e3'], 2, /"1e3" is not a number of records/],
    ['negative tail', ['tail', 's', '-n', '-5'], 2, /"-5" is not a number of records/],
    [
      'txid of 2^63-1',
      ['append', 's', '--txid', '9223372036854775807', '--message', 'x'],
      2,
      /is not a txid/,
    ],
    ['negative txid', ['append', 's', '--txid', '-1', '--message', 'x'], 2, /is not a txid/],
    ['two txids', ['append', 's', '--txid', '1', '--txid-field', 'x'], 2, /twice/],
    ['position', ['read', 's', '--from', 'soon'], 2, /"soon" is not a position/],
    ['a day that is not there', ['read', 's', '--from', '2025-02-30'], 2, /is not a position/],
    ['DLSN beyond 64 bits', ['read', 's', '--from', '99999999999999999999:0:0'], 2, /is not a DLSN/],
    ['from and after', ['read', 's', '--from', 'earliest', '--after', '1:0:0'], 2, /not both/],
    ['segment 0', ['segment', 'dump', 's', '0'], 2, /is not a segment number/],
    ['moment', ['policy', 'test', 's', '--at', 'whenever'], 2, /is not a moment/],
    ['moment with a bad unit', ['policy', 'test', 's', '--at', '+7x'], 2, /is not a duration/],
    ['kind of txid', ['stream', 'create', 's', '--txid', 'seconds'], 2, /neither ms nor custom/],
    ['tier run twice over', ['tier', 'run', '--once', '--follow'], 2, /exclude each other/],
    ['tier run until', ['tier', 'run', '--until', 'dawn'], 2, /--until settled/],
    ['format', ['import', 's', MAIN, '--format', 'xml'], 2, /use one of lines, json/],
    ['field of lines', ['import', 's', MAIN, '--txid-field', 'at'], 2, /lines have none/],
    ['no file', ['import', 's', '/there/is/none.csv'], 3, /there is no file/],
    ['no log', ['--dir', '/there/is/none', 'read', 's'], 3, /there is no log in/],
    ['empty directory name', ['--dir', '', 'read', 's'], 2, /--dir is empty/],
  ]
  for (const [name, args, code, message] of cases) {
    test(name, async () => {
      const result = await finished(start(args))
      assert.match(result.err, message)
      assert.match(result.err, /^stratalog: [^\n]+\n$/, 'one line')
      assert.deepEqual([result.code, result.out], [code, ''])
    })
  }

  test('with --json errors are JSON too', async () => {
    assert.match(
      (await finished(start(['read', 's', '--raw', '--json']))).err,
      /^\{"error":\{"code":"usage","message":"--raw and --json exclude each other/,
    )
    const result = await finished(start(['--json', 'raed']))
    assert.deepEqual(JSON.parse(result.err), {
      error: {
        code: 'usage',
        message: 'unknown command "raed". Did you mean "read"?',
        retryable: false,
        found: 'raed',
      },
    })
    assert.equal(result.code, 2)
    assert.deepEqual(await readdir(base), ['log'], 'nothing was made')
  })

  test('help of every command has examples, the version is the package’s', async () => {
    const help = await finished(start(['--help']))
    assert.equal(help.code, 0)
    for (const name of [
      'init',
      'append',
      'read',
      'tail',
      'import',
      'stream',
      'tier',
      'policy',
      'segment',
      'demo',
    ])
      assert.match(help.out, new RegExp(`^  ${name}\\b`, 'm'))
    const commands = [
      ['init'],
      ['append'],
      ['read'],
      ['tail'],
      ['import'],
      ['stream', 'list'],
      ['stream', 'show'],
      ['stream', 'create'],
      ['tier', 'status'],
      ['tier', 'plan'],
      ['tier', 'run'],
      ['policy', 'show'],
      ['policy', 'test'],
      ['segment', 'list'],
      ['segment', 'dump'],
    ]
    for (const command of commands)
      assert.match((await finished(start([...command, '--help']))).out, /Example/, command.join(' '))
    assert.match((await finished(start(['--version']))).out, /^\d+\.\d+\.\d+\n$/)
  })
})

describe('init', () => {
  test('writes and prints a configuration, and never overwrites one', async () => {
    const place = join(base, 'new', 'log')
    const first = await finished(start(['init', place]))
    assert.equal(first.code, 0)
    assert.equal(await readFile(join(place, 'stratalog.yaml'), 'utf8'), first.out)
    await appendFile(join(place, 'stratalog.yaml'), '# mine\n')
    const again = await finished(start(['init', place]))
    assert.equal(again.code, 4)
    assert.match(again.err, /left as it is/)
    assert.match(await readFile(join(place, 'stratalog.yaml'), 'utf8'), /# mine\n$/)
    assert.equal(
      JSON.parse((await finished(start(['--json', 'init', join(base, 'new', 'two')]))).out).created,
      true,
    )

    // Commands below it find it by themselves.
    await mkdir(join(place, 'below'))
    assert.equal(
      (await finished(start(['append', 's', '--message', 'x'], { cwd: join(place, 'below') }))).code,
      0,
    )
    assert.match((await finished(start(['stream', 'list'], { cwd: join(place, 'below') }))).out, /^s /m)
  })
})

describe('append, read, tail, import', () => {
  test('the five minutes of the README', async () => {
    const line = '{"at":1735689600000,"symbol":"ACME","price":12.5}'
    const appended = await cli(['append', 'trades', '--json-lines', '--txid-field', 'at'], `${line}\n`)
    assert.equal(
      appended.out,
      '1:0:0  txid 1735689600000  2025-01-01T00:00:00Z  durable 2/3\n'.replace(
        '2/3',
        /durable (\d)/.exec(appended.out)?.[1] === '3' ? '3/3' : '2/3',
      ),
    )
    const read = await cli(['read', 'trades', '--from', '2025-01-01', '--until', '2025-02-01'])
    assert.equal(read.out, `1:0:0  2025-01-01T00:00:00Z  ${line}\n`)
    assert.equal(read.err, '(from 2025-01-01T00:00:00Z, until 2025-02-01T00:00:00Z, 1 record, hot)\n')
  })

  test('JSON of append, read and tail', async () => {
    const [ack] = values(await ok(['--json', 'append', 'j', '--txid', '1000', '--message', 'hello']))
    assert.deepEqual(
      { ...ack, timeMs: 0, copies: 0 },
      {
        dlsn: '1:0:0',
        sequenceId: '0',
        txid: '1000',
        timeMs: 0,
        copies: 0,
        duplicate: false,
        time: '1970-01-01T00:00:01Z',
        copiesWanted: 3,
      },
    )
    await ok(['append', 'j', '--txid', '2000'], new Uint8Array([255, 254, 10]))
    const read = await cli(['read', 'j', '--json'])
    assert.deepEqual(values(read.out), [
      {
        dlsn: '1:0:0',
        sequenceId: '0',
        txid: '1000',
        time: '1970-01-01T00:00:01Z',
        tier: 'hot',
        payload: 'hello',
      },
      {
        dlsn: '2:0:0',
        sequenceId: '1',
        txid: '2000',
        time: '1970-01-01T00:00:02Z',
        tier: 'hot',
        payloadBase64: '//4=',
      },
    ])
    assert.equal(read.err, '')
    assert.deepEqual(
      values(await ok(['tail', 'j', '-n', '1', '--json'])).map((value) => value.txid),
      ['2000'],
    )
  })

  test('what is stored does not steer the terminal, and --raw gives the bytes', async () => {
    await ok(['append', 'esc', '--message', 'a\u001b[31mb\r\nc'])
    assert.match(await ok(['read', 'esc']), /a\\u001b\[31mb\\r\\nc\n$/)
    assert.equal(await ok(['read', 'esc', '--raw']), 'a\u001b[31mb\r\nc\n')
  })

  test('lines are kept byte for byte, blank ones left out; records pass from log to log', async () => {
    const other = join(base, 'other')
    await ok(['append', 'lines'], 'one\n\n zwei ü\r\nthree')
    const raw = await ok(['read', 'lines', '--raw'])
    assert.equal(raw, 'one\n zwei ü\r\nthree\n')
    const [from, to] = [
      start(['--dir', dir, 'read', 'lines', '--raw']),
      start(['--dir', other, 'append', 'copy']),
    ]
    if (from.stdout !== null && to.stdin !== null) from.stdout.pipe(to.stdin)
    let acks = ''
    to.stdout?.on('data', (chunk: Buffer) => {
      acks += chunk.toString()
    })
    const [code] = (await once(to, 'close')) as [number]
    assert.deepEqual([code, acks.trim().split('\n').length], [0, 3])
    assert.equal((await finished(start(['--dir', other, 'read', 'copy', '--raw']))).out, raw)
  })

  test('bad lines are named, what stood before them stays', async () => {
    const notJson = await cli(['append', 'bad', '--json-lines'], '{"a":1}\n\n{"a":\n')
    assert.equal(notJson.code, 2)
    assert.match(notJson.err, /stdin line 3 is not JSON/)
    const noField = await cli(['append', 'bad', '--txid-field', 'at'], '{"b":1}\n')
    assert.match(noField.err, /stdin line 1, field "at": there is no such field/)
    for (const [value, message] of [
      ['1.5', /not a whole number/],
      ['1e300', /not a whole number/],
      ['-1', /must lie between/],
      ['"0x10"', /whole decimal number/],
      ['"9223372036854775808"', /must lie between/],
      ['null', /neither a number nor an ISO date/],
      ['"2025-02-30"', /not a date/],
    ] as const) {
      const result = await cli(['append', 'bad', '--txid-field', 'at'], `{"at":${value}}\n`)
      assert.match(result.err, message, value)
      assert.equal(result.code, 2, value)
    }
    assert.equal((await cli(['read', 'bad'])).code, 3, 'nothing was appended')
    await ok(['append', 'bad', '--txid', '100', '--message', 'x'])
    const back = await cli(['append', 'bad', '--txid', '99', '--message', 'y'])
    assert.equal(back.code, 1)
    assert.match(back.err, /txid 99 is below 100/)
    const long = await cli(['append', 'bad'], 'x'.repeat(1_100_000))
    assert.match(long.err, /stdin line 1 has more than \d+ bytes/)
    assert.equal((await ok(['read', 'bad', '--raw'])).trim(), 'x')
  })

  test('positions: DLSN, txid, sequence, time, and beyond the end', async () => {
    await ok(
      ['append', 'pos', '--txid-field', 't'],
      [1, 2, 3, 4].map((t) => `{"t":"1970-01-01T00:00:0${t}Z"}`).join('\n'),
    )
    const txids = async (...args: string[]) =>
      values(await ok(['read', 'pos', '--json', ...args])).map((value) => Number(value.txid))
    assert.deepEqual(await txids('--from', 'txid:2000', '--limit', '2'), [2_000, 3_000])
    assert.deepEqual(await txids('--after', 'seq:1'), [3_000, 4_000])
    assert.deepEqual(
      await txids('--from', '1970-01-01T00:00:02Z', '--until', '1970-01-01T00:00:04Z'),
      [2_000, 3_000],
    )
    assert.deepEqual(await txids('--from', '-1h'), [])
    assert.deepEqual(await txids('--limit', '0'), [])
    assert.deepEqual(await txids('--from', 'latest'), [])
    assert.deepEqual(await txids('--from', '1:0:1'), [2_000, 3_000, 4_000])
    const beyond = await cli(['read', 'pos', '--from', '99:0:0'])
    assert.deepEqual([beyond.code, beyond.out], [3, ''])
    assert.match(beyond.err, /99:0:0 lies beyond the end of pos/)
    const unknown = await cli(['read', 'po'])
    assert.equal(unknown.code, 3)
    assert.match(unknown.err, /there is no stream po: did you mean pos\?/)
  })

  test('a reader that goes away ends the command quietly', async () => {
    await ok(
      ['append', 'many'],
      Array.from({ length: 20_000 }, (_, i) => `line ${i} ${'x'.repeat(100)}`).join('\n'),
    )
    const child = start(['--dir', dir, 'read', 'many'])
    let err = ''
    child.stderr?.on('data', (chunk: Buffer) => {
      err += chunk.toString()
    })
    if (child.stdout !== null) {
      await once(child.stdout, 'data')
      child.stdout.destroy()
    }
    const [code] = (await once(child, 'close')) as [number]
    assert.deepEqual([code, err.replace(/^\(.*\)\n/, '')], [0, ''])
  })

  test('import: ndjson, a JSON array, CSV and lines', async () => {
    const file = async (name: string, text: string) => {
      await writeFile(join(base, name), text)
      return join(base, name)
    }
    const ndjson = await file('a.ndjson', '{"m":{"at":1000},"v":1}\n{"m":{"at":2000},"v":2}\n')
    const array = await file(
      'b.json',
      '\ufeff[ {"m":{"at":"1970-01-01T00:00:03Z"},"s":"],[\\"{"}, {"m":{"at":4000}} ]\n',
    )
    assert.match(
      await ok(['import', 'imp', ndjson, array, '--txid-field', 'm.at']),
      /^4 records, \d+ B → imp {2}1:0:0 … /,
    )
    assert.deepEqual(
      values(await ok(['read', 'imp', '--json'])).map((value) => value.txid),
      ['1000', '2000', '3000', '4000'],
    )
    assert.match(
      await ok(['read', 'imp', '--raw']),
      /\{"m":\{"at":"1970-01-01T00:00:03Z"\},"s":"\],\[\\"\{"\}\n/,
    )

    const csv = await file('c.csv', 'id,"na ""me""",n\r\n007,"a,\nb",1.5\r\n\r\n1,ü,\r\n')
    assert.deepEqual(
      values(await ok(['--json', 'import', 'csv', csv])).map(({ records, stream }) => [records, stream]),
      [[2, 'csv']],
    )
    assert.deepEqual(values(await ok(['read', 'csv', '--raw'])), [
      { id: '007', 'na "me"': 'a,\nb', n: 1.5 },
      { id: 1, 'na "me"': 'ü', n: '' },
    ])
    assert.match(await ok(['import', 'plain', await file('d.txt', 'x\ny\n')]), /^2 records/)
    assert.match(await ok(['import', 'plain', await file('e.json', '[]')]), /^0 records/)

    const bad: readonly (readonly [string, string, RegExp])[] = [
      ['f.json', '{"a":1}', /not a JSON array/],
      ['g.json', '[1,2', /ends before the closing/],
      ['h.json', '[1] 2', /something follows/],
      ['i.json', '[1,,2]', /element 2 is not JSON/],
      ['j.csv', 'a,b\n1\n', /row 2 has 1 fields/],
      ['k.csv', 'a,a\n1,2\n', /two columns "a"/],
      ['l.csv', 'a\n"x\n', /ends within quotes/],
      ['m.ndjson', '{}\nnot\n', /m\.ndjson line 2 is not JSON/],
    ]
    for (const [name, text, message] of bad) {
      const result = await cli(['import', 'nothing', await file(name, text)])
      assert.match(result.err, message, name)
      assert.equal(result.code, 2, name)
    }
  })
})

describe('stream, tier, policy, segment', () => {
  test('streams', async () => {
    assert.match(await ok(['stream', 'create', 'st/one', '--txid', 'custom']), /txid +custom/)
    const again = await cli(['stream', 'create', 'st/one'])
    assert.deepEqual([again.code, again.out], [4, ''])
    await ok(['append', 'st/one', '--txid', '5', '--message', 'x'])
    assert.equal(await ok(['read', 'st/one']), '1:0:0  txid 5  x\n')
    assert.match(await ok(['stream', 'show', 'st/one']), /records +1 ever appended/)
    assert.equal(
      (JSON.parse(await ok(['stream', 'show', 'st/one', '--json'])) as { nextSequenceId: string })
        .nextSequenceId,
      '1',
    )
    assert.ok(values(await ok(['stream', 'list', '--json'])).some((stream) => stream.name === 'st/one'))
    assert.match(await ok(['stream', 'list']), /^STREAM +RECORDS/)
  })

  test('plan, check, run, status: behind, then not', async () => {
    await ok(['append', 'tiers', '--message', 'x'])
    assert.match(await ok(['tier', 'plan', 'tiers']), /^copy +tiers seg 1 .*archive.* now$/m)
    assert.ok(
      values(await ok(['tier', 'plan', '--json'])).some(
        (action) => action.stream === 'tiers' && action.kind === 'copy',
      ),
    )
    const behind = await cli(['tier', 'status', '--check'])
    assert.equal(behind.code, 5)
    assert.match(behind.out, /if these disks burned now: .*loses/)
    assert.match(await ok(['tier', 'run']), /^copy {3}tiers seg 1 {2}\d+ B$/m)
    const report = JSON.parse(await ok(['tier', 'run', '--once', '--json'])) as {
      copied: number
      failed: unknown[]
    }
    assert.deepEqual([report.copied, report.failed], [0, []])
    const checked = await cli(['tier', 'status', '--check'])
    assert.equal(checked.code, 0, checked.out)
    assert.match(checked.out, /if these disks burned now: nothing is lost/)
    assert.match(await ok(['tier', 'status', 'tiers']), /▓ both \d+ B/)
    const status = JSON.parse(await ok(['tier', 'status', '--json'])) as {
      behind: string[]
      streams: unknown[]
    }
    assert.deepEqual(status.behind, [])
    assert.equal((await cli(['tier', 'status', 'tires'])).code, 3)
  })

  test('policies', async () => {
    assert.match(await ok(['policy', 'show', 'not/there']), /^hot\.for +1h +stratalog\.yaml:4 {2}defaults$/m)
    assert.match(
      await ok(['policy', 'test', 'tiers', '--at', '+7d']),
      /^in 7d +frees \d+ B hot \(1 segment\)$/m,
    )
    const tested = JSON.parse(await ok(['policy', 'test', 'tiers', '--json', '--at', '2099-01-01'])) as {
      atMs: number
      evicts: { segments: number }
    }
    assert.deepEqual([tested.atMs, tested.evicts.segments], [Date.UTC(2099, 0, 1), 1])
  })

  test('segments', async () => {
    assert.match(await ok(['segment', 'list', 'tiers']), /^ +1 {2}archived/m)
    assert.deepEqual(
      values(await ok(['segment', 'list', 'tiers', '--json'])).map((row) => [row.segment, row.state]),
      [['1', 'archived']],
    )
    assert.match(
      await ok(['segment', 'dump', 'tiers', '1', '--payloads']),
      /1:0:0 {2}txid \d+ {2}seq 0 {2}1 B {2}x/,
    )
    assert.equal(values(await ok(['segment', 'dump', 'tiers', '1', '--json'])).length, 2)
    assert.equal((await cli(['segment', 'dump', 'tiers', '9'])).code, 3)
  })
})

/** An application that holds the log open until it is told to close it. */
async function application(directory: string): Promise<{ close(): Promise<void> }> {
  const code = `import { openLog } from ${JSON.stringify(OPEN)}
const log = await openLog(${JSON.stringify(directory)}, { tiering: 'off' })
await log.stream('app').append('from the application')
process.stdout.write('ready\\n')
process.stdin.on('end', async () => { await log.close(); process.exit(0) }).resume()`
  const child = spawn(process.execPath, ['--input-type=module', '-e', code], {
    stdio: ['pipe', 'pipe', 'inherit'],
    env: environment(),
  })
  await once(child.stdout, 'data')
  return {
    async close() {
      child.stdin.end()
      const [exit] = (await once(child, 'close')) as [number]
      assert.equal(exit, 0)
    },
  }
}

describe('beside a running application', () => {
  for (const [kind, name] of [
    ['short', 'app'],
    ['long', join('x'.repeat(90), 'y'.repeat(90))],
  ] as const) {
    test(`every command works (${kind} path)`, async () => {
      const directory = join(base, name)
      await mkdir(directory, { recursive: true })
      await writeFile(join(directory, 'stratalog.yaml'), 'version: 1\narchive: ./archive\n')
      const app = await application(directory)
      const beside = async (args: readonly string[], input?: string) =>
        finished(start(['--dir', directory, ...args]), input)
      try {
        assert.match((await beside(['append', 'app', '--message', 'from beside'])).out, /durable [23]\/3/)
        assert.equal((await beside(['read', 'app', '--raw'])).out, 'from the application\nfrom beside\n')
        assert.equal((await beside(['tail', 'app', '-n', '1', '--raw'])).out, 'from beside\n')
        assert.match((await beside(['import', 'imp', join(directory, 'stratalog.yaml')])).out, /^2 records/)
        for (const args of [
          ['stream', 'list'],
          ['stream', 'show', 'app'],
          ['stream', 'create', 'made'],
          ['tier', 'status'],
          ['tier', 'plan'],
          ['tier', 'run'],
          ['policy', 'show', 'app'],
          ['policy', 'test', 'app'],
          ['segment', 'list', 'app'],
          ['segment', 'dump', 'app', '1'],
        ]) {
          const result = await beside(args)
          assert.equal(result.code, 0, `${args.join(' ')}: ${result.err}`)
        }
        const unknown = await beside(['read', 'ap'])
        assert.deepEqual(
          [unknown.code, unknown.err],
          [3, 'stratalog: there is no stream ap: did you mean app?\n'],
        )
      } finally {
        await app.close()
      }
      assert.equal((await beside(['read', 'app', '--raw'])).out, 'from the application\nfrom beside\n')
    })
  }

  test('a follower prints what comes and ends with Ctrl-C', async () => {
    const directory = join(base, 'follow')
    const app = await application(directory)
    const child = start(['--dir', directory, 'read', 'app', '-f'])
    let [out, err] = ['', '']
    child.stderr?.on('data', (chunk: Buffer) => {
      err += chunk.toString()
    })
    child.stdout?.on('data', (chunk: Buffer) => {
      out += chunk.toString()
      if (out.includes('second')) child.kill('SIGINT')
    })
    if (child.stdout !== null) await once(child.stdout, 'data')
    await finished(start(['--dir', directory, 'append', 'app', '--message', 'second']))
    const [code] = (await once(child, 'close')) as [number]
    assert.equal(code, 0)
    assert.match(err, /^\(2 records, hot\)\n$/)
    await app.close()
  })

  test('commands beside a command that lasts: append from a pipe that stays open', async () => {
    const directory = join(base, 'lasting')
    const appending = start(['--dir', directory, 'append', 's'])
    appending.stdin?.write('one\n')
    if (appending.stdout !== null) await once(appending.stdout, 'data')
    assert.equal((await finished(start(['--dir', directory, 'read', 's', '--raw']))).out, 'one\n')
    appending.kill('SIGINT')
    const [code] = (await once(appending, 'close')) as [number]
    assert.equal(code, 130)
    assert.equal((await finished(start(['--dir', directory, 'read', 's', '--raw']))).out, 'one\n')
  })

  test('two commands at once wait for each other', async () => {
    const results = await Promise.all(
      Array.from({ length: 4 }, (_, i) => cli(['append', 'together', '--message', `m${i}`])),
    )
    assert.deepEqual(
      results.map(({ code, err }) => [code, err]),
      results.map(() => [0, '']),
    )
    assert.equal((await ok(['read', 'together', '--raw'])).trim().split('\n').length, 4)
  })

  test('what a killed application left behind is no obstacle', async () => {
    const directory = join(base, 'killed')
    const child = spawn(
      process.execPath,
      [
        '--input-type=module',
        '-e',
        `import { openLog } from ${JSON.stringify(OPEN)}
const log = await openLog(${JSON.stringify(directory)}); await log.stream('s').append('x'); process.stdout.write('ready'); setInterval(() => {}, 1000)`,
      ],
      { stdio: ['ignore', 'pipe', 'inherit'] },
    )
    await once(child.stdout, 'data')
    child.kill('SIGKILL')
    await once(child, 'close')
    await stat(join(directory, 'control.json'))
    assert.equal((await finished(start(['--dir', directory, 'read', 's', '--raw']))).out, 'x\n')
  })
})
