import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { GetObjectCommand, PutObjectCommand } from '@aws-sdk/client-s3'
import { present } from '../../src/model/assert.js'
import { skipWithout } from './cache.js'
import { startCeph } from './ceph.js'
import { plainClient, type S3Server } from './s3.js'

describe('Ceph for tests', { skip: await skipWithout('ceph') }, () => {
  let started: S3Server | undefined
  const ceph = (): S3Server => present(started, 'Ceph')
  before(async () => {
    started = await startCeph()
  })
  after(() => started?.close())

  test('keeps its objects through kill -9 of the gateway', async () => {
    await ceph().makeBucket('one')
    const client = plainClient(ceph().endpoint)
    await client.send(new PutObjectCommand({ Bucket: 'one', Key: 'a/b', Body: 'text' }))
    await ceph().kill()
    await assert.rejects(client.send(new GetObjectCommand({ Bucket: 'one', Key: 'a/b' })))
    await ceph().restart()
    const found = await client.send(new GetObjectCommand({ Bucket: 'one', Key: 'a/b' }))
    assert.equal(await found.Body?.transformToString(), 'text')
    client.destroy()
  })
})
