import type { LogParts } from '../log-parts.js'
import type { Policy, ResolvedPolicy } from '../model/policy.js'
import type { StreamRow } from '../model/segment.js'
import type { Logger } from '../ports/logger.js'
import type { SegmentIndex, Watch } from '../ports/segment-index.js'

interface Followed {
  readonly stream: StreamRow
  readonly watch: Watch
  current: Policy
}

/** The policies of streams as they are now: a writer must not ask the index for each record. */
export class LivePolicies {
  readonly #index: SegmentIndex
  readonly #resolve: LogParts['policies']['resolve']
  readonly #logger: Logger
  readonly #watched = new Map<string, Followed>()

  constructor(index: SegmentIndex, resolve: LogParts['policies']['resolve'], logger: Logger) {
    this.#index = index
    this.#resolve = resolve
    this.#logger = logger
  }

  /** Looked up now, with origins. */
  async of(stream: StreamRow): Promise<ResolvedPolicy> {
    const { incarnation } = stream
    // By the name it has now: what has the stream open keeps the row it found when it began.
    const name = (await this.#index.stream(incarnation))?.name ?? stream.name
    return this.#resolve(name, await this.#index.policyOverride(incarnation))
  }

  /** A policy that follows changes until `close`; `changed` is called after each change of the stream. */
  async follow(stream: StreamRow, changed: () => void): Promise<() => Policy> {
    const found = this.#watched.get(stream.incarnation)
    if (found !== undefined) return () => found.current
    const followed: Followed = {
      stream,
      current: (await this.of(stream)).policy,
      watch: this.#index.watch(stream.incarnation, () => {
        changed()
        this.#readAgain(followed)
      }),
    }
    this.#watched.set(stream.incarnation, followed)
    return () => followed.current
  }

  /** The configuration is another one: every policy that is followed is read again. */
  refresh(): void {
    for (const followed of this.#watched.values()) this.#readAgain(followed)
  }

  #readAgain(followed: Followed): void {
    const { stream } = followed
    // Its name may be another one by now, and with it the policies that match.
    const now = this.#index.stream(stream.incarnation).then((row) => this.of(row ?? stream))
    now.then(
      ({ policy }) => {
        followed.current = policy
      },
      // The log may have been closed meanwhile; whoever still has the stream goes on with what it knows.
      (error: unknown) => this.#logger.debug({ err: error, stream: stream.name }, 'policy not read again'),
    )
  }

  close(): void {
    for (const { watch } of this.#watched.values()) watch.close()
    this.#watched.clear()
  }
}
