import { encodeSegmentMetadata, type SegmentMetadata } from '../../format/segment-metadata.js'
import { completedName, inProgressName } from '../../format/segment-name.js'
import { present } from '../../model/assert.js'
import { StratalogError } from '../../model/errors.js'
import { ANY_VERSION, type ZkOp } from '../../zookeeper/client.js'
import { parentsOf, type StreamPaths } from './paths.js'
import { ENDED_TXID, type SegmentNode, type StreamTree } from './tree.js'

/*
 * Every change of DistributedLog's tree as the operations of one multi (FORMATS.md §5.2, §5.9, §5.11, §5.14). Each
 * names the version it saw: a multi of ours that comes after another writer's is refused, and one of Java's that comes
 * after ours too. Single writes are no option: they kill live readers.
 */

const NOTHING = new Uint8Array()
/** `version` of a stream: int32 −1. */
const VERSION = Uint8Array.of(0xff, 0xff, 0xff, 0xff)

/** That the writer's own lock node is still there. */
export function lockCheck(lockNode: string | null): ZkOp[] {
  return lockNode === null ? [] : [{ op: 'check', path: lockNode, version: 0 }]
}

/** A new stream, in the order in which Java makes it. `missing`: nodes above `<default>` that are not there yet. */
export function createStreamOps(paths: StreamPaths, missing: readonly string[]): ZkOp[] {
  const create = (path: string, data: Uint8Array = NOTHING): ZkOp => ({ op: 'create', path, data })
  return [
    ...missing.map((path) => create(path)),
    create(paths.log),
    create(paths.maxTxid, text('0')),
    create(paths.version, VERSION),
    create(paths.lock),
    create(paths.readLock),
    create(paths.ledgers, text('0')),
    create(paths.allocation),
  ]
}

/** Nodes above a stream's `<default>` within the namespace, the highest first. */
export function streamParents(paths: StreamPaths, namespace: string): string[] {
  return [...parentsOf(paths.stream), paths.stream].filter((path) => path.startsWith(`${namespace}/`))
}

/** What a segment begins with. */
export interface BegunSegment {
  readonly segment: bigint
  readonly ledgerId: bigint
  readonly firstTxid: bigint
}

/**
 * A segment begins. `allocation` is written as it is: its version ends a Java writer that took a ledger from it, and a
 * ledger that Java left there stays for Java to delete. Throws as Java's writer does: for a txid below those written,
 * for a stream that was ended, and where `ledgers` and the segments disagree.
 */
export function beginOps(paths: StreamPaths, tree: StreamTree, begun: BegunSegment): ZkOp[] {
  const { segment, ledgerId, firstTxid } = begun
  if (tree.maxTxid === ENDED_TXID)
    throw new StratalogError('stream_finished', `${paths.name} was ended for ever: append to another stream`)
  if (firstTxid >= 0n && firstTxid < tree.maxTxid) {
    throw new StratalogError(
      'txid_not_monotonic',
      `txid ${firstTxid} is below ${tree.maxTxid}, the last of ${paths.name}`,
      { expected: tree.maxTxid, found: firstTxid },
    )
  }
  if (segment !== tree.maxSegment && segment !== tree.maxSegment + 1n) throw outOfTurn(paths, tree, segment)
  const metadata: SegmentMetadata = {
    ...FRESH,
    ledgerId,
    firstTxid,
    segment,
    startSequenceId: -1n,
    completion: null,
  }
  return [
    { op: 'create', path: `${paths.ledgers}/${inProgressName(segment)}`, data: encoded(metadata) },
    setLedgers(paths, tree, segment),
    ...touchAllocation(paths, tree),
  ]
}

/** What Java writes of a segment nobody truncated. */
const FRESH: Omit<SegmentMetadata, 'ledgerId' | 'firstTxid' | 'segment' | 'startSequenceId' | 'completion'> =
  {
    version: 5,
    truncation: 'active',
    spareStatusBits: 0,
    regionId: 0,
    minActiveEntryId: 0n,
    minActiveSlotId: 0n,
  }

/** A segment that is closed: what its node says. */
export type CompletedSegment = Pick<SegmentMetadata, 'ledgerId' | 'firstTxid' | 'startSequenceId'> & {
  readonly segment: bigint
  readonly completion: NonNullable<SegmentMetadata['completion']>
}

/** A segment in progress is completed; its ledger is closed before. */
export function completeOps(paths: StreamPaths, tree: StreamTree, done: CompletedSegment): ZkOp[] {
  const node = present(tree.open.get(done.segment), `node of open segment ${done.segment}`)
  const metadata: SegmentMetadata = { ...node.metadata, ...done, ...sequenceOf(node.metadata, done) }
  return [
    { op: 'create', path: `${paths.ledgers}/${completedName(done.segment)}`, data: encoded(metadata) },
    { op: 'delete', path: node.path, version: node.version },
    setLedgers(paths, tree, tree.maxSegment),
    setMaxTxid(paths, tree, done.completion.lastTxid),
  ]
}

/** Versions below 5 have no place for it. */
function sequenceOf(
  metadata: SegmentMetadata,
  done: CompletedSegment,
): Pick<SegmentMetadata, 'startSequenceId'> {
  return { startSequenceId: metadata.version >= 5 ? done.startSequenceId : -1n }
}

/** A closed segment is put behind all others, without ever having been in progress. */
export function adoptOps(paths: StreamPaths, tree: StreamTree, done: CompletedSegment): ZkOp[] {
  return [
    {
      op: 'create',
      path: `${paths.ledgers}/${completedName(done.segment)}`,
      data: encoded({ ...FRESH, ...done }),
    },
    ...skipOps(paths, tree, done.segment, done.completion.lastTxid),
  ]
}

