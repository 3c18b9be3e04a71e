import type { LogEvent } from '../../tiering/events.js'
import { segmentsOf, type ThawWait } from '../../tiering/thaw.js'
import type { UpkeepState } from '../../tiering/upkeep.js'
import type { Log } from '../log.js'
import type { ScrubDto, StreamTiersDto, TierStatusDto } from '../model/control-api.js'
import type { ArchiveStatusDto, EventDto, ThawingDto } from '../model/control-status.js'
import type { ArchiveDown } from '../model/policy.js'
import type { StreamTiers, TierStatus } from '../tier-status.js'
import { coldScrubDto } from './archive-verbs.js'
import { plannedDto, segmentDto, streamDto } from './dto.js'
import { unrepairableDto } from './stores.js'
import { ordersDto } from './tiering-verbs.js'

/** Gaps that are counted; a log with more of them has other worries. */
const GAPS_MAX = 1_000

/** How protected every stream is, as the command line shows it. */
export async function statusDto(log: Log): Promise<TierStatusDto> {
  const status = await log.tier.status()
  const gaps = await log.parts.segments.index.segmentsInState(['gap'], GAPS_MAX)
  const streams: StreamTiersDto[] = []
  for (const one of status.streams) streams.push(await streamTiersDto(log, one))
  return {
    atMs: status.atMs,
    archive: archiveDto(status),
    stalled: status.archive.stalled.map(({ kind, stream, segment, stalledSinceMs, beganMs }) => ({
      kind,
      stream,
      segment: segment?.toString() ?? null,
      sinceMs: stalledSinceMs ?? beganMs,
    })),
    forecasts: status.archive.forecasts,
    stores: status.stores,
    scrub: scrubDto(status.upkeep),
    coldScrub: status.upkeep.cold === null ? null : coldScrubDto(status.upkeep.cold),
    streams,
    policy: log.policies.source,
    gaps: gaps.length,
    orders: ordersDto(await log.tier.orders()),
  }
}

function thawingDto(waits: readonly ThawWait[]): ThawingDto | null {
  if (waits.length === 0) return null
  return {
    segments: segmentsOf(waits),
    sinceMs: Math.min(...waits.map(({ sinceMs }) => sinceMs)),
    nextAskMs: Math.min(...waits.map(({ nextAskMs }) => nextAskMs)),
    problem: waits.find(({ problem }) => problem !== null)?.problem ?? null,
  }
}

/** The events of a log, as the command line shows them. */
export async function* eventDtos(
  log: Log,
  options: { readonly after: number; readonly follow: boolean },
  signal?: AbortSignal,
): AsyncGenerator<EventDto, void, undefined> {
  const events = log.tier.events({ ...options, ...(signal === undefined ? {} : { signal }) })
  for await (const event of events) yield eventDto(event)
}

function eventDto(event: LogEvent): EventDto {
  const { sequence, atMs, type } = event
  const none = { kind: null, stream: null, segment: null, bytes: null, error: null }
  if (event.type === 'slow') return { ...none, sequence, atMs, type, phase: event.slowed ? 'begun' : 'ended' }
  if (event.type === 'archive')
    return {
      ...none,
      sequence,
      atMs,
      type,
      phase: event.state,
      error: event.error,
      ...(event.own === undefined ? {} : { archive: event.own }),
    }
  if (event.type === 'scrub') {
    const { kind, stream, segment, error } = event
    return { ...none, sequence, atMs, type, phase: kind, stream, segment: segment.toString(), error }
  }
  const { kind, phase, stream, segment, bytes, error } = event
  return { sequence, atMs, type, kind, phase, stream, segment: segment.toString(), bytes, error }
}

function archiveDto({ archive, streams }: TierStatus): ArchiveStatusDto {
  const { archive: state, stalled: _, forecasts: __, own, ...rest } = archive
  const owned = own.map(({ archive: health, ...about }) => ({
    ...about,
    state: health,
    streams: streams.filter(({ place }) => place.own === about.location).length,
  }))
  const of = (what: ArchiveDown) =>
    streams.filter((line) => line.archiveDown === what).map((line) => line.stream.name)
  return {
    ...rest,
    state,
    own: owned,
    waitingBytes: streams.reduce((sum, line) => sum + line.waitingBytes, 0),
    waitingSegments: streams.reduce((sum, line) => sum + line.waitingSegments, 0),
    drops: of('drop'),
    slows: of('backpressure'),
  }
}

function scrubDto({ scrub, onRead, copiesAreKept: elsewhere }: UpkeepState): ScrubDto {
  const { after: _, unrepairable, ...rest } = scrub
  return {
    elsewhere,
    ...rest,
    repairedOnRead: onRead.repaired,
    unrepairable: unrepairable.map(unrepairableDto),
  }
}

async function streamTiersDto(log: Log, tiers: StreamTiers): Promise<StreamTiersDto> {
  const { stream, totals, oldestUncopied, atRiskBytes, atRiskSinceMs, next, behind, place } = tiers
  const oldest = await log.parts.segments.index.oldestSegment(stream.incarnation)
  // Where txids are times they say since when there is history; else the segment's own times do.
  const sinceMs =
    oldest === null
      ? null
      : stream.txidMode === 'ms' && oldest.firstTxid >= 0n
        ? Number(oldest.firstTxid)
        : oldest.openedMs
  return {
    stream: streamDto(stream, totals),
    openBytes: log.parts.hub.openSegment(stream)?.lengthBytes ?? 0,
    oldestUncopied: oldestUncopied === null ? null : segmentDto(oldestUncopied),
    atRiskBytes,
    atRiskSinceMs,
    next: next === null ? null : plannedDto(stream.name, next),
    behind,
    sinceMs,
    thawing: thawingDto(tiers.thaws),
    ownArchive: place.own,
    stays: place.stays,
  }
}
