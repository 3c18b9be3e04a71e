import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { existsSync, readdirSync } from 'node:fs'
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { openArchive, openLog } from '../../src/open.js'
import { silentLogger } from '../../src/system/logger.js'
import { application, finished, type Result, start, values, Workplace } from '../helpers/cli.js'

let place: Workplace
before(async () => {
  place = await Workplace.make()
})
after(() => place.remove())

async function directoryOf(name: string): Promise<string> {
  const directory = join(place.base, name)
  await mkdir(directory, { recursive: true })
  await writeFile(join(directory, 'stratalog.yaml'), 'version: 1\narchive: ./archive\n')
  return directory
}

const run = (directory: string, args: readonly string[], input?: string): Promise<Result> =>
  finished(start(['--dir', directory, ...args]), input)

async function ok(directory: string, args: readonly string[], input?: string): Promise<string> {
  const { code, out, err } = await run(directory, args, input)
  assert.equal(code, 0, `${args.join(' ')}: ${err}${out}`)
  return out
}

/** Segments in the archive, without a command for each. */
async function archived(directory: string, count: number, bytes: number): Promise<void> {
  const log = await openLog(directory, { tiering: 'off', control: 'off', system: { logger: silentLogger() } })
  for (let at = 0; at < count; at += 1) {
    await log.stream('a').append(randomBytes(bytes).toString('base64'))
    await log.stream('a').seal()
  }
  await log.tier.run({ until: 'settled' })
  await log.close()
}

describe('migrate on the command line', () => {
  test('beside a running application, which goes on in the new place', async () => {
    const directory = await directoryOf('app')
    const to = join(place.base, 'app-2')
    await archived(directory, 3, 10)
    const app = await application(directory)
    try {
      const weighed = values(await ok(directory, ['migrate', '--to', to, '--dry-run', '--json']))
      assert.equal(weighed.length, 1)
      assert.ok(!existsSync(to), 'a dry run makes nothing')
      const [report] = values(await ok(directory, ['migrate', '--to', to, '--json']))
      assert.deepEqual([report?.to, report?.epoch, report?.damaged], [to, '2', 0])
      assert.match(await ok(directory, ['archive', 'own']), /app-2 is this log/)
      const again = await run(directory, ['migrate', '--to', to])
      assert.deepEqual([again.code, /already/.test(again.err)], [4, true], again.err)
    } finally {
      await app.close()
    }
    // Nobody changed the configuration yet.
    assert.match(await ok(directory, ['archive', 'verify', '--deep']), /nothing wrong/)
    assert.match(await ok(directory, ['archive', 'own']), /app-2 is this log/)
  })

  for (const signal of ['SIGINT', 'SIGKILL'] as const) {
    test(`ended by ${signal}, gone on with by the same command`, async () => {
      const directory = await directoryOf(`stopped-${signal}`)
      const to = `${directory}-2`
      await archived(directory, 4, 200_000)
      const child = start(['--dir', directory, 'migrate', '--to', to, '--rate', '200KiB/s'])
      const ended = finished(child)
      const objects = () =>
        existsSync(to)
          ? readdirSync(to, { recursive: true, encoding: 'utf8' }).filter((name) => /\/s/.test(name)).length
          : 0
      for (let waits = 0; objects() === 0 && waits < 500; waits += 1) await sleep(20)
      child.kill(signal)
      const { code, err } = await ended
      if (signal === 'SIGINT') {
        assert.equal(code, 130, err)
        assert.match(err, /goes on with it/)
      }
      await assert.rejects(openArchive(to), /is not whole/)
      assert.match(await ok(directory, ['migrate', '--to', to]), /the archive is at/)
      assert.match(await ok(directory, ['archive', 'verify', '--deep']), /nothing wrong/)
    })
  }

  test('what makes no sense is said, with the command that does', async () => {
    const directory = await directoryOf('usage')
    for (const [args, code, says] of [
      [['migrate'], 2, /needs --to ARCHIVE/],
      [['migrate', '--abort'], 4, /stratalog migrate --abort --yes/],
      [['migrate', '--abort', '--yes'], 3, /no migration of the archive is under way/],
      [['migrate', '--to', join(place.base, 'x')], 4, /nothing to migrate/],
    ] as const) {
      const { code: found, err } = await run(directory, args)
      assert.match(err, says)
      assert.equal(found, code, args.join(' '))
    }
  })
})
