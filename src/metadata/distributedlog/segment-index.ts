import { assert } from '../../model/assert.js'
import type { Dlsn } from '../../model/dlsn.js'
import { StratalogError } from '../../model/errors.js'
import type { KeptHold, StreamHold } from '../../model/hold.js'
import {
  canTransition,
  checkSegmentRow,
  type Incarnation,
  isClosed,
  type SegmentRow,
  type StreamRow,
} from '../../model/segment.js'
import type {
  AdoptedGap,
  ExpectedSegment,
  NewStream,
  SegmentIndex,
  SegmentPatch,
  SegmentTotals,
  Watch,
} from '../../ports/segment-index.js'
import type { ZkOp } from '../../zookeeper/client.js'
import { beginOps, endOps, lockCheck, removeEmptyOps } from './changes.js'
import { type DirectoryParts, StreamDirectory } from './directory.js'
import { NamespaceFacts } from './facts.js'
import type { Frontier } from './frontier.js'
import type { HeldLocks } from './locks.js'
import type { StreamMirror } from './mirror.js'
import { forgottenFact } from './reconcile.js'
import { adoptedOps, rowOps } from './row-changes.js'
import { createStream, deleteStream } from './streams.js'

/** What the index of a namespace is opened with. */
export interface DistributedLogIndexParts extends DirectoryParts {
  /** The locks this process holds: a writer's changes check its own. Absent: nobody writes here (tests, tools). */
  readonly locks?: HeldLocks
}

/** Before an incarnation: when that stream was deleted. */
const DELETED_FACT = 'deleted/'

type StreamPatch = Parameters<SegmentIndex['updateStream']>[2]

/**
 * The segment index over DistributedLog's tree (DESIGN.md §7): the tree is the truth for what is hot, a small frontier
 * for what we add, the names of objects for what is cold, and a cache of rows answers. Each change is one versioned
 * multi first, then the cache; a crash between the two leaves a cache that the next reading brings forward.
 */
export class DistributedLogIndex implements SegmentIndex {
  readonly #parts: DistributedLogIndexParts
  readonly #cache: SegmentIndex
  readonly #directory: StreamDirectory
  readonly #facts: NamespaceFacts
  #closed = false

  private constructor(parts: DistributedLogIndexParts) {
    this.#parts = parts
    this.#cache = parts.cache
    this.#directory = new StreamDirectory(parts)
    this.#facts = new NamespaceFacts(parts)
  }

  /** Reads the whole tree. The cache is the caller's to close. */
  static async open(parts: DistributedLogIndexParts): Promise<DistributedLogIndex> {
    const index = new DistributedLogIndex(parts)
    try {
      await index.#directory.open()
    } catch (error) {
      // Or it would go on reading in the background, into a cache that the next attempt has by then.
      await index.close()
      throw error
    }
    return index
  }

