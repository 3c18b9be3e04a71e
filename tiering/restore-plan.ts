import {
  bindingAt,
  type ControlObject,
  type DatedBinding,
  ownerOf,
  readControls,
  trimmedBelow,
} from '../archive/control-objects.js'
import { deletedMs, endOf, gapsOf, policyOf, type StreamEnd, standingHolds } from '../archive/decisions.js'
import { isKeyLost } from '../archive/keys.js'
import { type ChosenSegment, chooseSegments, listIncarnations } from '../archive/listing.js'
import { contentDigestOf } from '../archive/object-index.js'
import { restoreDigest } from '../archive/restore-digest.js'
import { openSegmentObject } from '../archive/segment-reader.js'
import { listHistory } from '../archive/shared.js'
import { haveOneDigestKey, type SegmentKey } from '../src/format/archive-names.js'
import { present } from '../src/model/assert.js'
import { sharedBelow } from '../src/model/clone.js'
import { Dlsn } from '../src/model/dlsn.js'
import { isStratalogError, StratalogError } from '../src/model/errors.js'
import { TXID_MAX } from '../src/model/record.js'
import type { Incarnation } from '../src/model/segment.js'
import { formatTime } from '../src/model/units.js'
import type { ArchiveStore } from '../src/ports/archive-store.js'
import { cutKey } from './restore-cut.js'
import { gapsBetween, lastKnown, type MissingSegment } from './restore-gaps.js'
import type {
  LeftOut,
  RestorableSegment,
  RestorableStream,
  RestorePlan,
  RestoreUntil,
  RestoreWishes,
} from './restore-types.js'

/** Missing segments that a plan names one by one. */
const MISSING_MAX = 1_000

/**
 * What a restore would bring, from an archive's names and control objects; a segment is opened only where the restore
 * ends within it. Invariant 7: the archive alone is enough, and whatever order its objects were written in, equal
 * objects make equal plans.
 */
export async function planRestore(archive: ArchiveStore, wishes: RestoreWishes = {}): Promise<RestorePlan> {
  const { signal, until = null } = wishes
  const foreign: string[] = []
  const left: LeftOut[] = []
  const lives: Life[] = []
  for await (const incarnation of listIncarnations(archive, (key) => foreign.push(key), signal)) {
    const life = await lifeOf(archive, incarnation, until, (key) => foreign.push(key), signal)
    if (life === null) continue
    const out = leftOut(life, wishes)
    if (out === null) lives.push(life)
    else if (out !== 'unwanted') left.push(out)
  }
  const streams: RestorableStream[] = []
  for (const life of await chooseLives(archive, lives, until, left, signal)) {
    const stream = await restorable(archive, life, wishes, (key) => foreign.push(key))
    if (!isYounger(stream, until)) streams.push(stream)
    else
      left.push({
        incarnation: life.incarnation,
        name: life.binding.name,
        why: 'it was made later than that',
      })
  }
  streams.sort((a, b) => compareText(a.name, b.name))
  checkNames(streams, until)
  const owner = await ownerOf(archive, signal)
  return {
    location: archive.location,
    streams,
    records: streams.reduce((sum, one) => sum + one.records, 0n),
    segments: streams.reduce((sum, one) => sum + one.segments.length, 0),
    objectBytes: streams.reduce((sum, one) => sum + one.objectBytes, 0),
    until,
    left: left.sort((a, b) => compareText(a.name, b.name) || compareText(a.incarnation, b.incarnation)),
    foreign,
    owner: owner === null ? null : { logId: owner.logId, epoch: owner.epoch },
    digest: restoreDigest(streams.map(digested)),
  }
}

/** The life of each name that is the stream now, as a restore would take it, and those that were deleted. */
export async function currentLives(
  archive: ArchiveStore,
  signal?: AbortSignal,
): Promise<{ readonly lives: readonly Life[]; readonly deleted: readonly Life[] }> {
  const all: Life[] = []
  for await (const incarnation of listIncarnations(archive, undefined, signal)) {
    const life = await lifeOf(archive, incarnation, null, () => undefined, signal)
    if (life !== null) all.push(life)
  }
  const living = all.filter(({ deletedMs }) => deletedMs === null)
  return {
    lives: await chooseLives(archive, living, null, [], signal),
    deleted: all.filter(({ deletedMs }) => deletedMs !== null),
  }
}

