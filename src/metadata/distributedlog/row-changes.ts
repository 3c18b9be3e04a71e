import { assert } from '../../model/assert.js'
import { StratalogError } from '../../model/errors.js'
import { isClosed, type SegmentRow } from '../../model/segment.js'
import type { SegmentIndex } from '../../ports/segment-index.js'
import type { ZkOp } from '../../zookeeper/client.js'
import { adoptOps, completeOps, fillerOps, giveUpOps, lockCheck, rewriteOps, skipOps } from './changes.js'
import { type Frontier, type FrontierCopy, withGap } from './frontier.js'
import type { StreamMirror } from './mirror.js'
import { completedOf } from './rows.js'
import type { SegmentNode } from './tree.js'

/** What a change of a row asks of ZooKeeper: operations of one multi, none where only the cache has the fact. */
type Change = { ops: ZkOp[]; frontier: Partial<Mutable<Frontier>> }
type Mutable<T> = { -readonly [K in keyof T]: T[K] }

/** A row that changes, with what the multi for it is made from. */
export interface RowChange {
  readonly mirror: StreamMirror
  readonly cache: Pick<SegmentIndex, 'listSegments'>
  /** The writer's own lock node; null: the change is made by none that needs it. */
  readonly lockNode: string | null
}

/** Rows looked at a time when archived-through moves. */
const PAGE = 1_000

/** The multi for a change of a row from `before` to `after`. */
export async function rowOps(change: RowChange, before: SegmentRow, after: SegmentRow): Promise<ZkOp[]> {
  const { mirror } = change
  if (!isClosed(before.state)) return isClosed(after.state) ? sealOps(change, after) : []
  const made: Change = { ops: [], frontier: {} }
  if (after.state !== before.state) await stateOps(change, made, before, after)
  else if (after.ledgerId !== null && after.ledgerId !== before.ledgerId) moveLedger(mirror, made, after)
  copiesOf(mirror, made, after)
  return withFrontier(mirror, made)
}

/** The multi that puts a closed row behind all others. */
export async function adoptedOps(change: RowChange, row: SegmentRow, last: bigint | null): Promise<ZkOp[]> {
  const { mirror } = change
  const tree = mirror.treeForChange()
  const made: Change = { ops: lockCheck(change.lockNode), frontier: {} }
  const hot = row.state === 'sealed' || row.state === 'archived'
  if (hot) made.ops.push(...adoptOps(mirror.paths, tree, completedOf(row)))
  else if (tree.completed.size === 0) made.ops.push(...skipOps(mirror.paths, tree, row.segment, row.lastTxid))
  else {
    // Java takes a number that is missing between two others for a loss.
    made.ops.push(
      ...fillerOps(mirror.paths, tree, { ...completedOf({ ...row, ledgerId: row.ledgerId ?? 0n }) }),
    )
    made.frontier.hollow = [...mirror.frontier.hollow, row.segment]
  }
  if (row.state === 'gap') {
    const gap = { first: row.segment, last: last ?? row.segment, reason: row.gapReason ?? 'corrupt' }
    made.frontier.gaps = withGap(mirror.frontier.gaps, gap)
  }
  if (!hot) copiesOf(mirror, made, row)
  if (row.state !== 'sealed' && row.state !== 'trimmed') await advance(change, made, row)
  return withFrontier(mirror, made)
}

function withFrontier(mirror: StreamMirror, { ops, frontier }: Change): ZkOp[] {
  const changed = Object.keys(frontier).length > 0
  return changed ? [...ops, ...mirror.frontierOps(frontier)] : ops
}

/** The writer, or whoever recovers after it, closes a segment. */
function sealOps({ mirror, lockNode }: RowChange, after: SegmentRow): ZkOp[] {
  // Its nodes went with it, and its ledger is named by the frontier.
  if (mirror.frontier.deletedMs !== null) return []
  const tree = mirror.treeForChange()
  const node = tree.open.get(after.segment)
  if (node === undefined || node.metadata.ledgerId !== after.ledgerId || tree.completed.has(after.segment))
    throw lost(mirror, after)
  return [...completeOps(mirror.paths, tree, completedOf(after)), ...lockCheck(lockNode)]
}

