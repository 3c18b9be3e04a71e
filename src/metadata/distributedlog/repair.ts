import { decodeSegmentMetadata } from '../../format/segment-metadata.js'
import { completedName, inProgressName } from '../../format/segment-name.js'
import { StratalogError } from '../../model/errors.js'
import type { Clock } from '../../ports/clock.js'
import type { LedgerMetadataStore } from '../../ports/ledger-metadata.js'
import type { ZkOp, ZooKeeper } from '../../zookeeper/client.js'
import { commit } from './commit.js'
import { streamPaths } from './paths.js'

/** What single writes left behind in a stream's tree (FORMATS.md §5.14), and what would mend it. */
export interface TreeFault {
  readonly kind: 'both_nodes' | 'ledgers_behind'
  readonly segment: bigint
  /** For people. */
  readonly says: string
  /** The multi that mends it; null: it is not safe, and `says` why. */
  readonly ops: readonly ZkOp[] | null
}

interface RepairParts {
  readonly zk: ZooKeeper
  readonly clock: Clock
  readonly namespace: string
  readonly ledgers: Pick<LedgerMetadataStore, 'read'>
}

/** Looks for what others left half done. Changes nothing. */
export async function findTreeFaults(parts: RepairParts, stream: string): Promise<TreeFault[]> {
  const { zk, namespace } = parts
  const paths = streamPaths(namespace, stream)
  const [listed, ledgers, lock] = await Promise.all([
    zk.children(paths.ledgers),
    zk.get(paths.ledgers),
    zk.children(paths.lock),
  ])
  if (listed === null || ledgers === null || lock === null)
    throw new StratalogError('stream_not_found', `there is no stream ${stream} in ${namespace}`)
  // With a writer at work what looks half done may be on its way.
  const owned = lock.names.length > 0
  const inProgress = listed.names.flatMap((name) => {
    const digits = /^inprogress_(\d{18,19})$/.exec(name)?.[1]
    return digits === undefined ? [] : [BigInt(digits)]
  })
  const faults: TreeFault[] = []
  for (const segment of inProgress)
    if (listed.names.includes(completedName(segment)))
      faults.push(await bothNodes(parts, paths.ledgers, segment, owned))
  const highest = inProgress.reduce((a, b) => (a > b ? a : b), 0n)
  const said = new TextDecoder().decode(ledgers.data)
  if (/^\d{1,19}$/.test(said) && BigInt(said) < highest) {
    const data = new TextEncoder().encode(highest.toString())
    const set: ZkOp = { op: 'set', path: paths.ledgers, data, version: ledgers.stat.version }
    const says = `segment ${highest} is in progress, and the highest number is said to be ${said}: a writer is refused until it is ${highest}`
    faults.push(
      owned
        ? { kind: 'ledgers_behind', segment: highest, says: `${says}; stop the writer first`, ops: null }
        : { kind: 'ledgers_behind', segment: highest, says, ops: [set] },
    )
  }
  return faults
}

/** Readers and writers fail at once while both are there. The completed one stays if its ledger bears it out. */
async function bothNodes(
  { zk, ledgers }: RepairParts,
  path: string,
  segment: bigint,
  owned: boolean,
): Promise<TreeFault> {
  const open = await zk.get(`${path}/${inProgressName(segment)}`)
  const closed = await zk.get(`${path}/${completedName(segment)}`)
  const fault = (says: string, ops: readonly ZkOp[] | null): TreeFault => ({
    kind: 'both_nodes',
    segment,
    says: `segment ${segment} is in progress and completed: ${says}`,
    ops,
  })
  if (open === null || closed === null) return fault('it was changed just now, look again', null)
  const was = decodeSegmentMetadata(new TextDecoder().decode(open.data))
  const is = decodeSegmentMetadata(new TextDecoder().decode(closed.data))
  if (owned) return fault('a writer holds its lock, stop it first', null)
  if (was.ledgerId !== is.ledgerId)
    return fault(
      `its nodes name ledgers ${was.ledgerId} and ${is.ledgerId}, keep both and look at them`,
      null,
    )
  const { metadata } = await ledgers.read(is.ledgerId)
  const last = is.completion?.lastEntryId ?? -1n
  if (metadata.state !== 'CLOSED' || metadata.lastEntryId < last)
    return fault(`ledger ${is.ledgerId} is not closed at entry ${last} or above, recover it first`, null)
  return fault(`ledger ${is.ledgerId} is closed at ${metadata.lastEntryId}, the node in progress goes`, [
    { op: 'check', path: `${path}/${completedName(segment)}`, version: closed.stat.version },
    { op: 'delete', path: `${path}/${inProgressName(segment)}`, version: open.stat.version },
  ])
}

/** Mends what is safe to mend; the others come back with why they are not. */
export async function repairTree(
  parts: RepairParts,
  stream: string,
): Promise<{ mended: TreeFault[]; left: TreeFault[] }> {
  const mended: TreeFault[] = []
  const left: TreeFault[] = []
  for (const fault of await findTreeFaults(parts, stream)) {
    if (fault.ops === null) left.push(fault)
    else {
      await commit(parts.zk, parts.clock, `mend segment ${fault.segment} of ${stream}`, fault.ops)
      mended.push(fault)
    }
  }
  return { mended, left }
}
