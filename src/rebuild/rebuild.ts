import { bindingFact, locationsIn, OWN_ARCHIVES_FACT } from '../../archive/bindings.js'
import { DELETIONS_FACT } from '../../archive/control-objects.js'
import type { ListedSegment } from '../../archive/listing.js'
import { openSegmentObject } from '../../archive/segment-reader.js'
import type { DecidedGap, DecidedTrim } from '../format/control-frame.js'
import type { LedgerContext } from '../ledger/context.js'
import { isStratalogError, StratalogError } from '../model/errors.js'
import type { SegmentRow } from '../model/segment.js'
import { sideBySide } from '../model/side-by-side.js'
import type { ArchiveStore } from '../ports/archive-store.js'
import type { SegmentIndex } from '../ports/segment-index.js'
import { type DecidedState, foldDecisions, readDecisions, spreadDecisions } from './decisions.js'
import { withoutEmpty } from './empty-ledgers.js'
import { type FoundLedgers, findLedgers, metadataOf } from './found-ledgers.js'
import { MARK_FACT, SEQUENCE_FACT } from './recorded-index.js'
import { emptyReport, noteLoss, noteOrphan, type RebuildReport } from './report.js'
import { type PlannedSegment, planSegments, type SegmentLedger } from './segment-plan.js'
import { coldRow, gapRow, hotRow, openRow, type StreamEnd, trimmedRow } from './segment-rows.js'
import { STREAMS_AT_ONCE, type StreamSource, streamSources } from './stream-sources.js'

/** Rows that are adopted in one transaction. */
const ADOPTED_AT_ONCE = 1_000
/** Ids left out where not everything that was given out can be known. */
const IDS_LEFT_OUT = 2n ** 32n
const LOSSES_SAID = 5
/** Epochs left out where the newest one can't be read: more than a stream has writers. */
const EPOCHS_LEFT_OUT = 2n ** 32n
const EPOCH_UNKNOWN = ['corrupt', 'object_not_found', 'key_missing', 'key_wrong'] as const

/** An empty index that is filled. Nobody else sees it before it is whole. */
export interface RebuildTarget {
  readonly index: SegmentIndex
  /** Adopts closed rows of one stream, in order, at once. */
  readonly adoptSegments: (rows: readonly SegmentRow[]) => Promise<void>
  readonly reserveThrough: (ledgerId: bigint) => Promise<void>
}

export interface RebuildOptions {
  readonly target: RebuildTarget
  /** The stores, with the target's ledger metadata. */
  readonly ledger: LedgerContext
  /** Null: the log has none, or goes on without it. */
  readonly archive: ArchiveStore | null
  /** By where they are, the archives that some streams have to themselves. @default none */
  readonly own?: ReadonlyMap<string, ArchiveStore>
  /** Go on without what can't be read and with gaps for what is nowhere. */
  readonly acceptLoss: boolean
  /** What the caller could not reach: counts as lost. */
  readonly unreachable?: readonly string[]
  readonly signal?: AbortSignal
  readonly onProgress?: (progress: { readonly stream: string; readonly segments: number }) => void
}

/**
 * Makes the index anew from what the stores and the archive hold (DESIGN.md §7, invariant 12): decisions give streams,
 * trims and policies; ledgers and objects give segments. Writes nothing to the stores but fences and seals of ledgers
 * that were left open, and deletes nothing (invariant 8). Run again it comes to the same. Rejects with `refused` where
 * something can't be read or is lost, unless that is accepted.
 */
