import type { UpkeepState } from '../../tiering/upkeep.js'
import type { Log } from '../log.js'
import type { ScrubDto, StreamTiersDto, TierStatusDto } from '../model/control-api.js'
import type { StreamTiers } from '../tier-status.js'
import { coldScrubDto } from './archive-verbs.js'
import { plannedDto, segmentDto, streamDto } from './dto.js'
import { unrepairableDto } from './stores.js'

/** Gaps that are counted; a log with more of them has other worries. */
const GAPS_MAX = 1_000

/** How protected every stream is, as the command line shows it. */
export async function statusDto(log: Log): Promise<TierStatusDto> {
  const status = await log.tier.status()
  const gaps = await log.parts.segments.index.segmentsInState(['gap'], GAPS_MAX)
  const { location, archive, downSinceMs, lastError, lastOkMs } = status.archive
  const streams: StreamTiersDto[] = []
  for (const one of status.streams) streams.push(await streamTiersDto(log, one))
  return {
    atMs: status.atMs,
    archive: { location, state: archive, downSinceMs, lastError, lastOkMs },
    stores: status.stores,
    scrub: scrubDto(status.upkeep),
    coldScrub: status.upkeep.cold === null ? null : coldScrubDto(status.upkeep.cold),
    streams,
    gaps: gaps.length,
  }
}

function scrubDto({ scrub, onRead }: UpkeepState): ScrubDto {
  const { after: _, unrepairable, ...rest } = scrub
  return { ...rest, repairedOnRead: onRead.repaired, unrepairable: unrepairable.map(unrepairableDto) }
}

async function streamTiersDto(log: Log, tiers: StreamTiers): Promise<StreamTiersDto> {
  const { stream, totals, oldestUncopied, atRiskBytes, atRiskSinceMs, next } = tiers
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
    sinceMs,
  }
}
