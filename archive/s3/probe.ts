import { createHash } from 'node:crypto'
import {
  CompleteMultipartUploadCommand,
  CreateMultipartUploadCommand,
  PutObjectCommand,
  type PutObjectCommandInput,
  UploadPartCommand,
} from '@aws-sdk/client-s3'
import { crc32c } from '../../src/format/checksum.js'
import { StratalogError } from '../../src/model/errors.js'
import type { Abilities } from './abilities.js'
import { deleteKey } from './delete.js'
import { NotFromS3, statusOf } from './errors.js'
import { PROBES } from './marker.js'
import { abortUpload } from './multipart.js'
import { listPage } from './read.js'
import type { S3Session } from './session.js'
import { crcText } from './upload.js'

/*
 * What a store really does is found out by doing it: stores accept headers they know nothing of. Everything happens on
 * objects below a random name of `.stratalog-probe/`, which are deleted; what a crash leaves goes with the leftovers.
 */

const RACERS = 8
const BYTES = Buffer.from('what a store was tried with')
const WRONG_CRC = crcText((crc32c(BYTES) ^ 1) >>> 0)
const WRONG_MD5 = createHash('md5').update('other bytes').digest('base64')

/** Tries the store. `unsupported` where it can't be an archive at all. */
export async function probeStore(session: S3Session, signal?: AbortSignal): Promise<Abilities> {
  const probe = new Probe(session, signal)
  try {
    const [conditionalPut, crc32cChecked, md5, startAfter] = await Promise.all([
      probe.race(),
      probe.refuses('crc', { ChecksumCRC32C: WRONG_CRC }, { ChecksumCRC32C: crcText(crc32c(BYTES)) }),
      probe.refuses('md5', { ContentMD5: WRONG_MD5 }, {}),
      probe.listing(),
    ])
    const [conditionalComplete, crc32cOfWhole] = await Promise.all([
      probe.conditionalComplete(),
      crc32cChecked ? probe.wholeChecked() : false,
    ])
    return { conditionalPut, conditionalComplete, crc32c: crc32cChecked, crc32cOfWhole, md5, startAfter }
  } finally {
    await probe.clean()
  }
}

/** Writes and deletes one object: an archive that can't be written is known now and not at the first copy. */
export async function probeWriting(session: S3Session): Promise<void> {
  const probe = new Probe(session, undefined)
  try {
    await probe.put('write', {})
  } finally {
    await probe.clean()
  }
}

class Probe {
  readonly #session: S3Session
  readonly #signal: AbortSignal | undefined
  readonly #base: string
  readonly #keys = new Set<string>()

  constructor(session: S3Session, signal: AbortSignal | undefined) {
    this.#session = session
    this.#signal = signal
    this.#base = `${PROBES}${Buffer.from(session.context.random.bytes(12)).toString('hex')}/`
  }

