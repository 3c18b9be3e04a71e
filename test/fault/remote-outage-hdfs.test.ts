import assert from 'node:assert/strict'
import { rmSync } from 'node:fs'
import { join } from 'node:path'
import process from 'node:process'
import { after, before, describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { present } from '../../src/model/assert.js'
import { faultDirectory } from '../helpers/fault-run.js'
import { skipWithout } from '../servers/cache.js'
import { type Hdfs, startHdfs } from '../servers/hdfs.js'
import { RemoteLoad } from './remote-load.js'

/*
 * Parts of HDFS are killed, or stop answering, while a log appends, copies and is read. One DataNode of three costs
 * nobody anything; without the NameNode copies wait, and go on by themselves (invariants 1, 2, 4, 5 and 10).
 */

const FULL = process.env.TEST_FULL === '1'
const STOPPED_MS = 180_000
const SOON = { namenodeTimeoutMs: 1_000, readTimeoutMs: 2_000, writeTimeoutMs: 4_000 }

describe('parts of HDFS that are away under load', { skip: await skipWithout('hdfs') }, () => {
  let started: Hdfs | undefined
  const root = faultDirectory('outage-hdfs')
  const cluster = (): Hdfs => present(started, 'HDFS')
  before(async () => {
    started = await startHdfs({ datanodes: 3, replication: 2 })
  })
  after(async () => {
    await started?.close()
    rmSync(root, { recursive: true, force: true })
  })

  const begin = (name: string): Promise<RemoteLoad> => {
    const { namenode, user } = cluster()
    const archive = { archive: `hdfs://${namenode}/${name}`, hdfs: { user, ...SOON } }
    return RemoteLoad.start(join(root, name), archive)
  }

  /** Copies and reads go on now. */
  const goesOn = async (load: RemoteLoad): Promise<void> => {
    const { reads } = load
    await load.archived(3)
    await load.until('reads', () => load.reads > reads)
  }

  test('one DataNode is killed, another stops answering, in turn', { timeout: 400_000 }, async () => {
    const load = await begin('datanodes')
    try {
      await load.archived(1)
      await cluster().killDatanode(0)
      await goesOn(load)
      await cluster().startDatanode(0)
      // What was stored while one was killed may have one copy, on the one that is stopped now.
      await cluster().replicated()
      cluster().stopDatanode(1)
      try {
        await goesOn(load)
      } finally {
        cluster().contDatanode(1)
      }
      await load.settled()
      // Each outage may be noticed by calls that fail on a machine that is busy; it must not keep the archive down.
      const downs = load.states.filter((state) => state === 'down').length
      assert.ok(downs <= 1, `two DataNodes are an archive: ${load.states.join()} ${load.refusal}`)
    } finally {
      await load.close()
    }
  })

  const nameNodeAway = async (): Promise<void> => {
    const load = await begin('namenode')
    try {
      await load.archived(2)
      const stop = () => cluster().stopNamenode()
      await load.survives(stop, () => cluster().contNamenode(), STOPPED_MS)
      await cluster().killNamenode()
      await sleep(1_000)
      await cluster().startNamenode()
      await goesOn(load)
      await load.settled()
    } finally {
      await load.close()
    }
  }
  // Minutes of waiting: otherwise the tests of the command line kill a NameNode, and those of S3 stop an archive.
  if (FULL)
    test(
      'the NameNode stops answering for minutes, and is killed and started again',
      {
        timeout: 2 * STOPPED_MS + 400_000,
      },
      nameNodeAway,
    )
})
