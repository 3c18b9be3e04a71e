import { stat } from 'node:fs/promises'
import process from 'node:process'
import type { Log } from '../log.js'
import type {
  AppendConditionsDto,
  AppendRecord,
  AppendResult,
  ControlApi,
  DumpPart,
  PageDto,
  PingDto,
  PolicyShowDto,
  PolicyTestDto,
  ReadPart,
  ReadRequest,
  SegmentDto,
  StoreListDto,
  StoreWorkPart,
  StreamDto,
  StreamInfoDto,
  TierPlanDto,
  TierRunPart,
  TierStatusDto,
} from '../model/control-api.js'
import type { ArchiveApi } from '../model/control-archive.js'
import type { BookkeeperApi, ImpactPart } from '../model/control-bookkeeper.js'
import type { ClonedDto, CloneRequestDto } from '../model/control-clone.js'
import type { DoctorReport } from '../model/control-doctor.js'
import type { ReencryptedDto, RotatedDto, StreamEncryptionDto } from '../model/control-keys.js'
import type { ArchiveOwnerDto, BegunArchiveDto, RenamedDto } from '../model/control-lives.js'
import type { MigrateApi } from '../model/control-migrate.js'
import type { PolicyReload } from '../model/control-policy.js'
import type { ExplainRequest, LocatedPosition, ReadExplanation } from '../model/control-read.js'
import type { SegmentsApi } from '../model/control-segments.js'
import type { EventDto, HistoryDto } from '../model/control-status.js'
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
import { type Position, parsePosition } from '../model/position.js'
import type { StreamRow } from '../model/segment.js'
import { checkStreamName } from '../model/stream-name.js'
import { parseInteger } from '../model/units.js'
import type { ReadOptions } from '../stream.js'
import { placeOf } from '../stream-place.js'
import { appendRecords } from './append-verbs.js'
import { archiveVerbs } from './archive-verbs.js'
import { cloneStream } from './clone.js'
import {
  gapDto,
  plannedDto,
  recordDto,
  reportDto,
  segmentDto,
  stepPart,
  streamDto,
  streamInfoDto,
} from './dto.js'
import { historyDto } from './history.js'
import { listKeys, reencrypt, rotateKeys } from './keys.js'
import { ownerDto, takeOver } from './lives.js'
import { abortMigration, migrate } from './migrate.js'
import { showPolicy } from './policy-show.js'
import { explainRead, locatePosition } from './read-verbs.js'
import { dumpSegment } from './segment-dump.js'
import { sealSegment } from './segments.js'
import { eventDtos, statusDto } from './status.js'
import { drainStore, replaceStore } from './stores.js'
import { TieringVerbs } from './tiering-verbs.js'

const PAGE_MAX = 1_000
/** Steps of a run that nobody took yet; beyond it progress is left out, never a result. */
const STEPS_WAITING_MAX = 1_000
const INT64_MAX = 2n ** 63n - 1n

/** Device and inode of a directory. */
export async function directoryId(directory: string): Promise<string> {
  const { dev, ino } = await stat(directory, { bigint: true })
  return `${dev}:${ino}`
}

/** The control API over a log of this process. */
export class LocalControl implements ControlApi {
  readonly #log: Log
  readonly #tiering: TieringVerbs
  readonly #archive: ArchiveApi

  constructor(log: Log) {
    this.#log = log
    this.#tiering = new TieringVerbs(log)
    this.#archive = archiveVerbs(log)
  }

  archiveLs: ArchiveApi['archiveLs'] = (request, signal) => this.#archive.archiveLs(request, signal)
  archiveVerify: ArchiveApi['archiveVerify'] = (request, signal) =>
    this.#archive.archiveVerify(request, signal)
  archiveOrphans: ArchiveApi['archiveOrphans'] = (request, signal) =>
    this.#archive.archiveOrphans(request, signal)
  archiveResolve: ArchiveApi['archiveResolve'] = (request) => this.#archive.archiveResolve(request)
  archiveScrub: ArchiveApi['archiveScrub'] = (signal) => this.#archive.archiveScrub(signal)
  fsck: ArchiveApi['fsck'] = (request, signal) => this.#archive.fsck(request, signal)

