import { present } from '../../model/assert.js'
import { Dlsn } from '../../model/dlsn.js'
import { StratalogError } from '../../model/errors.js'
import type { Incarnation } from '../../model/segment.js'
import type { ZkOp, ZooKeeper } from '../../zookeeper/client.js'
import { decodeFrontier, encodeFrontier, FRESH_FRONTIER, type Frontier, isOfAnotherTree } from './frontier.js'
import { derivedIncarnation } from './incarnation.js'
import type { StreamPaths } from './paths.js'
import { readTree, type StreamTree } from './tree.js'

/** Changes of one frontier are as rare as segments: so many in a row while it is read are none. */
const ROUNDS_MAX = 20

/** What was read of one stream at a time, with the watches that tell when it is no longer so. */
export class StreamMirror {
  readonly paths: StreamPaths
  /** Where its frontier lies: elsewhere once it is deleted. */
  readonly frontierPath: string
  tree: StreamTree | null = null
  /** What the frontier says; of a stream that has none, what it would begin with. Null before the first reading. */
  #frontier: Frontier | null = null
  #frontierVersion: number | null = null
  #frontierCzxid: bigint | null = null
  /** Something may have changed since the last reading. */
  dirty = true
  /** Whether the cache has what was read. */
  settled = false
  readonly #changed: () => void
  #watchesTree = false
  #watchesFrontier = false
  #pending = 0
  #last: Promise<unknown> = Promise.resolve()

