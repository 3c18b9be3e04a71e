import type { StreamRow } from '../../src/model/segment.js'
import type { ArchiveTrouble } from './archive.js'
import type { Client } from './client.js'
import type { SimDisk } from './disk.js'
import type { MetadataService } from './metadata.js'
import type { Network } from './network.js'
import { FAULT_KINDS, type FaultKind, type SimOptions, ZK_FAULT_KINDS } from './options.js'
import type { Oracle } from './oracle.js'
import { SimRandom } from './random.js'
import type { Scheduler } from './scheduler.js'
import { STEPS, type Step, type Steps } from './steps.js'
import type { StoreNode } from './store-node.js'
import { ARCHIVE_ROOT } from './tiering-oracle.js'
import type { Trace } from './trace.js'

/** Everything that can be hurt. */
export interface Victims {
  readonly scheduler: Scheduler
  readonly network: Network
  readonly metadata: MetadataService
  readonly nodes: readonly StoreNode[]
  readonly clients: readonly Client[]
  readonly archive: SimDisk | null
  readonly trouble: ArchiveTrouble
  readonly steps: Steps
  readonly oracle: Oracle
  readonly streams: readonly StreamRow[]
  readonly trace: Trace
  readonly restartClient: (client: Client, ms: number) => void
  /** Runs something within moments of the next acknowledgement: where it hurts most. */
  readonly atNextAck: (attack: () => void) => void
  /** Makes several processes append to the streams that this one writes. */
  readonly contend: (client: Client, when?: 'at once') => void
}

/** Deaths and cuts come right behind an acknowledgement as often as at any other moment. */
const HURTS_AFTER_ACK: readonly FaultKind[] = [
  'client-death',
  'store-death',
  'power-cut',
  'blackout',
  'pause',
  'session-expiry',
]

/** Free bytes of 2 GiB at which appends go on, and something has to be done about it (disk-watch.ts). */
const SHORT_BYTES = 250_000_000

/** Where processes die: what is rare is armed more often. */
const RARE_STEPS = [
  'recall',
  'recalled',
  'mark trim',
  'trim',
  'drop',
  'hold',
  'release',
  'forget',
  'delete object',
] as const
const MORTAL: readonly Step[] = [...STEPS, ...RARE_STEPS, ...RARE_STEPS]

type Attack = (victims: Victims, random: SimRandom) => void

