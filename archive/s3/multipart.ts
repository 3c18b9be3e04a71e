import { createHash } from 'node:crypto'
import {
  AbortMultipartUploadCommand,
  type CompletedPart,
  CompleteMultipartUploadCommand,
  CreateMultipartUploadCommand,
  UploadPartCommand,
} from '@aws-sdk/client-s3'
import { crc32c, crc32cJoined } from '../../src/format/checksum.js'
import { assert } from '../../src/model/assert.js'
import { StratalogError } from '../../src/model/errors.js'
import { BodyCutter } from '../engine/body.js'
import { deleteKey } from './delete.js'
import { isNamed, NotFromS3 } from './errors.js'
import { CLAIMS, readSmall, writeSmall } from './marker.js'
import { headObject } from './read.js'
import type { S3Session } from './session.js'
import { checksumOf, crcText, refuseTaken, settle, storageOf, taken, type Upload } from './upload.js'

/*
 * An object in parts. Parts are nothing anybody sees until the upload is ended, so a crash leaves no object, only parts
 * that cost money: `removeLeftovers` ends uploads of a day ago.
 *
 * Ending it is what takes the key. Where the store honours `If-None-Match` there, that is all. Where it honours it on a
 * PUT only (Ceph), a small object under a key of its own (`.stratalog-claims/`, no key of an archive) is put first: the
 * one who could put it looks whether the key is free, ends the upload, and deletes the claim. The windows of a crash:
 *
 *   after the claim, before the end   a claim and no object: nobody can end an upload to that key until the claim is a
 *                                     day old and removed. A new try has a new attempt in its name, so nobody waits.
 *   after the end, before the delete  the object is there, whole; whoever holds no claim sees it when it looks.
 *   the answer to the end is lost     the object tells whose it is; where it can't be asked, the claim stays, for the
 *                                     end may still happen.
 */

/** Parts of one upload that are on their way at once. */
const PARTS_AT_ONCE = 4
const PARTS_MAX = 10_000
const CLAIM_WAIT_MS = 30_000
const CLAIM_LOOK_MS = 500

interface Started {
  readonly upload: Upload
  readonly uploadId: string
  readonly partBytes: number
}

/** Stores a large object. */
export async function putMultipart(session: S3Session, upload: Upload): Promise<void> {
  // Hours of work for a key that is taken are saved; what counts is asked at the end.
  await refuseTaken(session, upload)
  const partBytes = Math.max(session.place.partBytes, Math.ceil(upload.body.sizeBytes / PARTS_MAX))
  const started: Started = { upload, uploadId: await begin(session, upload), partBytes }
  try {
    const { parts, sum } = await new PartSender(session, started).all()
    await finish(session, started, parts, sum)
  } catch (error) {
    await abandon(session, started)
    throw error
  }
}

function begin(session: S3Session, upload: Upload): Promise<string> {
  const { crc32c: checked, crc32cOfWhole } = session.abilities
  return session.call({
    doing: `beginning to store ${upload.key}`,
    signal: upload.signal,
    work: async ({ signal: abortSignal }) => {
      const input = {
        ...session.at(upload.key),
        ...storageOf(session, upload),
        ...(checked ? { ChecksumAlgorithm: 'CRC32C' as const } : {}),
        ...(checked && crc32cOfWhole ? { ChecksumType: 'FULL_OBJECT' as const } : {}),
      }
      const { UploadId, $metadata } = await session.client.send(new CreateMultipartUploadCommand(input), {
        abortSignal,
      })
      if (UploadId === undefined)
        throw new NotFromS3($metadata.httpStatusCode ?? 200, 'an answer without the id of an upload')
      return UploadId
    },
  })
}

/** Cuts the body into parts, a few on their way at once, each from a buffer of the room. */
class PartSender {
  readonly #session: S3Session
  readonly #started: Started
  readonly #cutter: BodyCutter
  readonly #sent: { part: CompletedPart; sum: number; sizeBytes: number }[] = []
  readonly #stop = new AbortController()
  readonly #underWay = new Set<Promise<void>>()

  constructor(session: S3Session, started: Started) {
    this.#session = session
    this.#started = started
    this.#cutter = new BodyCutter(started.upload.body)
  }

