import type { Abilities } from './abilities.js'
import { NotFromS3 } from './errors.js'

/*
 * Two things that the SDK does otherwise, as middleware. Its types are of a package that is not ours to import, so what
 * is needed of them stands here.
 */

interface Request {
  readonly hostname: string
  readonly protocol: string
  readonly headers: Record<string, string>
}

interface Response {
  readonly statusCode: number
  readonly headers: Record<string, string>
  readonly body?: { destroy?(): void }
}

/** A step of the SDK, as far as it matters here. */
type Answering = <A, R extends { response: unknown }>(
  next: (args: A) => Promise<R>,
) => (args: A) => Promise<R>
type Asking = <A extends { request: unknown }, R>(next: (args: A) => Promise<R>) => (args: A) => Promise<R>

/**
 * Refuses pages: a login page, a proxy's message or a web site answers with HTML where a store has XML, or nothing. As
 * an answer to PUT or HEAD the SDK would take it for success.
 */
export const refusePages: Answering = (next) => async (args) => {
  const result = await next(args)
  const { statusCode, headers, body } = result.response as Response
  // An object's own bytes may be of any type.
  if (statusCode !== 206 && /^text\/html\b/i.test(headers['content-type'] ?? '')) {
    body?.destroy?.()
    throw new NotFromS3(statusCode, `a web page was the answer (status ${statusCode})`)
  }
  return result
}

/**
 * Lets the SDK sign a checksum of the body instead of the body, where the store is known to check it: hashing a segment
 * once more would take as long as sending it. Over a line that others may change (plain HTTP to another machine) bodies
 * are signed as ever.
 */
export function signHeadersOnly(abilities: () => Abilities, checkHost: (host: string) => void): Asking {
  return (next) => async (args) => {
    const request = args.request as Request
    checkHost(request.hostname)
    const { headers, protocol, hostname } = request
    const checked =
      (headers['x-amz-checksum-crc32c'] !== undefined && abilities().crc32c) ||
      (headers['content-md5'] !== undefined && abilities().md5)
    const guarded = protocol === 'https:' || /^(localhost|127(\.\d+){3}|\[?::1\]?)$/.test(hostname)
    if (checked && guarded) headers['x-amz-content-sha256'] = 'UNSIGNED-PAYLOAD'
    return next(args)
  }
}
