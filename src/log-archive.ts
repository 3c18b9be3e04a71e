import { listAttempts } from '../archive/attempts.js'
import { bindingOf, readControls } from '../archive/control-objects.js'
import { type ListedSegment, listIncarnations } from '../archive/listing.js'
import {
  type ArchiveCheckOptions,
  type ArchiveCheckPart,
  type ArchiveTally,
  emptyTally,
  verifyArchivedStream,
} from '../archive/verify-archive.js'
import { rowsOf, streamsOf } from '../tiering/all-rows.js'
import {
  archiveNamed,
  archiveOfStream,
  archivesOf,
  belongsIn,
  type LogsArchive,
} from '../tiering/archives.js'
import type { ColdScrubState } from '../tiering/cold-scrub.js'
import { type CollectPart, collectOrphans } from '../tiering/collect.js'
import { type Resolution, resolveConflict } from '../tiering/collect-resolve.js'
import { type FsckPart, fsck } from '../tiering/fsck.js'
import { collectOrphanLedgers, type OrphanLedger } from '../tiering/orphan-ledgers.js'
import { type LogMigration, logMigration } from './log-migrate.js'
import { type LogOwnership, logOwnership } from './log-ownership.js'
import type { LogParts } from './log-parts.js'
import { isStratalogError, StratalogError } from './model/errors.js'
import type { Incarnation, StreamRow } from './model/segment.js'
import type { ArchiveStore } from './ports/archive-store.js'

/** One object of a segment, and the stream it belongs to. */
export interface ArchivedSegmentObject extends ListedSegment {
  readonly stream: string | null
  /** Whether the index names it; null: there is no index to ask. */
  readonly committed: boolean | null
}

/** What a check of the archive yields: findings as they come, at last what was looked at. */
export type ArchiveVerification =
  | ArchiveCheckPart
  | { readonly type: 'end'; readonly streams: number; readonly tally: Readonly<ArchiveTally> }

/** What a look for orphans yields: objects of the archive, ledgers of the stores, at last a tally of the objects. */
export type OrphanReport = CollectPart | { readonly type: 'ledger'; readonly orphan: OrphanLedger }

/** What is looked at. */
export interface VerifyArchiveOptions {
  /** One stream only. */
  readonly stream?: string
  /** One archive only, where the log has several: where it is. */
  readonly archive?: string
  /** Read every byte, not names and sizes alone. @default false */
  readonly deep?: boolean
  /** The part of the objects that `deep` reads, in (0, 1]. @default 1 */
  readonly sample?: number
  /** Chooses the sample; the same seed chooses the same objects. @default '' */
  readonly seed?: string
  readonly signal?: AbortSignal
}

/** What is collected. */
export interface OrphanOptions {
  readonly stream?: string
  /** One archive only, where the log has several: where it is. */
  readonly archive?: string
  /** How long something has to be known as an orphan before it may go, in ms. @default 24 h */
  readonly graceMs?: number
  readonly signal?: AbortSignal
}

/** The verbs on the archive of a log. They reject with `archive_missing` where none is configured. */
export interface LogArchive extends LogOwnership, LogMigration {
  /** Objects in order of stream and segment, with those no row names. */
  objects(options?: {
    readonly stream?: string
    /** One archive only, where the log has several: where it is. */
    readonly archive?: string
    readonly signal?: AbortSignal
  }): AsyncIterable<ArchivedSegmentObject>
  /**
   * Compares index, names and, with `deep`, every byte. Read-only.
   *
   * @example
   * ```ts
   * import { openLog } from 'stratalog'
   * await using log = await openLog('./data')
   * for await (const part of log.archive.verify({ deep: true, sample: 0.01 })) {
   *   if (part.type === 'finding') console.log(part.finding.text, part.finding.mend)
   * }
   * ```
   */
  verify(options?: VerifyArchiveOptions): AsyncIterable<ArchiveVerification>
  /** What nobody refers to, in the archive and on the stores. Deletes nothing. */
  orphans(options?: OrphanOptions): AsyncIterable<OrphanReport>
  /** Deletes of it what is proven dead and old enough. */
  collect(options?: OrphanOptions): AsyncIterable<OrphanReport>
  /** Ends a conflict: the attempt is the segment, and objects with another content are deleted. */
  resolve(stream: string, segment: bigint, attempt: string, signal?: AbortSignal): Promise<Resolution>
  /** Scrubs the archive now, until the pass under way or the one that is due is over. */
  scrub(signal?: AbortSignal): Promise<ColdScrubState>
}

