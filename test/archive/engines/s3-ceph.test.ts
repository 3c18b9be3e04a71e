import { after, before, describe } from 'node:test'
import { present } from '../../../src/model/assert.js'
import { skipWithout } from '../../servers/cache.js'
import { startCeph } from '../../servers/ceph.js'
import type { S3Server } from '../../servers/s3.js'
import { s3Suites } from './s3.js'

describe('an archive in Ceph', { skip: await skipWithout('ceph') }, () => {
  let server: S3Server | undefined
  before(async () => {
    server = await startCeph()
  })
  after(() => server?.close())
  s3Suites(() => present(server, 'Ceph'), 'Ceph', { names: 1100, listed: 130 })
})
