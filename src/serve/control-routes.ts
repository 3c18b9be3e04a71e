import type { FastifyInstance, FastifyReply, FastifySchema } from 'fastify'
import type {
  ControlApi,
  DumpPart,
  ReadPart,
  ReadRequest,
  StoreWorkPart,
  TierRunPart,
} from '../model/control-api.js'
import {
  CONTROL_BODY_BYTES_MAX,
  decodeAppend,
  decodeConditions,
  encodeAppendResult,
  encodeDumpPart,
  encodeReadPart,
  type WireConditions,
} from '../model/control-wire.js'
import { errorBody } from '../model/error-body.js'
import { type ErrorCode, StratalogError } from '../model/errors.js'
import { archiveRoutes } from './routes-archive.js'
import { bookkeeperRoutes } from './routes-bookkeeper.js'
import { cloneRoutes } from './routes-clone.js'
import { doctorRoutes } from './routes-doctor.js'
import { keyRoutes } from './routes-keys.js'
import { livesRoutes } from './routes-lives.js'
import { migrateRoutes } from './routes-migrate.js'
import { policyRoutes } from './routes-policy.js'
import { readRoutes } from './routes-read.js'
import { segmentRoutes } from './routes-segments.js'
import { statusRoutes } from './routes-status.js'
import { tieringRoutes } from './routes-tiering.js'
import { sendParts } from './send-parts.js'

const STRING = { type: 'string' } as const
const POSITION = { type: 'string', maxLength: 200 } as const
const COUNT = { type: 'integer', minimum: 0, maximum: Number.MAX_SAFE_INTEGER } as const
const RATE = { type: 'integer', minimum: 1, maximum: Number.MAX_SAFE_INTEGER } as const
const TXID = { type: 'string', pattern: '^-?[0-9]{1,20}$' } as const
const NUMBER = { type: 'string', pattern: '^[0-9]{1,19}$' } as const
const object = (properties: Record<string, object>, required: readonly string[] = []) => ({
  type: 'object',
  properties,
  required,
  additionalProperties: false,
})
const params = (...names: string[]) => object(Object.fromEntries(names.map((name) => [name, STRING])), names)
const PAGE = object({
  after: { type: 'string', maxLength: 255 },
  limit: { type: 'string', pattern: '^[0-9]{1,9}$' },
})

const SCHEMA = {
  list: { querystring: PAGE },
  create: { body: object({ name: STRING, txid: { enum: ['ms', 'custom'] } }, ['name', 'txid']) },
  stream: { params: params('name') },
  append: {
    params: params('name'),
    body: object(
      {
        records: { type: 'array', items: object({ payload: STRING, txid: TXID }, ['payload']) },
        producer: object({ id: STRING, sequence: NUMBER }, ['id', 'sequence']),
        ifTail: { type: 'string', pattern: '^([0-9]{1,19}|empty)$' },
        fence: NUMBER,
      },
      ['records'],
    ),
  },
  read: {
    params: params('name'),
    body: object({
      from: POSITION,
      after: POSITION,
      until: POSITION,
      limit: COUNT,
      follow: { type: 'boolean' },
      onGap: { enum: ['throw', 'yield'] },
    }),
  },
  tail: {
    params: params('name'),
    body: object({ count: COUNT, follow: { type: 'boolean' } }, ['count', 'follow']),
  },
  policyTest: { params: params('name'), body: object({ atMs: { type: 'integer' } }, ['atMs']) },
  segments: { params: params('name'), querystring: PAGE },
  dump: { params: params('name', 'segment'), body: object({ payloads: { type: 'boolean' } }, ['payloads']) },
  plan: { querystring: object({ stream: STRING }) },
  replace: { body: object({ store: STRING, with: STRING, bytesPerSecond: RATE }, ['store']) },
  drain: { body: object({ store: STRING, bytesPerSecond: RATE }, ['store']) },
  run: { body: object({ until: { enum: ['once', 'settled'] } }, ['until']) },
} satisfies Record<string, FastifySchema>

