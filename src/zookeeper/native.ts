import { setMaxListeners } from 'node:events'
import { createRequire } from 'node:module'
import { StratalogError } from '../model/errors.js'
import type { Clock, Timer } from '../ports/clock.js'
import type {
  CreateOptions,
  ZkChildren,
  ZkNode,
  ZkOp,
  ZkSession,
  ZkStat,
  ZooKeeper,
  ZooKeeperSettings,
} from './client.js'
import { notSent, ZK, zkError } from './errors.js'
import type { ZooKeeperPorts } from './session.js'

/*
 * The package `zookeeper`: the C client of the ZooKeeper project. It keeps the session, watches, ephemerals and single
 * calls; what it has not, `multi`, goes over a session of the socket client (decision 0031). It is loaded only where it
 * is asked for, for installing it compiles C.
 */

const EPHEMERAL = 1
const SEQUENTIAL = 2
const CALLS_MAX = 10_000
/**
 * ZINVALIDSTATE, ZCLOSING: the session is over. A call that returns it was never sent; one that is answered with it was
 * on its way when the session ended, and may have been carried out.
 */
const OVER: readonly number[] = [-9, -116]
/** No word of the server. */
const UNANSWERED: readonly number[] = [ZK.CONNECTION_LOSS, ZK.OPERATION_TIMEOUT, ...OVER]

type Done<T extends unknown[]> = (code: number, error: string, ...result: T) => void
type Watched = (type: number) => void

interface NativeStat {
  readonly version: number
  readonly cversion: number
  readonly czxid: number
  readonly mzxid: number
  readonly ctime: Date
  readonly mtime: Date
  /** In hex. */
  readonly ephemeralOwner: string
  readonly numChildren: number
  readonly dataLength: number
}

/** As much of the package as is used. A call that returns other than 0 was never sent, and calls nothing back. */
export interface NativeClient {
  readonly client_id: string
  readonly timeout: number
  on(event: 'connect' | 'close', listener: () => void): void
  init(config: object): unknown
  close(): void
  add_auth(scheme: string, auth: string, done: Done<[]>): number
  a_create(path: string, data: Buffer, flags: number, done: Done<[string]>): number
  a_set(path: string, data: Buffer, version: number, done: Done<[NativeStat | null]>): number
  a_delete_(path: string, version: number, done: Done<[]>): number
  a_sync(path: string, done: Done<[string]>): number
  a_get(path: string, watch: false, done: Done<[NativeStat | null, Buffer | null]>): number
  aw_get(path: string, watch: Watched, done: Done<[NativeStat | null, Buffer | null]>): number
  a_exists(path: string, watch: false, done: Done<[NativeStat | null]>): number
  aw_exists(path: string, watch: Watched, done: Done<[NativeStat | null]>): number
  a_get_children2(path: string, watch: false, done: Done<[string[] | null, NativeStat | null]>): number
  aw_get_children2(path: string, watch: Watched, done: Done<[string[] | null, NativeStat | null]>): number
}

/** The package's client class; `dependency_missing` says how to get it. */
export function loadNative(): new () => NativeClient {
  try {
    return createRequire(import.meta.url)('zookeeper') as new () => NativeClient
  } catch (cause) {
    throw new StratalogError(
      'dependency_missing',
      'the native client of ZooKeeper is not installed: run "npm install zookeeper", which compiles it, or leave out "client: native"',
      { cause },
    )
  }
}

/** A session of the native client. */
export class NativeSession implements ZkSession {
  readonly sessionTimeoutMs: number
  readonly sessionId: bigint
  readonly #client: NativeClient
  /** For what the package lacks. */
  readonly #multis: ZooKeeper
  readonly #clock: Clock
  readonly #lost = new AbortController()
  readonly #watches = new Set<() => void>()
  readonly #calls = new Set<Promise<unknown>>()
  /** Told when the session is lost: the package forgets its calls when it closes. */
  readonly #unanswered = new Set<() => void>()
  #contactMs: number
  #timer: Timer | null = null

