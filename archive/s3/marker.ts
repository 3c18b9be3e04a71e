import type { Readable } from 'node:stream'
import { GetObjectCommand, PutObjectCommand } from '@aws-sdk/client-s3'
import { StratalogError } from '../../src/model/errors.js'
import { isNamed, NotFromS3, statusOf } from './errors.js'
import type { S3Session } from './session.js'

/*
 * What the engine keeps beside the objects. Only the marker has a name that could be an object's; the others begin with
 * a dot, which no key does.
 *
 *   <prefix>/stratalog-archive.json     the marker: {"format":1}, as a directory has it
 *   <prefix>/.stratalog-archive         what the store was found to do, so that it is not asked at every start
 *   <prefix>/.stratalog-probe/…         objects that it was tried on; deleted at once
 *   <prefix>/.stratalog-claims/…        a key whose upload in parts is being ended (multipart.ts)
 */

export const MARKER = 'stratalog-archive.json'
export const NOTES = '.stratalog-archive'
export const PROBES = '.stratalog-probe/'
export const CLAIMS = '.stratalog-claims/'

const FORMAT = 1
const SMALL_BYTES_MAX = 65_536

/** A small object of the engine's own as text; null if there is none. Tells a missing bucket from a missing object. */
export function readSmall(session: S3Session, key: string, signal?: AbortSignal): Promise<string | null> {
  return session.call({
    doing: `reading ${key}`,
    signal,
    work: async ({ signal: abortSignal }) => {
      try {
        const input = { ...session.at(key), ...session.customerKey }
        const answer = await session.client.send(new GetObjectCommand(input), { abortSignal })
        if (answer.ETag === undefined || answer.Body === undefined)
          throw new NotFromS3(answer.$metadata.httpStatusCode ?? 200, 'an answer without an object')
        const text = await smallText(answer.Body as Readable)
        if (text !== null) return text
        throw new StratalogError('corrupt', `${key} in ${session.location} is not of this engine`)
      } catch (error) {
        if (isNamed(error, 'NoSuchBucket') || error instanceof NotFromS3) throw error
        if (statusOf(error) === 404) return null
        throw error
      }
    },
  })
}

/** The whole of a body, null where it goes on beyond what is small; its stated length is not relied upon. */
async function smallText(body: Readable): Promise<string | null> {
  const chunks: Buffer[] = []
  let sizeBytes = 0
  // Left early, the loop destroys the body, and with it the connection.
  for await (const chunk of body as AsyncIterable<Buffer>) {
    sizeBytes += chunk.length
    if (sizeBytes > SMALL_BYTES_MAX) return null
    chunks.push(chunk)
  }
  return Buffer.concat(chunks).toString('utf8')
}

/** Stores a small object of the engine's own; false where it must be new (`fresh`) and is not. */
export function writeSmall(
  session: S3Session,
  key: string,
  text: string,
  options: { readonly fresh: boolean; readonly signal?: AbortSignal | undefined },
): Promise<boolean> {
  const Body = Buffer.from(text)
  const condition = options.fresh ? { IfNoneMatch: '*' } : {}
  return session.call({
    doing: `writing ${key}`,
    signal: options.signal,
    work: async ({ signal: abortSignal }) => {
      try {
        const input = {
          ...session.at(key),
          ...session.encryption,
          ...condition,
          Body,
          ContentType: 'application/json',
        }
        const { ETag, $metadata } = await session.client.send(new PutObjectCommand(input), { abortSignal })
        if (ETag === undefined) throw new NotFromS3($metadata.httpStatusCode ?? 200, 'an answer without ETag')
        return true
      } catch (error) {
        if (options.fresh && statusOf(error) === 412) return false
        throw error
      }
    },
  })
}

/** Whether there is a marker, and one this version reads. */
export async function findMarker(session: S3Session): Promise<boolean> {
  const text = await readSmall(session, MARKER)
  if (text === null) return false
  const where = `${session.location}/${MARKER}`
  let format: unknown
  try {
    format = (JSON.parse(text) as { format?: unknown } | null)?.format
  } catch (cause) {
    throw new StratalogError('corrupt', `${where} is damaged: restore it as {"format":${FORMAT}}`, { cause })
  }
  if (format === FORMAT) return true
  const newer = typeof format === 'number' && Number.isInteger(format) && format > FORMAT
  throw new StratalogError(
    newer ? 'version_unsupported' : 'corrupt',
    newer
      ? `${session.location} is an archive of format ${format}; this stratalog reads ${FORMAT}: use a newer one`
      : `${where} states no format: restore it as {"format":${FORMAT}}`,
    { expected: FORMAT, found: format },
  )
}

/** Makes it an archive. Another process that does so in this moment is welcome. */
export async function writeMarker(session: S3Session): Promise<void> {
  const fresh = session.abilities.conditionalPut
  await writeSmall(session, MARKER, `{"format":${FORMAT}}\n`, { fresh })
}

/** Without its marker it is not the archive: what is absent there says nothing. `archive_missing`. */
export async function requireMarker(session: S3Session, signal?: AbortSignal): Promise<void> {
  if ((await readSmall(session, MARKER, signal)) !== null) return
  throw markerMissing(session)
}

/** The error for a place that must be an archive and has no marker. */
export function markerMissing({ location }: S3Session): StratalogError {
  return new StratalogError(
    'archive_missing',
    `archive ${location}: there is no ${MARKER}: check bucket and prefix, or whether it was deleted`,
    { retryable: true },
  )
}
