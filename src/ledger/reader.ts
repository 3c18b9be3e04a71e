import { openEntry } from '../format/ledger-digest.js'
import { present } from '../model/assert.js'
import { StratalogError } from '../model/errors.js'
import { ensembleAt, type LedgerMetadata, lastEnsemble } from '../model/ledger.js'
import { writeSet } from '../model/quorum.js'
import { checked, covered, type LedgerEntry } from './answers.js'
import { type LedgerContext, member } from './context.js'

/** How long one wait for a higher LAC lasts before the reader looks around again. */
const LONG_POLL_MS = 10_000

/**
 * Reads a ledger without fencing it (FORMATS.md §4.6, §4.7): any replica serves, each entry's digest is checked, a
 * copy that is absent or damaged is fetched from the next replica. Holds no resources: needs no closing.
 */
export class LedgerReader {
  readonly ledgerId: bigint
  readonly #context: LedgerContext
  #metadata: LedgerMetadata

  private constructor(context: LedgerContext, ledgerId: bigint, metadata: LedgerMetadata) {
    this.#context = context
    this.ledgerId = ledgerId
    this.#metadata = metadata
  }

  /** `ledger_not_found` when it was deleted. */
  static async open(context: LedgerContext, ledgerId: bigint): Promise<LedgerReader> {
    const { metadata } = await context.metadata.read(ledgerId)
    return new LedgerReader(context, ledgerId, metadata)
  }

  get metadata(): LedgerMetadata {
    return this.#metadata
  }

  /** The last entry a reader may see: the end of a closed ledger, else the highest LAC among enough stores. */
  async lastConfirmed(): Promise<bigint> {
    if (this.#metadata.state !== 'CLOSED') await this.refresh()
    const metadata = this.#metadata
    if (metadata.state === 'CLOSED') return metadata.lastEntryId
    const ensemble = lastEnsemble(metadata)
    let lac = ensemble.firstEntryId - 1n
    const errors: unknown[] = []
    const known = await Promise.all(
      ensemble.members.map(async (id) => {
        try {
          const answer = await member(this.#context, id).readLac(this.ledgerId)
          if (answer.explicitLac > lac) lac = answer.explicitLac
          const last = await checked(Promise.resolve(answer.last), metadata, this.ledgerId, null)
          if (last.kind === 'valid' && last.entry.lac > lac) lac = last.entry.lac
          return true
        } catch (error) {
          errors.push(error)
          return false
        }
      }),
    )
    if (covered(known, metadata.writeQuorum, metadata.ackQuorum)) return lac
    throw new StratalogError('store_unavailable', `too few stores of ledger ${this.ledgerId} answer to know its last confirmed entry`, {
      cause: errors[0],
      retryable: true,
    })
  }

  /**
   * Waits without polling a disk until a store knows a LAC above `above`, the ledger ends, or some seconds passed.
   * Which of these it was, the caller finds out by looking again.
   */
  async waitAbove(above: bigint, signal?: AbortSignal): Promise<void> {
    const stores = lastEnsemble(this.#metadata).members.flatMap((id) => this.#context.stores.get(id) ?? [])
    const store = present(stores[Number(this.ledgerId % BigInt(Math.max(1, stores.length)))] ?? stores[0], 'a reachable store')
    await store.waitForLac(this.ledgerId, above, LONG_POLL_MS, signal)
  }

  async refresh(): Promise<void> {
    this.#metadata = (await this.#context.metadata.read(this.ledgerId)).metadata
  }

  /**
   * Entries from `first` to at most `last`, in order and complete as far as they go: at least one, then as many as
   * `bytesMax` allows. The caller makes sure that `last` ≤ LAC. Rejects with `entry_missing` when every store of
   * the write set says it never had the entry: an acknowledged entry is lost.
   */
  async readEntries(first: bigint, last: bigint, bytesMax: number, signal?: AbortSignal): Promise<LedgerEntry[]> {
    const { ensembleSize, writeQuorum } = this.#metadata
    if (ensembleSize === writeQuorum) {
      const run = await this.#readRun(first, last, bytesMax, signal)
      if (run.length > 0) return run
    }
    return [await this.#readOne(first, signal)]
  }

  /** A run of entries from one replica, as long as every one of them is there and valid. Empty: ask each replica. */
  async #readRun(first: bigint, last: bigint, bytesMax: number, signal?: AbortSignal): Promise<LedgerEntry[]> {
    const members = ensembleAt(this.#metadata, first)
    const preferred = members[Number(this.ledgerId % BigInt(members.length))]
    const store = this.#context.stores.get(present(preferred, 'a member'))
    if (store === null) return []
    const entries: LedgerEntry[] = []
    try {
      for (const bytes of await store.readEntries(this.ledgerId, first, last, bytesMax, signal)) {
        entries.push(openEntry(bytes, this.#metadata.digestType, this.ledgerId, first + BigInt(entries.length)))
      }
    } catch (error) {
      signal?.throwIfAborted()
      this.#context.logger.warn({ err: error, ledger: this.ledgerId.toString(), entry: (first + BigInt(entries.length)).toString(), store: store.id }, 'replica failed, reading another')
    }
    return entries
  }

  async #readOne(entryId: bigint, signal?: AbortSignal): Promise<LedgerEntry> {
    const members = ensembleAt(this.#metadata, entryId)
    const errors: unknown[] = []
    const order = writeSet(entryId, this.#metadata.ensembleSize, this.#metadata.writeQuorum)
    for (const index of order) {
      signal?.throwIfAborted()
      const id = present(members[index], `member ${index}`)
      const read = async () => member(this.#context, id).readEntry(this.ledgerId, entryId, signal === undefined ? {} : { signal })
      const answer = await checked(read(), this.#metadata, this.ledgerId, entryId)
      if (answer.kind === 'valid') return answer.entry
      if (answer.kind === 'unknown') errors.push(answer.error)
    }
    signal?.throwIfAborted()
    // Any error outranks "no such entry": only when every store denies it, it is lost (FORMATS.md §4.7).
    if (errors.length > 0) {
      const cause = errors[0]
      throw cause instanceof StratalogError
        ? cause
        : new StratalogError('store_unavailable', `no store could give entry ${entryId} of ledger ${this.ledgerId}`, { cause, retryable: true })
    }
    // The ledger may have been deleted meanwhile: then this says so instead.
    await this.refresh()
    throw new StratalogError('entry_missing', `entry ${entryId} of ledger ${this.ledgerId} is on none of its ${order.length} stores`, {
      expected: entryId,
      details: { ledgerId: this.ledgerId.toString() },
    })
  }
}

/** Deletes a ledger everywhere: the metadata first, so that nobody opens it any more, then each store's copy. Idempotent. */
export async function deleteLedger(context: LedgerContext, ledgerId: bigint): Promise<void> {
  await context.metadata.delete(ledgerId)
  const results = await Promise.allSettled(context.stores.all().map((store) => store.deleteLedger(ledgerId)))
  const failed = results.flatMap((result) => (result.status === 'rejected' ? [result.reason as unknown] : []))
  if (failed.length > 0) {
    throw new StratalogError('store_unavailable', `ledger ${ledgerId} could not be deleted on ${failed.length} stores: it is tried again`, {
      cause: failed[0],
      retryable: true,
    })
  }
}
