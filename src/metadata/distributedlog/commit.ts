import { StratalogError } from '../../model/errors.js'
import type { Clock } from '../../ports/clock.js'
import { ANY_VERSION, type ZkNode, type ZkOp, type ZooKeeper } from '../../zookeeper/client.js'
import { outcomeUnknown } from '../../zookeeper/errors.js'

/** How often a change is looked at again before who asked for it is told that nobody knows. */
const ROUNDS_MAX = 5
const PAUSE_MS = 200

/** What became of a change whose answer was lost. */
type Found = 'done' | 'not done' | 'another' | 'unknown'

/**
 * Carries out one multi. Where the answer was lost nobody knows whether it was done: what it changes is read again, and
 * only if all of it is as it was the multi is sent once more. Each operation names the version it saw, so that the
 * first one, were it still on its way, and the second can't both be done. Rejects with `conflict` where another
 * changed what it names.
 */
export async function commit(zk: ZooKeeper, clock: Clock, what: string, ops: readonly ZkOp[]): Promise<void> {
  for (let round = 1; ; round += 1) {
    try {
      await zk.multi(ops)
      return
    } catch (error) {
      if (!outcomeUnknown(error)) throw error
      const found = await outcomeOf(zk, clock, ops)
      if (found === 'done') return
      if (found === 'another') throw overtaken(what, error)
      if (found === 'unknown' || round >= ROUNDS_MAX) throw unknown(what, error)
      await clock.sleep(PAUSE_MS * round)
    }
  }
}

async function outcomeOf(zk: ZooKeeper, clock: Clock, ops: readonly ZkOp[]): Promise<Found> {
  for (let round = 1; round <= ROUNDS_MAX; round += 1) {
    try {
      // What the lost request did is in what is read after this, if it reached a server at all.
      await zk.sync(ops[0]?.path ?? '/')
      return await judge(zk, ops)
    } catch (error) {
      if (!(error instanceof StratalogError) || error.code !== 'metadata_unavailable') throw error
      await clock.sleep(PAUSE_MS * round)
    }
  }
  return 'unknown'
}

/**
 * Each node that is created, set or deleted says whether the change was done. They say the same, unless another changed
 * some of it afterwards, or instead: then it is not ours to guess.
 */
async function judge(zk: ZooKeeper, ops: readonly ZkOp[]): Promise<Found> {
  const created = new Set(ops.flatMap((one) => (one.op === 'create' ? [one.path] : [])))
  const said = new Set<Found>()
  for (const op of ops) {
    // Of a node that is written anew (deleted and created) only the creation tells.
    if (op.op === 'check' || (op.op === 'delete' && created.has(op.path))) continue
    said.add(sayOf(op, await zk.get(op.path), ops))
  }
  if (said.size === 1) return [...said][0] ?? 'unknown'
  return 'another'
}

function sayOf(op: Exclude<ZkOp, { op: 'check' }>, node: ZkNode | null, ops: readonly ZkOp[]): Found {
  if (op.op === 'delete') {
    if (node === null) return 'done'
    return op.version === ANY_VERSION || node.stat.version === op.version ? 'not done' : 'another'
  }
  if (node !== null && sameBytes(node.data, op.data)) {
    if (op.op === 'create' || node.stat.version === op.version + 1) return 'done'
    return node.stat.version === op.version ? 'not done' : 'another'
  }
  if (op.op === 'set') return node?.stat.version === op.version ? 'not done' : 'another'
  if (node === null) return 'not done'
  // What was there before, where it is written anew.
  return ops.some((one) => one.op === 'delete' && one.path === op.path) ? 'not done' : 'another'
}

function sameBytes(a: Uint8Array, b: Uint8Array): boolean {
  return Buffer.compare(a, b) === 0
}

function overtaken(what: string, cause: unknown): StratalogError {
  return new StratalogError(
    'conflict',
    `${what}: the answer of ZooKeeper was lost, and another changed it meanwhile: read it again and decide anew`,
    { cause, retryable: true },
  )
}

function unknown(what: string, cause: unknown): StratalogError {
  return new StratalogError(
    'metadata_unavailable',
    `${what}: ZooKeeper does not answer, whether it was done is not known: it is read again before anything else`,
    { cause, retryable: true },
  )
}
