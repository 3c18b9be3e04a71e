/** What the command line asks of a BookKeeper cluster: see `control-api.ts` for the conventions. Types only. */

/** A bookie that belongs to the cluster. */
export interface BookieDto {
  readonly id: string
  /** `read-only`: it takes no new entries and is read. `down`: it is not registered in ZooKeeper. */
  readonly state: 'writable' | 'read-only' | 'down'
  /** `host:port` where it listens; null while it is down. */
  readonly address: string | null
  /** `/region/rack` where `bookkeeper.racks-file` names it. */
  readonly rack: string | null
  /** The isolation groups it is in (`bookkeeper.groups-file`). */
  readonly groups: readonly string[]
}

/** A ledger that autorecovery was asked to make copies of. */
export interface UnderreplicatedDto {
  readonly ledgerId: string
  /** The bookies whose copies are missing. */
  readonly missing: readonly string[]
}

/** How a BookKeeper cluster is, at a moment. */
export interface BookkeeperStatusDto {
  readonly atMs: number
  readonly instanceId: string
  /** `zk1:2181,zk2:2181`. */
  readonly zookeeper: string
  readonly namespace: string
  readonly ledgersPath: string
  readonly bookies: readonly BookieDto[]
  readonly quorum: {
    /** What segments want by `defaults`, in bookies: one with less is begun down to `min`. */
    readonly ensemble: number
    readonly copies: number
    readonly ack: number
    readonly min: number
    /** `whole`: every copy finds a bookie. `reduced`: segments are begun with fewer. `none`: appends are refused. */
    readonly possible: 'whole' | 'reduced' | 'none'
  }
  /** Ledgers that wait for copies, the first of very many; `more`: they were not all counted. */
  readonly underreplicated: {
    readonly ledgers: number
    readonly more: boolean
    readonly first: readonly UnderreplicatedDto[]
  }
  /** BookKeeper's own repair: switched off by an operator or not, and how many of its auditors are up. */
  readonly autorecovery: { readonly enabled: boolean; readonly auditors: number }
}

/** Ledgers with copies on a bookie, by what they would be without it. */
export interface ImpactCounts {
  readonly ledgers: number
  /** Of these still written. */
  readonly open: number
  /** Some entries would have fewer copies on bookies that are up than an acknowledgement takes. */
  readonly belowAck: number
  /** Some entries would have no copy on a bookie that is up. */
  readonly unreadable: number
  /** No bookie that takes writes could take the copies. */
  readonly irreplaceable: number
}

/** What it would mean to take a bookie away. */
export interface ImpactDto extends ImpactCounts {
  readonly bookie: string
  readonly state: BookieDto['state']
  /** Bookies left that take writes, and what the largest quorum of any stream needs. */
  readonly writableLeft: number
  readonly needed: number
  /** Ledgers that no stream of this namespace names. */
  readonly others: number
  /** Ledgers that could not be looked at. */
  readonly unknown: number
  readonly safe: boolean
  /** Why it is not safe, for people; empty where it is. */
  readonly why: readonly string[]
}

/** What `checkImpact` yields: how far it is, each stream that has copies there, at the end the verdict. */
export type ImpactPart =
  | { readonly type: 'progress'; readonly checked: number; readonly stream: string | null }
  | ({
      readonly type: 'stream'
      readonly stream: string
      readonly firstSegment: string
      readonly lastSegment: string
    } & ImpactCounts)
  | { readonly type: 'done'; readonly impact: ImpactDto }

/** The verbs of this area; `unsupported` for a log whose stores are directories. */
export interface BookkeeperApi {
  bookkeeperStatus(): Promise<BookkeeperStatusDto>
  /** Looks at every ledger of the cluster and changes nothing. `not_found` for a bookie that does not belong to it. */
  checkImpact(request: { readonly bookie: string }, signal?: AbortSignal): AsyncIterable<ImpactPart>
}
