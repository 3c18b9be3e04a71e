import { decodeSegmentMetadata, type SegmentMetadata } from '../../format/segment-metadata.js'
import { parseSegmentName } from '../../format/segment-name.js'
import { StratalogError } from '../../model/errors.js'
import type { ZkStat, ZooKeeper } from '../../zookeeper/client.js'
import type { StreamPaths } from './paths.js'

/** A segment's node. */
export interface SegmentNode {
  readonly path: string
  readonly segment: bigint
  /** Of its data: what a change of it names. A truncation of Java's makes the node anew: 0 as before. */
  readonly version: number
  /** The transaction that made the node: tells such a one from the one before. */
  readonly czxid: bigint
  readonly createdMs: number
  readonly metadata: SegmentMetadata
}

/** A stream's nodes as DistributedLog keeps them (FORMATS.md §5.2), read at one moment. */
export interface StreamTree {
  readonly createdMs: number
  readonly czxid: bigint
  readonly maxSegment: bigint
  readonly maxTxid: bigint
  /** Null: the stream takes its ledgers from a pool. */
  readonly allocation: { readonly data: Uint8Array; readonly version: number } | null
  readonly versions: { readonly ledgers: number; readonly maxTxid: number }
  /** Counts nodes that came and went below `ledgers`. */
  readonly cversion: number
  readonly open: ReadonlyMap<bigint, SegmentNode>
  readonly completed: ReadonlyMap<bigint, SegmentNode>
}

/** maxtxid of a stream that was ended. */
export const ENDED_TXID: bigint = 2n ** 63n - 1n

/** A roll every few milliseconds would be needed to disturb that many readings in a row. */
const ROUNDS_MAX = 20
const READS_AT_ONCE = 32

/**
 * Reads a stream's tree; null: there is none. It is many nodes and others change them meanwhile, so it is read again
 * until nothing changed while it was read. `known`: an earlier reading; nodes that can't have changed since are taken
 * from it. `changed` is called once when a segment's node came, went or was written anew.
 */
export async function readTree(
  zk: ZooKeeper,
  paths: StreamPaths,
  known: StreamTree | null = null,
  changed?: () => void,
): Promise<StreamTree | null> {
  for (let round = 1; round <= ROUNDS_MAX; round += 1) {
    const listed = await zk.children(paths.ledgers, round === 1 ? changed : undefined)
    if (listed === null) {
      // One that is created later is heard of by the watch on the node that is not there.
      if ((await zk.exists(paths.ledgers, round === 1 ? changed : undefined)) === null) return null
      continue
    }
    const tree = await readListed(zk, paths, listed, known)
    if (tree !== 'changed') return tree
  }
  throw new StratalogError(
    'metadata_unavailable',
    `the segments of ${paths.name} change faster than they can be read: try again`,
    { retryable: true },
  )
}

async function readListed(
  zk: ZooKeeper,
  paths: StreamPaths,
  listed: { readonly names: readonly string[]; readonly stat: ZkStat },
  known: StreamTree | null,
): Promise<StreamTree | 'changed'> {
  const [log, maxTxid, allocation] = await Promise.all([
    zk.exists(paths.log),
    zk.get(paths.maxTxid),
    zk.get(paths.allocation),
  ])
  // Of a stream that was deleted and made anew nothing is as it was, however alike its nodes are.
  const nodes = await readSegments(zk, paths, listed, known?.czxid === log?.czxid ? known : null)
  // Last, so that it closes the reading: begin, complete and truncation all change one of the two versions.
  const ledgers = await zk.get(paths.ledgers)
  if (ledgers === null || log === null || maxTxid === null) return incomplete(zk, paths)
  const { czxid, cversion } = listed.stat
  if (nodes === null || ledgers.stat.cversion !== cversion || ledgers.stat.czxid !== czxid) return 'changed'
  const open = new Map<bigint, SegmentNode>()
  const completed = new Map<bigint, SegmentNode>()
  for (const node of nodes) (node.metadata.completion === null ? open : completed).set(node.segment, node)
  return {
    createdMs: log.ctimeMs,
    czxid: log.czxid,
    maxSegment: decimal(ledgers.data, paths.ledgers),
    maxTxid: decimal(maxTxid.data, paths.maxTxid),
    allocation: allocation === null ? null : { data: allocation.data, version: allocation.stat.version },
    versions: { ledgers: ledgers.stat.version, maxTxid: maxTxid.stat.version },
    cversion: listed.stat.cversion,
    open,
    completed,
  }
}

