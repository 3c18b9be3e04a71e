import { createHash } from 'node:crypto'
import { decodeSegmentKey, type SegmentKey } from '../src/format/archive-names.js'
import type { Dlsn } from '../src/model/dlsn.js'
import { isStratalogError, StratalogError } from '../src/model/errors.js'
import type { Incarnation, SegmentRow } from '../src/model/segment.js'
import type { ArchiveStore } from '../src/ports/archive-store.js'
import { attemptsOfSegment, besideRows, bySegment, listAttempts, type SegmentBeside } from './attempts.js'
import { bindingOf, type ControlObject, readControls, trimmedBelow } from './control-objects.js'
import { type ArchivedGap, deletedMs, gapsOf } from './decisions.js'
import { isKeyTrouble } from './keys.js'
import { type ListedSegment, onlyDigest } from './listing.js'
import { isComparable } from './rivals.js'
import { verifySegmentObject } from './segment-verify.js'
import { type Ancestor, ancestorsOf, isShared, listWithAncestors, objectOwner } from './shared.js'

/** Objects in a row that can't be read, after which it is the archive that is away, and no object that is bad. */
const UNREADABLE_MAX = 10

/** What can be wrong with an archive. */
export type ArchiveProblem =
  /** An object the index names is not there, nor is a twin of it. */
  | 'missing'
  /** The committed object is gone or has another size; a twin of it is there. */
  | 'replaced'
  /** Object and index differ in what the name says, or in size. */
  | 'differs'
  /** Two objects of one segment have unequal content. */
  | 'conflict'
  /** The bytes are not what name, checksums and digest say. */
  | 'damaged'
  /** Segments or records that should be there between two others are not. */
  | 'hole'
  /** A decision that can't be read, or is not what it must be. */
  | 'control'
  /** Could not be read this time; nothing is known about it. */
  | 'unreadable'

/** One thing that is wrong. */
export interface ArchiveFinding {
  readonly problem: ArchiveProblem
  readonly incarnation: Incarnation
  /** Null: the archive does not name the stream. */
  readonly stream: string | null
  readonly segment: bigint | null
  readonly key: string | null
  /** What is wrong. */
  readonly text: string
  /** What to do about it. */
  readonly mend: string
}

/** What was looked at. */
export interface ArchiveTally {
  segments: number
  objects: number
  bytes: number
  /** Objects of which every byte was read, and the bytes. */
  deepObjects: number
  deepBytes: number
  /** Objects no row names: twins, unfinished copies, what is left of trims. */
  extra: number
  extraBytes: number
  /** Keys that are none of ours. */
  foreign: number
  findings: number
}

/** What a check of an archive yields. */
export type ArchiveCheckPart =
  | { readonly type: 'finding'; readonly finding: ArchiveFinding }
  | { readonly type: 'progress'; readonly stream: string | null; readonly tally: Readonly<ArchiveTally> }

/** How much is looked at. */
export interface ArchiveCheckOptions {
  /** Read every byte of the objects. @default false: names, sizes and decisions only */
  readonly deep?: boolean
  /** The part of the objects that is read when `deep`, in (0, 1]. @default 1 */
  readonly sample?: number
  /** Chooses the sample; the same seed chooses the same objects. @default '' */
  readonly seed?: string
  readonly signal?: AbortSignal
  /** Told of bytes read. */
  readonly onBytes?: (sizeBytes: number) => void
}

/** The stream that is checked. */
export interface CheckedStream {
  readonly incarnation: Incarnation
  readonly name: string | null
  /** The index's rows, ascending; null: there is no index, the archive is checked by itself. */
  readonly rows: AsyncIterable<SegmentRow> | null
  /** A row as it is now: what changed while it was looked at is no finding. */
  readonly fresh: ((segment: bigint) => Promise<SegmentRow | null>) | null
}

/** A tally of nothing. */
export function emptyTally(): ArchiveTally {
  return {
    segments: 0,
    objects: 0,
    bytes: 0,
    deepObjects: 0,
    deepBytes: 0,
    extra: 0,
    extraBytes: 0,
    foreign: 0,
    findings: 0,
  }
}

/**
 * Compares what the index says of a stream with the names in the archive and, where `deep`, with every byte of the
 * objects. Read-only, and in bounded memory. Nothing is concluded from what can't be read: an archive that does not
 * answer ends the check with its error (invariant 8).
 */