  static async open(
    settings: ZooKeeperSettings,
    Client: new () => NativeClient,
    multis: ZooKeeper,
    ports: ZooKeeperPorts,
    signal?: AbortSignal,
  ): Promise<NativeSession> {
    if (settings.acl === 'creator') {
      throw new StratalogError(
        'config_invalid',
        'the native client of ZooKeeper makes nodes that anybody may change: leave out "client: native"',
      )
    }
    signal?.throwIfAborted()
    const client = new Client()
    const startMs = ports.clock.monotonicMs()
    const connected = connection(client, settings, ports.clock, signal)
    const chroot = settings.chroot === '/' ? '' : settings.chroot
    // Level 0: no line of the C client goes anywhere, so none into a command's output.
    const quiet = { debug_level: 0, host_order_deterministic: false, data_as_buffer: true }
    const connect = `${settings.servers.join(',')}${chroot}`
    client.init({ connect, timeout: settings.sessionTimeoutMs, ...quiet })
    try {
      await connected
    } catch (error) {
      client.close()
      throw error
    }
    const session = new NativeSession(client, multis, ports.clock, startMs)
    const { auth } = settings
    if (auth !== undefined) {
      await session.#call<[]>('log in to ZooKeeper', (done) =>
        client.add_auth(auth.scheme, `${auth.user}:${auth.password}`, done),
      )
    }
    return session
  }

  private constructor(client: NativeClient, multis: ZooKeeper, clock: Clock, contactMs: number) {
    this.#client = client
    this.#multis = multis
    this.#clock = clock
    this.#contactMs = contactMs
    // As many may hang on a session as like.
    setMaxListeners(0, this.#lost.signal)
    this.sessionId = idOf(client.client_id)
    this.sessionTimeoutMs = client.timeout
    client.on('close', () => this.#lose(zkError(ZK.SESSION_EXPIRED, 'the session of ZooKeeper')))
    this.#beat()
  }

  get lost(): AbortSignal {
    return this.#lost.signal
  }

  async get(path: string, watch?: () => void): Promise<ZkNode | null> {
    return this.#read(`read ${path}`, watch, (watched, done) => {
      const found: Done<[NativeStat | null, Buffer | null]> = (code, error, stat, data) =>
        done(code, error, stat === null ? null : { data: new Uint8Array(data ?? []), stat: statOf(stat) })
      return watched === null
        ? this.#client.a_get(path, false, found)
        : this.#client.aw_get(path, watched, found)
    })
  }

  async exists(path: string, watch?: () => void): Promise<ZkStat | null> {
    const waits = true
    const act: ReadCall<ZkStat> = (watched, done) => {
      const found: Done<[NativeStat | null]> = (code, error, stat) =>
        done(code, error, stat === null ? null : statOf(stat))
      return watched === null
        ? this.#client.a_exists(path, false, found)
        : this.#client.aw_exists(path, watched, found)
    }
    return this.#read(`look for ${path}`, watch, act, waits)
  }

  async children(path: string, watch?: () => void): Promise<ZkChildren | null> {
    return this.#read(`list ${path}`, watch, (watched, done) => {
      const found: Done<[string[] | null, NativeStat | null]> = (code, error, names, stat) =>
        done(code, error, stat === null ? null : { names: names ?? [], stat: statOf(stat) })
      return watched === null
        ? this.#client.a_get_children2(path, false, found)
        : this.#client.aw_get_children2(path, watched, found)
    })
  }

  async create(path: string, data: Uint8Array, options: CreateOptions = {}): Promise<string> {
    const { ephemeral = false, sequential = false } = options
    const flags = (ephemeral ? EPHEMERAL : 0) | (sequential ? SEQUENTIAL : 0)
    const [made] = await this.#call<[string]>(`create ${path}`, (done) =>
      this.#client.a_create(path, Buffer.from(data), flags, done),
    )
    return made
  }

  async set(path: string, data: Uint8Array, version: number): Promise<ZkStat> {
    const [stat] = await this.#call<[NativeStat | null]>(`set ${path}`, (done) =>
      this.#client.a_set(path, Buffer.from(data), version, done),
    )
    return statOf(stat as NativeStat)
  }

  async delete(path: string, version: number): Promise<void> {
    await this.#call<[]>(`delete ${path}`, (done) => this.#client.a_delete_(path, version, done))
  }

  /** After what was called before, and before what is called after: it goes over another session. */
  async multi(ops: readonly ZkOp[]): Promise<readonly (ZkStat | string | null)[]> {
    if (ops.some((op) => op.op === 'create' && op.ephemeral === true)) {
      const message =
        'a multi of the native client makes no ephemeral node, for it would hang on another session: leave out "client: native"'
      throw new StratalogError('unsupported', message)
    }
    await Promise.allSettled([...this.#calls])
    if (this.#lost.signal.aborted) throw this.#lostError('multi')
    const results = await this.#multis.multi(ops)
    try {
      await this.sync('/')
    } catch (cause) {
      // It was carried out: an error that says "never sent", or this one's own word, would have it made once more.
      const error = zkError(ZK.CONNECTION_LOSS, `multi of ${ops.length} operations`)
      error.cause = cause
      throw error
    }
    return results
  }

  async sync(path: string): Promise<void> {
    await this.#call<[string]>(`sync ${path}`, (done) => this.#client.a_sync(path, done))
  }

  forget(_path: string, watch: () => void): void {
    this.#watches.delete(watch)
  }

  async close(): Promise<void> {
    await Promise.allSettled([...this.#calls])
    this.#lose(new StratalogError('closed', 'ZooKeeper has been closed'))
  }

  /** `waits`: null leaves a watch too. */
  async #read<T>(
    what: string,
    watch: (() => void) | undefined,
    act: ReadCall<T>,
    waits = false,
  ): Promise<T | null> {
    // The package calls a watch for changes of the connection too: those say nothing of the node.
    const watched: Watched = (type) => {
      if (type >= 1 && type <= 4 && watch !== undefined && this.#watches.delete(watch)) watch()
    }
    if (watch !== undefined) this.#watches.add(watch)
    let kept = false
    try {
      const [found] = await this.#call<[T | null]>(what, (done) =>
        act(watch === undefined ? null : watched, (code, error, result) =>
          code === ZK.NO_NODE ? done(0, error, null) : done(code, error, result),
        ),
      )
      kept = found !== null || waits
      return found
    } finally {
      if (!kept && watch !== undefined && !this.#lost.signal.aborted) this.#watches.delete(watch)
    }
  }

  #call<R extends unknown[]>(what: string, act: (done: Done<R>) => number): Promise<R> {
    this.#lookAtDeadline()
    if (this.#lost.signal.aborted) return Promise.reject(this.#lostError(what))
    if (this.#calls.size >= CALLS_MAX) {
      const many = `${CALLS_MAX} calls wait for ZooKeeper already: ask again when some are answered`
      return Promise.reject(new StratalogError('backpressure', many, { retryable: true }))
    }
    const sentMs = this.#clock.monotonicMs()
    const call = new Promise<R>((resolve, reject) => {
      const lost = (): void => reject(zkError(ZK.CONNECTION_LOSS, what))
      this.#unanswered.add(lost)
      const done: Done<R> = (code, _error, ...result) => {
        this.#unanswered.delete(lost)
        if (code === 0) resolve(result)
        else reject(zkError(OVER.includes(code) ? ZK.CONNECTION_LOSS : code, what))
        // The server has ended the session: from here on its locks may be another's, so this answer gives no time.
        if (code === ZK.SESSION_EXPIRED) this.#lose(zkError(code, what))
        if (!UNANSWERED.includes(code)) this.#heard(sentMs)
      }
      const code = act(done)
      if (code !== 0) {
        this.#unanswered.delete(lost)
        reject(OVER.includes(code) ? this.#lostError(what) : zkError(code, what))
      }
    })
    this.#calls.add(call)
    return call.finally(() => this.#calls.delete(call))
  }

  #heard(sentMs: number): void {
    this.#lookAtDeadline()
    this.#contactMs = Math.max(this.#contactMs, sentMs)
  }

  /** The package does not say when it last heard of the server: a call of ours every sixth of the session does. */
  #beat(): void {
    this.#lookAtDeadline()
    if (this.#lost.signal.aborted) return
    this.exists('/').catch(() => undefined)
    this.#timer = this.#clock.setTimer(this.sessionTimeoutMs / 6, () => this.#beat())
  }

  #lookAtDeadline(): void {
    const silentMs = this.#clock.monotonicMs() - this.#contactMs
    if (this.#lost.signal.aborted || silentMs < (this.sessionTimeoutMs * 2) / 3) return
    const what = `the session of ZooKeeper, by its own deadline: nothing was answered for ${Math.round(silentMs)} ms`
    this.#lose(zkError(ZK.SESSION_EXPIRED, what))
  }

  #lose(reason: unknown): void {
    if (this.#lost.signal.aborted) return
    this.#lost.abort(reason)
    this.#timer?.cancel()
    this.#client.close()
    for (const fail of this.#unanswered) fail()
    this.#unanswered.clear()
    for (const watch of this.#watches) queueMicrotask(watch)
    this.#watches.clear()
  }

  #lostError(what: string): StratalogError {
    const { reason } = this.#lost.signal
    if (reason instanceof StratalogError && reason.code === 'closed') return reason
    return notSent(what, 'the session of ZooKeeper is lost: ask again in the next one', reason)
  }
}

type ReadCall<T> = (watched: Watched | null, done: Done<[T | null]>) => number

/** Resolves once the client has a session, within `connectTimeoutMs`. */
function connection(
  client: NativeClient,
  { connectTimeoutMs, servers }: ZooKeeperSettings,
  clock: Clock,
  signal: AbortSignal | undefined,
): Promise<void> {
  return new Promise<void>((resolve, reject) => {
    const why = `no server answers within ${connectTimeoutMs} ms (${servers.join(', ')}): start ZooKeeper, or name others`
    const end = (act: () => void): void => {
      timer.cancel()
      signal?.removeEventListener('abort', aborted)
      act()
    }
    const aborted = (): void => end(() => reject(signal?.reason))
    const late = (): void => end(() => reject(notSent('open a session of ZooKeeper', why)))
    const timer = clock.setTimer(connectTimeoutMs, late)
    signal?.addEventListener('abort', aborted, { once: true })
    client.on('connect', () => end(resolve))
  })
}

function idOf(hex: string): bigint {
  return BigInt.asIntN(64, BigInt(`0x${hex}`))
}

function statOf(stat: NativeStat): ZkStat {
  const { version, cversion, numChildren, dataLength } = stat
  return {
    version,
    cversion,
    czxid: BigInt(stat.czxid),
    mzxid: BigInt(stat.mzxid),
    ctimeMs: stat.ctime.getTime(),
    mtimeMs: stat.mtime.getTime(),
    ephemeralOwner: idOf(stat.ephemeralOwner),
    numChildren,
    dataLength,
  }
}
