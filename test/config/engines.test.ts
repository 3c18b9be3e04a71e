import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import type { HdfsSettings } from '../../archive/hdfs/settings.js'
import type { S3Settings } from '../../archive/s3/settings.js'
import { ENGINE_SETTINGS, ENGINES } from '../../src/config/engine-settings.js'
import { parseEnvironment } from '../../src/config/env.js'
import { parseConfig } from '../../src/config/file.js'
import { resolveConfig } from '../../src/config/resolve.js'
import { camelKey } from '../../src/config/schema.js'
import { isStratalogError } from '../../src/model/errors.js'
import { archiveSettings, settingsBeside } from '../../src/open/archive-settings.js'
import { openArchive, openLog } from '../../src/open.js'

const FILE = 'stratalog.yaml'
const file = (...lines: string[]) => parseConfig(['version: 1', ...lines].join('\n'), FILE)

/** The message with which something is refused. */
function refused(work: () => unknown): string {
  try {
    work()
  } catch (error) {
    assert.ok(isStratalogError(error), String(error))
    return error.message
  }
  throw new Error('it was taken')
}

const WHOLE = [
  's3:',
  '  endpoint: https://s3.example.org',
  '  region: eu-1',
  '  path-style: true',
  '  profile: archive',
  '  sse: kms',
  '  kms-key: alias/a',
  '  ca-file: ./ca.pem',
  '  put-max: 8 MiB',
  '  idle-timeout: 5s',
  '  concurrency: 4',
  'hdfs:',
  '  namenodes: [nn2.example.org:9870]',
  '  user: strata',
  '  token-file: /etc/token',
  '  allowed-hosts: ["*.example.org", 10.2.0.0/16]',
  '  replication: 2',
  '  block-size: 64 MiB',
  '  namenode-timeout: 1500ms',
]

