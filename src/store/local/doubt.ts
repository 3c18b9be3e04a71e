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

  /** Whether anything that was here may be lost. */
  get exists(): boolean {
    return this.#uncleanGeneration > 0n || this.#corruptGeneration > 0n
  }

  /** Throws `corrupt` where it is not known what the entry's absence means. */
  absent(ledgerId: bigint, ledger: Ledger | null, entryId: bigint): EntryAnswer {
    if (ledger?.deleted || (ledger !== null && ledger.seal !== null && entryId > ledger.seal.lastEntryId)) {
      return { kind: 'missing' }
    }
    this.checkNothingLost(ledgerId, ledger)
    if (this.mayHaveLostTail(ledger)) return { kind: 'suspect' }
    return { kind: 'missing' }
  }

  /**
   * Whether a run that was cut off may have taken frames of the ledger along. A seal that was durable before that says
   * that none is lost, since what came before it was durable, too; unless the ledger was in doubt already when it was
   * sealed (generation 0): a later end of the same kind must not make an earlier one forgotten.
   */
  mayHaveLostTail(ledger: Ledger | null): boolean {
    const bornGeneration = ledger?.bornGeneration ?? 0n
    if (this.#uncleanGeneration === 0n || bornGeneration > this.#uncleanGeneration) return false
    if (ledger?.seal == null || ledger.sealGeneration === 0n) return true
    return ledger.sealGeneration > this.#uncleanGeneration
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
