import type { PassReport, StreamPlan } from '../tiering/agent.js'
import type { ClonedStream } from '../tiering/clone.js'
import type { TieringEvent } from '../tiering/context.js'
import { checkMayDelete, settleDeletion } from '../tiering/delete.js'
import type { LogEvent } from '../tiering/events.js'
import type { FsckPart } from '../tiering/fsck.js'
import { decidedAlone } from '../tiering/holds.js'
import { limitUpload, pauseTiering, resumeTiering, type TierOrders, tierOrders } from '../tiering/orders.js'
import { settlePins } from '../tiering/pins.js'
import { thawingSince } from '../tiering/thaw.js'
import { doctorLog } from './doctor.js'
import { fsckLog, type LogArchive, logArchive } from './log-archive.js'
import { type Keys, logKeys } from './log-keys.js'
import { attachedError } from './log-ownership.js'
import type { LogParts } from './log-parts.js'
import { bytes, type Codec } from './model/codec.js'
import type { DoctorReport } from './model/control-doctor.js'
import type { PolicyOutcome, PolicyReload, PolicySource } from './model/control-policy.js'
import { StratalogError } from './model/errors.js'
import { randomIncarnation } from './model/incarnation.js'
import type { ResolvedPolicy } from './model/policy.js'
import type { PolicyInput } from './model/policy-input.js'
import type { SegmentRow, StreamRow, TxidMode } from './model/segment.js'
import { checkStreamName } from './model/stream-name.js'

import { parseDuration, parseRate } from './model/units.js'

import { testPolicy } from './policy-test.js'

import type { StoreStatus } from './ports/segment-store.js'

import type { Bookkeeper } from './stores/cluster.js'
import { Stream, type StreamServices } from './stream.js'
import { type CloneOptions, StreamTiering } from './stream-tiering.js'
import { type TierStatus, tierStatus } from './tier-status.js'

const STREAMS_PAGE = 1_000

/** The streams of a log. */
export interface Streams {
  /** Makes a stream; `stream_exists` if there is one. `txid: 'custom'`: txids are the application's own numbers. */
  create(name: string, options?: { readonly txid?: TxidMode }): Promise<StreamRow>
  /**
   * Gives a stream another name; its policy is the one of that name from here on. Handles of the old name find nothing
   * any more. `stream_exists` if there is one of that name, `stream_not_found`.
   */
  rename(name: string, to: string): Promise<StreamRow>
  /**
   * Makes a stream that begins with the history of another, up to `until`, and shares its archived objects: nothing of
   * them is copied. What is only hot is sealed and copied to the archive first. What it shares is not trimmed or
   * deleted while the clone is there; what is appended to either is its own. `stream_exists`, `stream_not_found`,
   * `archive_missing`, `position_out_of_range`.
   *
   * @example
   * ```ts
   * import { openLog } from 'stratalog'
   * await using log = await openLog('./data')
   * const { fork, sharedSegments } = await log.streams.clone('orders', 'orders-test', { until: { time: '2026-03-01' } })
   * console.log(fork.toString(), sharedSegments)
   * ```
   */
  clone(name: string, to: string, options?: CloneOptions): Promise<ClonedStream>
  /**
   * Deletes a stream with all it holds, in both tiers, for ever; its name is free at once. `refused` while a hold or a
   * pin names it, `archive_…` where nobody can know that. `settled: false`: it is gone for everybody, and what could
   * not be freed yet is freed by the agent.
   */
  delete(name: string): Promise<{ readonly incarnation: string; readonly settled: boolean }>
  /** All streams by name in code-point order. */
  list(): AsyncIterable<StreamRow>
  /** The stream with that name, or null. */
  find(name: string): Promise<StreamRow | null>
}

