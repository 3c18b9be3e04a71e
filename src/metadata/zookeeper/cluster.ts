import type { LedgerLayout } from '../../format/ledger-paths.js'
import { assert } from '../../model/assert.js'
import { StratalogError } from '../../model/errors.js'
import type { ZooKeeper } from '../../zookeeper/client.js'
import { outcomeUnknown } from '../../zookeeper/errors.js'
import { ensureNode, isZk } from './nodes.js'

/*
 * A BookKeeper cluster in ZooKeeper, below its root (`/ledgers`):
 *
 *   LAYOUT      "2" LF factory class ":" version
 *   INSTANCEID  a UUID: another cluster has another one
 *   available/  the bookies that are up;  available/readonly/  those that take no new entries
 *   cookies/    every bookie there ever was, until it is decommissioned
 */

const LAYOUT_VERSION = '2'
const FACTORY_VERSION = '1'
const PACKAGE = 'org.apache.bookkeeper.meta.'
const FACTORIES: Readonly<Record<string, LedgerLayout>> = {
  HierarchicalLedgerManagerFactory: 'hierarchical',
  LongHierarchicalLedgerManagerFactory: 'longhierarchical',
  FlatLedgerManagerFactory: 'flat',
}

/** What there is to know of a cluster before anything else. */
export interface Cluster {
  readonly layout: LedgerLayout
  readonly instanceId: string
}

/** Reads and checks what a cluster is. `config_invalid`: there is none at that path; `version_unsupported`. */
export async function readCluster(zk: ZooKeeper, ledgersPath: string): Promise<Cluster> {
  const [layout, instanceId] = await Promise.all([
    zk.get(`${ledgersPath}/LAYOUT`),
    zk.get(`${ledgersPath}/INSTANCEID`),
  ])
  if (layout === null || instanceId === null) {
    const missing = layout === null ? 'LAYOUT' : 'INSTANCEID'
    throw new StratalogError(
      'config_invalid',
      `there is no BookKeeper cluster at ${ledgersPath} in ZooKeeper (no node ${missing}): name its path, or begin one with "bookkeeper shell initnewcluster"`,
      { found: missing },
    )
  }
  return {
    layout: layoutIn(Buffer.from(layout.data).toString('utf8'), ledgersPath),
    instanceId: Buffer.from(instanceId.data).toString('utf8').trim(),
  }
}

/**
 * Begins a cluster, as `initnewcluster` does: all of it at once, so that nobody sees half of one. What is there
 * already is left as it is, and read.
 */
export async function createCluster(
  zk: ZooKeeper,
  ledgersPath: string,
  instanceId: string,
): Promise<Cluster> {
  assert(/^[0-9a-f-]{36}$/.test(instanceId), `instance id ${instanceId}`)
  await ensureNode(zk, ledgersPath)
  const text = (value: string) => Buffer.from(value, 'utf8')
  const node = (path: string, data = '') =>
    ({ op: 'create', path: `${ledgersPath}${path}`, data: text(data) }) as const
  try {
    await zk.multi([
      node('/LAYOUT', `${LAYOUT_VERSION}\n${PACKAGE}HierarchicalLedgerManagerFactory:${FACTORY_VERSION}`),
      node('/INSTANCEID', instanceId),
      node('/available'),
      node('/available/readonly'),
      node('/cookies'),
    ])
  } catch (error) {
    // Another was first, or the answer was lost: what is there says it.
    if (!isZk(error, 'conflict') && !outcomeUnknown(error)) throw error
  }
  return readCluster(zk, ledgersPath)
}

function layoutIn(text: string, ledgersPath: string): LedgerLayout {
  const [version, manager] = text.trim().split('\n')
  const [factory = '', factoryVersion] = (manager ?? '').split(':')
  const layout = FACTORIES[factory.slice(factory.lastIndexOf('.') + 1)]
  if (version === LAYOUT_VERSION && layout !== undefined && factoryVersion === FACTORY_VERSION) return layout
  throw new StratalogError(
    'version_unsupported',
    `the BookKeeper cluster at ${ledgersPath} keeps its ledgers in a way that is not known here, ${text.trim().slice(0, 200).replace('\n', ' ')}: name one of ${Object.keys(FACTORIES).join(', ')}`,
    { expected: Object.keys(FACTORIES), found: text.trim().slice(0, 200) },
  )
}
