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
import type { ArchiveApi, ResolutionDto } from '../model/control-archive.js'
import type { BookkeeperApi, ImpactPart } from '../model/control-bookkeeper.js'
import type { ClonedDto, CloneRequestDto } from '../model/control-clone.js'
import type { DoctorReport } from '../model/control-doctor.js'
import type { ReencryptedDto, RotatedDto, StreamEncryptionDto } from '../model/control-keys.js'
import type { ArchiveOwnerDto, BegunArchiveDto, RenamedDto } from '../model/control-lives.js'
import type { AbortedMigrationDto, MigrateApi } from '../model/control-migrate.js'
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
import { decodeAppendResult, decodeDumpPart, decodeReadLines, encodeAppend } from '../model/control-wire.js'
import { checkStreamName } from '../model/stream-name.js'
import { ControlConnection } from './control-connection.js'

export interface ControlClientOptions {
  /** For an answer to begin. Streams that follow may be silent for as long as they like after that. @default 60 s */
  readonly timeoutMs?: number
}

/** The control API over the socket of the process that has the log open. */
export class ControlClient implements ControlApi {
  readonly #connection: ControlConnection

  constructor(socket: string, options: ControlClientOptions = {}) {
    this.#connection = new ControlConnection(socket, options.timeoutMs ?? 60_000)
  }

  ping(): Promise<PingDto> {
    return this.#get('/v1/ping')
  }

  listStreams(page: PageDto = {}): Promise<readonly StreamDto[]> {
    return this.#get(`/v1/streams${query(page)}`)
  }

  async streamInfo(name: string): Promise<StreamInfoDto> {
    return this.#get(streamPath(name))
  }

  createStream(name: string, options: { readonly txid: 'ms' | 'custom' }): Promise<StreamInfoDto> {
    return this.#post('/v1/streams', { name, txid: options.txid })
  }

  async append(
    name: string,
    records: readonly AppendRecord[],
    conditions: AppendConditionsDto = {},
  ): Promise<AppendResult> {
    const body = encodeAppend(records, conditions)
    return decodeAppendResult(await this.#connection.postText(`${streamPath(name)}/append`, body))
  }

  async finishStream(name: string): Promise<StreamInfoDto> {
    return this.#post(`${streamPath(name)}/finish`, {})
  }

  async renameStream(name: string, to: string): Promise<RenamedDto> {
    return this.#post(`${streamPath(name)}/rename`, { to })
  }

  async cloneStream(name: string, request: CloneRequestDto): Promise<ClonedDto> {
    return this.#post(`${streamPath(name)}/clone`, request)
  }

  archiveOwner(): Promise<ArchiveOwnerDto> {
    return this.#get('/v1/archive/owner')
  }

  takeOverArchive(): Promise<ArchiveOwnerDto> {
    return this.#post('/v1/archive/take-over', {})
  }

  beginArchive(options: { readonly acceptLoss: boolean }): Promise<BegunArchiveDto> {
    return this.#post('/v1/archive/begin', options)
  }

  read(name: string, request: ReadRequest, signal?: AbortSignal): AsyncIterable<ReadPart> {
    return this.#readParts(() => `${streamPath(name)}/read`, request, request.follow ?? false, signal)
  }

  tail(
    name: string,
    count: number,
    options: { readonly follow: boolean },
    signal?: AbortSignal,
  ): AsyncIterable<ReadPart> {
    return this.#readParts(
      () => `${streamPath(name)}/tail`,
      { count, follow: options.follow },
      options.follow,
      signal,
    )
  }

  async explainRead(name: string, request: ExplainRequest): Promise<ReadExplanation> {
    return this.#post(`${streamPath(name)}/explain`, request)
  }

  async locatePosition(name: string, position: string): Promise<LocatedPosition> {
    return this.#post(`${streamPath(name)}/locate`, { position })
  }

  tierStatus(): Promise<TierStatusDto> {
    return this.#get('/v1/tier/status')
  }

