import type { Readable } from 'node:stream'
import { GetObjectCommand, HeadObjectCommand, ListObjectsV2Command } from '@aws-sdk/client-s3'
import { checkArchiveKey } from '../../src/format/archive-names.js'
import { assert } from '../../src/model/assert.js'
import { type ErrorCode, isStratalogError, StratalogError } from '../../src/model/errors.js'
import type { ArchivedKey } from '../../src/ports/archive-store.js'
import { NotFromS3, statusOf } from './errors.js'
import { MARKER, readSmall, requireMarker } from './marker.js'
import type { S3Session } from './session.js'

/** Names a listing returns at once; S3 gives no more. */
const PAGE_KEYS_MAX = 1000

/** What a store says of an object. */
export interface ObjectHead {
  readonly sizeBytes: number
  /** By the store's clock. */
  readonly modifiedMs: number | undefined
  readonly metadata: Readonly<Record<string, string>>
  readonly storageClass: string | undefined
  /** `ongoing-request="true"` while it is thawing, else until when it can be read. */
  readonly restore: string | undefined
  readonly archiveStatus: string | undefined
}

/** Asks for an object without its bytes; null if there is none, without a look whether there is an archive at all. */
export async function headObject(
  session: S3Session,
  key: string,
  signal: AbortSignal | undefined,
): Promise<ObjectHead | null> {
  try {
    return await askHead(session, key, signal)
  } catch (error) {
    // The answer has no body, so a refusal has no words: one that has a body says why.
    if (isStratalogError(error) && REFUSALS.has(error.code) && !error.retryable)
      await readSmall(session, MARKER, signal)
    throw error
  }
}

const REFUSALS: ReadonlySet<ErrorCode> = new Set(['access_denied', 'archive_unavailable', 'config_invalid'])

function askHead(
  session: S3Session,
  key: string,
  signal: AbortSignal | undefined,
): Promise<ObjectHead | null> {
  return session.call({
    doing: `looking for ${key}`,
    signal,
    work: async ({ signal: abortSignal }) => {
      try {
        const input = { ...session.at(key), ...session.customerKey }
        const head = await session.client.send(new HeadObjectCommand(input), { abortSignal })
        // Without them it is no answer about an object, whatever answered.
        if (head.ETag === undefined || head.ContentLength === undefined)
          throw new NotFromS3(head.$metadata.httpStatusCode ?? 200, 'an answer that describes no object')
        return {
          sizeBytes: head.ContentLength,
          modifiedMs: head.LastModified?.getTime(),
          metadata: head.Metadata ?? {},
          storageClass: head.StorageClass,
          restore: head.Restore,
          archiveStatus: head.ArchiveStatus,
        }
      } catch (error) {
        if (statusOf(error) === 404 && !(error instanceof NotFromS3)) return null
        throw error
      }
    },
  })
}

/** Exactly the bytes [offset, offset + length), fewer only where the object ends. */
export async function readRange(
  session: S3Session,
  key: string,
  range: { readonly offset: number; readonly lengthBytes: number },
  signal: AbortSignal | undefined,
): Promise<Uint8Array> {
  const { offset, lengthBytes } = range
  for (const value of [offset, lengthBytes])
    assert(Number.isSafeInteger(value) && value >= 0, `a range of ${lengthBytes} bytes at ${offset}`)
  try {
    if (lengthBytes === 0) {
      if ((await headObject(session, key, signal)) === null) throw absent(session, key)
      return new Uint8Array(0)
    }
    return await session.call({
      doing: `reading ${lengthBytes} bytes at ${offset} of ${key}`,
      sizeBytes: Math.min(lengthBytes, session.place.putMaxBytes),
      signal,
      work: (attempt) => fetchRange(session, key, range, attempt.signal),
    })
  } catch (error) {
    // Without its marker the archive is not there: "no such object" would be a lie that costs data.
    if (isStratalogError(error, 'object_not_found')) await requireMarker(session, signal)
    throw error
  }
}

async function fetchRange(
  session: S3Session,
  key: string,
  { offset, lengthBytes }: { readonly offset: number; readonly lengthBytes: number },
  abortSignal: AbortSignal,
): Promise<Uint8Array> {
  const last = Math.min(offset + lengthBytes - 1, Number.MAX_SAFE_INTEGER)
  const input = { ...session.at(key), ...session.customerKey, Range: `bytes=${offset}-${last}` }
  try {
    const answer = await session.client.send(new GetObjectCommand(input), { abortSignal })
    const body = answer.Body as Readable | undefined
    try {
      const sizeBytes = rangeBytes(answer.ContentRange, offset, lengthBytes)
      const { httpStatusCode: status } = answer.$metadata
      if (status !== 206 || sizeBytes === null || answer.ContentLength !== sizeBytes || body === undefined)
        throw new NotFromS3(
          status ?? 0,
          `an answer (status ${status}, ${answer.ContentLength} bytes, range ${answer.ContentRange}) that is not the range asked for`,
        )
      return await collect(body, sizeBytes)
    } catch (error) {
      body?.destroy()
      throw error
    }
  } catch (error) {
    const status = statusOf(error)
    // The object ends before the range begins.
    if (status === 416 && !(error instanceof NotFromS3)) return new Uint8Array(0)
    if (status === 404 && !(error instanceof NotFromS3) && (error as Error).name !== 'NoSuchBucket')
      throw absent(session, key)
    throw error
  }
}

