import { after, before, describe } from 'node:test'
import { present } from '../../../src/model/assert.js'
import { skipWithout } from '../../servers/cache.js'
import { startVersitygw, type Versitygw } from '../../servers/versitygw.js'
import { s3Suites } from './s3.js'

const MIB = 1024 * 1024

describe('an archive in versitygw', { skip: await skipWithout('versitygw') }, () => {
  let server: Versitygw | undefined
  before(async () => {
    server = await startVersitygw()
  })
  after(() => server?.close())
  // The largest goes in parts whatever the settings.
  s3Suites(() => present(server, 'versitygw'), 'versitygw', {
    names: 1100,
    listed: 130,
    bodyBytes: [0, 1, 5 * MIB + 1, 70 * MIB],
  })
})
