import { ListMultipartUploadsCommand } from '@aws-sdk/client-s3'
import { checkArchiveKey } from '../../src/format/archive-names.js'
import { deleteKey } from './delete.js'
import { NotFromS3, statusOf } from './errors.js'
import { CLAIMS, PROBES } from './marker.js'
import { abortUpload } from './multipart.js'
import { headObject, listPage, outOfOrder } from './read.js'
import type { S3Session } from './session.js'

const LEFTOVER_AGE_MS = 24 * 3_600_000
const PAGE_MAX = 1000

interface Unfinished {
  readonly key: string
  readonly uploadId: string
}

interface UploadsPage {
  readonly uploads: readonly Unfinished[]
  readonly next: { KeyMarker: string; UploadIdMarker: string } | null
}

/**
 * Ends uploads in parts that began a day ago or longer, of this archive's keys only, and deletes claims and probes of
 * that age. Says how many.
 */
export async function removeLeftovers(session: S3Session): Promise<number> {
  let removed = 0
  let page: UploadsPage = { uploads: [], next: null }
  do {
    page = await listUploads(session, page.next)
    for (const { key, uploadId } of page.uploads) {
      await abortUpload(session, key, uploadId)
      removed += 1
    }
  } while (page.next !== null)
  for (const prefix of [CLAIMS, PROBES]) removed += await removeOld(session, prefix)
  return removed
}

function listUploads(session: S3Session, next: UploadsPage['next']): Promise<UploadsPage> {
  const { base, bucket } = session.place
  return session.call({
    doing: 'listing unfinished uploads',
    work: async ({ signal: abortSignal }) => {
      try {
        const input = { Bucket: bucket, Prefix: base, MaxUploads: PAGE_MAX, ...next }
        const answer = await session.client.send(new ListMultipartUploadsCommand(input), { abortSignal })
        const before = session.context.clock.nowMs() - LEFTOVER_AGE_MS
        const uploads = (answer.Uploads ?? []).flatMap(({ Key = '', UploadId = '', Initiated }) => {
          const old = Initiated !== undefined && Initiated.getTime() < before
          return old && isOurs(Key, base) ? [{ key: Key.slice(base.length), uploadId: UploadId }] : []
        })
        const { NextKeyMarker: KeyMarker, NextUploadIdMarker: UploadIdMarker } = answer
        const more = answer.IsTruncated === true && KeyMarker !== undefined && UploadIdMarker !== undefined
        // Pages that begin again would be listed for ever.
        if (more && next !== null && !isBeyond({ KeyMarker, UploadIdMarker }, next))
          throw new NotFromS3(200, 'a listing of uploads that goes on where it was already')
        return { uploads, next: more ? { KeyMarker, UploadIdMarker } : null }
      } catch (error) {
        // A store without uploads in parts, or without a list of them, leaves us none to end.
        if (statusOf(error) === 501 || statusOf(error) === 405) return { uploads: [], next: null }
        throw error
      }
    },
  })
}

/** Uploads of one key come in the order of their beginning, which ids don't have: there only the same again is wrong. */
function isBeyond(next: NonNullable<UploadsPage['next']>, before: NonNullable<UploadsPage['next']>): boolean {
  if (next.KeyMarker !== before.KeyMarker) return compareBytes(next.KeyMarker, before.KeyMarker) > 0
  return next.UploadIdMarker !== before.UploadIdMarker
}

/** As S3 sorts: keys of others may be in any script. */
function compareBytes(a: string, b: string): number {
  return Buffer.compare(Buffer.from(a), Buffer.from(b))
}

/** Only keys of an archive: a bucket may be shared, and others' uploads are theirs. */
function isOurs(key: string, base: string): boolean {
  const own = key.slice(base.length)
  if (!key.startsWith(base)) return false
  if (own.startsWith(PROBES)) return true
  try {
    checkArchiveKey(own)
    return true
  } catch {
    return false
  }
}

async function removeOld(session: S3Session, prefix: string): Promise<number> {
  let removed = 0
  let token: string | undefined
  let last = ''
  do {
    const page = await listPage(session, { prefix, after: '', limit: PAGE_MAX, token }, undefined)
    for (const { key } of page.keys) {
      if (key <= last) throw outOfOrder(session, key, last)
      last = key
      const head = await headObject(session, key, undefined)
      const age = session.context.clock.nowMs() - (head?.modifiedMs ?? Number.POSITIVE_INFINITY)
      if (age < LEFTOVER_AGE_MS) continue
      await deleteKey(session, key, undefined)
      removed += 1
    }
    token = page.next
  } while (token !== undefined)
  return removed
}
