import { decodeHolds, encodeHolds } from '../../format/holds.js'
import { assert } from '../../model/assert.js'
import { StratalogError } from '../../model/errors.js'
import type { KeptHold, StreamHold } from '../../model/hold.js'
import type { Incarnation, SegmentRow, StreamRow } from '../../model/segment.js'
import { isClosed } from '../../model/segment.js'
import type { Logger } from '../../ports/logger.js'
import type {
  ExpectedSegment,
  NewStream,
  SegmentIndex,
  SegmentPatch,
  SegmentTotals,
  Watch,
} from '../../ports/segment-index.js'
import type { SqliteDatabase } from './database.js'
import { SegmentTable } from './segments.js'
import type { StreamPatch } from './streams.js'
import { StreamTable } from './streams.js'
import { SumsTable } from './sums.js'

/** The segment index in SQLite. Statements are prepared once; each change is one durable transaction. */
export class SqliteSegmentIndex implements SegmentIndex {
  readonly #database: SqliteDatabase
  readonly #streams: StreamTable
  readonly #segments: SegmentTable
  readonly #sums: SumsTable
  readonly #watchers: Watchers
  #closed = false

  constructor(database: SqliteDatabase, logger: Logger) {
    this.#database = database
    this.#sums = new SumsTable(database)
    this.#streams = new StreamTable(database, this.#sums)
    this.#segments = new SegmentTable(database, this.#sums)
    this.#watchers = new Watchers(logger)
  }

  async createStream(stream: NewStream): Promise<StreamRow> {
    return this.#change(stream.incarnation, 'create a stream', () => this.#streams.create(stream))
  }

  async streamByName(name: string): Promise<StreamRow | null> {
    return this.#look('look up a stream', () => this.#streams.byName(name))
  }

  async stream(incarnation: Incarnation): Promise<StreamRow | null> {
    return this.#look('look up a stream', () => this.#streams.byIncarnation(incarnation))
  }

  async listStreams(after: string, limit: number): Promise<StreamRow[]> {
    return this.#look('list streams', () => this.#streams.list(after, limit))
  }