  async all(): Promise<{ parts: CompletedPart[]; sum: number }> {
    const { upload, partBytes } = this.#started
    const stop = () => this.#stop.abort(upload.signal.reason)
    upload.signal.addEventListener('abort', stop, { once: true })
    try {
      for (let number = 1, at = 0; at < upload.body.sizeBytes; number += 1, at += partBytes) {
        await this.#next(number, Math.min(partBytes, upload.body.sizeBytes - at))
      }
      await this.#cutter.end()
      await Promise.all(this.#underWay)
      // A part that failed while nobody waited for it is no longer among them, and the object must not end without it.
      this.#stop.signal.throwIfAborted()
    } catch (error) {
      // None may go on when the upload is given up: its parts would be stored for nobody.
      this.#stop.abort(error)
      await Promise.allSettled(this.#underWay)
      throw error
    } finally {
      upload.signal.removeEventListener('abort', stop)
      await this.#cutter.close()
    }
    const sent = this.#sent.sort((a, b) => (a.part.PartNumber ?? 0) - (b.part.PartNumber ?? 0))
    const sentBytes = sent.reduce((before, { sizeBytes }) => before + sizeBytes, 0)
    assert(sentBytes === upload.body.sizeBytes, `parts of ${sentBytes} bytes for ${upload.body.sizeBytes}`)
    const sum = sent.reduce((before, part) => crc32cJoined(before, part.sum, part.sizeBytes), 0)
    return { parts: sent.map(({ part }) => part), sum }
  }

  /** Resolves when the part is cut and another may be on its way. */
  async #next(number: number, sizeBytes: number): Promise<void> {
    let cut = (): void => {}
    const isCut = new Promise<void>((resolve) => {
      cut = resolve
    })
    const part = this.#send(number, sizeBytes, cut).catch((error: unknown) => {
      this.#stop.abort(error)
      throw error
    })
    const done: Promise<void> = part.finally(() => this.#underWay.delete(done))
    this.#underWay.add(done)
    // Parts are cut one after another, for the body comes in order.
    await Promise.race([isCut, done])
    if (this.#underWay.size >= PARTS_AT_ONCE) await Promise.race(this.#underWay)
  }

  #send(number: number, sizeBytes: number, cut: () => void): Promise<void> {
    const session = this.#session
    const { upload, uploadId } = this.#started
    const { signal } = this.#stop
    return session.room.with(sizeBytes, signal, async (buffer, done) => {
      const sum = await this.#cutter.next(buffer, crc32c, signal)
      cut()
      let attempts = 0
      const checksum = checksumOf(session, buffer, sum)
      const part = await session.call({
        doing: `storing part ${number} of ${upload.key}`,
        sizeBytes,
        signal,
        work: async ({ signal: abortSignal }) => {
          attempts += 1
          const input = { ...session.at(upload.key), ...session.customerKey, ...checksum, Body: buffer }
          const command = new UploadPartCommand({ ...input, UploadId: uploadId, PartNumber: number })
          const { ETag, $metadata } = await session.client.send(command, { abortSignal })
          if (ETag === undefined)
            throw new NotFromS3($metadata.httpStatusCode ?? 200, 'an answer without the ETag of a part')
          const { ChecksumCRC32C } = checksum
          return {
            PartNumber: number,
            ETag,
            ...(ChecksumCRC32C === undefined ? {} : { ChecksumCRC32C }),
          }
        },
      })
      if (attempts === 1) done()
      this.#sent.push({ part, sum, sizeBytes })
    })
  }
}

async function finish(
  session: S3Session,
  started: Started,
  parts: CompletedPart[],
  sum: number,
): Promise<void> {
  const { upload } = started
  const { conditionalPut, conditionalComplete } = session.abilities
  if (conditionalComplete || !conditionalPut) {
    if (!conditionalComplete) await refuseTaken(session, upload)
    return settle(session, upload, complete(session, started, parts, sum))
  }
  const claim = await claimKey(session, upload)
  let known = false
  try {
    await refuseTaken(session, upload)
    await settle(session, upload, complete(session, started, parts, sum))
    known = true
  } catch (error) {
    // Refused for good, or taken: nothing will happen any more. Anything else may still.
    known = error instanceof StratalogError && !error.retryable
    throw error
  } finally {
    if (known) await releaseClaim(session, claim)
  }
}

