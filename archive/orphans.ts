import type { Dlsn } from '../src/model/dlsn.js'
import type { SegmentRow, StreamRow, TxidMode } from '../src/model/segment.js'
import { binds, type Hold } from './decisions.js'
import type { ListedSegment } from './listing.js'
import { isComparable } from './rivals.js'

/** Why an object can be deleted. */
export type DeadReason =
  /** The committed object of its segment has the same content. */
  | 'twin'
  /** An attempt at a committed segment whose bytes are not what its name says. */
  | 'unfinished'
  /** Its segment lies below the trim. */
  | 'trimmed'
  /** Its stream was deleted. */
  | 'deleted'

/** Why an object that no row names is kept all the same. */
export type KeptReason =
  | 'held'
  | 'unknown-stream'
  | 'no-row'
  | 'not-copied-yet'
  | 'conflict'
  | 'gap'
  | 'owed'
  | 'unproven'

/** What has to be proven before an object that counts as dead may go. */
export type Proof =
  /** The committed object reads back whole. */
  | 'committed-is-whole'
  /** This one does not. */
  | 'this-is-broken'
  /** Their names can't be compared: this one is broken, or both are whole and hold one content. */
  | 'same-or-broken'

/** What is to become of an object. */
export type Verdict =
  | { readonly fate: 'committed' }
  | { readonly fate: 'kept'; readonly reason: KeptReason; readonly why: string }
  /** Once `needs` is proven. */
  | {
      readonly fate: 'dead'
      readonly reason: DeadReason
      readonly why: string
      readonly needs: Proof | null
    }

/** What decides about the objects of one segment, as index and archive say it at this moment. */
export interface SegmentFacts {
  /** Null: the index does not know the stream. */
  readonly stream: StreamRow | null
  readonly row: SegmentRow | null
  /** The largest trim the archive has; null: none. */
  readonly trim: Dlsn | null
  /** Whether the archive says that the stream was deleted on purpose. */
  readonly deleted: boolean
  /** Holds and pins that stand, those of other logs and of clones too. */
  readonly holds: readonly Hold[]
  /** Null: not known; then holds by time are understood in the way that binds more. */
  readonly txidMode: TxidMode | null
}

/**
 * What is to become of one object. Pure, and on the side of keeping: only what is superseded by something that can be
 * pointed at is dead. That the index does not know a stream or a segment says nothing (invariant 8).
 */
export function judge(object: ListedSegment, facts: SegmentFacts): Verdict {
  const { row, stream, deleted } = facts
  if (row?.object?.key === object.key && row.state !== 'trimmed') return { fate: 'committed' }
  const hold = holdOn(object, facts)
  if (hold !== null) return kept('held', `${hold.kind} ${hold.id} stands over it`)
  if (deleted && (stream === null || row === null || row.state === 'trimmed')) {
    return dead('deleted', 'its stream was deleted', null)
  }
  if (stream === null) return kept('unknown-stream', 'the index does not know its stream')
  if (row?.object?.key === object.key) return kept('owed', 'the agent deletes it with its segment')
  if (row === null || row.state === 'trimmed') return belowTrim(object, facts)
  if (row.state === 'gap') return kept('gap', 'its segment is a gap; it may be what is left of it')
  if (row.state !== 'archived' && row.state !== 'cold') {
    return kept('not-copied-yet', 'the next copy of its segment may take it')
  }
  return besideCommitted(object, row)
}

/** Both have to say so: a marker without the index may be from a log that was restored, an index alone be ahead. */
function belowTrim({ parsed }: ListedSegment, { stream, trim, row }: SegmentFacts): Verdict {
  const marked = trim !== null && parsed.segment < trim.segment
  const trimmed =
    (stream?.trimmedBelow ?? null) !== null && parsed.segment < (stream?.trimmedBelow?.segment ?? 0n)
  if (marked && trimmed) return dead('trimmed', `below the trim at ${trim}`, null)
  if (row !== null) return kept('unproven', 'its segment is trimmed in the index and not in the archive')
  return kept('no-row', 'the index has no such segment')
}

function besideCommitted(object: ListedSegment, row: SegmentRow): Verdict {
  const { parsed } = object
  // What was there before a stream was encrypted, or what its reencryption left: names with digests under other keys.
  if (!isComparable(row, object)) {
    return dead('twin', `an attempt under another key than ${row.object?.key ?? ''}`, 'same-or-broken')
  }
  if (parsed.contentDigest === row.contentDigest) {
    return dead('twin', `a twin of ${row.object?.key ?? ''}`, 'committed-is-whole')
  }
  // A content of its own that reads back whole is a conflict, and an operator's to decide (archive resolve).
  return dead('unfinished', 'another content than the committed one', 'this-is-broken')
}

function holdOn({ parsed }: ListedSegment, { holds, txidMode }: SegmentFacts): Hold | null {
  const segment = {
    segment: parsed.segment,
    firstTxid: parsed.firstTxid,
    lastTxid: parsed.lastTxid,
    // Names don't say it, and what is not known binds.
    openedMs: null,
    sealedMs: parsed.completionMs,
  }
  const modes: readonly TxidMode[] = txidMode === null ? ['ms', 'custom'] : [txidMode]
  return holds.find((hold) => modes.some((mode) => binds(hold, segment, mode))) ?? null
}

function kept(reason: KeptReason, why: string): Verdict {
  return { fate: 'kept', reason, why }
}

function dead(reason: DeadReason, why: string, needs: Proof | null): Verdict {
  return { fate: 'dead', reason, why, needs }
}
