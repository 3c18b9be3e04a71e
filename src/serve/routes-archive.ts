import type { FastifyInstance, FastifyReply } from 'fastify'
import type { ArchiveApi } from '../model/control-archive.js'

/** Streams parts as lines; given by who registers the routes. */
export type SendParts = <T>(
  reply: FastifyReply,
  ending: AbortSignal,
  open: (signal: AbortSignal) => AsyncIterable<T>,
  encode: (part: T) => string,
) => Promise<FastifyReply>

const STRING = { type: 'string', maxLength: 1_000 } as const
const FLAG = { type: 'boolean' } as const
const object = (properties: Record<string, object>, required: readonly string[] = []) => ({
  schema: { body: { type: 'object', properties, required, additionalProperties: false } },
})
const SCHEMA = {
  ls: object({ stream: STRING, archive: STRING }),
  verify: object({
    stream: STRING,
    archive: STRING,
    deep: FLAG,
    sample: { type: 'number', exclusiveMinimum: 0, maximum: 1 },
    seed: STRING,
  }),
  orphans: object(
    {
      stream: STRING,
      archive: STRING,
      graceMs: { type: 'integer', minimum: 0, maximum: Number.MAX_SAFE_INTEGER },
      collect: FLAG,
    },
    ['collect'],
  ),
  resolve: object({ stream: STRING, segment: STRING, attempt: STRING }, ['stream', 'segment', 'attempt']),
  scrub: object({}),
  fsck: object({ deep: FLAG }),
}

type Requested<F extends keyof ArchiveApi> = { Body: Parameters<ArchiveApi[F]>[0] }

/** One route for each verb on the archive. */
export function archiveRoutes(
  app: FastifyInstance,
  api: ArchiveApi,
  ending: AbortSignal,
  send: SendParts,
): void {
  const line = (part: unknown) => `${JSON.stringify(part)}\n`
  app.post<Requested<'archiveLs'>>('/v1/archive/ls', SCHEMA.ls, ({ body }, reply) =>
    send(reply, ending, (signal) => api.archiveLs(body, signal), line),
  )
  app.post<Requested<'archiveVerify'>>('/v1/archive/verify', SCHEMA.verify, ({ body }, reply) =>
    send(reply, ending, (signal) => api.archiveVerify(body, signal), line),
  )
  app.post<Requested<'archiveOrphans'>>('/v1/archive/orphans', SCHEMA.orphans, ({ body }, reply) =>
    send(reply, ending, (signal) => api.archiveOrphans(body, signal), line),
  )
  app.post<Requested<'archiveResolve'>>('/v1/archive/resolve', SCHEMA.resolve, ({ body }) =>
    api.archiveResolve(body),
  )
  app.post('/v1/archive/scrub', SCHEMA.scrub, (_, reply) =>
    send(reply, ending, (signal) => api.archiveScrub(signal), line),
  )
  app.post<Requested<'fsck'>>('/v1/fsck', SCHEMA.fsck, ({ body }, reply) =>
    send(reply, ending, (signal) => api.fsck(body, signal), line),
  )
}
