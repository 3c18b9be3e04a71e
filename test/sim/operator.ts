import { present } from '../../src/model/assert.js'
import { Dlsn } from '../../src/model/dlsn.js'
import { isStratalogError } from '../../src/model/errors.js'
import type { Position } from '../../src/model/position.js'
import type { SegmentRow, StreamRow } from '../../src/model/segment.js'
import { StreamTiering } from '../../src/stream-tiering.js'
import { collectOrphans } from '../../tiering/collect.js'
import type { Client } from './client.js'
import { restoreOnce } from './other-logs.js'
import { buggyCollect } from './planted.js'
import type { SimRandom } from './random.js'
import type { BY_HAND } from './trace.js'
import type { SimWorld } from './world.js'

/** After how long an operator takes a command that has not come back for one that never does. */
const PATIENCE_MS = 8_000

type Verb = 'hold' | 'release' | 'trim' | 'recall' | 'evict' | 'collect' | 'scrub' | 'restore'

/** Holds and releases most: what they forbid is what the others try. */
const VERBS: readonly Verb[] = [
  'hold',
  'hold',
  'release',
  'trim',
  'trim',
  'trim',
  'recall',
  'evict',
  'collect',
  'collect',
  'scrub',
  'restore',
]

/** Somebody who does by hand what can be done by hand, through whatever process is there. */
export class Operator {
  readonly #world: SimWorld
  readonly #random: SimRandom
  /** Holds somebody was told of. */
  readonly #held: { readonly stream: StreamRow; readonly id: string }[] = []
  #next = 0
  #stopped = false

  constructor(world: SimWorld, random: SimRandom) {
    this.#world = world
    this.#random = random
  }

  async run(commands: number, withinMs: number): Promise<void> {
    const { scheduler } = this.#world
    for (let i = 0; i < commands; i += 1) {
      await scheduler.wait((this.#random.between(0, 2) * withinMs) / commands)
      if (this.#stopped) return
      const ended = this.#command()
      await Promise.race([ended, scheduler.wait(PATIENCE_MS)])
    }
  }

  /** For the reckoning: what is under way ends with the processes that do it. */
  stop(): void {
    this.#stopped = true
  }

  async #command(): Promise<void> {
    const { clients, streams, trace, options } = this.#world
    const random = this.#random
    const running = clients.filter(({ host, running }) => host.up && !host.paused && running !== null)
    const collects = options.bug === 'delete-during-copy' || options.bug === 'absence-is-proof'
    const verb = collects ? 'collect' : random.pick(VERBS)
    // An object that rots must not be the only copy, and nobody knows that it does.
    if (options.faults['archive-rot'] !== undefined && (verb === 'evict' || verb === 'recall')) return
    const stream = random.pick(streams)
    if (running.length === 0) return
    const client = random.pick(running)
    trace.note(`by hand: ${verb} of ${stream.name} in ${client.host.name}`)
    try {
      await this.#run(verb, client, stream)
    } catch (error) {
      trace.note(`by hand: ${verb} failed: ${String(error).slice(0, 160)}`)
      if (!isStratalogError(error)) trace.violate(0, `${verb} failed with ${String(error)}`)
    }
  }

  async #run(verb: Verb, client: Client, stream: StreamRow): Promise<void> {
    const parts = present(client.running, 'a client that runs').parts
    const tiering = new StreamTiering(parts)
    if (verb === 'hold') await this.#hold(tiering, stream)
    else if (verb === 'release') await this.#release(tiering)
    else if (verb === 'trim') await this.#trim(tiering, stream)
    else if (verb === 'recall') await this.#recall(tiering, stream)
    else if (verb === 'evict') await this.#evict(tiering, stream)
    else if (verb === 'collect') await this.#collect(client)
    else if (verb === 'scrub') await this.#scrub(client)
    else await this.#restore(client)
  }

  async #hold(tiering: StreamTiering, stream: StreamRow): Promise<void> {
    const id = `case-${this.#next++}`
    const [from, until] = this.#range(stream)
    const put = await tiering.hold(stream, { id, ...(from && { from }), ...(until && { until }) })
    this.#world.oracle.tiering.holdPut(stream, put)
    this.#held.push({ stream, id })
    this.#did('holds put')
  }

