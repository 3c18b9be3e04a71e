import assert from 'node:assert/strict'
import { rmSync } from 'node:fs'
import process from 'node:process'
import { after, before, describe, test } from 'node:test'
import { present } from '../../src/model/assert.js'
import { SEED } from '../helpers/call-faults.js'
import { faultDirectory } from '../helpers/fault-run.js'
import { seededRandom } from '../helpers/seeded-random.js'
import { skipWithout } from '../servers/cache.js'
import { S3_ENVIRONMENT } from '../servers/s3.js'
import { startVersitygw, type Versitygw } from '../servers/versitygw.js'
import { chosenOf, kindOfKey, RemoteKills } from './remote-kills.js'

const BUCKET = 'kills'
const MIB = 2 ** 20
/** Soon enough for a test, and late enough for a machine that is busy. */
const SOON = { idleTimeoutMs: 10_000, totalTimeoutMs: 20_000 }

describe(`SIGKILL at requests to S3 (seed ${SEED})`, { skip: await skipWithout('versitygw') }, () => {
  let started: Versitygw | undefined
  let kills: RemoteKills | undefined
  const root = faultDirectory('kill-s3')
  const kept = { ...process.env }
  before(async () => {
    Object.assign(process.env, S3_ENVIRONMENT)
    started = await startVersitygw()
    await started.makeBucket(BUCKET)
    const { endpoint, region } = started
    kills = new RemoteKills({
      root,
      random: seededRandom(SEED),
      place: {
        url: endpoint,
        archive: (name, proxyUrl) => ({
          archive: `s3://${BUCKET}/${name}`,
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
      const runs = present(kills, 'versitygw')
      const chosen = chosenOf(runs, await runs.casesOf(scenario), count)
      const met = await runs.runAll(chosen)
      t.diagnostic(`${met} of ${chosen.length} met their request`)
      assert.ok(met >= chosen.length / 2, `only ${met} of ${chosen.length} met their request`)
    })
  }
})
