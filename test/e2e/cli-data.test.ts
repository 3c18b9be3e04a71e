import assert from 'node:assert/strict'
import { once } from 'node:events'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { application, finished, start, values, Workplace } from '../helpers/cli.js'

let place: Workplace
const cli: Workplace['cli'] = (args, input) => place.cli(args, input)
const ok: Workplace['ok'] = (args, input) => place.ok(args, input)

before(async () => {
  place = await Workplace.make()
})
after(() => place.remove())

describe('append, read, tail, import', () => {
  // Beside an application that has the log open: that is quicker than opening it anew for each command.
  let app: { close(): Promise<void> }
  before(async () => {
    app = await application(place.dir)
  })
  after(() => app.close())

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

  test('a producer, an expected tail and a finished stream', async () => {
    const input = 'one\ntwo\n'
    await ok(['append', 'once', '--producer', 'job-7'], input)
    const again = await ok(['append', 'once', '--producer', 'job-7'], `${input}three\n`)
    assert.equal(again.match(/duplicate/g)?.length, 2)
    assert.equal((await ok(['read', 'once', '--raw'])).toString(), 'one\ntwo\nthree\n')
    await ok(['append', 'once', '--if-tail', '2', '--message', 'four'])
    const late = await cli(['append', 'once', '--if-tail', '2', '--message', 'five'])
    assert.match(late.err, /at sequenceId 3 and the append expects it at sequenceId 2/)
    assert.notEqual(late.code, 0)
    assert.match(await ok(['stream', 'finish', 'once']), /finished/)
    assert.match((await cli(['append', 'once', '--message', 'six'])).err, /once is finished/)
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
        dlsn: '1:1:0',
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

  test('lines are kept byte for byte, empty ones too; records pass from log to log', async () => {
    const other = join(place.base, 'other')
    await ok(['append', 'lines'], 'one\n\n zwei ü\r\nthree')
    const raw = await ok(['read', 'lines', '--raw'])
    assert.equal(raw, 'one\n\n zwei ü\r\nthree\n')
    const [from, to] = [
      start(['--dir', place.dir, 'read', 'lines', '--raw']),
      start(['--dir', other, 'append', 'copy']),
    ]
    if (from.stdout !== null && to.stdin !== null) from.stdout.pipe(to.stdin)
    let acks = ''
    to.stdout?.on('data', (chunk: Buffer) => {
      acks += chunk.toString()
    })
    const [code] = (await once(to, 'close')) as [number]
    assert.deepEqual([code, acks.trim().split('\n').length], [0, 4])
    assert.equal((await finished(start(['--dir', other, 'read', 'copy', '--raw']))).out, raw)
  })

  test('blank lines between JSON are passed over, and that is said', async () => {
    const result = await cli(['append', 'sparse', '--json-lines'], '\n{"a":1}\n \r\n{"a":2}\n')
    assert.deepEqual([result.code, result.out.trim().split('\n').length], [0, 2])
    assert.match(result.err, /^2 blank lines passed over/)
    assert.equal(await ok(['read', 'sparse', '--raw']), '{"a":1}\n{"a":2}\n')
    const nothing = join(place.base, 'nothing')
    await finished(start(['--dir', nothing, 'append', 's', '--json-lines']), '\n\n')
    assert.ok(!existsSync(nothing), 'without a record no log is made')
  })

  test('the line whose txid goes back is the one that is named', async () => {
    const within = await cli(['append', 'back', '--txid-field', 'a'], '{"a":5}\n\n{"a":3}\n')
    assert.match(within.err, /^stratalog: stdin line 3: record 2 of 2 .* none was: txid 3 is below 5/m)
    await ok(['append', 'back', '--txid-field', 'a'], '{"a":5}\n')
    const behind = await cli(['append', 'back', '--txid-field', 'a'], '{"a":3}\n{"a":4}\n')
    assert.match(behind.err, /^stratalog: stdin line 1: txid 3 is below 5/)
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
    const first = await cli(['read', 'pos', '--from', '0:0:0'])
    assert.equal(first.code, 3)
    assert.match(first.err, /0:0:0 lies before the first position there can be, 1:0:0: .*"earliest"/)
    const unknown = await cli(['read', 'po'])
    assert.equal(unknown.code, 3)
    assert.match(unknown.err, /there is no stream po: did you mean pos\?/)
  })

  test('a reader that goes away ends the command quietly', async () => {
    await ok(
      ['append', 'many'],
      Array.from({ length: 20_000 }, (_, i) => `line ${i} ${'x'.repeat(100)}`).join('\n'),
    )
    const child = start(['--dir', place.dir, 'read', 'many'])
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
      await writeFile(join(place.base, name), text)
      return join(place.base, name)
    }
    const ndjson = await file('a.ndjson', '{"m":{"at":1000},"v":1}\n\n{"m":{"at":2000},"v":2}\n')
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
    assert.match(await ok(['import', 'plain', await file('d.txt', 'x\n\ny\n')]), /^3 records/)
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

  test('export: import of it gives the same records, or it is refused', async () => {
    const raw = new Uint8Array([0xff, 0xfe, 10, 0, 0x22])
    await ok(['append', 'ex', '--txid', '1000', '--message', '\ufeff "ü" \\'])
    await ok(['append', 'ex', '--txid', '2000'], raw)
    await ok(['append', 'ex', '--txid', '3000', '--message', ''])
    await ok(['append', 'ex', '--txid', '9007199254740993', '--message', 'two\nlines'])
    const shown = (out: string) =>
      values(out).map(({ txid, payload, payloadBase64 }) => [txid, payload, payloadBase64])
    const piped = await ok(['export', 'ex'])
    await ok(['import', 'ex-copy', '-'], piped)
    const original = await ok(['read', 'ex', '--json'])
    assert.deepEqual(shown(await ok(['read', 'ex-copy', '--json'])), shown(original))
    assert.equal(await ok(['export', 'ex-copy']), piped)
    await ok(['import', 'ex-read', '-'], original)
    assert.equal(await ok(['export', 'ex-read']), piped)

    // Each format gives back the payloads it took, and the name of the file says which it is.
    const rows = '{"a":1,"b":"x, \\"y\\"\\nz"}\n{"a":"007","b":""}\n{"a":2.5,"b":"\\r"}\n'.split('\n')
    const kept: readonly (readonly [string, string])[] = [
      ['ndjson', '{"m":1}\n [2] \n"\\n"\n'],
      ['json', '{"m":1}\n[2]\n"]"\n'],
      ['csv', `${rows[0]}\n${rows[1]}\n`],
      ['txt', 'x\n\ny\r\n'],
    ]
    for (const [extension, text] of kept) {
      await ok(['append', `ex-${extension}`], text)
      const out = join(place.base, `exported.${extension}`)
      assert.match(await ok(['export', `ex-${extension}`, '--out', out]), /^\d records, \d+ B of ex-/)
      await ok(['import', `ex-${extension}-copy`, out])
      assert.equal(await ok(['read', `ex-${extension}-copy`, '--raw']), text, extension)
    }

    // What a format can't keep is refused, and leaves no file.
    await ok(['append', 'ex-rows', '--message', rows[2] ?? ''])
    await ok(['append', 'ex-fields', '--message', '{"a":1}'])
    await ok(['append', 'ex-fields', '--message', '{"b":1}'])
    const out = join(place.base, 'none.out')
    for (const [stream, format, message] of [
      ['ex', 'lines', /the record at 1:\d+:0 has a line feed within.*--format records/],
      ['ex', 'ndjson', /1:0:0 is not JSON/],
      ['ex-rows', 'csv', /is no flat object/],
      ['ex-ndjson', 'csv', /is no flat object/],
      ['ex-ndjson', 'json', /white space/],
      ['ex-fields', 'csv', /other fields than the first record \(a\)/],
    ] as const) {
      const result = await cli(['export', stream, '--format', format, '--out', out])
      assert.match(result.err, message)
      assert.equal(result.code, 2)
      assert.deepEqual(
        readdirSync(place.base).filter((name) => name.startsWith('none.out')),
        [],
      )
    }

    // A range, JSON for programs, and a file that is there.
    const file = join(place.base, 'range.records')
    const range = ['export', 'ex', '--from', 'txid:2000', '--limit', '1', '--out', file]
    const [done] = values(await ok([...range, '--json']))
    assert.deepEqual([done?.records, done?.bytes, done?.format, done?.gaps], [1, 2, 'records', []])
    const before = readFileSync(file, 'utf8')
    const again = await cli([...range.slice(0, 2), '--out', file])
    assert.match(again.err, /range\.records exists.*--force/)
    assert.equal(again.code, 4)
    assert.equal(readFileSync(file, 'utf8'), before)
    await ok([...range.slice(0, 2), '--out', file, '--force'])
    assert.equal(readFileSync(file, 'utf8'), piped)
    assert.match((await cli(['export', 'ex', '--json'])).err, /--out FILE/)
    assert.match((await cli(['export', 'nothing-there'])).err, /nothing-there/)
    assert.match((await cli(['import', 'x', '-'], 'plain\n')).err, /stdin line 1 is not JSON/)
    assert.match((await cli(['import', 'x', '-'], '{"gap":"corrupt"}\n')).err, /is a gap of the stream/)
    assert.match((await cli(['import', 'x', '-'], '{"a":1}\n')).err, /--format lines/)
  })
})