/** The policies of a log as a whole; those of a stream are at its handle. */
export interface Policies {
  /** Where they come from beside code and environment, and whether what the file says now is in force. */
  readonly source: PolicySource
  /**
   * Reads the configuration file again now instead of within a few seconds. Rejects with `config_invalid` where it is
   * refused: then what was in force stays in force.
   */
  reload(): Promise<PolicyReload>
  /**
   * What the policy of a stream does by `atMs` with the segments there are now, and which of its values work against
   * each other. Also for a stream that is not there yet.
   *
   * @example
   * ```ts
   * import { openLog } from 'stratalog'
   * await using log = await openLog('./data')
   * const { trims, conflicts } = await log.policies.test('clicks/web', { atMs: Date.now() + 7 * 86_400_000 })
   * console.log(trims.bytes, conflicts.map(({ found, consequence }) => `${found}: ${consequence}`))
   * ```
   */
  test(name: string, options: { readonly atMs: number }): Promise<PolicyOutcome>
}

/** When an order to the agent ends by itself. Default: it does not. */
export interface OrderEnd {
  /** `2h`, or milliseconds. */
  readonly for?: string | number
  /** Milliseconds since the epoch. */
  readonly untilMs?: number
}

/** The tiering verbs. */
export interface Tier {
  /**
   * Carries out what is due: `once` one pass, `settled` passes until nothing is due now. What fails is in the report
   * and is tried again by the background agent.
   */
  run(options?: { readonly until?: 'once' | 'settled'; readonly signal?: AbortSignal }): Promise<PassReport>
  /** What is to be done, due or not, with reasons. */
  plan(stream?: string): Promise<StreamPlan[]>
  status(): Promise<TierStatus>
  /**
   * What happened lately, oldest first: steps done, failed or stalled, the archive's state, writers slowed down. At
   * most the latest 1,000; with `follow` those that come as well, until the signal ends it.
   */
  events(options?: {
    readonly after?: number
    readonly follow?: boolean
    readonly signal?: AbortSignal
  }): AsyncIterable<LogEvent>
  /** Told of every step of the agent; the returned function ends it. */
  onEvent(listener: (event: TieringEvent) => void): () => void
  /**
   * Moves nothing of a stream, or of any, until it is resumed or the time is over; survives a restart. Seals go on, and
   * what is done by hand.
   *
   * @example
   * ```ts
   * import { openLog } from 'stratalog'
   * const log = await openLog('./data')
   * await log.tier.pause({ stream: 'clicks/web', for: '2h' })
   * await log.tier.limit({ upload: '20 MiB/s' })
   * ```
   */
  pause(options?: OrderEnd & { readonly stream?: string }): Promise<TierOrders>
  /** Ends the pause of a stream; without one every pause. */
  resume(options?: { readonly stream?: string }): Promise<TierOrders>
  /** Limits uploads of all streams together, beside what policies say; null lifts it. `20 MiB/s` or bytes a second. */
  limit(options: OrderEnd & { readonly upload: string | number | null }): Promise<TierOrders>
  /** The pauses and limits that hold now, with when they end. */
  orders(): Promise<TierOrders>
}

/**
 * An open log. Made by `openLog`; close it, or let `await using` do it.
 */
export class Log implements AsyncDisposable {
  readonly directory: string
  readonly streams: Streams
  readonly tier: Tier
  readonly archive: LogArchive
  readonly policies: Policies
  readonly keys: Keys
  readonly #parts: LogParts
  readonly #services: StreamServices
  /** Streams being created, so that appends made together create one. */
  readonly #creating = new Map<string, Promise<StreamRow>>()
  #closing: Promise<void> | null = null