  async updateStream(
    incarnation: Incarnation,
    expectedVersion: number,
    patch: StreamPatch,
  ): Promise<StreamRow> {
    return this.#change(incarnation, 'change a stream', () =>
      this.#streams.update(incarnation, expectedVersion, patch),
    )
  }

  async deleteStream(incarnation: Incarnation, expectedVersion: number, atMs: number): Promise<StreamRow> {
    return this.#change(incarnation, 'delete a stream', () => {
      const { epoch, finishedMs } = this.#streams.byIncarnation(incarnation) ?? {
        epoch: 0n,
        finishedMs: null,
      }
      const patch = { name: incarnation, epoch: epoch + 1n, finishedMs: finishedMs ?? atMs }
      const row = this.#streams.update(incarnation, expectedVersion, patch)
      this.#streams.setFact(`deleted/${incarnation}`, `${atMs}`)
      return row
    })
  }

  async removeStream(incarnation: Incarnation): Promise<void> {
    await this.#change(incarnation, 'remove a stream', () => {
      const id = this.#streams.findId(incarnation)
      if (id === null) return
      assert(this.#segments.list(id, 0n, 1).length === 0, `stream ${incarnation} is removed and has segments`)
      this.#streams.remove(id)
    })
  }

  async beginSegment(row: SegmentRow): Promise<SegmentRow> {
    assert(row.state === 'open', `segment ${row.segment} of ${row.incarnation} begins as ${row.state}`)
    return this.#change(row.incarnation, 'begin a segment', () => {
      const id = this.#streams.idOf(row.incarnation)
      const owner = this.#owner(row.incarnation)
      // A writer that was fenced holds an older epoch and must not start anything (invariant 3).
      if (row.epoch !== owner.epoch) {
        throw new StratalogError(
          'conflict',
          `stream ${owner.name} has epoch ${owner.epoch}, the segment ${row.epoch}: another writer took over`,
          {
            expected: owner.epoch.toString(),
            found: row.epoch.toString(),
          },
        )
      }
      return this.#segments.append(id, owner, row)
    })
  }

  async adoptSegment(row: SegmentRow): Promise<SegmentRow> {
    assert(isClosed(row.state), `segment ${row.segment} of ${row.incarnation} is adopted as ${row.state}`)
    return this.#change(row.incarnation, 'adopt a segment', () =>
      this.#segments.append(this.#streams.idOf(row.incarnation), this.#owner(row.incarnation), row),
    )
  }

  /** Adopts segments of one stream in order, all of them or none: a rebuild has a million. */
  async adoptSegments(rows: readonly SegmentRow[]): Promise<void> {
    const first = rows[0]
    if (first === undefined) return
    await this.#change(first.incarnation, 'adopt segments', () => {
      const id = this.#streams.idOf(first.incarnation)
      const owner = this.#owner(first.incarnation)
      for (const row of rows) {
        assert(row.incarnation === owner.incarnation, 'segments of one stream are adopted together')
        assert(isClosed(row.state), `segment ${row.segment} of ${row.incarnation} is adopted as ${row.state}`)
      }
      this.#segments.appendAll(id, owner, rows)
    })
  }

  async updateSegment(row: ExpectedSegment, patch: SegmentPatch): Promise<SegmentRow> {
    return this.#change(row.incarnation, 'change a segment', () =>
      this.#segments.update(this.#streams.idOf(row.incarnation), row, patch),
    )
  }

  async removeSegment(row: ExpectedSegment): Promise<void> {
    await this.#change(row.incarnation, 'remove a segment', () =>
      this.#segments.remove(this.#streams.idOf(row.incarnation), row),
    )
  }

  async segment(incarnation: Incarnation, segment: bigint): Promise<SegmentRow | null> {
    return this.#find(incarnation, null, (stream) => this.#segments.get(stream, segment))
  }

  async listSegments(incarnation: Incarnation, from: bigint, limit: number): Promise<SegmentRow[]> {
    return this.#find(incarnation, [], (stream) => this.#segments.list(stream, from, limit))
  }

  async listHotSegments(incarnation: Incarnation, limit: number): Promise<SegmentRow[]> {
    return this.#find(incarnation, [], (stream) => this.#segments.listHot(stream, limit))
  }

  async newestSegment(incarnation: Incarnation): Promise<SegmentRow | null> {
    return this.#find(incarnation, null, (stream) => this.#segments.newest(stream))
  }

  async oldestSegment(incarnation: Incarnation): Promise<SegmentRow | null> {
    return this.#find(incarnation, null, (stream) => this.#segments.oldest(stream))
  }

  async segmentForTxid(incarnation: Incarnation, txid: bigint): Promise<SegmentRow | null> {
    return this.#find(incarnation, null, (stream) => this.#segments.forTxid(stream, txid))
  }

  async segmentForSequenceId(incarnation: Incarnation, sequenceId: bigint): Promise<SegmentRow | null> {
    return this.#find(incarnation, null, (stream) => this.#segments.forSequenceId(stream, sequenceId))
  }

  async segmentForTime(incarnation: Incarnation, timeMs: number): Promise<SegmentRow | null> {
    return this.#find(incarnation, null, (stream) => this.#segments.forTime(stream, timeMs))
  }

  async segmentsInState(states: readonly SegmentRow['state'][], limit: number): Promise<SegmentRow[]> {
    return this.#look('look for segments', () => this.#segments.inState(states, limit))
  }

  async segmentsOwing(limit: number): Promise<SegmentRow[]> {
    return this.#look('look for segments', () => this.#segments.owing(limit))
  }

  async totals(incarnation: Incarnation): Promise<SegmentTotals> {
    return this.#look('sum up segments', () => {
      const { newestSegment: _, ...totals } = this.#sums.of(this.#streams.idOf(incarnation))
      return totals
    })
  }

  watch(incarnation: Incarnation, changed: () => void): Watch {
    this.#assertOpen()
    return this.#watchers.add(incarnation, changed)
  }

  async policyOverride(incarnation: Incarnation): Promise<string | null> {
    return this.#look('read a policy', () => this.#streams.policy(incarnation))
  }

  async setPolicyOverride(incarnation: Incarnation, policy: string | null): Promise<void> {
    await this.#change(incarnation, 'set a policy', () => this.#streams.setPolicy(incarnation, policy))
  }

  async holds(incarnation: Incarnation): Promise<readonly KeptHold[]> {
    return this.#look('read holds', () => this.#heldOn(incarnation))
  }

  async putHold(incarnation: Incarnation, hold: StreamHold): Promise<void> {
    await this.#changeHolds(incarnation, (kept) => [
      ...kept.filter(({ id }) => id !== hold.id),
      { ...hold, releasedMs: null },
    ])
  }

  async releaseHold(incarnation: Incarnation, id: string, releasedMs: number): Promise<void> {
    const released = (hold: KeptHold) =>
      hold.id === id && hold.releasedMs === null ? { ...hold, releasedMs } : hold
    await this.#changeHolds(incarnation, (kept) => kept.map(released))
  }

  async streamsOwingHolds(): Promise<readonly Incarnation[]> {
    return this.#look('read what holds owe', () => this.#owing())
  }

  async holdsTold(incarnation: Incarnation): Promise<void> {
    await this.#change(incarnation, 'change holds', () => {
      const standing = this.#heldOn(incarnation).filter(({ releasedMs }) => releasedMs === null)
      this.#streams.setFact(holdsFact(incarnation), encodeHolds(standing))
      this.#setOwing(this.#owing().filter((one) => one !== incarnation))
    })
  }

  #owing(): readonly Incarnation[] {
    return JSON.parse(this.#streams.fact(HOLDS_OWED_FACT) ?? '[]') as Incarnation[]
  }

  #setOwing(incarnations: readonly Incarnation[]): void {
    this.#streams.setFact(HOLDS_OWED_FACT, JSON.stringify(incarnations))
  }

  /** Nothing: the rows say it, and only what is made again from elsewhere needs to hear of it. */
  async recordRecall(): Promise<void> {}

  #heldOn(incarnation: Incarnation): readonly KeptHold[] {
    const text = this.#streams.fact(holdsFact(incarnation))
    return text === null ? [] : decodeHolds(text, incarnation)
  }

  async #changeHolds(
    incarnation: Incarnation,
    change: (kept: readonly KeptHold[]) => readonly KeptHold[],
  ): Promise<void> {
    await this.#change(incarnation, 'change holds', () => {
      this.#streams.idOf(incarnation)
      this.#streams.setFact(holdsFact(incarnation), encodeHolds(change(this.#heldOn(incarnation))))
      this.#setOwing([...new Set([...this.#owing(), incarnation])])
    })
  }

  async fact(name: string): Promise<string | null> {
    return this.#look('read a fact', () => this.#streams.fact(name))
  }

  async setFact(name: string, value: string): Promise<void> {
    this.#assertOpen()
    await this.#database.writeSoon('set a fact', () => this.#streams.setFact(name, value))
  }

  /** Ends all watches. The file is closed by who opened it. */
  async close(): Promise<void> {
    this.#closed = true
    this.#watchers.close()
  }

  #owner(incarnation: Incarnation): StreamRow {
    const owner = this.#streams.byIncarnation(incarnation)
    assert(owner !== null, `stream ${incarnation} went away within a transaction`)
    return owner
  }

  async #change<T>(incarnation: Incarnation, doing: string, body: () => T): Promise<T> {
    this.#assertOpen()
    const result = await this.#database.writeSoon(doing, body)
    // Only after the commit: who is told must find what changed.
    this.#watchers.changed(incarnation)
    return result
  }

  #look<T>(doing: string, body: () => T): T {
    this.#assertOpen()
    return this.#database.read(doing, body)
  }

  /** Runs a search in a stream; an unknown stream has no segments. */
  #find<T>(incarnation: Incarnation, nothing: T, search: (stream: bigint) => T): T {
    return this.#look('look for segments', () => {
      const stream = this.#streams.findId(incarnation)
      return stream === null ? nothing : search(stream)
    })
  }

  #assertOpen(): void {
    if (this.#closed) throw new StratalogError('closed', `the index ${this.#database.file} has been closed`)
  }
}

