import { decodeSegmentKey } from '../../src/format/archive-names.js'
import type { Dlsn } from '../../src/model/dlsn.js'
import { isClosed, type SegmentRow, type StreamRow } from '../../src/model/segment.js'
import type { SegmentPatch } from '../../src/ports/segment-index.js'
import type { PutHold } from '../../tiering/hold-changes.js'
import { bindsRow } from '../../tiering/holds.js'
import type { SimDisk } from './disk.js'
import type { SimOptions } from './options.js'
import type { Scheduler } from './scheduler.js'
import type { Trace } from './trace.js'

/** Where the archive is on its disk. */
export const ARCHIVE_ROOT = '/archive'
/** How long after an archive failed somebody it may still be taken for down: probes come a minute apart at most. */
const DOWN_MS = 120_000
/** Clocks may be off by what the faults put on them. */
const SKEW_MS = 20_000
const EPOCH_MS = 1_700_000_000_000

interface StandingPromise {
  readonly hold: PutHold['hold']
  /** What had ended when it was put is not held. */
  readonly ended: Dlsn | null
}

/**
 * What tiering may do at this moment: what is held, what somebody asked to be trimmed, which rows there are. It sees
 * every change of a row and every object that is removed (invariants 3, 4, 6 and 8).
 */
export class TieringOracle {
  readonly #trace: Trace
  readonly #scheduler: Scheduler
  readonly #options: SimOptions
  /** By incarnation/segment. */
  readonly #rows = new Map<string, SegmentRow>()
  readonly #holds = new Map<string, Map<string, StandingPromise>>()
  readonly #asked = new Map<string, Dlsn>()
  readonly #below = new Map<string, Dlsn>()
  readonly #dropped = new Set<string>()
  /** When the archive last failed somebody. */
  archiveFailedMs: () => number = () => Number.NEGATIVE_INFINITY

  constructor(scheduler: Scheduler, trace: Trace, options: SimOptions) {
    this.#scheduler = scheduler
    this.#trace = trace
    this.#options = options
  }

  watch(disk: SimDisk): void {
    disk.onRemove = (path) => this.#objectRemoved(disk, path)
  }

  /** Rows of a stream as they are, oldest first. */
  rowsOf({ incarnation }: Pick<StreamRow, 'incarnation'>): SegmentRow[] {
    return [...this.#rows.values()]
      .filter((row) => row.incarnation === incarnation)
      .sort((a, b) => (a.segment < b.segment ? -1 : 1))
  }

  rowChanged(row: SegmentRow): void {
    this.#rows.set(keyOf(row), row)
  }

  rowRemoved(row: Pick<SegmentRow, 'incarnation' | 'segment'>): void {
    this.#rows.delete(keyOf(row))
  }

  /** The index was made again. */
  rowsReplaced(rows: readonly SegmentRow[]): void {
    this.#rows.clear()
    for (const row of rows) this.rowChanged(row)
  }

  streamTrimmed(incarnation: string, below: Dlsn): void {
    const known = this.#below.get(incarnation)
    if (known !== undefined && below.compare(known) < 0)
      this.#trace.violate(5, `the trim point went back from ${known} to ${below}`)
    this.#below.set(incarnation, below)
  }

  /** Below it history has ended, or is about to: what lay there may be appended again. */
  hasEnded(incarnation: string, dlsn: Dlsn): boolean {
    const below = this.#below.get(incarnation)
    return below !== undefined && dlsn.compare(below) < 0
  }

  isDropped(incarnation: string, segment: bigint): boolean {
    return this.#dropped.has(`${incarnation}/${segment}`)
  }

  /** Somebody was promised that what it binds stays. */
  holdPut({ incarnation }: StreamRow, { hold, trimmedBelow }: PutHold): void {
    const holds = this.#holds.get(incarnation) ?? new Map<string, StandingPromise>()
    holds.set(hold.id, { hold, ended: trimmedBelow })
    this.#holds.set(incarnation, holds)
  }

  /** From the moment in which its release is asked for nothing is promised any more. */
  holdReleasing({ incarnation }: StreamRow, id: string): void {
    this.#holds.get(incarnation)?.delete(id)
  }

  /** Somebody asked for the end of history there, and may be obeyed from now on. */
  trimAsked({ incarnation }: StreamRow, below: Dlsn): void {
    const before = this.#asked.get(incarnation)
    if (before === undefined || before.compare(below) < 0) this.#asked.set(incarnation, below)
  }

  /** Invariant 3 for agents: a copy is committed over a segment that waits for one, and over no other. */
  checkCommit(row: SegmentRow, patch: SegmentPatch): void {
    if (patch.state !== 'archived' || patch.object === undefined || row.state === 'sealed') return
    this.#trace.violate(3, `a copy of segment ${row.segment} is committed, which is ${row.state}`)
  }

  /** Invariants 1, 4 and 8: only what the policy gives up while the archive is down, and nobody holds. */
  checkGap(row: SegmentRow, patch: SegmentPatch): void {
    const { archiveDown } = this.#options
    const failedMs = this.#scheduler.nowMs - this.archiveFailedMs()
    if (archiveDown !== 'drop' || patch.gapReason !== 'dropped' || failedMs > DOWN_MS)
      this.#trace.violate(
        1,
        `segment ${row.segment} is given up (${patch.gapReason}), the policy says ${archiveDown}, ` +
          `the archive failed ${failedMs} ms ago`,
      )
    if (row.state !== 'sealed')
      this.#trace.violate(4, `segment ${row.segment} is dropped, which is ${row.state}`)
    this.#checkHeld(row, 'dropped')
    this.#dropped.add(keyOf(row))
    this.#trace.worked('segments dropped')
  }

