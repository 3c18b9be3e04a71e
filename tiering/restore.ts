import { readControls, trimmedBelow } from '../archive/control-objects.js'
import { deletedMs } from '../archive/decisions.js'
import type { Dlsn } from '../src/model/dlsn.js'
import { isStratalogError, StratalogError } from '../src/model/errors.js'
import { randomIncarnation } from '../src/model/incarnation.js'
import type { StreamRow } from '../src/model/segment.js'
import type { ArchiveStore } from '../src/ports/archive-store.js'
import type { Lease } from '../src/ports/coordination.js'
import { noteRestoredGap } from './announce.js'
import { isDamage, type RestoredEnd, restoredGapRow, restoreEnd, restoreSegment } from './restore-copy.js'
import { digestOfRestored, type RestoredStreamReport, readBack } from './restore-report.js'
import { thawRest } from './restore-thaw.js'
import type {
  RestorableSegment,
  RestorableStream,
  RestoreGap,
  RestoreOptions,
  RestorePlan,
  RestoreReport,
  RestoreTarget,
} from './restore-types.js'

export { planRestore } from './restore-plan.js'

/** A restore that was killed holds its leases until its session ends: 10 s unless configured otherwise. */
const LEASE_WAIT_MS = 15_000

/**
 * Restores what the plan lists into a log: each stream as a new incarnation that names its parent and where it leaves
 * it, with equal DLSNs, txids and payloads, sealed in the hot tier; what is not to be had is a committed gap. Run
 * again after an interruption it goes on behind the last whole segment, and nothing is there twice.
 *
 * Rejects with `refused` where the log has other streams of these names, before anything is written; with `corrupt`,
 * if `strict`, at the first segment that is missing or damaged: what was restored before stays; with `thawing` where
 * objects can't be read yet: all of them were asked for, and the same restore goes on when they can.
 */
export async function restoreInto(
  target: RestoreTarget,
  archive: ArchiveStore,
  plan: RestorePlan,
  options: RestoreOptions = {},
): Promise<RestoreReport> {
  if (options.strict === true) for (const source of plan.streams) refuseHoles(plan, source)
  const there = new Map<string, StreamRow>()
  for (const source of plan.streams) {
    const row = await target.index.streamByName(source.name)
    if (row === null) continue
    refuseAnother(row, source)
    there.set(source.name, row)
  }
  const done = { records: 0n, objectBytes: 0, segments: 0, resumed: 0 }
  const reports: RestoredStreamReport[] = []
  for (const planned of plan.streams) {
    const before = there.get(planned.name) ?? null
    const source = before === null ? planned : upTo(planned, before.parent?.fork ?? null)
    const row = await targetStream(target, source, before)
    reports.push(
      await alone(target, row, options, async (options) => {
        try {
          await new StreamRestore(target, archive, source, row, options, done).run()
        } catch (error) {
          if (!isStratalogError(error, 'thawing')) throw error
          throw await thawRest(target, archive, plan, error, options.signal)
        }
        return readBack(target, archive, row, source, options.signal)
      }),
    )
  }
  const gaps = reports.flatMap(({ name, gaps }) => gaps.map((gap) => ({ stream: name, ...gap })))
  return {
    streams: reports.length,
    segments: reports.reduce((sum, { segments }) => sum + segments.length, 0),
    resumed: done.resumed,
    records: reports.reduce((sum, { records }) => sum + records, 0n),
    gaps,
    digest: digestOfRestored(reports),
  }
}

function refuseHoles(plan: RestorePlan, source: RestorableStream): void {
  const { missing, name, lostAtEnd } = source
  if (lostAtEnd > 0n)
    throw new StratalogError(
      'corrupt',
      `${name} ended with ${lostAtEnd} more records than ${plan.location} holds: restore what there is without --strict`,
    )
  if (missing.length === 0) return
  throw new StratalogError(
    'corrupt',
    `${name}: segment ${missing.slice(0, 5).join(', ')}${missing.length > 5 ? ', …' : ''} is missing in ${plan.location}: put the objects back, then run the restore again, or restore with gaps, without --strict`,
    { details: { missing: missing.map(String) } },
  )
}

