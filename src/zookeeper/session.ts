import { setMaxListeners } from 'node:events'
import { isStratalogError, StratalogError } from '../model/errors.js'
import type { Clock, Timer } from '../ports/clock.js'
import type { Logger } from '../ports/logger.js'
import type { Random } from '../ports/random.js'
import { backoffMs, limited } from './attempts.js'
import type {
  CreateOptions,
  ZkChildren,
  ZkNode,
  ZkOp,
  ZkSession,
  ZkStat,
  ZooKeeperSettings,
} from './client.js'
import { type Address, ClosedUnanswered, Connection } from './connection.js'
import { notSent, ZK, zkCode, zkError } from './errors.js'
import type { JuteReader } from './jute.js'
import type { Acl, Request } from './messages.js'
import {
  authPacket,
  CREATOR_ACL,
  changeRequest,
  childrenRequest,
  existsRequest,
  getRequest,
  multiRequest,
  OPEN_ACL,
  syncRequest,
} from './messages.js'
import { Paths } from './paths.js'
import { Watches, type WatchKind } from './watches.js'

/** Calls under way and waiting: more is a loop somewhere, and memory is bounded (invariant 11). */
const CALLS_MAX = 10_000
const CALL_BYTES_MAX = 64 * 2 ** 20
/** Less is no time for any server. */
const ATTEMPT_MS_MIN = 100
/** A read whose connection ended: one that ends every connection would go round for ever. */
const RESENDS_MAX = 3

/** What the session takes from outside. */
export interface ZooKeeperPorts {
  readonly clock: Clock
  readonly logger: Logger
  readonly random: Random
}

interface Call {
  readonly request: Request<unknown>
  readonly answer: (error: number, reader: JuteReader) => void
  readonly fail: (error: unknown) => void
  /** When it waits for a connection: until when. */
  timer: Timer | null
  /** How often it was sent again, after a connection that ended with it under way. */
  resends: number
  /** An answer to it that made no sense. */
  unreadable: StratalogError | null
}

/**
 * A session over one connection after another, to one server after another. In fractions of the session's time:
 *
 *   0     a request is sent that gets an answer: the server holds the session at least until 1
 *   1/3   nothing was sent since: a ping
 *   1/2   nothing was heard, or a call waits as long: the connection is dropped, the next server is tried
 *   2/3   the own deadline: the session is lost here, before the server can have given its locks to anybody else
 *
 * The deadline is looked at before every call too: a process that stood still sends nothing after it.
 */
export class SocketSession implements ZkSession {
  readonly sessionId: bigint
  readonly sessionTimeoutMs: number
  readonly #settings: ZooKeeperSettings
  readonly #servers: readonly Address[]
  readonly #paths: Paths
  readonly #acl: Acl
  readonly #clock: Clock
  readonly #logger: Logger
  readonly #random: Random
  readonly #lost = new AbortController()
  readonly #watches = new Watches()
  /** Calls that wait for a connection, in their order. */
  readonly #waiting: Call[] = []
  #connection: Connection | null = null
  #password: Uint8Array
  #server: number
  #lastZxid = 0n
  #contactMs: number
  #calls = 0
  #callBytes = 0
  /** Tries to connect since something was answered. */
  #tries = 0
  #timer: Timer | null = null
  #lastCause: unknown = null

