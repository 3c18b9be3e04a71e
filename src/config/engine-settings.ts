/** Engines that have a section of their own in the configuration: those of archives, then those of a cluster. */
export const ENGINES = ['s3', 'hdfs', 'zookeeper', 'bookkeeper'] as const

/** One of them. */
export type EngineName = (typeof ENGINES)[number]

/** How a setting is written in a file and handed to an engine: sizes in bytes, durations in ms, files as absolute paths. */
export type SettingKind =
  | 'text'
  | 'flag'
  | 'size'
  | 'duration'
  | 'count'
  | 'file'
  | 'hosts'
  | readonly string[]

/** One setting of an engine. */
export interface EngineSetting {
  readonly kind: SettingKind
  /** Its name in the engine's settings, and in code. */
  readonly field: string
  readonly description: string
  readonly default?: string | number | boolean
}

/** Every setting by its key in the file. The engines say what each means to them: archive/s3, archive/hdfs, src/zookeeper, src/store/bookie. */
export const ENGINE_SETTINGS: Readonly<Record<EngineName, Readonly<Record<string, EngineSetting>>>> = {
  s3: {
    endpoint: {
      kind: 'text',
      field: 'endpoint',
      description:
        'Address of a store that is not AWS: https://host:port. Default: AWS_ENDPOINT_URL_S3, AWS.',
    },
    region: { kind: 'text', field: 'region', description: 'Default: AWS_REGION, or what the profile says.' },
    'path-style': {
      kind: 'flag',
      field: 'pathStyle',
      description: 'The bucket in the path and not in the host. Default: true where the endpoint is not AWS.',
    },
    profile: {
      kind: 'text',
      field: 'profile',
      description: 'Profile of the AWS configuration that has the credentials. Default: AWS_PROFILE.',
    },
    sse: {
      kind: ['s3', 'kms', 'customer'],
      field: 'sse',
      description: 'What the store encrypts objects with. Default: what the bucket says.',
    },
    'kms-key': {
      kind: 'text',
      field: 'kmsKey',
      description: 'Key of sse: kms where a policy names none: an id or an alias, no secret.',
    },
    'customer-key-file': {
      kind: 'file',
      field: 'customerKeyFile',
      description: 'File with the 32 bytes of the key of sse: customer.',
    },
    'ca-file': {
      kind: 'file',
      field: 'caFile',
      description: 'Certificates (PEM) to trust besides the usual.',
    },
    proxy: { kind: 'text', field: 'proxy', description: 'http://host:port of a proxy that tunnels.' },
    'put-max': {
      kind: 'size',
      field: 'putMaxBytes',
      description: 'Objects up to this size are stored in one request.',
      default: '72 MiB',
    },
    part: { kind: 'size', field: 'partBytes', description: 'Parts of larger objects.', default: '16 MiB' },
    buffers: {
      kind: 'size',
      field: 'bufferBytesMax',
      description: 'Memory for objects on their way. Default: twice put-max.',
    },
    concurrency: { kind: 'count', field: 'concurrency', description: 'Requests at a time.', default: 16 },
    'idle-timeout': {
      kind: 'duration',
      field: 'idleTimeoutMs',
      description: 'A connection that moved nothing for so long is given up.',
      default: '30s',
    },
    'total-timeout': {
      kind: 'duration',
      field: 'totalTimeoutMs',
      description: 'Time for a request, beside what its size needs.',
      default: '60s',
    },
    'allow-link-local': {
      kind: 'flag',
      field: 'allowLinkLocal',
      description: 'Lets the endpoint have an address like 169.254.1.1, where clouds keep credentials.',
      default: false,
    },
    'thaw-tier': {
      kind: ['expedited', 'standard', 'bulk'],
      field: 'thawTier',
      description: 'How soon what is thawed is to be readable, and at which price.',
      default: 'standard',
    },
  },
  hdfs: {
    namenodes: {
      kind: 'hosts',
      field: 'namenodes',
      description: 'More NameNodes of a pair, as HOST:PORT of their web address.',
    },
    user: {
      kind: 'text',
      field: 'user',
      description: 'Who we are where the cluster trusts names. Default: HADOOP_USER_NAME, the system user.',
    },
    'token-file': {
      kind: 'file',
      field: 'tokenFile',
      description: 'File with a delegation token; read again when the token is refused.',
    },
    https: {
      kind: 'flag',
      field: 'https',
      description: 'HTTPS with NameNode and DataNodes.',
      default: false,
    },
    'ca-file': {
      kind: 'file',
      field: 'caFile',
      description: "Certificates (PEM) of the cluster's authority.",
    },
    'allowed-hosts': {
      kind: 'hosts',
      field: 'allowedHosts',
      description: 'Where a NameNode may send us: names, *.domain, 10.2.0.0/16. Default: its own network.',
    },
    gateway: {
      kind: 'flag',
      field: 'gateway',
      description: 'The location is an HttpFS gateway.',
      default: false,
    },
    replication: {
      kind: 'count',
      field: 'replication',
      description: "Copies of each block. Default: the cluster's.",
    },
    'block-size': {
      kind: 'size',
      field: 'blockSizeBytes',
      description: "Blocks of a file. Default: the cluster's.",
    },
    concurrency: { kind: 'count', field: 'concurrency', description: 'Transfers at a time.', default: 8 },
    'namenode-timeout': {
      kind: 'duration',
      field: 'namenodeTimeoutMs',
      description: "Longest wait for a NameNode's answer.",
      default: '20s',
    },
    'read-timeout': {
      kind: 'duration',
      field: 'readTimeoutMs',
      description: 'Longest standstill of a read before another DataNode is asked.',
      default: '15s',
    },
    'write-timeout': {
      kind: 'duration',
      field: 'writeTimeoutMs',
      description: 'Longest standstill of an upload.',
      default: '90s',
    },
    'total-timeout': {
      kind: 'duration',
      field: 'totalTimeoutMs',
      description: 'Longest time for one transfer, beside what its size needs.',
      default: '10m',
    },
  },
  zookeeper: {
    'session-timeout': {
      kind: 'duration',
      field: 'sessionTimeoutMs',
      description: 'A process that ZooKeeper did not hear of for so long loses its streams to another.',
      default: '10s',
    },
    'connect-timeout': {
      kind: 'duration',
      field: 'connectTimeoutMs',
      description: 'Longest wait for a session.',
      default: '10s',
    },
    'auth-file': {
      kind: 'file',
      field: 'authFile',
      description:
        'File with user:password of a digest login; or STRATALOG_ZOOKEEPER_AUTH in the environment.',
    },
    'login-servers': {
      kind: 'text',
      field: 'loginServers',
      description:
        'Servers that get the login beside those of "metadata", host:port,host:port: a namespace may be bound to bookies of another ZooKeeper.',
    },
    acl: {
      kind: ['open', 'creator'],
      field: 'acl',
      description: 'Who may touch nodes that are made here: anybody, or who logs in alike.',
      default: 'open',
    },
  },
  bookkeeper: {
    ledgers: {
      kind: 'text',
      field: 'ledgers',
      description: 'Ledgers of the cluster in ZooKeeper, for a namespace that is not bound to one yet.',
      default: '/ledgers',
    },
    evict: {
      kind: 'flag',
      field: 'evict',
      description: 'Policies may free hot copies that are in the archive: Java clients no longer read those.',
      default: false,
    },
    purge: {
      kind: ['aged', 'truncated', 'never'],
      field: 'purge',
      description:
        'What Java writers of the namespace delete: what is older than purge-after; of that only what was truncated (explicitTruncationByApp); nothing (logSegmentRetentionHours 0).',
      default: 'aged',
    },
    'purge-after': {
      kind: 'duration',
      field: 'purgeAfterMs',
      description: 'logSegmentRetentionHours of Java writers: what they made is archived ahead of it.',
      default: '72h',
    },
    truncation: {
      kind: ['keep', 'follow'],
      field: 'truncation',
      description:
        'What a Java application truncates stays readable from the archive, or ends here too as by a trim.',
      default: 'keep',
    },
    'racks-file': {
      kind: 'file',
      field: 'racksFile',
      description: 'File with lines "BOOKIE /region/rack": copies are spread over racks.',
    },
    rack: {
      kind: 'text',
      field: 'rack',
      description: 'Where this process is, as /region/rack: of several copies it reads the nearest.',
    },
    'groups-file': {
      kind: 'file',
      field: 'groupsFile',
      description: 'File with lines "BOOKIE GROUP…": isolation groups that quorum.group names.',
    },
    'connect-timeout': {
      kind: 'duration',
      field: 'connectTimeoutMs',
      description: 'Longest wait for a connection to a bookie.',
      default: '5s',
    },
    'add-timeout': {
      kind: 'duration',
      field: 'addTimeoutMs',
      description: 'A bookie that has not stored an entry after this is replaced by another.',
      default: '5s',
    },
    'read-timeout': {
      kind: 'duration',
      field: 'readTimeoutMs',
      description: 'Longest wait for any other answer of a bookie.',
      default: '5s',
    },
    'in-flight': {
      kind: 'size',
      field: 'inFlightBytesMax',
      description: 'Entries on their way to one bookie.',
      default: '64 MiB',
    },
    connections: { kind: 'count', field: 'connections', description: 'To each bookie.', default: 1 },
    tls: {
      kind: 'flag',
      field: 'tls',
      description: 'TLS with bookies (START_TLS).',
      default: false,
    },
    'ca-file': {
      kind: 'file',
      field: 'caFile',
      description: "Certificates (PEM) of the bookies' authority. Default: those Node.js knows.",
    },
    'cert-file': {
      kind: 'file',
      field: 'certFile',
      description: 'Certificate (PEM) that says who we are, where bookies ask for one.',
    },
    'key-file': { kind: 'file', field: 'keyFile', description: 'The key of cert-file (PEM).' },
  },
}

const SECRET = /^(aws-?)?(access-?key|secret|session-?token|password|passwd|credential|token$|delegation)/i

/** What is said instead of a suggestion where somebody writes a credential; null: the key is not like one. */
export function credentialAdvice(section: unknown, key: string): string | null {
  if (!SECRET.test(key.replaceAll('_', '-'))) return null
  if (section === 's3') {
    return 'credentials do not belong in a configuration: they come from the credential chain of the SDK: AWS_PROFILE or "profile", AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment, the role of the instance'
  }
  if (section === 'zookeeper') {
    return 'credentials do not belong in a configuration: name the file that has user:password under "auth-file", or set STRATALOG_ZOOKEEPER_AUTH'
  }
  return section === 'hdfs'
    ? 'credentials do not belong in a configuration: name the file that has the delegation token under "token-file"'
    : null
}