/** Streams whose holds the archive may not know of, as JSON. */
const HOLDS_OWED_FACT = 'holds-owed'

/** Holds are few and read whole, with the checksum of a fact. */
function holdsFact(incarnation: Incarnation): string {
  return `holds/${incarnation}`
}

interface Watcher {
  readonly changed: () => void
  pending: boolean
}

/** Who wants to know of which stream. Calls are made later, one for all changes up to then. */
class Watchers {
  readonly #logger: Logger
  readonly #of = new Map<Incarnation, Set<Watcher>>()

  constructor(logger: Logger) {
    this.#logger = logger
  }

  add(incarnation: Incarnation, changed: () => void): Watch {
    const watcher: Watcher = { changed, pending: false }
    const watchers = this.#of.get(incarnation) ?? new Set()
    watchers.add(watcher)
    this.#of.set(incarnation, watchers)
    const close = () => {
      watchers.delete(watcher)
      if (watchers.size === 0 && this.#of.get(incarnation) === watchers) this.#of.delete(incarnation)
    }
    return { close }
  }

  changed(incarnation: Incarnation): void {
    const watchers = this.#of.get(incarnation)
    if (watchers === undefined) return
    for (const watcher of watchers) {
      if (watcher.pending) continue
      watcher.pending = true
      queueMicrotask(() => this.#call(watchers, watcher))
    }
  }

  close(): void {
    for (const watchers of this.#of.values()) watchers.clear()
    this.#of.clear()
  }

  #call(watchers: ReadonlySet<Watcher>, watcher: Watcher): void {
    watcher.pending = false
    if (!watchers.has(watcher)) return
    try {
      watcher.changed()
    } catch (error) {
      // A listener's bug is its owner's, and no reason to keep the news from the others.
      this.#logger.error({ err: error }, 'a listener for changes of a stream threw')
    }
  }
}
