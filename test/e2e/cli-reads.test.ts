import assert from 'node:assert/strict'
import { appendFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import type { ReadExplanation } from '../../src/model/control-read.js'
import { Dlsn } from '../../src/model/dlsn.js'
import { openLog } from '../../src/open.js'
import { silentLogger } from '../../src/system/logger.js'
import { values, Workplace } from '../helpers/cli.js'

const START = Date.UTC(2025, 0, 1)
const HOUR = 3_600_000

let place: Workplace
before(async () => {
  place = await Workplace.make()
  await appendFile(join(place.dir, 'stratalog.yaml'), '  roll: { size: 16 KiB }\n')
  const lines = Array.from({ length: 48 }, (_, i) =>
    JSON.stringify({ at: START + i * HOUR, text: `${i} ${'.'.repeat(900)}` }),
  )
  await place.ok(['append', 'trades', '--json-lines', '--txid-field', 'at'], `${lines.join('\n')}\n`)
  await place.ok(['tier', 'run'])
})
after(() => place.remove())

async function both(check: () => Promise<void>): Promise<void> {
  await check()
  // The same beside a process that has the log open: through its socket.
  const log = await openLog(place.dir, { tiering: 'off', system: { logger: silentLogger() } })
  try {
    await check()
  } finally {
    await log.close()
  }
}

describe('explain, locate, findtime', () => {
  test('explain read says what a read would take, for people and as JSON, with and without prices', async () => {
    await both(async () => {
      const text = await place.ok([
        'explain',
        'read',
        'trades',
        '--from',
        '2025-01-01T10:00Z',
        '--until',
        '2025-01-01T20:00Z',
      ])
      assert.match(
        text,
        /^10 records \(exact\) {2}DLSN \d+:\d+:\d+ … \d+:\d+:\d+ \(excl\.\) {2}.* wanted, .* fetched/,
      )
      assert.match(text, /^ +SEG {2}TIER +WHERE +RANGE +REQUESTS +NOTE$/m)
      assert.match(text, /\d+ requests? · first record .* · no gap, no thaw/)
      assert.doesNotMatch(text, /egress/)
      const [plan] = values(
        await place.ok(['explain', 'read', 'trades', '--json']),
      ) as unknown as ReadExplanation[]
      assert.deepEqual([plan?.records, plan?.exact, plan?.gaps], ['48', true, 0])
    })
    const prices = join(place.base, 'prices.yaml')
    await writeFile(prices, 'currency: "€"\nper-thousand-requests: 0.4\nper-GiB-egress: 90\n')
    assert.match(
      await place.ok(['explain', 'read', 'trades', '--prices', prices]),
      /about €[\d.e-]+ requests \+ €[\d.e-]+ egress/,
    )
  })

  test('prices that are none, ranges that are none and unknown streams are refused by name', async () => {
    const prices = join(place.base, 'bad.yaml')
    for (const [body, expected] of [
      ['per-thousand-requests: -1\nper-GiB-egress: 0\n', /per-thousand-requests is not a number/],
      ['per-request: 1\n', /a price "per-request"/],
      ['- 1\n', /not a list of prices/],
      ['{', /no YAML/],
    ] as const) {
      await writeFile(prices, body)
      const refused = await place.cli(['explain', 'read', 'trades', '--prices', prices])
      assert.match(refused.err, expected)
      assert.notEqual(refused.code, 0)
    }
    assert.match(
      (await place.cli(['explain', 'read', 'trades', '--prices', '/nowhere'])).err,
      /can't be read/,
    )
    const two = await place.cli(['explain', 'read', 'trades', '--from', '1:0:0', '--after', '1:0:0'])
    assert.equal(two.code, 2)
    assert.match((await place.cli(['explain', 'read', 'trades', '--from', 'soon'])).err, /not a position/)
    const unknown = await place.cli(['explain', 'read', 'trade'])
    assert.deepEqual([unknown.code, /did you mean trades/i.test(unknown.err)], [3, true])
    assert.match((await place.cli(['explain', 'raed', 'trades'])).err, /Did you mean "explain read"/)
  })

  test('locate names segment and object; findtime prints the DLSN a read begins at', async () => {
    await both(async () => {
      const at = START + 30 * HOUR
      const located = await place.ok(['locate', 'trades', `txid:${at}`])
      assert.match(located, /^\d+:\d+:\d+ {2}seq 30 {2}txid 1735797600000\n {2}segment {2}\d+ archived$/m)
      assert.match(located, /^ {2}object +\S+\n {2}block +0 at \d+, /m)
      const [found] = values(await place.ok(['locate', 'trades', 'seq:30', '--json']))
      assert.deepEqual(found?.record, { sequenceId: '30', txid: String(at) })
      const dlsn = (await place.ok(['findtime', 'trades', '2025-01-02T05:30Z'])).trim()
      assert.equal(Dlsn.parse(dlsn).toString(), dlsn)
      assert.match(await place.ok(['read', 'trades', '--from', dlsn, '--limit', '1']), /"text":"30 /)
      assert.match(await place.ok(['findtime', 'trades', '--', '-1h']), /^\d+:0:0\n$/)
      assert.match((await place.cli(['findtime', 'trades', '--', '-1h'])).err, /no record yet/)
    })
    const wrong = await place.cli(['findtime', 'trades', 'seq:5'])
    assert.deepEqual([wrong.code, /not a time/.test(wrong.err)], [2, true])
    assert.equal((await place.cli(['locate', 'trades', '99:0:0'])).code, 3)
  })
})
