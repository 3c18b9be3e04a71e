import type { FastifyInstance } from 'fastify'
import type { MigrateApi, MigrateRequest } from '../model/control-migrate.js'
import type { SendParts } from './routes-archive.js'

const body = (properties: Record<string, object>, required: readonly string[]) => ({
  schema: { body: { type: 'object', properties, required, additionalProperties: false } },
})
const FLAG = { type: 'boolean' } as const
const SCHEMA = {
  migrate: body(
    {
      to: { type: 'string', minLength: 1, maxLength: 4_000 },
      bytesPerSecond: { type: 'integer', minimum: 1, maximum: Number.MAX_SAFE_INTEGER },
      allowDamaged: FLAG,
      dryRun: FLAG,
    },
    ['to'],
  ),
  abort: body({ leave: FLAG }, ['leave']),
}

/** One route for each verb on moving an archive. */
export function migrateRoutes(
  app: FastifyInstance,
  api: MigrateApi,
  ending: AbortSignal,
  send: SendParts,
): void {
  app.post<{ Body: MigrateRequest }>('/v1/archive/migrate', SCHEMA.migrate, (request, reply) =>
    send(
      reply,
      ending,
      (signal) => api.migrate(request.body, signal),
      (part) => `${JSON.stringify(part)}\n`,
    ),
  )
  app.post<{ Body: { leave: boolean } }>('/v1/archive/migrate/abort', SCHEMA.abort, (request) =>
    api.abortMigration(request.body),
  )
}