export async function* verifyArchivedStream(
  store: ArchiveStore,
  stream: CheckedStream,
  tally: ArchiveTally,
  options: ArchiveCheckOptions = {},
): AsyncGenerator<ArchiveCheckPart, void, undefined> {
  const check = new StreamCheck(store, stream, tally, options)
  for await (const part of check.run()) {
    if (part.type === 'finding') tally.findings += 1
    yield part
  }
}

/** Whether an object belongs to the sample. The choice depends on seed and key alone, so a check can be repeated. */
export function isSampled(key: string, sample: number, seed: string): boolean {
  if (sample >= 1) return true
  const hash = createHash('sha256').update(`${seed}\n${key}`).digest()
  return hash.readUInt32BE(0) / 2 ** 32 < sample
}

/** Where the next segment has to begin. */
interface Expected {
  readonly segment: bigint
  /** Null: not known, because a gap lies before it. */
  readonly sequenceId: bigint | null
}

class StreamCheck {
  readonly #store: ArchiveStore
  readonly #stream: CheckedStream
  readonly #tally: ArchiveTally
  readonly #options: ArchiveCheckOptions
  #name: string | null
  #gaps: readonly ArchivedGap[] = []
  #trim: Dlsn | null = null
  #ancestors: readonly Ancestor[] = []
  #deleted = false
  #unreadable = 0

  constructor(store: ArchiveStore, stream: CheckedStream, tally: ArchiveTally, options: ArchiveCheckOptions) {
    this.#store = store
    this.#stream = stream
    this.#tally = tally
    this.#options = options
    this.#name = stream.name
  }

