import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { application, type Result, values, Workplace } from '../helpers/cli.js'

let place: Workplace
const DAY = (day: number) => `2026-01-0${day}T00:00:00Z`

/** Three segments of `a`, one a day, copied to the archive. */
async function fill(): Promise<void> {
  for (const day of [1, 2, 3]) {
    const lines = [0, 1].map((i) => JSON.stringify({ at: Date.parse(DAY(day)) + i, text: `day ${day}` }))
    await place.ok(['append', 'a', '--json-lines', '--txid-field', 'at'], `${lines.join('\n')}\n`)
  }
  await place.ok(['tier', 'run'])
}

describe('holds, trims, recalls, evictions and orders by hand', () => {
  for (const beside of [false, true]) {
    test(beside ? 'beside a running application' : 'on a log that nobody has open', async () => {
      place = await Workplace.make()
      await fill()
      const app = beside ? await application(place.dir) : null
      const fails = async (args: readonly string[], code: number, why: RegExp): Promise<Result> => {
        const result = await place.cli(args)
        assert.deepEqual(
          [result.code, why.test(result.err)],
          [code, true],
          `${args.join(' ')}: ${result.err}`,
        )
        return result
      }
      try {
        const added = await place.ok([
          'hold',
          'add',
          'a',
          '--id',
          'case-1',
          '--from',
          DAY(2),
          '--until',
          DAY(3),
        ])
        assert.equal(added, `hold case-1 on a  ${DAY(2)} … ${DAY(3)} (excl.)\n`)
        assert.match(
          await place.ok(['hold', 'list', 'a']),
          /^ID +KIND +FROM .*\ncase-1 +hold +2026-01-02T00:00:00Z +2026-01-03T00:00:00Z .* hand *\n$/,
        )
        await fails(['hold', 'add', 'a', '--id', 'case-1'], 4, /another id/)
        await fails(['hold', 'release', 'a', 'case-2'], 3, /what stands: case-1/)
        await fails(['hold', 'ad', 'a'], 2, /Did you mean "hold add"\?/)
        await fails(['hold', 'list', 'b'], 3, /no stream b/)
        assert.match(await place.ok(['hold', 'list']), /^STREAM +ID .*\na +case-1 +hold /)
        assert.deepEqual(
          values(await place.ok(['hold', 'list', '--json'])).map(({ stream, id }) => [stream, id]),
          [['a', 'case-1']],
        )
        await fails(
          ['hold', 'add', 'a', '--id', 'r', '--from', DAY(3), '--until', DAY(2)],
          2,
          /turn from and until round/,
        )

        const would = await fails(['trim', 'a', '--before', 'latest'], 4, /nothing was done: .* --yes/)
        assert.match(
          would.out,
          /^would trim a below 2:0:0: 1 segment, 2 records.*\nheld +hold case-1 keeps segment 2/,
        )
        const dry = await place.ok(['trim', 'a', '--before', 'latest', '--dry-run', '--json'])
        assert.deepEqual(
          values(dry).map(({ segments, below, dryRun }) => [segments, below, dryRun]),
          [[1, '2:0:0', true]],
        )
        assert.match(await place.ok(['trim', 'a', '--before', 'latest', '--yes']), /^trimmed a below 2:0:0/)
        await fails(['trim', 'a'], 2, /either --before POSITION or --keep SIZE/)
        await fails(['trim', 'a', '--before', 'soon'], 2, /not a position/)
        await fails(['trim', 'a', '--before', '99:0:0', '--yes'], 3, /beyond the end/)

        assert.match(await place.ok(['evict', 'a', '--until', '3:0:0']), /^evicted 1 segment of a/)
        assert.match(
          await place.ok(['recall', 'a', '--for', '7d', '--dry-run']),
          /^would recall 1 segment of a.*1 segment hot anyway stays/,
        )
        assert.match(await place.ok(['recall', 'a', '--for', '7d']), /^recalled 1 segment of a/)
        assert.match(await place.ok(['segment', 'list', 'a']), /archived, recalled until 20/)
        await fails(['recall', 'a'], 2, /--for/)
        await fails(
          ['recall', 'a', '--for', '7d', '--from', '3:0:0', '--until', '2:0:0'],
          2,
          /--until 2:0:0 lies before --from 3:0:0: turn from and until round/,
        )
        assert.match(await place.ok(['evict', 'a']), /^evicted 2 segments of a/)
        assert.equal((await place.ok(['read', 'a', '--raw'])).split('\n').length, 5)

        assert.match(
          await place.ok(['tier', 'pause', 'a', '--for', '2h']),
          /^paused +a +until 20.*\(in 1h59m|2h/,
        )
        assert.match(
          await place.ok(['tier', 'limit', '--upload', '20MiB/s']),
          /limit +upload 20\.0 MiB\/s +until "stratalog tier limit --upload none"/,
        )
        const status = await place.ok(['tier', 'status'])
        assert.match(status, /paused +a +until/)
        assert.match(status, /limit +upload 20\.0 MiB\/s/)
        await fails(['tier', 'pause', 'b'], 3, /no stream b/)
        await fails(['tier', 'limit', '--upload', '1B/s'], 2, /at least 64 KiB/)
        await place.ok(['tier', 'limit', '--upload', 'none'])
        assert.equal(await place.ok(['tier', 'resume']), 'orders   none: policies alone decide\n')
        assert.equal(await place.ok(['hold', 'release', 'a', 'case-1']), 'released case-1 of a\n')
        assert.match(
          await place.ok(['trim', 'a', '--keep', '0B', '--yes']),
          /^trimmed a below 4:0:0: 2 segments/,
        )
        assert.equal(await place.ok(['read', 'a', '--raw']), '')
      } finally {
        await app?.close()
        await place.remove()
      }
    })
  }
})