  /** @internal */
  constructor(parts: LogParts) {
    this.#parts = parts
    this.directory = parts.directory
    this.streams = {
      create: (name, options) => this.#create(name, options?.txid ?? 'ms'),
      rename: (name, to) => this.#rename(name, to),
      clone: (name, to, options) => this.stream(name).clone(to, options),
      delete: (name) => this.#delete(name),
      list: () => this.#list(),
      find: (name) => this.#index.streamByName(checkStreamName(name)),
    }
    this.tier = {
      run: async ({ until = 'settled', signal } = {}) => {
        if (parts.attached !== null) throw attachedError(parts.archiveLocation)
        return until === 'once' ? parts.agent.runOnce(signal) : parts.agent.runUntilSettled(signal)
      },
      plan: (stream) => this.#plan(stream),
      status: () => tierStatus(parts, this.#list()),
      events: ({ after = 0, follow = false, signal } = {}) =>
        parts.agent.events.read({ after, follow, signal }),
      onEvent: (listener) => parts.agent.onEvent(listener),
      pause: ({ stream, ...end } = {}) => this.#pause(stream, end),
      resume: async ({ stream } = {}) =>
        this.#ordered(await resumeTiering(parts.tiering, await this.#named(stream))),
      limit: async ({ upload, ...end }) => {
        const rate = upload === null ? null : parseRate(upload)
        return this.#ordered(await limitUpload(parts.tiering, rate, this.#endMs(end)))
      },
      orders: () => tierOrders(parts.tiering),
    }
    this.policies = {
      get source() {
        return parts.config.source
      },
      reload: () => parts.config.reload(),
      test: async (name, { atMs }) => {
        const { resolved } = await this.policyOf(name)
        return testPolicy(parts, await this.streams.find(name), resolved, atMs)
      },
    }
    this.archive = logArchive(parts)
    const existing = async (name: string) =>
      (await this.streams.find(name)) ?? Promise.reject(await this.#notFound(name))
    this.keys = logKeys(parts, existing, () => this.#list())
    this.#services = {
      hub: parts.hub,
      read: parts.read,
      explaining: async (stream) => {
        const override = await this.#index.policyOverride(stream.incarnation)
        const { policy } = parts.policies.resolve(stream.name, override)
        return {
          read: parts.read,
          cold: parts.coldReads,
          archiveLocation: (await parts.tiering.own?.locationOf(stream.incarnation)) ?? parts.archiveLocation,
          coldReadBytesPerSecond: policy.limits.coldReadBytesPerSecond,
          thawingSince: (row) => thawingSince(parts.tiering, row),
        }
      },
      find: (name) => this.#index.streamByName(name),
      ensure: (name) => this.#ensure(name),
      notFound: (name) => this.#notFound(name),
      policy: async (stream) =>
        this.#parts.policies.resolve(stream.name, await this.#index.policyOverride(stream.incarnation)),
      setPolicy: (stream, policy) => this.#setPolicy(stream, policy),
      appended: () => parts.agent.wake(100),
      tiering: new StreamTiering(parts),
    }
  }

  get #index(): LogParts['segments']['index'] {
    return this.#parts.segments.index
  }

  /** 128 bits that name this log, in hex. */
  get logId(): string {
    return this.#parts.logId
  }

  /** The BookKeeper cluster it stands on. Throws `unsupported` for a log whose stores are directories. */
  get bookkeeper(): Bookkeeper {
    const { bookkeeper = null } = this.#parts
    if (bookkeeper !== null) return bookkeeper
    throw new StratalogError(
      'unsupported',
      `the log in ${this.directory} has no bookies: its stores are directories, see "stratalog store list"`,
    )
  }

  /** For those who look below streams: `segment dump`, `restore`, checks. Not part of the stable API. @internal */
  get parts(): LogParts {
    return this.#parts
  }

  /** A handle on a stream: no I/O until one of its methods is called. Throws `stream_name_invalid`. */
  stream(name: string): Stream<Uint8Array | string>
  stream<T>(name: string, options: { readonly codec: Codec<T> }): Stream<T>
  stream<T>(name: string, options?: { readonly codec: Codec<T> }): Stream<T> | Stream<Uint8Array | string> {
    checkStreamName(name)
    if (options?.codec !== undefined) return new Stream<T>(this.#services, name, options.codec)
    // Without a codec text is taken as well; payloads come back as bytes.
    const plain: Codec<Uint8Array | string> = {
      encode: (value) => value,
      decode: (payload) => bytes().decode(payload),
    }
    return new Stream<Uint8Array | string>(this.#services, name, plain)
  }

  /** Where each store is and how it is. */
  stores(): Promise<StoreStatus[]> {
    return Promise.all(this.#parts.segments.ledger.stores.all().map((store) => store.status()))
  }

  /** Checks whether index, stores and archive say the same; with `deep` every byte. Read-only. */
  fsck(options: { readonly deep?: boolean; readonly signal?: AbortSignal } = {}): AsyncIterable<FsckPart> {
    return fsckLog(this.#parts, options)
  }

  /**
   * Looks at everything the log stands on: stores, index, archive (one small object is written, read and deleted), key
   * rings. What is wrong is in the report and rejects nothing.
   *
   * @example
   * ```ts
   * import { openLog } from 'stratalog'
   * await using log = await openLog('./data')
   * for (const { state, text, mend } of (await log.doctor()).checks) if (state === 'bad') console.log(text, mend)
   * ```
   */
  doctor(options: { readonly signal?: AbortSignal } = {}): Promise<DoctorReport> {
    return doctorLog(this.#parts, options.signal)
  }

  /** Segments of a stream, oldest first. Rejects with `stream_not_found`. */
  async *segments(name: string): AsyncGenerator<SegmentRow> {
    const stream = await this.#index.streamByName(name)
    if (stream === null) throw await this.#notFound(name)
    for (let from = 0n; ; ) {
      const page = await this.#index.listSegments(stream.incarnation, from, STREAMS_PAGE)
      yield* page
      const last = page.at(-1)
      if (last === undefined || page.length < STREAMS_PAGE) return
      from = last.segment + 1n
    }
  }

  /** The policy a stream of that name has or would have, and what was outvoted. */
  async policyOf(
    name: string,
  ): Promise<{ resolved: ResolvedPolicy; losers: ReturnType<LogParts['policies']['losers']> }> {
    const stream = await this.#index.streamByName(checkStreamName(name))
    const override = stream === null ? null : await this.#index.policyOverride(stream.incarnation)
    return {
      resolved: this.#parts.policies.resolve(name, override),
      losers: this.#parts.policies.losers(name, override),
    }
  }

  /**
   * Recovers what earlier processes left open, before anything is appended. A segment whose stores are not all back
   * stays `recovering`, and is tried again; the rest of the log works. @internal
   */
  recover(): Promise<{ recovered: number; waiting: number }> {
    return this.#parts.recoverer.recoverAll()
  }

  /** Seals what is open, finishes the step the agent is in, and lets the directory go. Idempotent. */
  close(): Promise<void> {
    this.#closing ??= this.#parts.close()
    return this.#closing
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  async *#list(): AsyncGenerator<StreamRow> {
    for (let after = ''; ; ) {
      const page = await this.#index.listStreams(after, STREAMS_PAGE)
      yield* page
      const last = page.at(-1)
      if (last === undefined || page.length < STREAMS_PAGE) return
      after = last.name
    }
  }

  async #plan(name: string | undefined): Promise<StreamPlan[]> {
    if (name !== undefined && (await this.#index.streamByName(name)) === null)
      throw await this.#notFound(name)
    return this.#parts.agent.plans(name)
  }

  async #create(name: string, txid: TxidMode): Promise<StreamRow> {
    checkStreamName(name)
    const incarnation = randomIncarnation(this.#parts.random)
    const row = {
      incarnation,
      name,
      txidMode: txid,
      createdMs: this.#parts.segments.ledger.clock.nowMs(),
      parent: null,
    }
    return this.#index.createStream(row)
  }

  /** The index first: a writer that opens meanwhile has the old name for a moment, and is closed behind it. */
  async #rename(name: string, to: string): Promise<StreamRow> {
    const stream = await this.#index.streamByName(checkStreamName(name))
    if (stream === null) throw await this.#notFound(name)
    if (checkStreamName(to) === name) return stream
    const renamed = await this.#index.updateStream(stream.incarnation, stream.version, { name: to })
    const reason = new StratalogError('stream_not_found', `${name} is called ${to} now`, { found: name })
    await this.#parts.hub.release(stream, reason)
    this.#parts.agent.wake(0)
    return renamed
  }

  /** Decided on the stores first, then known to the archive, then freed: a crash between any two is gone on from. */
  async #delete(name: string): Promise<{ incarnation: string; settled: boolean }> {
    const { hub, segments, agent, tiering } = this.#parts
    const stream = await this.#index.streamByName(checkStreamName(name))
    if (stream === null) throw await this.#notFound(name)
    const { incarnation } = stream
    await checkMayDelete(tiering, stream)
    const gone = new StratalogError('stream_not_found', `${name} was deleted`, { found: name })
    await hub.release(stream, gone)
    const deleted = await decidedAlone(tiering, stream, async () => {
      // A hold may have come since; one that comes now waits, and finds no stream.
      await checkMayDelete(tiering, stream)
      const { version } = (await this.#index.stream(incarnation)) ?? stream
      return this.#index.deleteStream(incarnation, version, segments.ledger.clock.nowMs())
    })
    // One that opened meanwhile is fenced by the higher epoch; it need not find that out by itself.
    await hub.release(stream, gone)
    try {
      const { signal } = new AbortController()
      await settleDeletion(tiering, deleted, signal)
      // What it shared with its parent is the parent's alone now.
      await settlePins(tiering, signal)
      return { incarnation, settled: true }
    } catch (error) {
      segments.ledger.logger.warn({ err: error, stream: name }, 'a deleted stream is freed later')
      agent.wake(0)
      return { incarnation, settled: false }
    }
  }

  async #ensure(name: string): Promise<StreamRow> {
    if (this.#parts.attached !== null) throw attachedError(this.#parts.archiveLocation)
    const found = await this.#index.streamByName(name)
    if (found !== null) return found
    let creating = this.#creating.get(name)
    if (creating === undefined) {
      const { policy, origins } = this.#parts.policies.resolve(name, null)
      if (policy.create === 'refuse') {
        throw new StratalogError(
          'stream_not_found',
          `there is no stream ${name} and the policy does not let appends create it (create: refuse, ${origins.create}): stratalog stream create ${name}`,
        )
      }
      creating = this.#create(name, 'ms').finally(() => this.#creating.delete(name))
      this.#creating.set(name, creating)
    }
    return creating
  }

  async #setPolicy(stream: StreamRow, policy: PolicyInput | null): Promise<void> {
    const encoded = policy === null ? null : this.#parts.policies.encode(policy)
    // Refused as a whole before anything is stored, if it does not fit with what holds beside it.
    this.#parts.policies.resolve(stream.name, encoded)
    await this.#index.setPolicyOverride(stream.incarnation, encoded)
    this.#parts.agent.wake(0)
  }

  async #pause(stream: string | undefined, end: OrderEnd): Promise<TierOrders> {
    const row = await this.#named(stream)
    return this.#ordered(await pauseTiering(this.#parts.tiering, row, this.#endMs(end)))
  }

  #endMs({ for: duration, untilMs }: OrderEnd): number | null {
    if (duration === undefined) return untilMs ?? null
    return this.#parts.tiering.ledger.clock.nowMs() + parseDuration(duration)
  }

  /** The agent is to go by it at once. */
  #ordered(orders: TierOrders): TierOrders {
    this.#parts.agent.wake(0)
    return orders
  }

  async #named(name: string | undefined): Promise<StreamRow | null> {
    if (name === undefined) return null
    const row = await this.#index.streamByName(checkStreamName(name))
    if (row === null) throw await this.#notFound(name)
    return row
  }

  async #notFound(name: string): Promise<StratalogError> {
    const names: string[] = []
    for await (const stream of this.#list()) names.push(stream.name)
    const near = this.#parts.nearest(name, names)
    const hint =
      near !== null
        ? `did you mean ${near}?`
        : names.length === 0
          ? 'this log has no streams yet'
          : 'see "stratalog stream list"'
    return new StratalogError('stream_not_found', `there is no stream ${name}: ${hint}`, {
      found: name,
      expected: near ?? undefined,
    })
  }
}
