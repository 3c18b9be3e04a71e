import type { ResolvedConfig } from '../config/resolve.js'
import type { NamespaceBinding } from '../metadata/distributedlog/binding.js'
import type { BookieRegistry } from '../metadata/zookeeper/bookies.js'
import { heldLeases } from '../metadata/zookeeper/held-leases.js'
import { ensureNode } from '../metadata/zookeeper/nodes.js'
import type { GroupsOf } from '../metadata/zookeeper/racks.js'
import { autorecoveryOf, listUnderreplicated } from '../metadata/zookeeper/under-replication.js'
import type { DoctorCheck } from '../model/control-doctor.js'
import { isStratalogError } from '../model/errors.js'
import { formatDuration } from '../model/units.js'
import type { Clock } from '../ports/clock.js'
import type { ZooKeeper } from '../zookeeper/client.js'
import type { ClusterPlace } from './cluster-place.js'

/** Clocks further apart than that are said, and than that are to be mended. */
const SKEW_NOTED_MS = 1_000
const SKEW_BAD_MS = 30_000
/** A shorter session is lost in a pause of garbage collection or of a busy machine. */
const SESSION_MS_MIN = 4_000
/** A dead writer keeps others out for as long. */
const SESSION_MS_MAX = 40_000
/** Streams whose leases are looked at. */
const LEASES_MAX = 1_000
const HOLDERS_NAMED = 3
const UNDERREPLICATED_MAX = 1_000

/** What the checks of a cluster look at. */
export interface ClusterParts {
  readonly zk: ZooKeeper
  /** That of the bookies, often the same one. */
  readonly ledgersZk: ZooKeeper
  readonly clock: Clock
  readonly place: ClusterPlace
  readonly binding: NamespaceBinding
  readonly instanceId: string
  readonly registry: BookieRegistry
  readonly groupsOf?: GroupsOf
  readonly config: ResolvedConfig
  /** What was asked of ZooKeeper, and the bookies' time for an entry. */
  readonly sessionTimeoutMs: number
  readonly addTimeoutMs: number
  /** A node of ours. */
  readonly ours: string
  /** The node of the leases. */
  readonly leases: string
}

/**
 * What `doctor` says of a cluster: that ZooKeeper answers and whose it is, whether clocks and sessions are as they
 * should be, whether quorums are possible, who makes copies, and who tiers.
 */
export async function clusterChecks(parts: ClusterParts): Promise<DoctorCheck[]> {
  const answers = await zooKeeperCheck(parts)
  // Without ZooKeeper each of the others would wait for it in vain, and say the same.
  if (answers.state === 'bad') return [answers, ...quorumChecks(parts)]
  return [
    answers,
    ...(await Promise.all([
      guarded('clock', () => clockCheck(parts)),
      guarded('session', async () => sessionCheck(parts)),
    ])),
    ...quorumChecks(parts),
    ...(await Promise.all([
      guarded('copies', () => copiesCheck(parts)),
      guarded('tiering', () => tieringCheck(parts)),
    ])),
  ]
}

const stores = (
  name: string,
  state: DoctorCheck['state'],
  text: string,
  mend: string | null = null,
): DoctorCheck => ({ area: 'stores', name, state, text, mend })

/** A question that is not answered is a finding like any other. */
async function guarded(name: string, look: () => Promise<DoctorCheck>): Promise<DoctorCheck> {
  try {
    return await look()
  } catch (error) {
    if (!isStratalogError(error)) throw error
    return stores(name, 'bad', error.message, 'ask again once ZooKeeper answers')
  }
}

async function zooKeeperCheck(parts: ClusterParts): Promise<DoctorCheck> {
  const { zk, ledgersZk, place, binding, instanceId } = parts
  try {
    await zk.exists(place.namespace)
    const found = await ledgersZk.get(`${binding.ledgersPath}/INSTANCEID`)
    const now = found === null ? null : Buffer.from(found.data).toString('utf8').trim()
    const bound = `${place.namespace} is bound to the cluster ${instanceId} at ${binding.ledgersPath}`
    if (now === instanceId) return stores('cluster', 'ok', `${place.authority} answers; ${bound}`)
    const other = `${binding.bookkeeperServers} has ${now === null ? 'no cluster' : `the cluster ${now}`} now, and the log was opened with ${instanceId}`
    const mend = 'the cluster was formatted: what was hot is gone; open the log again only on its own cluster'
    return stores('cluster', 'bad', other, mend)
  } catch (error) {
    if (!isStratalogError(error)) throw error
    const mend = 'nothing is begun or sealed until it answers; what is open is written on'
    return stores('cluster', 'bad', `${place.authority}: ${error.message}`, mend)
  }
}

