import type { ArchiveDown } from '../../src/model/policy.js'
import type { Quorum } from '../../src/model/quorum.js'
import { SimRandom } from './random.js'

/** Every kind of fault, each counted when it takes effect and proven to fire. */
export const FAULT_KINDS = [
  // the network between a process and a store
  'delay',
  'loss',
  'lost-answer',
  'duplicate',
  'partition',
  // the metadata service is reliable, its answers are not
  'metadata-lost-answer',
  'metadata-partition',
  // processes
  'pause',
  'client-death',
  'store-death',
  'clock-jump',
  // disks that lose nothing they promised
  'power-cut',
  'blackout',
  'torn-sector',
  'unsynced-lost',
  'unsynced-kept',
  'stall',
  'write-error',
  'sync-error',
  'disk-full',
  'archive-down',
  'archive-power-cut',
  // disks that lose what they promised: of Qa − 1 stores at most
  'lying-sync',
  'misdirected-write',
  'bit-rot',
  'format',
  // the way to the archive
  'archive-delay',
  'archive-loss',
  'archive-lost-answer',
  'archive-late',
  'archive-cut',
  'archive-pages',
  'archive-partition',
  'archive-damage',
  'archive-rot',
  // disks that are nearly full while the archive is down
  'disk-short',
  // processes that die right before a step of tiering or right behind it
  'step-death',
] as const

/** Kinds of a world with ZooKeeper: others never draw them. */
export const ZK_FAULT_KINDS = ['session-expiry', 'multi-cut'] as const

export type FaultKind = (typeof FAULT_KINDS)[number] | (typeof ZK_FAULT_KINDS)[number]

/** Kinds of tiering: a seed draws them from numbers of their own. */
const TIERING_KINDS: readonly FaultKind[] = FAULT_KINDS.slice(FAULT_KINDS.indexOf('archive-delay'))

/** Kinds that lose what a store made durable. */
export const LOSSES: readonly FaultKind[] = ['lying-sync', 'misdirected-write', 'bit-rot', 'format']

/** Wrong steps that can be put into the simulated world, which the simulator has to find. */
export const PLANTED_BUGS = [
  'recovery-does-not-fence',
  'error-is-missing',
  'torn-tail-is-missing',
  'acknowledges-before-sync',
  'forgets-directory-sync',
  'archive-forgets-sync',
  'evict-before-verify',
  'evict-after-index-error',
  'delete-during-copy',
  'stale-agent-commits',
  'restore-by-listing-order',
  'absence-is-proof',
] as const

/** Wrong steps of a client of ZooKeeper. */
export const ZK_PLANTED_BUGS = ['zk-acknowledges-after-expiry', 'zk-lost-is-done', 'zk-blind-retry'] as const

export type PlantedBug = (typeof PLANTED_BUGS)[number] | (typeof ZK_PLANTED_BUGS)[number]

/** One run, drawn from a seed; the shrinker makes smaller ones. */
export interface SimOptions {
  readonly seed: number
  readonly stores: number
  readonly clients: number
  readonly streams: number
  readonly quorum: Quorum
  readonly appends: number
  /** Records of a producer that retries, for each stream; 0: there is none. */
  readonly produced: number
  /** One process scrubs and mends copies; all of them mend what they find bad as they read. */
  readonly upkeep: boolean
  /** In the end the archive is restored, twice. */
  readonly restores: boolean
  /** In the end the index is made again from stores and archive, and everything checked once more. */
  readonly rebuilds: boolean
  /** The streams are finished in the end. */
  readonly finishes: boolean
  /** How long the phase with faults lasts. */
  readonly safetyMs: number
  readonly rollBytes: number
  readonly hotForMs: number
  readonly evictLagMs: number
  /** Null: nothing is ever trimmed. */
  readonly keepForMs: number | null
  /** Bytes of history that stay; null: all. */
  readonly keepMaxBytes: number | null
  /** Bytes that stay hot; null: no limit. */
  readonly hotMaxBytes: number | null
  /** What is done about disks that fill up while the archive is down. */
  readonly archiveDown: ArchiveDown
  /** Bytes of the cache that each process has on a disk of its own; 0: none. */
  readonly cacheBytes: number
  /** Objects are encrypted, by a ring that loses nothing. */
  readonly encrypted: boolean
  /** What an operator asks for by hand, so many times. */
  readonly byHand: number
  readonly pendingBytesMax: number
  readonly archive: boolean
  /** Faults that may happen, each as many times as it says or with that chance for each message. */
  readonly faults: Readonly<Partial<Record<FaultKind, number>>>
  readonly bug: PlantedBug | null
  /** The metadata are in ZooKeeper, in DistributedLog's tree; absent: in SQLite. */
  readonly zookeeper?: true
}

const QUORUMS: readonly Quorum[] = [
  { ensemble: 3, copies: 3, ack: 2, min: 2 },
  { ensemble: 3, copies: 3, ack: 2, min: 2 },
  { ensemble: 4, copies: 3, ack: 2, min: 2 },
  { ensemble: 5, copies: 3, ack: 2, min: 2 },
  { ensemble: 3, copies: 2, ack: 2, min: 2 },
  { ensemble: 3, copies: 3, ack: 3, min: 3 },
]
/** Chances for each message; all other faults are counts. */
const RATES: Readonly<Partial<Record<FaultKind, number>>> = {
  delay: 0.05,
  loss: 0.02,
  'lost-answer': 0.02,
  duplicate: 0.03,
  'metadata-lost-answer': 0.01,
  'archive-delay': 0.03,
  'archive-loss': 0.03,
  'archive-lost-answer': 0.03,
  'archive-late': 0.01,
  'archive-cut': 0.05,
  'archive-pages': 0.3,
}