  async #release(tiering: StreamTiering): Promise<void> {
    const held = this.#held.splice(this.#random.below(this.#held.length), 1)[0]
    if (held === undefined) return
    this.#world.oracle.tiering.holdReleasing(held.stream, held.id)
    await tiering.release(held.stream, held.id)
    this.#did('holds released')
  }

  /** First it is asked what would go: that much may be trimmed from then on. */
  async #trim(tiering: StreamTiering, stream: StreamRow): Promise<void> {
    const random = this.#random
    const before = random.chance(0.2)
      ? { keepBytes: random.below(5) * this.#world.options.rollBytes }
      : this.#position(stream)
    if (before === null) return
    const seal = random.chance(0.2)
    const { asked } = await tiering.trim(stream, { before, dryRun: true })
    this.#world.oracle.tiering.trimAsked(stream, asked)
    const { below, held } = await tiering.trim(stream, { before: asked, seal })
    if (held !== null) this.#did('trims kept off by a hold')
    if (below !== null) this.#did('trims by hand')
  }

  /** Where nothing is cold yet it is made so first. */
  async #recall(tiering: StreamTiering, stream: StreamRow): Promise<void> {
    const rows = this.#world.oracle.tiering.rowsOf(stream)
    if (!rows.some(({ state }) => state === 'cold')) await this.#evict(tiering, stream)
    const forMs = this.#random.pick([2_000, 10_000, 60_000])
    let segments = 0
    for await (const progress of tiering.recall(stream, this.#rangeOf(stream), { for: forMs })) {
      segments = progress.done
      // Some people change their minds.
      if (this.#random.chance(0.05)) break
    }
    if (segments > 0) this.#did('recalls')
  }

  async #evict(tiering: StreamTiering, stream: StreamRow): Promise<void> {
    let evicted = 0
    for await (const { kind } of tiering.evict(stream, this.#rangeOf(stream)))
      evicted += kind === 'evict' ? 1 : 0
    if (evicted > 0) this.#did('evictions by hand')
  }

  async #collect(client: Client): Promise<void> {
    const { tiering } = present(client.running, 'a client that runs')
    if (tiering.archive === null) return
    const { bug } = this.#world.options
    if (bug === 'delete-during-copy' || bug === 'absence-is-proof') {
      await buggyCollect(tiering.index, await tiering.archive(''), bug, this.#random)
      return
    }
    const graceMs = this.#random.pick([0, 1_000, 30_000])
    const signal = new AbortController().signal
    for await (const part of collectOrphans(tiering, { graceMs, collect: true, signal })) {
      if (part.type === 'end') this.#did('collections')
      else if (part.orphan.outcome === 'deleted') this.#did('objects collected')
    }
  }

  async #scrub(client: Client): Promise<void> {
    const state = await present(client.running, 'a client that runs').upkeep.coldScrubPass()
    if (state !== null) this.#did('cold scrubs')
  }

  /** What is restored while history goes on is some of it, at its place. */
  async #restore(client: Client): Promise<void> {
    const { options, archive } = this.#world
    // Its ledgers are on the stores of this log, where an index that is made again would find them.
    if (archive === null || options.rebuilds) return
    await restoreOnce(this.#world, client)
    this.#did('restores in the middle')
  }

  #did(what: (typeof BY_HAND)[number]): void {
    this.#world.trace.worked(what)
  }

  #range(stream: StreamRow): readonly [Position | null, Position | null] {
    const edges = [this.#row(stream), this.#row(stream)]
      .filter((row) => row !== null)
      .sort((a, b) => (a.segment < b.segment ? -1 : 1))
    const [from = null, until = null] = edges
    const random = this.#random
    if (from === null || until === null || from.segment === until.segment) return [null, null]
    const kind = random.below(3)
    const positions = [
      random.chance(0.3) ? null : this.#positionOf(from, kind),
      random.chance(0.3) ? null : this.#positionOf(until, kind),
    ] as const
    return positions
  }

  #rangeOf(stream: StreamRow): { from?: Position; until?: Position } {
    const [from, until] = this.#range(stream)
    return { ...(from && { from }), ...(until && { until }) }
  }

  #position(stream: StreamRow): Position | null {
    const row = this.#row(stream)
    return row === null ? null : this.#positionOf(row, this.#random.below(3))
  }

  #positionOf(row: SegmentRow, kind: number): Position {
    if (kind === 1 && row.lastTxid > 0n) return { txid: row.firstTxid }
    if (kind === 2 && row.lastTxid > 0n) return { time: Number(row.lastTxid) }
    const inside = this.#random.chance(0.3) && row.lastEntryId > 0n
    return new Dlsn(row.segment, inside ? 1n : 0n, 0n)
  }

  #row(stream: StreamRow): SegmentRow | null {
    const rows = this.#world.oracle.tiering.rowsOf(stream)
    return rows.length === 0 ? null : this.#random.pick(rows)
  }
}
