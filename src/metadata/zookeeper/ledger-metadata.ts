import { decodeLedgerMetadata, encodeLedgerMetadata } from '../../format/ledger-metadata.js'
import type { LedgerLayout } from '../../format/ledger-paths.js'
import { LEDGER_ID_MAX, ledgerPath } from '../../format/ledger-paths.js'
import { assert } from '../../model/assert.js'
import { StratalogError } from '../../model/errors.js'
import type { LedgerMetadata } from '../../model/ledger.js'
import type { LedgerMetadataStore, VersionedLedgerMetadata } from '../../ports/ledger-metadata.js'
import type { Random } from '../../ports/random.js'
import { ANY_VERSION, type ZkNode, type ZooKeeper } from '../../zookeeper/client.js'
import { outcomeUnknown } from '../../zookeeper/errors.js'
import { readCluster } from './cluster.js'
import { LedgerIds } from './ledger-ids.js'
import { listLedgers } from './ledger-list.js'
import { ensureNode, isZk, parentOf, TRIES_MAX } from './nodes.js'

/** Where the ledgers are, and randomness for their tokens. */
export interface ZkLedgersOptions {
  /** `/ledgers` by default of BookKeeper. */
  readonly ledgersPath: string
  readonly random: Random
}

/** What a cluster's LAYOUT decides. */
interface Opened {
  readonly layout: LedgerLayout
  readonly ids: LedgerIds
}

/**
 * Metadata of ledgers in BookKeeper's own tree. A change whose answer was lost is read again: every one of them names
 * the version it is made from, so whether it was made can be seen, and one that was not can be made again.
 */
export class ZkLedgerMetadataStore implements LedgerMetadataStore {
  readonly #zk: ZooKeeper
  readonly #root: string
  readonly #random: Random
  #opened: Opened | null = null

  constructor(zk: ZooKeeper, options: ZkLedgersOptions) {
    this.#zk = zk
    this.#root = options.ledgersPath
    this.#random = options.random
  }