  /** The node below which the writers of a stream queue (FORMATS.md §5.8). */
  async lockPath(incarnation: Incarnation): Promise<string> {
    return (await this.#directory.present(incarnation)).paths.lock
  }

  /** Whether a Java writer made the stream: then its incarnation is what follows from its node. */
  async isMadeByOthers(incarnation: Incarnation): Promise<boolean> {
    const { namespace, instanceId } = this.#parts
    return (await this.#directory.present(incarnation)).isDerived(namespace, instanceId)
  }

  /** Where Java's writer truncated the stream; null: nowhere. Segments below it go with the next purge. */
  async truncatedBelow(incarnation: Incarnation): Promise<Dlsn | null> {
    return (await this.#directory.present(incarnation)).truncatedBelow()
  }

  async createStream(stream: NewStream): Promise<StreamRow> {
    this.#assertOpen()
    const mirror = await createStream(this.#parts, this.#directory, stream)
    return this.#row(mirror.incarnation)
  }

  async streamByName(name: string): Promise<StreamRow | null> {
    this.#assertOpen()
    const mirror = await this.#directory.named(name)
    return mirror === null ? null : this.#cache.stream(mirror.incarnation)
  }

  async stream(incarnation: Incarnation): Promise<StreamRow | null> {
    this.#assertOpen()
    return (await this.#directory.of(incarnation)) === null ? null : this.#cache.stream(incarnation)
  }

  async listStreams(after: string, limit: number): Promise<StreamRow[]> {
    await this.#all()
    const rows: StreamRow[] = []
    for (let from = after; rows.length < limit; ) {
      const page = await this.#cache.listStreams(from, limit)
      rows.push(...page.filter(({ incarnation }) => this.#directory.knows(incarnation)))
      const last = page.at(-1)
      if (last === undefined || page.length < limit) break
      from = last.name
    }
    return rows.slice(0, limit)
  }

  async updateStream(
    incarnation: Incarnation,
    expectedVersion: number,
    patch: StreamPatch,
  ): Promise<StreamRow> {
    return this.#change(incarnation, async (mirror) => {
      const before = await this.#expectStream(incarnation, expectedVersion)
      checkStreamPatch(before, patch)
      const { name, ...rest } = patch
      if (name !== undefined && name !== before.name) throw noRename(before.name)
      const ended = patch.finishedMs !== undefined && patch.finishedMs !== null && before.finishedMs === null
      // Java's writer looks at maxtxid alone to know that a stream was ended.
      const ends = ended && mirror.tree !== null ? endOps(mirror.paths, mirror.tree) : []
      // Only what is asked for: a trim point of the row may be inferred from a purge, and is nobody's decision.
      await this.#directory.commit(mirror, `change ${before.name}`, [...ends, ...mirror.frontierOps(rest)])
      return this.#cache.updateStream(incarnation, expectedVersion, patch)
    })
  }

  async deleteStream(incarnation: Incarnation, expectedVersion: number, atMs: number): Promise<StreamRow> {
    this.#assertOpen()
    const mirror = await this.#directory.present(incarnation)
    await deleteStream(this.#parts, this.#directory, mirror, atMs, () =>
      this.#expectStream(incarnation, expectedVersion),
    )
    return this.#row(incarnation)
  }

  async removeStream(incarnation: Incarnation): Promise<void> {
    this.#assertOpen()
    const mirror = await this.#directory.of(incarnation)
    if (mirror === null) return
    await this.#directory.change(mirror, async () => {
      const rows = await this.#cache.listSegments(incarnation, 0n, 1)
      assert(rows.length === 0, `stream ${incarnation} is removed and has segments`)
      if (mirror.frontier.deletedMs === null) throw notDeleted(mirror)
      const gone = mirror.goneOps()
      await this.#directory.commit(mirror, `remove ${mirror.paths.name}`, gone)
      await this.#cache.removeStream(incarnation)
    })
  }

  async beginSegment(row: SegmentRow): Promise<SegmentRow> {
    assert(row.state === 'open', `segment ${row.segment} of ${row.incarnation} begins as ${row.state}`)
    return this.#change(row.incarnation, async (mirror) => {
      const owner = await this.#row(row.incarnation)
      if (row.epoch !== owner.epoch) throw otherEpoch(owner, row)
      await this.#expectNext(mirror, owner, row)
      checkSegmentRow({ ...row, version: 0 })
      const { paths } = mirror
      const begun = { segment: row.segment, ledgerId: row.ledgerId ?? 0n, firstTxid: row.firstTxid }
      await this.#directory.commit(mirror, `begin segment ${row.segment} of ${paths.name}`, [
        ...beginOps(paths, mirror.treeForChange(), begun),
        // A writer of a later epoch has written it there before anything else (invariant 3).
        ...mirror.frontierOps({}),
        ...lockCheck(this.#ownLock(mirror)),
      ])
      return this.#cache.beginSegment(row)
    })
  }

