import { attemptsOfSegment } from '../archive/attempts.js'
import { ownerOf, trimmedBelow } from '../archive/control-objects.js'
import { endOf, gapsOf } from '../archive/decisions.js'
import { type ChosenSegment, chooseSegments, segmentRowFromKey } from '../archive/listing.js'
import { listHistory } from '../archive/shared.js'
import { Dlsn } from '../src/model/dlsn.js'
import type { Incarnation, SegmentRow, StreamRow } from '../src/model/segment.js'
import type { ArchiveStore } from '../src/ports/archive-store.js'
import type { Clock } from '../src/ports/clock.js'
import type { Logger } from '../src/ports/logger.js'
import type { SegmentIndex } from '../src/ports/segment-index.js'
import { PassLoop } from './pass-loop.js'
import { type RestoredEnd, restoredGapRow } from './restore-copy.js'
import { currentLives, type Life } from './restore-plan.js'

/** How soon the archive is looked at again, and how much longer than one look took: a large archive is asked less often. */
const REFRESH_MS = 2_000
const REFRESH_TIMES = 10
const ROWS_AT_ONCE = 1_000

/** What looking at an archive needs. The index is the view's own: nobody else writes to it. */
export interface AttachContext {
  readonly archive: () => Promise<ArchiveStore>
  readonly index: SegmentIndex
  readonly adoptSegments: (rows: readonly SegmentRow[]) => Promise<void>
  readonly clock: Clock
  readonly logger: Logger
}

/** What a look found. */
export interface AttachReport {
  readonly streams: number
  /** Segments that were not there before. */
  readonly added: number
  readonly failed: readonly unknown[]
  readonly nextDueMs: number | null
}

/**
 * An archive as somebody sees it who does not own it: streams and cold segments from its names and control objects,
 * looked at again and again from the last name on. Writes nothing to the archive. What it keeps is a cache: thrown
 * away, it is made again.
 */
export class AttachedView {
  readonly #context: AttachContext
  readonly #loop: PassLoop<AttachReport>
  #movedTo: string | null = null

  constructor(context: AttachContext) {
    this.#context = context
    this.#loop = new PassLoop(context.clock, context.logger, (signal) => this.#refresh(signal))
  }

  /** Looks for what was archived since. Rejects with what the archive does; what is known stays. */
  refresh(signal?: AbortSignal): Promise<AttachReport> {
    return this.#loop.once(signal)
  }

  /** Follows the archive's growth until `close`. */
  follow(): void {
    this.#loop.follow()
  }

  close(): Promise<void> {
    return this.#loop.close()
  }

