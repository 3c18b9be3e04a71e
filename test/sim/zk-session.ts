import { setMaxListeners } from 'node:events'
import { present } from '../../src/model/assert.js'
import type { Clock } from '../../src/ports/clock.js'
import {
  ANY_VERSION,
  type ZkChildren,
  type ZkNode,
  type ZkOp,
  type ZkSession,
  type ZkStat,
} from '../../src/zookeeper/client.js'
import { notSent, ZK, zkCode, zkError } from '../../src/zookeeper/errors.js'
import type { MemoryZooKeeper } from '../helpers/zookeeper-memory.js'
import type { Network } from './network.js'
import type { PlantedBug } from './options.js'
import { type Host, HostClock, type Scheduler } from './scheduler.js'

/** A process that is not heard of for this long loses its session. */
export const ZK_SESSION_MS = 4_000
/** Between tries of a read while the server can't be reached. */
const AGAIN_MS = 100
/** How late a watch is called. */
const WATCH_MS = 0.3
/** Between tries to tell a process that is cut off of a watch. */
const WATCH_AGAIN_MS = 200

/** The server's side of all sessions of a run. */
export interface ZkServer {
  readonly host: Host
  readonly memory: MemoryZooKeeper
  readonly scheduler: Scheduler
  readonly network: Network
  readonly bug: PlantedBug | null
  /** A session was heard of. */
  heard(sessionId: bigint): void
  /** Something was carried out. */
  changed(op: ZkOp): void
  /** A multi is about to be sent. */
  multi(from: Host): void
}

/**
 * A session as a process has it, over messages that get lost: what src/zookeeper/session.ts promises of one. It is lost
 * at its own deadline, two thirds of its time after the last request that was answered; a call that waits for half of it
 * ends the connection, and what was under way by then is never carried out later; reads go again; answers come in order.
 */
export class SimZkSession implements ZkSession {
  readonly sessionTimeoutMs: number = ZK_SESSION_MS
  readonly #server: ZkServer
  readonly #from: Host
  readonly #clock: Clock
  #memory: ZkSession
  readonly #lost = new AbortController()
  readonly #watches = new Set<() => void>()
  /** Resolves when every call that was made has its answer. */
  #tail: Promise<void> = Promise.resolve()
  #contactMs: number

  static async open(server: ZkServer, from: Host): Promise<SimZkSession> {
    const clock = new HostClock(server.scheduler, from)
    const sentMs = clock.monotonicMs()
    const { network, host } = server
    try {
      const memory = await network.call({
        ...{ from, to: host, what: 'open a session', lostAnswer: 'metadata-lost-answer' },
        ...{ mayLoseRequest: false, mayDuplicate: false },
        work: async () => {
          const opened = await server.memory.session()
          server.heard(opened.sessionId)
          return opened
        },
      })
      return new SimZkSession(server, from, clock, memory, sentMs)
    } catch (error) {
      throw notSent('open a session of ZooKeeper', 'no server answers', error)
    }
  }

  private constructor(server: ZkServer, from: Host, clock: Clock, memory: ZkSession, sentMs: number) {
    this.#server = server
    this.#from = from
    this.#clock = clock
    this.#memory = memory
    this.#contactMs = sentMs
    setMaxListeners(0, this.#lost.signal)
    this.#tend()
  }

  get sessionId(): bigint {
    return this.#memory.sessionId
  }

  get lost(): AbortSignal {
    return this.#lost.signal
  }

  /** A client with a bug that goes on under another session and tells nobody. */
  get #hidesExpiry(): boolean {
    const { bug } = this.#server
    return bug === 'zk-acknowledges-after-expiry' || bug === 'zk-blind-retry'
  }

  get(path: string, watch?: () => void): Promise<ZkNode | null> {
    return this.#call(`get ${path}`, true, () => this.#memory.get(path, this.#told(watch)))
  }

  exists(path: string, watch?: () => void): Promise<ZkStat | null> {
    return this.#call(`exists ${path}`, true, () => this.#memory.exists(path, this.#told(watch)))
  }

