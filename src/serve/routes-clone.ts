import type { FastifyInstance } from 'fastify'
import type { CloneApi, CloneRequestDto } from '../model/control-clone.js'

const STRING = { type: 'string' } as const

/** The route for clones of streams. */
export function cloneRoutes(app: FastifyInstance, api: CloneApi): void {
  const schema = {
    params: { type: 'object', properties: { name: STRING }, required: ['name'], additionalProperties: false },
    body: {
      type: 'object',
      properties: { to: STRING, until: STRING },
      required: ['to'],
      additionalProperties: false,
    },
  }
  app.post<{ Params: { name: string }; Body: CloneRequestDto }>(
    '/v1/streams/:name/clone',
    { schema },
    (request) => api.cloneStream(request.params.name, request.body),
  )
}