  async allocateId(): Promise<bigint> {
    for (;;) {
      const id = await (await this.#open()).ids.next()
      // Ledgers can have come from elsewhere: restored ones, or those of a cluster whose numbers began anew.
      if ((await this.#zk.exists(await this.#path(id))) === null) return id
    }
  }

  async create(ledgerId: bigint, given: LedgerMetadata): Promise<VersionedLedgerMetadata> {
    // By the token a creator knows its own node where the answer was lost: two may create alike.
    const metadata = given.cToken === 0n ? { ...given, cToken: this.#token() } : given
    const bytes = encodeLedgerMetadata(metadata)
    const path = await this.#path(ledgerId)
    let unknown = false
    for (let tries = 1; ; tries++) {
      try {
        await this.#zk.create(path, bytes)
        return { ledgerId, metadata, version: 0 }
      } catch (error) {
        if (isZk(error, 'conflict')) {
          const own = unknown ? await reread(ledgerId, this.#own(ledgerId, path, metadata)) : null
          if (own !== null) return own
          throw existsError(ledgerId)
        }
        if (tries === TRIES_MAX) throw error
        if (isZk(error, 'not_found')) await ensureNode(this.#zk, parentOf(path))
        else if (outcomeUnknown(error)) unknown = true
        else throw unknown ? unknownAfter(error, ledgerId) : error
      }
    }
  }

  async read(ledgerId: bigint): Promise<VersionedLedgerMetadata> {
    if (ledgerId < 0n || ledgerId > LEDGER_ID_MAX) throw missingError(ledgerId)
    const path = await this.#path(ledgerId)
    let found = await this.#zk.get(path)
    if (found === null) {
      // The server that was asked may lag behind the others: unknown is not missing.
      await this.#zk.sync(path)
      found = await this.#zk.get(path)
    }
    if (found === null) throw missingError(ledgerId)
    return decoded(ledgerId, found)
  }

  async compareAndSet(
    ledgerId: bigint,
    expectedVersion: number,
    metadata: LedgerMetadata,
  ): Promise<VersionedLedgerMetadata> {
    // −1 would be any version.
    assert(expectedVersion >= 0, `version ${expectedVersion} of ledger ${ledgerId}`)
    const bytes = encodeLedgerMetadata(metadata)
    const path = await this.#path(ledgerId)
    let unknown = false
    for (let tries = 1; ; tries++) {
      try {
        const { version } = await this.#zk.set(path, bytes, expectedVersion)
        return { ledgerId, metadata, version }
      } catch (error) {
        if (isZk(error, 'not_found')) throw missingError(ledgerId)
        if (isZk(error, 'conflict')) {
          const again = this.#zk.get(path)
          const found = unknown ? await reread(ledgerId, again) : await again
          if (found === null) throw missingError(ledgerId)
          const { version } = found.stat
          // It was this one that did it, and its answer was lost.
          if (unknown && version === expectedVersion + 1 && Buffer.compare(found.data, bytes) === 0) {
            return { ledgerId, metadata, version }
          }
          throw changedError(ledgerId, expectedVersion, version)
        }
        // Made again from the same version it can't be made twice.
        if (outcomeUnknown(error) && tries < TRIES_MAX) unknown = true
        else throw unknown ? unknownAfter(error, ledgerId) : error
      }
    }
  }

  async delete(ledgerId: bigint, expectedVersion: number): Promise<void> {
    if (ledgerId < 0n || ledgerId > LEDGER_ID_MAX) return
    // −1 would be any version.
    assert(expectedVersion >= 0, `version ${expectedVersion} of ledger ${ledgerId}`)
    const path = await this.#path(ledgerId)
    for (let tries = 1; ; tries++) {
      try {
        await this.#zk.delete(path, expectedVersion)
        break
      } catch (error) {
        if (isZk(error, 'not_found')) break
        if (isZk(error, 'conflict')) {
          const found = await this.#zk.get(path)
          if (found === null) break
          throw changedError(ledgerId, expectedVersion, found.stat.version)
        }
        // An id is never given out again, so what is deleted a second time is the same ledger.
        if (!outcomeUnknown(error) || tries === TRIES_MAX) throw error
      }
    }
    await this.#dropEmpty(parentOf(path))
  }

  async list(after: bigint, limit: number): Promise<bigint[]> {
    if (limit <= 0 || after >= LEDGER_ID_MAX) return []
    return listLedgers(this.#zk, this.#root, (await this.#open()).layout, after, limit)
  }

  /** The node that an earlier try of this call made, or null: another's. */
  async #own(
    ledgerId: bigint,
    path: string,
    metadata: LedgerMetadata,
  ): Promise<VersionedLedgerMetadata | null> {
    const found = await this.#zk.get(path)
    if (found === null) return null
    const there = decoded(ledgerId, found)
    return there.metadata.cToken === metadata.cToken ? { ledgerId, metadata, version: there.version } : null
  }

  /** The folders of a ledger that is gone, upwards, as long as they are empty. Only tidiness: an error ends it. */
  async #dropEmpty(folder: string): Promise<void> {
    try {
      for (let path = folder; path.length > this.#root.length; path = parentOf(path)) {
        await this.#zk.delete(path, ANY_VERSION)
      }
    } catch {
      // Not empty, as a rule; a folder that is left costs nothing.
    }
  }

  async #path(ledgerId: bigint): Promise<string> {
    return `${this.#root}${ledgerPath((await this.#open()).layout, ledgerId)}`
  }

  async #open(): Promise<Opened> {
    if (this.#opened !== null) return this.#opened
    const { layout } = await readCluster(this.#zk, this.#root)
    // Calls that came at once read it each; the first that is back counts.
    this.#opened ??= { layout, ids: new LedgerIds(this.#zk, this.#root, layout === 'flat') }
    return this.#opened
  }

  /** Never 0, which says that there is none. */
  #token(): bigint {
    return BigInt.asIntN(64, Buffer.from(this.#random.bytes(8)).readBigInt64BE(0) | 1n)
  }
}

function decoded(ledgerId: bigint, { data, stat }: ZkNode): VersionedLedgerMetadata {
  return { ledgerId, metadata: decodeLedgerMetadata(data), version: stat.version }
}

function existsError(ledgerId: bigint): StratalogError {
  return new StratalogError('ledger_exists', `ledger ${ledgerId} has metadata already: allocate another id`, {
    expected: null,
    found: ledgerId.toString(),
  })
}

function missingError(ledgerId: bigint): StratalogError {
  return new StratalogError(
    'ledger_not_found',
    `there is no metadata of ledger ${ledgerId}: it was deleted, or is of another cluster`,
    {
      found: ledgerId.toString(),
    },
  )
}

function changedError(ledgerId: bigint, expected: number, found: number): StratalogError {
  const message = `the metadata of ledger ${ledgerId} was changed by another: read it again`
  return new StratalogError('conflict', message, { expected, found })
}

/** What is read after an answer was lost: as long as that fails, the outcome is as unknown as before. */
async function reread<T>(ledgerId: bigint, reading: Promise<T>): Promise<T> {
  try {
    return await reading
  } catch (cause) {
    throw unknownAfter(cause, ledgerId)
  }
}

/** An earlier try may have been carried out, whatever became of the last one. */
function unknownAfter(cause: unknown, ledgerId: bigint): StratalogError {
  return new StratalogError(
    'metadata_unavailable',
    `whether the metadata of ledger ${ledgerId} were changed is unknown: read them again`,
    { retryable: true, cause, details: { outcome: 'unknown' } },
  )
}
