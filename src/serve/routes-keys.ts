import type { FastifyInstance, FastifyReply } from 'fastify'
import type { KeysApi } from '../model/control-keys.js'

/** Streams parts as lines; given by who registers the routes. */
type SendParts = <T>(
  reply: FastifyReply,
  ending: AbortSignal,
  open: (signal: AbortSignal) => AsyncIterable<T>,
  encode: (part: T) => string,
) => Promise<FastifyReply>

const STREAM = { type: 'string', maxLength: 1_000 } as const
const body = (properties: Record<string, object>, required: readonly string[] = []) => ({
  schema: { body: { type: 'object', properties, required, additionalProperties: false } },
})
const line = (part: unknown): string => `${JSON.stringify(part)}\n`

/** One route for each verb on keys. */
export function keyRoutes(app: FastifyInstance, api: KeysApi, ending: AbortSignal, send: SendParts): void {
  app.post<{ Body: { stream?: string } }>('/v1/keys', body({ stream: STREAM }), (request, reply) =>
    send(reply, ending, (signal) => api.keyList(request.body, signal), line),
  )
  app.post<{ Body: { stream?: string } }>('/v1/keys/rotate', body({ stream: STREAM }), (request, reply) =>
    send(reply, ending, (signal) => api.keyRotate(request.body, signal), line),
  )
  app.post<{ Body: { stream: string; newKey: boolean } }>(
    '/v1/keys/reencrypt',
    body({ stream: STREAM, newKey: { type: 'boolean' } }, ['stream', 'newKey']),
    (request, reply) => send(reply, ending, (signal) => api.keyReencrypt(request.body, signal), line),
  )
}
