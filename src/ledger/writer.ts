import { packageEntryInPlace } from '../format/ledger-digest.js'
import { PackagedEntry } from '../format/packaged-entry.js'
import { assert, present } from '../model/assert.js'
import { isStratalogError, StratalogError } from '../model/errors.js'
import { type LedgerMetadata, lastEnsemble } from '../model/ledger.js'
import { type Quorum, writeSet } from '../model/quorum.js'
import type { Timer } from '../ports/clock.js'
import type { VersionedLedgerMetadata } from '../ports/ledger-metadata.js'
import type { LedgerHeader, LedgerSeal, SegmentStore } from '../ports/segment-store.js'
import { AddSender } from './add-sender.js'
import type { LedgerContext } from './context.js'

/** How long a store may take for an add before the writer goes on without it. */
const ADD_TIMEOUT_MS = 30_000

/** How far a store may stay behind what is acknowledged: its entries are held in memory until it answers. */
const REPLICA_LAG_BYTES_MAX = 64 * 2 ** 20
/** How long closing waits for stores to record the seal. */
const SEAL_WAIT_MS = 2_000

/** What an acknowledged entry says. */
export interface EntryAck {
  readonly entryId: bigint
  /** Stores that had it durably when it was acknowledged. */
  readonly copies: number
}

interface PendingAdd {
  readonly entryId: bigint
  readonly payloadBytes: number
  readonly sentMs: number
  /** Ensemble indexes that have not answered yet. */
  readonly waiting: Set<number>
  copies: number
  readonly resolve: (ack: EntryAck) => void
  readonly reject: (error: StratalogError) => void
}

export interface NewLedger {
  readonly quorum: Quorum
  readonly segment: LedgerHeader['segment']
  readonly preceding: LedgerHeader['preceding']
}

/**
 * The one writer of one ledger (BookKeeper's LedgerHandle, FORMATS.md §4.2): stripes entries over the ensemble,
 * acknowledges them in order once Qa stores are durable, and closes the ledger by compare-and-set.
 *
 * A store that fails an add (`backpressure` is no failure: AddSender) is left out of the rest of this ledger; the ledger goes on while every write set still
 * has Qa members, else it fails as a whole with `not_enough_stores`. Invariant 3: once any store says `fenced`,
 * nothing that is pending is acknowledged.
 */
export class LedgerWriter {
  readonly ledgerId: bigint
  readonly digestType = 'CRC32C' as const
  readonly #context: LedgerContext
  readonly #metadata: LedgerMetadata
  readonly #version: number
  readonly #stores: readonly SegmentStore[]
  /** By ensemble index. */
  readonly #senders: readonly AddSender[]
  /** Ensemble indexes this ledger goes on without, with the reason. */
  readonly #out = new Map<number, StratalogError>()
  readonly #pending: PendingAdd[] = []
  #lac = -1n
  #lastPushed = -1n
  /** Payload bytes up to the last pushed entry, and up to the LAC. */
  #pushedBytes = 0
  #confirmedBytes = 0
  /** By ensemble index: payload bytes sent to the store that it has not answered. */
  readonly #owedBytes: number[]
  #failure: StratalogError | null = null
  #closing = false
  #drained: (() => void)[] = []
  /** Adds that some store still has to answer, acknowledged or not. */
  #unsettled = 0
  #watchdog: Timer | null = null

