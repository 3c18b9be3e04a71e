import type { FastifyInstance, FastifyReply, FastifySchema } from 'fastify'
import type {
  RangeRequest,
  RecallRequestDto,
  TieringApi,
  TierOrderRequest,
  TrimRequest,
} from '../model/control-tiering.js'

const STRING = { type: 'string' } as const
const POSITION = { type: 'string', maxLength: 200 } as const
const WHOLE = { type: 'integer', minimum: 0, maximum: Number.MAX_SAFE_INTEGER } as const
const FLAG = { type: 'boolean' } as const
const object = (properties: Record<string, object>, required: readonly string[] = []) => ({
  type: 'object',
  properties,
  required,
  additionalProperties: false,
})
const NAMED = object({ name: STRING }, ['name'])
const RANGE = { from: POSITION, until: POSITION }

const SCHEMA = {
  list: { params: NAMED },
  add: {
    params: NAMED,
    body: object({ id: STRING, ...RANGE, reason: { type: 'string', maxLength: 2_000 } }, ['id']),
  },
  release: { params: NAMED, body: object({ id: STRING }, ['id']) },
  trim: {
    params: NAMED,
    body: object({ before: POSITION, keepBytes: WHOLE, seal: FLAG, dryRun: FLAG }),
  },
  recall: { params: NAMED, body: object({ ...RANGE, forMs: WHOLE, dryRun: FLAG }, ['forMs']) },
  evict: { params: NAMED, body: object(RANGE) },
  order: {
    body: object(
      {
        kind: { enum: ['pause', 'resume', 'limit'] },
        stream: STRING,
        forMs: WHOLE,
        uploadBytesPerSecond: { anyOf: [WHOLE, { type: 'null' }] },
      },
      ['kind'],
    ),
  },
} satisfies Record<string, FastifySchema>

interface Named {
  Params: { name: string }
}

/** Sends parts as lines until they end or the client goes away. */
export type SendParts = <T>(
  reply: FastifyReply,
  open: (signal: AbortSignal) => AsyncIterable<T>,
) => Promise<FastifyReply>

/** The routes of tiering by hand. */
export function tieringRoutes(app: FastifyInstance, api: TieringApi, send: SendParts): void {
  app.get<Named>('/v1/streams/:name/holds', { schema: SCHEMA.list }, (request) =>
    api.holdList(request.params.name),
  )
  app.post<Named & { Body: Parameters<TieringApi['holdAdd']>[1] }>(
    '/v1/streams/:name/holds',
    { schema: SCHEMA.add },
    (request) => api.holdAdd(request.params.name, request.body),
  )
  app.post<Named & { Body: { id: string } }>(
    '/v1/streams/:name/holds/release',
    { schema: SCHEMA.release },
    (request) => api.holdRelease(request.params.name, request.body.id),
  )
  app.post<Named & { Body: TrimRequest }>(
    '/v1/streams/:name/trim',
    { schema: SCHEMA.trim },
    (request, reply) => send(reply, (signal) => api.trim(request.params.name, request.body, signal)),
  )
  app.post<Named & { Body: RecallRequestDto }>(
    '/v1/streams/:name/recall',
    { schema: SCHEMA.recall },
    (request, reply) => send(reply, (signal) => api.recall(request.params.name, request.body, signal)),
  )
  app.post<Named & { Body: RangeRequest }>(
    '/v1/streams/:name/evict',
    { schema: SCHEMA.evict },
    (request, reply) => send(reply, (signal) => api.evict(request.params.name, request.body, signal)),
  )
  app.get('/v1/tier/orders', () => api.tierOrders())
  app.post<{ Body: TierOrderRequest }>('/v1/tier/orders', { schema: SCHEMA.order }, (request) =>
    api.tierOrder(request.body),
  )
}
