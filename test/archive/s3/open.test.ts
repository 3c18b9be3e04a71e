import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import { type AddressInfo, connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, beforeEach, describe, test } from 'node:test'
import { s3Archive } from '../../../archive/s3/engine.js'
import { isLinkLocal } from '../../../archive/s3/network.js'
import { type S3Settings, s3Place } from '../../../archive/s3/settings.js'
import { crc32c } from '../../../src/format/checksum.js'
import { type ErrorCode, isStratalogError, type StratalogError } from '../../../src/model/errors.js'
import type { ReplayableBody } from '../../../src/ports/archive-store.js'
import { FakeS3, refuse } from './fake-s3.js'

let fake: FakeS3
const started: FakeS3[] = []
beforeEach(async () => {
  fake = await new FakeS3().start()
  started.push(fake)
})
after(() => Promise.all(started.map((one) => one.stop())))

const small: ReplayableBody = {
  sizeBytes: 5,
  async *open() {
    yield Buffer.from('bytes')
  },
}

async function fails(work: () => Promise<unknown>, code: ErrorCode): Promise<StratalogError> {
  try {
    await work()
  } catch (error) {
    assert.ok(isStratalogError(error), String(error))
    assert.equal(error.code, code, error.message)
    return error
  }
  assert.fail('it succeeded')
}

const writes = () => fake.asked.filter(({ method }) => method !== 'GET' && method !== 'HEAD')

