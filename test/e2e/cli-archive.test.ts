import assert from 'node:assert/strict'
import { copyFile, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { application, values, Workplace } from '../helpers/cli.js'

let place: Workplace

before(async () => {
  place = await Workplace.make()
  for (const message of ['one', 'two']) await place.ok(['append', 'trades', '--message', message])
  await place.ok(['tier', 'run'])
})
after(() => place.remove())

async function objectFiles(): Promise<string[]> {
  const archive = join(place.dir, 'archive')
  const names = await readdir(archive, { recursive: true })
  return names
    .filter((name) => /\/s[0-9a-v]{13}-/.test(name))
    .map((name) => join(archive, name))
    .sort()
}

/** Another attempt with the same content. */
async function twin(): Promise<string> {
  const [file = ''] = await objectFiles()
  const other = `${file.slice(0, -13)}0000000000001`
  await copyFile(file, other)
  return other
}

describe('archive and fsck', () => {
  test('ls shows what is there, with the log and without', async () => {
    assert.match(await place.ok(['archive', 'ls', 'trades']), /^trades {2}[0-9a-f]{32}\n +1 .* 1 record /)
    assert.equal(values(await place.ok(['archive', 'ls', '--json'])).length, 2)
    const alone = await place.ok(['archive', 'ls', '--from', join(place.dir, 'archive')])
    assert.match(alone, /^trades/)
    const wrong = await place.cli(['archive', 'ls', 'trade'])
    assert.equal(wrong.code, 3)
  })

  test('verify and fsck say that nothing is wrong, and exit with 6 where something is', async () => {
    assert.match(await place.ok(['archive', 'verify']), /1 stream, 2 objects, .* nothing wrong/)
    assert.match(await place.ok(['archive', 'verify', '--deep', '--sample', '100%']), /2 objects read whole/)
    assert.match(await place.ok(['fsck', '--deep']), /nothing wrong/)
    const [file = ''] = await objectFiles()
    const whole = await readFile(file)
    const bad = Buffer.from(whole)
    bad[60] = (bad[60] ?? 0) ^ 1
    await writeFile(file, bad)
    const found = await place.cli(['archive', 'verify', '--deep'])
    assert.equal(found.code, 6)
    assert.match(found.out, /^damaged +trades seg 1/m)
    assert.match(found.out, /→ its hot copy is there/)
    const json = await place.cli([
      'archive',
      'verify',
      '--deep',
      '--from',
      join(place.dir, 'archive'),
      '--json',
    ])
    assert.deepEqual([json.code, values(json.out)[0]?.problem], [6, 'damaged'])
    assert.equal((await place.cli(['fsck', '--deep'])).code, 6)
    // What the message says mends it does.
    assert.match(
      await place.ok(['archive', 'scrub']),
      /mended 1 since the log was made · nothing left that is bad/,
    )
    assert.match(await place.ok(['archive', 'verify', '--deep']), /nothing wrong/)
    assert.match(await place.ok(['tier', 'status']), /cold 100 % of pass, mended 1, alarms 0/)
    // The bad object is an orphan now; it goes with the others.
    await place.ok(['archive', 'orphans', 'gc', '--grace', '0s', '--yes'])
  })

  test('orphans: what a dry run says, the order does; beside an application too', async () => {
    const other = await twin()
    const app = await application(place.dir)
    assert.match(await place.ok(['archive', 'orphans', 'list']), /^waiting +twin/m)
    const dry = await place.cli(['archive', 'orphans', 'gc', '--grace', '0s'])
    assert.equal(dry.code, 4)
    assert.match(dry.out, /^due +twin .*trades seg 1/m)
    assert.ok((await objectFiles()).includes(other))
    assert.match(await place.ok(['archive', 'orphans', 'gc', '--grace', '0s', '--yes']), /deleted 1 /)
    assert.ok(!(await objectFiles()).includes(other))
    assert.match(await place.ok(['archive', 'verify', 'trades', '--deep']), /nothing wrong/)
    assert.match(await place.ok(['archive', 'scrub']), /nothing left that is bad/)
    assert.match(await place.ok(['fsck']), /nothing wrong/)
    await app.close()
  })

  test('resolve needs the order, and an attempt that is there', async () => {
    const refused = await place.cli(['archive', 'resolve', 'trades', '1', '--attempt', 'x'])
    assert.equal(refused.code, 4)
    assert.match(refused.err, /--yes/)
    const absent = await place.cli(['archive', 'resolve', 'trades', '1', '--attempt', 'x', '--yes'])
    assert.equal(absent.code, 3)
    assert.match(absent.err, /choose one of/)
  })

  test('wrong use is named', async () => {
    for (const args of [
      ['archive', 'verify', '--sample', '1%'],
      ['archive', 'verify', '--deep', '--sample', '0%'],
      ['archive', 'verify', '--deep', '--sample', '200%'],
      ['archive', 'verfy'],
      ['archive', 'orphans', 'lst'],
      ['archive', 'orphans', 'gc', '--grace', 'soon'],
      ['archive', 'resolve', 'trades', 'one', '--attempt', 'x', '--yes'],
    ]) {
      const { code, err } = await place.cli(args)
      assert.equal(code, 2, `${args.join(' ')}: ${err}`)
    }
  })

  test('a lost object is lost: exit 6, and nothing is forgotten', async () => {
    const [file = ''] = await objectFiles()
    await rm(file)
    assert.equal((await place.cli(['archive', 'verify'])).code, 6)
    assert.match((await place.cli(['fsck'])).out, /damage .*archive +trades seg 1/)
  })
})