  async adoptSegment(row: SegmentRow, gap: AdoptedGap | null = null): Promise<SegmentRow> {
    assert(isClosed(row.state), `segment ${row.segment} of ${row.incarnation} is adopted as ${row.state}`)
    return this.#change(row.incarnation, async (mirror) => {
      await this.#expectNext(mirror, await this.#row(row.incarnation), row)
      checkSegmentRow({ ...row, version: 0 })
      const adopted = gap === null ? row : { ...row, gapReason: row.gapReason ?? gap.reason }
      // Who restores holds the lock of the writer, and what it adopts is refused once that is lost.
      const lock = this.#parts.locks?.held(row.incarnation) ?? null
      const ops = await adoptedOps(this.#rowChange(mirror, lock), adopted, gap?.last ?? null)
      await this.#directory.commit(mirror, `adopt segment ${row.segment} of ${mirror.paths.name}`, ops)
      return this.#cache.adoptSegment(row, gap)
    })
  }

  async updateSegment(row: ExpectedSegment, patch: SegmentPatch): Promise<SegmentRow> {
    return this.#change(row.incarnation, async (mirror) => {
      const before = await this.#expect(row)
      const after: SegmentRow = { ...before, ...patch, version: before.version + 1 }
      assert(
        after.state === before.state || canTransition(before.state, after.state),
        `segment ${before.segment} of ${before.incarnation} can't go from ${before.state} to ${after.state}`,
      )
      checkSegmentRow(after)
      // Asked before a recovery fences anything: the segment of another's writer is left alone (FORMATS.md §6.3).
      const lock = isClosed(before.state) ? null : this.#ownLock(mirror)
      const ops = await rowOps(this.#rowChange(mirror, lock), before, after)
      await this.#directory.commit(mirror, `change segment ${before.segment} of ${mirror.paths.name}`, ops)
      return this.#cache.updateSegment(row, patch)
    })
  }

  async removeSegment(row: ExpectedSegment): Promise<void> {
    await this.#change(row.incarnation, async (mirror) => {
      const before = await this.#expect(row)
      const newest = await this.#cache.newestSegment(row.incarnation)
      const trimmed = before.state === 'trimmed' && before.ledgerId === null && before.object === null
      const empty = !isClosed(before.state) && newest?.segment === before.segment && before.recordCount <= 0n
      assert(
        trimmed || empty,
        `segment ${before.segment} of ${before.incarnation} (${before.state}, ${before.recordCount} records) is removed`,
      )
      await this.#directory.commit(
        mirror,
        `remove segment ${before.segment} of ${mirror.paths.name}`,
        trimmed ? [] : this.#emptyOps(mirror, before),
      )
      await this.#cache.removeSegment(row)
      // Its node may have to stay for its number: no reading is to make a row of it again.
      if (trimmed) await this.#cache.setFact(forgottenFact(row.incarnation), row.segment.toString())
    })
  }

  #emptyOps(mirror: StreamMirror, { segment, ledgerId }: SegmentRow): ZkOp[] {
    const { tree } = mirror
    if (tree === null || tree.open.get(segment)?.metadata.ledgerId !== ledgerId) return []
    return [...removeEmptyOps(mirror.paths, tree, segment), ...lockCheck(this.#ownLock(mirror))]
  }

  async segment(incarnation: Incarnation, segment: bigint): Promise<SegmentRow | null> {
    return this.#find(incarnation, null, () => this.#cache.segment(incarnation, segment))
  }

  async listSegments(incarnation: Incarnation, from: bigint, limit: number): Promise<SegmentRow[]> {
    return this.#find(incarnation, [], () => this.#cache.listSegments(incarnation, from, limit))
  }

  async listHotSegments(incarnation: Incarnation, limit: number): Promise<SegmentRow[]> {
    return this.#find(incarnation, [], () => this.#cache.listHotSegments(incarnation, limit))
  }

  async newestSegment(incarnation: Incarnation): Promise<SegmentRow | null> {
    return this.#find(incarnation, null, () => this.#cache.newestSegment(incarnation))
  }

  async oldestSegment(incarnation: Incarnation): Promise<SegmentRow | null> {
    return this.#find(incarnation, null, () => this.#cache.oldestSegment(incarnation))
  }

  async segmentForTxid(incarnation: Incarnation, txid: bigint): Promise<SegmentRow | null> {
    return this.#find(incarnation, null, () => this.#cache.segmentForTxid(incarnation, txid))
  }

  async segmentForSequenceId(incarnation: Incarnation, sequenceId: bigint): Promise<SegmentRow | null> {
    return this.#find(incarnation, null, () => this.#cache.segmentForSequenceId(incarnation, sequenceId))
  }

  async segmentForTime(incarnation: Incarnation, timeMs: number): Promise<SegmentRow | null> {
    return this.#find(incarnation, null, () => this.#cache.segmentForTime(incarnation, timeMs))
  }

  async segmentsInState(states: readonly SegmentRow['state'][], limit: number): Promise<SegmentRow[]> {
    await this.#all()
    return (await this.#cache.segmentsInState(states, limit)).filter(this.#isKnown)
  }

  async segmentsOwing(limit: number): Promise<SegmentRow[]> {
    await this.#all()
    return (await this.#cache.segmentsOwing(limit)).filter(this.#isKnown)
  }

  async totals(incarnation: Incarnation): Promise<SegmentTotals> {
    this.#assertOpen()
    await this.#directory.present(incarnation)
    return this.#cache.totals(incarnation)
  }

  watch(incarnation: Incarnation, changed: () => void): Watch {
    this.#assertOpen()
    return this.#cache.watch(incarnation, changed)
  }

  async policyOverride(incarnation: Incarnation): Promise<string | null> {
    this.#assertOpen()
    return (await this.#directory.of(incarnation))?.frontier.policy ?? null
  }

  async setPolicyOverride(incarnation: Incarnation, policy: string | null): Promise<void> {
    await this.#changeFrontier(incarnation, 'set the policy of', ({ policy: before }) =>
      policy === before ? {} : { policy },
    )
  }

  async holds(incarnation: Incarnation): Promise<readonly KeptHold[]> {
    this.#assertOpen()
    return (await this.#directory.of(incarnation))?.frontier.holds ?? []
  }

  async putHold(incarnation: Incarnation, hold: StreamHold): Promise<void> {
    await this.#changeFrontier(incarnation, 'put a hold on', ({ holds }) => ({
      holds: [...holds.filter(({ id }) => id !== hold.id), { ...hold, releasedMs: null }],
      holdsOwed: true,
    }))
  }

  async releaseHold(incarnation: Incarnation, id: string, releasedMs: number): Promise<void> {
    await this.#changeFrontier(incarnation, 'release a hold on', ({ holds }) => {
      if (!holds.some((hold) => hold.id === id && hold.releasedMs === null)) return {}
      const released = (hold: KeptHold) =>
        hold.id === id && hold.releasedMs === null ? { ...hold, releasedMs } : hold
      return { holds: holds.map(released), holdsOwed: true }
    })
  }

  async streamsOwingHolds(): Promise<readonly Incarnation[]> {
    await this.#all()
    return this.#directory.incarnations(({ holdsOwed }) => holdsOwed)
  }

  async holdsTold(incarnation: Incarnation): Promise<void> {
    await this.#changeFrontier(incarnation, 'note the holds of', ({ holds, holdsOwed }) =>
      holdsOwed ? { holds: holds.filter(({ releasedMs }) => releasedMs === null), holdsOwed: false } : {},
    )
  }

  /** Nothing: the frontier names the ledgers of recalled segments, and without the cache they are freed again. */
  async recordRecall(): Promise<void> {}

  async fact(name: string): Promise<string | null> {
    this.#assertOpen()
    if (!name.startsWith(DELETED_FACT)) return this.#facts.read(name)
    // What is left of a deleted stream says it, so that any process goes on with freeing it.
    const mirror = await this.#directory.of(name.slice(DELETED_FACT.length))
    return mirror?.frontier.deletedMs?.toString() ?? null
  }

  async setFact(name: string, value: string): Promise<void> {
    this.#assertOpen()
    await this.#facts.write(name, value)
  }

  /** Ends watches. ZooKeeper and the cache are closed by who opened them. Idempotent. */
  async close(): Promise<void> {
    this.#closed = true
    this.#directory.close()
  }

  readonly #isKnown = ({ incarnation }: SegmentRow): boolean => this.#directory.knows(incarnation)

  #ownLock({ incarnation, paths, frontier }: StreamMirror): string | null {
    const { locks } = this.#parts
    if (locks === undefined || frontier.deletedMs !== null) return null
    const own = locks.held(incarnation)
    if (own !== null) return own
    throw new StratalogError(
      'fenced',
      `this process does not hold the writer's lock of ${paths.name}: another writer has it, or may take it any time`,
    )
  }

  #rowChange(mirror: StreamMirror, lockNode: string | null): Parameters<typeof rowOps>[0] {
    return { mirror, cache: this.#cache, lockNode }
  }

  async #change<T>(incarnation: Incarnation, work: (mirror: StreamMirror) => Promise<T>): Promise<T> {
    this.#assertOpen()
    const mirror = await this.#directory.present(incarnation)
    return this.#directory.change(mirror, () => work(mirror))
  }

  async #changeFrontier(
    incarnation: Incarnation,
    doing: string,
    change: (frontier: Frontier) => Partial<Frontier>,
  ): Promise<void> {
    await this.#change(incarnation, async (mirror) => {
      const changed = change(mirror.frontier)
      if (Object.keys(changed).length === 0) return
      await this.#directory.commit(mirror, `${doing} ${mirror.paths.name}`, mirror.frontierOps(changed))
    })
  }

  async #row(incarnation: Incarnation): Promise<StreamRow> {
    const row = await this.#cache.stream(incarnation)
    assert(row !== null, `stream ${incarnation} is not in the cache`)
    return row
  }

  async #expectStream(incarnation: Incarnation, expectedVersion: number): Promise<StreamRow> {
    const row = await this.#row(incarnation)
    if (row.version === expectedVersion) return row
    throw new StratalogError(
      'conflict',
      `stream ${row.name} was changed by another: read it again and decide anew`,
      { expected: expectedVersion, found: row.version, details: { epoch: row.epoch.toString() } },
    )
  }

  async #expect(expected: ExpectedSegment): Promise<SegmentRow> {
    const found = await this.#cache.segment(expected.incarnation, expected.segment)
    const another = expected.ledgerId !== undefined && found?.ledgerId !== expected.ledgerId
    if (found !== null && found.version === expected.version && !another) return found
    const became = found === null ? 'is gone' : `was changed by another and is ${found.state}`
    throw new StratalogError(
      'conflict',
      `segment ${expected.segment} of ${expected.incarnation} ${became}: read it again and decide anew`,
      {
        expected: expected.version,
        found: found === null ? null : found.version,
        details: { state: found === null ? null : found.state },
      },
    )
  }

  /** What the cache would refuse is refused before ZooKeeper is asked. */
  async #expectNext({ tree }: StreamMirror, owner: StreamRow, row: SegmentRow): Promise<void> {
    const newest = (await this.#cache.newestSegment(owner.incarnation))?.segment ?? null
    const anyFirst = newest === null && (owner.parent !== null || owner.trimmedBelow !== null)
    const completed = [...(tree?.completed.keys() ?? [])].reduce((a, b) => (a > b ? a : b), newest ?? 0n)
    const expected = completed + 1n
    if (row.segment === expected || (anyFirst && row.segment > completed)) return
    throw new StratalogError(
      'conflict',
      `the next segment of ${owner.name} is ${expected}, not ${row.segment}: read the newest again`,
      { expected: expected.toString(), found: row.segment.toString() },
    )
  }

  async #all(): Promise<void> {
    this.#assertOpen()
    await this.#directory.all()
  }

  async #find<T>(incarnation: Incarnation, nothing: T, search: () => Promise<T>): Promise<T> {
    this.#assertOpen()
    return (await this.#directory.of(incarnation)) === null ? nothing : search()
  }

  #assertOpen(): void {
    if (this.#closed)
      throw new StratalogError('closed', `the index of ${this.#parts.namespace} has been closed`)
  }
}

