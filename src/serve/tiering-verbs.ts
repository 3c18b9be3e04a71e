import type { EvictStep } from '../../tiering/evict-range.js'
import type { StandingHold } from '../../tiering/holds.js'
import type { TierOrders } from '../../tiering/orders.js'
import type { RecallProgress } from '../../tiering/recall.js'
import type { Log } from '../log.js'
import type {
  EvictPart,
  HoldDto,
  PutHoldDto,
  RangeRequest,
  RecallPart,
  RecallRequestDto,
  TieringApi,
  TierOrderRequest,
  TierOrdersDto,
  TrimPart,
  TrimRequest,
} from '../model/control-tiering.js'
import { StratalogError } from '../model/errors.js'
import type { HoldEdge } from '../model/hold.js'
import { type Position, parsePosition } from '../model/position.js'
import { formatTime } from '../model/units.js'
import { StreamTiering, type TrimReport } from '../stream-tiering.js'

/** Tiering by hand over a log of this process. */
export class TieringVerbs implements TieringApi {
  readonly #log: Log

  constructor(log: Log) {
    this.#log = log
  }

  async holdAdd(
    name: string,
    { id, from, until, reason }: Parameters<TieringApi['holdAdd']>[1],
  ): Promise<PutHoldDto> {
    const put = await this.#log.stream(name).hold({
      id,
      ...this.#range({ ...(from === undefined ? {} : { from }), ...(until === undefined ? {} : { until }) }),
      ...(reason === undefined ? {} : { reason }),
    })
    return {
      hold: holdDto(put.hold),
      trimmedBelow: put.trimmedBelow?.toString() ?? null,
      told: put.told,
    }
  }

  async holdList(name: string): Promise<readonly HoldDto[]> {
    return (await this.#log.stream(name).holds()).map(holdDto)
  }

  async holdRelease(name: string, id: string): Promise<readonly HoldDto[]> {
    return (await this.#log.stream(name).release(id)).map(holdDto)
  }

  async *trim(
    name: string,
    { before, keepBytes, seal, dryRun }: TrimRequest,
    signal?: AbortSignal,
  ): AsyncGenerator<TrimPart, void, undefined> {
    if ((before === undefined) === (keepBytes === undefined))
      throw new StratalogError('invalid_argument', 'a trim takes either a position or how much is to be kept')
    const options = {
      before: before === undefined ? { keepBytes: keepBytes ?? 0 } : this.#position(before),
      seal: seal ?? false,
      ...(signal === undefined ? {} : { signal }),
    }
    const stream = this.#log.stream(name)
    yield trimPart('survey', await stream.trim({ ...options, dryRun: true }))
    if (dryRun !== true) yield trimPart('done', await stream.trim(options))
  }

  async *recall(
    name: string,
    request: RecallRequestDto,
    signal?: AbortSignal,
  ): AsyncGenerator<RecallPart, void, undefined> {
    const stream = await this.#log.stream(name).row()
    const options = {
      for: request.forMs,
      dryRun: request.dryRun ?? false,
      ...(signal === undefined ? {} : { signal }),
    }
    const tiering = new StreamTiering(this.#log.parts)
    for await (const progress of tiering.recall(stream, this.#range(request), options))
      yield recallPart(progress)
  }

  async *evict(
    name: string,
    range: RangeRequest,
    signal?: AbortSignal,
  ): AsyncGenerator<EvictPart, void, undefined> {
    const stream = await this.#log.stream(name).row()
    const tiering = new StreamTiering(this.#log.parts)
    for await (const step of tiering.evict(stream, this.#range(range), signal)) yield evictPart(step)
  }

  async tierOrders(): Promise<TierOrdersDto> {
    return ordersDto(await this.#log.tier.orders())
  }

  async tierOrder(order: TierOrderRequest): Promise<TierOrdersDto> {
    const { tier } = this.#log
    if (order.kind === 'resume')
      return ordersDto(await tier.resume(order.stream === undefined ? {} : { stream: order.stream }))
    const end = order.forMs === undefined ? {} : { for: order.forMs }
    if (order.kind === 'limit')
      return ordersDto(await tier.limit({ upload: order.uploadBytesPerSecond, ...end }))
    return ordersDto(
      await tier.pause({ ...(order.stream === undefined ? {} : { stream: order.stream }), ...end }),
    )
  }

  #range({ from, until }: RangeRequest): { from?: Position; until?: Position } {
    return {
      ...(from === undefined ? {} : { from: this.#position(from) }),
      ...(until === undefined ? {} : { until: this.#position(until) }),
    }
  }

  #position(text: string): Position {
    return parsePosition(text, this.#log.parts.segments.ledger.clock.nowMs())
  }
}

function holdDto({ id, kind, from, until, reason, atMs, by, origin }: StandingHold): HoldDto {
  const byHand = origin === 'stream' || origin === 'archive'
  return {
    id,
    kind,
    from: edgeText(from),
    until: edgeText(until),
    reason,
    atMs: byHand ? atMs : null,
    by,
    origin,
  }
}

function edgeText(edge: HoldEdge | null): string | null {
  if (edge === null) return null
  if ('dlsn' in edge) return edge.dlsn.toString()
  return 'txid' in edge ? `txid:${edge.txid}` : formatTime(edge.timeMs)
}

function trimPart(type: TrimPart['type'], report: TrimReport): TrimPart {
  const { asked, below, records, held, ...sums } = report
  return {
    type,
    ...sums,
    asked: asked.toString(),
    below: below?.toString() ?? null,
    records: records.toString(),
    held: held && { segment: held.segment.toString(), hold: holdDto(held.hold) },
  }
}

function recallPart(progress: RecallProgress): RecallPart {
  return { type: 'progress', ...progress, segment: progress.segment?.toString() ?? null }
}

function evictPart({ kind, segment, bytes }: EvictStep): EvictPart {
  return { type: 'step', kind, segment: segment.toString(), bytes }
}

/** Orders as status and commands show them. */
export function ordersDto({ pauses, upload }: TierOrders): TierOrdersDto {
  return { pauses: pauses.map(({ stream, atMs, untilMs }) => ({ stream, atMs, untilMs })), upload }
}
