import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { HdfsChecksum, md5Told } from '../../../archive/hdfs/checksum.js'
import { RedirectRule } from '../../../archive/hdfs/hosts.js'
import { type HdfsSettings, hdfsPlace } from '../../../archive/hdfs/settings.js'
import { isStratalogError } from '../../../src/model/errors.js'
import { someBytes } from './fake-hdfs.js'

const SIZE = 2_500_001

describe('the checksum of HDFS', () => {
  // What Hadoop 3.4.3 answered for these bytes.
  const told = [
    [
      1024 * 1024,
      'MD5-of-2048MD5-of-512CRC32C',
      '000002000000000000000800deffe04185be0ba0c88659017ce4011a00000000',
    ],
    [
      128 * 1024 * 1024,
      'MD5-of-0MD5-of-512CRC32C',
      '00000200000000000000000097f96b8ff9f3ced0fec0ee5b318cb8a700000000',
    ],
  ] as const

  test('is computed as it tells it, however the bytes come', () => {
    const data = someBytes(SIZE)
    for (const [blockBytes, algorithm, bytes] of told) {
      const expected = md5Told({ FileChecksum: { algorithm, bytes, length: 28 } })
      fc.assert(
        fc.property(fc.array(fc.integer({ min: 1, max: 700_000 }), { maxLength: 20 }), (pieces) => {
          const checksum = new HdfsChecksum(blockBytes)
          let at = 0
          for (const piece of pieces) {
            checksum.update(data.subarray(at, at + piece))
            at = Math.min(at + piece, SIZE)
          }
          checksum.update(data.subarray(at))
          assert.equal(checksum.sizeBytes, SIZE)
          assert.equal(checksum.md5(), expected)
        }),
        { numRuns: 15 },
      )
    }
  })

  test('of another kind is none to compare with', () => {
    for (const algorithm of [
      'COMPOSITE-CRC32C',
      'MD5-of-0MD5-of-512CRC32',
      'MD5-of-0MD5-of-1024CRC32C',
      null,
    ]) {
      assert.equal(md5Told({ FileChecksum: { algorithm, bytes: '00'.repeat(32) } }), null)
    }
    assert.equal(md5Told(null), null)
    assert.equal(md5Told({}), null)
  })
})

describe('redirects', () => {
  const leads = (location: string, to: string, peer: string, settings: HdfsSettings = {}): boolean => {
    const scheme = settings.https === true ? 'https' : 'http'
    const rule = new RedirectRule(hdfsPlace(location, settings))
    try {
      rule.check(
        to.includes('://') ? to : `${scheme}://${to}/webhdfs/v1/a?op=OPEN`,
        peer,
        new URL(`${scheme}://x`),
      )
      return true
    } catch {
      return false
    }
  }

  test('stay in the domain and the network of the NameNode', () => {
    const named = 'hdfs://nn1.hdfs.example.com/a'
    const allowed = [
      'nn1.hdfs.example.com:9864',
      'dn7.hdfs.example.com:9864',
      'a.b.hdfs.example.com',
      '10.2.9.9:9864',
    ]
    for (const to of allowed) assert.ok(leads(named, to, '10.2.3.4'), to)
    const refused = [
      'dn.example.com',
      'evilhdfs.example.com',
      'localhost',
      '127.0.0.1',
      '10.3.0.1',
      '169.254.169.254',
      '[::1]',
    ]
    for (const to of refused) assert.ok(!leads(named, to, '10.2.3.4'), to)
    assert.ok(leads('hdfs://127.0.0.1/a', '127.0.0.1:19511', '127.0.0.1'))
    assert.ok(leads('hdfs://127.0.0.1/a', 'localhost:9864', '127.0.0.1'))
    assert.ok(leads('hdfs://[::1]/a', 'localhost:9864', '::1'))
    assert.ok(leads('hdfs://namenode/a', 'datanode2:9864', '172.18.0.2'))
    assert.ok(!leads('hdfs://namenode/a', 'localhost:9864', '172.18.0.2'))
    assert.ok(!leads('hdfs://169.254.1.1/a', '169.254.169.254', '169.254.1.1'))
    assert.ok(!leads('hdfs://nn.example.com/a', 'dn.other.com', '1.2.3.4'))
    assert.ok(leads('hdfs://nn.example.com/a', '1.2.3.9:9864', '::ffff:1.2.3.4'))
    assert.ok(!leads('hdfs://nn.example.com/a', '1.2.4.9:9864', '1.2.3.4'))
  })

  test('allowedHosts take the place of that, and HTTPS is not left', () => {
    const allowedHosts = ['*.dn.example.com', '10.9.0.0/16', '169.254.7.7']
    const at = (to: string) => leads('hdfs://nn.example.com/a', to, '10.2.3.4', { allowedHosts })
    for (const to of ['x.dn.example.com', '10.9.1.1', '169.254.7.7', 'nn.example.com']) assert.ok(at(to), to)
    for (const to of ['dn7.example.com', '10.2.3.5', '10.10.1.1']) assert.ok(!at(to), to)
    const tls = { https: true }
    assert.ok(leads('hdfs://nn.example.com/a', 'dn.example.com:9865', '10.2.3.4', tls))
    assert.ok(!leads('hdfs://nn.example.com/a', 'http://dn.example.com/webhdfs/v1/a', '10.2.3.4', tls))
    assert.ok(!leads('hdfs://nn.example.com/a', 'http://nn.example.com/admin', '10.2.3.4'))
    assert.ok(!leads('hdfs://nn.example.com/a', 'http://u:p@nn.example.com/webhdfs/v1/a', '10.2.3.4'))
  })
})

describe('a location', () => {
  test('names one NameNode or a pair, with the usual ports', () => {
    assert.deepEqual(hdfsPlace('hdfs://NN1,nn2:50070//a/b/', {}).namenodes, [
      { host: 'nn1', port: 9870 },
      { host: 'nn2', port: 50_070 },
    ])
    assert.equal(hdfsPlace('hdfs://nn1/a/b/', {}).root, '/a/b')
    assert.equal(hdfsPlace('hdfs://nn1', { https: true }).namenodes[0]?.port, 9871)
    assert.equal(hdfsPlace('hdfs://[::1]:14000/a', { gateway: true }).namenodes[0]?.host, '::1')
  })

  test('that is none is refused without its secrets', () => {
    const wrong = [
      'hdfs:///a',
      's3://a',
      'hdfs://nn:0/a',
      'hdfs://n n/a',
      'hdfs://nn/a/../b',
      'hdfs://nn/a:b',
      'hdfs://u:pw@nn/a',
    ]
    for (const location of wrong) {
      const refused = (error: unknown) =>
        isStratalogError(error, 'config_invalid') && !error.message.includes('pw')
      assert.throws(() => hdfsPlace(location, {}), refused, location)
    }
    for (const settings of [{ blockSizeBytes: 1000 }, { replication: 0 }, { concurrency: 1.5 }]) {
      assert.throws(() => hdfsPlace('hdfs://nn/a', settings), /must be a/)
    }
  })
})
