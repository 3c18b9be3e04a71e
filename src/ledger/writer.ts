import { type EntryHeader, entryHeaderBytes } from '../format/ledger-digest.js'
import { PackagedEntry } from '../format/packaged-entry.js'
import { assert, present } from '../model/assert.js'
import { isStratalogError, StratalogError } from '../model/errors.js'
import { type LedgerMetadata, lastEnsemble } from '../model/ledger.js'
import { type Quorum, writeSet } from '../model/quorum.js'
import type { Timer } from '../ports/clock.js'
import type { VersionedLedgerMetadata } from '../ports/ledger-metadata.js'
import type { LedgerHeader, LedgerSeal, SegmentStore } from '../ports/segment-store.js'
import { AddQueue, type EntryAck, type EntryWaiter, PendingAdd } from './add-queue.js'
import type { LedgerContext, PlacementWish, WriterDigest } from './context.js'
import { changeOwnLedger, withEnsemble } from './ensembles.js'
import { segmentLabel } from './label.js'
import { mayHaveSpare, placeLedger, spareStores } from './placement.js'
import { ADD_TIMEOUT_MS, asError, Replica, type ReplicaEvents } from './replica.js'
import { sealOnStores } from './sealing.js'

/** How far a store may stay behind what is acknowledged at most: its entries are held in memory until it answers. */
export const REPLICA_LAG_BYTES_MAX: number = 64 * 2 ** 20
/** And how far behind its peers with all ledgers of the process together: many small ones must not add up to more. */
const STORE_LAG_BYTES_MAX = 256 * 2 ** 20
/** A ledger that found no store to replace another looks again after this long. */
const LOOK_AGAIN_MS = 10_000

export type { EntryAck, EntryWaiter } from './add-queue.js'

/** What a new ledger is for. */
export interface NewLedger {
  readonly quorum: Quorum
  readonly segment: LedgerHeader['segment']
  readonly preceding: LedgerHeader['preceding']
  /** How far a store may stay behind what is acknowledged (`limits.replica-lag`). @default 64 MiB, and never more */
  readonly replicaLagBytesMax?: number | null
}

/**
 * The one writer of one ledger (BookKeeper's LedgerHandle, FORMATS.md §4.2, §4.3): stripes entries over the ensemble,
 * acknowledges them in order once Qa stores are durable, and closes the ledger by compare-and-set.
 *
 * A store that fails, hangs or lags (`backpressure` is no failure: AddSender) is replaced by another one from the first
 * unacknowledged entry on. A store is a member of a ledger once, which bounds the changes. Where none is to be had
 * the ledger goes on without, while every write set has Qa members, else it fails with `not_enough_stores`.
 * Invariant 3: once any store or the metadata says that another opener is there, nothing pending is acknowledged.
 */
