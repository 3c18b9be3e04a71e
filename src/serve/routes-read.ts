import type { FastifyInstance } from 'fastify'
import type { ExplainRequest, ReadApi } from '../model/control-read.js'

const POSITION = { type: 'string', maxLength: 200 } as const
const NAMED = { type: 'object', properties: { name: { type: 'string' } }, required: ['name'] } as const
const RANGE = {
  type: 'object',
  properties: { from: POSITION, after: POSITION, until: POSITION },
  additionalProperties: false,
} as const
const PLACE = {
  type: 'object',
  properties: { position: POSITION },
  required: ['position'],
  additionalProperties: false,
} as const

interface Named {
  Params: { name: string }
}

/** Routes of what is asked about reads. */
export function readRoutes(app: FastifyInstance, api: ReadApi): void {
  app.post<Named & { Body: ExplainRequest }>(
    '/v1/streams/:name/explain',
    { schema: { params: NAMED, body: RANGE } },
    (request) => api.explainRead(request.params.name, request.body),
  )
  app.post<Named & { Body: { position: string } }>(
    '/v1/streams/:name/locate',
    { schema: { params: NAMED, body: PLACE } },
    (request) => api.locatePosition(request.params.name, request.body.position),
  )
}