  async #refresh(signal: AbortSignal): Promise<AttachReport> {
    const { clock } = this.#context
    const startedMs = clock.monotonicMs()
    const archive = await this.#context.archive()
    await this.#tellMoved(archive, signal)
    const { lives, deleted } = await currentLives(archive, signal)
    for (const { incarnation } of deleted) {
      const row = await this.#context.index.stream(incarnation)
      if (row !== null) await this.#trim(row, await this.#allOf(row))
    }
    const rows = await this.#name(lives)
    let added = 0
    for (const [at, life] of lives.entries()) {
      const row = rows[at]
      if (row !== undefined) added += await this.#stream(archive, life, row, signal)
    }
    const tookMs = clock.monotonicMs() - startedMs
    const nextDueMs = clock.nowMs() + Math.max(REFRESH_MS, tookMs * REFRESH_TIMES)
    return { streams: lives.length, added, failed: [], nextDueMs }
  }

  /** What is here is still read, and nothing comes any more: somebody has to attach the new place. */
  async #tellMoved(archive: ArchiveStore, signal: AbortSignal): Promise<void> {
    const mark = (await ownerOf(archive, signal))?.mark ?? null
    if (mark === null || mark.kind !== 'moved' || mark.location === this.#movedTo) return
    this.#movedTo = mark.location
    this.#context.logger.warn(
      { from: archive.location, to: mark.location },
      'the archive that is attached moved: what was archived before is read here, attach the new place for what comes',
    )
  }

  /** Streams under the names they have now; one whose name is another's by now stays to be read under a longer one. */
  async #name(lives: readonly Life[]): Promise<StreamRow[]> {
    const { index } = this.#context
    const rows: StreamRow[] = []
    for (const { incarnation, binding } of lives) {
      const { name, txidMode, createdMs, parent } = binding
      const there = await index.stream(incarnation)
      if (there?.name !== name) {
        const holder = await index.streamByName(name)
        if (holder !== null)
          await index.updateStream(holder.incarnation, holder.version, {
            name: `${name.slice(0, 200)}~${holder.incarnation}`,
          })
      }
      if (there === null)
        rows.push(await index.createStream({ incarnation, name, txidMode, createdMs, parent }))
      else if (there.name === name) rows.push(there)
      else rows.push(await index.updateStream(incarnation, there.version, { name }))
    }
    return rows
  }

  async #stream(archive: ArchiveStore, life: Life, row: StreamRow, signal: AbortSignal): Promise<number> {
    const { controls, incarnation } = life
    const { index } = this.#context
    const stream = await this.#trim(row, trimmedBelow(controls))
    const newest = await index.newestSegment(incarnation)
    const first = newest === null ? (stream.trimmedBelow?.segment ?? 1n) : newest.segment + 1n
    let end: RestoredEnd | null = newest === null ? null : endOfRow(newest)
    let rows: SegmentRow[] = []
    let expected = first
    let added = 0
    const purged = gapsOf(controls).filter(({ reason }) => reason === 'purged')
    const isPurged = (segment: bigint) => purged.some((one) => one.first <= segment && segment <= one.last)
    let unusable: bigint | null = null
    const listed = listHistory(archive, { incarnation, parent: life.binding.parent }, { from: first, signal })
    for await (const choice of chooseSegments(listed)) {
      const found = isPurged(choice.segment) ? null : chosenRow(incarnation, choice)
      if (found === null) unusable ??= choice.segment
      if (found === null) continue
      if (expected < found.segment && unusable !== expected) {
        // It may have been stored behind where the listing was, and the one after it before: the next look has both.
        const { attempts } = await attemptsOfSegment(archive, incarnation, expected, signal)
        if (attempts.length > 0) break
      }
      unusable = null
      // An archive is filled in order: what is left out before the next one is not to come any more.
      for (; expected < found.segment; expected += 1n) {
        const before = end ?? { nextSequenceId: 0n, lastTxid: -1n, sealedMs: stream.createdMs }
        const below = stream.trimmedBelow !== null && expected < stream.trimmedBelow.segment
        const gap = {
          ...restoredGapRow(stream, expected, before, found.startSequenceId),
          state: below ? ('trimmed' as const) : ('gap' as const),
        }
        rows.push(gap)
        end = endOfRow(gap)
      }
      rows.push(found)
      end = endOfRow(found)
      expected = found.segment + 1n
      added += 1
      if (rows.length < ROWS_AT_ONCE) continue
      await this.#context.adoptSegments(rows)
      rows = []
    }
    await this.#context.adoptSegments(rows)
    await this.#finish(life, end)
    return added
  }

  /** Only once its last record is here: else a follower would end before it. */
  async #finish({ incarnation, controls }: Life, end: RestoredEnd | null): Promise<void> {
    const { index } = this.#context
    const said = endOf(controls)
    const row = await index.stream(incarnation)
    if (said === null || row === null || row.finishedMs !== null) return
    if ((end?.nextSequenceId ?? 0n) < said.nextSequenceId) return
    await index.updateStream(incarnation, row.version, { finishedMs: said.atMs })
  }

  async #allOf({ incarnation }: StreamRow): Promise<Dlsn | null> {
    const newest = await this.#context.index.newestSegment(incarnation)
    return newest === null ? null : new Dlsn(newest.segment + 1n, 0n, 0n)
  }

  async #trim(row: StreamRow, below: Dlsn | null): Promise<StreamRow> {
    const { index } = this.#context
    if (below === null || (row.trimmedBelow !== null && row.trimmedBelow.compare(below) >= 0)) return row
    const trimmed = await index.updateStream(row.incarnation, row.version, { trimmedBelow: below })
    for (;;) {
      const oldest = await index.oldestSegment(row.incarnation)
      if (oldest === null || oldest.segment >= below.segment) return trimmed
      const gone = await index.updateSegment(oldest, { state: 'trimmed', object: null })
      // Numbers go on from the newest row, so that one stays.
      const newest = await index.newestSegment(row.incarnation)
      if (newest !== null && gone.segment < newest.segment) await index.removeSegment(gone)
    }
  }
}

/** Of what a clone shares the name is another stream's. */
function chosenRow(incarnation: Incarnation, choice: ChosenSegment): SegmentRow | null {
  return choice.kind === 'chosen' ? { ...segmentRowFromKey(choice.chosen), incarnation } : null
}

function endOfRow(row: SegmentRow): RestoredEnd {
  return {
    nextSequenceId: row.startSequenceId + row.recordCount,
    lastTxid: row.lastTxid,
    sealedMs: row.sealedMs ?? row.openedMs,
  }
}