  /** Opens a session at the first server that answers, within `connectTimeoutMs`; `signal` gives it up. */
  static async open(
    settings: ZooKeeperSettings,
    servers: readonly Address[],
    ports: ZooKeeperPorts,
    signal?: AbortSignal,
  ): Promise<SocketSession> {
    const { clock, random } = ports
    const endMs = clock.monotonicMs() + settings.connectTimeoutMs
    const first = Math.floor(random.fraction() * servers.length)
    const hello = { lastZxid: 0n, sessionId: 0n, password: new Uint8Array(16) }
    const timeoutMs = settings.sessionTimeoutMs
    let cause: unknown = null
    for (let tries = 0; ; tries++) {
      const leftMs = endMs - clock.monotonicMs()
      if (leftMs <= 0) throw unreachable(servers, settings.connectTimeoutMs, cause)
      const server = (first + tries) % servers.length
      // One that stands still leaves time for the others.
      const attemptMs = Math.min(leftMs, Math.max(settings.connectTimeoutMs / servers.length, ATTEMPT_MS_MIN))
      try {
        const address = servers[server] as Address
        const limit = limited(clock, attemptMs, signal)
        const connection = await Connection.open(
          address,
          { ...hello, timeoutMs },
          clock,
          limit.signal,
        ).finally(limit.end)
        return new SocketSession(settings, servers, server, connection, ports)
      } catch (error) {
        signal?.throwIfAborted()
        // The last try may only have had no time left.
        if (!(cause instanceof ClosedUnanswered)) cause = error
      }
      const pauseMs = Math.min(backoffMs(tries, random), Math.max(0, endMs - clock.monotonicMs()))
      await clock.sleep(pauseMs, signal)
    }
  }

