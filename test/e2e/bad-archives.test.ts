import assert from 'node:assert/strict'
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { present } from '../../src/model/assert.js'
import { openLog } from '../../src/open.js'
import { silentLogger } from '../../src/system/logger.js'
import { FakeHdfs, fail } from '../archive/hdfs/fake-hdfs.js'
import { finished, type Result, start } from '../helpers/cli.js'
import { FaultProxy, HTML_PAGE, type ProxyFault } from '../helpers/fault-proxy.js'
import { fillSegments } from '../helpers/tiered-log.js'
import { skipWithout } from '../servers/cache.js'
import { S3_ENVIRONMENT, SECRET_KEY } from '../servers/s3.js'
import { startVersitygw, type Versitygw } from '../servers/versitygw.js'

/*
 * What can be wrong with an archive, as whoever uses the command line meets it: it has a name and an exit code that
 * scripts can go by, says what to do, ends in time and tells no secret (DESIGN.md §10).
 */

/** No command may take longer, whatever the archive does. */
const LIMIT_MS = 60_000
const WRONG_SECRET = 'a-secret-that-is-wrong-000000000000000001'
const TOKEN = 'a-token-that-is-nobodys-business'

interface Bad {
  readonly name: string
  /** Environment of the command, beside that of the tests. */
  readonly variables?: Readonly<Record<string, string>>
  readonly from?: string
  /** What every request is answered. */
  readonly fault?: ProxyFault
  readonly code: number
  readonly says: RegExp
}

const answer = (status: number, code: string, more = ''): ProxyFault => ({
  kind: 'answer',
  status,
  headers: { 'content-type': 'application/xml' },
  body: `<?xml version="1.0"?><Error><Code>${code}</Code><Message>${code} was said</Message>${more}</Error>`,
})

const BAD: readonly Bad[] = [
  { name: 'a bucket that is not there', from: 's3://nowhere/x', code: 1, says: /make the bucket nowhere/ },
  {
    name: 'a prefix that is no archive',
    from: 's3://bucket/other',
    code: 1,
    says: /no stratalog-archive\.json: check bucket and prefix/,
  },
  {
    name: 'a wrong secret',
    variables: { AWS_SECRET_ACCESS_KEY: WRONG_SECRET },
    code: 7,
    says: /check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY/,
  },
  {
    name: 'a key that nobody knows',
    variables: { AWS_ACCESS_KEY_ID: 'nobody00000000000001' },
    code: 7,
    says: /check AWS_ACCESS_KEY_ID/,
  },
  {
    name: 'no credentials at all',
    variables: { AWS_ACCESS_KEY_ID: '', AWS_SECRET_ACCESS_KEY: '' },
    code: 7,
    says: /check AWS_ACCESS_KEY_ID/,
  },
  {
    name: 'a wrong region',
    variables: { STRATALOG_S3__REGION: 'eu-west-1' },
    code: 2,
    says: /set region to/,
  },
  {
    name: 'a token that has expired',
    variables: { AWS_SESSION_TOKEN: TOKEN },
    fault: answer(400, 'ExpiredToken'),
    code: 7,
    says: /credentials have expired/,
  },
  {
    name: 'a clock that is wrong',
    fault: answer(403, 'RequestTimeTooSkewed', '<ServerTime>2020-01-01T00:00:00Z</ServerTime>'),
    code: 7,
    says: /this machine's clock is \d+ s ahead of the store's: set it right/,
  },
  {
    name: 'a link-local endpoint',
    variables: { STRATALOG_S3__ENDPOINT: 'http://169.254.169.254' },
    code: 4,
    says: /link-local address.*allowLinkLocal/,
  },
  {
    name: 'the same over IPv6',
    variables: { STRATALOG_S3__ENDPOINT: 'http://[fd00:ec2::254]' },
    code: 4,
    says: /link-local address.*allowLinkLocal/,
  },
  {
    name: 'nobody at that address',
    variables: { STRATALOG_S3__ENDPOINT: 'http://127.0.0.1:1' },
    code: 1,
    says: /check the endpoint/,
  },
  {
    name: 'a page in the place of the store',
    fault: HTML_PAGE,
    code: 1,
    says: /proxy or a login page/,
  },
  {
    name: 'a store that says nothing',
    variables: { STRATALOG_S3__IDLE_TIMEOUT: '300ms', STRATALOG_S3__TOTAL_TIMEOUT: '500ms' },
    fault: { kind: 'stall', at: 'response' },
    code: 1,
    says: /check the store/,
  },
]