export async function rebuildIndex(options: RebuildOptions): Promise<RebuildReport> {
  const { ledger, target, signal } = options
  const report = emptyReport()
  const decisions = await readDecisions(ledger)
  const found = await findLedgers(ledger, signal)
  for (const one of options.unreachable ?? []) noteLoss(report, one)
  const unread = new Map([...decisions.unread, ...found.unread].map(({ store, error }) => [store, error]))
  for (const [store, error] of unread) noteLoss(report, `store ${store}: ${messageOf(error)}`)
  // Nothing further while a store or the archive is away that the operator did not give up: what it alone knows is not guessed.
  refuseLosses(report, options)
  await spreadDecisions(ledger, decisions)
  const decided = foldDecisions(decisions.recorded)
  await reserveIds(options, decided, found, unread.size === 0, report)
  const archives = { log: options.archive, own: options.own ?? new Map<string, ArchiveStore>() }
  const sources = await streamSources(decided, found.ledgers.values(), archives, report, signal)
  const used = new Set<bigint>()
  await createMetadata(options, found, sources, report)
  // Streams are told apart by everything they have: one waits for its archive while the next one is written.
  await sideBySide(sources, STREAMS_AT_ONCE, async (source) => {
    signal?.throwIfAborted()
    await new StreamRebuild(options, source, report, used).run()
    report.streams += 1
  })
  noteOrphans(found, used, sources, report)
  for (const [name, value] of decided.facts) await target.index.setFact(name, value)
  await bindFound(options, sources)
  // The index that was lost may have been the only one to know that the archive is still to be told.
  if (decided.deleted.size > 0)
    await target.index.setFact(DELETIONS_FACT, JSON.stringify([...decided.deleted]))
  await target.index.setFact(SEQUENCE_FACT, decided.sequence.toString())
  await target.index.setFact(MARK_FACT, (decided.mark?.sequence ?? 0n).toString())
  refuseLosses(report, options)
  return report
}

/** Streams that lie in an archive of their own, of which no decision is left, are bound again by what is found there. */
async function bindFound({ target, own }: RebuildOptions, sources: readonly StreamSource[]): Promise<void> {
  const { index } = target
  const all = new Set(locationsIn(await index.fact(OWN_ARCHIVES_FACT)))
  for (const { stream, own: location } of sources) {
    if (location === null || own?.has(location) !== true) continue
    await index.setFact(bindingFact(stream.incarnation), location)
    all.add(location)
  }
  if (all.size > 0) await index.setFact(OWN_ARCHIVES_FACT, JSON.stringify([...all]))
}

/** Above every id that anybody may have been given: a store keeps the tombstone of a ledger, and would refuse its id. */
async function reserveIds(
  { target }: RebuildOptions,
  decided: DecidedState,
  found: FoundLedgers,
  allRead: boolean,
  report: RebuildReport,
): Promise<void> {
  const highest = found.highestId > decided.idsThrough ? found.highestId : decided.idsThrough
  const certain = decided.idsThrough > 0n && allRead
  report.idsThrough = certain ? highest : highest + IDS_LEFT_OUT
  await target.reserveThrough(report.idsThrough)
}

/** Metadata for every ledger whose header is there, those of nobody included: whoever looks at it later finds it. */
async function createMetadata(
  { ledger }: RebuildOptions,
  found: FoundLedgers,
  sources: readonly StreamSource[],
  report: RebuildReport,
): Promise<void> {
  const ends = new Map<bigint, SegmentLedger['end']>()
  for (const { candidates } of sources)
    for (const of of candidates.values()) for (const one of of) ends.set(one.ledger.ledgerId, one.end)
  for (const one of found.ledgers.values()) {
    const metadata = metadataOf(one, ends.get(one.ledgerId) ?? one.seal)
    if (metadata === null) continue
    await ledger.metadata.create(one.ledgerId, metadata)
    report.ledgers += 1
  }
}

function noteOrphans(
  found: FoundLedgers,
  used: ReadonlySet<bigint>,
  sources: readonly StreamSource[],
  report: RebuildReport,
): void {
  const begins = new Map(sources.map(({ stream, trim }) => [stream.incarnation, trim?.below.segment ?? 0n]))
  for (const { ledgerId, header } of found.ledgers.values()) {
    if (used.has(ledgerId)) continue
    const segment = header?.segment ?? null
    if (segment !== null && segment.segment < (begins.get(segment.incarnation) ?? 0n))
      report.trimmedLedgers += 1
    else
      noteOrphan(
        report,
        segment === null
          ? `ledger ${ledgerId}`
          : `ledger ${ledgerId} (${segment.stream}, segment ${segment.segment})`,
      )
  }
}

function refuseLosses(report: RebuildReport, { acceptLoss }: RebuildOptions): void {
  if (acceptLoss || report.lossCount === 0) return
  const said = report.losses.slice(0, LOSSES_SAID).join('; ')
  const more = report.lossCount > LOSSES_SAID ? `; and ${report.lossCount - LOSSES_SAID} more` : ''
  throw new StratalogError(
    'refused',
    `the index can't be made again without a loss (${said}${more}): bring back what is missing, or go on without it: stratalog index rebuild --accept-loss`,
    { details: { losses: report.losses } },
  )
}

