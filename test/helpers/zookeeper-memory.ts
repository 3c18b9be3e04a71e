import { setMaxListeners } from 'node:events'
import { present } from '../../src/model/assert.js'
import { StratalogError } from '../../src/model/errors.js'
import type { ZkChildren, ZkNode, ZkOp, ZkSession, ZkStat, ZooKeeper } from '../../src/zookeeper/client.js'
import { notSent, ZK, zkError } from '../../src/zookeeper/errors.js'
import { RenewingZooKeeper } from '../../src/zookeeper/renewing.js'

/** One call as it reaches the server. */
export interface ZkCall {
  readonly sessionId: bigint
  readonly op: 'get' | 'exists' | 'children' | 'create' | 'set' | 'delete' | 'multi' | 'sync'
  /** Of a multi: of its first operation. */
  readonly path: string
}

/** What goes wrong with a call. `expire`: the session ends before it is carried out. */
export type ZkFault = 'lost-request' | 'lost-answer' | 'expire'

interface Node {
  data: Uint8Array
  version: number
  /** Children that were ever created: the next sequential number. */
  creates: number
  readonly children: Set<string>
  readonly czxid: bigint
  mzxid: bigint
  readonly ctimeMs: number
  mtimeMs: number
  readonly owner: bigint
}

type WatchKind = 'data' | 'exists' | 'children'

interface MemoryWatch {
  readonly kind: WatchKind
  readonly path: string
  readonly session: MemorySession
  readonly call: () => void
}

/**
 * ZooKeeper in memory: sessions, ephemeral and sequential nodes, versions, one-shot watches, multi, and faults. Time
 * and latency come from outside, so that the simulator can own them.
 */
export class MemoryZooKeeper {
  /** Asked of every call. */
  fault: ((call: ZkCall) => ZkFault | null) | null = null
  /** While true nothing is answered: calls fail as unknown, and no session can be opened. */
  down = false
  /** Every call that was carried out. */
  calls = 0
  /** Told of each change, when it is made. */
  applied: ((op: ZkOp) => void) | null = null
  readonly #nowMs: () => number
  /** Passes before a call is carried out, and again before it is answered. */
  readonly #latency: () => Promise<void>
  readonly #nodes = new Map<string, Node>()
  readonly #sessions = new Map<bigint, MemorySession>()
  readonly #watches = new Set<MemoryWatch>()
  #zxid = 0n
  #nextSession = 0x1_0000_0001n

  constructor(options: { readonly nowMs?: () => number; readonly latency?: () => Promise<void> } = {}) {
    this.#nowMs = options.nowMs ?? (() => 1_700_000_000_000)
    this.#latency = options.latency ?? (() => Promise.resolve())
    this.#nodes.set('/', this.#node(new Uint8Array(0), 0n))
  }

  /** As `openZooKeeper`: one session after another. */
  async open(): Promise<ZooKeeper> {
    return new RenewingZooKeeper(await this.session(), () => this.session())
  }

