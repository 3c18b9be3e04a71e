import type { Socket } from 'node:net'
import { corrupt } from '../../format/bytes.js'
import { assert } from '../../model/assert.js'
import { StratalogError } from '../../model/errors.js'
import type { Timer } from '../../ports/clock.js'
import { FrameReader } from './frames.js'
import { Outgoing } from './outgoing.js'
import {
  HEAD_BYTES_MAX,
  LAST_ENTRY,
  type Operation,
  type RareRequest,
  type ReadRequest,
  rareFrame,
  writeAddHead,
  writeRead,
} from './requests.js'
import { decodeResponse, type Response } from './responses.js'
import type { BookiePorts, BookieSettings } from './settings.js'
import { STATUS, statusError } from './status.js'

/** Requests whose time is over are looked for so often in the time that they have. */
const LOOKS = 10
/** A long poll is answered by the bookie's own timer; this much later it counts as lost. */
const LONG_POLL_GRACE_MS = 2_000

/** A request on its way. */
interface Pending {
  readonly operation: Operation
  /** Null where the answer names no ledger. */
  readonly ledgerId: bigint | null
  /** Null where the answer names no entry, or any. */
  readonly entryId: bigint | null
  /** Of an add's body: what the bound of memory counts. */
  readonly bodyBytes: number
  readonly sentMs: number
  /** When its time is over, had this process never stood still. */
  readonly deadlineMs: number
  readonly resolve: (answer: Response) => void
  readonly reject: (error: unknown) => void
}

/** What happens to a connection. */
export interface ConnectionEvents {
  /** The bookie answered a request: it is there, and speaks the protocol. Called for the first answer. */
  answered(): void
  /** It is over, and every request on it has failed. Called once, unless it was closed from here. */
  ended(error: StratalogError): void
}

/**
 * One connection to a bookie, ready for requests: they are pipelined, and answers come in any order, matched by
 * transaction. Whatever a bookie sends, a request ends within its time: by its answer, by `timeout`, or with the
 * connection. A bookie that sends what no bookie sends, or nothing at all for the time of a request, loses the
 * connection: what else it says on it can't be trusted.
 */
export class BookieConnection {
  readonly #id: string
  readonly #socket: Socket
  readonly #settings: BookieSettings
  readonly #ports: BookiePorts
  readonly #events: ConnectionEvents
  readonly #frames: FrameReader
  readonly #outgoing: Outgoing = new Outgoing()
  /** By transaction, in the order they were sent. */
  readonly #pending: Map<number, Pending> = new Map()
  #pendingBytes = 0
  #lastTxnId = 0
  #heardMs: number
  #answered = false
  #flushing = false
  #looking: Timer | null = null
  /** How long this process did not get to look, in all: that is not the bookie's time. */
  #stoodStillMs = 0
  #drained: (() => void)[] = []
  #error: StratalogError | null = null

