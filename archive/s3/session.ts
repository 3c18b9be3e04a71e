import { createHash } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { S3Client, type S3ClientConfig } from '@aws-sdk/client-s3'
import { NodeHttpHandler } from '@smithy/node-http-handler'
import { StratalogError } from '../../src/model/errors.js'
import type { ArchiveContext } from '../../src/ports/archive-store.js'
import { BodyRoom } from '../engine/body.js'
import { allowedMs, withDeadline, withSignal } from '../engine/deadline.js'
import { type Attempt, Retrier } from '../engine/retry.js'
import type { Abilities } from './abilities.js'
import { archiveError, judge } from './errors.js'
import { agentsFor, isLinkLocal, linkLocalRefused } from './network.js'
import type { S3Place } from './settings.js'
import { refusePages, signHeadersOnly } from './wire.js'

/** Credentials from code, where the SDK's chain does not know them. */
export type S3Credentials = () => Promise<{
  readonly accessKeyId: string
  readonly secretAccessKey: string
  readonly sessionToken?: string
  readonly expiration?: Date
}>

/** The three headers of SSE-C as the SDK takes them; empty without a customer key. */
export interface CustomerKey {
  readonly SSECustomerAlgorithm?: 'AES256'
  readonly SSECustomerKey?: string
  readonly SSECustomerKeyMD5?: string
}

/** What a store is asked to encrypt with when nothing else is wished. */
export interface ServerSide {
  readonly ServerSideEncryption?: 'AES256' | 'aws:kms'
  readonly SSEKMSKeyId?: string
}

/** One call to the store. */
export interface S3Call<T> {
  /** For people: "reading 10 bytes of x". */
  readonly doing: string
  /** What goes over the line, for the time it may take. */
  readonly sizeBytes?: number
  readonly signal?: AbortSignal | undefined
  readonly work: (attempt: Attempt) => Promise<T>
}

const CONNECTION_TIMEOUT_MS = 10_000

/** What everything that talks to one store shares: the client, its limits, and what is known of the store. */
export class S3Session {
  readonly place: S3Place
  readonly context: ArchiveContext
  readonly client: S3Client
  readonly room: BodyRoom
  readonly customerKey: CustomerKey
  readonly retrier: Retrier
  /** What the store was found to do; nothing before it was asked. */
  abilities: Abilities
  /** When that was found out; null: nothing was. */
  learntMs: number | null = null
  /** A policy named a key, and the store took the object without encrypting it. */
  ignoresKeys = false
  #closed = false
  readonly #closing = new AbortController()

  constructor(
    place: S3Place,
    context: ArchiveContext,
    parts: { client: S3Client; customerKey: CustomerKey; abilities: Abilities },
  ) {
    this.place = place
    this.context = context
    this.client = parts.client
    this.customerKey = parts.customerKey
    this.abilities = parts.abilities
    this.room = new BodyRoom(place.bufferBytesMax, context.clock)
    this.retrier = new Retrier(context, { concurrencyMax: place.concurrency })
  }

  get location(): string {
    return this.place.location
  }

  /** The key of the store for a key of the archive. */
  keyOf(key: string): string {
    return `${this.place.base}${key}`
  }

  /** Bucket and key, as every command takes them. */
  at(key: string): { Bucket: string; Key: string } {
    return { Bucket: this.place.bucket, Key: this.keyOf(key) }
  }

  /** Encryption as the settings say; a bucket may refuse whatever does not ask for it. */
  get encryption(): ServerSide & CustomerKey {
    const { sse, kmsKey } = this.place
    if (sse === 's3') return { ServerSideEncryption: 'AES256' }
    if (sse !== 'kms') return this.customerKey
    return { ServerSideEncryption: 'aws:kms', ...(kmsKey === null ? {} : { SSEKMSKeyId: kmsKey }) }
  }

