import type { ArchivedGap } from '../archive/decisions.js'
import { corrupt } from '../src/format/bytes.js'
import type { RestorableSegment, RestoreGap } from './restore-types.js'

/** More missing segments in one hole than this are no hole but a wrong number. */
const HOLE_MAX = 1_000_000n
/** Missing segments that are counted one by one. */
const MISSING_MAX = 1_000

/** A segment of which no object can be used. */
export interface MissingSegment {
  readonly segment: bigint
  readonly why: string
}

/**
 * What is not to be had of the segments from `first` on. A committed gap says so on purpose; whatever else the archive
 * should have and has not is missing. Only a trim says that the oldest segments are not there on purpose; without one
 * they are lost. `ended`: the first segment that is left out because the restore ends before it.
 */
export function gapsBetween(
  first: bigint,
  segments: readonly RestorableSegment[],
  ended: bigint | null,
  committed: readonly ArchivedGap[],
  unusable: readonly MissingSegment[],
  untilMs: number | null,
): { readonly gaps: RestoreGap[]; readonly missing: bigint[] } {
  const holes: { first: bigint; last: bigint }[] = []
  let expected = first
  const hole = (next: bigint) => {
    if (next - expected > HOLE_MAX)
      throw corrupt(
        `segments ${expected} to ${next - 1n} are nowhere: a number that high can't be right, restore from another copy of the archive`,
      )
    if (next > expected) holes.push({ first: expected, last: next - 1n })
    expected = next + 1n
  }
  for (const { parsed } of segments) hole(parsed.segment)
  // Behind the last segment nothing is missing, unless the archive knows that there was more.
  const behind = ended ?? lastKnown(committed, unusable, untilMs) + 1n
  if (behind > expected) hole(behind)
  const gaps: RestoreGap[] = []
  const missing: bigint[] = []
  for (const one of holes) {
    for (let segment = one.first; segment <= one.last; segment += 1n) {
      const gap = gapOf(segment, committed, unusable)
      if (!gap.committed && missing.length < MISSING_MAX) missing.push(segment)
      add(gaps, gap)
    }
  }
  return { gaps, missing }
}

/** Gaps that touch and have one reason are one: however they were committed, everybody counts them alike. */
export function add(gaps: RestoreGap[], gap: RestoreGap): void {
  const before = gaps.at(-1)
  if (before !== undefined && before.reason === gap.reason && before.last + 1n === gap.first)
    gaps[gaps.length - 1] = { ...before, last: gap.last, committed: before.committed && gap.committed }
  else gaps.push(gap)
}

/** The last segment that the archive knows of without having an object of it that could be used; 0n: none. */
export function lastKnown(
  committed: readonly ArchivedGap[],
  unusable: readonly MissingSegment[],
  untilMs: number | null,
): bigint {
  const known = [
    ...committed.filter(({ atMs }) => untilMs === null || atMs <= untilMs).map(({ last }) => last),
    ...unusable.map(({ segment }) => segment),
  ]
  return known.reduce((highest, one) => (one > highest ? one : highest), 0n)
}

function gapOf(
  segment: bigint,
  committed: readonly ArchivedGap[],
  unusable: readonly MissingSegment[],
): RestoreGap {
  const one = { first: segment, last: segment }
  // The newest of several counts, whatever they are called.
  const said = committed.findLast(({ first, last }) => first <= segment && segment <= last)
  if (said !== undefined)
    return {
      ...one,
      reason: said.reason,
      why: `a gap that the archive states (${said.reason})`,
      committed: true,
    }
  const why = unusable.find((other) => other.segment === segment)?.why ?? 'no object in the listing'
  return { ...one, reason: 'corrupt', why, committed: false }
}
