import { Readable } from 'node:stream'
import type { FastifyReply } from 'fastify'
import { errorBody } from '../model/error-body.js'

/**
 * Streams parts as NDJSON until they end, the client goes away or the log is closed. The first part is awaited, so
 * that what fails before it has its HTTP status; a later failure is the last line.
 */
export async function sendParts<T>(
  reply: FastifyReply,
  ending: AbortSignal,
  open: (signal: AbortSignal) => AsyncIterable<T>,
  encode: (part: T) => string,
): Promise<FastifyReply> {
  const gone = new AbortController()
  reply.raw.once('close', () => gone.abort(new DOMException('the client went away', 'AbortError')))
  const iterator = open(AbortSignal.any([gone.signal, ending]))[Symbol.asyncIterator]()
  const first = await iterator.next()
  async function* lines(): AsyncGenerator<string, void, undefined> {
    try {
      for (let next = first; next.done !== true; next = await iterator.next()) yield encode(next.value)
    } catch (error) {
      if (!gone.signal.aborted) yield `${JSON.stringify({ type: 'error', error: errorBody(error) })}\n`
    } finally {
      await iterator.return?.()
    }
  }
  return reply.type('application/x-ndjson').send(Readable.from(lines()))
}