interface Named {
  Params: { name: string }
}
interface Paged {
  Querystring: { after?: string; limit?: string }
}

/** One route for each method of the control API. `ending` is aborted when the log is closed. */
export function controlRoutes(app: FastifyInstance, api: ControlApi, ending: AbortSignal): void {
  app.setErrorHandler((error, _request, reply) => sendError(reply, error))
  app.setNotFoundHandler((request, reply) =>
    sendError(
      reply,
      new StratalogError(
        'unsupported',
        `the process that has the log open knows no ${request.method} ${request.url}: it runs another version of stratalog`,
      ),
    ),
  )
  logRoutes(app, api)
  streamRoutes(app, api)
  streamingRoutes(app, api, ending)
  storeRoutes(app, api, ending)
  livesRoutes(app, api)
  cloneRoutes(app, api)
  policyRoutes(app, api)
  statusRoutes(app, api, ending)
  tieringRoutes(app, api, (reply, open) =>
    sendParts(reply, ending, open, (part) => `${JSON.stringify(part)}\n`),
  )
  readRoutes(app, api)
  archiveRoutes(app, api, ending, sendParts)
  keyRoutes(app, api, ending, sendParts)
  migrateRoutes(app, api, ending, sendParts)
  doctorRoutes(app, api, ending)
  segmentRoutes(app, api)
  bookkeeperRoutes(app, api, ending, sendParts)
}

function logRoutes(app: FastifyInstance, api: ControlApi): void {
  app.get('/v1/ping', () => api.ping())
  app.get<Paged>('/v1/streams', { schema: SCHEMA.list }, (request) => api.listStreams(page(request.query)))
  app.post<{ Body: { name: string; txid: 'ms' | 'custom' } }>(
    '/v1/streams',
    { schema: SCHEMA.create },
    (request) => api.createStream(request.body.name, { txid: request.body.txid }),
  )
  app.get('/v1/tier/status', () => api.tierStatus())
  app.get<{ Querystring: { stream?: string } }>('/v1/tier/plan', { schema: SCHEMA.plan }, (request) =>
    api.tierPlan(request.query.stream),
  )
}

function streamRoutes(app: FastifyInstance, api: ControlApi): void {
  app.get<Named>('/v1/streams/:name', { schema: SCHEMA.stream }, (request) =>
    api.streamInfo(request.params.name),
  )
  app.post<Named>('/v1/streams/:name/finish', { schema: SCHEMA.stream }, (request) =>
    api.finishStream(request.params.name),
  )
  app.post<Named & { Body: WireConditions & { records: { payload: string; txid?: string }[] } }>(
    '/v1/streams/:name/append',
    { schema: SCHEMA.append, bodyLimit: CONTROL_BODY_BYTES_MAX },
    async ({ params, body }) =>
      encodeAppendResult(await api.append(params.name, decodeAppend(body.records), decodeConditions(body))),
  )
  app.get<Named>('/v1/streams/:name/policy', { schema: SCHEMA.stream }, (request) =>
    api.policyShow(request.params.name),
  )
  app.post<Named & { Body: { atMs: number } }>(
    '/v1/streams/:name/policy/test',
    { schema: SCHEMA.policyTest },
    (request) => api.policyTest(request.params.name, request.body),
  )
  app.get<Named & Paged>('/v1/streams/:name/segments', { schema: SCHEMA.segments }, (request) =>
    api.segments(request.params.name, page(request.query)),
  )
}