  children(path: string, watch?: () => void): Promise<ZkChildren | null> {
    return this.#call(`children ${path}`, true, () => this.#memory.children(path, this.#told(watch)))
  }

  async create(
    path: string,
    data: Uint8Array,
    options: { readonly ephemeral?: boolean; readonly sequential?: boolean } = {},
  ): Promise<string> {
    const op: ZkOp = { op: 'create', path, data, ...options }
    return String((await this.#change(`create ${path}`, [op]))[0])
  }

  async set(path: string, data: Uint8Array, version: number): Promise<ZkStat> {
    const op: ZkOp = { op: 'set', path, data, version }
    return (await this.#changeOnce(`set ${path}`, [op]))[0] as ZkStat
  }

  async delete(path: string, version: number): Promise<void> {
    await this.#change(`delete ${path}`, [{ op: 'delete', path, version }])
  }

  async multi(ops: readonly ZkOp[]): Promise<readonly (ZkStat | string | null)[]> {
    if (ops.length === 0) return []
    this.#server.multi(this.#from)
    return this.#changeOnce(`multi ${ops.map(({ op, path }) => `${op} ${path}`).join(', ')}`, ops)
  }

  async sync(path: string): Promise<void> {
    await this.#call(`sync ${path}`, true, () => this.#memory.sync(path))
  }

  forget(_path: string, watch: () => void): void {
    this.#watches.delete(watch)
  }

  async close(): Promise<void> {
    this.#lose(zkError(ZK.SESSION_EXPIRED, 'the session of ZooKeeper, by its end'))
  }

  #changeOnce(what: string, ops: readonly ZkOp[]): Promise<readonly (ZkStat | string | null)[]> {
    return this.#server.bug === 'zk-blind-retry' ? this.#blindly(what, ops) : this.#change(what, ops)
  }

  async #change(what: string, ops: readonly ZkOp[]): Promise<readonly (ZkStat | string | null)[]> {
    const done = await this.#call(what, false, () => this.#memory.multi(ops)).catch((error: unknown) => {
      if (this.#server.bug !== 'zk-lost-is-done' || zkCode(error) !== ZK.CONNECTION_LOSS) throw error
      return ops.map((op) => (op.op === 'create' ? op.path : null))
    })
    return done
  }

