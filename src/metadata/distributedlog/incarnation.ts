import { createHash } from 'node:crypto'
import type { Incarnation } from '../../model/segment.js'

/**
 * The incarnation of a stream that Java created, from what names it alone, so that every process comes to the same
 * without writing anything: the cluster's INSTANCEID (empty where there is none), the transaction that created the
 * stream's node (one that is deleted and created again is another), namespace and name. Once a frontier is written
 * that one counts: it outlives a ZooKeeper that was filled anew.
 */
export function derivedIncarnation(of: {
  readonly instanceId: string
  readonly czxid: bigint
  readonly namespace: string
  readonly stream: string
}): Incarnation {
  const text = ['stratalog incarnation 1', of.instanceId, of.czxid.toString(), of.namespace, of.stream].join(
    '\n',
  )
  return createHash('sha256').update(text).digest('hex').slice(0, 32)
}
