import { type ErrorCode, isStratalogError, StratalogError } from '../../model/errors.js'
import type { Incarnation } from '../../model/segment.js'
import type { ZkOp, ZooKeeper } from '../../zookeeper/client.js'
import { createAbsent } from './binding.js'
import { commit } from './commit.js'
import type { Frontier } from './frontier.js'
import { StreamMirror } from './mirror.js'
import {
  deletedPath,
  factsPath,
  frontiersPath,
  isStream,
  mayBeStream,
  parentsOf,
  parseFrontierName,
  streamPaths,
} from './paths.js'
import { type ReconcileParts, reconcile } from './reconcile.js'

/** What looking after a namespace's streams needs. */
export interface DirectoryParts extends ReconcileParts {
  readonly zk: ZooKeeper
  /** Path of the namespace in ZooKeeper, without a slash at its end. */
  readonly namespace: string
  /** INSTANCEID of the BookKeeper cluster, '' where there is none. */
  readonly instanceId: string
}

/** Streams read side by side. */
const READS_AT_ONCE = 16
const RETRY_MS = 1_000
/** What is wrong with one stream alone, and passes only when somebody mends it. */
const OF_ONE_STREAM: readonly ErrorCode[] = ['corrupt', 'version_unsupported', 'stream_replaced']
/** Names that were looked up and that no stream has. */
const MISSING_MAX = 1_000
/** Parts of a nested name: deeper trees are no streams of ours. */
const DEPTH_MAX = 64

/**
 * The streams of a namespace: which there are, and what was read of each. A watch marks what may have changed; whoever
 * looks at it next reads it again first, and somebody does so soon in any case. While ZooKeeper does not answer, lookups
 * are answered from what was read last: every change is decided by ZooKeeper alone, so nothing false can come of it.
 */
export class StreamDirectory {
  readonly #parts: DirectoryParts
  /** By the path of the frontier. */
  readonly #mirrors = new Map<string, StreamMirror>()
  readonly #byIncarnation = new Map<Incarnation, StreamMirror>()
  readonly #watched = new Set<string>()
  readonly #missing = new Set<StreamMirror>()
  readonly #unreadable = new Map<StreamMirror, StratalogError>()
  /** The list of streams may have changed since it was read. */
  #dirty = true
  #listed = false
  #listing: Promise<void> | null = null
  #retrying = false
  #closed = false

  constructor(parts: DirectoryParts) {
    this.#parts = parts
  }

  /** Reads every stream there is. */
  async open(): Promise<void> {
    const { zk, namespace } = this.#parts
    for (const path of parentsOf(factsPath(namespace))) await createAbsent(zk, path)
    await createAbsent(zk, factsPath(namespace))
    await this.all()
  }

  close(): void {
    this.#closed = true
  }

  /** The stream of a name, as it is now; null: there is none. */
  async named(name: string): Promise<StreamMirror | null> {
    const { namespace } = this.#parts
    const paths = streamPaths(namespace, name)
    await this.#fresh(this.#mirrorAt(paths.frontier, name))
    const mirror = this.#mirrors.get(paths.frontier) ?? null
    if (mirror?.exists === true) return mirror
    if (mirror !== null) this.#forget(mirror)
    return null
  }

