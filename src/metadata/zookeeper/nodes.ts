import type { ErrorCode } from '../../model/errors.js'
import { isStratalogError } from '../../model/errors.js'
import type { ZooKeeper } from '../../zookeeper/client.js'
import { outcomeUnknown, zkCode } from '../../zookeeper/errors.js'

const EMPTY = new Uint8Array(0)
/** How often a change is made again that is safe to make twice. */
export const TRIES_MAX = 5

/** Whether ZooKeeper itself answered with this. */
export function isZk(error: unknown, code: ErrorCode): boolean {
  return isStratalogError(error, code) && zkCode(error) !== null
}

/** Creates a node that stays, without data, and those above it. One that is there is left as it is. */
export async function ensureNode(zk: ZooKeeper, path: string): Promise<void> {
  for (let tries = 1; ; tries++) {
    try {
      await zk.create(path, EMPTY)
      return
    } catch (error) {
      if (isZk(error, 'conflict')) return
      const again = isZk(error, 'not_found') || outcomeUnknown(error)
      if (!again || tries === TRIES_MAX || parentOf(path) === '/') throw error
      if (isZk(error, 'not_found')) await ensureNode(zk, parentOf(path))
    }
  }
}

/** The path above; '/' is its own. */
export function parentOf(path: string): string {
  return path.slice(0, path.lastIndexOf('/')) || '/'
}

/** The number ZooKeeper put behind a sequential node's name: negative once it overflowed. */
export function sequenceOf(path: string, prefix: string): number {
  return Number(path.slice(prefix.length))
}