/** What happens at one moment, and what undoes it later. Faults that are rates of messages are not here. */
const ATTACKS: Readonly<Partial<Record<FaultKind, Attack>>> = {
  partition({ network, nodes, clients, scheduler, trace }, random) {
    const node = random.pick(nodes)
    const cut = clients.filter(() => random.chance(0.6))
    trace.note(`${node.host.name} is cut off from ${cut.map(({ host }) => host.name).join()}`)
    for (const { host } of cut) network.cut(host, node.host, true)
    scheduler.after(random.between(500, 30_000), null, () => {
      for (const { host } of cut) network.cut(host, node.host, false)
    })
  },
  'metadata-partition'({ network, metadata, clients, scheduler, trace, contend }, random) {
    const client = random.pick(clients)
    const { host } = client
    trace.note(`${host.name} is cut off from the metadata`)
    network.cut(host, metadata.host, true)
    contend(client)
    scheduler.after(random.between(500, 25_000), null, () => network.cut(host, metadata.host, false))
  },
  pause({ nodes, clients, scheduler, trace, contend }, random) {
    const client = random.chance(0.7) ? random.pick(clients) : null
    const host = client?.host ?? random.pick(nodes).host
    if (!host.up || host.paused) return
    if (client !== null) contend(client)
    trace.fault('pause', host.name)
    host.paused = true
    const { instance } = host
    scheduler.after(random.between(100, 12_000), null, () => {
      if (host.instance === instance) scheduler.resume(host)
    })
  },
  'client-death'({ clients, restartClient, trace }, random) {
    const client = random.pick(clients)
    if (!client.host.up) return
    trace.fault('client-death', client.host.name)
    client.kill('client-death')
    restartClient(client, random.between(100, 5_000))
  },
  'store-death'({ nodes, trace }, random) {
    const node = random.pick(nodes)
    if (!node.host.up) return
    trace.fault('store-death', node.host.name)
    node.kill('store-death')
    node.restartLater(random.between(100, 20_000))
  },
  'clock-jump'({ clients, trace }, random) {
    const client = random.pick(clients)
    client.clock.skewMs = random.between(-5_000, 5_000)
    trace.fault('clock-jump', `${client.host.name} by ${client.clock.skewMs.toFixed(0)} ms`)
  },
  'power-cut'({ nodes, trace }, random) {
    const node = random.pick(nodes)
    trace.fault('power-cut', node.host.name)
    node.cutPower()
    node.restartLater(random.between(100, 10_000))
  },
  // One machine with all the disks and processes, which loses its power and comes back.
  blackout({ nodes, clients, restartClient, trace }, random) {
    trace.fault('blackout', 'everything')
    for (const node of nodes) {
      node.cutPower()
      node.restartLater(random.between(100, 3_000))
    }
    for (const client of clients) {
      client.kill('blackout')
      restartClient(client, random.between(100, 3_000))
    }
  },
  stall({ nodes, archive, scheduler, trace }, random) {
    const disk = archive !== null && random.chance(0.2) ? archive : random.pick(nodes).disk
    disk.faults.stalledUntilMs = scheduler.nowMs + random.between(50, 35_000)
    trace.fault('stall', disk.name)
  },
  'write-error'({ nodes }, random) {
    random.pick(nodes).disk.faults.writeErrors += 1
  },
  'sync-error'({ nodes }, random) {
    random.pick(nodes).disk.faults.syncErrors += 1
  },
  'disk-full'({ nodes, archive, scheduler }, random) {
    const disk = archive !== null && random.chance(0.2) ? archive : random.pick(nodes).disk
    disk.faults.full = true
    scheduler.after(random.between(1_000, 20_000), null, () => {
      disk.faults.full = false
    })
  },
  'archive-down'({ archive, scheduler, trace }, random) {
    if (archive === null) return
    trace.fault('archive-down', 'for a while')
    archive.faults.down = true
    scheduler.after(random.between(1_000, 20_000), null, () => {
      archive.faults.down = false
    })
  },
  'archive-partition'({ archive, clients, trouble, scheduler, trace }, random) {
    if (archive === null) return
    const { host } = random.pick(clients)
    trace.note(`${host.name} is cut off from the archive`)
    trouble.cut.add(host)
    scheduler.after(random.between(500, 25_000), null, () => trouble.cut.delete(host))
  },
  // A bit of an object flips while the hot copy is there: the scrub of the archive has to find and mend it.
  'archive-rot'({ archive, oracle, streams, trace }, random) {
    if (archive === null) return
    const rows = streams.flatMap((stream) => oracle.tiering.rowsOf(stream))
    const archived = rows.filter(({ state }) => state === 'archived')
    if (archived.length === 0) return
    const { object } = random.pick(archived)
    const inode = archive.platter.names.get(`${ARCHIVE_ROOT}/${object?.key}`)
    if (inode === undefined) return
    trace.fault('archive-rot', `${object?.key.slice(-20)}`)
    inode.rot(random)
  },
  // The archive is down and every disk nearly full: what a policy says of that happens now.
  'disk-short'({ archive, nodes, scheduler, trace }, random) {
    if (archive === null) return
    trace.fault('disk-short', 'every store')
    archive.faults.down = true
    for (const { disk } of nodes) disk.faults.freeBytes = SHORT_BYTES
    scheduler.after(random.between(12_000, 40_000), null, () => {
      archive.faults.down = false
      for (const { disk } of nodes) disk.faults.freeBytes = null
    })
  },
  // A process is cut off right as it sends a change: it came there or not, and by the time it may ask its session is over.
  'multi-cut'({ clients, metadata, network, scheduler, trace, contend }, random) {
    metadata.atNextMulti((host) => {
      trace.fault('multi-cut', host.name)
      const cut = (): void => network.cut(host, metadata.host, true)
      if (random.chance(0.5)) cut()
      else scheduler.after(random.between(0.05, 0.6), null, cut)
      const client = clients.find((one) => one.host === host)
      if (client !== undefined) contend(client)
      scheduler.after(random.between(5_000, 14_000), null, () => network.cut(host, metadata.host, false))
    })
  },
  // The server ends a session: nobody tells the process, which may be appending.
  'session-expiry'({ clients, metadata, contend }, random) {
    const client = random.pick(clients)
    if (!client.host.up) return
    metadata.expire(client.host)
    contend(client, 'at once')
  },
  'step-death'({ steps }, random) {
    // Many points are not come by in a run: whoever comes to one of these first dies there.
    for (let i = 0; i < 6; i += 1) steps.arm(random.pick(MORTAL), random.chance(0.5) ? 'before' : 'after')
  },
  // The machine that has the archive's disk loses power, and the applications on it die.
  'archive-power-cut'({ archive, clients, restartClient, trace }, random) {
    if (archive === null) return
    trace.fault('archive-power-cut', archive.name)
    for (const client of clients) {
      client.kill('archive-power-cut')
      restartClient(client, random.between(100, 3_000))
    }
    archive.powerCut()
  },
}

/** Puts the faults of a run on random moments of its safety phase. */
export function planAttacks(victims: Victims, options: SimOptions): void {
  for (const [kind, count] of Object.entries(options.faults) as [FaultKind, number][]) {
    const attack = ATTACKS[kind]
    if (attack === undefined) continue
    // Each kind draws from numbers of its own: the shrinker takes one away and leaves the others as they are.
    const own = new SimRandom(options.seed * 101 + [...FAULT_KINDS, ...ZK_FAULT_KINDS].indexOf(kind))
    for (let i = 0; i < count; i += 1) {
      const begin = (): void => attack(victims, own)
      const waits = HURTS_AFTER_ACK.includes(kind) && own.chance(0.5)
      victims.scheduler.after(own.between(0.05, 1) * options.safetyMs, null, () =>
        waits ? victims.atNextAck(begin) : begin(),
      )
    }
  }
}

/**
 * One store loses what it had made durable: the loss that Qa − 1 stores may suffer. It comes when every other store is
 * well, since recovery may count an unreachable store only against the same Qa − 1 (DESIGN.md §5).
 */
export function loseOne(kind: FaultKind, node: StoreNode, random: SimRandom, trace: Trace): void {
  if (kind === 'format') {
    trace.fault('format', node.host.name)
    node.format()
  } else if (kind === 'bit-rot') {
    const files = [...node.disk.platter.names].filter(([path]) => path.includes('/log-'))
    node.kill('bit-rot')
    for (let i = 0; i < 8 && files.length > 0; i += 1) {
      const [path, inode] = random.pick(files)
      trace.fault('bit-rot', `${node.host.name} ${path}`)
      inode.rot(random)
    }
  } else node.cutPower()
  node.restartLater(random.between(100, 5_000))
}
