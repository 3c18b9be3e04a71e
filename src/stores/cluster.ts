import type { LedgerContext } from '../ledger/context.js'
import type { BookieDto, BookkeeperStatusDto, ImpactPart } from '../model/control-bookkeeper.js'
import type { Policy } from '../model/policy.js'
import type { SegmentIndex } from '../ports/segment-index.js'
import type { LiveBookie, LiveBookies } from './bookies.js'
import { checkImpact } from './impact.js'

/** Ledgers that are counted where very many wait for copies, and those that are named. */
const UNDERREPLICATED_MAX = 1_000
const UNDERREPLICATED_NAMED = 10

/** What the ground knows of its cluster. */
export interface ClusterView {
  readonly instanceId: string
  readonly zookeeper: string
  readonly namespace: string
  readonly ledgersPath: string
  readonly bookies: LiveBookies
  readonly groupsOf?: (id: string, host: string) => readonly string[]
  /** Ledgers that autorecovery was asked for copies of, at most so many. */
  underreplicated(
    limit: number,
  ): Promise<readonly { readonly ledgerId: bigint; readonly missing: readonly string[] }[]>
  autorecovery(): Promise<BookkeeperStatusDto['autorecovery']>
}

/** What `Bookkeeper` stands on. */
export interface BookkeeperParts {
  readonly cluster: ClusterView
  readonly ledger: LedgerContext
  readonly index: SegmentIndex
  /** What `defaults` say now. */
  readonly quorum: () => Policy['quorum']
  /** Stores that the largest quorum of any stream needs. */
  readonly needed: () => Promise<number>
  /** The name that an unknown one is near to, or null. */
  readonly nearest: (name: string, names: readonly string[]) => string | null
}

/** The BookKeeper cluster that a log stands on. */
export class Bookkeeper {
  readonly #parts: BookkeeperParts

  /** @internal */
  constructor(parts: BookkeeperParts) {
    this.#parts = parts
  }

  /**
   * How the cluster is: its bookies, whether quorums are possible, which ledgers wait for copies. Asks ZooKeeper only.
   *
   * @example
   * ```ts
   * import { openLog } from 'stratalog'
   * await using log = await openLog('./data', { metadata: 'zk://zk1:2181/messaging/app', stores: 'bookkeeper' })
   * const { bookies, quorum } = await log.bookkeeper.status()
   * console.log(quorum.possible, bookies.filter(({ state }) => state === 'down').map(({ id }) => id))
   * ```
   */
  async status(): Promise<BookkeeperStatusDto> {
    const { cluster, ledger, quorum } = this.#parts
    const { instanceId, zookeeper, namespace, ledgersPath } = cluster
    const [bookies, waiting, autorecovery] = await Promise.all([
      this.#bookies(),
      cluster.underreplicated(UNDERREPLICATED_MAX + 1),
      cluster.autorecovery(),
    ])
    const { copies, ack, ensemble, min } = quorum()
    const wanted = { ensemble: ensemble ?? copies, copies, ack, min: min ?? ack }
    const writable = bookies.filter(({ state }) => state === 'writable').length
    const possible = writable >= wanted.ensemble ? 'whole' : writable >= wanted.min ? 'reduced' : 'none'
    const named = waiting.slice(0, UNDERREPLICATED_NAMED)
    return {
      atMs: ledger.clock.nowMs(),
      instanceId,
      zookeeper,
      namespace,
      ledgersPath,
      bookies,
      quorum: { ...wanted, possible },
      underreplicated: {
        ledgers: Math.min(waiting.length, UNDERREPLICATED_MAX),
        more: waiting.length > UNDERREPLICATED_MAX,
        first: named.map(({ ledgerId, missing }) => ({ ledgerId: `${ledgerId}`, missing })),
      },
      autorecovery,
    }
  }

  /**
   * What it would mean to take a bookie away, before that is done: which streams and ledgers have copies on it, what
   * would be left of them, whether others could take the copies. Looks at the metadata of every ledger of the cluster
   * and changes nothing; the last part is the verdict. `not_found`: the cluster has no such bookie.
   *
   * @example
   * ```ts
   * import { openLog } from 'stratalog'
   * await using log = await openLog('./data', { metadata: 'zk://zk1:2181/messaging/app', stores: 'bookkeeper' })
   * for await (const part of log.bookkeeper.checkImpact('10.0.0.7:3181'))
   *   if (part.type === 'done') console.log(part.impact.safe, part.impact.why)
   * ```
   */
  checkImpact(
    bookie: string,
    options: { readonly signal?: AbortSignal } = {},
  ): AsyncGenerator<ImpactPart, void, undefined> {
    const { ledger, index, needed, nearest, cluster } = this.#parts
    const parts = { ledger, index, needed, nearest, bookies: cluster.bookies }
    return checkImpact(parts, bookie, options.signal)
  }

  async #bookies(): Promise<BookieDto[]> {
    const { bookies, groupsOf } = this.#parts.cluster
    const up = new Map(bookies.all().map((bookie) => [bookie.id, bookie]))
    const ids = new Set([...(await bookies.known()), ...up.keys()])
    const groups = (id: string) => groupsOf?.(id, up.get(id)?.host ?? '') ?? []
    return [...ids].sort().map((id) => bookieDto(id, up.get(id), groups(id)))
  }
}

function bookieDto(id: string, live: LiveBookie | undefined, groups: readonly string[]): BookieDto {
  if (live === undefined) return { id, state: 'down', address: null, rack: null, groups }
  const { host, port, readOnly, rack = null } = live
  return { id, state: readOnly ? 'read-only' : 'writable', address: `${host}:${port}`, rack, groups }
}
