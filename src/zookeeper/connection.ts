import { connect, type Socket } from 'node:net'
import { corrupt } from '../format/bytes.js'
import { StratalogError } from '../model/errors.js'
import type { Clock } from '../ports/clock.js'
import { ZK, zkError } from './errors.js'
import { JuteReader } from './jute.js'
import type { Hello, WatchEvent, Welcome } from './messages.js'
import { begin, helloPacket, numbered, readEvent, readWelcome, TYPE, XID } from './messages.js'

/** A list of a million names has some 30 MB; a length above this was never meant as one. */
const ANSWER_BYTES_MAX = 64 * 2 ** 20
const XID_MAX = 2 ** 31 - 1

/** A server's address. */
export interface Address {
  readonly host: string
  readonly port: number
}

/** The server took the connection and ended it before it said anything: it is another sort of port, or can't serve. */
export class ClosedUnanswered extends Error {}

/** What a connection tells the session it is for. */
export interface ConnectionListener {
  /** An answer came to a call or a ping that was sent at `sentMs`: until then at least the server held the session. */
  contact(sentMs: number): void
  zxid(zxid: bigint): void
  event(event: WatchEvent): void
  /** Nothing more comes. Called once, after the calls under way were told. */
  ended(cause: unknown): void
}

/** A call on its way. */
export interface Sent {
  readonly packet: Buffer
  /** The answer. Throws `corrupt` where it can't be read, which ends the connection. */
  answer(error: number, reader: JuteReader): void
  /** The connection ended before the answer. */
  lost(cause: unknown): void
}

interface Pending {
  readonly call: Sent
  readonly sentMs: number
}

/** One connection to one server: packets out, answers in their order back. Whatever makes no sense ends it. */
export class Connection {
  readonly address: Address
  readonly welcome: Welcome
  readonly #socket: Socket
  readonly #clock: Clock
  readonly #packets: Packets
  readonly #pending = new Map<number, Pending>()
  /** When the pings were sent that have no answer: each answer is the oldest one's. */
  readonly #pings: number[] = []
  #listener: ConnectionListener | null = null
  #xid = 0
  #ended = false
  /** When the hello was sent that the server answered: what was sent since may have come to nobody. */
  readonly helloMs: number
  lastSentMs: number
  lastHeardMs: number

  /** Connects and says who comes: a new session, or one that goes on. Fails by `signal`, or as the server has it. */
  static async open(address: Address, hello: Hello, clock: Clock, signal: AbortSignal): Promise<Connection> {
    const socket = connect({ host: address.host, port: address.port, noDelay: true })
    const packets = new Packets()
    try {
      const sentMs = clock.monotonicMs()
      const first = await firstPacket(socket, helloPacket(hello), packets, signal)
      return new Connection(address, readWelcome(new JuteReader(first)), socket, packets, clock, sentMs)
    } catch (error) {
      socket.destroy()
      throw error
    }
  }

  private constructor(
    address: Address,
    welcome: Welcome,
    socket: Socket,
    packets: Packets,
    clock: Clock,
    sentMs: number,
  ) {
    this.address = address
    this.welcome = welcome
    this.#socket = socket
    this.#packets = packets
    this.#clock = clock
    this.helloMs = sentMs
    this.lastSentMs = sentMs
    this.lastHeardMs = clock.monotonicMs()
  }

