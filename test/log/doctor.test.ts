import assert from 'node:assert/strict'
import { chmodSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, test } from 'node:test'
import { directoryArchive } from '../../archive/directory/store.js'
import type { DoctorReport } from '../../src/model/control-doctor.js'
import { nodeChecks, ringChecks } from '../../src/open/doctor.js'
import { realRandom } from '../../src/system/random.js'
import { application, finished, start, values, Workplace } from '../helpers/cli.js'
import { outage } from '../helpers/faulty-archive.js'
import { Freezer, thawingArchive } from '../helpers/thawing-archive.js'
import { fillSegments, TieredLog } from '../helpers/tiered-log.js'

let place: TieredLog
beforeEach(() => {
  place = new TieredLog()
})
afterEach(() => place.end())

const bad = (report: DoctorReport) => report.checks.filter(({ state }) => state === 'bad')
const of = (report: DoctorReport, area: string) => report.checks.filter((one) => one.area === area)

describe('doctor', () => {
  test('a log that is well: every area is looked at, the archive with a probe that leaves nothing', async () => {
    await using log = await place.open()
    await fillSegments(log, 'a', 1)
    await log.tier.run()
    const before = readdirSync(place.archive, { recursive: true, encoding: 'utf8' }).filter((one) =>
      one.includes('probe/'),
    )
    const report = await log.doctor()
    assert.deepEqual(bad(report), [])
    const areas = new Set(report.checks.map(({ area }) => area))
    assert.deepEqual([...areas].slice(0, 5), ['node', 'config', 'stores', 'index', 'archive'])
    assert.match(of(report, 'archive')[0]?.text ?? '', /answers: put \d+ ms, get \d+ ms, delete \d+ ms$/)
    assert.match(of(report, 'stores').at(-1)?.text ?? '', /3 on 1 device/)
    assert.match(of(report, 'stores').at(-1)?.mend ?? '', /a disk of its own/)
    const after = readdirSync(place.archive, { recursive: true, encoding: 'utf8' })
    assert.deepEqual(
      after.filter((one) => /probe\/.+/.test(one)),
      before,
    )
  })

  test('what an engine found out about its store is told', async () => {
    const archive = thawingArchive(directoryArchive(place.archive), new Freezer())
    await using log = await place.open({ archive })
    const found = of(await log.doctor(), 'archive').find(({ name }) => name === 'classes')
    assert.deepEqual([found?.state, found?.text], ['ok', 'objects may have to be thawed'])
  })

  test('an archive that is down, or gives back other bytes, is bad, and doctor itself does not fail', async () => {
    await using log = await place.open()
    place.faults.beforePut = outage
    const [down] = bad(await log.doctor())
    assert.equal(down?.area, 'archive')
    assert.match(down?.text ?? '', /does not answer/)
    assert.match(down?.mend ?? '', /segments stay hot.*archive_unavailable in docs\/errors\.md/)
    delete place.faults.beforePut
    place.faults.read = (_, bytes) => Uint8Array.from(bytes, (byte) => byte ^ 1)
    assert.match(bad(await log.doctor())[0]?.text ?? '', /gave back other bytes/)
  })

  test("another log's archive is bad, and nothing is written there; policies that contradict are told", async () => {
    {
      await using other = await place.open()
      await fillSegments(other, 'theirs', 1)
      await other.tier.run()
    }
    const before = readdirSync(place.archive, { recursive: true, encoding: 'utf8' })
    rmSync(place.directory, { recursive: true })
    place.faults.beforePut = (key) => assert.fail(`${key} was written to another log's archive`)
    const defaults = { hot: { for: '1d' }, keep: { for: '1h' }, evict: { lag: '4h' } } as const
    await using log = await place.open({ defaults })
    await fillSegments(log, 'a', 1)
    await fillSegments(log, 'b', 1)
    const report = await log.doctor()
    const [found] = bad(report)
    assert.match(found?.text ?? '', /belongs to log [0-9a-f]{32} .*archive own --take-over/)
    assert.deepEqual(readdirSync(place.archive, { recursive: true, encoding: 'utf8' }), before)
    const [policy] = report.checks.filter(({ name }) => name === 'policy')
    assert.deepEqual(
      [policy?.state, policy?.text],
      ['note', 'a and 1 more: keep.for 1h is not longer than evict.lag 4h'],
    )
    assert.match(policy?.mend ?? '', /the archive frees no disk\. Raise keep\.for/)
  })

  test('a ring that others may read, or that is not there, is bad and names no key', async () => {
    const ring = join(place.root, 'ring')
    const random = realRandom()
    const missing = await ringChecks('/', [ring], random)
    assert.deepEqual([missing[0]?.state, missing[0]?.area], ['bad', 'keys'])
    const secret = Buffer.alloc(32, 7).toString('base64')
    const keys = [{ id: 'main', createdMs: 1, key: secret }]
    writeFileSync(ring, JSON.stringify({ format: 1, ring: 'abcdefgh', keys }), { mode: 0o600 })
    chmodSync(ring, 0o644)
    const [open] = await ringChecks('/', [ring, ring], random)
    assert.equal(open?.state, 'bad')
    assert.doesNotMatch(JSON.stringify(open), new RegExp(secret.slice(0, 10)))
    rmSync(ring)
  })

  test('versions of Node.js: too old, past its end, fine', () => {
    const states = ['18.20.0', '20.18.9', '20.20.0', '22.1.0', '24.0.0'].map(
      (version) => nodeChecks(version)[0]?.state,
    )
    assert.deepEqual(states, ['bad', 'bad', 'note', 'ok', 'ok'])
  })
})

describe('stratalog doctor', () => {
  test('beside an application, alone, and where no log can be opened', async () => {
    const cli = await Workplace.make()
    try {
      const app = await application(cli.dir)
      const [beside] = values(await cli.ok(['doctor', '--json'])) as unknown as DoctorReport[]
      await app.close()
      assert.ok(beside !== undefined && beside.bad === 0)
      const there = await finished(start(['doctor', cli.dir], cli.base))
      assert.equal(there.code, 0, there.err)
      assert.match(there.out, /^ok {4}archive .*answers: put/m)
      assert.match(there.out, /^all is well/m)

      writeFileSync(join(cli.dir, 'stratalog.yaml'), 'version: 1\ns3: { access-key: x }\n')
      const broken = await cli.cli(['doctor'])
      assert.equal(broken.code, 2)
      assert.match(broken.out, /^BAD {3}config .*stratalog\.yaml:2: unknown key "access-key".*AWS_PROFILE/m)
      assert.match(broken.out, /to mend/)
    } finally {
      await cli.remove()
    }
  })
})
