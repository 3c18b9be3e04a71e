import { StratalogError } from '../../src/model/errors.js'

/** How an archive in HDFS: `hdfs://namenode:9870/path` is reached; what is not set has a default. Never a credential. */
export interface HdfsSettings {
  /**
   * NameNodes of a highly available pair, `HOST` or `HOST:PORT` of their web address, beside the one of the location:
   * whichever is active is used.
   */
  readonly namenodes?: readonly string[]
  /** Who we are where the cluster trusts names (simple authentication). @default HADOOP_USER_NAME, else the system's user */
  readonly user?: string
  /** File with a delegation token, as `hdfs fetchdt --webservice` or GETDELEGATIONTOKEN tell it; read again when it is refused. */
  readonly tokenFile?: string
  /** Speak HTTPS with NameNode and DataNodes (`swebhdfs`). @default false */
  readonly https?: boolean
  /** PEM file with the authority that signed the cluster's certificates. */
  readonly caFile?: string
  /**
   * Hosts a NameNode may send us to: names, `*.domain`, addresses, `10.2.0.0/16`. Given, they take the place of the
   * default: hosts in the domain or the network of the NameNode. The NameNodes' own hosts are always allowed.
   */
  readonly allowedHosts?: readonly string[]
  /** The location is an HttpFS gateway, which passes data on itself. @default false */
  readonly gateway?: boolean
  /** Copies of each block. @default the cluster's */
  readonly replication?: number
  /** Size of the blocks of a file. @default the cluster's */
  readonly blockSizeBytes?: number
  /** Transfers of data side by side. @default 8 */
  readonly concurrency?: number
  /** Longest wait for a NameNode's answer. @default 20000 */
  readonly namenodeTimeoutMs?: number
  /** Longest standstill of a read before another DataNode is asked. @default 15000 */
  readonly readTimeoutMs?: number
  /** Longest standstill of an upload; HDFS itself needs up to 75 s to put a dead DataNode out of a pipeline. @default 90000 */
  readonly writeTimeoutMs?: number
  /** Longest time for one transfer, beside what its size needs at 256 KiB/s. @default 600000 */
  readonly totalTimeoutMs?: number
}

/** A NameNode's web address. */
export interface NameNodeAddress {
  /** As a URL has it: a name, an IPv4 address, or an IPv6 address without brackets. */
  readonly host: string
  readonly port: number
}

/** Everything settled: location and settings together. */
export interface HdfsPlace {
  /** For people: the location as it was given. */
  readonly location: string
  readonly namenodes: readonly NameNodeAddress[]
  /** Absolute, without a slash at its end; '' is the root. */
  readonly root: string
  readonly settings: HdfsSettings
  readonly https: boolean
}

const PORTS = { http: 9870, https: 9871, gateway: 14000 }
const CONCURRENCY_MAX = 256
const BLOCK_BYTES_MAX = 2 ** 40

/** Location and settings checked and put together. `config_invalid` says what is wrong with them. */
export function hdfsPlace(location: string, settings: HdfsSettings): HdfsPlace {
  const match = /^hdfs:\/\/([^/?#]*)(\/[^?#]*)?$/.exec(location)
  if (match === null) throw invalid(location, 'write it as hdfs://NAMENODE:9870/PATH')
  const [, authority = '', path = '/'] = match
  if (authority.includes('@')) {
    throw invalid(location.replace(/\/\/[^/]*@/, '//'), 'the user is named in the settings (hdfs: user:)')
  }
  const https = settings.https === true
  const port = settings.gateway === true ? PORTS.gateway : https ? PORTS.https : PORTS.http
  const named = [...authority.split(','), ...(settings.namenodes ?? [])].filter((text) => text !== '')
  if (named.length === 0) throw invalid(location, 'it names no NameNode: hdfs://NAMENODE:9870/PATH')
  checkNumbers(location, settings)
  const namenodes = named.map((text) => address(location, text, port))
  const same = (a: NameNodeAddress, b: NameNodeAddress) => a.host === b.host && a.port === b.port
  return {
    location,
    namenodes: namenodes.filter((one, i) => namenodes.findIndex((other) => same(one, other)) === i),
    root: checkedPath(location, path),
    settings,
    https,
  }
}

function address(location: string, text: string, defaultPort: number): NameNodeAddress {
  const match = /^(?:\[([0-9a-fA-F:.]+)\]|([A-Za-z0-9_.-]+))(?::(\d{1,5}))?$/.exec(text)
  const port = match?.[3] === undefined ? defaultPort : Number(match[3])
  if (match === null || port < 1 || port > 65_535) {
    throw invalid(location, `"${text}" is no NameNode: write HOST or HOST:PORT`)
  }
  return { host: (match[1] ?? match[2] ?? '').toLowerCase(), port }
}

function checkedPath(location: string, path: string): string {
  const parts = path.split('/').filter((part) => part !== '')
  for (const part of parts) {
    // HDFS takes no colon, and a path below .reserved or .snapshot is not a place to write to.
    if (part === '.' || part === '..' || part.includes(':') || part === '.reserved' || part === '.snapshot') {
      throw invalid(location, `"${part}" can't be a part of a path in HDFS`)
    }
  }
  return parts.map((part) => `/${part}`).join('')
}

function checkNumbers(location: string, settings: HdfsSettings): void {
  const { replication, blockSizeBytes, concurrency } = settings
  const whole = (what: string, value: number | undefined, least: number, most: number) => {
    if (value === undefined || (Number.isSafeInteger(value) && value >= least && value <= most)) return
    throw invalid(location, `${what} is ${value} and must be a whole number from ${least} to ${most}`)
  }
  whole('replication', replication, 1, 512)
  whole('concurrency', concurrency, 1, CONCURRENCY_MAX)
  whole('blockSizeBytes', blockSizeBytes, 512, BLOCK_BYTES_MAX)
  // HDFS refuses a block that ends within the bytes of one checksum.
  if (blockSizeBytes !== undefined && blockSizeBytes % 512 !== 0) {
    throw invalid(location, `blockSizeBytes is ${blockSizeBytes} and must be a multiple of 512`)
  }
  const { namenodeTimeoutMs, readTimeoutMs, writeTimeoutMs, totalTimeoutMs } = settings
  for (const [what, value] of Object.entries({
    namenodeTimeoutMs,
    readTimeoutMs,
    writeTimeoutMs,
    totalTimeoutMs,
  })) {
    whole(what, value, 1, 86_400_000)
  }
}

function invalid(location: string, why: string): StratalogError {
  return new StratalogError('config_invalid', `archive ${location}: ${why}`, { found: location })
}