  /** What a client must never do: the same again, whatever the versions are by then, until somebody answers. */
  async #blindly(what: string, ops: readonly ZkOp[]): Promise<readonly (ZkStat | string | null)[]> {
    for (let again = false; ; again = true) {
      try {
        return await this.#change(what, again ? forced(ops) : ops)
      } catch (error) {
        const there = zkCode(error) === ZK.NODE_EXISTS || zkCode(error) === ZK.NO_NODE
        if (again && there) return ops.map(() => null)
        if (zkCode(error) !== ZK.CONNECTION_LOSS) throw error
        await this.#clock.sleep(AGAIN_MS)
      }
    }
  }

  async #call<T>(what: string, reads: boolean, act: () => Promise<T>): Promise<T> {
    for (;;) {
      this.#lookAtDeadline()
      if (this.#lost.signal.aborted)
        throw notSent(what, 'the session of ZooKeeper is lost', this.#lost.signal.reason)
      const sentMs = this.#clock.monotonicMs()
      try {
        const answer = await this.#inOrder(this.#send(what, act))
        this.#contact(sentMs)
        return answer
      } catch (error) {
        const code = zkCode(error)
        if (code === ZK.SESSION_EXPIRED) {
          if (await this.#reopened()) throw zkError(ZK.CONNECTION_LOSS, what)
          this.#lose(error)
          throw notSent(what, 'the session of ZooKeeper is lost', error)
        }
        if (code !== null) {
          this.#contact(sentMs)
          throw error
        }
        if (!reads) throw zkError(ZK.CONNECTION_LOSS, what)
        await this.#clock.sleep(AGAIN_MS)
      }
    }
  }

  async #reopened(): Promise<boolean> {
    if (this.#hidesExpiry && this.#memory.lost.aborted) this.#memory = await this.#server.memory.session()
    return this.#hidesExpiry
  }

  /** One request; whoever waits for half a session drops the connection, and the server what came by it. */
  #send<T>(what: string, act: () => Promise<T>): Promise<T> {
    const { network, host } = this.#server
    let dropped = false
    return new Promise((resolve, reject) => {
      const timer = this.#clock.setTimer(ZK_SESSION_MS / 2, () => {
        dropped = true
        reject(new Error('no answer within half a session'))
      })
      network
        .call({
          ...{ from: this.#from, to: host, what, lostAnswer: 'metadata-lost-answer' },
          ...{ mayLoseRequest: false, mayDuplicate: false },
          work: async () => {
            if (dropped) throw new Error('the connection was given up')
            const answer = await act()
            this.#server.heard(this.sessionId)
            return answer
          },
        })
        .finally(() => timer.cancel())
        .then(resolve, reject)
    })
  }

  async #inOrder<T>(sent: Promise<T>): Promise<T> {
    const before = this.#tail
    const settled = sent.then(
      () => undefined,
      () => undefined,
    )
    this.#tail = Promise.all([before, settled]).then(() => undefined)
    await before
    return sent
  }

  /** A watch as the server has it: who left it hears later, in order, and not by a connection that is cut. */
  #told(watch: (() => void) | undefined): (() => void) | undefined {
    if (watch === undefined) return undefined
    const { scheduler, network, host } = this.#server
    const { instance } = this.#from
    this.#watches.add(watch)
    const memory = this.#memory
    const deliver = (): void => {
      if (this.#from.instance !== instance || !this.#watches.has(watch)) return
      if (this.#hidesExpiry && memory.lost.aborted) return
      if (network.isCut(this.#from, host)) scheduler.after(WATCH_AGAIN_MS, this.#from, deliver)
      else void this.#tail.then(() => this.#fire(watch))
    }
    return () => {
      if (this.#from.instance === instance) scheduler.after(WATCH_MS, this.#from, deliver)
    }
  }

  #fire(watch: () => void): void {
    if (this.#watches.delete(watch)) watch()
  }

  #contact(sentMs: number): void {
    this.#lookAtDeadline()
    this.#contactMs = Math.max(this.#contactMs, sentMs)
  }

  /** Pings, and the own deadline. */
  #tend(): void {
    this.#lookAtDeadline()
    if (this.#lost.signal.aborted) return
    const sentMs = this.#clock.monotonicMs()
    if (sentMs >= this.#contactMs + ZK_SESSION_MS / 3 - 1)
      this.#send('ping', async () => {
        // A session that has ended answers no ping.
        if (this.#memory.lost.aborted) throw present(this.#memory.lost.reason, 'why')
      }).then(
        () => this.#contact(sentMs),
        (error: unknown) =>
          zkCode(error) === ZK.SESSION_EXPIRED && !this.#hidesExpiry ? this.#lose(error) : undefined,
      )
    this.#clock.setTimer(ZK_SESSION_MS / 3, () => this.#tend())
  }

  #lookAtDeadline(): void {
    if (this.#hidesExpiry || this.#clock.monotonicMs() - this.#contactMs < (ZK_SESSION_MS * 2) / 3) return
    this.#lose(zkError(ZK.SESSION_EXPIRED, 'the session of ZooKeeper, by its own deadline'))
  }

  #lose(reason: unknown): void {
    if (this.#lost.signal.aborted) return
    this.#lost.abort(reason)
    // The server may still hold it: it is told, if it can be.
    this.#send('close', () => this.#memory.close()).catch(() => undefined)
    for (const watch of [...this.#watches]) queueMicrotask(() => this.#fire(watch))
  }
}

function forced(ops: readonly ZkOp[]): ZkOp[] {
  return ops.flatMap((op): ZkOp[] => {
    if (op.op === 'check') return []
    return [op.op === 'create' ? op : { ...op, version: ANY_VERSION }]
  })
}
