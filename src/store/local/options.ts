import { StratalogError } from '../../model/errors.js'
import type { Clock } from '../../ports/clock.js'
import type { Disk } from '../../ports/disk.js'
import type { Logger } from '../../ports/logger.js'
import type { Random } from '../../ports/random.js'
import { PAGE_BYTES } from './frame.js'
import { isHex32 } from './superblock.js'

export interface LocalStoreOptions {
  readonly directory: string
  /** The log the store belongs to, 32 hexadecimal digits. */
  readonly logId: string
  /** Make the store if the directory has none. */
  readonly create: boolean
  readonly disk: Disk
  readonly clock: Clock
  readonly random: Random
  readonly logger: Logger
  /** @default 64 MiB */
  readonly fileBytes?: number
  /** Most that is written with one sync, unless one entry is larger. @default 4 MiB */
  readonly groupBytesMax?: number
  /** More that waits for the disk is refused with `backpressure`. @default 64 MiB */
  readonly pendingBytesMax?: number
  /** After so long without appends all is marked as durable. @default 1000 */
  readonly idleMarkMs?: number
  /** Index blocks of closed files kept in memory; one ledger's part of one that is larger is kept alone. @default 32 MiB */
  readonly indexBytesMax?: number
  /** How fast files are rewritten in the background; a quarter of it while appends wait. @default 64 MiB */
  readonly rewriteBytesPerSecond?: number
}

const FILE_BYTES_MIN = 16 * PAGE_BYTES
const FILE_BYTES_MAX = 2 ** 30

/** Fills and checks options. Throws `invalid_argument`. */
export function localStoreOptions(options: LocalStoreOptions): Required<LocalStoreOptions> {
  const filled = {
    ...options,
    fileBytes: options.fileBytes ?? 64 << 20,
    groupBytesMax: options.groupBytesMax ?? 4 << 20,
    pendingBytesMax: options.pendingBytesMax ?? 64 << 20,
    idleMarkMs: options.idleMarkMs ?? 1_000,
    indexBytesMax: options.indexBytesMax ?? 32 << 20,
    rewriteBytesPerSecond: options.rewriteBytesPerSecond ?? 64 << 20,
  }
  const check = (name: keyof typeof filled, fits: boolean, hint: string): void => {
    if (fits) return
    const found = filled[name]
    throw new StratalogError('invalid_argument', `${name} of a local store is ${String(found)}: ${hint}`, {
      found,
    })
  }
  const { fileBytes } = filled
  const wholePages = Number.isInteger(fileBytes / PAGE_BYTES)
  check('logId', isHex32(filled.logId), 'it must be 32 lower-case hexadecimal digits')
  check(
    'fileBytes',
    wholePages && fileBytes >= FILE_BYTES_MIN && fileBytes <= FILE_BYTES_MAX,
    `it must be a multiple of ${PAGE_BYTES} from ${FILE_BYTES_MIN} to ${FILE_BYTES_MAX}`,
  )
  const counts = [
    'groupBytesMax',
    'pendingBytesMax',
    'idleMarkMs',
    'indexBytesMax',
    'rewriteBytesPerSecond',
  ] as const
  for (const name of counts) {
    check(name, Number.isSafeInteger(filled[name]) && filled[name] > 0, 'it must be a whole number above 0')
  }
  return filled
}
