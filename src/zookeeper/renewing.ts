import { StratalogError } from '../model/errors.js'
import type { CreateOptions, ZkChildren, ZkNode, ZkOp, ZkSession, ZkStat, ZooKeeper } from './client.js'
import { notSent } from './errors.js'

/**
 * One session after another behind one handle. A call made while there is no session waits for the next one, as long
 * as opening it may take. No call is ever carried over from one session into the next: what was under way when a
 * session ended fails there.
 */
export class RenewingZooKeeper implements ZooKeeper {
  readonly #open: (signal: AbortSignal) => Promise<ZkSession>
  readonly #afterClose: () => Promise<void>
  #current: ZkSession
  #next: Promise<ZkSession> | null = null
  readonly #closing = new AbortController()

  /**
   * @param open opens the next session; its signal is aborted by `close`, which waits for no server
   * @param closed carried out at the end of `close`
   */
  constructor(
    first: ZkSession,
    open: (signal: AbortSignal) => Promise<ZkSession>,
    closed?: () => Promise<void>,
  ) {
    this.#current = first
    this.#open = open
    this.#afterClose = closed ?? (() => Promise.resolve())
  }

  get sessionId(): bigint {
    return this.#current.sessionId
  }

  get lost(): AbortSignal {
    return this.#current.lost
  }

  get sessionTimeoutMs(): number {
    return this.#current.sessionTimeoutMs
  }

  async get(path: string, watch?: () => void): Promise<ZkNode | null> {
    return (await this.#session()).get(path, watch)
  }

  async exists(path: string, watch?: () => void): Promise<ZkStat | null> {
    return (await this.#session()).exists(path, watch)
  }

  async children(path: string, watch?: () => void): Promise<ZkChildren | null> {
    return (await this.#session()).children(path, watch)
  }

  async create(path: string, data: Uint8Array, options: CreateOptions = {}): Promise<string> {
    const session = await this.#session()
    if (options.session !== undefined && options.session !== session.sessionId)
      throw notSent(`create ${path}`, 'the session it was to hang on is over: ask again')
    return session.create(path, data, options)
  }

  async set(path: string, data: Uint8Array, version: number): Promise<ZkStat> {
    return (await this.#session()).set(path, data, version)
  }

  async delete(path: string, version: number): Promise<void> {
    return (await this.#session()).delete(path, version)
  }

  async multi(ops: readonly ZkOp[]): Promise<readonly (ZkStat | string | null)[]> {
    return (await this.#session()).multi(ops)
  }

  async sync(path: string): Promise<void> {
    return (await this.#session()).sync(path)
  }

  /** Those of an earlier session were called when it was lost. */
  forget(path: string, watch: () => void): void {
    this.#current.forget(path, watch)
  }

  async close(): Promise<void> {
    if (!this.#closing.signal.aborted) this.#closing.abort(closedError())
    const next = this.#next
    await this.#current.close()
    // A session that is just being opened is nobody's: it goes too.
    if (next !== null) await next.then((session) => session.close(), ignored)
    await this.#afterClose()
  }

  #session(): Promise<ZkSession> {
    const { signal } = this.#closing
    if (signal.aborted) return Promise.reject(signal.reason)
    if (!this.#current.lost.aborted) return Promise.resolve(this.#current)
    this.#next ??= this.#open(signal)
      .then((session) => {
        if (!signal.aborted) this.#current = session
        return session
      })
      .finally(() => {
        this.#next = null
      })
    return this.#next
  }
}

function closedError(): StratalogError {
  return new StratalogError('closed', 'ZooKeeper has been closed')
}

/** Whoever asked for the session has heard of the error. */
function ignored(): void {}