  async *run(): AsyncGenerator<ArchiveCheckPart, void, undefined> {
    const { incarnation, rows } = this.#stream
    const { signal } = this.#options
    const given = signal === undefined ? {} : { signal }
    const trouble = await this.#readDecisions()
    if (trouble !== null) yield trouble
    const foreign = () => this.#foreign()
    // Beside an index a row names what is shared; without one it is among the names of the parent.
    const listed =
      rows === null
        ? bySegment(
            listWithAncestors(this.#store, incarnation, this.#ancestors, { foreign, from: 0n, ...given }),
          )
        : listAttempts(this.#store, incarnation, 0n, foreign, signal)
    let expected: Expected | null = null
    for await (const beside of besideRows(rows ?? nothing(), listed)) {
      signal?.throwIfAborted()
      this.#tally.segments += 1
      for (const one of beside.found?.attempts ?? []) {
        // What is shared is counted, and read, with the stream that wrote it.
        if (one.parsed.incarnation !== incarnation) continue
        this.#tally.objects += 1
        this.#tally.bytes += one.sizeBytes
      }
      const parts = rows === null ? this.#alone(beside) : this.#besideRow(beside)
      yield* parts
      const next: { finding: ArchiveCheckPart | null; expected: Expected | null } =
        rows === null ? this.#followsAlone(beside, expected) : await this.#followsRow(beside, expected)
      if (next.finding !== null) yield next.finding
      expected = next.expected
      yield { type: 'progress', stream: this.#name, tally: this.#tally }
    }
  }

  /** Decisions first: without them neither a hole nor an object too many can be told from what was ended on purpose. */
  async #readDecisions(): Promise<ArchiveCheckPart | null> {
    const { incarnation } = this.#stream
    try {
      const controls: readonly ControlObject[] = await readControls(
        this.#store,
        incarnation,
        () => this.#foreign(),
        this.#options.signal,
      )
      const binding = bindingOf(controls)
      this.#name ??= binding?.name ?? null
      const parent = binding?.parent ?? null
      if (this.#stream.rows === null)
        this.#ancestors = await ancestorsOf(this.#store, { incarnation, parent }, this.#options.signal)
      this.#gaps = gapsOf(controls)
      this.#trim = trimmedBelow(controls)
      this.#deleted = deletedMs(controls) !== null
      return null
    } catch (error) {
      if (!isStratalogError(error, 'corrupt') && !isStratalogError(error, 'version_unsupported')) throw error
      const mend =
        error.code === 'corrupt'
          ? 'put a copy of it back from a backup; until then nothing of this stream is trimmed or collected'
          : 'use the version of stratalog that wrote it'
      return this.#finding('control', null, null, error.message, mend)
    }
  }

  /** A segment that the index knows: the object it names has to be there, and to be it. */
  async *#besideRow(beside: SegmentBeside): AsyncGenerator<ArchiveCheckPart, void, undefined> {
    const { row, found, segment } = beside
    const attempts = found?.attempts ?? []
    const object = row?.object ?? null
    const extra = attempts.filter(({ key }) => key !== object?.key)
    this.#tally.extra += extra.length + (found?.unlisted ?? 0)
    for (const { sizeBytes } of extra) this.#tally.extraBytes += sizeBytes
    if (row === null || object === null || (row.state !== 'archived' && row.state !== 'cold')) return
    const committed = await this.#committed(row, attempts)
    if (committed === null) {
      if (await this.#changed(row)) return
      yield this.#absent(row, isShared(row) ? await this.#sharedAttempts(row) : attempts)
      return
    }
    const differs = differsFrom(row, committed)
    if (differs !== null) {
      yield this.#finding('differs', segment, object.key, differs, this.#copyAgain(row))
    }
    const others = attempts.filter(
      (one) => one.parsed.contentDigest !== row.contentDigest && isComparable(row, one),
    )
    for (const other of others) yield* this.#rival(row, other)
    if (differs === null) yield* this.#deep(committed, this.#copyAgain(row))
  }

  /** The committed object as it is in the archive; null: it is not there. One of another stream is asked for by name. */
  async #committed(row: SegmentRow, attempts: readonly ListedSegment[]): Promise<ListedSegment | null> {
    const key = row.object?.key ?? ''
    const listed = attempts.find((one) => one.key === key)
    if (listed !== undefined) return listed
    const found = await this.#store.head(key, this.#options.signal)
    const parsed = decodeSegmentKey(key)
    return found === null || parsed === null ? null : { ...found, parsed }
  }

  async #sharedAttempts(row: SegmentRow): Promise<readonly ListedSegment[]> {
    const { signal } = this.#options
    return (await attemptsOfSegment(this.#store, objectOwner(row), row.segment, signal)).attempts
  }

  #absent(row: SegmentRow, attempts: readonly ListedSegment[]): ArchiveCheckPart {
    const key = row.object?.key ?? null
    const twin = attempts.find(({ parsed }) => parsed.contentDigest === row.contentDigest)
    if (twin !== undefined) {
      const mend = 'the scrub commits the twin in its place: "stratalog archive scrub" does it now'
      return this.#finding('replaced', row.segment, key, `it is gone; ${twin.key} has the same content`, mend)
    }
    const text = `it is not in ${this.#store.location}, and no other object has its content`
    return this.#finding('missing', row.segment, key, text, this.#copyAgain(row))
  }

  /** Objects of one segment with unequal content. One that is not even what its own name says decides nothing. */
  async *#rival(row: SegmentRow, other: ListedSegment): AsyncGenerator<ArchiveCheckPart, void, undefined> {
    if (this.#options.deep === true && (await this.#isBroken(other))) return
    const text = `its content (${other.parsed.contentDigest.slice(0, 12)}…) is not that of the committed object (${row.contentDigest?.slice(0, 12)}…)`
    yield this.#finding('conflict', row.segment, other.key, text, this.#resolve(row.segment))
  }

  #resolve(segment: bigint): string {
    return `look at both, then "stratalog archive resolve ${this.#name ?? this.#stream.incarnation} ${segment} --attempt ID"; until then its hot copy is kept`
  }

  #copyAgain(row: SegmentRow): string {
    return row.state === 'archived'
      ? 'its hot copy is there: the scrub writes a new object ("stratalog archive scrub" does it now)'
      : 'its hot copy was given up: put the object back from a backup of the archive'
  }