function streamingRoutes(app: FastifyInstance, api: ControlApi, ending: AbortSignal): void {
  app.post<Named & { Body: ReadRequest }>(
    '/v1/streams/:name/read',
    { schema: SCHEMA.read },
    (request, reply) =>
      sendParts<ReadPart>(
        reply,
        ending,
        (signal) => api.read(request.params.name, request.body, signal),
        encodeReadPart,
      ),
  )
  app.post<Named & { Body: { count: number; follow: boolean } }>(
    '/v1/streams/:name/tail',
    { schema: SCHEMA.tail },
    (request, reply) => {
      const { count, follow } = request.body
      return sendParts<ReadPart>(
        reply,
        ending,
        (signal) => api.tail(request.params.name, count, { follow }, signal),
        encodeReadPart,
      )
    },
  )
  app.post<{ Params: { name: string; segment: string }; Body: { payloads: boolean } }>(
    '/v1/streams/:name/segments/:segment/dump',
    { schema: SCHEMA.dump },
    (request, reply) => {
      const { name, segment } = request.params
      return sendParts<DumpPart>(
        reply,
        ending,
        (signal) => api.segmentDump(name, segment, request.body, signal),
        encodeDumpPart,
      )
    },
  )
  app.post<{ Body: { until: 'once' | 'settled' } }>(
    '/v1/tier/run',
    { schema: SCHEMA.run },
    (request, reply) =>
      sendParts<TierRunPart>(
        reply,
        ending,
        (signal) => api.tierRun(request.body, signal),
        (part) => `${JSON.stringify(part)}\n`,
      ),
  )
}

type StoreRequest = { store: string; with?: string; bytesPerSecond?: number }

function storeRoutes(app: FastifyInstance, api: ControlApi, ending: AbortSignal): void {
  const line = (part: StoreWorkPart) => `${JSON.stringify(part)}\n`
  app.get('/v1/stores', () => api.storeList())
  app.post<{ Body: StoreRequest }>('/v1/stores/replace', { schema: SCHEMA.replace }, (request, reply) =>
    sendParts(reply, ending, (signal) => api.storeReplace(request.body, signal), line),
  )
  app.post<{ Body: StoreRequest }>('/v1/stores/drain', { schema: SCHEMA.drain }, (request, reply) =>
    sendParts(reply, ending, (signal) => api.storeDrain(request.body, signal), line),
  )
}

function page(query: { after?: string; limit?: string }): { after?: string; limit?: number } {
  const { after, limit } = query
  return {
    ...(after === undefined ? {} : { after }),
    ...(limit === undefined ? {} : { limit: Number(limit) }),
  }
}

const STATUS: Partial<Record<ErrorCode, number>> = {
  invalid_argument: 400,
  stream_name_invalid: 400,
  position_invalid: 400,
  txid_out_of_range: 400,
  record_too_large: 413,
  unsupported: 404,
  stream_not_found: 404,
  not_found: 404,
  position_out_of_range: 416,
  access_denied: 403,
  key_missing: 403,
  key_wrong: 403,
  stream_exists: 409,
  stream_finished: 409,
  stream_replaced: 409,
  txid_not_monotonic: 409,
  conflict: 409,
  config_invalid: 409,
  refused: 409,
  archive_moved: 409,
  fenced: 409,
}

function sendError(reply: FastifyReply, error: unknown): FastifyReply {
  const ours = asStratalogError(error)
  const status = STATUS[ours.code] ?? (ours.retryable ? 503 : 500)
  return reply.status(status).send({ error: errorBody(ours) })
}

/** What fastify refuses by itself (a body too large, a field of the wrong type) is an argument of the caller's. */
function asStratalogError(error: unknown): StratalogError {
  if (error instanceof StratalogError) return error
  const message = error instanceof Error ? error.message : String(error)
  const status =
    typeof error === 'object' && error !== null && 'statusCode' in error ? Number(error.statusCode) : 500
  if (status === 413)
    return new StratalogError(
      'invalid_argument',
      `the request is larger than ${CONTROL_BODY_BYTES_MAX} bytes: send fewer records at a time`,
      { cause: error },
    )
  return new StratalogError(status >= 400 && status < 500 ? 'invalid_argument' : 'internal', message, {
    cause: error,
  })
}
