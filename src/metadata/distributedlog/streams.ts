import { isStratalogError, StratalogError } from '../../model/errors.js'
import type { StreamRow } from '../../model/segment.js'
import type { NewStream } from '../../ports/segment-index.js'
import type { ZkOp } from '../../zookeeper/client.js'
import { createStreamOps, deleteStreamOps, streamParents } from './changes.js'
import type { DirectoryParts, StreamDirectory } from './directory.js'
import { encodeFrontier, FRESH_FRONTIER, type Frontier } from './frontier.js'
import type { HeldLocks } from './locks.js'
import type { StreamMirror } from './mirror.js'
import { checkDistributedLogName, deletedPath } from './paths.js'

/** One multi must stay below the megabyte that ZooKeeper takes. */
const NODES_MAX = 4_000

type Parts = DirectoryParts & { readonly locks?: HeldLocks }

/** Creates a stream as Java does, and with it, in the same multi, the frontier that says its incarnation. */
export async function createStream(
  parts: Parts,
  directory: StreamDirectory,
  stream: NewStream,
): Promise<StreamMirror> {
  const { incarnation, name, txidMode, createdMs, parent } = stream
  checkDistributedLogName(name)
  await directory.all()
  const same = directory.readable(incarnation)
  const mirror = directory.place(name)
  return directory.change(mirror, async () => {
    if (mirror.exists) throw taken(mirror)
    if (same !== null) throw drawnBefore(incarnation, same)
    const { paths } = mirror
    const missing: string[] = []
    for (const path of streamParents(paths, parts.namespace))
      if ((await parts.zk.exists(path)) === null) missing.push(path)
    const frontier: Frontier = { ...FRESH_FRONTIER, incarnation, name, txidMode, createdMs, parent }
    const ops: ZkOp[] = [
      ...createStreamOps(paths, missing),
      { op: 'create', path: paths.frontier, data: encodeFrontier(frontier) },
    ]
    try {
      await directory.commit(mirror, `create stream ${name}`, ops)
    } catch (error) {
      if (!isStratalogError(error, 'conflict')) throw error
      await directory.again(mirror)
      throw mirror.exists ? taken(mirror) : error
    }
    await directory.again(mirror)
    return mirror
  })
}

/**
 * Takes a stream away from everybody in one multi: its nodes go, so that its name is free, and a frontier elsewhere
 * keeps what is still to be freed. Refused while another writer, or a reader with a lock, is there: their nodes are not
 * ours to remove.
 */
export async function deleteStream(
  parts: Parts,
  directory: StreamDirectory,
  mirror: StreamMirror,
  atMs: number,
  expect: () => Promise<StreamRow>,
): Promise<void> {
  const { incarnation } = mirror
  await directory.change(mirror, async () => {
    const row = await expect()
    if (mirror.frontier.deletedMs !== null) return
    await directory.commit(mirror, `delete stream ${row.name}`, await deletion(parts, mirror, row, atMs))
    await parts.cache.deleteStream(incarnation, row.version, atMs)
    await directory.again(mirror)
  })
  await directory.deleted(incarnation)
}

async function deletion(parts: Parts, mirror: StreamMirror, row: StreamRow, atMs: number): Promise<ZkOp[]> {
  const { tree, frontier, paths } = mirror
  const nodes = tree === null ? [] : [...tree.open.values(), ...tree.completed.values()]
  if (nodes.length > NODES_MAX) {
    throw new StratalogError(
      'refused',
      `${row.name} has ${nodes.length} hot segments, ${NODES_MAX} are the most that go at once: trim it first`,
      { expected: NODES_MAX, found: nodes.length },
    )
  }
  const hot = nodes
    .filter(({ segment }) => !frontier.hollow.includes(segment))
    .map(({ segment, metadata }) => ({ segment, ledgerId: metadata.ledgerId, untilMs: null }))
  const left: Frontier = {
    ...frontier,
    epoch: row.epoch + 1n,
    finishedMs: row.finishedMs ?? atMs,
    deletedMs: atMs,
    trimmedBelow: row.trimmedBelow,
    copies: [...frontier.copies.map((copy) => ({ ...copy, untilMs: null })), ...hot],
    hollow: [],
  }
  const children = (await parts.zk.children(paths.stream))?.names ?? []
  const own = parts.locks?.held(mirror.incarnation) ?? null
  return [
    ...(own === null ? [] : [{ op: 'delete' as const, path: own, version: 0 }]),
    ...(tree === null ? [] : deleteStreamOps(paths, tree, children.length > 1)),
    ...mirror.goneOps(),
    { op: 'create', path: deletedPath(parts.namespace, mirror.incarnation), data: encodeFrontier(left) },
  ]
}

function taken({ paths, incarnation }: StreamMirror): StratalogError {
  return new StratalogError('stream_exists', `there is a stream ${paths.name} already: choose another name`, {
    found: incarnation,
  })
}

function drawnBefore(incarnation: string, { paths }: StreamMirror): StratalogError {
  return new StratalogError(
    'conflict',
    `the incarnation ${incarnation} is that of stream ${paths.name}: draw a new one`,
    { expected: null, found: paths.name },
  )
}