describe('bad archives on the command line', { skip: await skipWithout('versitygw') }, () => {
  let started: Versitygw | undefined
  let root = ''
  const server = (): Versitygw => present(started, 'versitygw')
  const kept = { ...process.env }

  before(async () => {
    Object.assign(process.env, S3_ENVIRONMENT)
    started = await startVersitygw()
    root = mkdtempSync(join(tmpdir(), 'stratalog-bad-'))
    await server().makeBucket('bucket')
    await using log = await openLog(join(root, 'log'), {
      archive: 's3://bucket/log',
      s3: { endpoint: server().endpoint },
      tiering: 'off',
      control: 'off',
      config: 'none',
      storeFileBytes: 4 * 2 ** 20,
      defaults: { hot: { for: 0 }, evict: { lag: 0 } },
      system: { logger: silentLogger() },
    })
    await fillSegments(log, 'a', 2)
    await log.tier.run()
  })
  after(async () => {
    for (const name of Object.keys(S3_ENVIRONMENT)) delete process.env[name]
    Object.assign(process.env, kept)
    await started?.close()
    rmSync(root, { recursive: true, force: true })
  })

  async function cli(args: readonly string[], variables: Readonly<Record<string, string>>): Promise<Result> {
    const child = start(args, root, { ...S3_ENVIRONMENT, ...variables })
    const timer = setTimeout(() => child.kill('SIGKILL'), LIMIT_MS)
    try {
      const result = await finished(child)
      assert.notEqual(result.code, null, `it did not end in time: ${result.err}`)
      for (const secret of [WRONG_SECRET, SECRET_KEY, TOKEN])
        assert.ok(!`${result.out}${result.err}`.includes(secret), 'a secret is told')
      assert.doesNotMatch(result.err, /\n +at /, 'a stack is of no use to anybody')
      return result
    } finally {
      clearTimeout(timer)
    }
  }

  describe('when they are opened', { concurrency: 3 }, () => {
    for (const { name, variables = {}, from = 's3://bucket/log', fault, code, says } of BAD) {
      test(`${name}: exits with ${code} and says what to do`, async () => {
        const proxy = await FaultProxy.start(server().endpoint)
        try {
          if (fault !== undefined) proxy.inject({ times: Number.POSITIVE_INFINITY }, fault)
          const endpoint = fault === undefined ? server().endpoint : proxy.url
          const command = ['archive', 'ls', '--from', from]
          const { code: found, err } = await cli(command, { STRATALOG_S3__ENDPOINT: endpoint, ...variables })
          assert.match(err, says)
          assert.equal(found, code, err)
        } finally {
          await proxy.close()
        }
      })
    }
  })

  describe('when what lies in them is not what was stored', () => {
    const objects = (): string[] =>
      readdirSync(server().root, { recursive: true, encoding: 'utf8' })
        .filter((name) => /\/s[0-9a-v]{13}-/.test(name))
        .map((name) => join(server().root, name))
        .sort()
    const CHANGES: readonly (readonly [name: string, change: (bytes: Buffer, other: Buffer) => Buffer])[] = [
      ['truncated', (bytes) => bytes.subarray(0, bytes.length - 7)],
      ['swapped with another', (_, other) => other],
      ['replaced by a page', () => Buffer.from('<html><body>Not here</body></html>')],
      ['empty', () => Buffer.alloc(0)],
      // The version is in the first bytes behind the magic.
      [
        'of another version',
        (bytes) => Buffer.concat([bytes.subarray(0, 8), Buffer.from([0xff, 0xff]), bytes.subarray(10)]),
      ],
    ]
    for (const [what, change] of CHANGES) {
      test(`an object that is ${what} is found, and costs no other`, async () => {
        const [first = '', second = ''] = objects()
        const whole = readFileSync(first)
        writeFileSync(first, change(whole, readFileSync(second)))
        const variables = { STRATALOG_S3__ENDPOINT: server().endpoint }
        try {
          const from = ['--from', 's3://bucket/log']
          const found = await cli(['archive', 'verify', '--deep', ...from], variables)
          assert.equal(found.code, 6, found.out + found.err)
          assert.match(found.out, /^\w+ +a seg 1\b/m)
          assert.doesNotMatch(found.out, /a seg 2\b/)
          const read = await cli(['--attach', 's3://bucket/log', 'read', 'a'], variables)
          // Never passed over in silence: either it is not needed for what is read, or it is named.
          if (read.code === 0) assert.match(read.out, /a 0\b.*a 9\b.*a 19\b/s)
          else assert.match(read.err, /seg|object|s0000/)
        } finally {
          writeFileSync(first, whole)
        }
      })
    }

    test('a marker of another version is refused, and says what to do', async () => {
      const marker = join(server().root, 'bucket', 'log', 'stratalog-archive.json')
      const whole = readFileSync(marker)
      writeFileSync(marker, '{"format":2}')
      try {
        const variables = { STRATALOG_S3__ENDPOINT: server().endpoint }
        const found = await cli(['archive', 'ls', '--from', 's3://bucket/log'], variables)
        assert.notEqual(found.code, 0)
        assert.match(found.err, /format 2; this stratalog reads 1: use a newer one/)
      } finally {
        writeFileSync(marker, whole)
      }
    })
  })

  test('a redirect of HDFS to another network is refused before anything is sent there', async () => {
    const fake = await FakeHdfs.start()
    const from = `hdfs://${fake.host}/archive`
    try {
      fake.files.set('/archive', { fileId: 7, bytes: null })
      fake.files.set('/archive/stratalog-archive.json', { fileId: 8, bytes: Buffer.from('{"format":1}\n') })
      fake.redirectHost = '169.254.169.254'
      const found = await cli(['archive', 'ls', '--from', from], {})
      assert.match(found.err, /169\.254\.169\.254.*allowedHosts/s)
      assert.equal(found.code, 7, found.err)
      fake.redirectHost = null
      fake.twist = (_, response) => {
        fail(response, 401, 'AuthenticationException', `token ${TOKEN} expired`)
        return true
      }
      const token = join(root, 'token')
      writeFileSync(token, TOKEN)
      const expired = await cli(['archive', 'ls', '--from', from], { STRATALOG_HDFS__TOKEN_FILE: token })
      assert.match(expired.err, /delegation token expired/)
      assert.equal(expired.code, 7, expired.err)
    } finally {
      await fake.close()
    }
  })
})