  private constructor(
    settings: ZooKeeperSettings,
    servers: readonly Address[],
    server: number,
    connection: Connection,
    ports: ZooKeeperPorts,
  ) {
    // Every lease that hangs on the session listens, and there may be one a stream.
    setMaxListeners(0, this.#lost.signal)
    this.#settings = settings
    this.#servers = servers
    this.#server = server
    this.#clock = ports.clock
    this.#logger = ports.logger
    this.#random = ports.random
    this.#paths = new Paths(settings.chroot)
    this.#acl = settings.acl === 'creator' ? CREATOR_ACL : OPEN_ACL
    this.sessionId = connection.welcome.sessionId
    this.sessionTimeoutMs = connection.welcome.timeoutMs
    this.#password = connection.welcome.password
    this.#contactMs = connection.helloMs
    this.#take(connection)
    this.#arm()
  }

  get lost(): AbortSignal {
    return this.#lost.signal
  }

  get(path: string, watch?: () => void): Promise<ZkNode | null> {
    const full = this.#paths.full(path)
    return this.#call(getRequest(full, watch !== undefined), (found) => {
      if (watch !== undefined && found !== null) this.#watches.add('data', full, watch)
    })
  }

  exists(path: string, watch?: () => void): Promise<ZkStat | null> {
    const full = this.#paths.full(path)
    return this.#call(existsRequest(full, watch !== undefined), (found) => {
      const kind: WatchKind = found === null ? 'exists' : 'data'
      if (watch !== undefined) this.#watches.add(kind, full, watch)
    })
  }

  children(path: string, watch?: () => void): Promise<ZkChildren | null> {
    const full = this.#paths.full(path)
    return this.#call(childrenRequest(full, watch !== undefined), (found) => {
      if (watch !== undefined && found !== null) this.#watches.add('children', full, watch)
    })
  }

  async create(path: string, data: Uint8Array, options: CreateOptions = {}): Promise<string> {
    const { ephemeral = false, sequential = false } = options
    const op: ZkOp = { op: 'create', path: this.#paths.full(path, sequential), data, ephemeral, sequential }
    return this.#paths.own(String(await this.#call(changeRequest(op, this.#acl))))
  }

  async set(path: string, data: Uint8Array, version: number): Promise<ZkStat> {
    const op: ZkOp = { op: 'set', path: this.#paths.full(path), data, version }
    return (await this.#call(changeRequest(op, this.#acl))) as ZkStat
  }

  async delete(path: string, version: number): Promise<void> {
    await this.#call(changeRequest({ op: 'delete', path: this.#paths.full(path), version }, this.#acl))
  }

  async multi(ops: readonly ZkOp[]): Promise<readonly (ZkStat | string | null)[]> {
    if (ops.length === 0) return []
    const full = ops.map((op) => ({
      ...op,
      path: this.#paths.full(op.path, op.op === 'create' && op.sequential),
    }))
    const results = await this.#call(multiRequest(full, this.#acl, (path) => this.#paths.own(path)))
    return results.map((result) => (typeof result === 'string' ? this.#paths.own(result) : result))
  }

  async sync(path: string): Promise<void> {
    await this.#call(syncRequest(this.#paths.full(path)))
  }

  forget(path: string, watch: () => void): void {
    this.#watches.remove(this.#paths.full(path), watch)
  }

  /** Calls that were made before are carried out first, within a third of the session's time. */
  async close(): Promise<void> {
    if (this.#lost.signal.aborted) return
    const endMs =
      this.#clock.monotonicMs() + Math.min(this.sessionTimeoutMs / 3, this.#settings.connectTimeoutMs)
    while (this.#calls > 0 && this.#connection !== null && this.#clock.monotonicMs() < endMs) {
      await this.#clock.sleep(1)
    }
    this.#lose(new StratalogError('closed', 'ZooKeeper has been closed'))
  }

  /** Sends a request, or lets it wait for a connection. `seen` is told the answer before anything that came after it. */
  #call<T>(request: Request<T>, seen?: (answer: T) => void): Promise<T> {
    this.#lookAtDeadline()
    if (this.#lost.signal.aborted) return Promise.reject(this.#lostError(request.what))
    const bytes = request.packet.length
    if (this.#calls >= CALLS_MAX || this.#callBytes + bytes > CALL_BYTES_MAX) {
      const many = `${this.#calls} calls with ${this.#callBytes} bytes wait for ZooKeeper already: ask again when some are answered`
      return Promise.reject(new StratalogError('backpressure', many, { retryable: true }))
    }
    this.#calls += 1
    this.#callBytes += bytes
    const answered = new Promise<T>((resolve, reject) => {
      const answer = (error: number, reader: JuteReader): void => {
        try {
          const found = answerOf(request, error, reader)
          seen?.(found)
          resolve(found)
        } catch (failure) {
          // What can't be read is the connection's end, and this call is told with the others.
          if (isStratalogError(failure, 'corrupt')) {
            call.unreadable = failure
            throw failure
          }
          reject(failure)
          // The server has ended the session: from here on its locks may be another's, so this answer gives no time.
          if (zkCode(failure) === ZK.SESSION_EXPIRED) this.#lose(failure)
        }
      }
      const call: Call = { request, answer, fail: reject, timer: null, resends: 0, unreadable: null }
      this.#send(call)
    })
    return answered.finally(() => {
      this.#calls -= 1
      this.#callBytes -= bytes
    })
  }

  #send(call: Call): void {
    if (this.#connection === null) {
      this.#wait(call)
      this.#waiting.push(call)
      return
    }
    const { packet } = call.request
    this.#connection.send({ packet, answer: call.answer, lost: (cause) => this.#unanswered(call, cause) })
  }

  #wait(call: Call): void {
    call.timer = this.#clock.setTimer(this.#settings.connectTimeoutMs, () => {
      this.#waiting.splice(this.#waiting.indexOf(call), 1)
      const why = `no server of ZooKeeper took the session within ${this.#settings.connectTimeoutMs} ms: look whether they run and have a majority`
      call.fail(notSent(call.request.what, why, this.#lastCause))
    })
  }

  /**
   * The connection ended with a call under way: a change may have been made. A read goes again, unless it has its
   * answer: what one server can't be understood to say will be said by the next as well.
   */
  #unanswered(call: Call, cause: unknown): void {
    const { what, reads } = call.request
    if (!reads || this.#lost.signal.aborted) {
      const error = zkError(ZK.CONNECTION_LOSS, what)
      error.cause = cause
      call.fail(error)
    } else if (call.unreadable !== null) {
      call.fail(unreadable(what, call.unreadable))
    } else if (call.resends === RESENDS_MAX) {
      const why = `${RESENDS_MAX + 1} connections ended before it was answered: look at ZooKeeper's log`
      call.fail(notSent(what, why, cause))
    } else {
      call.resends += 1
      this.#wait(call)
      this.#waiting.push(call)
    }
  }

  #take(connection: Connection): void {
    this.#connection = connection
    // A hello that is answered after the deadline gives nothing back.
    this.#lookAtDeadline()
    this.#contactMs = Math.max(this.#contactMs, connection.helloMs)
    const { auth } = this.#settings
    if (auth !== undefined) connection.write(authPacket(auth.user, auth.password))
    for (const packet of this.#watches.packets(this.#lastZxid)) connection.write(packet)
    connection.listen({
      contact: (sentMs) => {
        // An answer that comes after the deadline gives nothing back.
        this.#lookAtDeadline()
        this.#contactMs = Math.max(this.#contactMs, sentMs)
        this.#tries = 0
      },
      zxid: (zxid) => {
        if (zxid > this.#lastZxid) this.#lastZxid = zxid
      },
      event: (event) => this.#watches.fire(event),
      ended: (cause) => this.#ended(connection, cause),
    })
    for (const call of this.#waiting.splice(0)) {
      call.timer?.cancel()
      this.#send(call)
    }
  }

  #ended(connection: Connection, cause: unknown): void {
    if (this.#connection !== connection) return
    this.#connection = null
    this.#lastCause = cause
    if (this.#lost.signal.aborted) return
    const { host, port } = connection.address
    this.#logger.warn({ server: `${host}:${port}`, error: cause }, 'the connection to ZooKeeper was lost')
    if (isStratalogError(cause, 'access_denied')) this.#lose(cause)
    else this.#reconnect().catch((error: unknown) => this.#lose(error))
  }

  /** Server after server until one takes the session, or says that it is over, or the deadline passes. */
  async #reconnect(): Promise<void> {
    // The one whose connection ended comes last.
    for (let untried = this.#servers.length - 1; ; untried--) {
      await this.#pause()
      if (this.#lost.signal.aborted) return
      this.#server = (this.#server + 1) % this.#servers.length
      try {
        const connection = await this.#tryServer(this.#servers[this.#server] as Address, Math.max(untried, 1))
        if (this.#lost.signal.aborted) return connection.end(this.#lost.signal.reason)
        return this.#welcomed(connection)
      } catch (error) {
        this.#lastCause = error
      }
    }
  }

  /** Longer after each try, until something was answered: a server that only greets is not one to hurry to. */
  async #pause(): Promise<void> {
    const tries = this.#tries++
    if (tries === 0) return
    await this.#clock.sleep(backoffMs(tries - 1, this.#random), this.#lost.signal).catch(() => undefined)
  }

  /** `untried`: servers that are to have a share of the time that is left, this one too, for any may stand still. */
  async #tryServer(address: Address, untried: number): Promise<Connection> {
    const hello = {
      lastZxid: this.#lastZxid,
      timeoutMs: this.sessionTimeoutMs,
      sessionId: this.sessionId,
      password: this.#password,
    }
    const leftMs = this.#contactMs + (this.sessionTimeoutMs * 2) / 3 - this.#clock.monotonicMs()
    const limitMs = Math.max(Math.min(this.sessionTimeoutMs / 6, leftMs / untried), ATTEMPT_MS_MIN)
    const limit = limited(this.#clock, limitMs, this.#lost.signal)
    return Connection.open(address, hello, this.#clock, limit.signal).finally(limit.end)
  }

  #welcomed(connection: Connection): void {
    const { welcome } = connection
    if (welcome.timeoutMs <= 0 || welcome.sessionId !== this.sessionId) {
      connection.end(null)
      this.#lose(zkError(ZK.SESSION_EXPIRED, 'go on with the session of ZooKeeper'))
      return
    }
    this.#password = welcome.password
    this.#take(connection)
  }

  /** One timer, for what falls due first: a ping, the end of a silent connection, the deadline. */
  #arm(): void {
    if (this.#lost.signal.aborted) return
    const [nowMs, third] = [this.#clock.monotonicMs(), this.sessionTimeoutMs / 3]
    let dueMs = this.#contactMs + 2 * third
    const connection = this.#connection
    if (connection !== null) {
      const silentMs = endOfPatience(connection, third)
      if (nowMs >= silentMs) {
        connection.end(new Error(`a server did not answer within ${Math.round(1.5 * third)} ms`))
        this.#arm()
        return
      }
      if (nowMs >= connection.lastSentMs + third) connection.ping()
      dueMs = Math.min(dueMs, silentMs, connection.lastSentMs + third)
    } else {
      // A connection that comes in between has its own times.
      dueMs = Math.min(dueMs, nowMs + third / 2)
    }
    this.#lookAtDeadline()
    if (this.#lost.signal.aborted) return
    this.#timer = this.#clock.setTimer(Math.max(1, dueMs - nowMs), () => this.#arm())
  }

  #lookAtDeadline(): void {
    if (this.#lost.signal.aborted) return
    const silentMs = this.#clock.monotonicMs() - this.#contactMs
    if (silentMs < (this.sessionTimeoutMs * 2) / 3) return
    const what = `the session of ZooKeeper, by its own deadline: nothing was answered for ${Math.round(silentMs)} ms`
    this.#lose(zkError(ZK.SESSION_EXPIRED, what))
  }

  #lose(reason: unknown): void {
    if (this.#lost.signal.aborted) return
    this.#lost.abort(reason)
    this.#timer?.cancel()
    if (!isStratalogError(reason, 'closed'))
      this.#logger.warn({ error: reason }, 'the session of ZooKeeper is lost')
    // The server may still hold it: it is told, so that its locks are free as soon as it listens.
    this.#connection?.leave(this.sessionTimeoutMs)
    this.#connection = null
    for (const call of this.#waiting.splice(0)) {
      call.timer?.cancel()
      call.fail(this.#lostError(call.request.what))
    }
    this.#watches.fireAll()
  }

  /** For a call that was never sent. */
  #lostError(what: string): StratalogError {
    const { reason } = this.#lost.signal
    if (isStratalogError(reason, 'closed') || isStratalogError(reason, 'access_denied')) return reason
    return notSent(what, 'the session of ZooKeeper is lost: ask again in the next one', reason)
  }
}

/** When a connection is dropped: nothing was heard of the server, or it answers pings and not a call. */
function endOfPatience(connection: Connection, third: number): number {
  const { lastHeardMs, waitingSinceMs } = connection
  return Math.min(lastHeardMs + 1.5 * third, (waitingSinceMs ?? Number.POSITIVE_INFINITY) + 1.5 * third)
}

function unreadable(what: string, cause: StratalogError): StratalogError {
  const message = `${what}: the answer of ZooKeeper makes no sense (${cause.message}): ask again, and if it stays so look whether it is a ZooKeeper, of a version that is supported`
  return new StratalogError('corrupt', message, { cause })
}

function answerOf<T>(request: Request<T>, error: number, reader: JuteReader): T {
  if (error === 0) return request.read(reader)
  if (error === ZK.NO_NODE && request.absent !== undefined) return request.absent
  throw zkError(error, request.what)
}

function unreachable(servers: readonly Address[], timeoutMs: number, cause: unknown): StratalogError {
  const names = servers.map(({ host, port }) => `${host}:${port}`).join(', ')
  const closes =
    cause instanceof ClosedUnanswered
      ? '; one takes connections and ends them: it has no majority, or that is its port for TLS, which is not spoken here'
      : ''
  const why = `no server answers within ${timeoutMs} ms (${names})${closes}: start ZooKeeper, or name others`
  return notSent('open a session of ZooKeeper', why, cause)
}