/** The verbs over the parts of a log. */
export function logArchive(parts: LogParts): LogArchive {
  const endless = new AbortController().signal
  return {
    ...logOwnership(parts),
    ...logMigration(parts),
    objects: (options = {}) => listObjects(parts, options),
    verify: (options = {}) => verifyLog(parts, options),
    orphans: ({ signal = endless, ...options } = {}) =>
      orphansOf(parts, { ...options, signal, collect: false }),
    collect: ({ signal = endless, ...options } = {}) =>
      orphansOf(parts, { ...options, signal, collect: true }),
    resolve: async (name, segment, attempt, signal = endless) => {
      if (parts.archive === null) throw noArchive()
      return resolveConflict(parts.tiering, await streamNamed(parts, name), segment, attempt, signal)
    },
    scrub: async (signal) => {
      const state = await parts.upkeep.coldScrubPass(signal)
      if (state === null) throw noArchive()
      return state
    },
  }
}

/** Whether index, stores and archive of a log say the same. Read-only. */
export function fsckLog(
  parts: LogParts,
  options: { readonly deep?: boolean; readonly signal?: AbortSignal },
): AsyncGenerator<FsckPart, void, undefined> {
  const { deep = false, signal = new AbortController().signal } = options
  return fsck(parts.tiering, { deep, signal })
}

async function* listObjects(
  parts: LogParts,
  {
    stream,
    archive,
    signal,
  }: { readonly stream?: string; readonly archive?: string; readonly signal?: AbortSignal },
): AsyncGenerator<ArchivedSegmentObject, void, undefined> {
  const only = stream === undefined ? null : await streamNamed(parts, stream)
  for (const { own, open } of await archivesMeant(parts, only, archive)) {
    yield* listObjectsIn(parts, await open(), only, own, signal)
  }
}

async function* listObjectsIn(
  parts: LogParts,
  archive: ArchiveStore,
  only: StreamRow | null,
  own: string | null,
  signal: AbortSignal | undefined,
): AsyncGenerator<ArchivedSegmentObject, void, undefined> {
  const { index } = parts.segments
  const incarnations = only === null ? listIncarnations(archive, undefined, signal) : [only.incarnation]
  for await (const incarnation of incarnations) {
    // What a stream has in an archive that it does not lie in no row of it names.
    const here = await belongsIn(parts.tiering, incarnation, own)
    const name = (await index.stream(incarnation))?.name ?? (await nameOf(archive, incarnation, signal))
    for await (const { segment, attempts } of listAttempts(archive, incarnation, 0n, undefined, signal)) {
      const row = await index.segment(incarnation, segment)
      for (const object of attempts) {
        yield { ...object, stream: name, committed: here && row?.object?.key === object.key }
      }
    }
  }
}

/** The objects of an archive alone. `stream_not_found` for a name it does not have. */
export async function* listArchive(
  archive: ArchiveStore,
  { stream, signal }: { readonly stream?: string; readonly signal?: AbortSignal } = {},
): AsyncGenerator<ArchivedSegmentObject, void, undefined> {
  for await (const { incarnation, name } of namedIncarnations(archive, stream, signal)) {
    for await (const { attempts } of listAttempts(archive, incarnation, 0n, undefined, signal)) {
      for (const object of attempts) yield { ...object, stream: name, committed: null }
    }
  }
}

/** Checks an archive by itself, as whoever restores it will find it. */
export async function* verifyArchive(
  archive: ArchiveStore,
  options: VerifyArchiveOptions = {},
): AsyncGenerator<ArchiveVerification, void, undefined> {
  const { stream, ...check } = checkOf(options)
  const tally = emptyTally()
  let streams = 0
  for await (const { incarnation, name } of namedIncarnations(archive, stream, options.signal)) {
    streams += 1
    yield* verifyArchivedStream(archive, { incarnation, name, rows: null, fresh: null }, tally, check)
  }
  yield { type: 'end', streams, tally }
}

async function* verifyLog(
  parts: LogParts,
  options: VerifyArchiveOptions,
): AsyncGenerator<ArchiveVerification, void, undefined> {
  const { stream, ...check } = checkOf(options)
  const only = stream === undefined ? null : await streamNamed(parts, stream)
  const found = { streams: 0, tally: emptyTally() }
  let first: unknown = null
  for (const one of await archivesMeant(parts, only, options.archive)) {
    try {
      yield* verifyIn(parts, one, only, check, found)
    } catch (error) {
      options.signal?.throwIfAborted()
      // One that some streams have to themselves keeps nobody from checking the others; it is told at the end.
      if (one.own === null || !isStratalogError(error)) throw error
      first ??= error
    }
  }
  if (first !== null) throw first
  yield { type: 'end', ...found }
}