/** Java creates and deletes a stream's nodes in no single step: one that lacks some is being deleted, or was damaged. */
async function incomplete(zk: ZooKeeper, paths: StreamPaths): Promise<'changed'> {
  await zk.sync(paths.log)
  const [ledgers, maxTxid] = await Promise.all([zk.exists(paths.ledgers), zk.exists(paths.maxTxid)])
  if (ledgers === null || maxTxid !== null) return 'changed'
  throw new StratalogError(
    'corrupt',
    `${paths.maxTxid} is missing: the stream is being deleted, or its nodes are damaged; nothing of it is changed`,
  )
}

/** Null: a node went away while it was read. */
async function readSegments(
  zk: ZooKeeper,
  paths: StreamPaths,
  listed: { readonly names: readonly string[]; readonly stat: ZkStat },
  known: StreamTree | null,
): Promise<SegmentNode[] | null> {
  const kept = unchangedNodes(paths, listed, known)
  const nodes: SegmentNode[] = []
  const wanted: string[] = []
  for (const name of listed.names) {
    const before = kept.get(`${paths.ledgers}/${name}`)
    if (before === undefined) wanted.push(name)
    else nodes.push(before)
  }
  for (let at = 0; at < wanted.length; at += READS_AT_ONCE) {
    const some = wanted.slice(at, at + READS_AT_ONCE)
    const read = await Promise.all(some.map((name) => readSegment(zk, paths, name)))
    for (const node of read) {
      if (node === null) return null
      nodes.push(node)
    }
  }
  return nodes
}

/**
 * Nodes of an earlier reading that are as they were. A truncation deletes and creates a node under its name, which
 * counts twice: where more changes were counted than names came and went, every node is read again.
 */
function unchangedNodes(
  paths: StreamPaths,
  listed: { readonly names: readonly string[]; readonly stat: ZkStat },
  known: StreamTree | null,
): ReadonlyMap<string, SegmentNode> {
  if (known === null) return new Map()
  const before = new Map(
    [...known.open.values(), ...known.completed.values()].map((node) => [node.path, node]),
  )
  const now = new Set(listed.names.map((name) => `${paths.ledgers}/${name}`))
  const came = [...now].filter((path) => !before.has(path)).length
  const went = [...before.keys()].filter((path) => !now.has(path)).length
  return listed.stat.cversion === known.cversion + came + went ? before : new Map()
}

async function readSegment(zk: ZooKeeper, paths: StreamPaths, name: string): Promise<SegmentNode | null> {
  const path = `${paths.ledgers}/${name}`
  const node = await zk.get(path)
  if (node === null) return null
  const said = parseSegmentName(name)
  const metadata = decodeSegmentMetadata(new TextDecoder().decode(node.data))
  const segment = said.nameVersion === 1 ? said.segment : metadata.segment
  if (segment === null || metadata.segment === null) {
    throw new StratalogError(
      'version_unsupported',
      `${path} does not say the number of its segment (version ${metadata.version}): write it anew with a later DistributedLog`,
      { found: metadata.version },
    )
  }
  if (segment !== metadata.segment || (said.kind === 'completed') !== (metadata.completion !== null)) {
    throw new StratalogError(
      'corrupt',
      `${path} and what it says are not of one segment: nothing of it is changed`,
      {
        expected: name,
        found: metadata.segment,
      },
    )
  }
  const { version, czxid, ctimeMs: createdMs } = node.stat
  return { path, segment, version, czxid, createdMs, metadata }
}

function decimal(data: Uint8Array, path: string): bigint {
  const text = new TextDecoder().decode(data)
  if (/^\d{1,19}$/.test(text)) return BigInt(text)
  throw new StratalogError('corrupt', `${path} holds no number: nothing of the stream is changed`, {
    found: text.slice(0, 100),
  })
}