  /** Invariant 8: nothing is trimmed that no policy and nobody asked for, nor what is held. */
  checkTrim(row: SegmentRow): void {
    this.#checkHeld(row, 'trimmed')
    const asked = this.#asked.get(row.incarnation)
    if (asked !== undefined && row.segment < asked.segment) return
    // The end of a segment may be the end of what was asked for.
    if (asked !== undefined && row.segment === asked.segment && asked.entry > row.lastEntryId) return
    const { keepForMs, keepMaxBytes, rollBytes } = this.#options
    const keptMs = this.#scheduler.nowMs + EPOCH_MS - (row.sealedMs ?? Number.POSITIVE_INFINITY)
    if (keepForMs !== null && keptMs >= keepForMs - SKEW_MS) return
    const newer = this.rowsOf(row).filter(({ segment }) => segment >= row.segment)
    const bytes = newer.reduce((sum, { lengthBytes }) => sum + lengthBytes, 0)
    // An open segment says nothing of its length, and entries are larger than their payloads.
    if (keepMaxBytes !== null && bytes + 3 * rollBytes + 8_192 > keepMaxBytes) return
    this.#trace.violate(
      8,
      `segment ${row.segment} is trimmed after ${keptMs} ms with ${bytes} bytes from it on, to keep: ` +
        `${keepForMs} ms, ${keepMaxBytes} bytes, asked: ${asked}`,
    )
  }

  #checkHeld(row: SegmentRow, what: string): void {
    const hold = this.#holdOn(row)
    if (hold !== null) this.#trace.violate(8, `segment ${row.segment} is ${what}, which ${hold} binds`)
  }

  #holdOn(row: SegmentRow): string | null {
    for (const { hold, ended } of this.#holds.get(row.incarnation)?.values() ?? []) {
      if (ended !== null && row.segment < ended.segment) continue
      if (bindsRow({ txidMode: 'ms' }, row, hold)) return hold.id
    }
    return null
  }

  /** Invariant 8: an object goes because its segment is trimmed, or another one has what it has. */
  #objectRemoved(disk: SimDisk, path: string): void {
    const parsed = path.startsWith(`${ARCHIVE_ROOT}/`)
      ? decodeSegmentKey(path.slice(ARCHIVE_ROOT.length + 1))
      : null
    if (parsed === null) return
    const { incarnation, segment } = parsed
    const row = this.#rows.get(`${incarnation}/${segment}`)
    const why = this.#whyRemoved(disk, path, incarnation, segment, row)
    if (why !== null)
      this.#trace.violate(8, `the object ${path.slice(-40)} of segment ${segment} is deleted ${why}`)
  }

  #whyRemoved(
    disk: SimDisk,
    path: string,
    incarnation: string,
    segment: bigint,
    row: SegmentRow | undefined,
  ): string | null {
    if (row === undefined) {
      const below = this.#below.get(incarnation)
      return below !== undefined && segment < below.segment ? null : 'and nothing says that it is trimmed'
    }
    if (row.state === 'trimmed') {
      const hold = this.#holdOn(row)
      return hold === null ? null : `and ${hold} binds it`
    }
    if (row.state !== 'archived' && row.state !== 'cold') return `and the segment is ${row.state}`
    const committed = `${ARCHIVE_ROOT}/${row.object?.key}`
    if (committed === path) return `and the segment is ${row.state} with it`
    return disk.platter.durableBytes(committed) === null ? 'and the committed one is not there' : null
  }
}

/** Whether a row is one that has records which are to be had. */
export function isKept(row: SegmentRow): boolean {
  return isClosed(row.state) && row.state !== 'trimmed' && row.state !== 'gap'
}

function keyOf({ incarnation, segment }: Pick<SegmentRow, 'incarnation' | 'segment'>): string {
  return `${incarnation}/${segment}`
}