/** Bytes that `bytes 5-9/100` promises, null where that is not what was asked for. */
function rangeBytes(contentRange: string | undefined, offset: number, lengthBytes: number): number | null {
  const match = /^bytes (\d+)-(\d+)\/(\d+)$/.exec(contentRange ?? '')
  if (match === null) return null
  const [first, last, total] = match.slice(1).map(Number) as [number, number, number]
  const end = Math.min(offset + lengthBytes, total)
  return first === offset && last === end - 1 ? end - offset : null
}

/** The whole body in one buffer: no more memory than there are bytes, and each is copied once. */
function collect(body: Readable, sizeBytes: number): Promise<Uint8Array> {
  const bytes = Buffer.allocUnsafeSlow(sizeBytes)
  let at = 0
  return new Promise((resolve, reject) => {
    const cutShort = (why: string) =>
      Object.assign(new Error(`the answer ended after ${at} of ${sizeBytes} bytes: ${why}`), {
        code: 'CutShort',
      })
    body.on('data', (chunk: Buffer) => {
      if (at + chunk.length > sizeBytes) {
        body.destroy()
        return reject(cutShort('it went on beyond them'))
      }
      bytes.set(chunk, at)
      at += chunk.length
    })
    body.once('end', () => (at === sizeBytes ? resolve(bytes) : reject(cutShort('no more came'))))
    body.once('error', (error) => reject(error.name === 'TimeoutError' ? error : cutShort(error.message)))
    body.once('close', () => reject(cutShort('the connection was closed')))
  })
}

/** Keys above `after` with prefix `prefix`, in byte order, at most `limit`; only what can be a key of an archive. */
export async function listKeys(
  session: S3Session,
  prefix: string,
  after: string,
  limit: number,
  signal: AbortSignal | undefined,
): Promise<ArchivedKey[]> {
  session.check(signal)
  assert(Number.isSafeInteger(limit) && limit > 0, `a listing of at most ${limit} keys`)
  const found: ArchivedKey[] = []
  let page: ListedPage = { keys: [], next: undefined }
  let last = ''
  do {
    page = await listPage(session, { prefix, after, limit: limit - found.length, token: page.next }, signal)
    for (const one of page.keys) {
      if (!isOurs(one.key)) continue
      // Pages that begin again would be listed for ever.
      if (one.key <= last) throw outOfOrder(session, one.key, last)
      last = one.key
      if (one.key > after) found.push(one)
    }
  } while (page.next !== undefined && found.length < limit)
  // Nothing at all is also what the empty bucket in the place of the archive has.
  if (found.length === 0) await requireMarker(session, signal)
  return found.slice(0, limit)
}

function isOurs(key: string): boolean {
  if (key === MARKER) return false
  try {
    checkArchiveKey(key)
    return true
  } catch {
    // Whatever others keep there, and what the engine keeps for itself: no object of an archive.
    return false
  }
}

interface ListedPage {
  readonly keys: readonly ArchivedKey[]
  readonly next: string | undefined
}

/** One request of a listing. `after` counts for the first; `next` of it leads on. */
export function listPage(
  session: S3Session,
  query: {
    readonly prefix: string
    readonly after: string
    readonly limit: number
    readonly token?: string | undefined
  },
  signal: AbortSignal | undefined,
): Promise<ListedPage> {
  const { prefix, after, limit, token } = query
  const { base, bucket } = session.place
  const from =
    token === undefined ? (after === '' ? {} : { StartAfter: base + after }) : { ContinuationToken: token }
  return session.call({
    doing: `listing ${prefix === '' ? 'objects' : prefix} after "${after}"`,
    signal,
    work: async ({ signal: abortSignal }) => {
      const input = {
        Bucket: bucket,
        Prefix: base + prefix,
        MaxKeys: Math.min(PAGE_KEYS_MAX, limit),
        ...from,
      }
      const answer = await session.client.send(new ListObjectsV2Command(input), { abortSignal })
      const keys = (answer.Contents ?? []).map(({ Key, Size }) => ({ key: Key, sizeBytes: Size }))
      const listed = keys.filter(
        (one): one is { key: string; sizeBytes: number } =>
          one.key !== undefined && one.sizeBytes !== undefined && one.key.startsWith(base + prefix),
      )
      if (answer.Name === undefined || listed.length !== keys.length)
        throw new NotFromS3(
          answer.$metadata.httpStatusCode ?? 200,
          'an answer that is not the listing asked for',
        )
      const next = answer.IsTruncated === true ? answer.NextContinuationToken : undefined
      if (answer.IsTruncated === true && next === undefined)
        throw new NotFromS3(200, 'a listing that is cut off and does not say where it goes on')
      if (next !== undefined && next === token)
        throw new NotFromS3(200, 'a listing that goes on where it just began')
      return { keys: listed.map((one) => ({ ...one, key: one.key.slice(base.length) })), next }
    },
  })
}

/** The error for pages that begin again, or are in no order. */
export function outOfOrder({ location }: S3Session, key: string, last: string): StratalogError {
  return new StratalogError(
    'archive_unavailable',
    `archive ${location}: a listing told ${key} after ${last}: what answers there does not list as S3 does; check the endpoint`,
    { found: key, retryable: true },
  )
}

function absent({ location }: S3Session, key: string): StratalogError {
  return new StratalogError('object_not_found', `${key} is not in ${location}: look for its twins`, {
    found: key,
  })
}
