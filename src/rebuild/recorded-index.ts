import type { DecidedRecall, DecidedTrim, Decision } from '../format/control-frame.js'
import { present } from '../model/assert.js'
import type { Dlsn } from '../model/dlsn.js'
import { isStratalogError } from '../model/errors.js'
import type { KeptHold, StreamHold } from '../model/hold.js'
import type { Incarnation, SegmentRow, StreamRow } from '../model/segment.js'
import { canTransition, isClosed } from '../model/segment.js'
import type { Clock } from '../ports/clock.js'
import type {
  AdoptedGap,
  ExpectedSegment,
  NewStream,
  SegmentIndex,
  SegmentPatch,
  SegmentTotals,
  Watch,
} from '../ports/segment-index.js'
import type { DecidedState, DecisionWriter } from './decisions.js'

/** Named facts of the log that its safety hangs on; the others can be found out again. */
export const RECORDED_FACTS: readonly string[] = [
  'archive-owner',
  'archive-taken-over',
  'tier-orders',
  'clone-pins',
  'archive-moves',
  'own-archives',
]
/** Beginnings of names of such facts: which archive a stream lies in, and whose that is (decision 0030). */
const RECORDED_PREFIXES: readonly string[] = ['archive-of/', 'archive-owner/']

function isRecorded(name: string): boolean {
  return RECORDED_FACTS.includes(name) || RECORDED_PREFIXES.some((prefix) => name.startsWith(prefix))
}

/** The fact that is the sequence of the newest decision this index knows of. */
export const SEQUENCE_FACT = 'decision-sequence'
/** The fact that is the sequence of the newest mark this index knows of. */
export const MARK_FACT = 'mark-sequence'

export interface RecordedIndexOptions {
  readonly index: SegmentIndex
  readonly decisions: DecisionWriter
  readonly clock: Clock
  /** What the stores held when the log was opened. */
  readonly decided: DecidedState
}

/**
 * A segment index whose decisions can be found again (DESIGN.md §7): what no ledger and no object states is on the
 * stores before the index has it. Order: decision, index, then the index's note of the sequence. A crash after the
 * decision leaves one the index does not know; the next start brings it forward, and doing that twice changes nothing.
 * Segments need no decisions: their ledgers and objects tell of them. Epochs neither: a rebuilt index goes above the
 * highest it finds.
 */
export class RecordedIndex implements SegmentIndex {
  readonly #index: SegmentIndex
  readonly #decisions: DecisionWriter
  readonly #clock: Clock
  /** Decisions under way, and the highest that was written. */
  #underWay = 0
  #noted: bigint
  #highest: bigint
  /** Dropped segments whose rows the index failed to take, by `keyOf`. */
  readonly #undone = new Map<string, SegmentPatch>()
  /** One at a time is given each name: a decision must not be written for the one that comes second. */
  readonly #creating = new Map<string, Promise<unknown>>()
  #markMs: number
  #marking: Promise<void> | null = null

  constructor(options: RecordedIndexOptions) {
    this.#index = options.index
    this.#decisions = options.decisions
    this.#clock = options.clock
    this.#noted = options.decided.sequence
    this.#highest = options.decided.sequence
    this.#markMs = options.decided.mark?.atMs ?? Number.NEGATIVE_INFINITY
  }

  createStream(stream: NewStream): Promise<StreamRow> {
    return this.#naming(stream.name, () => this.#createStream(stream))
  }

  /** One after another of all that want one name. */
  #naming(name: string, give: () => Promise<StreamRow>): Promise<StreamRow> {
    const before = this.#creating.get(name) ?? Promise.resolve()
    const given = before.then(give, give)
    this.#creating.set(name, given)
    const forget = () => {
      if (this.#creating.get(name) === given) this.#creating.delete(name)
    }
    given.then(forget, forget)
    return given
  }