/** By a node that goes again at once. Bookies tell nobody what time it is. */
async function clockCheck({ zk, clock, ours }: ClusterParts): Promise<DoctorCheck> {
  await ensureNode(zk, ours)
  const [beganMs, askedMs] = [clock.nowMs(), clock.monotonicMs()]
  const path = await zk.create(`${ours}/doctor-`, new Uint8Array(0), { ephemeral: true, sequential: true })
  const tookMs = clock.monotonicMs() - askedMs
  const found = await zk.exists(path)
  await zk.delete(path, 0)
  const skewMs = (found?.ctimeMs ?? beganMs) - (beganMs + tookMs / 2)
  const offMs = Math.abs(skewMs)
  // The server may have looked at its clock at any moment between question and answer.
  const sure = `give or take ${Math.ceil(tookMs / 2)} ms`
  if (offMs <= SKEW_NOTED_MS + tookMs / 2)
    return stores(
      'clock',
      'ok',
      `the clock here and that of ZooKeeper agree (${Math.round(offMs)} ms apart, ${sure})`,
    )
  const text = `the clock here is ${formatDuration(offMs)} ${skewMs > 0 ? 'behind' : 'ahead of'} that of ZooKeeper (${sure})`
  const mend =
    'set the clocks of all machines by one source (NTP): ages of segments, retention and the times that records get are compared between them'
  return stores('clock', offMs > SKEW_BAD_MS ? 'bad' : 'note', text, mend)
}

function sessionCheck({ zk, sessionTimeoutMs: askedMs, addTimeoutMs }: ClusterParts): DoctorCheck {
  const ms = zk.sessionTimeoutMs ?? askedMs
  const granted = ms === askedMs ? '' : ` (asked for ${formatDuration(askedMs)}: ZooKeeper allows another)`
  const text = `a process that is not heard of for ${formatDuration(ms)} loses its streams to another${granted}`
  if (ms < SESSION_MS_MIN) {
    const mend = `a pause of that length stops writers: raise zookeeper.session-timeout to ${formatDuration(SESSION_MS_MIN)} at least`
    return stores('session', 'note', text, mend)
  }
  if (ms > SESSION_MS_MAX) {
    const mend = `appends wait as long for a writer that died: lower zookeeper.session-timeout to ${formatDuration(SESSION_MS_MAX)} at most`
    return stores('session', 'note', text, mend)
  }
  if (addTimeoutMs > ms) {
    const mend = `a bookie that hangs holds appends up for ${formatDuration(addTimeoutMs)}: lower bookkeeper.add-timeout below the session's time`
    return stores('session', 'note', text, mend)
  }
  if (ms !== askedMs)
    return stores('session', 'note', text, 'see minSessionTimeout and maxSessionTimeout of ZooKeeper')
  return stores('session', 'ok', text)
}

/** The quorum of `defaults`, and that of its isolation group. */
function quorumChecks({ registry, config, groupsOf }: ClusterParts): DoctorCheck[] {
  const { copies, ack, ensemble, min, group = null } = config.policyFor('').policy.quorum
  const fits = ({ id, host }: { readonly id: string; readonly host: string }) =>
    group === null || groupsOf?.(id, host).includes(group) === true
  const writable = registry.writable().filter(fits).length
  const up = registry.all().filter(fits).length
  const where = group === null ? '' : ` of the group ${group}`
  const text = `${writable} of ${up} bookies${where} that are up take writes; a segment wants ${ensemble ?? copies}, and goes on with ${min ?? ack}`
  if (writable >= (ensemble ?? copies)) return [stores('quorum', 'ok', text)]
  const mend = `start bookies${group === null ? '' : ', or name more in bookkeeper.groups-file'}, or lower quorum.copies`
  return [stores('quorum', writable >= (min ?? ack) ? 'note' : 'bad', text, mend)]
}

/** Whether lost copies are made anew: BookKeeper's autorecovery does that, where it runs. */
async function copiesCheck({ ledgersZk, binding: { ledgersPath } }: ClusterParts): Promise<DoctorCheck> {
  const [waiting, { enabled, auditors }] = await Promise.all([
    listUnderreplicated(ledgersZk, ledgersPath, UNDERREPLICATED_MAX),
    autorecoveryOf(ledgersZk, ledgersPath),
  ])
  const more = waiting.length >= UNDERREPLICATED_MAX ? ' or more' : ''
  const text = `${waiting.length}${more} ${waiting.length === 1 ? 'ledger waits' : 'ledgers wait'} for copies`
  if (enabled && auditors > 0)
    return stores('copies', waiting.length > 0 ? 'note' : 'ok', `${text}, autorecovery runs`)
  const why = enabled ? 'no autorecovery runs' : 'autorecovery is switched off'
  const mend = enabled ? 'run "bookkeeper autorecovery"' : 'run "bookkeeper shell autorecovery -enable"'
  return stores(
    'copies',
    waiting.length > 0 ? 'bad' : 'note',
    `${text}, ${why}`,
    `${mend}: lost copies stay lost until then`,
  )
}

/** Who moves segments right now: leases are held as long as that takes. */
async function tieringCheck({ zk, leases }: ClusterParts): Promise<DoctorCheck> {
  const held = await heldLeases(zk, leases, 'tiering/', LEASES_MAX)
  const counts = new Map<string, number>()
  for (const { holder } of held) counts.set(holder, (counts.get(holder) ?? 0) + 1)
  const named = [...counts].sort(([, a], [, b]) => b - a).slice(0, HOLDERS_NAMED)
  if (named.length === 0) return stores('tiering', 'ok', 'no process moves segments at this moment')
  const by = named.map(([holder, count]) => `${count} by ${holder}`).join(', ')
  const others = counts.size > named.length ? `, others by ${counts.size - named.length} more` : ''
  return stores('tiering', 'ok', `streams are tiered at this moment: ${by}${others}`)
}
