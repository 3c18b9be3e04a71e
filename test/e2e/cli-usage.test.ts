import assert from 'node:assert/strict'
import { appendFile, mkdir, readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { finished, MAIN, start, Workplace } from '../helpers/cli.js'

let place: Workplace

before(async () => {
  place = await Workplace.make()
})
after(() => place.remove())

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
    ['a group alone', ['tier'], 2, /"stratalog tier" is a group of commands: see "stratalog tier --help"/],
    ['a group after an option', ['--dir', 'x', 'index'], 2, /"stratalog index" is a group of commands/],
    ['help of nothing', ['help', 'raed'], 2, /unknown command "raed"\. Did you mean "read"\?/],
    ['help of nothing in a group', ['tier', 'help', 'statsu'], 2, /Did you mean "tier status"\?/],
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
    ...['read', 'export', 'evict', 'recall'].map((name): [string, string[], number, RegExp] => [
      `${name} until before from`,
      [
        name,
        's',
        '--from',
        '2026-01-01',
        '--until',
        '2025-12-31',
        ...(name === 'recall' ? ['--for', '1h'] : []),
      ],
      2,
      /--until .* lies before --from 2026-01-01/,
    ]),
    ['until before after', ['read', 's', '--after', '2:0:0', '--until', '1:9:9'], 2, /before --after 2:0:0/],
    ['txids backwards', ['read', 's', '--from', 'txid:9', '--until', 'txid:8'], 2, /before --from txid:9/],
    ['segment 0', ['segment', 'dump', 's', '0'], 2, /is not a segment number/],
    ['moment', ['policy', 'test', 's', '--at', 'whenever'], 2, /is not a moment/],
    ['moment with a bad unit', ['policy', 'test', 's', '--at', '+7x'], 2, /is not a duration/],
    ['kind of txid', ['stream', 'create', 's', '--txid', 'seconds'], 2, /neither ms nor custom/],
    ['tier run twice over', ['tier', 'run', '--once', '--follow'], 2, /exclude each other/],
    ['tier run until', ['tier', 'run', '--until', 'dawn'], 2, /--until settled/],
    ['format', ['import', 's', MAIN, '--format', 'xml'], 2, /use one of records, lines, json/],
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
    assert.match((await finished(start(['tier', '--json']))).err, /"code":"usage".*is a group of commands/)
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
    assert.deepEqual(await readdir(place.base), ['log'], 'nothing was made')
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
      'export',
      'stream',
      'tier',
      'policy',
      'segment',
      'demo',
    ])
      assert.match(help.out, new RegExp(`^  ${name}\\b`, 'm'))
    const groups = help.out.split(/^(?=[A-Z][a-z ]+:$)/m).map((text) => text.split('\n')[0])
    assert.deepEqual(groups.slice(groups.indexOf('Begin:')), [
      'Begin:',
      'Write:',
      'Read:',
      'Streams:',
      'Tiering:',
      'Archive:',
      'Check and repair:',
      'Stores and clusters:',
      'Commands:',
    ])
    const commands = [
      ['init'],
      ['append'],
      ['read'],
      ['tail'],
      ['import'],
      ['export'],
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
    const made = join(place.base, 'new', 'log')
    const first = await finished(start(['init', made]))
    assert.equal(first.code, 0)
    assert.equal(await readFile(join(made, 'stratalog.yaml'), 'utf8'), first.out)
    await appendFile(join(made, 'stratalog.yaml'), '# mine\n')
    const again = await finished(start(['init', made]))
    assert.equal(again.code, 4)
    assert.match(again.err, /left as it is/)
    assert.match(await readFile(join(made, 'stratalog.yaml'), 'utf8'), /# mine\n$/)
    assert.equal(
      JSON.parse((await finished(start(['--json', 'init', join(place.base, 'new', 'two')]))).out).created,
      true,
    )

    // Commands below it find it by themselves.
    await mkdir(join(made, 'below'))
    assert.equal((await finished(start(['append', 's', '--message', 'x'], join(made, 'below')))).code, 0)
    assert.match((await finished(start(['stream', 'list'], join(made, 'below')))).out, /^s /m)
  })
})