  #key(name: string): string {
    const key = this.#base + name
    this.#keys.add(key)
    return key
  }

  /** False: the store refused it for what it was given. */
  async put(name: string, more: Partial<PutObjectCommandInput>): Promise<boolean> {
    const session = this.#session
    const input = { ...session.at(this.#key(name)), ...session.customerKey, Body: BYTES, ...more }
    const refused = await this.#tried(
      `trying ${Object.keys(more).join() || 'to write'}`,
      async (abortSignal) => {
        const { ETag, $metadata } = await session.client.send(new PutObjectCommand(input), { abortSignal })
        if (ETag === undefined) throw new NotFromS3($metadata.httpStatusCode ?? 200, 'an answer without ETag')
      },
    )
    return refused === 0
  }

  /** Runs a request that a store may refuse, which is not tried again: the status of the refusal, 0 without one. */
  #tried(doing: string, request: (signal: AbortSignal) => Promise<void>): Promise<number> {
    return this.#session.call({
      doing,
      signal: this.#signal,
      work: async ({ signal }) => {
        try {
          await request(signal)
          return 0
        } catch (error) {
          const status = statusOf(error)
          if (error instanceof NotFromS3 || ![400, 409, 412, 501].includes(status)) throw error
          if (isRegionOrClock(error)) throw error
          return status
        }
      },
    })
  }

  /** Many at one key, with the condition: exactly one may win. Then one more, which must not. */
  async race(): Promise<boolean> {
    const condition = { IfNoneMatch: '*' }
    const racing = Array.from({ length: RACERS }, (_, i) =>
      this.put('race', { ...condition, Body: Buffer.from(`racer ${i}`) }),
    )
    const won = (await Promise.all(racing)).filter((one) => one).length
    return won === 1 && !(await this.put('race', condition))
  }

  /** Whether a checksum that does not fit is refused, while one that does is not. */
  async refuses(
    name: string,
    wrong: Partial<PutObjectCommandInput>,
    right: Partial<PutObjectCommandInput>,
  ): Promise<boolean> {
    return !(await this.put(`${name}-wrong`, wrong)) && (await this.put(`${name}-right`, right))
  }

  /** Whether a listing begins behind a name; that it is in byte order is no ability but a need. */
  async listing(): Promise<boolean> {
    // As keys of archives are divided: '-' and '.' come before '/', and '0' after it.
    const names = ['list/a-', 'list/a.b', 'list/a/c', 'list/a0']
    await Promise.all(names.map((name) => this.put(name, {})))
    const list = async (after: string) => {
      const query = {
        prefix: `${this.#base}list/`,
        after: after === '' ? '' : this.#base + after,
        limit: 1000,
      }
      const { keys } = await listPage(this.#session, query, this.#signal)
      return keys.map(({ key }) => key.slice(this.#base.length)).join()
    }
    const all = await list('')
    if (all !== names.join()) throw outOfOrder(this.#session, names.join(), all)
    return (await list('list/a.b')) === names.slice(2).join()
  }

  /** Whether ending an upload in parts is refused where there is an object. */
  async conditionalComplete(): Promise<boolean> {
    await this.put('parts', {})
    // Only this refusal is for the condition; a store without uploads in parts refuses them otherwise.
    return (await this.#complete('parts', {}, { IfNoneMatch: '*' })) === 412
  }

  /** Whether a checksum over the whole that does not fit is refused, while one that does is not. */
  async wholeChecked(): Promise<boolean> {
    const checksums = { ChecksumAlgorithm: 'CRC32C', ChecksumType: 'FULL_OBJECT' } as const
    const ended = (sum: string, name: string) =>
      this.#complete(name, checksums, { ChecksumType: 'FULL_OBJECT', ChecksumCRC32C: sum })
    const wrong = await ended(WRONG_CRC, 'whole-wrong')
    return wrong !== 0 && (await ended(crcText(crc32c(BYTES)), 'whole-right')) === 0
  }

  async #complete(
    name: string,
    begin: { ChecksumAlgorithm?: 'CRC32C'; ChecksumType?: 'FULL_OBJECT' },
    end: { IfNoneMatch?: '*'; ChecksumType?: 'FULL_OBJECT'; ChecksumCRC32C?: string },
  ): Promise<number> {
    const session = this.#session
    const key = this.#key(name)
    const at = { ...session.at(key), ...session.customerKey }
    let uploadId = ''
    const refused = await this.#tried('trying an upload in parts', async (abortSignal) => {
      const { UploadId = '' } = await session.client.send(
        new CreateMultipartUploadCommand({ ...at, ...begin }),
        { abortSignal },
      )
      uploadId = UploadId
      const sum = begin.ChecksumAlgorithm === undefined ? {} : { ChecksumCRC32C: crcText(crc32c(BYTES)) }
      const part = { ...at, ...sum, UploadId, PartNumber: 1, Body: BYTES }
      const { ETag = '' } = await session.client.send(new UploadPartCommand(part), { abortSignal })
      const MultipartUpload = { Parts: [{ PartNumber: 1, ETag, ...sum }] }
      const command = new CompleteMultipartUploadCommand({ ...at, ...end, UploadId, MultipartUpload })
      await session.client.send(command, { abortSignal })
    })
    if (refused !== 0 && uploadId !== '') await abortUpload(session, key, uploadId)
    return refused
  }

  /** What stays goes with the leftovers a day later: an archive is not refused for it. */
  async clean(): Promise<void> {
    await Promise.all(
      [...this.#keys].map((key) =>
        deleteKey(this.#session, key, this.#signal).catch((error: unknown) =>
          this.#session.context.logger.warn({ error, key }, 'a probe in the archive could not be deleted'),
        ),
      ),
    )
  }
}

/** Answers with status 400 that say nothing about what was tried. */
function isRegionOrClock(error: unknown): boolean {
  const name = error instanceof Error ? error.name : ''
  return /^(AuthorizationHeaderMalformed|ExpiredToken|RequestTimeout|InvalidToken|IncompleteBody)$/.test(name)
}

function outOfOrder({ location }: S3Session, expected: string, found: string): StratalogError {
  return new StratalogError(
    'unsupported',
    `archive ${location}: this store does not list keys in byte order (a directory bucket?), which an archive needs: use a general purpose bucket`,
    { expected, found },
  )
}