function damagedThere({ name }: RestorableStream, segment: bigint, cause: Error): StratalogError {
  return new StratalogError(
    'corrupt',
    `${name}: segment ${segment} is damaged (${cause.message}): put its object back from a backup of the archive, then run the restore again, or restore with gaps, without --strict`,
    { cause },
  )
}

/** Only what an earlier run of the same restore began may be there. */
function refuseAnother(row: StreamRow, source: RestorableStream): void {
  const { name, incarnation } = source
  if (row.parent?.incarnation !== incarnation)
    throw new StratalogError(
      'refused',
      `the log has a stream ${name} of its own: restore it under another name with --as ${source.binding.name}=NAME, or into an empty directory`,
      { found: name },
    )
  const below = row.trimmedBelow
  if (below !== null && (source.trimmedBelow === null || source.trimmedBelow.compare(below) < 0))
    throw new StratalogError(
      'refused',
      `${name} was restored and then trimmed up to ${below}: what is below that comes back only under another name, with --as ${source.binding.name}=NAME, or in an empty directory`,
      { found: below.toString() },
    )
  const { fork } = row.parent
  // An archive that is in use grows between two runs; a restore goes on to where it was going when it began.
  if (fork === null || fork.compare(source.fork) === 0 || (isWhole(fork) && fork.compare(source.fork) < 0))
    return
  throw new StratalogError(
    'refused',
    `${name} was begun as a restore up to ${fork} and this one ends at ${source.fork}: run it with the same --until, or under another name with --as ${source.binding.name}=NAME`,
    { expected: fork.toString(), found: source.fork.toString() },
  )
}

function isWhole({ entry, slot }: Dlsn): boolean {
  return entry === 0n && slot === 0n
}

/** The part of a stream below where an earlier run said it would leave its parent. */
function upTo(source: RestorableStream, fork: Dlsn | null): RestorableStream {
  if (fork === null || fork.compare(source.fork) >= 0) return source
  const segments = source.segments.filter(({ parsed }) => parsed.segment < fork.segment)
  const gaps = source.gaps
    .filter(({ first }) => first < fork.segment)
    .map((gap) => (gap.last < fork.segment ? gap : { ...gap, last: fork.segment - 1n }))
  return { ...source, segments, gaps, fork, end: null, lostAtEnd: 0n }
}

async function targetStream(
  target: RestoreTarget,
  source: RestorableStream,
  there: StreamRow | null,
): Promise<StreamRow> {
  if (there !== null) return likeSource(target, there, source)
  const row = {
    incarnation: randomIncarnation(target.random),
    name: source.name,
    txidMode: source.binding.txidMode,
    createdMs: target.ledger.clock.nowMs(),
    parent: { incarnation: source.incarnation, fork: source.fork },
  }
  return likeSource(target, await target.index.createStream(row), source)
}

/**
 * The restored stream begins where its source did, and says so: else nobody could tell later that what is below was
 * ended on purpose. It is held as its source is and has its policy, before there is anything that another one would
 * trim. Before its first segment; a crash after the stream was made comes here again.
 */
async function likeSource(
  target: RestoreTarget,
  row: StreamRow,
  source: RestorableStream,
): Promise<StreamRow> {
  const { index } = target
  const { incarnation } = row
  if ((await index.newestSegment(incarnation)) !== null) return row
  for (const { id, from, until, reason, atMs } of source.holds)
    await index.putHold(incarnation, { id, from, until, reason, atMs })
  if (source.policy !== null && fits(target, source, source.policy))
    await index.setPolicyOverride(incarnation, source.policy)
  const { trimmedBelow: below } = source
  if (below === null || row.trimmedBelow !== null) return row
  const { version } = (await index.stream(incarnation)) ?? row
  return index.updateStream(incarnation, version, { trimmedBelow: below })
}

/** Records come before policies: one that does not fit here is left out, and said. */
function fits(target: RestoreTarget, { name }: RestorableStream, policy: string): boolean {
  try {
    target.checkPolicy?.(name, policy)
    return true
  } catch (error) {
    if (!isStratalogError(error)) throw error
    const message = 'the policy that a stream had of its own does not fit here and is left out: set it again'
    target.ledger.logger.error({ err: error, stream: name, policy }, message)
    return false
  }
}

/**
 * Restores one stream while nobody else writes or tiers it: what is restored is old, so that an agent of another process
 * would evict or trim it while it is still being compared, and what another appended would stand where a segment belongs.
 */