function isYounger({ binding, segments, gaps }: RestorableStream, until: RestoreUntil | null): boolean {
  const timeMs = timeOf(until)
  if (timeMs === null || binding.createdMs <= timeMs) return false
  // What a clone shares is as old as its parent, which is restored beside it.
  return sharedBelow(binding.parent) !== null || (segments.length === 0 && gaps.length === 0)
}

/** A stream of the plan as the digest of a restore counts it. */
export function digested({ name, segments, gaps }: Pick<RestorableStream, 'name' | 'segments' | 'gaps'>): {
  name: string
  segments: SegmentKey[]
  gaps: { gap: string; from: Dlsn; until: Dlsn }[]
} {
  return {
    name,
    segments: segments.map(({ restored }) => restored),
    gaps: gaps.map(({ reason, first, last }) => ({
      gap: reason,
      from: new Dlsn(first, 0n, 0n),
      until: new Dlsn(last + 1n, 0n, 0n),
    })),
  }
}

/** One life of a stream: an incarnation with what was decided about it. */
export interface Life {
  readonly incarnation: Incarnation
  readonly binding: DatedBinding
  readonly controls: readonly ControlObject[]
  readonly deletedMs: number | null
}

async function lifeOf(
  archive: ArchiveStore,
  incarnation: Incarnation,
  until: RestoreUntil | null,
  foreign: (key: string) => void,
  signal?: AbortSignal,
): Promise<Life | null> {
  const controls = await readControls(archive, incarnation, foreign, signal)
  const binding = bindingAt(controls, timeOf(until))
  if (binding === null) {
    foreign(`${incarnation}: objects without a name`)
    return null
  }
  return { incarnation, binding, controls, deletedMs: deletedMs(controls) }
}

function timeOf(until: RestoreUntil | null): number | null {
  return until !== null && 'timeMs' in until ? until.timeMs : null
}

function leftOut(
  life: Life,
  { incarnation, wanted, until = null }: RestoreWishes,
): LeftOut | 'unwanted' | null {
  if (incarnation !== undefined) return life.incarnation === incarnation ? null : 'unwanted'
  const { name } = life.binding
  if (wanted?.(name) === false) return 'unwanted'
  const atMs = timeOf(until) ?? Number.POSITIVE_INFINITY
  if (life.deletedMs === null || life.deletedMs > atMs) return null
  const why = `deleted on purpose ${formatTime(life.deletedMs)}; what is left of it: --incarnation ${life.incarnation}`
  return { incarnation: life.incarnation, name, why }
}

/** A life beside others of its name. */
interface Rival {
  readonly life: Life
  readonly newestMs: number
  readonly lastSegment: bigint
}

/**
 * Of several lives of a name the one that was written last: it holds the newest completion, else it was made last. One
 * that another was restored from counts less as soon as that one holds all it was restored with: what was written to
 * it later came from a log that the archive was taken from. With a time, of those that were there by then.
 */
async function chooseLives(
  archive: ArchiveStore,
  lives: readonly Life[],
  until: RestoreUntil | null,
  left: LeftOut[],
  signal?: AbortSignal,
): Promise<Life[]> {
  const byName = new Map<string, Life[]>()
  for (const life of lives) byName.set(life.binding.name, [...(byName.get(life.binding.name) ?? []), life])
  const chosen: Life[] = []
  for (const [name, of] of byName) {
    const rivals: Rival[] = []
    for (const life of of)
      rivals.push(
        of.length === 1 ? { life, newestMs: 0, lastSegment: 0n } : await rivalOf(archive, life, signal),
      )
    const [best, ...others] = rivals
      .map((rival) => ({ rival, rank: rankOf(rival, rivals, timeOf(until)) }))
      .sort((a, b) => compareRanks(b.rank, a.rank))
      .map(({ rival }) => rival.life)
    chosen.push(present(best, 'a life'))
    for (const { incarnation } of others)
      left.push({
        incarnation,
        name,
        why: `another life of that name is restored; this one: --incarnation ${incarnation}`,
      })
  }
  return chosen
}

