import assert from 'node:assert/strict'
import { rename, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { application, values, Workplace } from '../helpers/cli.js'

/** Invariant 1 at the command line: a lost store is named, replaced and its copies are back. */

let place: Workplace
before(async () => {
  place = await Workplace.make()
  const lines = Array.from({ length: 300 }, (_, at) => `record ${at}\n`).join('')
  await place.ok(['append', 'a'], lines)
  await place.ok(['tier', 'run'])
})
after(() => place.remove())

const store = (name: string) => join(place.dir, 'stores', name)

interface Line {
  readonly id: string
  readonly location: string
  readonly state: string
  readonly ledgers: number
  readonly missingCopies: number | null
}

async function listed(): Promise<Line[]> {
  const [list] = values(await place.ok(['store', 'list', '--json'])) as unknown as { stores: Line[] }[]
  return list?.stores ?? []
}

describe('stratalog store', () => {
  test('list shows every store, and a lost one with the command that helps', async () => {
    const before = await listed()
    assert.deepEqual(
      before.map(({ state, ledgers, missingCopies }) => [state, ledgers, missingCopies]),
      Array.from({ length: 3 }, () => ['writable', 1, 0]),
    )
    await rename(store('2'), join(place.base, 'lost'))
    const { code, out } = await place.cli(['store', 'list', '--check'])
    assert.equal(code, 5)
    assert.match(out, /unreachable .* 1 +\?/)
    assert.ok(out.includes(`stratalog store replace ${store('2')}`), out)
  })

  test('replace works beside an application, which keeps using the new store', async () => {
    const lost = (await listed()).find(({ location }) => location === store('2'))
    const app = await application(place.dir)
    try {
      const parts = values(await place.ok(['store', 'replace', store('2'), '--rate', '50MiB/s', '--json']))
      assert.equal(parts[0]?.from, lost?.id)
      const { progress } = parts.at(-1) as { progress: { doneLedgers: number; incompleteLedgers: number } }
      assert.deepEqual([progress.doneLedgers, progress.incompleteLedgers], [1, 0])
    } finally {
      await app.close()
    }
    const now = await listed()
    assert.ok(now.every(({ state, missingCopies }) => state === 'writable' && missingCopies === 0))
    assert.equal((await place.cli(['store', 'list', '--check'])).code, 0)
    await rm(store('1'), { recursive: true })
    assert.equal((await place.ok(['read', 'a'])).trim().split('\n').length, 300)
    assert.match(
      await place.ok(['store', 'replace', store('1')]),
      /replaced [0-9a-f]{8}: \d+ ledgers? moved to [0-9a-f]{8}/,
    )
  })

  test('what is unsafe is refused, with the command that would do it', async () => {
    const working = await place.cli(['store', 'replace', store('3')])
    assert.equal(working.code, 4)
    assert.match(working.err, /works \(writable\): stratalog store drain/)
    const few = await place.cli(['store', 'drain', store('3')])
    assert.equal(few.code, 4)
    assert.match(few.err, /2 writable of the 3 stores .*store replace/)
    assert.equal((await place.cli(['store', 'drain', 'nobody'])).code, 3)
    assert.equal((await place.cli(['store', 'drain', store('3'), '--rate', 'fast'])).code, 2)
  })

  test('tier status says how the scrub is', async () => {
    assert.match(
      await place.ok(['tier', 'status']),
      /^scrub {4}hot not begun yet, repaired 0, unrepairable 0$/m,
    )
    const [status] = values(await place.ok(['tier', 'status', '--json']))
    const { scrub } = status as { scrub: { unrepairable: unknown[] } }
    assert.deepEqual(scrub.unrepairable, [])
  })

  test('a directory that was added to "stores" is named with the command that makes a store there', async () => {
    const stores = ['1', '2', '3', '4'].map(store)
    await writeFile(join(place.dir, 'stratalog.yaml'), `version: 1\nstores: ${JSON.stringify(stores)}\n`)
    const { code, out } = await place.cli(['store', 'list', '--check'])
    assert.equal(code, 5)
    assert.ok(out.includes(`stratalog store replace ${store('4')} makes a store there`), out)
    const status = await place.ok(['tier', 'status'])
    assert.ok(status.includes(`${store('4')} ?   3 stores on`), status)
    assert.match(await place.ok(['store', 'replace', store('4')]), /nothing to copy/)
    assert.equal((await place.cli(['store', 'list', '--check'])).code, 0)
  })

  test('with all stores lost it says what brings back what was archived', async () => {
    const archive = join(place.base, 'the-archive')
    const stores = ['7', '8', '9'].map(store)
    const refused = async (text: string) => {
      await writeFile(
        join(place.dir, 'stratalog.yaml'),
        `version: 1\nstores: ${JSON.stringify(stores)}\n${text}`,
      )
      const { code, err } = await place.cli(['read', 'a'])
      assert.equal(code, 3)
      assert.match(err, /none of its 3 stores is there: there is no store in \S+7: is its disk mounted/)
      return err
    }
    assert.match(await refused(''), /this log has no archive, so only a backup/)
    const err = await refused(`archive: ${JSON.stringify(archive)}\n`)
    assert.ok(err.includes(`"stratalog restore --from ${archive} --into NEW_DIRECTORY"`), err)
  })
})