function complete(session: S3Session, started: Started, parts: CompletedPart[], sum: number): Promise<void> {
  const { upload, uploadId } = started
  const { conditionalComplete, crc32c: checked, crc32cOfWhole } = session.abilities
  const whole = checked && crc32cOfWhole
  return session.call({
    doing: `ending the upload of ${upload.key}`,
    sizeBytes: upload.body.sizeBytes,
    signal: upload.signal,
    work: async ({ signal: abortSignal }) => {
      const command = new CompleteMultipartUploadCommand({
        ...session.at(upload.key),
        ...session.customerKey,
        UploadId: uploadId,
        MultipartUpload: { Parts: parts },
        ...(conditionalComplete ? { IfNoneMatch: '*' } : {}),
        ...(whole ? { ChecksumType: 'FULL_OBJECT' as const, ChecksumCRC32C: crcText(sum) } : {}),
      })
      try {
        const { ETag, $metadata } = await session.client.send(command, { abortSignal })
        if (ETag === undefined)
          throw new NotFromS3($metadata.httpStatusCode ?? 200, 'an answer without the ETag of an object')
      } catch (error) {
        // An attempt before has ended it and its answer was lost, or somebody removed the parts: looking tells.
        if (isNamed(error, 'NoSuchUpload')) throw vanished(upload.key, error)
        throw error
      }
    },
  })
}

function vanished(key: string, cause: unknown): StratalogError {
  return new StratalogError(
    'archive_unavailable',
    `the upload of ${key} is not there any more when it is to be ended: it is tried again from the start`,
    { cause, retryable: true },
  )
}

/** Takes the right to end an upload to this key; waits a while for another that has it. */
async function claimKey(session: S3Session, upload: Upload): Promise<string> {
  const { clock } = session.context
  const claim = `${CLAIMS}${createHash('sha256').update(upload.key).digest('hex')}`
  const text = JSON.stringify({ key: upload.key, put: upload.putId, atMs: clock.nowMs() })
  const beganMs = clock.monotonicMs()
  for (;;) {
    if (await writeSmall(session, claim, text, { fresh: true, signal: upload.signal })) return claim
    // Ours, if the answer to an attempt was lost and the next was refused.
    if ((await readSmall(session, claim, upload.signal)) === text) return claim
    if ((await headObject(session, upload.key, upload.signal)) !== null) throw taken(upload.key)
    if (clock.monotonicMs() - beganMs > CLAIM_WAIT_MS) throw claimed(session, upload.key)
    await clock.sleep(CLAIM_LOOK_MS, upload.signal)
  }
}

function claimed({ location }: S3Session, key: string): StratalogError {
  return new StratalogError(
    'archive_unavailable',
    `archive ${location}: another upload of ${key} is being ended, or was cut off there: store it under a new attempt`,
    { retryable: true, found: key },
  )
}

async function releaseClaim(session: S3Session, claim: string): Promise<void> {
  try {
    await deleteKey(session, claim, undefined)
  } catch (error) {
    // It keeps this key from being taken for a day, which nobody wants: names are new with each attempt.
    session.context.logger.warn({ error, claim }, 'a claim in the archive could not be deleted')
  }
}

/** Ends an upload that failed, also one whose caller gave up: its parts cost money until somebody does. */
async function abandon(session: S3Session, { upload, uploadId }: Started): Promise<void> {
  try {
    await abortUpload(session, upload.key, uploadId)
  } catch (error) {
    session.context.logger.warn({ error, key: upload.key }, 'an upload that failed could not be ended')
  }
}

/** Forgets an upload and its parts; one that is gone is fine. */
export function abortUpload(session: S3Session, key: string, uploadId: string): Promise<void> {
  return session.call({
    doing: `giving up the upload of ${key}`,
    work: async ({ signal: abortSignal }) => {
      try {
        const input = { ...session.at(key), UploadId: uploadId }
        await session.client.send(new AbortMultipartUploadCommand(input), { abortSignal })
      } catch (error) {
        if (!isNamed(error, 'NoSuchUpload')) throw error
      }
    },
  })
}