  constructor(paths: StreamPaths, frontierPath: string, changed: (mirror: StreamMirror) => void) {
    this.paths = paths
    this.frontierPath = frontierPath
    this.#changed = () => {
      this.dirty = true
      changed(this)
    }
  }

  /** One after another: what one reads another must not change. */
  serial<T>(work: () => Promise<T>): Promise<T> {
    this.#pending += 1
    const done = this.#last.then(work).finally(() => {
      this.#pending -= 1
    })
    this.#last = done.catch(() => undefined)
    return done
  }

  /** Whether somebody reads or changes it. */
  get busy(): boolean {
    return this.#pending > 0
  }

  /** Whether there is anything of the stream at all. */
  get exists(): boolean {
    return this.#frontier !== null
  }

  /** Whether it has a frontier of its own: nothing of ours is there before. */
  get hasFrontier(): boolean {
    return this.#frontierVersion !== null
  }

  get frontier(): Frontier {
    return present(this.#frontier, `frontier of ${this.paths.name}`)
  }

  get incarnation(): Incarnation {
    return this.frontier.incarnation
  }

  /** Whether its incarnation is the one that follows from its node: a Java writer made it. */
  isDerived(namespace: string, instanceId: string): boolean {
    const frontier = derived(this.tree, this.paths.name, namespace, instanceId)
    return frontier !== null && frontier.incarnation === this.incarnation
  }

  /** Where Java's writer truncated the stream; null: nowhere, as far as the nodes that are left say. */
  truncatedBelow(): Dlsn | null {
    let below: Dlsn | null = null
    // In order of their numbers: what lies above a mark of ours, which is on hollow segments alone, counts.
    const nodes = [...(this.tree?.completed.values() ?? [])].sort((a, b) => (a.segment < b.segment ? -1 : 1))
    for (const { segment, metadata } of nodes) {
      if (this.frontier.hollow.includes(segment)) continue
      const { truncation, minActiveEntryId, minActiveSlotId } = metadata
      if (truncation === 'truncated') below = new Dlsn(segment + 1n, 0n, 0n)
      else if (truncation === 'partially_truncated')
        below = new Dlsn(segment, minActiveEntryId, minActiveSlotId)
    }
    return below
  }

  /** The tree, for a change of it. */
  treeForChange(): StreamTree {
    if (this.tree !== null) return this.tree
    throw new StratalogError(
      'stream_not_found',
      `${this.paths.name} has no nodes in DistributedLog's tree: it was deleted there, and only its history is left`,
    )
  }

  /** Reads what there is now. */
  async read(zk: ZooKeeper, namespace: string, instanceId: string): Promise<void> {
    for (let round = 1; round <= ROUNDS_MAX; round += 1)
      if (await this.#readAtOnce(zk, namespace, instanceId)) return
    throw new StratalogError(
      'metadata_unavailable',
      `the frontier of ${this.paths.name} changes faster than it can be read: try again`,
      { retryable: true },
    )
  }

  /**
   * False: the frontier changed while the tree was read. One multi changes both, and half of it would look like a purge
   * where another process evicted, or trimmed, what it had recorded before.
   */
  async #readAtOnce(zk: ZooKeeper, namespace: string, instanceId: string): Promise<boolean> {
    this.dirty = false
    const [onTree, onFrontier] = [this.#watchesTree, this.#watchesFrontier]
    // Before anything is asked: a watch may be called before the answer to what left it is looked at.
    this.#watchesTree = true
    this.#watchesFrontier = true
    try {
      // Answers come in the order of the questions: the frontier is seen before the tree, and again after it.
      const [stat, tree] = await Promise.all([
        zk.exists(this.frontierPath, onFrontier ? undefined : this.#onFrontier),
        readTree(zk, this.paths, this.tree, onTree ? undefined : this.#onTree),
      ])
      const node = await zk.get(this.frontierPath)
      if (node?.stat.mzxid !== stat?.mzxid) {
        this.dirty = true
        return false
      }
      const written = node === null ? null : decodeFrontier(node.data, this.frontierPath)
      if (node !== null && written !== null && tree !== null && isOfAnotherTree(written, node.stat, tree))
        throw replaced(this, written, tree)
      this.tree = tree
      this.#frontierVersion = node?.stat.version ?? null
      this.#frontierCzxid = node?.stat.czxid ?? null
      this.#frontier = written ?? derived(tree, this.paths.name, namespace, instanceId)
      this.settled = false
      return true
    } catch (error) {
      this.dirty = true
      this.#watchesTree = onTree
      this.#watchesFrontier = onFrontier
      throw error
    }
  }

  readonly #onTree = (): void => {
    this.#watchesTree = false
    this.#changed()
  }

  readonly #onFrontier = (): void => {
    this.#watchesFrontier = false
    this.#changed()
  }

  /** The operation that replaces the frontier; `{}` confirms that nobody changed it. */
  frontierOps(change: Partial<Frontier>): ZkOp[] {
    // Which tree it is of goes into whatever is written; of one that Java deleted the last one stays.
    const place = { tree: this.tree?.czxid ?? this.frontier.tree, own: this.#frontierCzxid }
    const next = withoutTrimmed({ ...this.frontier, ...change, ...place })
    if (this.#frontierVersion === null)
      return [{ op: 'create', path: this.frontierPath, data: encodeFrontier(next) }]
    if (Object.keys(change).length === 0)
      return [{ op: 'check', path: this.frontierPath, version: this.#frontierVersion }]
    return [
      { op: 'set', path: this.frontierPath, data: encodeFrontier(next), version: this.#frontierVersion },
    ]
  }

  /** The operations that forget the frontier. */
  goneOps(): ZkOp[] {
    if (this.#frontierVersion === null) return []
    return [{ op: 'delete', path: this.frontierPath, version: this.#frontierVersion }]
  }
}

/** Gaps of which everything is trimmed are told by the trim point alone: or they would add up for as long as a stream lives. */
function withoutTrimmed(frontier: Frontier): Frontier {
  const { gaps, trimmedBelow } = frontier
  if (trimmedBelow === null || gaps.every(({ last }) => last >= trimmedBelow.segment)) return frontier
  return { ...frontier, gaps: gaps.filter(({ last }) => last >= trimmedBelow.segment) }
}

function replaced(
  { paths, frontierPath }: StreamMirror,
  { incarnation, tree: before }: Frontier,
  { czxid }: StreamTree,
): StratalogError {
  return new StratalogError(
    'stream_replaced',
    `${paths.name} was deleted and made anew by another, and ${frontierPath} is of the one before: nothing of it is read or changed, so that the two don't mix. Delete that node to go on with the new one; what is archived of the one before stays, as incarnation ${incarnation}. If it is the same stream, in a ZooKeeper that was filled anew, write "tree":"${czxid}" into the node instead`,
    { expected: before, found: czxid },
  )
}

/** A stream that Java made. Its txids are whatever its writers gave. */
function derived(
  tree: StreamTree | null,
  name: string,
  namespace: string,
  instanceId: string,
): Frontier | null {
  if (tree === null) return null
  const incarnation = derivedIncarnation({ instanceId, czxid: tree.czxid, namespace, stream: name })
  return { ...FRESH_FRONTIER, name, incarnation, txidMode: 'custom', createdMs: tree.createdMs, parent: null }
}