describe('opening an archive in S3', () => {
  test('tries what the store does, notes it, and does not try again for a while', async () => {
    // This one takes any checksum, like Ceph 16, and any end of an upload in parts.
    fake.conditionalComplete = false
    const store = await fake.open()
    assert.deepEqual(store.capabilities, { putIfAbsent: 'native', checksums: [], listFrom: true, thaw: true })
    assert.deepEqual([...fake.objects.keys()].sort(), ['p/.stratalog-archive', 'p/stratalog-archive.json'])
    assert.equal(fake.uploads.size, 0)
    const note = JSON.parse(fake.objects.get('p/.stratalog-archive')?.bytes.toString() ?? '')
    assert.deepEqual(note.abilities, {
      conditionalPut: true,
      conditionalComplete: false,
      crc32c: false,
      crc32cOfWhole: false,
      md5: false,
      startAfter: true,
    })
    await store.close()
    const before = fake.asked.length
    await (await fake.open()).close()
    assert.ok(fake.asked.length - before <= 4, 'marker, and one write that is deleted')
  })

  test('doctor hears what the store does not do, and what follows', async () => {
    const store = await fake.open()
    const findings = (await store.findings?.()) ?? []
    const of = (name: string) => findings.find((one) => one.name === name)
    assert.equal(of('conditional-put')?.state, 'ok')
    assert.equal(of('checksum')?.state, 'without')
    assert.match(of('checksum')?.text ?? '', /read back/)
    assert.equal(of('upload-integrity')?.state, 'without')
  })

  test('at a store that takes keys twice, a taken key is looked for before', async () => {
    fake.seed(['conditionalPut', 'conditionalComplete'])
    const store = await fake.open()
    assert.equal(store.capabilities.putIfAbsent, 'none')
    await store.putIfAbsent('a', small)
    await fails(() => store.putIfAbsent('a', small), 'object_exists')
    const put = fake.asked.find(({ method, key }) => method === 'PUT' && key === 'p/a')
    assert.equal(put?.headers['if-none-match'], undefined)
  })

  test('what was noted at another address is not believed', async () => {
    fake.seed(['crc32c'])
    const note = fake.objects.get('p/.stratalog-archive')?.bytes.toString() ?? ''
    fake.put('p/.stratalog-archive', note.replace(fake.host, 'elsewhere:1'))
    await fake.open()
    assert.match(fake.objects.get('p/.stratalog-archive')?.bytes.toString() ?? '', new RegExp(fake.host))
  })

  test('reading only writes nothing, not even to find out', async () => {
    fake.put('p/stratalog-archive.json', '{"format":1}')
    const store = await fake.open({}, { existing: true, readOnly: true })
    await store.findings?.()
    await fails(() => store.putIfAbsent('a', small), 'refused')
    await fails(() => store.delete('a'), 'refused')
    assert.deepEqual(writes(), [])
  })

  test('one that must exist is never made (invariant 8)', async () => {
    await fails(() => fake.open({}, { existing: true }), 'archive_missing')
    assert.deepEqual(writes(), [])
  })

  test("others' objects are not built upon", async () => {
    fake.put('p/holiday.jpg', 'x')
    const error = await fails(() => fake.open(), 'refused')
    assert.deepEqual(error.found, ['holiday.jpg'])
    assert.deepEqual(writes(), [])
  })

  test('a newer format is refused, a damaged marker named', async () => {
    fake.put('p/stratalog-archive.json', '{"format":2}')
    await fails(() => fake.open(), 'version_unsupported')
    fake.put('p/stratalog-archive.json', '{"form')
    await fails(() => fake.open(), 'corrupt')
  })

  test('a bucket that can not be written is known at once', async () => {
    fake.seed()
    fake.intercept = ({ method }, response) => {
      if (method !== 'PUT') return undefined
      refuse(response, 403, 'AccessDenied')
      return 'done'
    }
    await fails(() => fake.open(), 'access_denied')
  })

  test('without its marker nothing is missing: the archive is (invariant 8)', async () => {
    fake.seed()
    const store = await fake.open()
    fake.objects.clear()
    await fails(() => store.head('a'), 'archive_missing')
    await fails(() => store.readRange('a', 0, 1), 'archive_missing')
    await fails(() => store.readRange('a', 0, 0), 'archive_missing')
    await fails(() => store.listFrom('', '', 10), 'archive_missing')
    await fails(async () => store.removeLeftovers?.(), 'archive_missing')
  })

  test('a closed one does nothing, and ends what is under way', async () => {
    fake.seed()
    const store = await fake.open()
    fake.intercept = () => 'done'
    const waiting = fails(() => store.head('a'), 'closed')
    await new Promise((resolve) => setTimeout(resolve, 20))
    await store.close()
    await waiting
    await fails(() => store.head('a'), 'closed')
  })

  test('no store there is an archive that is away', async () => {
    const endpoint = `http://${fake.host}`
    await fake.stop()
    started.pop()
    const error = await fails(() => fake.open({ endpoint }), 'archive_unavailable')
    assert.match(error.message, /ECONNREFUSED/)
    assert.ok(error.retryable)
  })
})