/** Longer than any run. */
const LONG_MS = 600_000

/** Swarm testing: each seed turns a random part of the faults on, so that none hides the others. */
export function optionsOf(seed: number, bug: PlantedBug | null = null): SimOptions {
  const random = new SimRandom(seed)
  const lossy = random.chance(0.25)
  const quorum = lossy ? { ensemble: 3, copies: 3, ack: 2, min: 2 } : random.pick(QUORUMS)
  const faults: Partial<Record<FaultKind, number>> = {}
  for (const kind of FAULT_KINDS) {
    if (LOSSES.includes(kind) || TIERING_KINDS.includes(kind) || !random.chance(0.35)) continue
    faults[kind] = RATES[kind] ?? 1 + random.below(3)
  }
  if (lossy) faults[random.pick(LOSSES)] = 1
  // What breaks mostly breaks in a small world, and many of those fit where one large one does.
  const large = random.chance(0.15)
  for (const effect of ['torn-sector', 'unsynced-lost', 'unsynced-kept'] as const) faults[effect] = 1
  const options = {
    seed,
    stores: Math.max(quorum.ensemble, 3 + random.below(2)),
    clients: large || random.chance(0.2) ? 3 : 2,
    streams: large || random.chance(0.2) ? 2 : 1,
    quorum,
    appends: large ? 30 + random.below(40) : 12 + random.below(24),
    safetyMs: large ? 30_000 + random.below(50_000) : 10_000 + random.below(25_000),
    rollBytes: random.pick([1_000, 2_000, 8_000]),
    hotForMs: random.pick([4_000, 20_000, LONG_MS]),
    evictLagMs: random.pick([0, 1_000, 5_000]),
    keepForMs: random.chance(0.2) ? random.pick([10_000, 30_000]) : null,
    pendingBytesMax: random.pick([8_192, 1 << 20]),
    archive: random.chance(0.8),
    faults,
    bug,
    produced: random.chance(0.4) ? 4 + random.below(8) : 0,
    upkeep: lossy || random.chance(0.2),
    restores: random.chance(0.1),
    // A store that lost something may have lost what only it knows, and a finished stream takes no append.
    rebuilds: !lossy && random.chance(0.15),
    finishes: random.chance(0.2),
  }
  return { ...options, ...tieringOf(options) }
}

/** What a seed does to tiering, drawn from numbers of its own. */
function tieringOf(
  options: Pick<SimOptions, 'seed' | 'rollBytes' | 'hotForMs' | 'faults' | 'archive'>,
): Pick<
  SimOptions,
  'faults' | 'keepMaxBytes' | 'hotMaxBytes' | 'archiveDown' | 'cacheBytes' | 'encrypted' | 'byHand'
> {
  const random = new SimRandom(options.seed * 307 + 11)
  const { rollBytes } = options
  const faults = { ...options.faults }
  const archiveDown = random.pick<ArchiveDown>(['hold', 'hold', 'backpressure', 'drop'])
  const troubled = options.archive && random.chance(0.6)
  for (const kind of TIERING_KINDS) {
    const drawn = random.chance(kind === 'step-death' ? 0.6 : 0.3)
    if (troubled && drawn) faults[kind] = RATES[kind] ?? 1 + random.below(3)
  }
  // Only together do they make a policy do something about it.
  if (options.archive && archiveDown !== 'hold') faults['disk-short'] = 1 + random.below(2)
  const hotMaxBytes = random.chance(0.2) ? rollBytes * (1 + random.below(4)) : null
  // An object that rots while its hot copy is there can be mended; nothing may make it the only one before that.
  // Disks that are full, or nearly, have verified hot copies given up before their time. There are few such runs: they
  // rather do without the full disks, of which others have plenty.
  const staysHot = options.hotForMs === LONG_MS && hotMaxBytes === null && faults['disk-short'] === undefined
  if (staysHot && faults['archive-rot'] !== undefined) delete faults['disk-full']
  if (!staysHot) delete faults['archive-rot']
  return {
    faults,
    archiveDown,
    keepMaxBytes: random.chance(0.12) ? rollBytes * (3 + random.below(8)) : null,
    hotMaxBytes,
    cacheBytes: random.chance(0.2) ? random.pick([16_384, 262_144]) : 0,
    byHand: random.chance(0.4) ? 5 + random.below(15) : 0,
    encrypted: random.chance(0.2),
  }
}

/** The same world with ZooKeeper in place of SQLite, and what only happens there. There is no archive in it. */
export function zooKeeperOptionsOf(seed: number, bug: PlantedBug | null = null): SimOptions {
  const options = optionsOf(seed, bug)
  const random = new SimRandom(seed * 419 + 3)
  const faults = { ...options.faults }
  for (const kind of [...LOSSES, ...TIERING_KINDS]) delete faults[kind]
  for (const kind of ['archive-down', 'archive-power-cut'] as const) delete faults[kind]
  for (const kind of ZK_FAULT_KINDS) if (random.chance(0.5)) faults[kind] = 1 + random.below(3)
  if (random.chance(0.5)) faults['metadata-lost-answer'] = random.pick([0.02, 0.05, 0.1])
  return {
    ...options,
    ...{ faults, zookeeper: true, archive: false, archiveDown: 'hold', byHand: 0, upkeep: false },
    ...{ keepForMs: null, keepMaxBytes: null, hotMaxBytes: null, cacheBytes: 0, encrypted: false },
    ...{ restores: false, rebuilds: false },
  }
}
