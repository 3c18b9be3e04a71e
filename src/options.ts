import type { HdfsSettings } from '../archive/hdfs/settings.js'
import type { S3Settings } from '../archive/s3/settings.js'
import { StratalogError } from './model/errors.js'
import type { PolicyInput } from './model/policy-input.js'
import type { ArchiveEngine } from './ports/archive-store.js'
import type { Clock } from './ports/clock.js'
import type { Disk } from './ports/disk.js'
import type { KeyRing } from './ports/key-ring.js'
import type { Logger } from './ports/logger.js'
import type { Random } from './ports/random.js'

/** What `openLog` takes. Code is the nearest layer of configuration: it wins over environment and file. */
export interface OpenOptions {
  /** A directory, `s3://…`, `hdfs://…`, `none`, or an engine instance. Default: what the configuration says, else none. */
  readonly archive?: string | ArchiveEngine
  /**
   * Reads an archive that another log owns, and follows its growth; nothing can be appended. The directory then holds a
   * cache and no log. Not together with `archive` and `stores`.
   */
  readonly attach?: string | ArchiveEngine
  /**
   * Directories of the segment stores, one a disk; `bookkeeper`: the bookies of the cluster of `metadata`.
   * @default three directories under the log's own
   */
  readonly stores?: readonly string[] | 'bookkeeper'
  /**
   * Namespace of a cluster, `zk://host:2181/path`, together with `stores: 'bookkeeper'`: any number of processes work on
   * its streams. The directory then holds caches only.
   */
  readonly metadata?: string
  /** How ZooKeeper is talked to; setting by setting above what the configuration says under `zookeeper`. */
  readonly zookeeper?: ZooKeeperOptions
  /** How bookies are talked to; setting by setting above what the configuration says under `bookkeeper`. */
  readonly bookkeeper?: BookKeeperOptions
  /** How archives in S3 are reached; setting by setting above what the configuration says under `s3`. No credentials. */
  readonly s3?: S3Settings
  /** How archives in HDFS are reached; setting by setting above what the configuration says under `hdfs`. */
  readonly hdfs?: HdfsSettings
  /** Values for every stream, above what the file's `defaults` say. */
  readonly defaults?: PolicyInput
  /**
   * `run`: the tiering agent works in the background. `off`: only when asked. In a cluster what writers of this process
   * have open is sealed by policy either way: no other process can do that.
   * @default 'run'
   */
  readonly tiering?: 'run' | 'off'
  /**
   * `socket`: commands can work beside this process through `control.sock`.
   * @default 'socket'
   */
  readonly control?: 'socket' | 'off'
  /**
   * `create`: make the log where there is none. `never`: reject with `file_not_found`.
   * @default 'create'
   */
  readonly create?: 'create' | 'never'
  /**
   * Bytes of one file of a store; what is freed comes back in such pieces.
   * @default 64 MiB
   */
  readonly storeFileBytes?: number
  /**
   * Record bytes of one stream sent and not yet durable.
   * @default 8 MiB
   */
  readonly inFlightBytesMax?: number
  /**
   * Record bytes of one stream taken and not yet durable; beyond it appends reject with `backpressure`.
   * @default 64 MiB
   */
  readonly takenBytesMax?: number
  /**
   * The same of all streams of the log together. A stream that has nothing under way takes a record all the same.
   * @default 256 MiB, or `takenBytesMax` where that is more
   */
  readonly allTakenBytesMax?: number
  /**
   * Bytes of disk for blocks read from the archive, under `cache` in the directory; 0: none. Above what the
   * configuration says under `cache.disk`.
   * @default 256 MiB for an archive on other machines, none for a directory
   */
  readonly diskCacheBytes?: number
  /**
   * A key ring of your own, which policies name by its id under `encryption.ring`; or a file with keys that are needed
   * beside those of the rings that policies name.
   */
  readonly keyRing?: string | KeyRing
  /** Configuration file. Default: `stratalog.yaml` in the directory, if it is there. `none`: no file, no environment. */
  readonly config?: string
  /** Stand-ins for the world: tests and simulators. */
  readonly system?: Partial<SystemPorts>
}

/** How ZooKeeper is talked to. */
export interface ZooKeeperOptions {
  /** @default 10000 */
  readonly sessionTimeoutMs?: number
  /** @default 10000 */
  readonly connectTimeoutMs?: number
  /** File with `user:password`. */
  readonly authFile?: string
  /** `host:port,host:port` that get the login beside those of `metadata`. */
  readonly loginServers?: string
  /** @default 'open' */
  readonly acl?: 'open' | 'creator'
}