describe('how objects are stored', () => {
  const put = () => fake.asked.findLast(({ method, key }) => method === 'PUT' && key === 'p/a')?.headers ?? {}

  test('with class, tags and key of the policy, and a checksum made before', async () => {
    fake.seed()
    const store = await fake.open()
    const wishes = { storageClass: 'GLACIER_IR', kmsKey: 'alias/audit', tags: { team: 'a&b', 'x y': 'é' } }
    await store.putIfAbsent('a', small, wishes)
    assert.equal(put()['x-amz-storage-class'], 'GLACIER_IR')
    assert.equal(put()['x-amz-tagging'], 'team=a%26b&x%20y=%C3%A9')
    assert.equal(put()['x-amz-server-side-encryption'], 'aws:kms')
    assert.equal(put()['x-amz-server-side-encryption-aws-kms-key-id'], 'alias/audit')
    assert.equal(
      put()['x-amz-checksum-crc32c'],
      Buffer.from(crc32c(Buffer.from('bytes')).toString(16).padStart(8, '0'), 'hex').toString('base64'),
    )
    assert.equal(put()['content-length'], '5')
    assert.equal(put()['x-amz-content-sha256'], 'UNSIGNED-PAYLOAD')
    assert.equal(put()['if-none-match'], '*')
  })

  test('signed byte by byte where the store checks no checksum', async () => {
    fake.seed(['crc32c', 'crc32cOfWhole', 'md5'])
    await (await fake.open()).putIfAbsent('a', small)
    assert.match(String(put()['x-amz-content-sha256']), /^[0-9a-f]{64}$/)
    assert.equal(put()['content-md5'], undefined)
  })

  test('with Content-MD5 where that is what the store checks', async () => {
    fake.seed(['crc32c', 'crc32cOfWhole'])
    await (await fake.open()).putIfAbsent('a', small)
    assert.equal(put()['content-md5'], createHash('md5').update('bytes').digest('base64'))
    assert.equal(put()['x-amz-checksum-crc32c'], undefined)
  })

  test('with a customer key from a file, which every request needs', async () => {
    const directory = await mkdtemp(join(tmpdir(), 'stratalog-s3-'))
    try {
      const customerKeyFile = join(directory, 'key')
      await writeFile(customerKeyFile, `${Buffer.alloc(32, 7).toString('base64')}\n`)
      fake.seed()
      const store = await fake.open({ customerKeyFile })
      await store.putIfAbsent('a', small)
      await store.readRange('a', 0, 5)
      await store.head('a')
      for (const { method, headers } of fake.asked.filter(({ key }) => key === 'p/a')) {
        assert.equal(headers['x-amz-server-side-encryption-customer-algorithm'], 'AES256', method)
        assert.equal(
          headers['x-amz-server-side-encryption-customer-key'],
          Buffer.alloc(32, 7).toString('base64'),
        )
      }
      await writeFile(customerKeyFile, 'short')
      await fails(() => fake.open({ customerKeyFile }), 'config_invalid')
      await fails(() => fake.open({ customerKeyFile: join(directory, 'none') }), 'config_invalid')
    } finally {
      await rm(directory, { recursive: true })
    }
  })
})

describe('a store that does not encrypt', () => {
  beforeEach(() => {
    fake.encrypts = false
    fake.seed()
  })

  test('is refused where the settings ask for it, rather than believed', async () => {
    const error = await fails(() => fake.open({ sse: 's3' }), 'unsupported')
    assert.match(error.message, /did not encrypt it/)
  })

  test('is told of where a policy names a key', async () => {
    const store = await fake.open()
    await store.putIfAbsent('a', small, { kmsKey: 'alias/audit' })
    const found = (await store.findings?.())?.find(({ name }) => name === 'server-encryption')
    assert.equal(found?.state, 'bad')
  })
})

describe('the way to the store', () => {
  test('through a proxy is a tunnel to it', async () => {
    fake.seed()
    const asked: string[] = []
    const proxy = createServer().on('connect', (request, socket) => {
      asked.push(`${request.url} ${request.headers['proxy-authorization']}`)
      const [host = '', port] = (request.url ?? '').split(':')
      const onward = connect(Number(port), host, () => {
        socket.write('HTTP/1.1 200 Connection established\r\n\r\n')
        onward.pipe(socket).pipe(onward)
      })
      socket.on('error', () => onward.destroy())
      onward.on('error', () => socket.destroy())
    })
    await new Promise<void>((resolve) => proxy.listen(0, '127.0.0.1', resolve))
    const port = (proxy.address() as AddressInfo).port
    try {
      const store = await fake.open({ proxy: `http://me:pass@127.0.0.1:${port}` })
      await store.putIfAbsent('a', small)
      assert.equal(asked[0], `${fake.host} Basic ${Buffer.from('me:pass').toString('base64')}`)
      await store.close()
      proxy.removeAllListeners('connect')
      proxy.on('connect', (_, socket) => socket.end('HTTP/1.1 407 Proxy Authentication Required\r\n\r\n'))
      const error = await fails(
        () => fake.open({ proxy: `http://me:pass@127.0.0.1:${port}` }),
        'archive_unavailable',
      )
      assert.match(error.message, /made no tunnel to .*: answered 407/)
      assert.doesNotMatch(JSON.stringify([error, error.cause]), /pass@|bWU6cGFzcw/)
    } finally {
      proxy.closeAllConnections()
      proxy.close()
    }
  })

  test('never leads to a link-local address, unless it is allowed', async () => {
    for (const address of [
      '169.254.169.254',
      '::ffff:169.254.169.254',
      '[fe80::1]',
      'fe80::1%eth0',
      'febf::1',
      'fd00:ec2::254',
      '[fd20:ce::254]',
    ])
      assert.ok(isLinkLocal(address), address)
    for (const address of ['169.253.1.1', '127.0.0.1', '::1', 'fec0::1', 'example.org'])
      assert.ok(!isLinkLocal(address), address)
    // The last ones are how an address hides from who looks at the text.
    for (const host of ['169.254.169.254', '[fe80::1]', '2852039166', '0xa9.254.169.254']) {
      const error = await fails(() => fake.open({ endpoint: `http://${host}/` }), 'refused')
      assert.match(error.message, /allowLinkLocal/)
    }
  })
})

