/** The right to do something alone, until released or lost. */
export interface Lease {
  readonly name: string
  /** Grows with every grant of the name, also over restarts: a fencing token. */
  readonly epoch: bigint
  /** Aborted when the lease is lost. Work begun under the lease must not commit after that. */
  readonly lost: AbortSignal
  release(): Promise<void>
}

/** Who may do what, among processes. SQLite: one process per directory; ZooKeeper: ephemeral nodes. */
export interface Coordination {
  /**
   * Takes the lease or rejects with `conflict` (naming the holder) when another holds it after `waitMs`.
   * The epoch is durable before this resolves.
   * What rejects holds nothing, at the latest soon after: where the answer to a grant may get lost, who asks this
   * port can't know of the lease and won't release it.
   */
  acquire(
    name: string,
    options: { readonly holder: string; readonly waitMs: number; readonly signal?: AbortSignal },
  ): Promise<Lease>
  /** How the one that has the lease now calls itself; null: nobody has. Absent where one process has them all. */
  holder?(name: string): Promise<string | null>
  close(): Promise<void>
}
