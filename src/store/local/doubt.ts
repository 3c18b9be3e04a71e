import { StratalogError } from '../../model/errors.js'
import type { EntryAnswer } from '../../ports/segment-store.js'
import type { Ledger } from './ledger.js'
import type { Superblock } from './superblock.js'

/**
 * What an absent entry means. `missing` is a promise that this store never acknowledged the entry, so it is
 * given only where nothing that the ledger may have had here can be lost: a ledger has no frames in files
 * older than the one it was born in, and none that count above its seal.
 */
export class Doubt {
  /** The first generation that nothing can be lost of: no file of it was there at start. */
  readonly firstFreeOf: bigint
  readonly #uncleanGeneration: bigint
  readonly #corruptGeneration: bigint
  readonly #directory: string

  constructor(superblock: Superblock, directory: string) {
    this.firstFreeOf = superblock.generation + 1n
    this.#uncleanGeneration = superblock.uncleanGeneration
    this.#corruptGeneration = superblock.corruptGeneration
    this.#directory = directory
  }

  /** Throws `corrupt` where it is not known what the entry's absence means. */
  absent(ledgerId: bigint, ledger: Ledger | null, entryId: bigint): EntryAnswer {
    if (ledger?.deleted || (ledger !== null && ledger.seal !== null && entryId > ledger.seal.lastEntryId)) {
      return { kind: 'missing' }
    }
    this.checkNothingLost(ledgerId, ledger)
    const bornGeneration = ledger?.bornGeneration ?? 0n
    const sealedBefore = ledger?.seal != null && ledger.sealGeneration <= this.#uncleanGeneration
    if (this.#uncleanGeneration > 0n && bornGeneration <= this.#uncleanGeneration && !sealedBefore) {
      return { kind: 'suspect' }
    }
    return { kind: 'missing' }
  }

  /** Throws `corrupt` if durable frames of the ledger may be lost. */
  checkNothingLost(ledgerId: bigint, ledger: Ledger | null): void {
    if (this.#corruptGeneration === 0n || (ledger?.bornGeneration ?? 0n) > this.#corruptGeneration) return
    throw new StratalogError(
      'corrupt',
      `the store in ${this.#directory} has lost durable bytes, perhaps of ledger ${ledgerId}: ` +
        'ask the other stores, and repair this one',
    )
  }
}