  constructor(
    id: string,
    socket: Socket,
    settings: BookieSettings,
    ports: BookiePorts,
    events: ConnectionEvents,
  ) {
    this.#id = id
    this.#socket = socket
    this.#settings = settings
    this.#ports = ports
    this.#events = events
    this.#frames = new FrameReader(settings.frameBytesMax)
    this.#heardMs = ports.clock.monotonicMs()
    // Only what waits for an answer keeps the process alive.
    socket.unref()
    socket.on('data', this.#received)
    socket.on('error', (cause) => this.end(this.#lost('broke', cause)))
    socket.on('close', () => this.end(this.#lost('was closed by the bookie', null)))
  }

  /**
   * Bytes of entries that are on their way. What the socket still has counts also where nobody waits for it any more: an
   * add that timed out takes its memory until its bytes are sent (invariant 11).
   */
  get pendingBytes(): number {
    return Math.max(this.#pendingBytes, this.#socket.writableLength)
  }

  /** Sends an entry; resolves when the bookie has it on disk. */
  add(
    ledgerId: bigint,
    entryId: bigint,
    body: Uint8Array,
    masterKey: Uint8Array,
    recovery: boolean,
  ): Promise<void> {
    return new Promise((resolve, reject) => {
      if (this.#error !== null) return reject(this.#error)
      const bodyBytes = body.length
      const { buffer, at } = this.#outgoing.reserve(HEAD_BYTES_MAX)
      this.#lastTxnId += 1
      const head = { ledgerId, entryId, masterKey, bodyBytes, recovery }
      this.#outgoing.filled(writeAddHead(buffer, at, this.#lastTxnId, head))
      this.#outgoing.append(body)
      const done = resolve as () => void
      this.#sent('add', ledgerId, entryId, bodyBytes, this.#settings.addTimeoutMs, done, reject)
    })
  }

  /** Reads an entry. An entry or a ledger that the bookie has not is an answer; every other refusal is an error. */
  read(request: ReadRequest, signal?: AbortSignal): Promise<Response> {
    return this.#cancellable(signal, (resolve, reject) => {
      const { buffer, at } = this.#outgoing.reserve(HEAD_BYTES_MAX)
      this.#lastTxnId += 1
      this.#outgoing.filled(writeRead(buffer, at, this.#lastTxnId, request))
      const { ledgerId, longPoll } = request
      const timeoutMs =
        longPoll === undefined ? this.#settings.readTimeoutMs : longPoll.timeoutMs + LONG_POLL_GRACE_MS
      // The answer to a long poll names the entry that it brings along.
      const entryId = longPoll === undefined ? request.entryId : null
      this.#sent('read', ledgerId, entryId, 0, timeoutMs, resolve, reject)
    })
  }

  /** Any other request. As with reads, what the bookie has not is an answer. */
  call(request: RareRequest): Promise<Response> {
    return this.#cancellable(undefined, (resolve, reject) => {
      this.#lastTxnId += 1
      this.#outgoing.append(rareFrame(this.#lastTxnId, request))
      const ledgerId = 'ledgerId' in request ? request.ledgerId : null
      this.#sent(request.operation, ledgerId, null, 0, this.#settings.readTimeoutMs, resolve, reject)
    })
  }

  /** Resolves when no add is on its way any more, by answer or by timeout. */
  drained(): Promise<void> {
    return new Promise((resolve) => {
      this.#drained.push(resolve)
      this.#checkDrained()
    })
  }

  /** Ends the connection: every request on it fails. */
  end(error: StratalogError): void {
    if (this.#error !== null) return
    this.#error = error
    this.#looking?.cancel()
    this.#socket.destroy()
    const pending = [...this.#pending.values()]
    this.#pending.clear()
    this.#pendingBytes = 0
    for (const { reject } of pending) reject(error)
    this.#checkDrained()
    this.#events.ended(error)
  }

  #cancellable(
    signal: AbortSignal | undefined,
    send: (resolve: (answer: Response) => void, reject: (error: unknown) => void) => void,
  ): Promise<Response> {
    return new Promise((resolve, reject) => {
      if (signal?.aborted === true) return reject(signal.reason)
      if (this.#error !== null) return reject(this.#error)
      if (signal === undefined) return send(resolve, reject)
      // The request stays on its way: its answer, or its end, is heard by nobody.
      const aborted = (): void => reject(signal.reason)
      signal.addEventListener('abort', aborted, { once: true })
      const end = (): void => signal.removeEventListener('abort', aborted)
      send(
        (answer) => {
          end()
          resolve(answer)
        },
        (error) => {
          end()
          reject(error)
        },
      )
    })
  }

  #sent(
    operation: Operation,
    ledgerId: bigint | null,
    entryId: bigint | null,
    bodyBytes: number,
    timeoutMs: number,
    resolve: (answer: Response) => void,
    reject: (error: unknown) => void,
  ): void {
    const sentMs = this.#ports.clock.monotonicMs()
    const deadlineMs = sentMs + timeoutMs - this.#stoodStillMs
    const request = { operation, ledgerId, entryId, bodyBytes, sentMs, deadlineMs, resolve, reject }
    if (this.#pending.size === 0) this.#socket.ref()
    this.#pending.set(this.#lastTxnId, request)
    this.#pendingBytes += bodyBytes
    this.#look()
    if (this.#flushing) return
    this.#flushing = true
    setImmediate(this.#flush)
  }

  readonly #flush = (): void => {
    this.#flushing = false
    if (this.#error === null) this.#outgoing.flush(this.#socket)
  }

  readonly #received = (chunk: Buffer): void => {
    this.#heardMs = this.#ports.clock.monotonicMs()
    try {
      this.#frames.push(chunk, this.#frame)
    } catch (cause) {
      this.end(this.#garbage(cause))
    }
  }

  readonly #frame = (buffer: Buffer, at: number, end: number, own: boolean): void => {
    if (this.#error !== null) return
    const answer = decodeResponse(buffer, at, end, own)
    const request = this.#pending.get(answer.txnId)
    if (request === undefined) {
      // Its time was over, or the same answer came twice. One that was never asked for is another matter.
      if (answer.txnId <= this.#lastTxnId) return
      throw corrupt(`an answer names transaction ${answer.txnId}, the last one was ${this.#lastTxnId}`)
    }
    this.#checkAnswer(request, answer)
    this.#settle(answer.txnId, request)
    if (!this.#answered) {
      this.#answered = true
      this.#events.answered()
    }
    const absent = answer.status === STATUS.noLedger || answer.status === STATUS.noEntry
    if (answer.status === STATUS.ok || (absent && request.operation !== 'add')) request.resolve(answer)
    else request.reject(statusError(answer.status, this.#id, describe(request)))
  }

  /** Throws `corrupt` where an answer is not one to this request. */
  #checkAnswer(request: Pending, answer: Response): void {
    const { operation, ledgerId, entryId } = request
    if (answer.operation !== operation) {
      throw corrupt(`an answer to ${describe(request)} is one to ${answer.operation}`)
    }
    // Refusals need not name anything.
    if (answer.status !== STATUS.ok) return
    if (ledgerId !== null && answer.ledgerId !== ledgerId) {
      throw corrupt(`an answer to ${describe(request)} is about ledger ${answer.ledgerId}`)
    }
    if (entryId !== null && answer.entryId !== entryId) {
      throw corrupt(`an answer to ${describe(request)} is about entry ${answer.entryId}`)
    }
  }

  #settle(txnId: number, request: Pending): void {
    this.#pending.delete(txnId)
    if (this.#pending.size === 0) this.#socket.unref()
    this.#pendingBytes -= request.bodyBytes
    assert(this.#pendingBytes >= 0, 'more entries were answered than sent')
    if (this.#drained.length > 0) this.#checkDrained()
  }

  /** Looks for requests whose time is over, while there are any. One timer for all: they are many. */
  #look(): void {
    if (this.#looking !== null) return
    const { addTimeoutMs, readTimeoutMs } = this.#settings
    const everyMs = Math.min(addTimeoutMs, readTimeoutMs) / LOOKS
    const dueMs = this.#ports.clock.monotonicMs() + everyMs
    this.#looking = this.#ports.clock.setTimer(everyMs, () => {
      this.#looking = null
      if (this.#error !== null) return
      const nowMs = this.#ports.clock.monotonicMs()
      const stoodStill = nowMs - dueMs > everyMs
      if (stoodStill) this.#stoodStillMs += nowMs - dueMs
      // Timers come before what the socket has: it is read before the next look, and only then is anything unanswered.
      this.#timeOut(nowMs, stoodStill ? everyMs : 0)
      if (this.#pending.size > 0) this.#look()
    })
  }

  #timeOut(nowMs: number, graceMs: number): void {
    for (const [txnId, request] of this.#pending) {
      if (request.deadlineMs + this.#stoodStillMs + graceMs > nowMs) continue
      const takenMs = Math.round(nowMs - request.sentMs)
      const error = new StratalogError(
        'timeout',
        `bookie ${this.#id} did not answer ${describe(request)} within ${takenMs} ms`,
        { retryable: true },
      )
      // Nothing at all came since it was sent: the bookie hangs, or the way to it is cut.
      if (this.#heardMs < request.sentMs) {
        this.end(error)
        return
      }
      this.#settle(txnId, request)
      request.reject(error)
    }
  }

  #checkDrained(): void {
    if (this.#pendingBytes > 0) return
    for (const resolve of this.#drained.splice(0)) resolve()
  }

  #lost(how: string, cause: unknown): StratalogError {
    const cut = this.#frames.between ? '' : ' in the middle of an answer'
    const why = cause instanceof Error ? `: ${cause.message}` : ''
    return new StratalogError(
      'store_unavailable',
      `the connection to bookie ${this.#id} ${how}${cut}${why}`,
      {
        retryable: true,
        ...(cause === null ? {} : { cause }),
      },
    )
  }

  #garbage(cause: unknown): StratalogError {
    const why = cause instanceof Error ? cause.message : String(cause)
    return new StratalogError(
      'store_unavailable',
      `bookie ${this.#id} does not answer as a bookie does, the connection was ended: ${why}`,
      { cause, retryable: true },
    )
  }
}

function describe({ operation, ledgerId, entryId }: Pending): string {
  const entry = entryId === null ? '' : entryId === LAST_ENTRY ? ' of the last entry' : ` of entry ${entryId}`
  return `${operation}${entry}${ledgerId === null ? '' : ` of ledger ${ledgerId}`}`
}