/** How bookies are talked to. */
export interface BookKeeperOptions {
  /** Where a namespace that is bound to no cluster yet finds one in ZooKeeper. @default '/ledgers' */
  readonly ledgers?: string
  /** Whether policies free hot copies that are in the archive, which Java clients do not read. @default false */
  readonly evict?: boolean
  /**
   * What Java writers of the namespace delete: what is older than `purgeAfterMs`; of that only what was truncated
   * (`explicitTruncationByApp`); nothing (`logSegmentRetentionHours` 0). @default 'aged'
   */
  readonly purge?: 'aged' | 'truncated' | 'never'
  /** Their `logSegmentRetentionHours`. @default 72 hours */
  readonly purgeAfterMs?: number
  /** What a Java application truncates stays readable from the archive, or ends here too. @default 'keep' */
  readonly truncation?: 'keep' | 'follow'
  /** Lines of `BOOKIE /region/rack`. */
  readonly racksFile?: string
  /** @default 5000 */
  readonly connectTimeoutMs?: number
  /** @default 5000 */
  readonly addTimeoutMs?: number
  /** @default 5000 */
  readonly readTimeoutMs?: number
  /** @default 64 MiB */
  readonly inFlightBytesMax?: number
  /** @default 1 */
  readonly connections?: number
  /** @default false */
  readonly tls?: boolean
  readonly caFile?: string
  readonly certFile?: string
  readonly keyFile?: string
}

/** The machine as a log sees it; tests give it another one. */
export interface SystemPorts {
  readonly disk: Disk
  readonly clock: Clock
  readonly random: Random
  readonly logger: Logger
}

export interface FilledOptions {
  readonly tiering: 'run' | 'off'
  readonly control: 'socket' | 'off'
  readonly create: 'create' | 'never'
  readonly storeFileBytes: number
  readonly inFlightBytesMax: number
  readonly takenBytesMax: number
  readonly allTakenBytesMax: number
  /** null: not said. */
  readonly diskCacheBytes: number | null
}

const MIB = 1024 * 1024
const KEYS = new Set([
  'archive',
  'attach',
  'stores',
  'metadata',
  'zookeeper',
  'bookkeeper',
  's3',
  'hdfs',
  'defaults',
  'tiering',
  'control',
  'create',
  'storeFileBytes',
  'inFlightBytesMax',
  'takenBytesMax',
  'allTakenBytesMax',
  'diskCacheBytes',
  'keyRing',
  'config',
  'system',
])

/** Fills and checks the options; unknown ones are refused. Throws `invalid_argument`. */
export function fillOptions(options: OpenOptions): FilledOptions {
  for (const key of Object.keys(options)) {
    if (!KEYS.has(key)) {
      throw new StratalogError(
        'invalid_argument',
        `openLog has no option "${key}": there are ${[...KEYS].join(', ')}`,
        { found: key },
      )
    }
  }
  const takenBytesMax = bounded(options.takenBytesMax ?? 64 * MIB, 'takenBytesMax', 64 * 1024, 4096 * MIB)
  return Object.freeze({
    tiering: oneOf(options.tiering ?? 'run', 'tiering', ['run', 'off']),
    control: oneOf(options.control ?? 'socket', 'control', ['socket', 'off']),
    create: oneOf(options.create ?? 'create', 'create', ['create', 'never']),
    // A file must hold the largest entry with room to spare; the upper bound keeps offsets well inside a number.
    storeFileBytes: wholePages(
      bounded(options.storeFileBytes ?? 64 * MIB, 'storeFileBytes', 4 * MIB, 1024 * MIB),
    ),
    inFlightBytesMax: bounded(options.inFlightBytesMax ?? 8 * MIB, 'inFlightBytesMax', 64 * 1024, 1024 * MIB),
    takenBytesMax,
    allTakenBytesMax: bounded(
      options.allTakenBytesMax ?? Math.max(256 * MIB, takenBytesMax),
      'allTakenBytesMax',
      64 * 1024,
      65_536 * MIB,
    ),
    diskCacheBytes: diskCacheBytes(options.diskCacheBytes),
  })
}

function oneOf<T extends string>(value: T, name: string, allowed: readonly T[]): T {
  if (allowed.includes(value)) return value
  throw new StratalogError(
    'invalid_argument',
    `${name}: ${JSON.stringify(value)} is not one of ${allowed.join(', ')}`,
    { found: value },
  )
}

function bounded(value: number, name: string, min: number, max: number): number {
  if (Number.isSafeInteger(value) && value >= min && value <= max) return value
  throw new StratalogError(
    'invalid_argument',
    `${name}: ${value} is not a whole number of bytes between ${min} and ${max}`,
    { found: value },
  )
}

function diskCacheBytes(value: number | undefined): number | null {
  if (value === undefined || value === 0) return value ?? null
  return bounded(value, 'diskCacheBytes', 8 * MIB, 2 ** 20 * MIB)
}

/** Stores write whole pages; a file of half a page would waste the rest. */
function wholePages(sizeBytes: number): number {
  if (sizeBytes % 4_096 === 0) return sizeBytes
  throw new StratalogError('invalid_argument', `storeFileBytes: ${sizeBytes} is not a multiple of 4096`, {
    found: sizeBytes,
  })
}
