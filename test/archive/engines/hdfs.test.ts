import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { after, before, describe, test } from 'node:test'
import { hdfsArchive } from '../../../archive/hdfs/engine.js'
import type { HdfsSettings } from '../../../archive/hdfs/settings.js'
import { present } from '../../../src/model/assert.js'
import { isStratalogError } from '../../../src/model/errors.js'
import type { ArchiveStore, ReplayableBody } from '../../../src/ports/archive-store.js'
import { archiveContract } from '../../contract/archive-store.js'
import { bodyOf } from '../../helpers/archive.js'
import { FaultProxy } from '../../helpers/fault-proxy.js'
import { skipWithout } from '../../servers/cache.js'
import { type Hdfs, startHdfs } from '../../servers/hdfs.js'
import { archiveFaults } from './archive-faults.js'
import { networkContext } from './network-context.js'

/** Short: a stall costs this much each time it is tried again. */
const FAULT_SETTINGS: HdfsSettings = {
  namenodeTimeoutMs: 500,
  readTimeoutMs: 500,
  writeTimeoutMs: 500,
  totalTimeoutMs: 4000,
}
const LIMIT_MS = 60_000
const MIB = 1024 * 1024

/** Files of several blocks without much data. */
const BLOCK_BYTES = MIB

describe('an archive in HDFS', { skip: await skipWithout('hdfs') }, () => {
  let started: Hdfs | undefined
  const hdfs = (): Hdfs => present(started, 'HDFS')
  before(async () => {
    started = await startHdfs({ datanodes: 3, blockBytes: BLOCK_BYTES })
  })
  after(() => started?.close())

  const open = (path: string, settings: HdfsSettings = {}, host = hdfs().namenode): Promise<ArchiveStore> =>
    hdfsArchive(`hdfs://${host}${path}`, { user: hdfs().user, ...settings }).open(networkContext())

  // One copy, for three are no different for who asks and three times the work; names of more than two pages.
  const one = { replication: 1 }
  archiveContract(
    async () => ({ store: await open('/contract', one), cleanup: async () => undefined }),
    'HDFS',
    { names: 110, listed: 130 },
  )

  archiveFaults(
    async () => {
      const direct = await open('/faults', one)
      const proxy = await FaultProxy.start(`http://${hdfs().namenode}`)
      const store = await open('/faults', { ...one, ...FAULT_SETTINGS }, new URL(proxy.url).host)
      return { store, direct, proxy, cleanup: async () => undefined }
    },
    'HDFS',
    { limitMs: LIMIT_MS },
  )

  describe('when parts of the cluster fail', () => {
    const data = createHash('shake256', { outputLength: 4 * MIB })
      .update('hdfs')
      .digest()
    const settings: HdfsSettings = { readTimeoutMs: 2000, writeTimeoutMs: 4000, namenodeTimeoutMs: 5000 }

    /** A body that does something to the cluster when half of it is on its way for the first time. */
    const disturbed = (disturb: () => void | Promise<void>): ReplayableBody => {
      let done = false
      return {
        sizeBytes: data.length,
        async *open() {
          for (let at = 0; at < data.length; at += 65_536) {
            if (at === data.length / 2 && !done) {
              done = true
              await disturb()
            }
            yield data.subarray(at, at + 65_536)
          }
        },
      }
    }
    const whole = async (store: ArchiveStore, key: string): Promise<void> => {
      assert.deepEqual(await store.head(key), { key, sizeBytes: data.length })
      assert.ok(data.equals(await store.readRange(key, 0, data.length)))
    }

    test('a DataNode that stops answering in the middle of writes costs none of them', async () => {
      // One copy in one block: each DataNode has the same address here, so that every block may be put on the stopped
      // one whoever is asked, and HDFS itself takes a minute to see that.
      const one = { ...settings, replication: 1, blockSizeBytes: 2 * data.length }
      const store = await open('/stopped', one)
      hdfs().stopDatanode(0)
      try {
        for (const i of [0, 1, 2]) {
          await store.putIfAbsent(`a/${i}`, bodyOf(data))
          await whole(store, `a/${i}`)
        }
      } finally {
        hdfs().contDatanode(0)
      }
      await store.close()
    })

    test('a DataNode killed in the middle of a write and before reads costs neither', async () => {
      const store = await open('/killed', settings)
      await store.putIfAbsent('a/before', bodyOf(data))
      await store.putIfAbsent(
        'a/during',
        disturbed(() => hdfs().killDatanode(1)),
      )
      await whole(store, 'a/during')
      for (let i = 0; i < 4; i++) await whole(store, 'a/before')
      assert.deepEqual(
        (await store.listFrom('', '', 10)).map(({ key }) => key),
        ['a/before', 'a/during'],
      )
      await hdfs().startDatanode(1)
      await store.close()
    })

    test('a quota of space that ends in the middle of an object is an archive that is full', async () => {
      const store = await open('/quota', settings)
      await store.putIfAbsent('a/one', bodyOf(data))
      // Room for one copy more than is there, and for the block that is being written.
      hdfs().admin('-setSpaceQuota', String(3 * data.length + 8 * BLOCK_BYTES), '/quota')
      await assert.rejects(
        store.putIfAbsent('a/two', bodyOf(data)),
        (error) => isStratalogError(error, 'archive_full') && /-setSpaceQuota/.test(error.message),
      )
      assert.equal(await store.head('a/two'), null)
      await whole(store, 'a/one')
      hdfs().admin('-clrSpaceQuota', '/quota')
      await store.putIfAbsent('a/two', bodyOf(data))
      await whole(store, 'a/two')
      await store.close()
    })

    test('who may not write there is told so at once, and may read', async () => {
      const store = await open('/rights', settings)
      await store.putIfAbsent('a/one', bodyOf(data))
      await store.close()
      const engine = hdfsArchive(`hdfs://${hdfs().namenode}/rights`, { ...settings, user: 'somebody' })
      await assert.rejects(engine.open(networkContext()), (error) => isStratalogError(error, 'access_denied'))
      const reader = await engine.open({ ...networkContext(), existing: true, readOnly: true })
      await whole(reader, 'a/one')
      await assert.rejects(reader.putIfAbsent('a/two', bodyOf('x')), (error) =>
        isStratalogError(error, 'access_denied'),
      )
      await assert.rejects(reader.delete('a/one'), (error) => isStratalogError(error, 'access_denied'))
      await whole(reader, 'a/one')
      await reader.close()
      // A log that has used it reads its history all the same, and writes again once it may.
      const log = await engine.open({ ...networkContext(), existing: true })
      await whole(log, 'a/one')
      await assert.rejects(log.putIfAbsent('a/two', bodyOf('x')), (error) =>
        isStratalogError(error, 'access_denied'),
      )
      await hdfs().call('PUT', '/rights/.tmp', 'op=SETPERMISSION&permission=777')
      await hdfs().call('PUT', '/rights/a', 'op=SETPERMISSION&permission=777')
      await log.putIfAbsent('a/two', bodyOf('x'))
      await log.close()
    })

    test('in safe mode nothing is written and everything is read', async () => {
      const store = await open('/safe', settings)
      await store.putIfAbsent('a/one', bodyOf(data))
      await hdfs().safeMode(true)
      await assert.rejects(
        store.putIfAbsent('a/two', bodyOf('x')),
        (error) => isStratalogError(error, 'archive_unavailable') && /safe mode/i.test(error.message),
      )
      await assert.rejects(store.delete('a/one'), (error) => isStratalogError(error, 'archive_unavailable'))
      await whole(store, 'a/one')
      const engine = hdfsArchive(`hdfs://${hdfs().namenode}/safe`, { ...settings, user: hdfs().user })
      const opened = await engine.open({ ...networkContext(), existing: true })
      await whole(opened, 'a/one')
      await assert.rejects(opened.putIfAbsent('a/two', bodyOf('x')), (error) =>
        isStratalogError(error, 'archive_unavailable'),
      )
      await hdfs().safeMode(false)
      await opened.putIfAbsent('a/two', bodyOf('x'))
      await opened.close()
      await store.putIfAbsent('a/three', bodyOf('x'))
      await store.close()
    })

    test('a NameNode that is down is an archive that is unavailable, and is back when it is', async () => {
      const store = await open('/namenode', settings)
      await store.putIfAbsent('a/one', bodyOf(data))
      await hdfs().killNamenode()
      const calls = [() => store.head('a/one'), () => store.head('a/none'), () => store.listFrom('', '', 1)]
      for (const call of calls) {
        await assert.rejects(call, (error) => isStratalogError(error, 'archive_unavailable'))
      }
      await hdfs().startNamenode()
      await whole(store, 'a/one')
      await store.putIfAbsent('a/two', bodyOf('x'))
      await store.close()
    })
  })
})