async function alone<T>(
  { coordination }: RestoreTarget,
  { incarnation, name }: StreamRow,
  options: RestoreOptions,
  work: (options: RestoreOptions) => Promise<T>,
): Promise<T> {
  if (coordination === undefined) return work(options)
  const leases: Lease[] = []
  const { signal } = options
  const taken = { holder: 'restore', waitMs: LEASE_WAIT_MS, ...(signal === undefined ? {} : { signal }) }
  try {
    for (const right of ['writer', 'tiering'])
      leases.push(await coordination.acquire(`${right}/${incarnation}`, taken).catch(heldOf(name)))
    const ends = [...leases.map(({ lost }) => lost), ...(signal === undefined ? [] : [signal])]
    return await work({ ...options, signal: AbortSignal.any(ends) })
  } finally {
    for (const lease of leases.reverse()) await lease.release()
  }
}

function heldOf(name: string): (error: unknown) => never {
  return (error) => {
    if (!isStratalogError(error, 'conflict')) throw error
    throw new StratalogError(
      'conflict',
      `${name} is written or tiered by another process, which may be the same restore: end that one, then run the restore again (${error.message})`,
      { cause: error, retryable: true },
    )
  }
}

type Step =
  | { readonly kind: 'segment'; readonly at: bigint; readonly one: RestorableSegment }
  | { readonly kind: 'gap'; readonly at: bigint; readonly one: RestoreGap }

/** One stream on its way. */
class StreamRestore {
  readonly #target: RestoreTarget
  readonly #archive: ArchiveStore
  readonly #source: RestorableStream
  readonly #row: StreamRow
  readonly #options: RestoreOptions
  readonly #done: { records: bigint; objectBytes: number; segments: number; resumed: number }
  #streamDone = 0

  constructor(
    target: RestoreTarget,
    archive: ArchiveStore,
    source: RestorableStream,
    row: StreamRow,
    options: RestoreOptions,
    done: { records: bigint; objectBytes: number; segments: number; resumed: number },
  ) {
    this.#target = target
    this.#archive = archive
    this.#source = source
    this.#row = row
    this.#options = options
    this.#done = done
  }

  async run(): Promise<void> {
    const newest = await this.#target.index.newestSegment(this.#row.incarnation)
    let end: RestoredEnd | null = newest === null ? null : endOf(newest)
    const steps = this.#steps()
    const next = newest === null ? null : newest.segment + 1n
    if (next !== null && next < (steps[0]?.at ?? 0n)) throw this.#trimmedMeanwhile()
    for (const [at, step] of steps.entries()) {
      this.#options.signal?.throwIfAborted()
      if (step.kind === 'segment') {
        if (newest === null || newest.segment < step.at) end = await this.#segment(step.one, end)
        else this.#done.resumed += 1
        this.#told(step.at, step.one.restored.recordCount, step.one.sizeBytes, 1)
      } else {
        const next = steps[at + 1]
        const following = next?.kind === 'segment' ? next.one.restored.startSequenceId : null
        end = await this.#gap(step.one, newest?.segment ?? 0n, end, following)
        this.#told(step.one.last, 0n, 0, Number(step.one.last - step.one.first) + 1)
      }
    }
    await this.#finish()
  }

