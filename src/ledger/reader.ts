import { setMaxListeners } from 'node:events'
import { present } from '../model/assert.js'
import { isStratalogError, StratalogError } from '../model/errors.js'
import { ensembleAt, type LedgerMetadata, lastEnsemble } from '../model/ledger.js'
import { writeSet } from '../model/quorum.js'
import type { VersionedLedgerMetadata } from '../ports/ledger-metadata.js'
import type { SegmentStore } from '../ports/segment-store.js'
import { type CheckedAnswer, checked, covered, type LedgerEntry, openLedgerEntry } from './answers.js'
import { ask, type LedgerContext, member } from './context.js'
import { allMembers } from './ensembles.js'
import { firstAnswer, HedgeDelay } from './hedge.js'

/** How long one wait for a higher LAC lasts before the reader looks around again. */
const LONG_POLL_MS = 10_000
/** How long a waiting reader rests where no store can be asked. */
const RETRY_WAIT_MS = 1_000
/** A store that was late is asked last for this long. */
const LATE_MS = 10_000
/** Consecutive entries that are read from one replica before the next one has its turn. */
const STRETCH_ENTRIES = 256n

/** What one replica gave of a run. */
interface Run {
  readonly entries: LedgerEntry[]
  readonly head: Uint8Array | null
  readonly error: unknown
}

/**
 * Reads a ledger without fencing it (FORMATS.md §4.6, §4.7): any replica serves, each entry's digest is checked, a
 * copy that is absent, damaged or late is fetched from the next replica. Holds no resources: needs no closing.
 */