  async #createStream(stream: NewStream): Promise<StreamRow> {
    // Refused before anything is decided: it would come back as a stream of its own from a rebuild.
    const taken = await this.#index.streamByName(stream.name)
    if (taken !== null) return this.#index.createStream(stream)
    const { incarnation, name, txidMode, createdMs, parent } = stream
    const decision = { kind: 'stream', stream: { incarnation, name, txidMode, createdMs, parent } } as const
    return this.#decided(decision, () => this.#index.createStream(stream))
  }

  async updateStream(
    incarnation: Incarnation,
    expectedVersion: number,
    patch: Partial<Pick<StreamRow, 'name' | 'epoch' | 'trimmedBelow' | 'finishedMs'>>,
  ): Promise<StreamRow> {
    const change = () => this.#index.updateStream(incarnation, expectedVersion, patch)
    const { trimmedBelow: below = null, finishedMs = null, name } = patch
    if (name !== undefined)
      return this.#naming(name, () => this.#renameStream(incarnation, expectedVersion, name))
    if (below === null && finishedMs === null) return change()
    // One that the index is going to refuse is not decided.
    if ((await this.#index.stream(incarnation))?.version !== expectedVersion) return change()
    const finish = () =>
      finishedMs === null ? change() : this.#decided({ kind: 'finish', incarnation, finishedMs }, change)
    if (below === null) return finish()
    const tail = await this.trimTail(incarnation, below)
    return this.#decided({ kind: 'trim', incarnation, below, tail }, finish)
  }

  /** The newest frame of a stream says what it is called. */
  async #renameStream(incarnation: Incarnation, expectedVersion: number, name: string): Promise<StreamRow> {
    const change = () => this.#index.updateStream(incarnation, expectedVersion, { name })
    const row = await this.#index.stream(incarnation)
    const taken = await this.#index.streamByName(name)
    // One that the index is going to refuse is not decided: a rebuild would find two streams of one name.
    if (row?.version !== expectedVersion || (taken !== null && taken.incarnation !== incarnation))
      return change()
    const { txidMode, createdMs, parent } = row
    return this.#decided(
      { kind: 'stream', stream: { incarnation, name, txidMode, createdMs, parent } },
      change,
    )
  }

  async deleteStream(incarnation: Incarnation, expectedVersion: number, atMs: number): Promise<StreamRow> {
    const change = () => this.#index.deleteStream(incarnation, expectedVersion, atMs)
    if ((await this.#index.stream(incarnation))?.version !== expectedVersion) return change()
    return this.#decided({ kind: 'delete', incarnation, atMs }, change)
  }

  /** What the last segment below a trim leaves to go on from: its row goes away with it. */
  async trimTail(incarnation: Incarnation, below: Dlsn): Promise<DecidedTrim['tail']> {
    const row = await this.#index.segment(incarnation, below.segment - 1n)
    if (row === null || !isClosed(row.state)) return null
    return { nextSequenceId: row.startSequenceId + row.recordCount, lastTxid: row.lastTxid }
  }

  async updateSegment(row: ExpectedSegment, patch: SegmentPatch): Promise<SegmentRow> {
    // Its version is another one then, and whoever took it for what it was before is told so.
    await this.#bringForward(row.incarnation, row.segment)
    const dropped = patch.state === 'gap' && patch.gapReason === 'dropped'
    // From here on a copy may be deleted: an index that is put back later must not look as if it were the newest.
    if (patch.state === 'cold' || patch.state === 'trimmed' || dropped) await this.#markBefore(row)
    const change = () => this.#index.updateSegment(row, patch)
    if (patch.state !== 'gap') return change()
    const before = await this.#index.segment(row.incarnation, row.segment)
    // One that the index is going to refuse is not decided: a dropped segment stays a gap, whatever is found of it.
    if (before?.version !== row.version || !canTransition(before.state, 'gap')) return change()
    return this.#decided(gapOf({ ...before, ...patch }), async () => {
      try {
        return await change()
      } catch (error) {
        if (dropped && !isStratalogError(error, 'conflict')) this.#undone.set(keyOf(row), patch)
        throw error
      }
    })
  }

  /**
   * A segment that is decided to be dropped and that the index failed to take for it is a gap after the next start
   * (`catchUp`). Nobody is to copy it until then, as if it stayed: the archive would be left with an object of a gap.
   * So it becomes a gap before anything else is done with it, or nothing is. Rejects while the index takes no change.
   */
  async #bringForward(incarnation: Incarnation, segment: bigint): Promise<void> {
    if (this.#undone.size === 0) return
    const key = keyOf({ incarnation, segment })
    const patch = this.#undone.get(key)
    if (patch === undefined) return
    const row = await this.#index.segment(incarnation, segment)
    if (row?.state === 'sealed') await this.#index.updateSegment(row, patch)
    this.#undone.delete(key)
    await this.#note()
  }

  /**
   * One mark covers everything sealed before it. An index from before the mark does not know of it; in one from after
   * it the segment is closed, so that its missing ledger tells.
   */
  async #markBefore(row: Pick<SegmentRow, 'incarnation' | 'segment'>): Promise<void> {
    const sealedMs = (await this.#index.segment(row.incarnation, row.segment))?.sealedMs ?? null
    const covered = () => sealedMs !== null && sealedMs < this.#markMs
    while (!covered()) {
      if (this.#marking === null) {
        this.#marking = this.#mark().finally(() => {
          this.#marking = null
        })
        await this.#marking
        return
      }
      await this.#marking
    }
  }

  /**
   * Here the index comes first: one that does not know of a mark on the stores was then surely made before it, and no
   * crash makes the newest look like that. In one that knows of it everything the mark covers is closed.
   */
  async #mark(): Promise<void> {
    const atMs = this.#clock.nowMs()
    const sequence = this.#decisions.nextSequence()
    await this.#index.setFact(MARK_FACT, sequence.toString())
    await this.#decisions.write({ kind: 'mark', atMs }, sequence)
    this.#markMs = atMs
  }

  async setPolicyOverride(incarnation: Incarnation, policy: string | null): Promise<void> {
    return this.#decided({ kind: 'policy', incarnation, policy }, () =>
      this.#index.setPolicyOverride(incarnation, policy),
    )
  }

  async putHold(incarnation: Incarnation, hold: StreamHold): Promise<void> {
    return this.#decided({ kind: 'hold', incarnation, hold }, () => this.#index.putHold(incarnation, hold))
  }

  async releaseHold(incarnation: Incarnation, id: string, atMs: number): Promise<void> {
    const standing = (await this.#index.holds(incarnation)).some(
      (hold) => hold.id === id && hold.releasedMs === null,
    )
    if (!standing) return
    return this.#decided({ kind: 'release', incarnation, id, atMs }, () =>
      this.#index.releaseHold(incarnation, id, atMs),
    )
  }

  async recordRecall(incarnation: Incarnation, range: DecidedRecall): Promise<void> {
    return this.#decided({ kind: 'recall', incarnation, ...range }, () => Promise.resolve())
  }

  async setFact(name: string, value: string): Promise<void> {
    const set = () => this.#index.setFact(name, value)
    if (!isRecorded(name) || (await this.#index.fact(name)) === value) return set()
    return this.#decided({ kind: 'fact', name, value }, set)
  }

  /** Writes down a decision, then lets the index have it. */
  async #decided<T>(decision: Decision, change: () => Promise<T>): Promise<T> {
    this.#underWay += 1
    try {
      const sequence = await this.#decisions.write(decision)
      if (sequence > this.#highest) this.#highest = sequence
      return await change()
    } finally {
      this.#underWay -= 1
      await this.#note()
    }
  }

  /** Only when nothing is under way: a note must not lie above a decision that a crash could still keep out. */
  async #note(): Promise<void> {
    if (this.#underWay > 0 || this.#undone.size > 0 || this.#highest <= this.#noted) return
    this.#noted = this.#highest
    await this.#index.setFact(SEQUENCE_FACT, this.#noted.toString())
  }

  // Everything else is the index's own.

  streamByName(name: string): Promise<StreamRow | null> {
    return this.#index.streamByName(name)
  }

  stream(incarnation: Incarnation): Promise<StreamRow | null> {
    return this.#index.stream(incarnation)
  }

  listStreams(after: string, limit: number): Promise<StreamRow[]> {
    return this.#index.listStreams(after, limit)
  }

  removeStream(incarnation: Incarnation): Promise<void> {
    return this.#index.removeStream(incarnation)
  }

  beginSegment(row: SegmentRow): Promise<SegmentRow> {
    return this.#index.beginSegment(row)
  }

  /** What the stores and the archive have nothing of is a decision: a rebuild would take it for a loss. */
  adoptSegment(row: SegmentRow, gap: AdoptedGap | null = null): Promise<SegmentRow> {
    const adopt = () => this.#index.adoptSegment(row, gap)
    if (gap === null) return adopt()
    const { incarnation, segment: first } = row
    return this.#decided({ kind: 'gap', incarnation, first, ...gap }, adopt)
  }

  removeSegment(row: ExpectedSegment): Promise<void> {
    return this.#index.removeSegment(row)
  }

  async segment(incarnation: Incarnation, segment: bigint): Promise<SegmentRow | null> {
    await this.#bringForward(incarnation, segment)
    return this.#index.segment(incarnation, segment)
  }

  listSegments(incarnation: Incarnation, from: bigint, limit: number): Promise<SegmentRow[]> {
    return this.#index.listSegments(incarnation, from, limit)
  }

  listHotSegments(incarnation: Incarnation, limit: number): Promise<SegmentRow[]> {
    return this.#index.listHotSegments(incarnation, limit)
  }

  newestSegment(incarnation: Incarnation): Promise<SegmentRow | null> {
    return this.#index.newestSegment(incarnation)
  }

  oldestSegment(incarnation: Incarnation): Promise<SegmentRow | null> {
    return this.#index.oldestSegment(incarnation)
  }

  segmentForTxid(incarnation: Incarnation, txid: bigint): Promise<SegmentRow | null> {
    return this.#index.segmentForTxid(incarnation, txid)
  }

  segmentForSequenceId(incarnation: Incarnation, sequenceId: bigint): Promise<SegmentRow | null> {
    return this.#index.segmentForSequenceId(incarnation, sequenceId)
  }

  segmentForTime(incarnation: Incarnation, timeMs: number): Promise<SegmentRow | null> {
    return this.#index.segmentForTime(incarnation, timeMs)
  }

  segmentsInState(states: readonly SegmentRow['state'][], limit: number): Promise<SegmentRow[]> {
    return this.#index.segmentsInState(states, limit)
  }

  segmentsOwing(limit: number): Promise<SegmentRow[]> {
    return this.#index.segmentsOwing(limit)
  }

  totals(incarnation: Incarnation): Promise<SegmentTotals> {
    return this.#index.totals(incarnation)
  }

  watch(incarnation: Incarnation, changed: () => void): Watch {
    return this.#index.watch(incarnation, changed)
  }

  policyOverride(incarnation: Incarnation): Promise<string | null> {
    return this.#index.policyOverride(incarnation)
  }

  holds(incarnation: Incarnation): Promise<readonly KeptHold[]> {
    return this.#index.holds(incarnation)
  }

  streamsOwingHolds(): Promise<readonly Incarnation[]> {
    return this.#index.streamsOwingHolds()
  }

  holdsTold(incarnation: Incarnation): Promise<void> {
    return this.#index.holdsTold(incarnation)
  }

  fact(name: string): Promise<string | null> {
    return this.#index.fact(name)
  }

  close(): Promise<void> {
    return this.#index.close()
  }
}

function keyOf({ incarnation, segment }: Pick<SegmentRow, 'incarnation' | 'segment'>): string {
  return `${incarnation} ${segment}`
}

/** A segment that is given up, as a decision, with what it leaves to go on from. */
export function gapOf(row: SegmentRow): Decision {
  const { incarnation, segment, gapReason: reason = 'corrupt' } = row
  const tail = { nextSequenceId: row.startSequenceId + row.recordCount, lastTxid: row.lastTxid }
  return { kind: 'gap', incarnation, first: segment, last: segment, reason, tail }
}

/** A stream's trim as a decision, with what its last row leaves; for indexes from before there were decisions. */
export async function trimOf(index: RecordedIndex, stream: StreamRow): Promise<Decision> {
  const below = present(stream.trimmedBelow, 'trim point')
  const { incarnation } = stream
  return { kind: 'trim', incarnation, below, tail: await index.trimTail(incarnation, below) }
}
