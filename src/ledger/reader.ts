import { openEntry } from '../format/ledger-digest.js'
import { present } from '../model/assert.js'
import { isStratalogError, StratalogError } from '../model/errors.js'
import { ensembleAt, type LedgerMetadata, lastEnsemble } from '../model/ledger.js'
import { writeSet } from '../model/quorum.js'
import type { SegmentStore } from '../ports/segment-store.js'
import { checked, covered, type LedgerEntry } from './answers.js'
import { ask, type LedgerContext, member } from './context.js'

/** How long one wait for a higher LAC lasts before the reader looks around again. */
const LONG_POLL_MS = 10_000
/** How long a waiting reader rests where no store can be asked. */
const RETRY_WAIT_MS = 1_000

/**
 * Reads a ledger without fencing it (FORMATS.md §4.6, §4.7): any replica serves, each entry's digest is checked, a
 * copy that is absent or damaged is fetched from the next replica. Holds no resources: needs no closing.
 */
export class LedgerReader {
  readonly ledgerId: bigint
  readonly #context: LedgerContext
  #metadata: LedgerMetadata
  /** Stores that hung once are asked last by this reader. */
  readonly #hung = new Set<string>()

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
    const { writeQuorum, ackQuorum } = metadata
    const ensemble = lastEnsemble(metadata)
    let lac = ensemble.firstEntryId - 1n
    const known = ensemble.members.map(() => false)
    const errors: unknown[] = []
    return new Promise((resolve, reject) => {
      const look = async (id: string, index: number) => {
        try {
          const found = await this.#lacOn(id, metadata)
          if (found > lac) lac = found
          known[index] = true
          // One of any Qw−Qa+1 stores was told of every acknowledged entry: slower ones need not be waited for.
          if (covered(known, writeQuorum, ackQuorum)) resolve(lac)
        } catch (error) {
          errors.push(error)
        }
      }
      const tooFew = `too few stores of ledger ${this.ledgerId} answer to know its last confirmed entry`
      void Promise.all(ensemble.members.map(look)).then(() =>
        reject(new StratalogError('store_unavailable', tooFew, { cause: errors[0], retryable: true })),
      )
    })
  }

  /** The highest LAC a store knows of. */
  async #lacOn(id: string, metadata: LedgerMetadata): Promise<bigint> {
    const answer = await ask(this.#context, id, (store) => store.readLac(this.ledgerId))
    const last = await checked(Promise.resolve(answer.last), metadata, this.ledgerId, null)
    const carried = last.kind === 'valid' ? last.entry.lac : -1n
    return carried > answer.explicitLac ? carried : answer.explicitLac
  }

  /**
   * Waits without polling a disk until a store knows a LAC above `above`, the ledger ends, or some seconds passed.
   * Which of these it was, the caller finds out by looking again.
   */
  async waitAbove(above: bigint, signal?: AbortSignal): Promise<void> {
    await this.refresh()
    const metadata = this.#metadata
    if (metadata.state === 'CLOSED') {
      // Its stores would say at once, again and again, that nothing more comes. What changes next is the row that
      // refers to the ledger, and the caller's signal tells of that.
      if (metadata.lastEntryId <= above) await this.#context.clock.sleep(LONG_POLL_MS, signal)
      return
    }
    // All of them are asked: the writer may have left any one behind, which would never hear of a higher LAC.
    const stop = new AbortController()
    const relay = () => stop.abort(signal?.reason)
    if (signal?.aborted) relay()
    signal?.addEventListener('abort', relay, { once: true })
    const wait = async (id: string) =>
      member(this.#context, id).waitForLac(this.ledgerId, above, LONG_POLL_MS, stop.signal)
    try {
      await Promise.any(lastEnsemble(metadata).members.map(wait))
    } catch {
      signal?.throwIfAborted()
      // None can be asked. The caller's next look says why, unless one is back by then.
      await this.#context.clock.sleep(RETRY_WAIT_MS, signal)
    } finally {
      signal?.removeEventListener('abort', relay)
      stop.abort()
    }
  }

  async refresh(): Promise<void> {
    this.#metadata = (await this.#context.metadata.read(this.ledgerId)).metadata
  }

  /**
   * Entries from `first` to at most `last`, in order and complete as far as they go: at least one, then as many as
   * `bytesMax` allows. The caller makes sure that `last` ≤ LAC. Rejects with `entry_missing` when every store of
   * the write set says it never had the entry: an acknowledged entry is lost.
   */
  async readEntries(
    first: bigint,
    last: bigint,
    bytesMax: number,
    signal?: AbortSignal,
  ): Promise<LedgerEntry[]> {
    const { ensembleSize, writeQuorum } = this.#metadata
    if (ensembleSize === writeQuorum) {
      const members = ensembleAt(this.#metadata, first)
      const preferred = Number(this.ledgerId % BigInt(members.length))
      for (let turn = 0; turn < members.length; turn += 1) {
        const id = present(members[(preferred + turn) % members.length], 'a member')
        const run = await this.#readRun(id, first, last, bytesMax, signal)
        if (run.length > 0) return run
      }
    }
    return [await this.#readOne(first, signal)]
  }

  /** A run of entries from one replica, as long as every one of them is there and valid. Empty: ask another. */
  async #readRun(
    id: string,
    first: bigint,
    last: bigint,
    bytesMax: number,
    signal?: AbortSignal,
  ): Promise<LedgerEntry[]> {
    const entries: LedgerEntry[] = []
    if (this.#hung.has(id)) return entries
    try {
      const read = (store: SegmentStore) => store.readEntries(this.ledgerId, first, last, bytesMax, signal)
      for (const bytes of await ask(this.#context, id, read)) {
        entries.push(
          openEntry(bytes, this.#metadata.digestType, this.ledgerId, first + BigInt(entries.length)),
        )
      }
    } catch (error) {
      signal?.throwIfAborted()
      if (isStratalogError(error, 'timeout')) this.#hung.add(id)
      const entry = (first + BigInt(entries.length)).toString()
      const fields = { err: error, ledger: this.ledgerId.toString(), entry, store: id }
      this.#context.logger.warn(fields, 'replica failed, reading another')
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
      const read = ask(this.#context, id, (store) =>
        store.readEntry(this.ledgerId, entryId, signal === undefined ? {} : { signal }),
      )
      const answer = await checked(read, this.#metadata, this.ledgerId, entryId)
      if (answer.kind === 'valid') return answer.entry
      if (answer.kind === 'unknown') errors.push(answer.error)
      if (answer.kind === 'suspect') errors.push(this.#suspectError(id, entryId))
    }
    signal?.throwIfAborted()
    // Any error outranks "no such entry": only when every store denies it, it is lost (FORMATS.md §4.7). What may
    // pass by itself outranks what stays.
    if (errors.length > 0) {
      const cause = errors.find((error) => isStratalogError(error) && error.retryable) ?? errors[0]
      const none = `no store could give entry ${entryId} of ledger ${this.ledgerId}`
      throw cause instanceof StratalogError
        ? cause
        : new StratalogError('store_unavailable', none, { cause, retryable: true })
    }
    // The ledger may have been deleted meanwhile: then this says so instead.
    await this.refresh()
    throw new StratalogError(
      'entry_missing',
      `entry ${entryId} of ledger ${this.ledgerId} is on none of its ${order.length} stores`,
      {
        expected: entryId,
        details: { ledgerId: this.ledgerId.toString() },
      },
    )
  }

  #suspectError(id: string, entryId: bigint): StratalogError {
    const what = `segment store ${id} was cut off and may have held entry ${entryId} of ledger ${this.ledgerId}`
    return new StratalogError('store_unavailable', `${what}: bring its replicas back`)
  }
}

/** Deletes a ledger everywhere: the metadata first, so that nobody opens it any more, then each store's copy. Idempotent. */
export async function deleteLedger(context: LedgerContext, ledgerId: bigint): Promise<void> {
  await context.metadata.delete(ledgerId)
  const results = await Promise.allSettled(context.stores.all().map((store) => store.deleteLedger(ledgerId)))
  const failed = results.flatMap((result) => (result.status === 'rejected' ? [result.reason as unknown] : []))
  if (failed.length > 0) {
    throw new StratalogError(
      'store_unavailable',
      `ledger ${ledgerId} could not be deleted on ${failed.length} stores: it is tried again`,
      {
        cause: failed[0],
        retryable: true,
      },
    )
  }
}
