import assert from 'node:assert/strict'
import { rmSync } from 'node:fs'
import { join } from 'node:path'
import process from 'node:process'
import { after, before, describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import type { OpenOptions } from 'stratalog'
import { present } from '../../src/model/assert.js'
import { silentLogger } from '../../src/system/logger.js'
import { faultDirectory } from '../helpers/fault-run.js'
import { skipWithout } from '../servers/cache.js'
import { S3_ENVIRONMENT } from '../servers/s3.js'
import { startVersitygw, type Versitygw } from '../servers/versitygw.js'
import { APPEND_MS_MAX, RemoteLoad, scarceDisk } from './remote-load.js'

/*
 * A gateway is killed, or stops answering, while a log appends, copies and is read. Appends go on, what is hot stays
 * until it is verified, and everything goes on by itself when the gateway is back (invariants 1, 2, 4, 5 and 10).
 */

const FULL = process.env.TEST_FULL === '1'
const SOON = { idleTimeoutMs: 2_000, totalTimeoutMs: 4_000 }
/** Longer than a call may take with all its attempts; minutes with TEST_FULL=1. */
const STOPPED_MS = FULL ? 180_000 : 8_000

describe('a gateway of S3 that is away under load', { skip: await skipWithout('versitygw') }, () => {
  let started: Versitygw | undefined
  const root = faultDirectory('outage-s3')
  const server = (): Versitygw => present(started, 'versitygw')
  const kept = { ...process.env }
  before(async () => {
    Object.assign(process.env, S3_ENVIRONMENT)
    started = await startVersitygw()
  })
  after(async () => {
    for (const name of Object.keys(S3_ENVIRONMENT)) delete process.env[name]
    Object.assign(process.env, kept)
    await started?.close()
    rmSync(root, { recursive: true, force: true })
  })

  const begin = async (name: string, options: OpenOptions = {}): Promise<RemoteLoad> => {
    await server().makeBucket(name)
    const { endpoint, region } = server()
    const archive = { archive: `s3://${name}/log`, s3: { endpoint, region, ...SOON } }
    return RemoteLoad.start(join(root, name), archive, options)
  }

  test('killed and started again in the middle of copies and reads', { timeout: 180_000 }, async () => {
    const load = await begin('killed')
    try {
      await load.until('a first read', () => load.reads > 0)
      for (const awayMs of [200, 4_000]) {
        await load.archived(2)
        await server().kill()
        await sleep(awayMs)
        await server().restart()
        const { reads } = load
        await load.archived(2)
        await load.until('reads again', () => load.reads > reads)
      }
      await load.settled()
      assert.ok(load.refused > 0, 'no reader met it')
      assert.ok(load.slowestMs < APPEND_MS_MAX, `an append took ${load.slowestMs} ms`)
    } finally {
      await load.close()
    }
  })

  test('stopped for a while: appends go on, it says DOWN, slows who is to be slowed, and is well again', {
    timeout: 2 * STOPPED_MS + 300_000,
  }, async () => {
    const load = await begin('stopped', { system: { logger: silentLogger(), disk: scarceDisk() } })
    try {
      await load.log.stream('a').setPolicy({ archiveDown: 'hold' })
      await load.log.stream('b').setPolicy({ archiveDown: 'backpressure' })
      await load.archived(2)
      const stop = () => server().stop()
      await load.survives(stop, () => server().cont(), STOPPED_MS)
      assert.ok(load.slowed, 'nobody was slowed')
      assert.equal((await load.log.tier.status()).archive.slowing, false, 'writers are as fast again')
      await load.settled()
    } finally {
      await load.close()
    }
  })
})