/** Nothing of it depends on the order in which lives are listed: the incarnation decides where all else is equal. */
function rankOf(rival: Rival, rivals: readonly Rival[], timeMs: number | null): readonly (number | string)[] {
  const { life, newestMs } = rival
  const { createdMs } = life.binding
  // Those that came later than that count only where there is no other: then the one that came first.
  if (timeMs !== null && createdMs > timeMs) return [0, 0, 0, -createdMs, life.incarnation]
  const counted = rivals.filter((one) => timeMs === null || one.life.binding.createdMs <= timeMs)
  const heir = counted.some(({ life: child, lastSegment }) => {
    const { parent } = child.binding
    if (parent?.incarnation !== life.incarnation || parent.fork === null) return false
    return lastSegment + 1n >= parent.fork.segment
  })
  return [1, heir ? 0 : 1, Math.min(newestMs, timeMs ?? newestMs), createdMs, life.incarnation]
}

function compareRanks(a: readonly (number | string)[], b: readonly (number | string)[]): number {
  for (const [at, one] of a.entries()) {
    const other = present(b[at], 'a rank')
    if (one !== other) return one < other ? -1 : 1
  }
  return 0
}

async function rivalOf(archive: ArchiveStore, life: Life, signal?: AbortSignal): Promise<Rival> {
  let newestMs = -1
  let lastSegment = (trimmedBelow(life.controls)?.segment ?? 1n) - 1n
  const { incarnation, binding } = life
  const stream = { incarnation, parent: binding.parent }
  for await (const { parsed } of listHistory(archive, stream, signal === undefined ? {} : { signal })) {
    newestMs = Math.max(newestMs, parsed.completionMs)
    lastSegment = parsed.segment
  }
  return { life, newestMs, lastSegment }
}

/**
 * An archive in use is copied into and trimmed while it is listed, so a first look may miss what is there, or look for
 * what was just ended. Only what is missing twice is missing.
 */
async function restorable(
  archive: ArchiveStore,
  life: Life,
  wishes: RestoreWishes,
  foreign: (key: string) => void,
): Promise<RestorableStream> {
  const found = await lookAt(archive, life, wishes, foreign)
  if (found.missing.length === 0) return found
  const controls = await readControls(archive, life.incarnation, undefined, wishes.signal)
  return lookAt(archive, { ...life, controls }, wishes, () => undefined)
}

