import { createHash } from 'node:crypto'
import type { PutObjectCommandInput } from '@aws-sdk/client-s3'
import { StratalogError } from '../../src/model/errors.js'
import type { ReplayableBody, StorageWishes } from '../../src/ports/archive-store.js'
import { statusOf } from './errors.js'
import { headObject } from './read.js'
import type { S3Session } from './session.js'

/** Name of the metadata that tells one upload from another. */
const PUT_ID = 'stratalog-put'

/** One upload: what it stores, where, and the id that tells it from others. */
export interface Upload {
  readonly key: string
  readonly body: ReplayableBody
  readonly wishes: StorageWishes
  readonly putId: string
  readonly signal: AbortSignal
}

/**
 * Waits for what makes the object. Where that fails, the object may be there all the same: the answer was lost, or it
 * was refused because an earlier attempt had done it. Then looking tells.
 */
export async function settle(session: S3Session, upload: Upload, making: Promise<void>): Promise<void> {
  try {
    await making
  } catch (error) {
    upload.signal.throwIfAborted()
    const refused = isTaken(error)
    // No answer says what became of a request, and neither do answers of things in between.
    if (!refused && !(error instanceof StratalogError && error.retryable)) throw error
    const found = await isOurs(session, upload).catch((unknown: unknown) => {
      if (refused) throw unknown
      return null
    })
    if (found === true) return
    throw refused && found === false ? taken(upload.key, error) : error
  }
}

/** True: this upload made it. False: another did. Null: there is none. */
async function isOurs(session: S3Session, { key, body, putId, signal }: Upload): Promise<boolean | null> {
  const head = await headObject(session, key, signal)
  if (head === null) return null
  return head.metadata[PUT_ID] === putId && head.sizeBytes === body.sizeBytes
}

/** Whether a failure says that the key is taken: a condition was not met. */
function isTaken(error: unknown): boolean {
  return error instanceof StratalogError && statusOf(error.cause) === 412
}

/** Looks before storing, where the store does not do so by itself. */
export async function refuseTaken(session: S3Session, { key, signal }: Upload): Promise<void> {
  if ((await headObject(session, key, signal)) !== null) throw taken(key)
}

/** The error for a key that another upload has. */
export function taken(key: string, cause?: unknown): StratalogError {
  return new StratalogError(
    'object_exists',
    `${key} is in the archive already: store it under a new attempt`,
    { found: key, cause },
  )
}

type Storage = Pick<
  PutObjectCommandInput,
  | 'Metadata'
  | 'ContentType'
  | 'StorageClass'
  | 'Tagging'
  | 'ServerSideEncryption'
  | 'SSEKMSKeyId'
  | 'SSECustomerAlgorithm'
  | 'SSECustomerKey'
  | 'SSECustomerKeyMD5'
>

/** How the object is to be stored: what policy and settings wish. */
export function storageOf(session: S3Session, { wishes, putId }: Upload): Storage {
  const { sse, kmsKey } = session.place
  const key = wishes.kmsKey ?? kmsKey
  const kms = sse === 'kms' || (wishes.kmsKey !== undefined && sse !== 'customer')
  const tags = Object.entries(wishes.tags ?? {}).map(
    ([name, value]) => `${encodeURIComponent(name)}=${encodeURIComponent(value)}`,
  )
  return {
    Metadata: { [PUT_ID]: putId },
    ContentType: 'application/octet-stream',
    // The SDK knows some classes; a store may have others.
    ...(wishes.storageClass === undefined
      ? {}
      : { StorageClass: wishes.storageClass as NonNullable<PutObjectCommandInput['StorageClass']> }),
    ...(tags.length === 0 ? {} : { Tagging: tags.join('&') }),
    ...(kms ? { ServerSideEncryption: 'aws:kms' as const } : {}),
    ...(kms && key !== null ? { SSEKMSKeyId: key } : {}),
    ...(sse === 's3' && !kms ? { ServerSideEncryption: 'AES256' as const } : {}),
    ...session.customerKey,
  }
}

/** The checksum that this store checks; none where it checks none, and then the SDK signs the bytes themselves. */
export function checksumOf(
  session: S3Session,
  bytes: Uint8Array,
  sum: number,
): Pick<PutObjectCommandInput, 'ChecksumCRC32C' | 'ContentMD5'> {
  if (session.abilities.crc32c) return { ChecksumCRC32C: crcText(sum) }
  if (session.abilities.md5) return { ContentMD5: createHash('md5').update(bytes).digest('base64') }
  return {}
}

/** A CRC as S3 writes it: four bytes, the highest first, in base64. */
export function crcText(sum: number): string {
  const bytes = Buffer.allocUnsafe(4)
  bytes.writeUInt32BE(sum)
  return bytes.toString('base64')
}
