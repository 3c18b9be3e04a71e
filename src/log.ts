import type { PassReport, StreamPlan } from '../tiering/agent.js'
import type { TieringEvent } from '../tiering/context.js'
import { type Keys, logKeys } from './log-keys.js'
import type { LogParts } from './log-parts.js'
import { bytes, type Codec } from './model/codec.js'
import { StratalogError } from './model/errors.js'
import { randomIncarnation } from './model/incarnation.js'
import type { ResolvedPolicy } from './model/policy.js'
import type { PolicyInput } from './model/policy-input.js'
import type { SegmentRow, StreamRow, TxidMode } from './model/segment.js'
import { checkStreamName } from './model/stream-name.js'
import type { StoreStatus } from './ports/segment-store.js'
import { Stream, type StreamServices } from './stream.js'
import { type TierStatus, tierStatus } from './tier-status.js'

const STREAMS_PAGE = 1_000

/** The streams of a log. */
export interface Streams {
  /** Makes a stream; `stream_exists` if there is one. `txid: 'custom'`: txids are the application's own numbers. */
  create(name: string, options?: { readonly txid?: TxidMode }): Promise<StreamRow>
  /** All streams by name in code-point order. */
  list(): AsyncIterable<StreamRow>
  /** The stream with that name, or null. */
  find(name: string): Promise<StreamRow | null>
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
  /** Told of every step of the agent; the returned function ends it. */
  onEvent(listener: (event: TieringEvent) => void): () => void
}

/**
 * An open log. Made by `openLog`; close it, or let `await using` do it.
 */
export class Log implements AsyncDisposable {
  readonly directory: string
  readonly streams: Streams
  readonly tier: Tier
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
      list: () => this.#list(),
      find: (name) => this.#index.streamByName(checkStreamName(name)),
    }
    this.tier = {
      run: ({ until = 'settled', signal } = {}) =>
        until === 'once' ? parts.agent.runOnce(signal) : parts.agent.runUntilSettled(signal),
      plan: (stream) => this.#plan(stream),
      status: () => tierStatus(parts, this.#list()),
      onEvent: (listener) => parts.agent.onEvent(listener),
    }
    const existing = async (name: string) =>
      (await this.streams.find(name)) ?? Promise.reject(await this.#notFound(name))
    this.keys = logKeys(parts, existing, () => this.#list())
    this.#services = {
      hub: parts.hub,
      read: parts.read,
      find: (name) => this.#index.streamByName(name),
      ensure: (name) => this.#ensure(name),
      notFound: (name) => this.#notFound(name),
      policy: async (stream) =>
        this.#parts.policies.resolve(stream.name, await this.#index.policyOverride(stream.incarnation)),
      setPolicy: (stream, policy) => this.#setPolicy(stream, policy),
      appended: () => parts.agent.wake(100),
    }
  }

  get #index(): LogParts['segments']['index'] {
    return this.#parts.segments.index
  }

  /** 128 bits that name this log, in hex. */
  get logId(): string {
    return this.#parts.logId
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

  async #ensure(name: string): Promise<StreamRow> {
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