  async *events(
    options: { readonly after: number; readonly follow: boolean },
    signal?: AbortSignal,
  ): AsyncGenerator<EventDto, void, undefined> {
    try {
      for await (const lines of this.#lines('/v1/events', options, signal)) yield* lines as EventDto[]
    } catch (error) {
      // As in the log's own process the signal is the end of following.
      if (!signal?.aborted) throw error
    }
  }

  tierHistory(stream: string): Promise<HistoryDto> {
    return this.#get(`${streamPath(stream)}/history`)
  }

  async holdAdd(name: string, hold: Parameters<TieringApi['holdAdd']>[1]): Promise<PutHoldDto> {
    return this.#post(`${streamPath(name)}/holds`, hold)
  }

  async holdList(name: string): Promise<readonly HoldDto[]> {
    return this.#get(`${streamPath(name)}/holds`)
  }

  async holdRelease(name: string, id: string): Promise<readonly HoldDto[]> {
    return this.#post(`${streamPath(name)}/holds/release`, { id })
  }

  async *trim(
    name: string,
    request: TrimRequest,
    signal?: AbortSignal,
  ): AsyncGenerator<TrimPart, void, undefined> {
    for await (const lines of this.#lines(`${streamPath(name)}/trim`, request, signal))
      yield* lines as TrimPart[]
  }

  async *recall(
    name: string,
    request: RecallRequestDto,
    signal?: AbortSignal,
  ): AsyncGenerator<RecallPart, void, undefined> {
    for await (const lines of this.#lines(`${streamPath(name)}/recall`, request, signal))
      yield* lines as RecallPart[]
  }

  async *evict(
    name: string,
    range: RangeRequest,
    signal?: AbortSignal,
  ): AsyncGenerator<EvictPart, void, undefined> {
    for await (const lines of this.#lines(`${streamPath(name)}/evict`, range, signal))
      yield* lines as EvictPart[]
  }

  tierOrders(): Promise<TierOrdersDto> {
    return this.#get('/v1/tier/orders')
  }

  tierOrder(order: TierOrderRequest): Promise<TierOrdersDto> {
    return this.#post('/v1/tier/orders', order)
  }

  storeList(): Promise<StoreListDto> {
    return this.#get('/v1/stores')
  }

  async *storeReplace(
    request: { readonly store: string; readonly with?: string; readonly bytesPerSecond?: number },
    signal?: AbortSignal,
  ): AsyncGenerator<StoreWorkPart, void, undefined> {
    for await (const lines of this.#lines('/v1/stores/replace', request, signal))
      yield* lines as StoreWorkPart[]
  }

  async *storeDrain(
    request: { readonly store: string; readonly bytesPerSecond?: number },
    signal?: AbortSignal,
  ): AsyncGenerator<StoreWorkPart, void, undefined> {
    for await (const lines of this.#lines('/v1/stores/drain', request, signal))
      yield* lines as StoreWorkPart[]
  }

  sealSegment: SegmentsApi['sealSegment'] = async (name) => this.#post(`${streamPath(name)}/seal`, {})

  bookkeeperStatus: BookkeeperApi['bookkeeperStatus'] = () => this.#get('/v1/bookkeeper')

  async *checkImpact(
    request: { readonly bookie: string },
    signal?: AbortSignal,
  ): AsyncGenerator<ImpactPart, void, undefined> {
    for await (const lines of this.#lines('/v1/bookkeeper/check-impact', request, signal))
      yield* lines as ImpactPart[]
  }

  doctor(): Promise<DoctorReport> {
    return this.#get('/v1/doctor')
  }

  async *keyList(
    request: { readonly stream?: string },
    signal?: AbortSignal,
  ): AsyncGenerator<StreamEncryptionDto, void, undefined> {
    for await (const lines of this.#lines('/v1/keys', request, signal)) yield* lines as StreamEncryptionDto[]
  }

  async *keyRotate(
    request: { readonly stream?: string },
    signal?: AbortSignal,
  ): AsyncGenerator<RotatedDto, void, undefined> {
    for await (const lines of this.#lines('/v1/keys/rotate', request, signal)) yield* lines as RotatedDto[]
  }

  async *keyReencrypt(
    request: { readonly stream: string; readonly newKey: boolean },
    signal?: AbortSignal,
  ): AsyncGenerator<ReencryptedDto, void, undefined> {
    for await (const lines of this.#lines('/v1/keys/reencrypt', request, signal))
      yield* lines as ReencryptedDto[]
  }

  tierPlan(stream?: string): Promise<TierPlanDto> {
    return this.#get(`/v1/tier/plan${stream === undefined ? '' : query({ stream })}`)
  }

  async *tierRun(
    options: { readonly until: 'once' | 'settled' },
    signal?: AbortSignal,
  ): AsyncGenerator<TierRunPart, void, undefined> {
    for await (const lines of this.#lines('/v1/tier/run', options, signal)) yield* lines as TierRunPart[]
  }

  archiveLs: ArchiveApi['archiveLs'] = (request, signal) => this.#parts('/v1/archive/ls', request, signal)
  archiveVerify: ArchiveApi['archiveVerify'] = (request, signal) =>
    this.#parts('/v1/archive/verify', request, signal)
  archiveOrphans: ArchiveApi['archiveOrphans'] = (request, signal) =>
    this.#parts('/v1/archive/orphans', request, signal)
  archiveResolve: ArchiveApi['archiveResolve'] = (request) =>
    this.#post<ResolutionDto>('/v1/archive/resolve', request)
  archiveScrub: ArchiveApi['archiveScrub'] = (signal) => this.#parts('/v1/archive/scrub', {}, signal)
  fsck: ArchiveApi['fsck'] = (request, signal) => this.#parts('/v1/fsck', request, signal)

  migrate: MigrateApi['migrate'] = (request, signal) => this.#parts('/v1/archive/migrate', request, signal)
  abortMigration: MigrateApi['abortMigration'] = (request) =>
    this.#post<AbortedMigrationDto>('/v1/archive/migrate/abort', request)

  async policyShow(name: string): Promise<PolicyShowDto> {
    return this.#get(`${streamPath(name)}/policy`)
  }

  policyReload(): Promise<PolicyReload> {
    return this.#post('/v1/policy/reload', {})
  }

  async policyTest(name: string, options: { readonly atMs: number }): Promise<PolicyTestDto> {
    return this.#post(`${streamPath(name)}/policy/test`, options)
  }

  async segments(name: string, page: PageDto = {}): Promise<readonly SegmentDto[]> {
    return this.#get(`${streamPath(name)}/segments${query(page)}`)
  }

  async *segmentDump(
    name: string,
    segment: string,
    options: { readonly payloads: boolean },
    signal?: AbortSignal,
  ): AsyncGenerator<DumpPart, void, undefined> {
    const path = `${streamPath(name)}/segments/${encodeURIComponent(segment)}/dump`
    for await (const lines of this.#lines(path, options, signal)) yield* lines.map(decodeDumpPart)
  }

  /** Parts that are JSON as they are. */
  async *#parts<T>(path: string, body: object, signal?: AbortSignal): AsyncGenerator<T, void, undefined> {
    for await (const lines of this.#lines(path, body, signal)) yield* lines as T[]
  }

  async *#readParts(
    path: () => string,
    body: object,
    follow: boolean,
    signal?: AbortSignal,
  ): AsyncGenerator<ReadPart, void, undefined> {
    const counts = { hot: 0, cold: 0 }
    try {
      for await (const lines of this.#lines(path(), body, signal)) {
        for (const part of decodeReadLines(lines)) {
          if (part.type === 'records') counts[part.tier] += part.records.length
          yield part
        }
      }
    } catch (error) {
      // An aborted signal ends a follower normally, here as in the log's own process.
      if (!follow || !signal?.aborted) throw error
      yield { type: 'end', ...counts }
    }
  }

  #get<T>(path: string): Promise<T> {
    return this.#connection.get(path)
  }

  #post<T>(path: string, body: object): Promise<T> {
    return this.#connection.post(path, body)
  }

  #lines(path: string, body: object, signal?: AbortSignal): AsyncGenerator<unknown[], void, undefined> {
    return this.#connection.lines(path, body, signal)
  }
}

function streamPath(name: string): string {
  // The same check as on the other side: what it refuses may have no place in a path (an empty name, half a character).
  return `/v1/streams/${encodeURIComponent(checkStreamName(name))}`
}

function query(values: PageDto | { readonly stream: string }): string {
  const set = new URLSearchParams()
  for (const [key, value] of Object.entries(values)) if (value !== undefined) set.set(key, String(value))
  return set.size === 0 ? '' : `?${set}`
}
