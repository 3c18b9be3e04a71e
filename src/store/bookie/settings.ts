import type { DigestType } from '../../model/ledger.js'
import type { Clock } from '../../ports/clock.js'
import type { Logger } from '../../ports/logger.js'
import type { Random } from '../../ports/random.js'

/** Where a bookie is. The id is what ensembles in ledger metadata list. */
export interface BookieAddress {
  readonly id: string
  readonly host: string
  readonly port: number
}

/** TLS over BookKeeper's START_TLS; PEM texts. */
export interface BookieTls {
  /** Who may have signed the bookie's certificate; without it the authorities that Node knows. */
  readonly ca?: string
  /** The certificate and its key that say who we are, where bookies demand that. */
  readonly cert?: string
  readonly key?: string
  /** The name the bookie's certificate must have. @default the host */
  readonly serverName?: string
}

/** How bookies are talked to. */
export interface BookieSettings {
  /** @default 5000 */
  readonly connectTimeoutMs: number
  /** An add without an answer for so long has failed. @default 5000 */
  readonly addTimeoutMs: number
  /** Any other request without an answer for so long has failed. @default 5000 */
  readonly readTimeoutMs: number
  /** After a failed connection requests fail at once for so long, doubling up to the maximum. @default 100 */
  readonly reconnectMs: number
  /** @default 10000 */
  readonly reconnectMsMax: number
  /** Entries that are on their way to one bookie; more are refused with `backpressure`. @default 64 MiB */
  readonly inFlightBytesMax: number
  /** Connections to one bookie; a ledger keeps to one of them. @default 1 */
  readonly connections: number
  /** Larger frames end the connection; bookies have the same limit (`nettyMaxFrameSizeBytes`). @default 5 MiB */
  readonly frameBytesMax: number
  /**
   * A LAC that no entry carried for so long is sent by itself. A bookie journals it like an entry, so a busy ledger
   * must never need it. @default 10
   */
  readonly lacDelayMs: number
  /** The ledgers' password, never logged. @default '' as DistributedLog has it */
  readonly password: string
  /** Of the LACs of ledgers that were not opened here; CRC32 is DistributedLog's. @default 'CRC32' */
  readonly digest: DigestType
  /** @default null: without */
  readonly tls: BookieTls | null
}

/** The defaults, each as `BookieSettings` says. */
export const BOOKIE_DEFAULTS: BookieSettings = {
  connectTimeoutMs: 5_000,
  addTimeoutMs: 5_000,
  readTimeoutMs: 5_000,
  reconnectMs: 100,
  reconnectMsMax: 10_000,
  inFlightBytesMax: 64 * 2 ** 20,
  connections: 1,
  frameBytesMax: 5 * 2 ** 20,
  lacDelayMs: 10,
  password: '',
  digest: 'CRC32',
  tls: null,
}

/** What a bookie's client needs of the world beside its sockets. */
export interface BookiePorts {
  readonly clock: Clock
  readonly logger: Logger
  readonly random: Random
}