async function lookAt(
  archive: ArchiveStore,
  { incarnation, binding, controls }: Life,
  { until = null, rename, signal }: RestoreWishes,
  foreign: (key: string) => void,
): Promise<RestorableStream> {
  const trimmed = trimmedBelow(controls)
  const purged = gapsOf(controls).filter(({ reason }) => reason === 'purged')
  const segments: RestorableSegment[] = []
  const unusable: MissingSegment[] = []
  let ended: bigint | null = null
  const listed = listHistory(
    archive,
    { incarnation, parent: binding.parent },
    {
      from: trimmed?.segment ?? 0n,
      foreign,
      ...(signal === undefined ? {} : { signal }),
    },
  )
  for await (const choice of chooseSegments(listed)) {
    const { segment } = choice
    // What was erased on purpose stays erased, also where an object of it is still there.
    if (purged.some(({ first, last }) => first <= segment && segment <= last)) continue
    if (choice.kind === 'conflict') {
      // Whichever of them is right, the restore ends before it.
      if (choice.attempts.every(({ parsed }) => lies(parsed, until, binding.txidMode) === 'beyond')) {
        ended = segment
        break
      }
      unusable.push({ segment, why: choice.error.message })
      continue
    }
    const part = await cutAt(archive, choice, until, binding.txidMode, signal)
    if (part.kind === 'damaged') unusable.push({ segment, why: part.why })
    if (part.kind === 'kept') segments.push(part.segment)
    if (part.kind === 'kept' && part.segment.cut === null) continue
    if (part.kind === 'damaged') continue
    ended = part.kind === 'kept' ? segment + 1n : segment
    break
  }
  checkSequence(binding.name, segments)
  const first = trimmed?.segment ?? 1n
  const committed = gapsOf(controls)
  // A DLSN ends also what there is no object of: no gap reaches behind it.
  const bound = endOfDlsn(until)
  if (bound !== null && (ended ?? lastKnown(committed, unusable, null) + 1n) > bound) ended = bound
  const { gaps, missing } = gapsBetween(first, segments, ended, committed, unusable, timeOf(until))
  const last = segments.at(-1)
  const behind = [last?.parsed.segment ?? 0n, gaps.at(-1)?.last ?? 0n].reduce((a, b) => (a > b ? a : b))
  const nextSequenceId = last === undefined ? 0n : last.restored.startSequenceId + last.restored.recordCount
  const end = endOf(controls)
  const ends = end !== null && ended === null && end.atMs <= (timeOf(until) ?? Number.POSITIVE_INFINITY)
  return {
    incarnation,
    binding,
    name: rename?.(binding.name) ?? binding.name,
    trimmedBelow: trimmed,
    segments,
    gaps,
    records: segments.reduce((sum, one) => sum + one.restored.recordCount, 0n),
    objectBytes: segments.reduce((sum, one) => sum + one.sizeBytes, 0),
    missing: missing.slice(0, MISSING_MAX),
    fork: forkOf(last, behind, first),
    end: ends ? end : null,
    policy: policyOf(controls),
    // A pin keeps objects for a clone: of what is restored nobody shares any.
    holds: standingHolds(controls).filter(({ kind }) => kind === 'hold'),
    deletedMs: deletedMs(controls),
    lostAtEnd: ends && last !== undefined ? lostAtEnd(present(end, 'end'), nextSequenceId) : 0n,
  }
}

function lostAtEnd(end: StreamEnd, nextSequenceId: bigint): bigint {
  return end.nextSequenceId > nextSequenceId ? end.nextSequenceId - nextSequenceId : 0n
}

function forkOf(last: RestorableSegment | undefined, behind: bigint, first: bigint): Dlsn {
  if (last !== undefined && last.cut !== null)
    return new Dlsn(last.parsed.segment, last.restored.lastEntryId, last.restored.lastSlot + 1n)
  return new Dlsn(behind === 0n ? first : behind + 1n, 0n, 0n)
}

type Part =
  | { readonly kind: 'kept'; readonly segment: RestorableSegment }
  /** All of it lies behind where the restore ends. */
  | { readonly kind: 'beyond' }
  | { readonly kind: 'damaged'; readonly why: string }

/** What of a segment lies before `until`. Only where its name leaves that open it is read. */
async function cutAt(
  archive: ArchiveStore,
  { chosen, twins, losers }: Extract<ChosenSegment, { readonly kind: 'chosen' }>,
  until: RestoreUntil | null,
  txidMode: DatedBinding['txidMode'],
  signal?: AbortSignal,
): Promise<Part> {
  const { parsed } = chosen
  const others = losers.filter((one) => !haveOneDigestKey(one.parsed, parsed))
  const whole = { ...chosen, twins: [...twins, ...others], restored: parsed, cut: null }
  const where = lies(parsed, until, txidMode)
  if (where === 'beyond') return { kind: 'beyond' }
  // Sizes are in the listing: what is cut short is known before anything is read, and a dry run says it.
  if ([chosen, ...whole.twins].every(({ sizeBytes, parsed: { indexBytes } }) => sizeBytes < indexBytes))
    return {
      kind: 'damaged',
      why: `${chosen.key} has ${chosen.sizeBytes} bytes, fewer than its index alone`,
    }
  if (until === null || where === 'before') return { kind: 'kept', segment: whole }
  let why = ''
  let unread: StratalogError | null = null
  for (const one of [chosen, ...twins]) {
    try {
      const object = await openSegmentObject(archive, { ...one, indexBytes: one.parsed.indexBytes })
      const digest = await contentDigestOf(archive, parsed, signal)
      const restored = await cutKey(object, parsed, until, digest, signal)
      const kept = restored?.recordCount ?? 0n
      if (kept === parsed.recordCount && endsBefore(parsed, until)) return { kind: 'kept', segment: whole }
      if (restored === null) return { kind: 'beyond' }
      return { kind: 'kept', segment: { ...whole, restored, cut: until } }
    } catch (error) {
      if (isKeyLost(error) || isStratalogError(error, 'version_unsupported')) unread ??= error
      else if (isStratalogError(error, 'corrupt') || isStratalogError(error, 'object_not_found'))
        why = error.message
      else throw error
    }
  }
  if (unread !== null) throw unread
  return { kind: 'damaged', why }
}