  sealSegment: SegmentsApi['sealSegment'] = (name) => sealSegment(this.#log, name)

  bookkeeperStatus: BookkeeperApi['bookkeeperStatus'] = async () => this.#log.bookkeeper.status()
  async *checkImpact(
    { bookie }: Parameters<BookkeeperApi['checkImpact']>[0],
    signal?: AbortSignal,
  ): AsyncGenerator<ImpactPart, void, undefined> {
    yield* this.#log.bookkeeper.checkImpact(bookie, signal === undefined ? {} : { signal })
  }

  migrate: MigrateApi['migrate'] = (request, signal) => migrate(this.#log, request, signal)
  abortMigration: MigrateApi['abortMigration'] = (request) => abortMigration(this.#log, request)

  async ping(): Promise<PingDto> {
    return {
      api: 1,
      logId: this.#log.logId,
      pid: process.pid,
      directoryId: await directoryId(this.#log.directory),
    }
  }

  async listStreams(page: PageDto = {}): Promise<readonly StreamDto[]> {
    const { index } = this.#log.parts.segments
    const rows = await index.listStreams(page.after ?? '', pageLimit(page))
    return Promise.all(rows.map(async (row) => streamDto(row, await index.totals(row.incarnation))))
  }

  async streamInfo(name: string): Promise<StreamInfoDto> {
    return streamInfoDto(await this.#log.stream(name).info())
  }

  async createStream(name: string, options: { readonly txid: 'ms' | 'custom' }): Promise<StreamInfoDto> {
    await this.#log.streams.create(name, options)
    return this.streamInfo(name)
  }

  async renameStream(name: string, to: string): Promise<RenamedDto> {
    const { incarnation } = await this.#log.streams.rename(name, to)
    return { name: to, incarnation }
  }

  cloneStream(name: string, request: CloneRequestDto): Promise<ClonedDto> {
    return cloneStream(this.#log, name, request)
  }

  archiveOwner(): Promise<ArchiveOwnerDto> {
    return ownerDto(this.#log)
  }

  takeOverArchive(): Promise<ArchiveOwnerDto> {
    return takeOver(this.#log)
  }

  beginArchive(options: { readonly acceptLoss: boolean }): Promise<BegunArchiveDto> {
    return this.#log.archive.begin(options)
  }

  async finishStream(name: string): Promise<StreamInfoDto> {
    await this.#log.stream(name).finish()
    return this.streamInfo(name)
  }

  append(
    name: string,
    records: readonly AppendRecord[],
    conditions: AppendConditionsDto = {},
  ): Promise<AppendResult> {
    return appendRecords(this.#log, name, records, conditions)
  }

  async *read(
    name: string,
    request: ReadRequest,
    signal?: AbortSignal,
  ): AsyncGenerator<ReadPart, void, undefined> {
    const row = await this.#existing(name)
    const nowMs = this.#log.parts.segments.ledger.clock.nowMs()
    const at = (text: string | undefined): Position | undefined =>
      text === undefined ? undefined : parsePosition(text, nowMs)
    const [from, after, until] = [at(request.from), at(request.after), at(request.until)]
    yield {
      type: 'begin',
      txid: row.txidMode,
      fromMs: instant(from),
      afterMs: instant(after),
      untilMs: instant(until),
    }
    yield* this.#parts(name, {
      ...(from === undefined ? {} : { from }),
      ...(after === undefined ? {} : { after }),
      ...(until === undefined ? {} : { until }),
      ...(request.limit === undefined ? {} : { limit: request.limit }),
      ...(signal === undefined ? {} : { signal }),
      follow: request.follow ?? false,
      onGap: request.onGap ?? 'throw',
    })
  }

  async *tail(
    name: string,
    count: number,
    options: { readonly follow: boolean },
    signal?: AbortSignal,
  ): AsyncGenerator<ReadPart, void, undefined> {
    if (!Number.isSafeInteger(count) || count < 0) {
      throw new StratalogError(
        'invalid_argument',
        `${count} is not a number of records: use a whole number from 0`,
        { found: count },
      )
    }
    const row = await this.#existing(name)
    const { nextSequenceId } = await this.#log.stream(name).info()
    const from: Position =
      nextSequenceId > BigInt(count) ? { sequenceId: nextSequenceId - BigInt(count) } : 'earliest'
    yield { type: 'begin', txid: row.txidMode, fromMs: null, afterMs: null, untilMs: null }
    const limit = options.follow ? {} : { limit: count }
    yield* this.#parts(name, {
      from,
      ...limit,
      ...(signal === undefined ? {} : { signal }),
      follow: options.follow,
      onGap: 'throw',
    })
  }

  explainRead(name: string, request: ExplainRequest): Promise<ReadExplanation> {
    return explainRead(this.#log, name, request)
  }

  locatePosition(name: string, position: string): Promise<LocatedPosition> {
    return locatePosition(this.#log, name, position)
  }

  async tierStatus(): Promise<TierStatusDto> {
    return statusDto(this.#log)
  }

  events(
    options: { readonly after: number; readonly follow: boolean },
    signal?: AbortSignal,
  ): AsyncIterable<EventDto> {
    return eventDtos(this.#log, options, signal)
  }

  async tierHistory(stream: string): Promise<HistoryDto> {
    return historyDto(this.#log, await this.#existing(stream))
  }

  holdAdd(name: string, hold: Parameters<TieringApi['holdAdd']>[1]): Promise<PutHoldDto> {
    return this.#tiering.holdAdd(name, hold)
  }

  holdList(name: string): Promise<readonly HoldDto[]> {
    return this.#tiering.holdList(name)
  }

  holdRelease(name: string, id: string): Promise<readonly HoldDto[]> {
    return this.#tiering.holdRelease(name, id)
  }

  trim(name: string, request: TrimRequest, signal?: AbortSignal): AsyncIterable<TrimPart> {
    return this.#tiering.trim(name, request, signal)
  }

  recall(name: string, request: RecallRequestDto, signal?: AbortSignal): AsyncIterable<RecallPart> {
    return this.#tiering.recall(name, request, signal)
  }

  evict(name: string, range: RangeRequest, signal?: AbortSignal): AsyncIterable<EvictPart> {
    return this.#tiering.evict(name, range, signal)
  }

  tierOrders(): Promise<TierOrdersDto> {
    return this.#tiering.tierOrders()
  }

  tierOrder(order: TierOrderRequest): Promise<TierOrdersDto> {
    return this.#tiering.tierOrder(order)
  }

  storeList(): Promise<StoreListDto> {
    return this.#log.parts.stores.list()
  }

  storeReplace(
    request: { readonly store: string; readonly with?: string; readonly bytesPerSecond?: number },
    signal?: AbortSignal,
  ): AsyncIterable<StoreWorkPart> {
    return replaceStore(this.#log.parts, request, signal)
  }

  storeDrain(
    request: { readonly store: string; readonly bytesPerSecond?: number },
    signal?: AbortSignal,
  ): AsyncIterable<StoreWorkPart> {
    return drainStore(this.#log.parts, request, signal)
  }

  doctor(signal?: AbortSignal): Promise<DoctorReport> {
    return this.#log.doctor(signal === undefined ? {} : { signal })
  }

  keyList(request: { readonly stream?: string }): AsyncIterable<StreamEncryptionDto> {
    return listKeys(this.#log, request)
  }

  keyRotate(request: { readonly stream?: string }): AsyncIterable<RotatedDto> {
    return rotateKeys(this.#log, request)
  }

  keyReencrypt(
    request: { readonly stream: string; readonly newKey: boolean },
    signal?: AbortSignal,
  ): AsyncIterable<ReencryptedDto> {
    return reencrypt(this.#log, request, signal)
  }

  async tierPlan(stream?: string): Promise<TierPlanDto> {
    const plans = await this.#log.tier.plan(stream === undefined ? undefined : checkStreamName(stream))
    const { parts } = this.#log
    const own: [string, string][] = []
    for (const { stream: row, policy } of plans) {
      const { next } = await placeOf(parts, row, policy)
      if (next !== null && next !== parts.archiveLocation) own.push([row.name, next])
    }
    return {
      atMs: parts.segments.ledger.clock.nowMs(),
      archive: parts.archiveLocation,
      own: Object.fromEntries(own),
      actions: plans.flatMap((one) => one.actions.map((action) => plannedDto(one.stream.name, action))),
    }
  }

  async *tierRun(
    options: { readonly until: 'once' | 'settled' },
    signal?: AbortSignal,
  ): AsyncGenerator<TierRunPart, void, undefined> {
    const waiting: TierRunPart[] = []
    let wake: () => void = () => undefined
    const unsubscribe = this.#log.tier.onEvent((event) => {
      if (event.phase === 'progress' && waiting.length >= STEPS_WAITING_MAX) return
      waiting.push(stepPart(event))
      wake()
    })
    const abort = new AbortController()
    const signals = signal === undefined ? abort.signal : AbortSignal.any([abort.signal, signal])
    let ended = false
    const run = this.#log.tier.run({ until: options.until, signal: signals }).finally(() => {
      ended = true
      wake()
    })
    run.catch(() => undefined)
    try {
      while (!ended || waiting.length > 0) {
        const part = waiting.shift()
        if (part !== undefined) yield part
        else {
          await new Promise<void>((resolve) => {
            wake = resolve
          })
        }
      }
      yield { type: 'report', report: reportDto(await run) }
    } finally {
      unsubscribe()
      // Whoever stops listening stops the run; after it has ended this does nothing.
      abort.abort(new DOMException('the run was left', 'AbortError'))
    }
  }

  async policyShow(name: string): Promise<PolicyShowDto> {
    return showPolicy(this.#log, name)
  }

  policyReload(): Promise<PolicyReload> {
    return this.#log.policies.reload()
  }

  async policyTest(name: string, options: { readonly atMs: number }): Promise<PolicyTestDto> {
    return { ...(await this.policyShow(name)), ...(await this.#log.policies.test(name, options)) }
  }

  async segments(name: string, page: PageDto = {}): Promise<readonly SegmentDto[]> {
    const row = await this.#existing(name)
    const after = page.after === undefined ? 0n : parseInteger(page.after, 'a segment number', 0n, INT64_MAX)
    const rows = await this.#log.parts.segments.index.listSegments(
      row.incarnation,
      after + 1n,
      pageLimit(page),
    )
    return rows.map(segmentDto)
  }

  async *segmentDump(
    name: string,
    segment: string,
    options: { readonly payloads: boolean },
    signal?: AbortSignal,
  ): AsyncGenerator<DumpPart, void, undefined> {
    const row = await this.#existing(name)
    const number = parseInteger(segment, 'a segment number', 1n, INT64_MAX)
    const found = await this.#log.parts.segments.index.segment(row.incarnation, number)
    if (found === null)
      throw new StratalogError(
        'not_found',
        `${name} has no segment ${segment}: see "stratalog segment list ${name}"`,
        { found: segment },
      )
    yield { type: 'segment', segment: segmentDto(found) }
    yield* dumpSegment(this.#log.parts, found, options.payloads, signal)
  }

  async *#parts(
    name: string,
    options: ReadOptions & { readonly onGap: 'throw' | 'yield' },
  ): AsyncGenerator<ReadPart, void, undefined> {
    const records = this.#log.stream(name).read({ ...options, onGap: 'yield' })
    let { hot } = records.counts
    for await (const batch of records.batches()) {
      const [first] = batch
      if (first !== undefined && 'gap' in first) {
        if (options.onGap === 'throw') throw gapError(name, gapDto(first))
        yield { type: 'gap', gap: gapDto(first) }
        continue
      }
      // A batch comes from one tier: whichever count has grown.
      const tier = records.counts.hot > hot ? 'hot' : 'cold'
      hot = records.counts.hot
      yield { type: 'records', tier, records: batch.flatMap((one) => ('gap' in one ? [] : [recordDto(one)])) }
    }
    yield { type: 'end', hot: records.counts.hot, cold: records.counts.cold }
  }

  async #existing(name: string): Promise<StreamRow> {
    const row = await this.#log.streams.find(name)
    if (row !== null) return row
    // The stream's own call knows the nearest names.
    await this.#log.stream(name).info()
    throw new StratalogError('stream_not_found', `there is no stream ${name}`, { found: name })
  }
}

/** For the command line the way on is another option than for a program. */
function gapError(name: string, gap: ReturnType<typeof gapDto>): StratalogError {
  return new StratalogError(
    'gap',
    `${name} has a gap from ${gap.from} until ${gap.until} (${gap.gap}): read --from ${gap.until}, or --gaps to read on past it`,
    { found: gap },
  )
}

function pageLimit(page: PageDto): number {
  const limit = page.limit ?? PAGE_MAX
  if (!Number.isSafeInteger(limit) || limit < 1)
    throw new StratalogError('invalid_argument', `limit ${limit} is not a count: use a whole number from 1`, {
      found: limit,
    })
  return Math.min(limit, PAGE_MAX)
}

/** The instant a time was taken for. */
function instant(position: Position | undefined): number | null {
  return typeof position === 'object' && 'time' in position && typeof position.time === 'number'
    ? position.time
    : null
}