  /** One session. */
  async session(): Promise<ZkSession> {
    await this.#latency()
    if (this.down) throw notSent('open a session of ZooKeeper', 'no server answers')
    const session = new MemorySession(this, this.#nextSession++)
    this.#sessions.set(session.sessionId, session)
    return session
  }

  /** The server ends a session, with its ephemeral nodes; who has it hears of it. */
  expire(sessionId: bigint): void {
    this.#end(sessionId, zkError(ZK.SESSION_EXPIRED, 'the session of ZooKeeper'))
  }

  /**
   * Whoever has the session gives it up (its own deadline), while the server still keeps its ephemeral nodes: until
   * `expire`.
   */
  abandon(sessionId: bigint): void {
    const gone = zkError(ZK.SESSION_EXPIRED, 'the session of ZooKeeper, by its own deadline')
    this.#sessions.get(sessionId)?.lose(gone)
    this.#callWatches((watch) => watch.session.sessionId === sessionId)
  }

  /** Every node, as text where it is some: for looking at a whole tree. */
  dump(): Map<string, { readonly data: Uint8Array; readonly stat: ZkStat }> {
    const paths = [...this.#nodes.keys()].sort()
    return new Map(paths.map((path) => [path, this.#read(path)]))
  }

  /** Carries a call out as the faults and the latency have it. */
  async call<T>(session: MemorySession, call: ZkCall, act: () => T): Promise<T> {
    const what = `${call.op} ${call.path}`
    session.check()
    const fault = this.fault?.(call) ?? null
    await this.#latency()
    if (fault === 'expire') this.expire(session.sessionId)
    session.check()
    if (fault === 'lost-request' || this.down) throw zkError(ZK.CONNECTION_LOSS, what)
    this.calls += 1
    const result = act()
    await this.#latency()
    session.check(what)
    if (fault === 'lost-answer') throw zkError(ZK.CONNECTION_LOSS, what)
    return result
  }

  closeSession(sessionId: bigint): void {
    this.#end(sessionId, new StratalogError('closed', 'ZooKeeper has been closed'))
  }

  get(path: string): ZkNode | null {
    return this.#nodes.has(path) ? this.#read(path) : null
  }

  children(path: string): ZkChildren | null {
    const node = this.#nodes.get(path)
    return node === undefined ? null : { names: [...node.children], stat: statOf(node) }
  }

  watch(watch: MemoryWatch): void {
    this.#watches.add(watch)
  }

  forget(session: MemorySession, path: string, call: () => void): void {
    for (const watch of this.#watches)
      if (watch.session === session && watch.path === path && watch.call === call) this.#watches.delete(watch)
  }

  /** Watches that were left and not called. */
  get watches(): number {
    return this.#watches.size
  }

  /** All or nothing: what was done is undone when one fails. */
  apply(session: MemorySession, ops: readonly ZkOp[]): (ZkStat | string | null)[] {
    this.#zxid += 1n
    const undo: (() => void)[] = []
    const events: (() => void)[] = []
    try {
      const results = ops.map((op, index) => this.#one(session, op, index, undo, events))
      for (const event of events) event()
      if (this.applied !== null) for (const op of ops) this.applied(op)
      return results
    } catch (error) {
      for (const back of undo.reverse()) back()
      throw error
    }
  }

  #one(
    session: MemorySession,
    op: ZkOp,
    index: number,
    undo: (() => void)[],
    events: (() => void)[],
  ): ZkStat | string | null {
    const fail = (code: number) => zkError(code, `${op.op} ${op.path}`, { index })
    if (op.op === 'create') return this.#create(session, op, fail, undo, events)
    const node = this.#nodes.get(op.path)
    if (node === undefined) throw fail(ZK.NO_NODE)
    if (op.version !== -1 && op.version !== node.version) throw fail(ZK.BAD_VERSION)
    if (op.op === 'check') return null
    if (op.op === 'set') {
      const { data, version, mzxid, mtimeMs } = node
      undo.push(() => Object.assign(node, { data, version, mzxid, mtimeMs }))
      const nowMs = this.#nowMs()
      Object.assign(node, { data: op.data.slice(), version: version + 1, mzxid: this.#zxid, mtimeMs: nowMs })
      events.push(() => this.#changed(op.path, ['data', 'exists']))
      return statOf(node)
    }
    if (node.children.size > 0) throw fail(ZK.NOT_EMPTY)
    const [parentPath, name] = split(op.path)
    const parent = present(this.#nodes.get(parentPath), 'parent')
    undo.push(() => {
      this.#nodes.set(op.path, node)
      parent.children.add(name)
    })
    this.#nodes.delete(op.path)
    parent.children.delete(name)
    events.push(() => {
      this.#changed(op.path, ['data', 'exists', 'children'])
      this.#changed(parentPath, ['children'])
    })
    return null
  }

  #create(
    session: MemorySession,
    op: ZkOp & { readonly op: 'create' },
    fail: (code: number) => StratalogError,
    undo: (() => void)[],
    events: (() => void)[],
  ): string {
    const [parentPath] = split(op.path)
    const parent = this.#nodes.get(parentPath)
    if (parent === undefined) throw fail(ZK.NO_NODE)
    if (parent.owner !== 0n) throw fail(ZK.NO_CHILDREN_FOR_EPHEMERALS)
    const number = op.sequential === true ? String(parent.creates).padStart(10, '0') : ''
    const path = `${op.path}${number}`
    if (this.#nodes.has(path)) throw fail(ZK.NODE_EXISTS)
    const name = split(path)[1]
    undo.push(() => {
      this.#nodes.delete(path)
      parent.children.delete(name)
      parent.creates -= 1
    })
    this.#nodes.set(path, this.#node(op.data.slice(), op.ephemeral === true ? session.sessionId : 0n))
    parent.children.add(name)
    parent.creates += 1
    events.push(() => {
      this.#changed(path, ['exists'])
      this.#changed(parentPath, ['children'])
    })
    return path
  }

  #node(data: Uint8Array, owner: bigint): Node {
    const [ctimeMs, zxid] = [this.#nowMs(), this.#zxid]
    const times = { czxid: zxid, mzxid: zxid, ctimeMs, mtimeMs: ctimeMs }
    return { data, version: 0, creates: 0, children: new Set(), owner, ...times }
  }

  #read(path: string): ZkNode {
    const node = present(this.#nodes.get(path), path)
    return { data: node.data.slice(), stat: statOf(node) }
  }

  #end(sessionId: bigint, reason: StratalogError): void {
    const session = this.#sessions.get(sessionId)
    if (session === undefined) return
    this.#sessions.delete(sessionId)
    session.lose(reason)
    for (const [path, node] of [...this.#nodes]) {
      if (node.owner === sessionId) this.apply(session, [{ op: 'delete', path, version: -1 }])
    }
    this.#callWatches((watch) => watch.session === session)
  }

  #changed(path: string, kinds: readonly WatchKind[]): void {
    this.#callWatches((watch) => watch.path === path && kinds.includes(watch.kind))
  }

  /** Never within the call that changed something. */
  #callWatches(which: (watch: MemoryWatch) => boolean): void {
    for (const watch of [...this.#watches].filter(which)) {
      this.#watches.delete(watch)
      queueMicrotask(watch.call)
    }
  }
}

/** As `zk` for who stands still after each answer to `op`: `meanwhile` happens before it goes on. */
export function stallingAfter(zk: ZooKeeper, op: 'children' | 'sync', meanwhile: () => void): ZooKeeper {
  return new Proxy(zk, {
    get: (target, name) => {
      const method: unknown = target[name as keyof ZooKeeper]
      if (typeof method !== 'function') return method
      if (name !== op) return method.bind(target)
      return async (path: string) => {
        const answer: unknown = await target[op](path)
        meanwhile()
        return answer
      }
    },
  })
}

class MemorySession implements ZkSession {
  readonly sessionTimeoutMs = 30_000
  readonly sessionId: bigint
  readonly #server: MemoryZooKeeper
  readonly #lost = new AbortController()

  constructor(server: MemoryZooKeeper, sessionId: bigint) {
    this.#server = server
    this.sessionId = sessionId
    setMaxListeners(0, this.#lost.signal)
  }

  get lost(): AbortSignal {
    return this.#lost.signal
  }

  lose(reason: StratalogError): void {
    this.#lost.abort(reason)
  }

  /** Fails when the session has ended; `done`: what was carried out before it did. */
  check(done?: string): void {
    if (!this.#lost.signal.aborted) return
    if (done !== undefined) throw zkError(ZK.CONNECTION_LOSS, done)
    throw this.#lost.signal.reason
  }

  get(path: string, watch?: () => void): Promise<ZkNode | null> {
    return this.#read('get', path, () => this.#server.get(path), watch, 'data')
  }

  exists(path: string, watch?: () => void): Promise<ZkStat | null> {
    return this.#read('exists', path, () => this.#server.get(path)?.stat ?? null, watch, 'exists')
  }

  children(path: string, watch?: () => void): Promise<ZkChildren | null> {
    return this.#read('children', path, () => this.#server.children(path), watch, 'children')
  }

  async create(
    path: string,
    data: Uint8Array,
    options: { readonly ephemeral?: boolean; readonly sequential?: boolean } = {},
  ): Promise<string> {
    const { ephemeral = false, sequential = false } = options
    return String(await this.#change('create', { op: 'create', path, data, ephemeral, sequential }))
  }

  async set(path: string, data: Uint8Array, version: number): Promise<ZkStat> {
    return (await this.#change('set', { op: 'set', path, data, version })) as ZkStat
  }

  async delete(path: string, version: number): Promise<void> {
    await this.#change('delete', { op: 'delete', path, version })
  }

  async multi(ops: readonly ZkOp[]): Promise<readonly (ZkStat | string | null)[]> {
    if (ops.length === 0) return []
    const call: ZkCall = { sessionId: this.sessionId, op: 'multi', path: ops[0]?.path ?? '' }
    return this.#server.call(this, call, () => this.#server.apply(this, ops))
  }

  async sync(path: string): Promise<void> {
    return this.#server.call(this, { sessionId: this.sessionId, op: 'sync', path }, () => undefined)
  }

  forget(path: string, watch: () => void): void {
    this.#server.forget(this, path, watch)
  }

  async close(): Promise<void> {
    this.#server.closeSession(this.sessionId)
  }

  #read<T>(
    op: ZkCall['op'],
    path: string,
    act: () => T | null,
    call: (() => void) | undefined,
    kind: WatchKind,
  ): Promise<T | null> {
    return this.#server.call(this, { sessionId: this.sessionId, op, path }, () => {
      const found = act()
      if (call !== undefined && (found !== null || kind === 'exists')) {
        this.#server.watch({ kind, path, session: this, call })
      }
      return found
    })
  }

  #change(name: ZkCall['op'], op: ZkOp): Promise<ZkStat | string | null> {
    return this.#server.call(
      this,
      { sessionId: this.sessionId, op: name, path: op.path },
      () => this.#server.apply(this, [op])[0] ?? null,
    )
  }
}

function split(path: string): [parent: string, name: string] {
  const at = path.lastIndexOf('/')
  return [at <= 0 ? '/' : path.slice(0, at), path.slice(at + 1)]
}

function statOf(node: Node): ZkStat {
  const { version, czxid, mzxid, ctimeMs, mtimeMs } = node
  return {
    version,
    // ZooKeeper counts creations and says changes.
    cversion: node.creates * 2 - node.children.size,
    czxid,
    mzxid,
    ctimeMs,
    mtimeMs,
    ephemeralOwner: node.owner,
    numChildren: node.children.size,
    dataLength: node.data.length,
  }
}