  /** Makes a call: bounded, with deadlines, again where that helps. Failures are those of the port. */
  async call<T>({ doing, sizeBytes, signal, work }: S3Call<T>): Promise<T> {
    this.check(signal)
    const { clock } = this.context
    const totalMs = allowedMs(this.place.totalTimeoutMs, sizeBytes ?? 0)
    try {
      return await withSignal([this.context.signal, this.#closing.signal, signal], (own) =>
        this.retrier.run({
          signal: own,
          judge,
          work: (attempt) =>
            withDeadline(clock, { totalMs, doing }, [own], (under) =>
              work({ ...attempt, signal: under.signal }),
            ),
        }),
      )
    } catch (error) {
      this.check(signal)
      throw this.told(error, doing)
    }
  }

  /** A failure in the words of the port. */
  told(error: unknown, doing: string): unknown {
    const { location, bucket } = this.place
    return archiveError(error, { location, bucket, doing, nowMs: this.context.clock.nowMs() })
  }

  /** Told once: wishes that a store knows nothing of are ignored, but nobody may believe that they were not. */
  keyIgnored(): void {
    if (this.ignoresKeys) return
    this.ignoresKeys = true
    const text = 'the archive takes the key that a policy names, and does not encrypt with it'
    this.context.logger.warn({ archive: this.location }, text)
  }

  /** Throws what ends a call before it begins. */
  check(signal: AbortSignal | undefined): void {
    if (this.#closed) throw new StratalogError('closed', `archive ${this.location} is closed`)
    this.context.signal.throwIfAborted()
    signal?.throwIfAborted()
  }

  close(): void {
    if (this.#closed) return
    this.#closed = true
    this.#closing.abort(new StratalogError('closed', `archive ${this.location} is closed`))
    this.client.destroy()
  }
}

/** A client that does nothing by itself: retries, checksums and redirects are ours to decide. */
export async function clientFor(
  place: S3Place,
  abilities: () => Abilities,
  credentials: S3Credentials | undefined,
): Promise<S3Client> {
  if (place.endpoint !== null) refuseLinkLocal(place, place.endpoint.hostname)
  const ca = place.caFile === null ? null : await readText(place.caFile, 'caFile')
  const config: S3ClientConfig = {
    ...(place.endpoint === null ? {} : { endpoint: place.endpoint.href.replace(/\/$/, '') }),
    ...(place.region === null ? {} : { region: place.region }),
    ...(place.profile === null ? {} : { profile: place.profile }),
    ...(credentials === undefined ? {} : { credentials }),
    forcePathStyle: place.pathStyle,
    maxAttempts: 1,
    requestChecksumCalculation: 'WHEN_REQUIRED',
    responseChecksumValidation: 'WHEN_REQUIRED',
    // With agents of our own the SDK would not wait for the answer to it anyway.
    expectContinueHeader: false,
    requestHandler: new NodeHttpHandler({
      ...agentsFor(place, ca),
      connectionTimeout: CONNECTION_TIMEOUT_MS,
      socketTimeout: place.idleTimeoutMs,
    }),
  }
  const client = new S3Client(config)
  client.middlewareStack.add(refusePages, { step: 'deserialize', priority: 'low', name: 'refusePages' })
  // Where the SDK takes the address from a profile, it is seen only here.
  client.middlewareStack.add(
    signHeadersOnly(abilities, (host) => refuseLinkLocal(place, host)),
    {
      step: 'build',
      name: 'signHeadersOnly',
    },
  )
  return client
}

function refuseLinkLocal(place: S3Place, host: string): void {
  if (!place.allowLinkLocal && isLinkLocal(host)) throw linkLocalRefused(place.location, host)
}

/** Reads the customer key: 32 bytes, raw or as base64. It is in the memory of this process and nowhere else. */
export async function customerKeyOf(place: S3Place): Promise<CustomerKey> {
  if (place.customerKeyFile === null) return {}
  const raw = await readBytes(place.customerKeyFile, 'customerKeyFile')
  const key = raw.length === 32 ? raw : Buffer.from(raw.toString('latin1').trim(), 'base64')
  if (key.length !== 32) {
    throw new StratalogError(
      'config_invalid',
      `s3: customerKeyFile ${place.customerKeyFile} holds no key of 32 bytes, raw or as base64`,
    )
  }
  return {
    SSECustomerAlgorithm: 'AES256',
    SSECustomerKey: key.toString('base64'),
    SSECustomerKeyMD5: createHash('md5').update(key).digest('base64'),
  }
}

async function readText(path: string, setting: string): Promise<string> {
  return (await readBytes(path, setting)).toString('utf8')
}

async function readBytes(path: string, setting: string): Promise<Buffer> {
  try {
    return await readFile(path)
  } catch (cause) {
    throw new StratalogError('config_invalid', `s3: ${setting} ${path} can't be read: correct the path`, {
      cause,
    })
  }
}