  /** The stream of an incarnation, as it is now; null: there is none. */
  async of(incarnation: Incarnation): Promise<StreamMirror | null> {
    const known = this.#byIncarnation.get(incarnation)
    if (known !== undefined) await this.#fresh(known)
    else await this.all()
    const mirror = this.#byIncarnation.get(incarnation) ?? null
    if (mirror?.exists === true && mirror.incarnation === incarnation) return mirror
    // It may be that of a stream that can't be read: unknown is not missing.
    const unreadable = [...this.#unreadable.values()][0]
    if (unreadable !== undefined) throw unreadable
    return null
  }

  /** The stream of an incarnation among those that can be read. */
  readable(incarnation: Incarnation): StreamMirror | null {
    return this.#byIncarnation.get(incarnation) ?? null
  }

  /** {@link of}, or `stream_not_found`. */
  async present(incarnation: Incarnation): Promise<StreamMirror> {
    const mirror = await this.of(incarnation)
    if (mirror !== null) return mirror
    throw new StratalogError('stream_not_found', `there is no stream with incarnation ${incarnation}`, {
      found: incarnation,
    })
  }

  /** The place of a stream, whether it is there or not. */
  place(name: string): StreamMirror {
    return this.#mirrorAt(streamPaths(this.#parts.namespace, name).frontier, name)
  }

  /** Incarnations of the streams whose frontier is such. */
  incarnations(which: (frontier: Frontier) => boolean): Incarnation[] {
    return [...this.#byIncarnation.values()]
      .filter((mirror) => mirror.exists && which(mirror.frontier))
      .map(({ incarnation }) => incarnation)
  }

  knows(incarnation: Incarnation): boolean {
    return this.#byIncarnation.has(incarnation)
  }

  /** Brings everything up to date: the list, and each stream of which something changed. */
  async all(): Promise<void> {
    if (this.#dirty) await this.#orStale(this.#listed, () => this.#list())
    const stale = [...this.#mirrors.values()].filter((mirror) => mirror.dirty || !mirror.settled)
    for (let at = 0; at < stale.length; at += READS_AT_ONCE)
      await Promise.all(stale.slice(at, at + READS_AT_ONCE).map((mirror) => this.#readable(mirror)))
  }

  /** One stream whose nodes are damaged must not keep the others away: who asks for it is told. */
  async #readable(mirror: StreamMirror): Promise<void> {
    try {
      await this.#fresh(mirror)
    } catch (error) {
      if (!isStratalogError(error) || !OF_ONE_STREAM.includes(error.code)) throw error
      if (!this.#unreadable.has(mirror))
        this.#parts.logger.error({ err: error, stream: mirror.paths.name }, 'a stream can not be read')
      this.#unreadable.set(mirror, error)
    }
  }

  /** Changes a stream, alone and from what is there now: `work` gets what was read, and nothing else touches it. */
  change<T>(mirror: StreamMirror, work: () => Promise<T>): Promise<T> {
    return mirror.serial(async () => {
      this.#assertOpen()
      await this.#read(mirror)
      try {
        return await work()
      } finally {
        // What was done is read again before the next change, whatever became of it.
        mirror.dirty = true
        this.#soon()
      }
    })
  }

  /** One multi, of a stream that is being changed. Nothing to do: nothing is sent. */
  async commit(mirror: StreamMirror, what: string, ops: readonly ZkOp[]): Promise<void> {
    const { zk, clock } = this.#parts
    if (ops.length === 0) return
    await this.#expectSameNodes(mirror, what, ops)
    try {
      await commit(zk, clock, what, ops)
    } catch (error) {
      // A node that is not there any more: the stream, or the lock, is another's by now.
      if (!isStratalogError(error, 'not_found')) throw error
      throw new StratalogError('conflict', `${what}: another changed ${mirror.paths.name}: read it again`, {
        cause: error,
        retryable: true,
      })
    }
  }

  /**
   * A node that is written anew takes with it what was read of it. Java's truncation deletes and creates one too, at
   * version 0 again, and a multi can check versions alone: so such a node is looked at once more, behind a sync, right
   * before. What comes in the round trip that is left is Java's next truncation's to say again, for it marks all that
   * lies below it. Deleting or only checking a node needs none of this: it is the same segment either way.
   */
  async #expectSameNodes({ tree, paths }: StreamMirror, what: string, ops: readonly ZkOp[]): Promise<void> {
    const { zk } = this.#parts
    const deleted = new Set(ops.flatMap(({ op, path }) => (op === 'delete' ? [path] : [])))
    const anew = new Set(ops.flatMap(({ op, path }) => (op === 'create' && deleted.has(path) ? [path] : [])))
    if (anew.size === 0) return
    const nodes = [...(tree?.completed.values() ?? [])].filter(({ path }) => anew.has(path))
    await zk.sync(paths.ledgers)
    for (const { path, czxid } of nodes) {
      if ((await zk.exists(path))?.czxid === czxid) continue
      throw new StratalogError('conflict', `${what}: another changed ${path}: read it again`, {
        retryable: true,
      })
    }
  }

  /** Reads a stream again within a change of it. */
  async again(mirror: StreamMirror): Promise<void> {
    mirror.dirty = true
    await this.#read(mirror)
  }

  /** A stream was deleted: what is left of it lies elsewhere, and its name is free. */
  async deleted(incarnation: Incarnation): Promise<void> {
    const path = deletedPath(this.#parts.namespace, incarnation)
    const mirror = this.#mirrorAt(path, `.deleted/${incarnation}`)
    await mirror.serial(() => this.#read(mirror))
  }

  #mirrorAt(frontierPath: string, name: string): StreamMirror {
    const known = this.#mirrors.get(frontierPath)
    if (known !== undefined) return known
    const paths = streamPaths(this.#parts.namespace, name)
    const mirror = new StreamMirror(paths, frontierPath, () => this.#soon())
    this.#mirrors.set(frontierPath, mirror)
    return mirror
  }

  /** Names nobody has are remembered, with the watch that waits for them; but only so many. */
  #forget(mirror: StreamMirror): void {
    this.#missing.delete(mirror)
    this.#missing.add(mirror)
    for (const oldest of this.#missing) {
      if (this.#missing.size <= MISSING_MAX) return
      this.#missing.delete(oldest)
      if (!oldest.exists && !oldest.busy) this.#mirrors.delete(oldest.frontierPath)
    }
  }

  async #fresh(mirror: StreamMirror): Promise<void> {
    this.#assertOpen()
    if (!mirror.dirty && mirror.settled) return
    await this.#orStale(mirror.settled, () => mirror.serial(() => this.#read(mirror)))
  }

  async #orStale(known: boolean, work: () => Promise<void>): Promise<void> {
    try {
      await work()
    } catch (error) {
      if (!known || !isStratalogError(error, 'metadata_unavailable')) throw error
      this.#parts.logger.warn({ err: error }, 'ZooKeeper does not answer: what was read last is used')
      this.#soon()
    }
  }

  /** Only within the mirror's turn. */
  async #read(mirror: StreamMirror): Promise<void> {
    const { zk, namespace, instanceId } = this.#parts
    if (mirror.dirty) {
      const before = mirror.exists ? mirror.incarnation : null
      await mirror.read(zk, namespace, instanceId)
      const is = mirror.exists ? mirror.incarnation : null
      if (before !== null && is !== before && this.#byIncarnation.get(before) === mirror)
        this.#byIncarnation.delete(before)
    }
    // An answer that came after the end: the cache is another's by now, or closed.
    this.#assertOpen()
    if (!mirror.exists) mirror.settled = true
    else if (!mirror.settled) {
      await reconcile(this.#parts, mirror)
      this.#byIncarnation.set(mirror.incarnation, mirror)
    }
    // Whoever read it: nobody else comes by it again before it changes.
    this.#unreadable.delete(mirror)
  }

  #list(): Promise<void> {
    this.#listing ??= this.#listNow().finally(() => {
      this.#listing = null
    })
    return this.#listing
  }

  async #listNow(): Promise<void> {
    const { namespace } = this.#parts
    this.#dirty = false
    try {
      for (const child of await this.#children(frontiersPath(namespace))) {
        const said = parseFrontierName(child)
        if (said === null) continue
        if ('name' in said) this.#mirrorAt(streamPaths(namespace, said.name).frontier, said.name)
        // The tree below is nobody's: another stream may have the name by now.
        else this.#mirrorAt(deletedPath(namespace, said.deleted), `.deleted/${said.deleted}`)
      }
      await this.#listBelow(namespace, '', 0)
      this.#listed = true
    } catch (error) {
      this.#dirty = true
      throw error
    }
  }

  /** Names are paths: what lies below a stream may be streams too. */
  async #listBelow(path: string, name: string, depth: number): Promise<void> {
    const children = await this.#children(path)
    if (name !== '' && isStream(children))
      this.#mirrorAt(streamPaths(this.#parts.namespace, name).frontier, name)
    if (depth >= DEPTH_MAX) return
    const below = children.filter(mayBeStream)
    for (let at = 0; at < below.length; at += READS_AT_ONCE) {
      const some = below.slice(at, at + READS_AT_ONCE)
      const list = (child: string) =>
        this.#listBelow(`${path}/${child}`, name === '' ? child : `${name}/${child}`, depth + 1)
      await Promise.all(some.map(list))
    }
  }

  /** Nobody there has no children; what appears later is heard of by its parent. */
  async #children(path: string): Promise<readonly string[]> {
    const watched = this.#watched.has(path)
    this.#watched.add(path)
    const changed = () => {
      this.#watched.delete(path)
      this.#dirty = true
      this.#soon()
    }
    try {
      const found = await this.#parts.zk.children(path, watched ? undefined : changed)
      if (found === null && !watched) this.#watched.delete(path)
      return found?.names ?? []
    } catch (error) {
      if (!watched) this.#watched.delete(path)
      throw error
    }
  }

  /** Reads again what changed, in the background; later once more if that fails. */
  #soon(): void {
    if (this.#retrying || this.#closed) return
    this.#retrying = true
    const again = (delayMs: number) => {
      this.#parts.clock.setTimer(delayMs, () => {
        this.#retrying = false
        if (this.#closed) return
        this.all().catch((error: unknown) => {
          if (this.#closed) return
          this.#parts.logger.warn(
            { err: error },
            'the tree of DistributedLog could not be read, it is tried again',
          )
          this.#retrying = true
          again(RETRY_MS)
        })
      })
    }
    again(0)
  }

  #assertOpen(): void {
    if (this.#closed)
      throw new StratalogError('closed', `the index of ${this.#parts.namespace} has been closed`)
  }
}