  /** A segment of an archive without an index: whatever the names say has to fit together. */
  async *#alone({ found, segment }: SegmentBeside): AsyncGenerator<ArchiveCheckPart, void, undefined> {
    const attempts = found?.attempts ?? []
    const digest = onlyDigest(attempts)
    const first = attempts.find(({ parsed }) => parsed.contentDigest === digest) ?? attempts[0]
    if (first === undefined) return
    const others = attempts.filter((one) => one !== first)
    const twins = others.filter(({ parsed }) => parsed.contentDigest === first.parsed.contentDigest)
    const extra = digest === undefined ? twins : others
    this.#tally.extra += extra.length + (found?.unlisted ?? 0)
    for (const { sizeBytes } of extra) this.#tally.extraBytes += sizeBytes
    if (digest === undefined) {
      const keys = attempts.map(({ parsed }) => parsed.attempt).join(', ')
      const text = `attempts ${keys} differ in content and no index says which one is the segment`
      yield this.#finding('conflict', segment, first.key, text, this.#resolve(segment))
    }
    if (first.sizeBytes < first.parsed.indexBytes) {
      const text = `it has ${first.sizeBytes} bytes, fewer than its index alone`
      yield this.#finding('damaged', segment, first.key, text, fromBackup)
      return
    }
    yield* this.#deep(first, twins.length > 0 ? 'a twin of it may be whole: restore tries it' : fromBackup)
  }

  async *#deep(object: ListedSegment, mend: string): AsyncGenerator<ArchiveCheckPart, void, undefined> {
    const { deep, sample = 1, seed = '' } = this.#options
    if (deep !== true || !isSampled(object.key, sample, seed)) return
    if (this.#stream.rows === null && object.parsed.incarnation !== this.#stream.incarnation) return
    const { segment } = object.parsed
    try {
      await this.#read(object)
      this.#unreadable = 0
    } catch (error) {
      if (isStratalogError(error, 'corrupt') || isStratalogError(error, 'version_unsupported')) {
        const bad = error.code === 'corrupt' ? mend : 'use the version of stratalog that wrote it'
        yield this.#finding('damaged', segment, object.key, error.message, bad)
      } else yield await this.#notRead(object, error)
    }
  }

  /** An object that can't be read is not damaged; if many can't, it is the archive that does not answer. */
  async #notRead(object: ListedSegment, error: unknown): Promise<ArchiveCheckPart> {
    this.#options.signal?.throwIfAborted()
    if (!isStratalogError(error)) throw error
    const thaws = isStratalogError(error, 'thawing')
    // The archive answers: it keeps such an object where it is not read at once.
    if (!thaws) this.#unreadable += 1
    if (this.#unreadable >= UNREADABLE_MAX) throw error
    const mend = isKeyTrouble(error)
      ? 'nothing is known about it: check again with its key ring'
      : thaws
        ? 'nothing is known about it: recall it ("stratalog recall"), then check again'
        : 'nothing is known about it: check again when the archive answers'
    return this.#finding('unreadable', object.parsed.segment, object.key, error.message, mend)
  }

  async #isBroken(object: ListedSegment): Promise<boolean> {
    try {
      await this.#read(object)
      return false
    } catch (error) {
      if (isStratalogError(error, 'corrupt')) return true
      // By their names the two differ; which of them is whole its key would tell.
      if (isKeyTrouble(error)) return false
      throw error
    }
  }

  async #read(object: ListedSegment): Promise<void> {
    const { signal, onBytes } = this.#options
    let doneBytes = 0
    await verifySegmentObject(this.#store, object.key, object.parsed, {
      ...(signal === undefined ? {} : { signal }),
      onProgress: (bytes) => {
        this.#tally.deepBytes += bytes - doneBytes
        onBytes?.(bytes - doneBytes)
        doneBytes = bytes
      },
    })
    this.#tally.deepObjects += 1
  }

  /** Invariant 5 by the index: rows follow one another without a hole, in numbers and in records. */
  async #followsRow(
    { row, segment }: SegmentBeside,
    expected: Expected | null,
  ): Promise<{ finding: ArchiveCheckPart | null; expected: Expected | null }> {
    if (row === null) return { finding: null, expected }
    const next = { segment: segment + 1n, sequenceId: row.startSequenceId + row.recordCount }
    if (expected === null || (await this.#changed(row))) return { finding: null, expected: next }
    const hole = holeBefore(expected, segment, row.startSequenceId)
    const mend = 'run "stratalog index rebuild": it reads stores and archive again'
    const finding = hole === null ? null : this.#finding('hole', expected.segment, null, hole, mend)
    return { finding, expected: next }
  }

  /** Invariant 5 by the names alone: from the trim point on, but for committed gaps. */
  #followsAlone(
    { found, segment }: SegmentBeside,
    before: Expected | null,
  ): { finding: ArchiveCheckPart | null; expected: Expected | null } {
    const first = found?.attempts[0]?.parsed
    if (first === undefined || this.#deleted) return { finding: null, expected: before }
    const next = { segment: segment + 1n, sequenceId: first.startSequenceId + first.recordCount }
    if (this.#trim !== null && segment < this.#trim.segment) return { finding: null, expected: next }
    const begins = this.#trim?.segment ?? 1n
    const from: Expected =
      before !== null && before.segment >= begins ? before : { segment: begins, sequenceId: null }
    const at = this.#pastGaps(from)
    const hole = holeBefore(at, segment, first.startSequenceId)
    const mend = 'put its objects back from a backup; a restore makes it a gap'
    const finding = hole === null ? null : this.#finding('hole', at.segment, null, hole, mend)
    return { finding, expected: next }
  }

  #pastGaps(from: Expected): Expected {
    let { segment } = from
    for (let gap = this.#gapAt(segment); gap !== undefined; gap = this.#gapAt(segment))
      segment = gap.last + 1n
    return segment === from.segment ? from : { segment, sequenceId: null }
  }

  #gapAt(segment: bigint): ArchivedGap | undefined {
    return this.#gaps.find(({ first, last }) => first <= segment && segment <= last)
  }

  /** Whether the row is another one by now: trimmed, copied anew or recalled while it was looked at. */
  async #changed(row: SegmentRow): Promise<boolean> {
    const now = (await this.#stream.fresh?.(row.segment)) ?? null
    return this.#stream.fresh !== null && now?.version !== row.version
  }

  #foreign(): undefined {
    this.#tally.foreign += 1
  }

  #finding(
    problem: ArchiveProblem,
    segment: bigint | null,
    key: string | null,
    text: string,
    mend: string,
  ): { readonly type: 'finding'; readonly finding: ArchiveFinding } {
    const { incarnation } = this.#stream
    return {
      type: 'finding',
      finding: { problem, incarnation, stream: this.#name, segment, key, text, mend },
    }
  }
}

