import { asBuffer, corrupt } from '../../format/bytes.js'
import { encodeLacPacket, macKey, masterKey, openLacPacket } from '../../format/ledger-digest.js'
import type { PackagedEntry } from '../../format/packaged-entry.js'
import { assert, present } from '../../model/assert.js'
import { StratalogError } from '../../model/errors.js'
import type { DigestType } from '../../model/ledger.js'
import type {
  ControlFrame,
  EntryAnswer,
  LastEntryAnswer,
  LedgerHeader,
  LedgerSeal,
  LedgerSummary,
  SegmentStore,
  StoreStatus,
} from '../../ports/segment-store.js'
import type { BookieConnection } from './connection.js'
import { LacPublisher } from './lac-publisher.js'
import { BookieLink } from './link.js'
import { RunReader } from './read-run.js'
import { LAST_ENTRY, type ReadRequest } from './requests.js'
import type { Response } from './responses.js'
import type { BookieAddress, BookiePorts, BookieSettings } from './settings.js'
import { STATUS } from './status.js'

/** The bookie may answer a long poll early without news, as where it does not know the ledger yet. */
const POLL_PAUSE_MS = 50
/** Where the digest of a LAC packet begins: its length tells the kind. */
const LAC_FIELDS_BYTES = 16
const DIGEST_OF_BYTES: ReadonlyMap<number, DigestType> = new Map([
  [0, 'DUMMY'],
  [4, 'CRC32C'],
  [8, 'CRC32'],
  [20, 'HMAC'],
])

/** One bookie behind its port: what the ledger protocol sees of it. Connects when it is first needed. */
export function openBookie(
  address: BookieAddress,
  settings: BookieSettings,
  ports: BookiePorts,
): BookieStore {
  return new BookieStore(address, settings, ports)
}

/**
 * An Apache BookKeeper bookie (FORMATS.md §1). A bookie knows ledgers by their key and entries only: headers, seals and
 * what was deleted are in the ledgers' metadata, and bookies free what metadata do not name.
 */
export class BookieStore implements SegmentStore {
  readonly id: string
  readonly #address: BookieAddress
  readonly #settings: BookieSettings
  readonly #ports: BookiePorts
  readonly #masterKey: Uint8Array
  readonly #links: readonly BookieLink[]
  readonly #lacs: LacPublisher
  readonly #runs: RunReader = new RunReader((ledgerId, entryId) => this.readEntry(ledgerId, entryId))
  /** Ledgers that are written from here, until their seal: the digest of their LACs. */
  readonly #digests: Map<bigint, DigestType> = new Map()
  /** Bytes of entries that wait for the first connection. */
  #waitingBytes = 0
  #closed: StratalogError | null = null
  #closing: Promise<void> | null = null

  constructor(address: BookieAddress, settings: BookieSettings, ports: BookiePorts) {
    assert(settings.connections >= 1, 'a bookie has no connection')
    this.id = address.id
    this.#address = address
    this.#settings = settings
    this.#ports = ports
    this.#masterKey = masterKey(settings.password)
    this.#links = Array.from({ length: settings.connections }, () => new BookieLink(address, settings, ports))
    this.#lacs = new LacPublisher(ports.clock, settings.lacDelayMs, (id, lac) => this.#sendLac(id, lac))
  }