async function* verifyIn(
  parts: LogParts,
  { own, open }: LogsArchive,
  only: StreamRow | null,
  check: ArchiveCheckOptions,
  found: { streams: number; tally: ArchiveTally },
): AsyncGenerator<ArchiveVerification, void, undefined> {
  const { index } = parts.segments
  const archive = await open()
  const verifyOne = ({ incarnation, name }: StreamRow) => {
    const rows = rowsOf(index, incarnation)
    const fresh = (segment: bigint) => index.segment(incarnation, segment)
    found.streams += 1
    return verifyArchivedStream(archive, { incarnation, name, rows, fresh }, found.tally, check)
  }
  if (only !== null) return yield* verifyOne(only)
  for await (const stream of streamsOf(index))
    if (await belongsIn(parts.tiering, stream.incarnation, own)) yield* verifyOne(stream)
  // What the index does not know belongs to the archive all the same, and is checked by itself.
  for await (const incarnation of listIncarnations(archive, undefined, check.signal)) {
    if ((await index.stream(incarnation)) !== null) continue
    found.streams += 1
    const unknown = { incarnation, name: null, rows: null, fresh: null }
    yield* verifyArchivedStream(archive, unknown, found.tally, check)
  }
}

/** The archives that are meant: the one of a stream, the one that is named, else all. */
async function archivesMeant(
  { tiering }: LogParts,
  only: StreamRow | null,
  named: string | undefined,
): Promise<LogsArchive[]> {
  if (tiering.archive === null) throw noArchive()
  if (only !== null) return [await archiveOfStream(tiering, only.incarnation)]
  return named === undefined ? archivesOf(tiering) : [await archiveNamed(tiering, named)]
}

async function* orphansOf(
  parts: LogParts,
  options: OrphanOptions & { readonly signal: AbortSignal; readonly collect: boolean },
): AsyncGenerator<OrphanReport, void, undefined> {
  const { stream, ...forLedgers } = options
  if (stream === undefined) {
    // Ledgers of no segment are of no stream either, and are there without an archive too.
    const { waiting, due, deleted, kept } = await collectOrphanLedgers(parts.tiering, forLedgers)
    for (const orphan of [...due, ...deleted, ...waiting, ...kept]) yield { type: 'ledger', orphan }
  }
  if (parts.archive !== null || stream !== undefined) {
    if (parts.archive === null) throw noArchive()
    yield* collectOrphans(parts.tiering, options)
  }
}

function checkOf(options: VerifyArchiveOptions): ArchiveCheckOptions & { readonly stream?: string } {
  const { sample = 1, deep = false } = options
  if (!(sample > 0 && sample <= 1)) {
    throw new StratalogError(
      'invalid_argument',
      `a sample of ${sample} is no part: use above 0 and up to 1`,
      {
        found: sample,
      },
    )
  }
  return { ...options, deep, sample }
}

async function* namedIncarnations(
  archive: ArchiveStore,
  only: string | undefined,
  signal: AbortSignal | undefined,
): AsyncGenerator<{ incarnation: Incarnation; name: string | null }, void, undefined> {
  let found = only === undefined
  for await (const incarnation of listIncarnations(archive, undefined, signal)) {
    const name = await nameOf(archive, incarnation, signal)
    if (only !== undefined && name !== only) continue
    found = true
    yield { incarnation, name }
  }
  if (!found) {
    throw new StratalogError(
      'stream_not_found',
      `${archive.location} has no stream ${only}: see "stratalog archive ls --from ${archive.location}"`,
      { found: only },
    )
  }
}

/** Null: it has no name, or what names it can't be read; the check says so. */
async function nameOf(
  archive: ArchiveStore,
  incarnation: Incarnation,
  signal: AbortSignal | undefined,
): Promise<string | null> {
  try {
    return bindingOf(await readControls(archive, incarnation, undefined, signal))?.name ?? null
  } catch (error) {
    if (isStratalogError(error, 'corrupt') || isStratalogError(error, 'version_unsupported')) return null
    throw error
  }
}

async function streamNamed(parts: LogParts, name: string): Promise<StreamRow> {
  const stream = await parts.segments.index.streamByName(name)
  if (stream !== null) return stream
  throw new StratalogError('stream_not_found', `there is no stream ${name}: see "stratalog stream list"`, {
    found: name,
  })
}

function noArchive(): StratalogError {
  return new StratalogError(
    'archive_missing',
    'this log has no archive: name one under "archive" in stratalog.yaml',
  )
}