/** No ledger ever gets it: Java, which deletes the ledgers of truncated segments, finds nothing there. */
const NO_LEDGER = ENDED_TXID

/** A closed segment without a hot copy, between others that have one: its node is there for its number alone. */
export function fillerOps(paths: StreamPaths, tree: StreamTree, done: CompletedSegment): ZkOp[] {
  const metadata: SegmentMetadata = { ...FRESH, ...done, ledgerId: NO_LEDGER, truncation: 'truncated' }
  return [
    { op: 'create', path: `${paths.ledgers}/${completedName(done.segment)}`, data: encoded(metadata) },
    ...skipOps(paths, tree, done.segment, done.completion.lastTxid),
  ]
}

/** Numbers and txids up to here are taken, though no node says so: the segment is in the archive alone. */
export function skipOps(paths: StreamPaths, tree: StreamTree, segment: bigint, lastTxid: bigint): ZkOp[] {
  const highest = segment > tree.maxSegment ? segment : tree.maxSegment
  return [setLedgers(paths, tree, highest), setMaxTxid(paths, tree, lastTxid)]
}

/** A segment in progress that never held a record goes, and its number is used again. */
export function removeEmptyOps(paths: StreamPaths, tree: StreamTree, segment: bigint): ZkOp[] {
  const node = present(tree.open.get(segment), `node of empty segment ${segment}`)
  const highest = tree.maxSegment === segment ? segment - 1n : tree.maxSegment
  return [{ op: 'delete', path: node.path, version: node.version }, setLedgers(paths, tree, highest)]
}

/** A stream is ended for ever. */
export function endOps(paths: StreamPaths, tree: StreamTree): ZkOp[] {
  return [setLedgers(paths, tree, tree.maxSegment), setMaxTxid(paths, tree, ENDED_TXID)]
}

/** A node is written anew with other metadata: deleted and created, as Java does it, so that its version begins anew. */
export function rewriteOps(node: SegmentNode, change: Partial<SegmentMetadata>): ZkOp[] {
  return [
    { op: 'delete', path: node.path, version: node.version },
    { op: 'create', path: node.path, data: encoded({ ...node.metadata, ...change }) },
  ]
}

/** What becomes of a tree when hot copies are given up. */
export interface GivenUp {
  readonly ops: readonly ZkOp[]
  /** Nodes that stay though their segments have no hot copy. */
  readonly hollow: readonly bigint[]
}

/**
 * A segment's hot copy is given up. Nodes go oldest first, so that the tree stays contiguous, and its newest completed
 * one never goes: Java numbers on from it. One that has to stay is marked as truncated, and readers pass over it.
 */
export function giveUpOps(tree: StreamTree, hollow: readonly bigint[], segment: bigint): GivenUp {
  const empty = new Set([...hollow, segment])
  const numbers = [...tree.completed.keys(), ...tree.open.keys()].sort((a, b) => (a < b ? -1 : 1))
  const newest = [...tree.completed.keys()].reduce((a, b) => (a > b ? a : b), 0n)
  const ops: ZkOp[] = []
  for (const number of numbers) {
    if (!empty.has(number) || number === newest) break
    const node = present(tree.completed.get(number), `node of segment ${number}`)
    ops.push({ op: 'delete', path: node.path, version: node.version })
    empty.delete(number)
  }
  const left = tree.completed.get(segment)
  if (empty.has(segment) && left !== undefined && left.metadata.truncation !== 'truncated')
    ops.push(...rewriteOps(left, { truncation: 'truncated' }))
  return { ops, hollow: [...empty].filter((number) => tree.completed.has(number)) }
}

/** Everything of a stream goes at once. `NOTEMPTY` (conflict) where a writer or a reader holds a lock. */
export function deleteStreamOps(paths: StreamPaths, tree: StreamTree, others: boolean): ZkOp[] {
  const remove = (path: string): ZkOp => ({ op: 'delete', path, version: ANY_VERSION })
  const nodes = [...tree.open.values(), ...tree.completed.values()]
  return [
    ...nodes.map(({ path, version }): ZkOp => ({ op: 'delete', path, version })),
    { op: 'delete', path: paths.ledgers, version: tree.versions.ledgers },
    { op: 'delete', path: paths.maxTxid, version: tree.versions.maxTxid },
    ...(tree.allocation === null ? [] : [remove(paths.allocation)]),
    ...[paths.version, paths.lock, paths.readLock, paths.log].map(remove),
    // Names may be paths: another stream may lie below it.
    ...(others ? [] : [remove(paths.stream)]),
  ]
}

function setLedgers(paths: StreamPaths, tree: StreamTree, highest: bigint): ZkOp {
  return { op: 'set', path: paths.ledgers, data: text(highest.toString()), version: tree.versions.ledgers }
}

function setMaxTxid(paths: StreamPaths, tree: StreamTree, txid: bigint): ZkOp {
  const highest = txid > tree.maxTxid ? txid : tree.maxTxid
  return { op: 'set', path: paths.maxTxid, data: text(highest.toString()), version: tree.versions.maxTxid }
}

function touchAllocation({ allocation: path }: StreamPaths, { allocation }: StreamTree): ZkOp[] {
  return allocation === null ? [] : [{ op: 'set', path, ...allocation }]
}

function outOfTurn(paths: StreamPaths, tree: StreamTree, segment: bigint): StratalogError {
  return new StratalogError(
    'conflict',
    `the next segment of ${paths.name} is ${tree.maxSegment + 1n}, not ${segment}: read the newest again`,
    { expected: tree.maxSegment + 1n, found: segment },
  )
}

function encoded(metadata: SegmentMetadata): Uint8Array {
  return text(encodeSegmentMetadata(metadata))
}

function text(value: string): Uint8Array {
  return new TextEncoder().encode(value)
}
