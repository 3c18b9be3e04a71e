import { PutObjectCommand, type PutObjectCommandInput } from '@aws-sdk/client-s3'
import { crc32c } from '../../src/format/checksum.js'
import type { ReplayableBody, StorageWishes } from '../../src/ports/archive-store.js'
import { fillWith } from '../engine/body.js'
import { withSignal } from '../engine/deadline.js'
import { NotFromS3 } from './errors.js'
import { putMultipart } from './multipart.js'
import type { S3Session } from './session.js'
import { checksumOf, refuseTaken, settle, storageOf, type Upload } from './upload.js'

/*
 * How an object is stored so that it is there whole, once, and its writer knows:
 *
 *   1. Every upload has a random id in the object's metadata. Whatever is found under the key later can be told from
 *      what another wrote: a success whose answer was lost, tried again, is refused as taken, and is ours all the same.
 *   2. One request with the checksum of the whole body, taken while the body was gathered: the store refuses bytes that
 *      suffered on the way. A body is a buffer, so it can be sent again.
 *   3. `If-None-Match: *` where the store was seen to honour it. Where it was not, one look before; the random attempt
 *      in the names of segments keeps two writers apart there.
 *
 * A crash at any moment leaves the whole object or nothing (invariant 6).
 */

/** Creates an object. `object_exists` where there is one that this call did not make. */
export async function putObject(
  session: S3Session,
  key: string,
  body: ReplayableBody,
  options: StorageWishes & { readonly signal?: AbortSignal },
): Promise<void> {
  const { signal, ...wishes } = options
  session.check(signal)
  const putId = Buffer.from(session.context.random.bytes(16)).toString('hex')
  await withSignal([session.context.signal, signal], async (own) => {
    const upload: Upload = { key, body, wishes, putId, signal: own }
    if (!session.abilities.conditionalPut) await refuseTaken(session, upload)
    if (body.sizeBytes > session.place.putMaxBytes) await putMultipart(session, upload)
    else await putWhole(session, upload)
  })
}

async function putWhole(session: S3Session, upload: Upload): Promise<void> {
  const { key, body, signal } = upload
  await session.room.with(body.sizeBytes, signal, async (buffer, done) => {
    const sum = await fillWith(body, buffer, crc32c, signal)
    const condition = session.abilities.conditionalPut ? { IfNoneMatch: '*' } : {}
    const input: PutObjectCommandInput = {
      ...session.at(key),
      ...storageOf(session, upload),
      ...checksumOf(session, buffer, sum),
      ...condition,
      Body: buffer,
    }
    const first = await sendWhole(session, upload, input)
    // A request that was cut off may still have the buffer.
    if (first) done()
  })
}

/** Whether one request sufficed. */
async function sendWhole(session: S3Session, upload: Upload, input: PutObjectCommandInput): Promise<boolean> {
  const { key, body, signal } = upload
  let attempts = 0
  const send = session.call({
    doing: `storing ${body.sizeBytes} bytes as ${key}`,
    sizeBytes: body.sizeBytes,
    signal,
    work: async ({ signal: abortSignal }) => {
      attempts += 1
      const { ETag, $metadata } = await session.client.send(new PutObjectCommand(input), { abortSignal })
      if (ETag === undefined)
        throw new NotFromS3($metadata.httpStatusCode ?? 200, 'an answer without the ETag of an object')
    },
  })
  await settle(session, upload, send)
  return attempts === 1
}
