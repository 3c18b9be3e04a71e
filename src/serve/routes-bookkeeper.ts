import type { FastifyInstance } from 'fastify'
import type { BookkeeperApi } from '../model/control-bookkeeper.js'
import type { SendParts } from './routes-archive.js'

const BODY = {
  type: 'object',
  properties: { bookie: { type: 'string', minLength: 1, maxLength: 1_000 } },
  required: ['bookie'],
  additionalProperties: false,
} as const

/** One route for each verb on the cluster. */
export function bookkeeperRoutes(
  app: FastifyInstance,
  api: BookkeeperApi,
  ending: AbortSignal,
  send: SendParts,
): void {
  app.get('/v1/bookkeeper', () => api.bookkeeperStatus())
  app.post<{ Body: { bookie: string } }>(
    '/v1/bookkeeper/check-impact',
    { schema: { body: BODY } },
    (request, reply) =>
      send(
        reply,
        ending,
        (signal) => api.checkImpact(request.body, signal),
        (part) => `${JSON.stringify(part)}\n`,
      ),
  )
}