const fromBackup = 'put the object back from a backup of the archive; a restore makes the segment a gap'

async function* nothing(): AsyncGenerator<SegmentRow, void, undefined> {}

/** What lies between where the last segment ended and where this one begins; null: nothing does. */
function holeBefore(expected: Expected, segment: bigint, startSequenceId: bigint): string | null {
  if (segment > expected.segment) {
    const last = segment - 1n
    return last === expected.segment
      ? `segment ${last} is absent`
      : `segments ${expected.segment} … ${last} are absent`
  }
  if (segment < expected.segment) return null
  if (expected.sequenceId !== null && startSequenceId !== expected.sequenceId) {
    return `segment ${segment} begins at sequenceId ${startSequenceId}, the one before it ends at ${expected.sequenceId - 1n}`
  }
  return null
}

/** How object and row differ by the name and size; null: they don't. */
function differsFrom(row: SegmentRow, { key, sizeBytes, parsed }: ListedSegment): string | null {
  if (row.object?.sizeBytes !== sizeBytes) {
    return `it has ${sizeBytes} bytes, ${row.object?.sizeBytes} were committed`
  }
  const pairs: readonly [string, unknown, unknown][] = [
    ['last entry', row.lastEntryId, parsed.lastEntryId],
    ['last slot', row.lastSlot, parsed.lastSlot],
    ['record count', row.recordCount, parsed.recordCount],
    ['first sequenceId', row.startSequenceId, parsed.startSequenceId],
    ['first txid', row.firstTxid, parsed.firstTxid],
    ['last txid', row.lastTxid, parsed.lastTxid],
    ['content digest', row.contentDigest, parsed.contentDigest],
  ]
  const pair = pairs.find(([, ours, named]) => ours !== named)
  return pair === undefined ? null : `${pair[0]}: the index says ${pair[1]}, the name ${pair[2]} (${key})`
}

/** What the key of a committed object says. Throws `corrupt` for a key that is none. */
export function committedKey(key: string): SegmentKey {
  const parsed = decodeSegmentKey(key)
  if (parsed !== null) return parsed
  throw new StratalogError('corrupt', `the index names ${key}, which is no name of a segment: rebuild it`, {
    found: key,
  })
}