async function stateOps(
  change: RowChange,
  made: Change,
  before: SegmentRow,
  after: SegmentRow,
): Promise<void> {
  const { mirror } = change
  const { segment, state } = after
  if (state === 'archived') {
    const node = nodeOf(mirror, segment)
    // Looked at once more with the commit: what was truncated or purged meanwhile is no longer what was copied.
    if (before.state === 'sealed') {
      if (node === null || node.metadata.ledgerId !== before.ledgerId) throw lost(mirror, after)
      made.ops.push({ op: 'check', path: node.path, version: node.version })
    }
    await advance(change, made, after)
    return
  }
  if (state === 'sealed') {
    const { archivedThrough, unverified } = mirror.frontier
    if (segment <= archivedThrough) made.frontier.unverified = [...unverified, segment]
    return
  }
  if (state === 'gap') {
    const gap = { first: segment, last: segment, reason: after.gapReason ?? 'corrupt' }
    made.frontier.gaps = withGap(mirror.frontier.gaps, gap)
    await advance(change, made, after)
  }
  if (state !== 'gap' || after.gapReason === 'dropped' || after.ledgerId === null)
    giveUp(mirror, made, before)
}

/** A segment's node leaves the tree, or is marked where it has to stay. */
function giveUp(mirror: StreamMirror, made: Change, before: SegmentRow): void {
  const { tree, frontier } = mirror
  const { segment, ledgerId } = before
  const node = nodeOf(mirror, segment)
  if (tree === null || node === null) return
  // Another ledger than the row's is another segment, and nobody may have a copy of that one (invariant 4).
  if (node.metadata.ledgerId !== ledgerId) throw lost(mirror, before)
  const given = giveUpOps(tree, frontier.hollow, segment)
  made.ops.push(...given.ops)
  made.frontier.hollow = given.hollow
}

/** The hot copy lies in another ledger now. */
function moveLedger(mirror: StreamMirror, made: Change, after: SegmentRow): void {
  const node = nodeOf(mirror, after.segment)
  if (node !== null && after.ledgerId !== null)
    made.ops.push(...rewriteOps(node, { ledgerId: after.ledgerId }))
}

/** A segment's node, if its hot copy is there. */
function nodeOf({ tree, frontier }: StreamMirror, segment: bigint): SegmentNode | null {
  return frontier.hollow.includes(segment) ? null : (tree?.completed.get(segment) ?? null)
}

/**
 * A ledger that no node names is named by the frontier from the moment on in which the node goes, so that it is not
 * forgotten with the cache: until it is deleted, or as long as a recalled segment is in it.
 */
function copiesOf(mirror: StreamMirror, made: Change, after: SegmentRow): void {
  const { copies, hollow } = mirror.frontier
  const { segment, ledgerId, state } = after
  const gone = state === 'cold' || state === 'trimmed' || (state === 'gap' && after.gapReason === 'dropped')
  const inTree = nodeOf(mirror, segment) !== null && !(made.frontier.hollow ?? hollow).includes(segment)
  const named = ledgerId !== null && (gone || (!inTree && state === 'archived'))
  const recalled = state === 'archived' || after.recalledUntilMs !== null
  const copy: FrontierCopy | null = named
    ? { segment, ledgerId, untilMs: recalled && state !== 'trimmed' ? (after.recalledUntilMs ?? 0) : null }
    : null
  const before = copies.find((one) => one.segment === segment)
  const same = copy?.ledgerId === before?.ledgerId && copy?.untilMs === before?.untilMs
  if (same) return
  const others = copies.filter((one) => one.segment !== segment)
  made.frontier.copies = copy === null ? others : [...others, copy]
}

/** Archived-through moves over everything that is settled without a hole, and never back. */
async function advance({ mirror, cache }: RowChange, made: Change, settled: SegmentRow): Promise<void> {
  const { archivedThrough, unverified, trimmedBelow } = mirror.frontier
  const { segment, incarnation } = settled
  if (unverified.includes(segment)) made.frontier.unverified = unverified.filter((one) => one !== segment)
  // Rows of what was trimmed before it was ever copied are gone: they are no hole to stop at for ever.
  const trimmedThrough = (trimmedBelow?.segment ?? 1n) - 1n
  let through = archivedThrough > trimmedThrough ? archivedThrough : trimmedThrough
  for (;;) {
    const rows = await cache.listSegments(incarnation, through + 1n, PAGE)
    const start = through
    for (const row of rows) {
      const isNext = through === 0n || row.segment === through + 1n
      if (!isNext || (row.segment !== segment && !isSettled(row))) break
      through = row.segment
    }
    if (through - start < BigInt(PAGE)) break
  }
  if (segment === through + 1n) through = segment
  assert(through >= archivedThrough, 'archived-through goes back')
  if (through > archivedThrough) made.frontier.archivedThrough = through
}

function isSettled({ state }: SegmentRow): boolean {
  return state === 'archived' || state === 'cold' || state === 'gap' || state === 'trimmed'
}

function lost(mirror: StreamMirror, { segment }: SegmentRow): StratalogError {
  return new StratalogError(
    'conflict',
    `segment ${segment} of ${mirror.paths.name} is not in DistributedLog's tree as it was: another closed or purged it; read it again`,
    { retryable: true },
  )
}