  async openLedger(header: LedgerHeader): Promise<void> {
    if (this.#closed !== null) throw this.#closed
    this.#digests.set(header.ledgerId, header.digestType)
  }

  addEntry(
    ledgerId: bigint,
    entryId: bigint,
    entry: PackagedEntry,
    options: { readonly recovery?: boolean } = {},
  ): Promise<void> {
    if (this.#closed !== null) return Promise.reject(this.#closed)
    const { bytes } = entry
    const refused = this.#refuse(bytes.length)
    if (refused !== null) return Promise.reject(refused)
    this.#lacs.carried(ledgerId, bytes)
    const recovery = options.recovery === true
    const { connection } = this.#link(ledgerId)
    return connection !== null
      ? connection.add(ledgerId, entryId, bytes, this.#masterKey, recovery)
      : this.#addConnected(ledgerId, entryId, bytes, recovery)
  }

  async readEntry(
    ledgerId: bigint,
    entryId: bigint,
    options: { readonly fence?: boolean; readonly signal?: AbortSignal } = {},
  ): Promise<EntryAnswer> {
    const { fence, signal } = options
    const request = { ledgerId, entryId, ...(fence === true ? { fence: this.#masterKey } : {}) }
    return this.#entryOf(await this.#read(request, signal), ledgerId, entryId)
  }

  readEntries(
    ledgerId: bigint,
    first: bigint,
    last: bigint,
    bytesMax: number,
    signal?: AbortSignal,
  ): Promise<Uint8Array[]> {
    return this.#runs.read(ledgerId, first, last, bytesMax, signal)
  }

  async fence(ledgerId: bigint): Promise<LastEntryAnswer> {
    const request = { ledgerId, entryId: LAST_ENTRY, fence: this.#masterKey }
    const answer = await this.#read(request)
    // The answer's `maxLAC` is the bookie's bare word: no digest covers it, and a recovery that begins behind a LAC that
    // never was writes too little again, or finds no end (invariant 1). The LAC in the entry is checked with it.
    return { last: this.#entryOf(answer, ledgerId, null), explicitLac: -1n }
  }

  async readLac(ledgerId: bigint): Promise<LastEntryAnswer> {
    const connection = await this.#connected(ledgerId)
    const answer = await connection.call({ operation: 'readLac', ledgerId })
    const last = this.#entryOf(answer, ledgerId, null)
    return { last, explicitLac: this.#explicitLac(ledgerId, answer) }
  }

  /** A digest that nobody ever needs is no reason to wait: an entry that follows soon carries the LAC as well. */
  writeLac(ledgerId: bigint, lac: bigint): Promise<void> {
    if (this.#closed !== null) return Promise.reject(this.#closed)
    return this.#lacs.publish(ledgerId, lac)
  }

  async waitForLac(
    ledgerId: bigint,
    above: bigint,
    timeoutMs: number,
    signal?: AbortSignal,
  ): Promise<bigint> {
    const { clock } = this.#ports
    const untilMs = clock.monotonicMs() + timeoutMs
    for (let known = -1n; ; ) {
      const leftMs = Math.max(0, Math.ceil(untilMs - clock.monotonicMs()))
      const longPoll = { previousLac: above, timeoutMs: leftMs }
      const answer = await this.#read({ ledgerId, entryId: LAST_ENTRY, longPoll }, signal)
      if (answer.maxLac !== null && answer.maxLac > known) known = answer.maxLac
      const stillMs = untilMs - clock.monotonicMs()
      if (known > above || stillMs <= 0) return known
      await clock.sleep(Math.min(POLL_PAUSE_MS, stillMs), signal)
      if (this.#closed !== null) throw this.#closed
    }
  }

  async sealLedger(ledgerId: bigint, _seal: LedgerSeal): Promise<void> {
    this.#digests.delete(ledgerId)
  }

  async deleteLedger(ledgerId: bigint): Promise<void> {
    this.#digests.delete(ledgerId)
  }

  async listLedgers(_after: bigint, _limit: number): Promise<LedgerSummary[]> {
    throw this.#unsupported('its ledgers: the metadata say what they are')
  }

  async putControl(_frame: ControlFrame): Promise<void> {
    throw this.#unsupported('decisions: they are in the metadata')
  }

  async listControls(): Promise<ControlFrame[]> {
    throw this.#unsupported('decisions: they are in the metadata')
  }

  async status(): Promise<StoreStatus> {
    const { host, port } = this.#address
    const pendingBytes = this.#inFlightBytes
    const known = { id: this.id, location: `${host}:${port}`, device: this.id, pendingBytes, corruptBytes: 0 }
    const nothing = { usedBytes: 0, freeBytes: 0, totalBytes: 0 }
    if (this.#closed !== null) {
      return { ...known, ...nothing, state: 'closed', reason: 'it was closed here' }
    }
    try {
      const connection = await this.#connected(0n)
      const answer = await connection.call({ operation: 'info' })
      const totalBytes = Number(answer.totalBytes ?? 0n)
      const freeBytes = Number(answer.freeBytes ?? 0n)
      return {
        ...known,
        state: 'writable',
        reason: null,
        totalBytes,
        freeBytes,
        usedBytes: totalBytes - freeBytes,
      }
    } catch (error) {
      if (!(error instanceof StratalogError)) throw error
      return { ...known, ...nothing, state: 'unreachable', reason: error.message }
    }
  }

  close(
    reason: StratalogError = new StratalogError('closed', `the way to bookie ${this.id} is closed`),
  ): Promise<void> {
    this.#closing ??= this.#close(reason)
    return this.#closing
  }

  async #close(closed: StratalogError): Promise<void> {
    this.#closed = closed
    this.#lacs.stop(closed)
    await Promise.all(this.#links.map((link) => link.close(closed)))
  }

  get #inFlightBytes(): number {
    let bytes = this.#waitingBytes
    for (const { connection } of this.#links) bytes += connection?.pendingBytes ?? 0
    return bytes
  }

  /** Why an entry can't be sent now, or ever; null where it can. */
  #refuse(bytes: number): StratalogError | null {
    const { inFlightBytesMax, frameBytesMax } = this.#settings
    if (bytes > frameBytesMax - FRAME_ROOM_BYTES) {
      const message = `an entry of ${bytes} bytes does not fit into a frame of ${frameBytesMax} bytes for bookie ${this.id}`
      return new StratalogError('invalid_argument', message, { expected: frameBytesMax, found: bytes })
    }
    const found = this.#inFlightBytes
    // One that is larger than the limit still goes when nothing else does.
    if (found === 0 || found + bytes <= inFlightBytesMax) return null
    const message = `${found} bytes are on their way to bookie ${this.id}, the limit is ${inFlightBytesMax}`
    return new StratalogError('backpressure', message, { retryable: true, expected: inFlightBytesMax, found })
  }

  async #addConnected(
    ledgerId: bigint,
    entryId: bigint,
    bytes: Uint8Array,
    recovery: boolean,
  ): Promise<void> {
    this.#waitingBytes += bytes.length
    let connection: BookieConnection
    try {
      connection = await this.#link(ledgerId).connect()
    } finally {
      this.#waitingBytes -= bytes.length
    }
    await connection.add(ledgerId, entryId, bytes, this.#masterKey, recovery)
  }

  #link(ledgerId: bigint): BookieLink {
    const at = this.#links.length === 1 ? 0 : Number(ledgerId % BigInt(this.#links.length))
    return present(this.#links[at], 'a link to the bookie')
  }

  async #connected(ledgerId: bigint): Promise<BookieConnection> {
    if (this.#closed !== null) throw this.#closed
    const link = this.#link(ledgerId)
    return link.connection ?? (await link.connect())
  }

  async #read(request: ReadRequest, signal?: AbortSignal): Promise<Response> {
    signal?.throwIfAborted()
    const connection = await this.#connected(request.ledgerId)
    return connection.read(request, signal)
  }

  /** What an answer says of an entry. `entryId` null: any of the ledger. */
  #entryOf(answer: Response, ledgerId: bigint, entryId: bigint | null): EntryAnswer {
    if (answer.status !== STATUS.ok) return { kind: 'missing' }
    const { body } = answer
    if (body === null) {
      // Of a ledger without entries a bookie has a LAC, and no last entry.
      if (answer.operation === 'readLac') return { kind: 'missing' }
      throw corrupt(`bookie ${this.id} answered a read of ledger ${ledgerId} without an entry`)
    }
    const found = body.length < ENTRY_IDS_BYTES ? null : asBuffer(body)
    const right =
      found?.readBigInt64BE(0) === ledgerId && (entryId === null || found.readBigInt64BE(8) === entryId)
    if (right) return { kind: 'entry', bytes: body }
    throw corrupt(
      `bookie ${this.id} answered with something else than entry ${entryId ?? 'ids'} of ledger ${ledgerId}: read another copy`,
    )
  }

  #explicitLac(ledgerId: bigint, { lacPacket }: Response): bigint {
    if (lacPacket === null || lacPacket.length === 0) return -1n
    const digest = DIGEST_OF_BYTES.get(lacPacket.length - LAC_FIELDS_BYTES)
    if (digest === undefined) {
      throw corrupt(`bookie ${this.id} has a LAC of ${lacPacket.length} bytes for ledger ${ledgerId}`)
    }
    const key = digest === 'HMAC' ? macKey(this.#settings.password) : undefined
    return openLacPacket(lacPacket, digest, ledgerId, key)
  }

  async #sendLac(ledgerId: bigint, lac: bigint): Promise<void> {
    const digest = this.#digests.get(ledgerId) ?? this.#settings.digest
    const key = digest === 'HMAC' ? macKey(this.#settings.password) : undefined
    const body = encodeLacPacket(digest, ledgerId, lac, key)
    const connection = await this.#connected(ledgerId)
    const { status } = await connection.call({
      operation: 'writeLac',
      ledgerId,
      lac,
      masterKey: this.#masterKey,
      body,
    })
    // A ledger that has no entry there has no LAC to be told of either.
    if (status !== STATUS.ok) this.#ports.logger.debug({ bookie: this.id, status }, 'LAC not taken')
  }

  #unsupported(what: string): StratalogError {
    return new StratalogError('unsupported', `a bookie does not keep ${what}`, { found: this.id })
  }
}

/** Ledger and entry id in front of an entry. */
const ENTRY_IDS_BYTES = 16
/** More than an add's frame has beside the entry. */
const FRAME_ROOM_BYTES = 256
