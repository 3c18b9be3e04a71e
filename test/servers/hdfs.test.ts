import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { present } from '../../src/model/assert.js'
import { skipWithout } from './cache.js'
import { type Hdfs, startHdfs } from './hdfs.js'

describe('HDFS for tests', { skip: await skipWithout('hdfs') }, () => {
  let started: Hdfs | undefined
  const hdfs = (): Hdfs => present(started, 'HDFS')
  before(async () => {
    started = await startHdfs()
  })
  after(() => started?.close())

  const directory = async (): Promise<number> => (await hdfs().call('PUT', '/a/b', 'op=MKDIRS')).status

  test('has a safe mode', async () => {
    assert.equal(await directory(), 200)
    await hdfs().safeMode(true)
    const refused = await hdfs().call('PUT', '/c', 'op=MKDIRS')
    assert.equal(refused.status, 403)
    assert.match(refused.body, /SafeModeException/)
    await hdfs().safeMode(false)
    assert.equal(await directory(), 200)
  })

  test('its processes can be killed and come back with what they had', async () => {
    await hdfs().killDatanode(0)
    await hdfs().killNamenode()
    await assert.rejects(directory())
    const both = hdfs().startNamenode()
    await both
    await hdfs().startDatanode(0)
    assert.equal((await hdfs().call('GET', '/a/b', 'op=GETFILESTATUS')).status, 200)
    const created = await hdfs().call('PUT', '/a/file', 'op=CREATE')
    assert.equal(created.status, 307)
  })
})