  /** From here on answers and events are handed on. */
  listen(listener: ConnectionListener): void {
    this.#listener = listener
    const socket = this.#socket
    socket.on('data', (bytes: Buffer) => this.#take(bytes))
    socket.on('error', (error) => this.end(error))
    socket.on('close', () => this.end(new Error('the server closed the connection')))
    this.#take(Buffer.alloc(0))
    socket.resume()
    if (socket.destroyed) this.end(new Error('the server closed the connection'))
  }

  /** Since when the oldest call waits for its answer; null: none does. */
  get waitingSinceMs(): number | null {
    const { value } = this.#pending.values().next()
    return value?.sentMs ?? null
  }

  send(sent: Sent): void {
    if (this.#ended) {
      sent.lost(new Error('the connection has ended'))
      return
    }
    this.#xid = this.#xid === XID_MAX ? 1 : this.#xid + 1
    this.#pending.set(this.#xid, { call: sent, sentMs: this.#clock.monotonicMs() })
    // A copy of the packet: a read may be sent again, with another number, while this one is still in the socket.
    this.write(numbered(Buffer.from(sent.packet), this.#xid))
  }

  /** Sends what has its number already. */
  write(packet: Buffer): void {
    if (this.#ended) return
    this.lastSentMs = this.#clock.monotonicMs()
    this.#socket.write(packet)
  }

  ping(): void {
    this.#pings.push(this.#clock.monotonicMs())
    this.write(begin(TYPE.ping, XID.ping).packet())
  }

  /**
   * Says that the session is over, to whoever still reads, and lets go. What waits in a server that stands still is
   * read when it goes on.
   */
  leave(lingerMs: number): void {
    this.write(begin(TYPE.close, XID_MAX).packet())
    this.#socket.end()
    const timer = this.#clock.setTimer(lingerMs, () => this.#socket.destroy())
    this.#socket.once('close', () => timer.cancel())
    this.#finish(new Error('the session is given up'))
  }

  end(cause: unknown): void {
    this.#socket.destroy()
    this.#finish(cause)
  }

  #finish(cause: unknown): void {
    if (this.#ended) return
    this.#ended = true
    const pending = [...this.#pending.values()]
    this.#pending.clear()
    for (const { call } of pending) call.lost(cause)
    this.#listener?.ended(cause)
  }

  #take(bytes: Buffer): void {
    if (this.#ended) return
    this.lastHeardMs = this.#clock.monotonicMs()
    try {
      this.#packets.add(bytes)
      for (let packet = this.#packets.next(); packet !== null; packet = this.#packets.next()) {
        this.#packet(new JuteReader(packet))
        if (this.#isOver()) return
      }
    } catch (error) {
      // Nothing after it can be trusted either.
      this.end(error)
    }
  }

  #isOver(): boolean {
    return this.#ended
  }

  #packet(reader: JuteReader): void {
    const [xid, zxid, error] = [reader.int(), reader.long(), reader.int()]
    if (zxid > 0n) this.#listener?.zxid(zxid)
    switch (xid) {
      case XID.event:
        this.#listener?.event(readEvent(reader))
        break
      case XID.ping: {
        const sentMs = this.#pings.shift()
        if (sentMs === undefined) throw corrupt('ZooKeeper answers a ping that was not sent')
        this.#listener?.contact(sentMs)
        break
      }
      case XID.setWatches:
        break
      case XID.auth:
        if (error !== 0) throw zkError(ZK.AUTH_FAILED, 'log in to ZooKeeper')
        break
      default:
        this.#answer(xid, error, reader)
    }
  }

  /** Answers come in the order of the calls: another one is no answer to be trusted. */
  #answer(xid: number, error: number, reader: JuteReader): void {
    const [expected, pending] = this.#pending.entries().next().value ?? []
    if (pending === undefined || expected !== xid) {
      throw corrupt(`ZooKeeper answers call ${xid} where ${expected ?? 'none'} is next`)
    }
    pending.call.answer(error, reader)
    this.#pending.delete(xid)
    this.#listener?.contact(pending.sentMs)
  }
}

/** Cuts what comes from a socket into packets. */
class Packets {
  #parts: Buffer[] = []
  #bytes = 0
  /** Length of the packet that is coming, with its four bytes of length; 4 while that is not known. */
  #wanted = 4

  add(bytes: Buffer): void {
    this.#parts.push(bytes)
    this.#bytes += bytes.length
  }

  /** The next whole packet without its length, or null: more has to come. */
  next(): Buffer | null {
    while (this.#bytes >= this.#wanted) {
      const [first] = this.#parts
      const all = first !== undefined && this.#parts.length === 1 ? first : Buffer.concat(this.#parts)
      const length = all.readInt32BE(0)
      if (length < 0 || length > ANSWER_BYTES_MAX) {
        throw corrupt(
          `ZooKeeper announces an answer of ${length} bytes: ${ANSWER_BYTES_MAX} is the most taken`,
        )
      }
      const end = 4 + length
      const whole = all.length >= end
      this.#parts = [whole ? all.subarray(end) : all]
      this.#bytes = whole ? all.length - end : all.length
      this.#wanted = whole ? 4 : end
      if (whole) return all.subarray(4, end)
    }
    return null
  }
}

function firstPacket(socket: Socket, hello: Buffer, packets: Packets, signal: AbortSignal): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const settle = (act: () => void): void => {
      socket.removeListener('data', came).removeListener('error', broken).removeListener('close', closed)
      signal.removeEventListener('abort', aborted)
      // Until somebody listens again: an error that comes in between must not be the end of the process.
      socket.once('error', () => undefined)
      act()
    }
    const failed = (error: unknown): void => settle(() => reject(error))
    const broken = (error: NodeJS.ErrnoException): void =>
      failed(
        error.code === 'ECONNRESET' ? new ClosedUnanswered('the server reset it', { cause: error }) : error,
      )
    const closed = (): void =>
      failed(new ClosedUnanswered('the server closed the connection before it answered'))
    const aborted = (): void => failed(signal.reason ?? new StratalogError('closed', 'no longer wanted'))
    const came = (bytes: Buffer): void => {
      try {
        packets.add(bytes)
        const packet = packets.next()
        if (packet === null) return
        socket.pause()
        settle(() => resolve(packet))
      } catch (error) {
        failed(error)
      }
    }
    socket.on('data', came).once('error', broken).once('close', closed)
    if (signal.aborted) aborted()
    else signal.addEventListener('abort', aborted, { once: true })
    socket.write(hello)
  })
}