/** One stream of the new index. */
class StreamRebuild {
  readonly #options: RebuildOptions
  readonly #source: StreamSource
  readonly #report: RebuildReport
  readonly #used: Set<bigint>
  readonly #rows: SegmentRow[] = []
  /** Missing segments since the last row: they become gaps once the next one tells where it begins. */
  #missing: bigint[] = []
  #end: StreamEnd
  #newestRow: SegmentRow | null = null
  #epoch = 0n

  constructor(options: RebuildOptions, source: StreamSource, report: RebuildReport, used: Set<bigint>) {
    this.#options = options
    this.#source = source
    this.#report = report
    this.#used = used
    const tail = source.trim?.tail ?? null
    const sealedMs = source.stream.createdMs
    this.#end = {
      nextSequenceId: tail?.nextSequenceId ?? 0n,
      lastTxid: tail?.lastTxid ?? -1n,
      sealedMs,
    }
  }

  async run(): Promise<void> {
    const { index } = this.#options.target
    const { stream, trim, policy, holds, candidates, objects } = this.#source
    const created = await index.createStream(stream)
    if (trim !== null)
      await index.updateStream(created.incarnation, created.version, { trimmedBelow: trim.below })
    if (policy !== null) await index.setPolicyOverride(stream.incarnation, policy)
    for (const { releasedMs, ...hold } of holds) {
      await index.putHold(stream.incarnation, hold)
      if (releasedMs !== null) await index.releaseHold(stream.incarnation, hold.id, releasedMs)
    }
    for (const of of candidates.values()) for (const { segment } of of) this.#sawEpoch(segment.epoch)
    const first = trim?.below.segment ?? 1n
    const filled = await withoutEmpty(this.#options.ledger, candidates)
    let segments = 0
    let open: SegmentLedger | null = null
    for await (const planned of planSegments(first, filled, objects(first))) {
      this.#options.signal?.throwIfAborted()
      const dropped = this.#source.givenUp(planned.segment)?.reason === 'dropped'
      if (planned.kind === 'hot' && planned.newest && planned.from.end === null && !dropped)
        open = planned.from
      else await this.#closed(planned)
      segments += 1
      this.#options.onProgress?.({ stream: stream.name, segments })
    }
    if (open === null) this.#gapsAbove(first)
    await this.#closeLast(open)
    await this.#keepNumbers()
    await this.#finish(open)
  }

  async #closed(planned: PlannedSegment): Promise<void> {
    const gap = this.#source.givenUp(planned.segment)
    const row = planned.kind === 'missing' ? planned.why : await this.#row(planned, gap)
    if (typeof row === 'string') {
      // What was given up before is no news, and no reason to refuse.
      if (gap === null)
        noteLoss(this.#report, `stream ${this.#source.stream.name}, segment ${planned.segment}: ${row}`)
      this.#missing.push(planned.segment)
      return
    }
    this.#fillGaps(row.startSequenceId)
    // The name of an object that a clone shares is its parent's.
    this.#add({ ...row, incarnation: this.#source.stream.incarnation })
    if (this.#rows.length >= ADOPTED_AT_ONCE) await this.#flush()
  }

  /**
   * The row of what was planned, or why there is none. What was dropped on purpose stays a gap, though its deletion
   * was cut short and some of it is found: readers have been told. Only its object, copied after all, brings it back.
   */
  async #row(
    planned: Exclude<PlannedSegment, { kind: 'missing' }>,
    gap: DecidedGap | null,
  ): Promise<SegmentRow | string> {
    const { signal, ledger } = this.#options
    const { archive } = this.#source
    if (planned.kind === 'hot' && planned.object === null && gap?.reason === 'dropped')
      return 'it was dropped'
    try {
      if (planned.kind === 'hot') {
        const { object, from } = planned
        const row = await hotRow(ledger, from, (openedMs) =>
          Math.max(openedMs, object?.parsed.completionMs ?? ledger.clock.nowMs()),
        )
        // What was archived was closed before: a ledger that ends elsewhere is what a failed start left under the same
        // number, or recovery found more in it than was ever acknowledged.
        if (object !== null && !isThatOf(row, object)) return this.#fromArchive(planned, object, gap)
        this.#used.add(from.ledger.ledgerId)
        this.#report.hot += 1
        if (object === null) return row
        this.#report.both += 1
        return { ...row, ...(await this.#recalled(row, object)) }
      }
      if (archive === null) return 'the archive is not there'
      const row = await coldRow(archive, planned.chosen, planned.twins, signal)
      this.#report.cold += 1
      return row
    } catch (error) {
      signal?.throwIfAborted()
      if (!isStratalogError(error)) throw error
      // The archive's copy serves where the hot one can't be read to its end; the ledger stays where it is.
      if (planned.kind === 'hot' && planned.object !== null)
        return this.#fromArchive(planned, planned.object, gap)
      return messageOf(error)
    }
  }

  #fromArchive(
    { segment }: PlannedSegment,
    chosen: ListedSegment,
    gap: DecidedGap | null,
  ): Promise<SegmentRow | string> {
    return this.#row({ kind: 'cold', segment, chosen, twins: [] }, gap)
  }

  /** A ledger with epoch 0 was written from the object, which tells the epoch it had; a recall may still be asked for. */
  async #recalled(row: SegmentRow, object: ListedSegment): Promise<Partial<SegmentRow>> {
    const { signal } = this.#options
    const { archive } = this.#source
    const recalledUntilMs = this.#source.recalledUntilMs(row.segment)
    if (row.epoch > 0n || archive === null) return { recalledUntilMs }
    const { key, sizeBytes, parsed } = object
    try {
      const reader = await openSegmentObject(archive, { key, sizeBytes, indexBytes: parsed.indexBytes })
      return { recalledUntilMs, epoch: (await reader.header(signal)).epoch }
    } catch (error) {
      // The hot copy is whole whatever has become of the object, and epochs only have to grow.
      if (!isStratalogError(error)) throw error
      return { recalledUntilMs }
    }
  }

  #add(row: SegmentRow): void {
    this.#meets(row.segment, row.startSequenceId, row.openedMs)
    this.#rows.push(row)
    this.#newestRow = row
    this.#sawEpoch(row.epoch)
    this.#end = {
      nextSequenceId: row.startSequenceId + row.recordCount,
      lastTxid: row.lastTxid,
      sealedMs: row.sealedMs ?? row.openedMs,
    }
  }

  /** Sequence ids are dense: where two neighbours don't meet, one of them is not what it seems. */
  #meets(segment: bigint, startSequenceId: bigint, openedMs: number): void {
    const expected = this.#end.nextSequenceId
    if (this.#newestRow !== null && expected !== startSequenceId)
      noteLoss(
        this.#report,
        `stream ${this.#source.stream.name}, segment ${segment}: begins with sequence id ${startSequenceId} and the one before it ends at ${expected}`,
      )
    // Nothing states when a hot segment was completed: at the latest when the next one began.
    const before = this.#rows.at(-1)
    if (before?.state === 'sealed') this.#rows[this.#rows.length - 1] = completedBy(before, openedMs)
  }

  /** The first of several missing segments stands for all their records: how they were divided nobody knows. */
  #fillGaps(nextSequenceId: bigint): void {
    const { incarnation } = this.#source.stream
    for (const segment of this.#missing.splice(0)) {
      const gap = this.#source.givenUp(segment)
      // A decision over this segment alone knows where it ended; else what comes next tells.
      const tail = gap !== null && gap.last === segment ? (gap.tail ?? null) : null
      const row = gapRow(incarnation, segment, this.#end, tail?.nextSequenceId ?? nextSequenceId)
      const told = tail === null ? row : { ...row, lastTxid: tail.lastTxid }
      this.#add(gap === null ? told : { ...told, gapReason: gap.reason })
    }
  }

  /** The newest segments may all be gaps, of which nothing is found: their numbers are not to be given out again. */
  #gapsAbove(first: bigint): void {
    let next = this.#missing.at(-1) ?? this.#newestRow?.segment ?? first - 1n
    for (const { last } of this.#source.gaps) for (; next < last; next += 1n) this.#missing.push(next + 1n)
  }

  /** What the open segment tells of the one before it, and of a hole between them. */
  async #closeLast(open: SegmentLedger | null): Promise<void> {
    this.#fillGaps(open?.segment.startSequenceId ?? this.#end.nextSequenceId)
    if (open !== null) this.#meets(open.segment.segment, open.segment.startSequenceId, open.segment.openedMs)
    await this.#flush()
  }

  async #flush(): Promise<void> {
    const rows = this.#rows.splice(0)
    if (rows.length === 0) return
    await this.#options.target.adoptSegments(rows)
    this.#report.segments += rows.length
  }

  /** A stream of which nothing is left goes on numbering where it was. */
  async #keepNumbers(): Promise<void> {
    const { stream, trim } = this.#source
    if (trim === null || this.#newestRow !== null || trim.below.segment <= 1n) return
    const last = trim.below.segment - 1n
    const tail = trim.tail ?? (await this.#tailOf(last))
    if (tail !== null) {
      await this.#options.target.adoptSegments([trimmedRow(stream.incarnation, last, tail, stream.createdMs)])
    } else if (stream.parent === null) {
      noteLoss(
        this.#report,
        `stream ${stream.name}: all of it is trimmed and nothing says where its sequence ids go on; they begin anew`,
      )
    }
  }

  /**
   * What a trimmed segment leaves to go on from, where no decision says it: a trim that a crash stopped between its
   * marker in the archive and its decision on the stores deleted nothing yet.
   */
  async #tailOf(segment: bigint): Promise<DecidedTrim['tail']> {
    const { candidates, objects } = this.#source
    for await (const planned of planSegments(segment, candidates, objects(segment))) {
      if (planned.segment !== segment || planned.kind === 'missing') break
      const row = await this.#row(planned, null)
      if (typeof row === 'string') break
      return { nextSequenceId: row.startSequenceId + row.recordCount, lastTxid: row.lastTxid }
    }
    return null
  }

  /** The open segment last, under the epoch it was opened with; then the stream goes above all it ever had. */
  async #finish(open: SegmentLedger | null): Promise<void> {
    const { index } = this.#options.target
    const { incarnation } = this.#source.stream
    await this.#sawArchivedEpoch()
    const raise = async (epoch: bigint) => {
      const row = await index.stream(incarnation)
      if (row !== null && row.epoch < epoch) await index.updateStream(incarnation, row.version, { epoch })
    }
    if (open !== null) {
      await raise(open.segment.epoch)
      const begun = await index.beginSegment(openRow(open))
      await index.updateSegment(begun, { state: 'recovering' })
      this.#used.add(open.ledger.ledgerId)
      this.#report.segments += 1
      this.#report.hot += 1
      this.#report.recovering += 1
    }
    await raise(this.#epoch + 1n)
    const { finishedMs } = this.#source
    const row = finishedMs === null ? null : await index.stream(incarnation)
    if (row !== null && finishedMs !== null)
      await index.updateStream(incarnation, row.version, { finishedMs })
  }

  /** Names don't carry epochs; the newest object's header does. */
  async #sawArchivedEpoch(): Promise<void> {
    const { signal } = this.#options
    const { archive } = this.#source
    const object = this.#newestRow?.object ?? null
    if (archive === null || object === null) return
    try {
      const reader = await openSegmentObject(archive, object)
      this.#sawEpoch((await reader.header(signal)).epoch)
    } catch (error) {
      // One object that is damaged, or whose key is away, must not keep a whole log shut: epochs only have to grow.
      if (!EPOCH_UNKNOWN.some((code) => isStratalogError(error, code))) throw error
      this.#sawEpoch(this.#epoch + EPOCHS_LEFT_OUT)
    }
  }

  #sawEpoch(epoch: bigint): void {
    if (epoch > this.#epoch) this.#epoch = epoch
  }
}

function completedBy(row: SegmentRow, nextOpenedMs: number): SegmentRow {
  return { ...row, sealedMs: Math.max(row.openedMs, Math.min(row.sealedMs ?? nextOpenedMs, nextOpenedMs)) }
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}

/** Whether a hot copy ends where the archived object of its segment does. */
function isThatOf(row: SegmentRow, { parsed }: ListedSegment): boolean {
  return (
    row.lastEntryId === parsed.lastEntryId &&
    row.recordCount === parsed.recordCount &&
    row.startSequenceId === parsed.startSequenceId &&
    row.lastTxid === parsed.lastTxid
  )
}