/**
 * Whether nothing but records of users ends the segment, or the record that ends the stream lies before `until` as well:
 * its txid is no time, the segment was completed with it.
 */
function endsBefore(
  { segment, lastTxid, lastEntryId, lastSlot, completionMs }: SegmentKey,
  until: RestoreUntil,
): boolean {
  if (lastTxid !== TXID_MAX) return true
  if ('timeMs' in until) return completionMs < until.timeMs
  return new Dlsn(segment, lastEntryId, lastSlot).compare(until.dlsn) < 0
}

/** The first segment that lies wholly behind a DLSN; null: the restore ends nowhere, or at a time. */
function endOfDlsn(until: RestoreUntil | null): bigint | null {
  if (until === null || !('dlsn' in until)) return null
  const { segment, entry, slot } = until.dlsn
  return entry === 0n && slot === 0n ? segment : segment + 1n
}

function lies(
  parsed: SegmentKey,
  until: RestoreUntil | null,
  txidMode: 'ms' | 'custom',
): 'before' | 'within' | 'beyond' {
  if (until === null) return 'before'
  if ('dlsn' in until) {
    const { segment, entry, slot } = until.dlsn
    if (parsed.segment !== segment) return parsed.segment < segment ? 'before' : 'beyond'
    return entry === 0n && slot === 0n ? 'beyond' : 'within'
  }
  // Completion is all that is known of segments whose txids are no times: they are restored whole or not at all.
  if (txidMode === 'custom') return parsed.completionMs < until.timeMs ? 'before' : 'beyond'
  if (Number(parsed.lastTxid) < until.timeMs) return 'before'
  return Number(parsed.firstTxid) >= until.timeMs ? 'beyond' : 'within'
}

/** Sequence ids are dense: where two neighbours don't meet, one of them is of another history. */
function checkSequence(name: string, segments: readonly RestorableSegment[]): void {
  for (const [at, { parsed, key }] of segments.entries()) {
    const before = segments[at - 1]?.parsed
    if (before === undefined || before.segment + 1n !== parsed.segment) continue
    const expected = before.startSequenceId + before.recordCount
    if (parsed.startSequenceId === expected) continue
    throw new StratalogError(
      'corrupt',
      `${name}: segment ${parsed.segment} begins with sequence id ${parsed.startSequenceId} and the one before it ends at ${expected}: the objects are not of one stream, restore from another copy of the archive`,
      { expected: expected.toString(), found: parsed.startSequenceId.toString(), details: { key } },
    )
  }
}

function checkNames(streams: readonly RestorableStream[], until: RestoreUntil | null): void {
  for (const [at, { name, binding }] of streams.entries()) {
    const other = streams[at - 1]
    if (other?.name === name)
      throw new StratalogError(
        'invalid_argument',
        `${other.binding.name} and ${binding.name} would both be called ${name}: choose other names with --as`,
        { found: name },
      )
  }
  if (until !== null && 'dlsn' in until && streams.length > 1)
    throw new StratalogError(
      'invalid_argument',
      `${until.dlsn} is a place in one stream, and ${streams.length} would be restored: name one with --streams, or give a time`,
      { found: streams.length },
    )
}

function compareText(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0
}
