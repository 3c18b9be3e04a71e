import { StratalogError } from '../model/errors.js'
import type { Clock } from '../ports/clock.js'
import type { LedgerMetadataStore } from '../ports/ledger-metadata.js'
import type { Logger } from '../ports/logger.js'
import type { SegmentStore } from '../ports/segment-store.js'
import type { StoreHealth } from './store-health.js'
import type { StoreRoom } from './store-room.js'

/** What is wished of the stores that take a ledger, beside that they can. */
export interface PlacementWish {
  /** Members that stay: stores in a group that all of them are in come first, of those the ones in racks they lack. */
  readonly beside?: readonly string[]
  /** The isolation group that every copy stays in: no store outside of it will do. */
  readonly group?: string
}

/** The segment stores there are, by the names ensembles list. */
export interface StoreDirectory {
  /** Null for a name that is not configured: its copies are unreachable, not gone. */
  get(id: string): SegmentStore | null
  /** Those a new ledger may be placed on, best first. */
  writable(wish?: PlacementWish): Promise<SegmentStore[]>
  all(): readonly SegmentStore[]
  /** How far a store is, 0 the nearest: near ones are read first. Absent: all are alike. */
  distance?(id: string): number
  /** Whether stores are in isolation groups. @default false */
  readonly grouped?: boolean
  /**
   * Stores are told nothing of a ledger but its entries, as bookies: its metadata say what it is for, and once those are
   * gone its stores free the copies by themselves, whenever they are up. @default false
   */
  readonly namedByMetadata?: boolean
}

/** How long a store may take for an answer before it counts as unreachable for this one question. */
export const ANSWER_TIMEOUT_MS: number = 20_000

/** A copy of an entry of a closed ledger that its store should hold and does not, with a good one in its place. */
export interface DamagedCopy {
  readonly ledgerId: bigint
  readonly entryId: bigint
  readonly storeId: string
  /** The packaged entry as another store holds it, its digest checked; not to be changed. */
  readonly bytes: Uint8Array
  /** What was wrong: the digest's error, or that the store says it has no such entry. */
  readonly reason: unknown
}

/** Digests of the ledgers that are written here: DistributedLog reads CRC32 only (DESIGN.md §4). */
export type WriterDigest = 'CRC32' | 'CRC32C'

/** What the ledger protocol needs of the world. */
export interface LedgerContext {
  /** Of new ledgers. @default 'CRC32C' */
  readonly digestType?: WriterDigest
  readonly stores: StoreDirectory
  readonly metadata: LedgerMetadataStore
  readonly clock: Clock
  readonly logger: Logger
  /** What writers learn about stores, shared by all of them; without it stores are taken as they come. */
  readonly health?: StoreHealth
  /** Whether disks have room for what is appended; without it that shows when they are full. */
  readonly room?: StoreRoom
  /**
   * Hears of copies that reads found damaged or absent, so that they can be mended. Never awaited, and it must not
   * throw: reading goes on with the good copy.
   */
  readonly damaged?: (copy: DamagedCopy) => void
}

/** A store of an ensemble, or a named error where it is not configured or did not open. */
export function member(context: LedgerContext, id: string): SegmentStore {
  const store = context.stores.get(id)
  if (store === null) {
    throw new StratalogError(
      'store_unavailable',
      `segment store ${id} is not among the stores of this log: bring it back under "stores"`,
      {
        retryable: true,
        expected: id,
        found: context.stores.all().map((one) => one.id),
      },
    )
  }
  return store
}

/**
 * What a store answers, or a `timeout` error where it hangs: a disk that never answers must not hold up what the
 * other replicas can say. Not for adds, whose timeout the writer keeps. Rejects at once when `signal` is aborted.
 */
export function ask<T>(
  context: LedgerContext,
  id: string,
  work: (store: SegmentStore) => Promise<T>,
  signal?: AbortSignal,
): Promise<T> {
  return new Promise((resolve, reject) => {
    const timer = context.clock.setTimer(ANSWER_TIMEOUT_MS, () => {
      end()
      reject(
        new StratalogError('timeout', `segment store ${id} did not answer within ${ANSWER_TIMEOUT_MS} ms`, {
          retryable: true,
        }),
      )
    })
    const aborted = (): void => {
      end()
      reject(signal?.reason)
    }
    const end = (): void => {
      timer.cancel()
      signal?.removeEventListener('abort', aborted)
    }
    signal?.addEventListener('abort', aborted, { once: true })
    if (signal?.aborted) return aborted()
    const begun = async () => work(member(context, id))
    begun().finally(end).then(resolve, reject)
  })
}