  #steps(): Step[] {
    const { segments, gaps } = this.#source
    return [
      ...segments.map((one) => ({ kind: 'segment' as const, at: one.restored.segment, one })),
      ...gaps.map((one) => ({ kind: 'gap' as const, at: one.first, one })),
    ].sort((a, b) => (a.at < b.at ? -1 : 1))
  }

  #told(segment: bigint, records: bigint, objectBytes: number, segments: number): void {
    const { segments: planned, gaps } = this.#source
    this.#done.records += records
    this.#done.objectBytes += objectBytes
    this.#streamDone += segments
    this.#options.onProgress?.({
      stream: this.#row.name,
      segment,
      doneRecords: this.#done.records,
      doneObjectBytes: this.#done.objectBytes,
      streamDone: this.#streamDone,
      streamSegments:
        planned.length + gaps.reduce((sum, { first, last }) => sum + Number(last - first) + 1, 0),
    })
  }

  async #segment(one: RestorableSegment, end: RestoredEnd | null): Promise<RestoredEnd> {
    const { segment, startSequenceId, recordCount, completionMs } = one.restored
    try {
      return endOf(await restoreSegment(this.#target, this.#archive, this.#row, one, this.#options.signal))
    } catch (error) {
      if (!isDamage(error)) throw error
      if (this.#options.strict === true) throw damagedThere(this.#source, segment, error)
      await this.#refuseTrimmedMeanwhile(segment)
      const gap = { first: segment, last: segment, reason: 'corrupt' as const, why: error.message }
      this.#target.ledger.logger.error(
        { err: error, stream: this.#row.name, segment: segment.toString() },
        'no object of a segment is whole: it is restored as a gap',
      )
      const before = end ?? { nextSequenceId: startSequenceId, lastTxid: -1n, sealedMs: completionMs }
      return this.#gap({ ...gap, committed: false }, 0n, before, startSequenceId + recordCount)
    }
  }

  /** An archive that is in use is trimmed while it is read: what went away on purpose is not damaged. */
  async #refuseTrimmedMeanwhile(segment: bigint): Promise<void> {
    const controls = await readControls(this.#archive, this.#source.incarnation)
    const below = trimmedBelow(controls)
    if (below !== null && below.segment > segment) throw this.#trimmedMeanwhile(below)
    if (deletedMs(controls) !== null && this.#source.deletedMs === null)
      throw new StratalogError(
        'conflict',
        `${this.#source.binding.name} was deleted while it was restored: what was restored before is there, ${this.#row.name} ends with it`,
      )
  }

  #trimmedMeanwhile(below: Dlsn | null = this.#source.trimmedBelow): StratalogError {
    return new StratalogError(
      'conflict',
      `${this.#source.binding.name} was trimmed up to ${below} while it was restored: restore it again under another name or into an empty directory`,
      { found: `${below}` },
    )
  }

  /** Rows of a gap; what says why goes to the stores with the first of them, and to the archive with the stream. */
  async #gap(
    { first, last, reason }: RestoreGap,
    newest: bigint,
    end: RestoredEnd | null,
    following: bigint | null,
  ): Promise<RestoredEnd> {
    const { index } = this.#target
    let before = end ?? this.#beginning(following)
    await noteRestoredGap(index, this.#row.incarnation, { first, last, reason })
    let told = false
    for (let segment = first; segment <= last; segment += 1n) {
      if (segment <= newest) continue
      const row = { ...restoredGapRow(this.#row, segment, before, following), gapReason: reason }
      before = endOf(await index.adoptSegment(row, told ? null : { reason, last }))
      told = true
    }
    return before
  }

  /** Of a stream whose old end was trimmed nobody knows how many records there were. */
  #beginning(following: bigint | null): RestoredEnd {
    const { trimmedBelow: below, binding } = this.#source
    const nextSequenceId = below === null ? 0n : (following ?? 0n)
    return { nextSequenceId, lastTxid: -1n, sealedMs: binding.createdMs }
  }

  async #finish(): Promise<void> {
    const { end } = this.#source
    const { index } = this.#target
    const row = end === null ? null : await index.stream(this.#row.incarnation)
    if (end === null || row === null || row.finishedMs !== null) return
    const newest = await index.newestSegment(row.incarnation)
    // It went on by itself since it was restored: that its source ended later is none of its business.
    if (newest !== null && newest.segment >= this.#source.fork.segment) return
    if (this.#target.endRecords === true) {
      const before = newest === null ? this.#beginning(null) : endOf(newest)
      await restoreEnd(this.#target, this.#row, this.#source.fork.segment, before, end.atMs)
    }
    // The record, where it is there, may have brought the row up to it.
    const { version, finishedMs } = (await index.stream(row.incarnation)) ?? row
    if (finishedMs === null) await index.updateStream(row.incarnation, version, { finishedMs: end.atMs })
  }
}

function endOf(row: {
  readonly startSequenceId: bigint
  readonly recordCount: bigint
  readonly lastTxid: bigint
  readonly sealedMs: number | null
  readonly openedMs: number
}): RestoredEnd {
  return {
    nextSequenceId: row.startSequenceId + row.recordCount,
    lastTxid: row.lastTxid,
    sealedMs: row.sealedMs ?? row.openedMs,
  }
}
