import type { ColdScrubState } from '../../tiering/cold-scrub.js'
import { coldScrubStatus } from '../../tiering/cold-scrub.js'
import type { Log } from '../log.js'
import type { ArchivedSegmentObject, ArchiveVerification, OrphanReport } from '../log-archive.js'
import type {
  ArchiveApi,
  ArchiveLsPart,
  ArchiveObjectDto,
  ArchiveVerifyPart,
  ColdScrubDto,
  ColdScrubPart,
  FsckPartDto,
  OrphanPart,
  ResolutionDto,
} from '../model/control-archive.js'
import { checkStreamName } from '../model/stream-name.js'
import { parseInteger } from '../model/units.js'

/** Progress is told this often at most: a million segments are not a million lines. */
const PROGRESS_MS = 200
const INT64_MAX = 2n ** 63n - 1n

/** A value as JSON has it: ids and positions as decimal strings. */
type Wire<T> = T extends bigint
  ? string
  : T extends readonly (infer U)[]
    ? readonly Wire<U>[]
    : T extends object
      ? { readonly [K in keyof T]: Wire<T[K]> }
      : T

function wire<T>(value: T): Wire<T> {
  if (typeof value === 'bigint') return value.toString() as Wire<T>
  if (Array.isArray(value)) return value.map(wire) as Wire<T>
  if (typeof value !== 'object' || value === null) return value as Wire<T>
  return Object.fromEntries(Object.entries(value).map(([key, part]) => [key, wire(part)])) as Wire<T>
}

/** The verbs on the archive over a log of this process. */
export function archiveVerbs(log: Log): ArchiveApi {
  const throttled = <T extends { readonly type: string }>(parts: AsyncIterable<T>) =>
    lessProgress(parts, () => log.parts.segments.ledger.clock.monotonicMs())
  return {
    archiveLs: ({ stream, ...which }, signal) =>
      ls(log.archive.objects({ ...streamOf({ stream }), ...which, ...stopOf(signal) })),
    archiveVerify: ({ stream, ...options }, signal) =>
      mapped(
        throttled(log.archive.verify({ ...streamOf({ stream }), ...options, ...stopOf(signal) })),
        verifyPart,
      ),
    archiveOrphans: ({ stream, archive, graceMs, collect }, signal) => {
      const options = {
        ...streamOf({ stream }),
        ...stopOf(signal),
        ...(archive === undefined ? {} : { archive }),
        ...(graceMs === undefined ? {} : { graceMs }),
      }
      return mapped(collect ? log.archive.collect(options) : log.archive.orphans(options), orphanPart)
    },
    archiveResolve: async ({ stream, segment, attempt }): Promise<ResolutionDto> => {
      const number = parseInteger(segment, 'a segment number', 1n, INT64_MAX)
      return wire(await log.archive.resolve(checkStreamName(stream), number, attempt))
    },
    archiveScrub: (signal) => scrubbed(log, signal),
    fsck: (options, signal) =>
      mapped(throttled(log.fsck({ ...options, ...stopOf(signal) })), (part): FsckPartDto => wire(part)),
  }
}

async function* scrubbed(log: Log, signal?: AbortSignal): AsyncGenerator<ColdScrubPart, void, undefined> {
  const { clock } = log.parts.segments.ledger
  const stop = new AbortController()
  const run = log.archive.scrub(signal)
  run.catch(() => undefined)
  try {
    for (;;) {
      const pause = clock.sleep(PROGRESS_MS, stop.signal).then(() => null)
      pause.catch(() => undefined)
      const ended = await Promise.race([run, pause])
      if (ended !== null) {
        yield { type: 'end', scrub: coldScrubDto(ended) }
        return
      }
      const { cold } = await log.parts.upkeep.state()
      if (cold !== null) yield { type: 'progress', scrub: coldScrubDto(cold) }
    }
  } finally {
    stop.abort()
  }
}

/** How the scrub of the archive is getting on, for whoever shows it. */
export function coldScrubDto(state: ColdScrubState): ColdScrubDto {
  const { passStartedMs, passEndsMs, lastPassMs, idle, doneBytes, totalBytes, repaired, alarms } = state
  const { percent } = coldScrubStatus(state)
  return {
    passStartedMs,
    passEndsMs,
    lastPassMs,
    idle,
    percent,
    doneBytes,
    totalBytes,
    repaired,
    alarms: wire(alarms),
  }
}

/** An object as the command line shows it. */
export function archiveObjectDto({
  key,
  sizeBytes,
  parsed,
  stream,
  committed,
}: ArchivedSegmentObject): ArchiveObjectDto {
  return {
    stream,
    incarnation: parsed.incarnation,
    segment: parsed.segment.toString(),
    attempt: parsed.attempt,
    key,
    sizeBytes,
    records: parsed.recordCount.toString(),
    firstSequenceId: parsed.startSequenceId.toString(),
    firstTxid: parsed.firstTxid.toString(),
    lastTxid: parsed.lastTxid.toString(),
    completionMs: parsed.completionMs,
    contentDigest: parsed.contentDigest,
    committed,
  }
}

/** The objects, and what they come to. */
export async function* ls(
  objects: AsyncIterable<ArchivedSegmentObject>,
): AsyncGenerator<ArchiveLsPart, void, undefined> {
  const end = { objects: 0, bytes: 0 }
  for await (const object of objects) {
    end.objects += 1
    end.bytes += object.sizeBytes
    yield { type: 'object', object: archiveObjectDto(object) }
  }
  yield { type: 'end', ...end }
}

/** A part of a check as JSON has it. */
export function verifyPart(part: ArchiveVerification): ArchiveVerifyPart {
  return wire(part)
}

function orphanPart(part: OrphanReport): OrphanPart {
  if (part.type === 'end') return wire(part)
  if (part.type === 'orphan') return { type: 'object', orphan: wire(part.orphan) }
  const { ledgerId, segment, firstSeenMs, outcome, why } = part.orphan
  return {
    type: 'ledger',
    orphan: {
      ledgerId: ledgerId.toString(),
      stream: segment?.stream ?? null,
      segment: segment?.segment.toString() ?? null,
      firstSeenMs,
      outcome,
      why,
    },
  }
}

async function* mapped<T, U>(
  parts: AsyncIterable<T>,
  map: (part: T) => U,
): AsyncGenerator<U, void, undefined> {
  for await (const part of parts) yield map(part)
}

async function* lessProgress<T extends { readonly type: string }>(
  parts: AsyncIterable<T>,
  nowMs: () => number,
): AsyncGenerator<T, void, undefined> {
  let toldMs = Number.NEGATIVE_INFINITY
  for await (const part of parts) {
    if (part.type === 'progress') {
      if (nowMs() - toldMs < PROGRESS_MS) continue
      toldMs = nowMs()
    }
    yield part
  }
}

function streamOf({ stream }: { readonly stream?: string | undefined }): { readonly stream?: string } {
  return stream === undefined ? {} : { stream: checkStreamName(stream) }
}

function stopOf(signal: AbortSignal | undefined): { readonly signal?: AbortSignal } {
  return signal === undefined ? {} : { signal }
}
