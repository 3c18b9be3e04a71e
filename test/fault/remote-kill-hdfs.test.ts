import assert from 'node:assert/strict'
import { rmSync } from 'node:fs'
import { after, before, describe, test } from 'node:test'
import { present } from '../../src/model/assert.js'
import { SEED } from '../helpers/call-faults.js'
import { faultDirectory } from '../helpers/fault-run.js'
import { seededRandom } from '../helpers/seeded-random.js'
import { skipWithout } from '../servers/cache.js'
import { type Hdfs, startHdfs } from '../servers/hdfs.js'
import { chosenOf, kindOfKey, RemoteKills } from './remote-kills.js'

const MIB = 2 ** 20

describe(`SIGKILL at requests to HDFS (seed ${SEED})`, { skip: await skipWithout('hdfs') }, () => {
  let started: Hdfs | undefined
  let kills: RemoteKills | undefined
  const root = faultDirectory('kill-hdfs')
  before(async () => {
    started = await startHdfs({ blockBytes: 4 * MIB })
    const { namenode, user } = started
    kills = new RemoteKills({
      root,
      random: seededRandom(SEED),
      place: {
        url: `http://${namenode}`,
        archive: (name, proxyUrl) => ({
          archive: `hdfs://${new URL(proxyUrl).host}/${name}`,
          hdfs: { user },
        }),
        kindOf: ({ path, redirected }) => {
          const [key = '', query = ''] = path.split('?')
          const operation = /(?:^|&)op=(\w+)/.exec(query)?.[1] ?? ''
          return `${operation}${redirected ? ' data' : ''} ${kindOfKey(key)}`
        },
      },
    })
  })
  after(async () => {
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
      const runs = present(kills, 'HDFS')
      const chosen = chosenOf(runs, await runs.casesOf(scenario), count)
      const met = await runs.runAll(chosen)
      t.diagnostic(`${met} of ${chosen.length} met their request`)
      assert.ok(met >= chosen.length / 2, `only ${met} of ${chosen.length} met their request`)
    })
  }
})