describe('sections of engines', () => {
  test('a file says settings with units, and engines get bytes, milliseconds and absolute files', () => {
    const config = resolveConfig({ file: file(...WHOLE) })
    assert.deepEqual(archiveSettings('/etc/strata', config), {
      s3: {
        endpoint: 'https://s3.example.org',
        region: 'eu-1',
        pathStyle: true,
        profile: 'archive',
        sse: 'kms',
        kmsKey: 'alias/a',
        caFile: '/etc/strata/ca.pem',
        putMaxBytes: 8 * 2 ** 20,
        idleTimeoutMs: 5_000,
        concurrency: 4,
      },
      hdfs: {
        namenodes: ['nn2.example.org:9870'],
        user: 'strata',
        tokenFile: '/etc/token',
        allowedHosts: ['*.example.org', '10.2.0.0/16'],
        replication: 2,
        blockSizeBytes: 64 * 2 ** 20,
        namenodeTimeoutMs: 1_500,
      },
    })
    assert.equal(config.engines.s3.region?.origin, 'stratalog.yaml:4')
  })

  test('each setting comes from the nearest place that says it: code, environment, file', () => {
    const env = parseEnvironment(
      {
        STRATALOG_S3__REGION: 'env-1',
        STRATALOG_S3__PATH_STYLE: 'false',
        STRATALOG_S3__CONCURRENCY: '9',
        STRATALOG_HDFS__NAMENODES: 'a:9870, b:9870',
        STRATALOG_HDFS__CA_FILE: 'ca.pem',
      },
      ':',
    )
    const code = { s3: { concurrency: 2, putMaxBytes: 5 } }
    const config = resolveConfig({ file: file(...WHOLE), env, code })
    const { s3, hdfs } = config.engines
    const said = (one: { value: unknown; origin: string } | undefined) => [one?.value, one?.origin]
    assert.deepEqual(said(s3.endpoint), ['https://s3.example.org', 'stratalog.yaml:3'])
    assert.deepEqual(said(s3.region), ['env-1', 'env STRATALOG_S3__REGION'])
    assert.deepEqual(said(s3.pathStyle), [false, 'env STRATALOG_S3__PATH_STYLE'])
    assert.deepEqual(said(s3.concurrency), [2, 'code'])
    assert.deepEqual(said(s3.putMaxBytes), [5, 'code'])
    assert.deepEqual(said(hdfs.namenodes), [['a:9870', 'b:9870'], 'env STRATALOG_HDFS__NAMENODES'])
    assert.equal(archiveSettings('/x', config).hdfs?.caFile, join(process.cwd(), 'ca.pem'))
  })

  test('a credential is refused where it is written, with where it belongs, and never repeated', () => {
    const tries: [string[], RegExp][] = [
      [['s3:', '  access-key: AKSECRET'], /:3: unknown key "access-key": .*AWS_PROFILE/],
      [
        ['s3:', '  secret_access_key: AKSECRET'],
        /:3: unknown key "secret_access_key": .*AWS_SECRET_ACCESS_KEY/,
      ],
      [['s3: { aws-session-token: AKSECRET }'], /credential chain of the SDK/],
      [['hdfs:', '  token: AKSECRET'], /"token": .*"token-file"/],
      [['hdfs: { password: AKSECRET }'], /"token-file"/],
      [
        ['s3: { endpoint: "https://me:AKSECRET@host" }'],
        /s3\.endpoint: credentials do not belong in an address/,
      ],
      [['s3: { proxy: "http://AKSECRET@host:1" }'], /s3\.proxy: credentials/],
      [['archive: "s3://me:AKSECRET@bucket/p"'], /archive: credentials/],
      [['archive: s3://AKSECRET@bucket/p'], /archive: credentials/],
    ]
    for (const [lines, expected] of tries) {
      const message = refused(() => file(...lines))
      assert.match(message, expected)
      assert.doesNotMatch(message, /AKSECRET/)
    }
    const inCode = refused(() => resolveConfig({ code: { s3: { accessKeyId: 'AKSECRET' } } }))
    assert.match(inCode, /unknown key "accessKeyId": .*AWS_PROFILE/)
    assert.doesNotMatch(inCode, /AKSECRET/)
  })

  test('an address with credentials opens nothing, and is not repeated', async () => {
    for (const location of ['s3://me:AKSECRET@b/p', 's3://AKSECRET@b', 'hdfs://me:AKSECRET@nn:9870/x']) {
      await assert.rejects(openArchive(location), (error: unknown) => {
        assert.ok(isStratalogError(error, 'config_invalid'), String(error))
        assert.doesNotMatch(`${error.message} ${JSON.stringify(error)}`, /AKSECRET/)
        return true
      })
    }
    await assert.rejects(openArchive('gs://bucket'), /write s3:\/\/bucket\/prefix, hdfs:/)
  })

  test('what does not fit is refused with its line and what was meant', () => {
    assert.match(
      refused(() => file('s3: { endpont: x }')),
      /unknown key "endpont": did you mean "endpoint"/,
    )
    assert.match(
      refused(() => file('s3:', '  put-max: many')),
      /:3: s3\.put-max: "many" is not a size/,
    )
    assert.match(
      refused(() => file('s3: { path-style: yes please }')),
      /s3\.path-style: .*true or false/,
    )
    assert.match(
      refused(() => file('s3: { sse: aes }')),
      /one of s3, kms, customer/,
    )
    assert.match(
      refused(() => file('hdfs: { namenodes: nn2 }')),
      /a list of hosts/,
    )
    assert.match(
      refused(() => file('hdfs: { replication: 0 }')),
      /at least 1/,
    )
    assert.match(
      refused(() => file('hdsf: {}')),
      /did you mean "hdfs"/,
    )
    assert.match(
      refused(() => parseEnvironment({ STRATALOG_S3__REGIN: 'x' }, ':')),
      /did you mean "STRATALOG_S3__REGION"/,
    )
    assert.match(
      refused(() => parseEnvironment({ STRATALOG_S3__PATH_STYLE: 'yes' }, ':')),
      /true or false/,
    )
    assert.match(
      refused(() => resolveConfig({ code: { s3: { putMaxBytes: '1 MiB' } } })),
      /number of bytes/,
    )
    assert.match(
      refused(() => file('defaults: { storage: { class: DEEP_ARCHIVE } }')),
      /read back.*lifecycle/,
    )
  })

  test('openLog takes them and refuses what is none before anything is opened', async () => {
    const root = mkdtempSync(join(tmpdir(), 'stratalog-engines-'))
    try {
      const options = { config: 'none', control: 'off', tiering: 'off' } as const
      const wrong = { ...options, s3: { secretAccessKey: 'AKSECRET' } as unknown as S3Settings }
      await assert.rejects(openLog(join(root, 'log'), wrong), /s3.*AWS_PROFILE|AWS_PROFILE/)
      await (
        await openLog(join(root, 'log'), { ...options, s3: { region: 'eu-1' } as unknown as S3Settings })
      ).close()
    } finally {
      rmSync(root, { recursive: true, force: true })
    }
  })

  test('an archive by itself is reached by the file that is named', async () => {
    const root = mkdtempSync(join(tmpdir(), 'stratalog-engines-'))
    try {
      writeFileSync(join(root, 'x.yaml'), 'version: 1\ns3: { ca-file: ca.pem }\n')
      const { s3 } = await settingsBeside(join(root, 'x.yaml'))
      assert.deepEqual(s3, { caFile: join(root, 'ca.pem') })
      await assert.rejects(settingsBeside(join(root, 'y.yaml')), { code: 'config_invalid' })
    } finally {
      rmSync(root, { recursive: true, force: true })
    }
  })

  test('every setting an engine has can be configured, and no other', () => {
    const s3: Record<keyof S3Settings, true> = {
      endpoint: true,
      region: true,
      pathStyle: true,
      profile: true,
      sse: true,
      kmsKey: true,
      customerKeyFile: true,
      caFile: true,
      proxy: true,
      putMaxBytes: true,
      partBytes: true,
      bufferBytesMax: true,
      concurrency: true,
      idleTimeoutMs: true,
      totalTimeoutMs: true,
      allowLinkLocal: true,
      thawTier: true,
    }
    const hdfs: Record<keyof HdfsSettings, true> = {
      namenodes: true,
      user: true,
      tokenFile: true,
      https: true,
      caFile: true,
      allowedHosts: true,
      gateway: true,
      replication: true,
      blockSizeBytes: true,
      concurrency: true,
      namenodeTimeoutMs: true,
      readTimeoutMs: true,
      writeTimeoutMs: true,
      totalTimeoutMs: true,
    }
    const fields = (engine: 's3' | 'hdfs') => Object.values(ENGINE_SETTINGS[engine]).map(({ field }) => field)
    assert.deepEqual(fields('s3').sort(), Object.keys(s3).sort())
    assert.deepEqual(fields('hdfs').sort(), Object.keys(hdfs).sort())
  })

  test('keys and fields are named alike, and no two mean the same', () => {
    for (const engine of ENGINES) {
      const fields = Object.values(ENGINE_SETTINGS[engine]).map(({ field }) => field)
      assert.equal(new Set(fields).size, fields.length)
      for (const [key, { field }] of Object.entries(ENGINE_SETTINGS[engine])) {
        const name = camelKey(key)
        assert.ok(field.startsWith(name) || key === 'buffers', `${engine}.${key} is ${field}`)
      }
    }
  })
})