describe('location and settings', () => {
  const place = (location: string, settings: S3Settings = {}, environment = {}) =>
    s3Place(location, settings, environment)

  test('are filled with defaults', () => {
    const aws = place('s3://acme-logs/prod/')
    assert.equal(aws.location, 's3://acme-logs/prod')
    assert.equal(aws.base, 'prod/')
    assert.equal(aws.pathStyle, false)
    assert.equal(aws.region, null, 'the SDK finds it')
    assert.equal(aws.bufferBytesMax, 2 * aws.putMaxBytes)
    const own = place('s3://acme-logs', { endpoint: 'https://s3.example.org:9000' })
    assert.equal(own.base, '')
    assert.equal(own.pathStyle, true)
    assert.equal(own.region, 'us-east-1')
    assert.equal(place('s3://bbb', { endpoint: 'https://s3.eu-west-1.amazonaws.com' }).pathStyle, false)
    assert.equal(place('s3://bbb', {}, { AWS_ENDPOINT_URL: 'http://x' }).endpoint?.host, 'x')
    assert.equal(place('s3://bbb', { kmsKey: 'k' }).sse, 'kms')
  })

  test('that can not be right are named at once, without what may be secret', () => {
    const wrong: readonly [string, S3Settings][] = [
      ['s3://', {}],
      ['s3:///x', {}],
      ['s3://AK:hidden@bucket/x', {}],
      ['s3://bucket/a//b', {}],
      ['s3://bucket/../b', {}],
      ['s3://bucket/ä', {}],
      ['s3://bucket?x=1', {}],
      ['s3://b', {}],
      ['s3://bucket', { endpoint: 'ftp://x' }],
      ['s3://bucket', { endpoint: 'https://AK:hidden@x' }],
      ['s3://bucket', { endpoint: 'hidden' }],
      ['s3://bucket', { proxy: 'https://me:hidden@x' }],
      ['s3://bucket', { partBytes: 1000 }],
      ['s3://bucket', { putMaxBytes: 1.5 }],
      ['s3://bucket', { concurrency: 0 }],
      ['s3://bucket', { sse: 'customer' }],
      ['s3://bucket', { sse: 's3', kmsKey: 'k' }],
      ['s3://bucket', { kmsKey: 'k', customerKeyFile: 'f' }],
      ['s3://bucket', { sse: 'rot13' as 's3' }],
      ['s3://bucket', { endpont: 'https://x' } as S3Settings],
    ]
    for (const [location, settings] of wrong) {
      assert.throws(
        () => s3Archive(location, settings),
        (error) => isStratalogError(error, 'config_invalid') && !JSON.stringify(error).includes('hidden'),
        `${location} ${JSON.stringify(settings)}`,
      )
    }
  })
})
