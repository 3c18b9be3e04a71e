import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { application, Workplace } from '../helpers/cli.js'

describe('stream clone', () => {
  for (const beside of [false, true]) {
    test(beside ? 'beside a running application' : 'on a log that nobody has open', async () => {
      const place = await Workplace.make()
      await place.ok(['append', 'a'], 'one\ntwo\n')
      await place.ok(['tier', 'run'])
      const app = beside ? await application(place.dir) : null
      const fails = async (args: readonly string[], code: number, why: RegExp) => {
        const { code: found, err } = await place.cli(args)
        assert.deepEqual([found, why.test(err)], [code, true], `${args.join(' ')}: ${err}`)
      }
      try {
        assert.match(
          await place.ok(['stream', 'clone', 'a', 'b']),
          /^b is a clone of a up to 2:0:0: 2 records\nshared: 1 segment, .* in the archive; a keeps them while b is there\n$/,
        )
        const json = JSON.parse(await place.ok(['stream', 'clone', 'a', 'c', '--until', '1:0:1', '--json']))
        assert.deepEqual([json.fork, json.records, json.sharedSegments], ['1:0:1', '1', 0])
        assert.equal(await place.ok(['read', 'b', '--raw']), 'one\ntwo\n')
        assert.equal(await place.ok(['read', 'c', '--raw']), 'one\n')
        assert.match(await place.ok(['hold', 'list', 'a']), /clone-[0-9a-f]{32} +pin/)
        await fails(['stream', 'clone', 'a', 'b'], 4, /stream b already/)
        await fails(['stream', 'clone', 'x', 'y'], 3, /no stream x/)
        await fails(['stream', 'clone', 'a', 'd', '--until', '9:0:0'], 3, /beyond the end of a/)
        await fails(['stream', 'clon', 'a', 'd'], 2, /Did you mean "stream clone"\?/)
      } finally {
        await app?.close()
        await place.remove()
      }
    })
  }
})
