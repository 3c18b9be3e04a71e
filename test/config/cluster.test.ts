import assert from 'node:assert/strict'
import process from 'node:process'
import { describe, test } from 'node:test'
import { parseEnvironment } from '../../src/config/env.js'
import { parseConfig } from '../../src/config/file.js'
import { resolveConfig } from '../../src/config/resolve.js'
import { isStratalogError } from '../../src/model/errors.js'
import { engineSettings } from '../../src/open/archive-settings.js'
import { clusterPlace, ledgersSettings } from '../../src/open/cluster-place.js'
import { configSource } from '../../src/open/configuration.js'

const file = (...lines: string[]) => parseConfig(['version: 1', ...lines].join('\n'), 'stratalog.yaml')
const CLUSTER = ['metadata: zk://zk1:2181,zk2:2181/messaging/app', 'stores: bookkeeper']

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

describe('the configuration of a cluster', () => {
  test('a file names the namespace, the bookies and how they are talked to', () => {
    const config = resolveConfig({
      file: file(
        ...CLUSTER,
        'zookeeper: { session-timeout: 6s, auth-file: zk.auth }',
        'bookkeeper: { add-timeout: 750ms, in-flight: 16 MiB, tls: true, ca-file: /etc/ca.pem }',
      ),
    })
    assert.equal(config.metadata.value, 'zk://zk1:2181,zk2:2181/messaging/app')
    assert.equal(config.stores.value, 'bookkeeper')
    assert.deepEqual(engineSettings('/srv/log', config, 'zookeeper'), {
      sessionTimeoutMs: 6_000,
      authFile: '/srv/log/zk.auth',
    })
    assert.deepEqual(engineSettings('/srv/log', config, 'bookkeeper'), {
      addTimeoutMs: 750,
      inFlightBytesMax: 16 * 2 ** 20,
      tls: true,
      caFile: '/etc/ca.pem',
    })
  })

  test('the environment and code say the same', () => {
    const env = parseEnvironment(
      {
        STRATALOG_METADATA: 'zk://zk1/ns',
        STRATALOG_STORES: 'bookkeeper',
        STRATALOG_ZOOKEEPER__SESSION_TIMEOUT: '4s',
        STRATALOG_ZOOKEEPER_AUTH: 'user:secret',
      },
      ':',
    )
    const config = resolveConfig({ env, code: { bookkeeper: { addTimeoutMs: 100 } } })
    assert.equal(config.metadata.value, 'zk://zk1/ns')
    assert.equal(config.stores.value, 'bookkeeper')
    assert.equal(config.engines.zookeeper.sessionTimeoutMs?.value, 4_000)
    assert.equal(config.engines.bookkeeper.addTimeoutMs?.value, 100)
    assert.doesNotMatch(JSON.stringify(config), /secret/)
  })

  test('credentials, other schemes and unknown keys are refused where they stand', () => {
    assert.match(
      refused(() => file('metadata: zk://user:secret@zk1/ns', 'stores: bookkeeper')),
      /:2: metadata: .* is not a namespace in ZooKeeper: write zk:\/\/host:2181\/path, without credentials/,
    )
    assert.match(
      refused(() => file('metadata: zk://zk1', 'stores: bookkeeper')),
      /is not a namespace/,
    )
    assert.match(
      refused(() => file(...CLUSTER, 'zookeeper: { password: secret }')),
      /unknown key "password": credentials do not belong in a configuration: .* "auth-file"/,
    )
    assert.match(
      refused(() => file('stores: bookeeper')),
      /"bookeeper" is not a list of different directories, .* or bookkeeper/,
    )
  })

  test('a login goes to servers that the configuration names, not to those that a node names', async () => {
    const config = (loginServers?: string) =>
      resolveConfig({
        env: parseEnvironment(
          { STRATALOG_METADATA: 'zk://zk1,zk2:2181/ns', STRATALOG_STORES: 'bookkeeper' },
          ':',
        ),
        code: { zookeeper: loginServers === undefined ? {} : { loginServers } },
      })
    const place = clusterPlace('zk://zk1,zk2:2181/ns')
    const settings = (servers: string, loginServers?: string) =>
      ledgersSettings('/srv/log', config(loginServers), place, servers)
    // Without a login there is nothing to keep.
    assert.deepEqual((await settings('other:2181'))?.servers, ['other:2181'])
    process.env.STRATALOG_ZOOKEEPER_AUTH = 'user:secret'
    try {
      assert.equal(await settings('ZK2;zk1:2181'), null)
      assert.equal((await settings('zk1:2181'))?.auth?.user, 'user')
      await assert.rejects(
        settings('zk1:2181,thief:9'),
        (error) =>
          isStratalogError(error, 'config_invalid') &&
          /if thief:9 is right, add zookeeper: \{ login-servers: "zk1:2181,thief:9" \}/.test(error.message) &&
          !error.message.includes('secret'),
      )
      assert.equal((await settings('zk1;books', 'books:2181, books2'))?.auth?.password, 'secret')
    } finally {
      delete process.env.STRATALOG_ZOOKEEPER_AUTH
    }
  })

  test('half a cluster is refused: local stores belong to one process', () => {
    const source = (options: object) => configSource('/tmp', { config: 'none', ...options })
    assert.match(
      refused(() => source({ stores: 'bookkeeper' }).resolve(null)),
      /needs the namespace of its cluster: add metadata: zk:/,
    )
    assert.match(
      refused(() => source({ metadata: 'zk://zk1/ns' }).resolve(null)),
      /goes with the bookies of that cluster: add stores: bookkeeper/,
    )
    source({ metadata: 'zk://zk1/ns', stores: 'bookkeeper' }).resolve(null)
  })
})