/** What never goes back. */
function checkStreamPatch(before: StreamRow, patch: StreamPatch): void {
  const after = { ...before, ...patch }
  const { trimmedBelow } = after
  assert(after.epoch >= before.epoch, `the epoch of ${before.name} goes back to ${after.epoch}`)
  assert(
    before.trimmedBelow === null || (trimmedBelow !== null && trimmedBelow.compare(before.trimmedBelow) >= 0),
    `the trim point of ${before.name} goes back to ${trimmedBelow}`,
  )
  assert(
    before.finishedMs === null || after.finishedMs === before.finishedMs,
    `${before.name} is finished, and for ever`,
  )
}

function otherEpoch(owner: StreamRow, row: SegmentRow): StratalogError {
  return new StratalogError(
    'conflict',
    `stream ${owner.name} has epoch ${owner.epoch}, the segment ${row.epoch}: another writer took over`,
    { expected: owner.epoch.toString(), found: row.epoch.toString() },
  )
}

function noRename(name: string): StratalogError {
  return new StratalogError(
    'unsupported',
    `${name} can't be renamed: in DistributedLog's tree a name is a place; restore it from the archive under another one (stratalog restore --streams ${name} --as ${name}=NAME), then delete this one`,
  )
}

function notDeleted(mirror: StreamMirror): StratalogError {
  return new StratalogError('conflict', `${mirror.paths.name} is there: delete it before it is removed`)
}