export class LedgerReader {
  readonly ledgerId: bigint
  readonly #context: LedgerContext
  #metadata: LedgerMetadata
  readonly #delay = new HedgeDelay()
  readonly #lateUntilMs = new Map<string, number>()

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
    // One listener or two a member, and there may be 31: more than Node.js takes for a leak.
    setMaxListeners(0, stop.signal)
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
      const run = await this.#readRun(first, last, bytesMax, signal)
      if (run !== null) return run
    }
    return [await this.#readOne(first, signal)]
  }

  /** Stores that hold an entry, in the order they are asked: another one first for each stretch of entries. */
  #holders(entryId: bigint): string[] {
    const members = ensembleAt(this.#metadata, entryId)
    const { ensembleSize, writeQuorum } = this.#metadata
    // By ledger and stretch of entries, so that the disks share the load and each still reads in sequence.
    const turn = Number((this.ledgerId + entryId / STRETCH_ENTRIES) % BigInt(members.length))
    const order =
      ensembleSize === writeQuorum
        ? [...members.slice(turn), ...members.slice(0, turn)]
        : writeSet(entryId, ensembleSize, writeQuorum).map((index) => present(members[index], 'a member'))
    const { stores, clock } = this.#context
    // The nearest first where that is known; those that are as near share the load.
    if (stores.distance !== undefined)
      order.sort((a, b) => (stores.distance?.(a) ?? 0) - (stores.distance?.(b) ?? 0))
    const nowMs = clock.monotonicMs()
    const late = (id: string) => (this.#lateUntilMs.get(id) ?? nowMs) > nowMs
    return [...order.filter((id) => !late(id)), ...order.filter(late)]
  }

  /** The first good answer of the stores that hold an entry, the next one asked too where one is late. */
  async #first<T>(
    entryId: bigint,
    read: (id: string, signal: AbortSignal) => Promise<T | null>,
    signal?: AbortSignal,
  ): Promise<T | null> {
    const { clock } = this.#context
    const timed = async (id: string, stop: AbortSignal): Promise<T | null> => {
      const beganMs = clock.monotonicMs()
      const found = await read(id, stop)
      if (found !== null) this.#delay.took(clock.monotonicMs() - beganMs)
      return found
    }
    const found = await firstAnswer(clock, this.#holders(entryId), this.#delay.delayMs, timed, signal)
    for (const id of found?.late ?? []) this.#leaveAside(id)
    return found?.value ?? null
  }

  #leaveAside(id: string): void {
    this.#lateUntilMs.set(id, this.#context.clock.monotonicMs() + LATE_MS)
  }

  /** A run of entries from one replica, as long as every one of them is there and valid. Null: ask for one alone. */
  async #readRun(
    first: bigint,
    last: bigint,
    bytesMax: number,
    signal?: AbortSignal,
  ): Promise<LedgerEntry[] | null> {
    const refused = new Map<string, CheckedAnswer | null>()
    const run = await this.#first(
      first,
      async (id, stop) => {
        const { entries, head, error } = await this.#runOf(id, first, last, bytesMax, stop)
        if (head !== null) return { entries, head }
        if (!stop.aborted) refused.set(id, error === null ? null : { kind: 'unknown', error })
        return null
      },
      signal,
    )
    if (run === null) return null
    for (const [id, answer] of refused) void this.#report(id, first, run.head, answer)
    return run.entries
  }

  /** What one replica gives of a run, as far as it is valid; `head`: the first entry as it is packaged. */
  async #runOf(id: string, first: bigint, last: bigint, bytesMax: number, signal: AbortSignal): Promise<Run> {
    const entries: LedgerEntry[] = []
    let head: Uint8Array | null = null
    try {
      const read = (store: SegmentStore) => store.readEntries(this.ledgerId, first, last, bytesMax, signal)
      for (const bytes of await ask(this.#context, id, read, signal)) {
        const entryId = first + BigInt(entries.length)
        entries.push(openLedgerEntry(bytes, this.#metadata, this.ledgerId, entryId))
        head ??= bytes
      }
      return { entries, head, error: null }
    } catch (error) {
      if (signal.aborted) return { entries: [], head: null, error }
      if (isStratalogError(error, 'timeout')) this.#leaveAside(id)
      const entry = (first + BigInt(entries.length)).toString()
      const fields = { err: error, ledger: this.ledgerId.toString(), entry, store: id }
      this.#context.logger.warn(fields, 'replica failed, reading another')
      return { entries, head, error }
    }
  }

  async #readOne(entryId: bigint, signal?: AbortSignal): Promise<LedgerEntry> {
    for (;;) {
      const asked = this.#metadata
      const refused = new Map<string, CheckedAnswer>()
      const found = await this.#first(
        entryId,
        async (id, stop) => {
          const read = (store: SegmentStore) => store.readEntry(this.ledgerId, entryId, { signal: stop })
          const answer = await checked(ask(this.#context, id, read, stop), asked, this.ledgerId, entryId)
          if (answer.kind === 'valid') return answer
          if (!stop.aborted) refused.set(id, answer)
          return null
        },
        signal,
      )
      if (found !== null) {
        for (const [id, answer] of refused) void this.#report(id, entryId, found.bytes, answer)
        return found.entry
      }
      signal?.throwIfAborted()
      const failure = this.#noCopy(entryId, refused)
      if (!(await this.#moved(entryId, asked, failure))) throw failure
    }
  }

  /** Whether the entry is elsewhere by now. The ledger may also have been deleted meanwhile: then this says so. */
  async #moved(entryId: bigint, asked: LedgerMetadata, failure: StratalogError): Promise<boolean> {
    try {
      await this.refresh()
    } catch (error) {
      throw isStratalogError(error, 'ledger_not_found') || failure.code === 'entry_missing' ? error : failure
    }
    return ensembleAt(this.#metadata, entryId).join() !== ensembleAt(asked, entryId).join()
  }

  /**
   * Any error outranks "no such entry": only when every store denies it, it is lost (FORMATS.md §4.7). What may pass by
   * itself outranks what stays.
   */
  #noCopy(entryId: bigint, refused: ReadonlyMap<string, CheckedAnswer>): StratalogError {
    const errors = [...refused].flatMap(([id, answer]) => {
      if (answer.kind === 'unknown') return [answer.error]
      return answer.kind === 'suspect' ? [this.#suspectError(id, entryId)] : []
    })
    if (errors.length > 0) {
      const cause = errors.find((error) => isStratalogError(error) && error.retryable) ?? errors[0]
      const none = `no store could give entry ${entryId} of ledger ${this.ledgerId}`
      return cause instanceof StratalogError
        ? cause
        : new StratalogError('store_unavailable', none, { cause, retryable: true })
    }
    return new StratalogError(
      'entry_missing',
      `entry ${entryId} of ledger ${this.ledgerId} is on none of its ${refused.size} stores`,
      {
        expected: entryId,
        details: { ledgerId: this.ledgerId.toString() },
      },
    )
  }

  /**
   * Says which copy of a closed ledger has to be mended: one that its store denies, may have lost, or that fails its
   * digest. A store that can't be reached says nothing about its copy. `answer` null: a run that did not begin, where
   * only the store's word on this one entry counts. Never rejects.
   */
  async #report(id: string, entryId: bigint, good: Uint8Array, answer: CheckedAnswer | null): Promise<void> {
    const { damaged, logger } = this.#context
    const metadata = this.#metadata
    if (damaged === undefined || metadata.state !== 'CLOSED') return
    const read = (store: SegmentStore) => store.readEntry(this.ledgerId, entryId)
    const found = answer ?? (await checked(ask(this.#context, id, read), metadata, this.ledgerId, entryId))
    const reason = this.#damage(id, entryId, found)
    if (reason === null) return
    try {
      // A copy: the caller of the read may do with its entries what it likes.
      damaged({ ledgerId: this.ledgerId, entryId, storeId: id, bytes: Uint8Array.from(good), reason })
    } catch (error) {
      logger.error(
        { err: error, ledger: this.ledgerId.toString(), store: id },
        'a damaged copy was not noted',
      )
    }
  }

  #damage(id: string, entryId: bigint, answer: CheckedAnswer): unknown {
    if (answer.kind === 'suspect') return this.#suspectError(id, entryId)
    if (answer.kind === 'unknown') return isStratalogError(answer.error, 'corrupt') ? answer.error : null
    if (answer.kind === 'valid') return null
    const denied = `segment store ${id} does not have entry ${entryId} of ledger ${this.ledgerId}`
    return new StratalogError('entry_missing', denied, { expected: entryId })
  }

  #suspectError(id: string, entryId: bigint): StratalogError {
    const what = `segment store ${id} was cut off and may have held entry ${entryId} of ledger ${this.ledgerId}`
    return new StratalogError('store_unavailable', `${what}: bring its replicas back`)
  }
}

/** Changes of a ledger's metadata while it is deleted: each round one of them was made. */
const DELETE_ROUNDS_MAX = 8

/** Why a ledger with these metadata must not be deleted; null: it may. */
export type DeleteRefusal = (metadata: LedgerMetadata) => StratalogError | null

/**
 * Deletes a ledger from every store it was ever placed on, then its metadata: while one can't be reached the metadata
 * stay and name it, so that no copy is left behind that nobody knows of. Bookies free by themselves what metadata do not
 * name any more: there the metadata alone go, and one that is down keeps nothing. The caller has made sure that nobody
 * refers to the ledger any more (invariant 4); `refusal` judges the very metadata that are deleted. Rejects with its
 * error, or with `store_unavailable` (retryable) where a store has to be asked again. Idempotent.
 */
export async function deleteLedger(
  context: LedgerContext,
  ledgerId: bigint,
  refusal: DeleteRefusal = () => null,
): Promise<void> {
  for (let round = 1; ; round += 1) {
    const found = await foundMetadata(context, ledgerId)
    const refused = found === null ? null : refusal(found.metadata)
    if (refused !== null) throw refused
    if (context.stores.namedByMetadata !== true)
      await deleteCopies(context, ledgerId, found?.metadata ?? null)
    if (found === null) return
    try {
      return await context.metadata.delete(ledgerId, found.version)
    } catch (error) {
      // A repair or a recovery was at it: what it made of the ledger is looked at again.
      if (!isStratalogError(error, 'conflict') || round === DELETE_ROUNDS_MAX) throw error
    }
  }
}

/** Null: an earlier attempt came as far as that. */
async function foundMetadata(
  { metadata }: LedgerContext,
  ledgerId: bigint,
): Promise<VersionedLedgerMetadata | null> {
  try {
    return await metadata.read(ledgerId)
  } catch (error) {
    if (isStratalogError(error, 'ledger_not_found')) return null
    throw error
  }
}

async function deleteCopies(
  context: LedgerContext,
  ledgerId: bigint,
  metadata: LedgerMetadata | null,
): Promise<void> {
  const all = context.stores.all().map((store) => store.id)
  // Whoever deleted the metadata must have forgotten it, too.
  const owed = new Set(metadata === null ? all : allMembers(metadata.ensembles))
  // A store that was replaced before it held anything acknowledged is in no ensemble and may hold some bytes all the
  // same: it is asked too, but what never counted must not keep a ledger from going.
  const ids = new Set([...owed, ...all])
  const failed: unknown[] = []
  const forget = async (id: string): Promise<void> => {
    try {
      await ask(context, id, (store) => store.deleteLedger(ledgerId))
    } catch (error) {
      if (owed.has(id)) failed.push(error)
      else
        context.logger.debug(
          { err: error, ledger: ledgerId.toString(), store: id },
          'ledger not deleted here',
        )
    }
  }
  await Promise.all([...ids].map(forget))
  if (failed.length === 0) return
  throw new StratalogError(
    'store_unavailable',
    `ledger ${ledgerId} could not be deleted on ${failed.length} stores: it is tried again`,
    { cause: failed[0], retryable: true },
  )
}