export class LedgerWriter {
  readonly ledgerId: bigint
  readonly digestType: WriterDigest
  readonly #context: LedgerContext
  readonly #header: LedgerHeader
  readonly #lagBytesMax: number
  readonly #group: string | undefined
  #current: VersionedLedgerMetadata
  /** By ensemble index. */
  readonly #replicas: Replica[]
  /** Stores that were ever asked to be members. */
  readonly #used: Set<string>
  readonly #queue = new AddQueue()
  readonly #events: ReplicaEvents = {
    stored: (replica, add) => this.#stored(replica, add),
    failed: (replica, error) => this.#replicaFailed(replica, error),
  }
  #failure: StratalogError | null = null
  #closing = false
  #watchdog: Timer | null = null
  /** Stores are being replaced; `#change` resolves when that is done. */
  #changing = false
  #change: Promise<void> | null = null
  /** A store failed while others were being replaced, maybe too late to be seen by that. */
  #missed = false
  /** A new ensemble that begins behind the LAC is being committed: nothing is acknowledged meanwhile. */
  #lacHeld = false
  #lookedMs = Number.NEGATIVE_INFINITY

  private constructor(
    context: LedgerContext,
    created: VersionedLedgerMetadata,
    header: LedgerHeader,
    stores: readonly SegmentStore[],
    lagBytesMax: number,
    group: string | undefined,
  ) {
    this.ledgerId = created.ledgerId
    this.digestType = context.digestType ?? 'CRC32C'
    this.#context = context
    this.#current = created
    this.#header = header
    this.#lagBytesMax = lagBytesMax
    this.#group = group
    this.#used = new Set(header.members)
    this.#replicas = stores.map((store, index) => this.#replica(store, index))
  }

  /**
   * Makes a new ledger on the stores that can be written, at most `quorum.ensemble`, at least `quorum.min` of them.
   * The metadata is durable before the first store hears of the ledger.
   */
  static async create(context: LedgerContext, options: NewLedger): Promise<LedgerWriter> {
    const { quorum, segment, preceding } = options
    const lagBytesMax = Math.min(REPLICA_LAG_BYTES_MAX, options.replicaLagBytesMax ?? REPLICA_LAG_BYTES_MAX)
    const stores = await placeLedger(context, quorum)
    const shape = {
      digestType: context.digestType ?? 'CRC32C',
      ensembleSize: stores.length,
      writeQuorum: Math.min(quorum.copies, stores.length),
      ackQuorum: quorum.ack,
    } as const
    const members = stores.map((store) => store.id)
    const ledgerId = await context.metadata.allocateId()
    const created = await context.metadata.create(ledgerId, {
      ...shape,
      formatVersion: 3,
      state: 'OPEN',
      lengthBytes: 0n,
      lastEntryId: -1n,
      ensembles: [{ firstEntryId: 0n, members }],
      password: new Uint8Array(0),
      ctimeMs: BigInt(context.clock.nowMs()),
      customMetadata: segmentLabel(context.stores.namedByMetadata === true ? segment : null),
      cToken: 0n,
    })
    const header = { ...shape, ledgerId, members, firstEntryId: 0n, segment, preceding }
    const writer = new LedgerWriter(context, created, header, stores, lagBytesMax, quorum.group)
    for (const replica of writer.#replicas) writer.#open(replica, header)
    return writer
  }

  /** Highest entry that is acknowledged, with all before it; −1n: none. */
  get lac(): bigint {
    return this.#queue.lac
  }

  /** Acknowledged payload bytes. */
  get lengthBytes(): number {
    return this.#queue.confirmedBytes
  }

  /** Entries that are sent and not yet acknowledged. */
  get inFlight(): number {
    return this.#queue.pending.length
  }

  /** Whether this ledger goes on with a store less than it should have. */
  get degraded(): boolean {
    return this.#replicas.some((replica) => replica.out !== null)
  }

  /** The ensemble, for those who show where a ledger is. */
  get members(): readonly string[] {
    return lastEnsemble(this.#metadata).members
  }

  get #metadata(): LedgerMetadata {
    return this.#current.metadata
  }

  /**
   * Sends an entry. `buffer` ends with the payload and has at least `entryHeaderBytes(digestType)` free bytes in front of
   * it, which this fills in; it belongs to the ledger from here on, also after the acknowledgement (a slower store may still write it):
   * see `EntryWaiter.released`.
   * Resolves in entry order; rejects with the ledger's failure.
   */
  append(buffer: Buffer, payloadBytes: number): Promise<EntryAck> {
    return new Promise((resolve, reject) => {
      const acknowledged = (entryId: bigint, copies: number) => resolve({ entryId, copies })
      this.appendTo(buffer, payloadBytes, { acknowledged, failed: reject })
    })
  }

  /** As `append`, for callers that bring their own waiter. */
  appendTo(buffer: Buffer, payloadBytes: number, waiter: EntryWaiter): void {
    const closing = () => new StratalogError('closed', `ledger ${this.ledgerId} is being closed`)
    const refused = this.#failure ?? (this.#closing ? closing() : null)
    if (refused !== null) {
      waiter.failed(refused)
      return
    }
    const entryId = this.#queue.nextEntryId
    const lengthBytes = BigInt(this.#queue.pushedBytes + payloadBytes)
    const { ledgerId, lac } = this
    const entry = this.#packaged(buffer, payloadBytes, { ledgerId, entryId, lac, lengthBytes })
    const sentMs = this.#context.clock.monotonicMs()
    const add = new PendingAdd(entryId, entry, payloadBytes, sentMs, waiter)
    this.#queue.push(add)
    for (const replica of this.#holders(entryId)) if (replica.out === null) replica.send(add)
    this.#leaveLaggards()
    this.#lookAgain()
    this.#watch()
  }

  /**
   * Waits for what is pending, then closes the ledger at its LAC by compare-and-set. Idempotent only in its effect:
   * call it once. Rejects with `fenced` when another has begun to recover the ledger, and with the ledger's failure.
   * `evenFailed`: a ledger that lost its stores is closed all the same. Nothing above its LAC was acknowledged, and
   * once the metadata end there nothing above is in it, whatever single stores hold: only then may its owner write
   * those records elsewhere.
   */
  async close(options: { readonly evenFailed?: boolean } = {}): Promise<LedgerSeal> {
    assert(!this.#closing, `ledger ${this.ledgerId} is closed twice`)
    this.#closing = true
    await this.#queue.drained()
    while (this.#changing) await this.#change
    // Nobody looks after a closed ledger that a store still owes much: it takes its place in the bound now.
    for (const replica of this.#replicas) {
      const error = this.#lagOf(replica)
      if (error !== null) replica.putOut(error)
    }
    const mayClose = options.evenFailed === true && this.#failure?.code !== 'fenced'
    if (this.#failure !== null && !mayClose) throw this.#failure
    const seal = { lastEntryId: this.lac, lengthBytes: this.lengthBytes }
    try {
      this.#current = await changeOwnLedger(this.#context, this.#current, (metadata) => ({
        ...metadata,
        state: 'CLOSED',
        lastEntryId: seal.lastEntryId,
        lengthBytes: BigInt(seal.lengthBytes),
      }))
    } catch (error) {
      // Also where it had failed before: that another has it now is what its owner must know.
      if (isStratalogError(error, 'fenced')) this.#fail(error)
      throw error
    }
    // A store that says `backpressure` gets its copies first: behind the seal it would refuse them.
    const waits = new Map(this.#replicas.map((replica) => [replica.store.id, replica]))
    await sealOnStores(this.#context, this.ledgerId, this.#metadata, seal, async (id) =>
      waits.get(id)?.idle(),
    )
    return seal
  }

  /** Resolves when every store has answered every add, as a benchmark that counts all copies needs it. */
  async settled(): Promise<void> {
    const owing = () => this.#replicas.some((replica) => replica.out === null && replica.owedEntries > 0)
    while ((owing() || this.#changing) && this.#failure === null) await this.#context.clock.sleep(1)
  }

  /** Gives the ledger up without closing it: what is pending fails. Recovery closes it later. */
  abandon(cause: StratalogError): void {
    this.#fail(cause)
  }

  #packaged(buffer: Buffer, payloadBytes: number, header: EntryHeader): PackagedEntry {
    // A batch leaves room for the largest header there is, whatever ledger it is for in the end.
    const spare = buffer.length - payloadBytes - entryHeaderBytes(this.digestType)
    const exact = spare === 0 ? buffer : buffer.subarray(spare)
    return this.digestType === 'CRC32C'
      ? PackagedEntry.inPlace(exact, header)
      : PackagedEntry.inPlaceWithCrc32(exact, header)
  }

  #replica(store: SegmentStore, index: number): Replica {
    return new Replica(store, index, this.ledgerId, this.#context, this.#events)
  }

  /** Tells a store of the ledger; not awaited: a store makes the header durable before any entry that comes after it. */
  #open(replica: Replica, header: LedgerHeader): void {
    replica.store
      .openLedger(header)
      .catch((error: unknown) => this.#replicaFailed(replica, asError(error, replica.store)))
  }

  /** The replicas an entry is striped over, in the ensemble as it is now. */
  #holders(entryId: bigint): readonly Replica[] {
    if (this.#metadata.writeQuorum === this.#replicas.length) return this.#replicas
    return writeSet(entryId, this.#replicas.length, this.#metadata.writeQuorum).map((index) =>
      present(this.#replicas[index], `replica ${index}`),
    )
  }

  #stored(replica: Replica, add: PendingAdd): void {
    // A copy on a store that was put out meanwhile may lie outside the entry's ensemble when it is acknowledged.
    if (this.#failure !== null || replica.out !== null) return
    add.stored(replica.index)
    this.#acknowledge()
  }

  /** Goes on without a store that is far behind what the others acknowledged: memory is bounded (invariant 11). */
  #leaveLaggards(): void {
    for (const replica of this.#replicas) {
      const error = this.#lagOf(replica)
      if (error !== null) this.#replicaFailed(replica, error)
    }
  }

  /** That a store is too far behind, null while it is not. What all stores have yet to write is no lag. */
  #lagOf({ owedBytes, store, out }: Replica): StratalogError | null {
    const behindBytes = owedBytes - this.#queue.inFlightBytes
    if (out !== null || behindBytes <= 0) return null
    if (behindBytes <= this.#lagBytesMax && this.#lagOfAll(store) <= STORE_LAG_BYTES_MAX) return null
    const message = `segment store ${store.id} is ${owedBytes} bytes behind the other stores`
    return new StratalogError('timeout', message, { retryable: true, found: owedBytes })
  }

  /** How far a store is behind the best of its peers here, with all ledgers of the process. */
  #lagOfAll(store: SegmentStore): number {
    const { health } = this.#context
    if (health === undefined) return 0
    const peers = this.#replicas.flatMap((peer) => (peer.out === null ? health.owedBytes(peer.store.id) : []))
    return health.owedBytes(store.id) - Math.min(...peers)
  }

  #acknowledge(): void {
    if (this.#failure !== null || this.#lacHeld) return
    this.#queue.confirm(this.#metadata.ackQuorum, this.#publishLac)
  }

  readonly #publishLac = (): void => {
    for (const { store, out } of this.#replicas) {
      if (out === null) store.writeLac(this.ledgerId, this.lac).catch(this.#lacNotPublished)
    }
  }

  readonly #lacNotPublished = (error: unknown): void => {
    this.#context.logger.debug({ err: error, ledger: this.ledgerId.toString() }, 'LAC not published')
  }

  #replicaFailed(replica: Replica, error: StratalogError): void {
    if (this.#failure !== null) return
    if (error.code === 'fenced') {
      this.#fail(
        new StratalogError(
          'fenced',
          `ledger ${this.ledgerId} was fenced: another writer took the stream over`,
          { cause: error },
        ),
      )
      return
    }
    if (replica.out !== null) return
    replica.putOut(error)
    this.#context.logger.warn(
      { err: error, ledger: this.ledgerId.toString(), store: replica.store.id },
      'ledger goes on without a store',
    )
    this.#replaceStores()
    this.#checkEnough()
  }

  #lookAgain(): void {
    if (this.#changing || !this.degraded) return
    if (this.#context.clock.monotonicMs() - this.#lookedMs >= LOOK_AGAIN_MS) this.#replaceStores()
  }

  /** Begins to put other stores in the places of those that are out, unless that is under way or hopeless. */
  #replaceStores(): void {
    this.#missed = this.#changing
    if (this.#changing || !mayHaveSpare(this.#context, this.#used)) return
    this.#changing = true
    this.#change = this.#replaceAll()
  }

  /** Never rejects. */
  async #replaceAll(): Promise<void> {
    try {
      while (await this.#replaceSome());
    } catch (error) {
      if (isStratalogError(error, 'fenced')) this.#fail(error)
      // Nothing is counted on the stores that were to go, so both ensembles hold what is acknowledged from here on.
      const fields = { err: error, ledger: this.ledgerId.toString() }
      this.#context.logger.warn(fields, 'stores of a ledger could not be replaced')
    } finally {
      this.#changing = false
      this.#lookedMs = this.#context.clock.monotonicMs()
      if (this.#missed) this.#replaceStores()
      this.#checkEnough()
    }
  }

  /** Where copies would be apart from those that stay, in the group that the ledger is kept in. */
  #wish(): PlacementWish {
    const beside = this.#replicas.flatMap(({ out, store }) => (out === null ? store.id : []))
    return { beside, ...(this.#group === undefined ? {} : { group: this.#group }) }
  }

  /** False: nothing is left to be replaced, or no store to replace it. */
  async #replaceSome(): Promise<boolean> {
    const outs = () => this.#replicas.filter((replica) => replica.out !== null).length
    const over = () => this.#failure !== null || (this.#closing && this.inFlight === 0)
    if (outs() === 0 || over()) return false
    const spare = await spareStores(this.#context, this.#used, outs(), this.#wish())
    if (spare.length === 0 || over()) return false
    this.#lacHeld = true
    try {
      await this.#changeEnsemble(spare)
    } finally {
      this.#lacHeld = false
      this.#acknowledge()
    }
    return true
  }

  /**
   * Commits an ensemble that begins with the first unacknowledged entry, then sends what is pending to its new stores.
   * The LAC stands still until the metadata are durable: an entry above it that was acknowledged earlier might have
   * copies nobody would look for. For the same reason copies on the stores that go count no more from here on, also
   * where the change fails: it may have been done all the same. A crash in between leaves new members that know
   * nothing, and say so.
   */
  async #changeEnsemble(spare: readonly SegmentStore[]): Promise<void> {
    const firstEntryId = this.lac + 1n
    const out = this.#replicas.filter((replica) => replica.out !== null)
    const fresh = spare.map((store, at) =>
      this.#replica(store, present(out[at], 'replica that is out').index),
    )
    const members = this.#replicas.map(
      (old) => (fresh.find((one) => one.index === old.index) ?? old).store.id,
    )
    for (const add of this.#queue.pending) for (const { index } of fresh) add.replaced(index)
    this.#current = await changeOwnLedger(this.#context, this.#current, (metadata) => ({
      ...metadata,
      ensembles: withEnsemble(metadata.ensembles, { firstEntryId, members }),
    }))
    if (this.#failure !== null) return
    for (const replica of fresh) {
      this.#used.add(replica.store.id)
      this.#replicas[replica.index] = replica
      this.#open(replica, { ...this.#header, members, firstEntryId })
    }
    this.#context.logger.info(
      { ledger: this.ledgerId.toString(), entry: firstEntryId.toString(), members },
      'ledger goes on with other stores',
    )
    for (const add of this.#queue.pending) {
      for (const replica of this.#holders(add.entryId)) {
        if (fresh.includes(replica)) replica.send(add)
      }
    }
    this.#publishLac()
  }

  #checkEnough(): void {
    // Whoever is replaced right now is looked at again when that is done.
    if (this.#failure !== null || this.#changing) return
    const left = this.#fewestLeft()
    if (left >= this.#metadata.ackQuorum) return
    const reasons = this.#replicas.flatMap(({ out }) => out ?? [])
    this.#fail(
      new StratalogError(
        'not_enough_stores',
        `ledger ${this.ledgerId} needs ${this.#metadata.ackQuorum} durable copies and ${left} of the stores of some entries are left: ${reasons.map((cause) => cause.message).join('; ')}`,
        {
          cause: reasons.at(-1),
          retryable: true,
          expected: this.#metadata.ackQuorum,
          found: left,
        },
      ),
    )
  }

  /** Stores left in the write set that has the fewest. */
  #fewestLeft(): number {
    const sizes = this.#replicas.map(
      (_, first) => this.#holders(BigInt(first)).filter(({ out }) => out === null).length,
    )
    return Math.min(...sizes)
  }

  #fail(error: StratalogError): StratalogError {
    if (this.#failure !== null) return this.#failure
    this.#failure = error
    this.#watchdog?.cancel()
    for (const replica of this.#replicas) replica.stop(error)
    this.#queue.fail(error)
    return error
  }

  /** A store that hangs must neither hold the head of the queue nor stay unnoticed behind faster ones. */
  #watch(): void {
    if (this.#watchdog !== null) return
    this.#watchdog = this.#context.clock.setTimer(ADD_TIMEOUT_MS / 3, () => {
      this.#watchdog = null
      if (this.#failure !== null) return
      for (const replica of this.#replicas) {
        if (replica.out !== null || !replica.looksHung()) continue
        const message = `segment store ${replica.store.id} made no progress with entries for ${ADD_TIMEOUT_MS} ms: look at its disk`
        this.#replicaFailed(replica, new StratalogError('timeout', message, { retryable: true }))
      }
      const owing = this.#replicas.some(({ out, owedEntries }) => out === null && owedEntries > 0)
      if (owing || this.inFlight > 0) this.#watch()
    })
  }
}
