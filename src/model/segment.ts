import { assert } from './assert.js'
import type { Dlsn } from './dlsn.js'

/**
 * States of a segment. `archived` is in both tiers, `cold` only in the archive. Copying, verifying and evicting
 * are steps of a job, not states.
 */
export type SegmentState = 'open' | 'recovering' | 'sealed' | 'archived' | 'cold' | 'trimmed' | 'gap'

/** Every transition there is. A state change is one compare-and-set with the expected state and version. */
export const SEGMENT_TRANSITIONS: Readonly<Record<SegmentState, readonly SegmentState[]>> = {
  // seal by the writer · a fencing second opener found it open
  open: ['sealed', 'recovering'],
  // recovery closed its ledger
  recovering: ['sealed'],
  // copied and read back · history ended before it was copied · declared lost
  sealed: ['archived', 'trimmed', 'gap'],
  // hot copy released · its object is gone and it is copied anew · history ended
  archived: ['cold', 'sealed', 'trimmed', 'gap'],
  // recalled for a time · history ended · the object is gone
  cold: ['archived', 'trimmed', 'gap'],
  trimmed: [],
  gap: ['trimmed'],
}

export function canTransition(from: SegmentState, to: SegmentState): boolean {
  return SEGMENT_TRANSITIONS[from].includes(to)
}

export function isClosed(state: SegmentState): boolean {
  return state !== 'open' && state !== 'recovering'
}

/** 128 random bits in lower-case hexadecimal (32 characters): names one life of a stream. */
export type Incarnation = string

/** Why a segment is not to be had: freed on purpose while the archive was down, damaged, or gone from its store. */
export type GapReason = 'dropped' | 'corrupt' | 'purged'

/** How the txids of a stream are to be understood. `ms`: milliseconds since the epoch, UTC. */
export type TxidMode = 'ms' | 'custom'

/** Where a stream came from. */
export interface StreamParent {
  readonly incarnation: Incarnation
  /** Where it leaves its parent. */
  readonly fork: Dlsn | null
  /** A clone: what lies in whole segments below the fork are the objects of its parent, shared with it. */
  readonly shares?: true
}

/** A stream as the index knows it. */
export interface StreamRow {
  readonly incarnation: Incarnation
  readonly name: string
  readonly txidMode: TxidMode
  readonly createdMs: number
  /** The incarnation this one was restored or cloned from, with the DLSN where it forks. */
  readonly parent: StreamParent | null
  /** Highest writer epoch ever given out. */
  readonly epoch: bigint
  /** Everything below is trimmed; null: nothing is. */
  readonly trimmedBelow: Dlsn | null
  /** When the stream was ended for ever; null: it was not. */
  readonly finishedMs: number | null
  /** Counts changes of this row; a compare-and-set names the version it saw. */
  readonly version: number
}

/** Where a segment's cold copy is. */
export interface ArchivedObject {
  readonly key: string
  readonly sizeBytes: number
  /** Bytes of the index at the end of the object, so that one request fetches it. */
  readonly indexBytes: number
}

/** A segment as the index knows it: what maps DLSN, txid and time ranges to tiers. */
export interface SegmentRow {
  readonly incarnation: Incarnation
  /** Log segment sequence number, from 1. */
  readonly segment: bigint
  readonly state: SegmentState
  /** Writer epoch that opened it. */
  readonly epoch: bigint
  /**
   * The hot copy; null when there is none. A `cold` or `trimmed` row with a ledger still owes its deletion, and so does
   * a `gap` that was `dropped`; that of another gap is kept for whoever may mend it.
   */
  readonly ledgerId: bigint | null
  readonly firstTxid: bigint
  /** sequenceId of the first record. */
  readonly startSequenceId: bigint
  readonly openedMs: number
  // Known once closed; before that −1, 0 or null.
  readonly lastTxid: bigint
  readonly lastEntryId: bigint
  /** Slot of the last user record, in entry `lastEntryId`. */
  readonly lastSlot: bigint
  readonly recordCount: bigint
  /** Sum of entry payload bytes: the ledger's length. */
  readonly lengthBytes: number
  readonly sealedMs: number | null
  /** SHA-256 over entry ids, lengths and payloads, lower-case hex; known once copied. */
  readonly contentDigest: string | null
  readonly object: ArchivedObject | null
  readonly archivedMs: number | null
  /** When the hot copy was given up. */
  readonly evictedMs: number | null
  /** Why it is a gap; absent for what is none, and for gaps of which nobody noted it: those count as `corrupt`. */
  readonly gapReason?: GapReason
  /**
   * Until when the hot copy stays because it was asked for (`recall`); null: policy alone decides. A `cold` row with
   * a ledger and this time is being recalled: its ledger is not whole yet.
   */
  readonly recalledUntilMs: number | null
  /** Counts changes of this row. */
  readonly version: number
}

/** What a row says of a segment whose end is not known, and which is in no archive. */
export const NOT_CLOSED: Pick<
  SegmentRow,
  | 'lastTxid'
  | 'lastEntryId'
  | 'lastSlot'
  | 'recordCount'
  | 'lengthBytes'
  | 'sealedMs'
  | 'contentDigest'
  | 'object'
  | 'archivedMs'
  | 'evictedMs'
  | 'recalledUntilMs'
  | 'version'
> = {
  lastTxid: -1n,
  lastEntryId: -1n,
  lastSlot: -1n,
  recordCount: 0n,
  lengthBytes: 0,
  sealedMs: null,
  contentDigest: null,
  object: null,
  archivedMs: null,
  evictedMs: null,
  recalledUntilMs: null,
  version: 0,
}

/** Asserts what must hold of any row; called by index engines before a row is written. */
export function checkSegmentRow(row: SegmentRow): void {
  const where = `segment ${row.segment} of ${row.incarnation}`
  assert(row.segment >= 1n, `${where}: sequence numbers start at 1`)
  if (isClosed(row.state)) {
    assert(row.sealedMs !== null, `${where} is ${row.state} without a completion time`)
    assert(row.lastTxid >= row.firstTxid || row.recordCount === 0n, `${where}: txids go back`)
  } else {
    assert(row.ledgerId !== null, `${where} is ${row.state} without a ledger`)
    assert(row.object === null, `${where} is ${row.state} and has an object`)
  }
  if (row.state === 'sealed') assert(row.ledgerId !== null, `${where} is sealed without a hot copy`)
  const gone = row.state === 'gap' || row.state === 'trimmed'
  assert(row.gapReason === undefined || gone, `${where} is ${row.state} and says why it is a gap`)
  // Invariant 4: a hot copy is given up only for a committed, verified object.
  if (row.state === 'archived' || row.state === 'cold') {
    assert(
      row.object !== null && row.archivedMs !== null,
      `${where} is ${row.state} without a verified object`,
    )
    assert(row.contentDigest !== null, `${where} is ${row.state} without a digest`)
  }
  if (row.state === 'archived') assert(row.ledgerId !== null, `${where} is archived without a hot copy`)
}

/** Whether readers may use the hot copy. */
export function isHot(row: SegmentRow): boolean {
  return row.ledgerId !== null && (row.state === 'sealed' || row.state === 'archived' || !isClosed(row.state))
}
