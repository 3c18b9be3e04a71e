import type { FastifyInstance } from 'fastify'
import type { ControlApi } from '../model/control-api.js'
import type { EventDto } from '../model/control-status.js'
import { sendParts } from './send-parts.js'

const EVENTS = {
  type: 'object',
  properties: {
    after: { type: 'integer', minimum: 0, maximum: Number.MAX_SAFE_INTEGER },
    follow: { type: 'boolean' },
  },
  required: ['after', 'follow'],
  additionalProperties: false,
} as const

/** Routes of control-status.ts. */
export function statusRoutes(app: FastifyInstance, api: ControlApi, ending: AbortSignal): void {
  app.post<{ Body: { after: number; follow: boolean } }>(
    '/v1/events',
    { schema: { body: EVENTS } },
    (request, reply) =>
      sendParts<EventDto>(
        reply,
        ending,
        (signal) => api.events(request.body, signal),
        (event) => `${JSON.stringify(event)}\n`,
      ),
  )
  app.get<{ Params: { name: string } }>('/v1/streams/:name/history', (request) =>
    api.tierHistory(request.params.name),
  )
}
