import assert from 'node:assert/strict'
import { rmSync } from 'node:fs'
import process from 'node:process'
import { after, before, describe, test } from 'node:test'
import { present } from '../../src/model/assert.js'
import { SEED } from '../helpers/call-faults.js'
import { faultDirectory } from '../helpers/fault-run.js'
import { seededRandom } from '../helpers/seeded-random.js'
import { type ServerName, skipWithout } from '../servers/cache.js'
import { startCeph } from '../servers/ceph.js'
import { S3_ENVIRONMENT, type S3Server } from '../servers/s3.js'
import { startVersitygw } from '../servers/versitygw.js'
import { chosenOf, kindOfKey, RemoteKills } from './remote-kills.js'

const BUCKET = 'kills'
const MIB = 2 ** 20
/** Soon enough for a test, and late enough for a machine that is busy. */
const SOON = { idleTimeoutMs: 10_000, totalTimeoutMs: 20_000 }

const SERVERS: readonly (readonly [name: ServerName, begin: () => Promise<S3Server>])[] = [
  ['versitygw', startVersitygw],
  // It ends uploads in parts by a claim: other requests to be killed at. Its start and its syncs cost minutes, so it is
  // had where cases are asked for: TEST_CASES=10.
  ...(process.env.TEST_CASES === undefined ? [] : ([['ceph', startCeph]] as const)),
]

for (const [name, begin] of SERVERS) kills(name, begin, await skipWithout(name))

function kills(name: ServerName, begin: () => Promise<S3Server>, skip: string | false): void {
  describe(`SIGKILL at requests to S3: ${name} (seed ${SEED})`, { skip }, () => {
    let started: S3Server | undefined
    let running: RemoteKills | undefined
    const root = faultDirectory(`kill-${name}`)
    const kept = { ...process.env }
    before(async () => {
      Object.assign(process.env, S3_ENVIRONMENT)
      started = await begin()
      await started.makeBucket(BUCKET)
      const { endpoint, region } = started
      running = new RemoteKills({
        root,
        random: seededRandom(SEED),
        place: {
          url: endpoint,
          archive: (log, proxyUrl) => ({
            archive: `s3://${BUCKET}/${log}`,
            s3: { endpoint: proxyUrl, region, putMaxBytes: 5 * MIB, partBytes: 5 * MIB, ...SOON },
          }),
          kindOf: ({ method, path }) => {
            const [key = '', query = ''] = path.split('?')
            const operation = /(^|&)(uploads|uploadId|list-type)\b/.exec(query)?.[2] ?? ''
            return `${method} ${kindOfKey(key)} ${operation}`.trim()
          },
        },
      })
    })
    after(async () => {
      for (const name of Object.keys(S3_ENVIRONMENT)) delete process.env[name]
      Object.assign(process.env, kept)
      await started?.close()
      rmSync(root, { recursive: true, force: true })
    })

    for (const [scenario, count] of [
      ['tier', 8],
      ['large', 2],
    ] as const) {
      test(`${scenario}: nothing acknowledged is lost, nothing is there twice (1, 2, 4, 5, 6, 7, 12)`, {
        timeout: 7_200_000,
      }, async (t) => {
        const runs = present(running, name)
        const chosen = chosenOf(runs, await runs.casesOf(scenario), count)
        const met = await runs.runAll(chosen)
        t.diagnostic(`${met} of ${chosen.length} met their request`)
        assert.ok(met >= chosen.length / 2, `only ${met} of ${chosen.length} met their request`)
      })
    }
  })
}
