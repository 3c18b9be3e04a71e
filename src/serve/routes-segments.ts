import type { FastifyInstance } from 'fastify'
import type { SegmentsApi } from '../model/control-segments.js'

const NAMED = {
  type: 'object',
  properties: { name: { type: 'string' } },
  required: ['name'],
  additionalProperties: false,
} as const

/** The routes of segments by hand. */
export function segmentRoutes(app: FastifyInstance, api: SegmentsApi): void {
  app.post<{ Params: { name: string } }>('/v1/streams/:name/seal', { schema: { params: NAMED } }, (request) =>
    api.sealSegment(request.params.name),
  )
}