  private constructor(
    context: LedgerContext,
    created: VersionedLedgerMetadata,
    stores: readonly SegmentStore[],
  ) {
    this.ledgerId = created.ledgerId
    this.#context = context
    this.#metadata = created.metadata
    this.#version = created.version
    this.#stores = stores
    this.#owedBytes = stores.map(() => 0)
    this.#senders = stores.map(
      (store) => new AddSender(store, created.ledgerId, context.clock, ADD_TIMEOUT_MS),
    )
  }

  /**
   * Makes a new ledger on the stores that can be written, at most `quorum.ensemble`, at least `quorum.min` of them.
   * The metadata is durable before the first store hears of the ledger.
   */
  static async create(context: LedgerContext, options: NewLedger): Promise<LedgerWriter> {
    const { quorum } = options
    const writable = await context.stores.writable()
    if (writable.length < quorum.min) throw await notEnoughStores(context, quorum, writable.length)
    const stores = writable.slice(0, quorum.ensemble)
    const writeQuorum = Math.min(quorum.copies, stores.length)
    const ledgerId = await context.metadata.allocateId()
    const members = stores.map((store) => store.id)
    const created = await context.metadata.create(ledgerId, {
      formatVersion: 3,
      ensembleSize: stores.length,
      writeQuorum,
      ackQuorum: quorum.ack,
      state: 'OPEN',
      lengthBytes: 0n,
      lastEntryId: -1n,
      ensembles: [{ firstEntryId: 0n, members }],
      digestType: 'CRC32C',
      password: new Uint8Array(0),
      ctimeMs: BigInt(context.clock.nowMs()),
      customMetadata: new Map(),
      cToken: 0n,
    })
    const writer = new LedgerWriter(context, created, stores)
    writer.#openOnStores({
      ledgerId,
      digestType: 'CRC32C',
      ensembleSize: stores.length,
      writeQuorum,
      ackQuorum: quorum.ack,
      members,
      firstEntryId: 0n,
      segment: options.segment,
      preceding: options.preceding,
    })
    return writer
  }

  /** Highest entry that is acknowledged, with all before it; −1n: none. */
  get lac(): bigint {
    return this.#lac
  }

  /** Acknowledged payload bytes. */
  get lengthBytes(): number {
    return this.#confirmedBytes
  }

  /** Entries that are sent and not yet acknowledged. */
  get inFlight(): number {
    return this.#pending.length
  }

  /** Stores this ledger goes on without. */
  get degraded(): boolean {
    return this.#out.size > 0
  }

  /**
   * Sends an entry. `buffer` has `entryHeaderBytes(digestType)` free bytes in front of the payload, which this fills
   * in; it belongs to the ledger from here on, also after the acknowledgement (a slower store may still write it).
   * Resolves in entry order; rejects with the ledger's failure.
   */
  append(buffer: Buffer, payloadBytes: number): Promise<EntryAck> {
    if (this.#failure !== null) return Promise.reject(this.#failure)
    if (this.#closing)
      return Promise.reject(new StratalogError('closed', `ledger ${this.ledgerId} is being closed`))
    const entryId = this.#lastPushed + 1n
    this.#lastPushed = entryId
    this.#pushedBytes += payloadBytes
    packageEntryInPlace(buffer, this.digestType, this.ledgerId, entryId, this.#lac, BigInt(this.#pushedBytes))
    const { promise, resolve, reject } = withResolvers<EntryAck>()
    const waiting = new Set(writeSet(entryId, this.#stores.length, this.#metadata.writeQuorum))
    for (const index of this.#out.keys()) waiting.delete(index)
    const sentMs = this.#context.clock.monotonicMs()
    const add: PendingAdd = { entryId, payloadBytes, sentMs, waiting, copies: 0, resolve, reject }
    this.#pending.push(add)
    this.#unsettled += 1
    const entry = new PackagedEntry(buffer)
    for (const index of [...waiting]) this.#send(add, index, entry)
    this.#leaveLaggards()
    this.#watch()
    return promise
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
    await new Promise<void>((resolve) => {
      this.#drained.push(resolve)
      this.#checkDrained()
    })
    const mayClose = options.evenFailed === true && this.#failure?.code !== 'fenced'
    if (this.#failure !== null && !mayClose) throw this.#failure
    const seal = { lastEntryId: this.#lac, lengthBytes: this.#confirmedBytes }
    try {
      await this.#context.metadata.compareAndSet(this.ledgerId, this.#version, {
        ...this.#metadata,
        state: 'CLOSED',
        lastEntryId: seal.lastEntryId,
        lengthBytes: BigInt(seal.lengthBytes),
        cToken: 0n,
      })
    } catch (error) {
      if (!isStratalogError(error, 'conflict')) throw error
      const fenced = new StratalogError(
        'fenced',
        `ledger ${this.ledgerId} was taken over by another opener while this writer closed it`,
        { cause: error },
      )
      this.#fail(fenced)
      // Also where it had failed before: that another has it now is what its owner must know.
      throw fenced
    }
    // A store that says `backpressure` gets its copies first: behind the seal it would refuse them.
    await sealOnStores(this.#context, this.#stores, this.ledgerId, seal, (index) =>
      present(this.#senders[index], `sender ${index}`).idle(),
    )
    return seal
  }

  /** Resolves when every store has answered every add, as a benchmark that counts all copies needs it. */
  async settled(): Promise<void> {
    while (this.#unsettled > 0 && this.#failure === null) await this.#context.clock.sleep(1)
  }

  /** Gives the ledger up without closing it: what is pending fails. Recovery closes it later. */
  abandon(cause: StratalogError): void {
    this.#fail(cause)
  }

  #openOnStores(header: LedgerHeader): void {
    this.#stores.forEach((store, index) => {
      // Not awaited: a store makes the header durable before any entry that comes after it.
      store.openLedger(header).catch((error: unknown) => this.#storeFailed(index, asError(error, store)))
    })
  }

  #send(add: PendingAdd, index: number, entry: PackagedEntry): void {
    const store = present(this.#stores[index], `store ${index}`)
    const sender = present(this.#senders[index], `sender ${index}`)
    this.#addOwed(index, add.payloadBytes)
    sender.send(add.entryId, entry).then(
      () => {
        this.#addOwed(index, -add.payloadBytes)
        this.#answered(add, index)
        if (this.#failure === null && !this.#out.has(index)) add.copies += 1
        this.#acknowledge()
      },
      (error: unknown) => {
        this.#addOwed(index, -add.payloadBytes)
        this.#answered(add, index)
        this.#storeFailed(index, asError(error, store))
      },
    )
  }

  #addOwed(index: number, bytes: number): void {
    this.#owedBytes[index] = (this.#owedBytes[index] ?? 0) + bytes
  }

  /** Goes on without a store that is far behind what the others acknowledged: memory is bounded (invariant 11). */
  #leaveLaggards(): void {
    const inFlightBytes = this.#pushedBytes - this.#confirmedBytes
    this.#owedBytes.forEach((owed, index) => {
      if (owed - inFlightBytes <= REPLICA_LAG_BYTES_MAX || this.#out.has(index)) return
      const message = `segment store ${this.#stores[index]?.id} is ${owed} bytes behind the other stores`
      this.#storeFailed(index, new StratalogError('timeout', message, { retryable: true, found: owed }))
    })
  }

  #answered(add: PendingAdd, index: number): void {
    if (add.waiting.delete(index) && add.waiting.size === 0) this.#unsettled -= 1
  }

  /** From the head of the queue only: acknowledgements come in entry order (FORMATS.md §4.2). */
  #acknowledge(): void {
    if (this.#failure !== null) return
    const acknowledged: PendingAdd[] = []
    for (
      let head = this.#pending[0];
      head !== undefined && head.copies >= this.#metadata.ackQuorum;
      head = this.#pending[0]
    ) {
      this.#pending.shift()
      this.#lac = head.entryId
      this.#confirmedBytes += head.payloadBytes
      acknowledged.push(head)
    }
    if (acknowledged.length === 0) return
    // Before the callers hear of it, so that whoever was told of a record can read it.
    this.#publishLac()
    for (const add of acknowledged) add.resolve({ entryId: add.entryId, copies: add.copies })
    this.#checkDrained()
  }

  #publishLac(): void {
    this.#stores.forEach((store, index) => {
      if (this.#out.has(index)) return
      store.writeLac(this.ledgerId, this.#lac).catch((error: unknown) => {
        this.#context.logger.debug(
          { err: error, ledger: this.ledgerId.toString(), store: store.id },
          'LAC not published',
        )
      })
    })
  }

  #storeFailed(index: number, error: StratalogError): void {
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
    if (!this.#out.has(index)) {
      this.#out.set(index, error)
      this.#context.logger.warn(
        { err: error, ledger: this.ledgerId.toString(), store: this.#stores[index]?.id },
        'ledger goes on without a store',
      )
      for (const add of this.#pending) this.#answered(add, index)
      this.#senders[index]?.stop(error)
    }
    const left = this.#fewestLeft()
    if (left >= this.#metadata.ackQuorum) return
    const reasons = [...this.#out.values()].map((cause) => cause.message).join('; ')
    this.#fail(
      new StratalogError(
        'not_enough_stores',
        `ledger ${this.ledgerId} needs ${this.#metadata.ackQuorum} durable copies and ${left} of the stores of some entries are left: ${reasons}`,
        {
          cause: error,
          retryable: true,
          expected: this.#metadata.ackQuorum,
          found: left,
        },
      ),
    )
  }

  /** Stores left in the write set that has the fewest. */
  #fewestLeft(): number {
    const { writeQuorum } = this.#metadata
    const sizes = this.#stores.map(
      (_, first) =>
        writeSet(BigInt(first), this.#stores.length, writeQuorum).filter((index) => !this.#out.has(index))
          .length,
    )
    return Math.min(...sizes)
  }

  #fail(error: StratalogError): StratalogError {
    if (this.#failure !== null) return this.#failure
    this.#failure = error
    this.#watchdog?.cancel()
    for (const sender of this.#senders) sender.stop(error)
    for (const add of this.#pending.splice(0)) add.reject(error)
    this.#checkDrained()
    return error
  }

  #checkDrained(): void {
    if (this.#pending.length > 0) return
    for (const resolve of this.#drained.splice(0)) resolve()
  }

  /** A store that hangs must not hold the head of the queue for ever. */
  #watch(): void {
    if (this.#watchdog !== null) return
    this.#watchdog = this.#context.clock.setTimer(ADD_TIMEOUT_MS / 2, () => {
      this.#watchdog = null
      const oldest = this.#pending[0]
      if (oldest === undefined || this.#failure !== null) return
      if (this.#context.clock.monotonicMs() - oldest.sentMs >= ADD_TIMEOUT_MS) {
        for (const index of [...oldest.waiting]) {
          const id = this.#stores[index]?.id
          this.#storeFailed(
            index,
            new StratalogError(
              'timeout',
              `segment store ${id} did not make entry ${oldest.entryId} durable within ${ADD_TIMEOUT_MS} ms`,
              { retryable: true },
            ),
          )
        }
      }
      this.#watch()
    })
  }

  /** The ensemble, for those who show where a ledger is. */
  get members(): readonly string[] {
    return lastEnsemble(this.#metadata).members
  }
}

/**
 * Tells stores where a ledger ends, each when it is `ready`. The metadata is the truth: a store that can't be told is
 * only logged.
 */
export async function sealOnStores(
  context: LedgerContext,
  stores: readonly SegmentStore[],
  ledgerId: bigint,
  seal: LedgerSeal,
  ready: (index: number) => Promise<void> = async () => {},
): Promise<void> {
  const tell = async (store: SegmentStore, index: number): Promise<void> => {
    try {
      await ready(index)
      await store.sealLedger(ledgerId, seal)
    } catch (error) {
      context.logger.warn(
        { err: error, ledger: ledgerId.toString(), store: store.id },
        'seal not recorded on a store',
      )
    }
  }
  const told = Promise.all(stores.map(tell))
  // A store that hangs must not hold up the next segment. It is told all the same, whenever it comes back.
  await new Promise<void>((resolve) => {
    const timer = context.clock.setTimer(SEAL_WAIT_MS, resolve)
    void told.then(() => {
      timer.cancel()
      resolve()
    })
  })
}

async function notEnoughStores(
  context: LedgerContext,
  quorum: Quorum,
  writable: number,
): Promise<StratalogError> {
  const states = await Promise.all(context.stores.all().map((store) => store.status().catch(() => null)))
  const why = states.flatMap((status) =>
    status === null || status.state === 'writable'
      ? []
      : [`${status.location}: ${status.reason ?? status.state}`],
  )
  return new StratalogError(
    'not_enough_stores',
    `${quorum.min} writable stores are needed and ${writable} can be written${why.length > 0 ? ` (${why.join('; ')})` : ''}: see "stratalog tier status"`,
    { retryable: true, expected: quorum.min, found: writable },
  )
}

function asError(error: unknown, store: SegmentStore): StratalogError {
  if (error instanceof StratalogError) return error
  return new StratalogError('store_unavailable', `segment store ${store.id} failed: ${String(error)}`, {
    cause: error,
    retryable: true,
  })
}

/** `Promise.withResolvers`, which Node 20 lacks. */
function withResolvers<T>(): {
  promise: Promise<T>
  resolve: (value: T) => void
  reject: (error: Error) => void
} {
  let resolve: (value: T) => void = () => {}
  let reject: (error: Error) => void = () => {}
  const promise = new Promise<T>((yes, no) => {
    resolve = yes
    reject = no
  })
  return { promise, resolve, reject }
}
