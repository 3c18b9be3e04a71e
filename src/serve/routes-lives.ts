import type { FastifyInstance } from 'fastify'
import type { LivesApi } from '../model/control-lives.js'

const object = (properties: Record<string, object>, required: readonly string[]) => ({
  type: 'object',
  properties,
  required,
  additionalProperties: false,
})
const STRING = { type: 'string' } as const

/** Routes for names of streams and for whose the archive is. */
export function livesRoutes(app: FastifyInstance, api: LivesApi): void {
  const rename = {
    params: object({ name: STRING }, ['name']),
    body: object({ to: STRING }, ['to']),
  }
  app.post<{ Params: { name: string }; Body: { to: string } }>(
    '/v1/streams/:name/rename',
    { schema: rename },
    (request) => api.renameStream(request.params.name, request.body.to),
  )
  app.get('/v1/archive/owner', () => api.archiveOwner())
  app.post('/v1/archive/take-over', () => api.takeOverArchive())
  const begin = { body: object({ acceptLoss: { type: 'boolean' } }, ['acceptLoss']) }
  app.post<{ Body: { acceptLoss: boolean } }>('/v1/archive/begin', { schema: begin }, (request) =>
    api.beginArchive(request.body),
  )
}
