// The layers of ARCHITECTURE.md, checked: imports go downwards only, type imports included.
const only = (name, from, to) => ({
  name,
  severity: 'error',
  from: { path: from },
  to: {
    pathNot: [...to, 'node_modules', '^node:'],
    dependencyTypesNot: ['core', 'npm', 'npm-dev', 'npm-optional'],
  },
})
const fromOneFolder = (module, folder) => ({
  name: `only-${folder.replace(/[^a-z0-9]+/g, '-')}-imports-${module.replace(/[^a-z0-9]+/g, '-')}`,
  severity: 'error',
  from: { pathNot: `^${folder}` },
  to: { path: `node_modules/${module}/` },
})

const MODEL = '^src/model/'
const PORTS = '^src/ports/'
const FORMAT = '^src/format/'

module.exports = {
  forbidden: [
    { name: 'no-cycles', severity: 'error', from: {}, to: { circular: true } },
    { name: 'no-unresolved', severity: 'error', from: {}, to: { couldNotResolve: true } },
    only('model-imports-nothing', MODEL, [MODEL]),
    only('format-sees-model', FORMAT, [FORMAT, MODEL]),
    only('ports-see-model-and-format', PORTS, [PORTS, FORMAT, MODEL]),
    only('ledger-sees-ports', '^src/ledger/', ['^src/ledger/', PORTS, FORMAT, MODEL]),
    only('append-sees-ledger', '^src/append/', ['^src/append/', '^src/ledger/', PORTS, FORMAT, MODEL]),
    only('read-sees-ledger-and-archive', '^src/read/', [
      '^src/read/',
      '^src/ledger/',
      '^archive/[^/]+\\.ts$',
      PORTS,
      FORMAT,
      MODEL,
    ]),
    only('archive-sees-ports', '^archive/[^/]+\\.ts$', ['^archive/[^/]+\\.ts$', PORTS, FORMAT, MODEL]),
    only('tiering-sees-ledger-and-archive', '^tiering/', [
      '^tiering/',
      '^src/ledger/',
      '^archive/[^/]+\\.ts$',
      PORTS,
      FORMAT,
      MODEL,
    ]),
    only('stores-see-tiering-and-rebuild', '^src/stores/', [
      '^src/(stores|rebuild|ledger|store)/',
      '^src/options\\.ts$',
      '^tiering/',
      PORTS,
      FORMAT,
      MODEL,
    ]),
    only('rebuild-sees-append-and-archive', '^src/rebuild/', [
      '^src/rebuild/',
      '^src/append/',
      '^src/ledger/',
      '^archive/[^/]+\\.ts$',
      PORTS,
      FORMAT,
      MODEL,
    ]),
    only('engine-directory', '^archive/directory/', [
      '^archive/directory/',
      '^archive/engine/',
      PORTS,
      FORMAT,
      MODEL,
    ]),
    only('engines-share-archive-engine', '^archive/engine/', ['^archive/engine/', PORTS, FORMAT, MODEL]),
    only('engine-s3', '^archive/s3/', ['^archive/s3/', '^archive/engine/', PORTS, FORMAT, MODEL]),
    only('engine-hdfs', '^archive/hdfs/', ['^archive/hdfs/', '^archive/engine/', PORTS, FORMAT, MODEL]),
    only('engine-local-store', '^src/store/local/', ['^src/store/local/', PORTS, FORMAT, MODEL]),
    only('zookeeper-sees-ports', '^src/zookeeper/', ['^src/zookeeper/', PORTS, FORMAT, MODEL]),
    only('engine-distributedlog', '^src/metadata/distributedlog/', [
      '^src/metadata/distributedlog/',
      '^src/zookeeper/',
      PORTS,
      FORMAT,
      MODEL,
    ]),
    only('engine-zookeeper', '^src/metadata/zookeeper/', [
      '^src/metadata/zookeeper/',
      '^src/zookeeper/',
      PORTS,
      FORMAT,
      MODEL,
    ]),
    only('engine-bookie', '^src/store/bookie/', ['^src/store/bookie/', PORTS, FORMAT, MODEL]),
    only('engine-sqlite', '^src/metadata/sqlite/', ['^src/metadata/sqlite/', PORTS, FORMAT, MODEL]),
    only('system-sees-ports', '^src/system/', ['^src/system/', PORTS, MODEL]),
    only('config-sees-model', '^src/config/', ['^src/config/', MODEL]),
    only('client-sees-model', '^src/client/', ['^src/client/', FORMAT, MODEL]),
    {
      name: 'flow-never-imports-an-engine',
      severity: 'error',
      from: { path: '^(src/(append|ledger|read|rebuild|serve)/|src/log\\.ts|tiering/)' },
      to: { path: '^(src/store/|src/metadata/|src/zookeeper/|archive/[^/]+/|src/system/)' },
    },
    {
      name: 'no-ambient-io',
      comment: 'Disk, network and time come in by argument.',
      severity: 'error',
      from: {
        path: '^(src|tiering|archive)/',
        pathNot: [
          '^src/(system|store|metadata|zookeeper|cli|serve|client)/',
          '^src/open(\\.ts$|/)',
          '^archive/[^/]+/',
        ],
      },
      to: {
        path: '^(node:fs|node:net|node:http|node:https|node:child_process|node:worker_threads|node:timers|fs|net|http|https|child_process|worker_threads|timers)$',
      },
    },
    fromOneFolder('better-sqlite3', 'src/metadata/sqlite/'),
    fromOneFolder('pino', 'src/system/'),
    fromOneFolder('node-cron', 'tiering/'),
    fromOneFolder('@aws-sdk', 'archive/s3/'),
    fromOneFolder('@smithy', 'archive/s3/'),
    fromOneFolder('webhdfs', 'archive/hdfs/'),
    fromOneFolder('fastify', 'src/serve/'),
    fromOneFolder('commander', 'src/cli/'),
    fromOneFolder('yaml', 'src/config/'),
    fromOneFolder('ajv', 'src/config/'),
    fromOneFolder('typebox', 'src/config/'),
    fromOneFolder('lz4-napi', 'src/format/'),
    fromOneFolder('@node-rs/crc32', 'src/format/'),
    fromOneFolder('@bufbuild/protobuf', 'src/format/'),
  ],
  options: {
    tsPreCompilationDeps: true,
    tsConfig: { fileName: 'tsconfig.json' },
    doNotFollow: { path: 'node_modules' },
    exclude: { path: '^dist/' },
    enhancedResolveOptions: {
      extensions: ['.ts', '.js'],
      exportsFields: ['exports'],
      conditionNames: ['import', 'node', 'default', 'types'],
    },
  },
}
