import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { s3Archive } from '../../../archive/s3/engine.js'
import type { S3Settings } from '../../../archive/s3/settings.js'
import type { ArchiveContext, ArchiveStore } from '../../../src/ports/archive-store.js'
import type { Clock } from '../../../src/ports/clock.js'
import { realClock } from '../../../src/system/clock.js'
import { MemoryDisk } from '../../helpers/memory-disk.js'

/*
 * A small S3 server for what real ones don't do on demand: answers that are lost, pages in the place of answers, objects
 * that thaw, clocks that differ. What a store does when all is well is tested against real ones.
 */

/** A request as it came, its body whole. */
export interface Asked {
  readonly method: string
  /** Below the bucket, decoded. */
  readonly key: string
  readonly query: URLSearchParams
  readonly headers: IncomingMessage['headers']
  readonly body: Buffer
}

interface Stored {
  readonly bytes: Buffer
  readonly headers: Record<string, string>
}

interface Unfinished {
  readonly key: string
  readonly parts: Map<number, Buffer>
  readonly meta: Record<string, string>
}

/** What a test wants to happen in the place of, or after, the answer; undefined: as ever. */
export type Intercept = (asked: Asked, response: ServerResponse, answer: () => void) => 'done' | undefined

export class FakeS3 {
  readonly objects: Map<string, Stored> = new Map()
  readonly uploads: Map<string, Unfinished> = new Map()
  readonly asked: Asked[] = []
  intercept: Intercept = () => undefined
  /** Whether ending an upload heeds `If-None-Match`. */
  conditionalComplete = true
  /** Whether it does what it is asked about encryption. */
  encrypts = true
  readonly #server: Server
  #ids = 0

  constructor() {
    this.#server = createServer((request, response) => {
      const chunks: Buffer[] = []
      request.on('data', (chunk: Buffer) => chunks.push(chunk))
      request.on('end', () => this.#take(request, Buffer.concat(chunks), response))
      request.on('error', () => response.destroy())
    })
  }

  async start(): Promise<this> {
    await new Promise<void>((resolve) => this.#server.listen(0, '127.0.0.1', resolve))
    return this
  }

  get host(): string {
    return `127.0.0.1:${(this.#server.address() as AddressInfo).port}`
  }

  async stop(): Promise<void> {
    this.#server.closeAllConnections()
    await new Promise((resolve) => this.#server.close(resolve))
  }

  /** As if the archive had been opened before, at a store that can do everything but what is said. */
  seed(without: readonly string[] = []): this {
    const names = ['conditionalPut', 'conditionalComplete', 'crc32c', 'crc32cOfWhole', 'md5', 'startAfter']
    const abilities = Object.fromEntries(names.map((name) => [name, !without.includes(name)]))
    const note = { format: 1, address: this.host, checkedMs: Date.now() - 1000, abilities }
    this.put('p/stratalog-archive.json', '{"format":1}\n')
    this.put('p/.stratalog-archive', JSON.stringify(note))
    return this
  }

  put(key: string, bytes: Buffer | string, headers: Record<string, string> = {}): void {
    this.objects.set(key, { bytes: Buffer.from(bytes), headers })
  }

  /** The archive `s3://bucket/p` here. */
  open(settings: S3Settings = {}, context: Partial<ArchiveContext> = {}): Promise<ArchiveStore> {
    const credentials = async () => ({
      accessKeyId: 'AKID',
      secretAccessKey: 'very-secret',
      sessionToken: 'tok-secret',
    })
    const all = { idleTimeoutMs: 2_000, ...settings, endpoint: settings.endpoint ?? `http://${this.host}` }
    return s3Archive('s3://bucket/p', all, credentials).open({ ...testContext(), ...context })
  }

  #take(request: IncomingMessage, body: Buffer, response: ServerResponse): void {
    const url = new URL(request.url ?? '/', 'http://localhost')
    const key = decodeURIComponent(url.pathname).replace(/^\/bucket\/?/, '')
    const { method = '', headers } = request
    const asked: Asked = { method, key, query: url.searchParams, headers, body }
    this.asked.push(asked)
    const answer = () => {
      this.#answer(asked, response)
    }
    if (this.intercept(asked, response, answer) === undefined) answer()
  }

  #answer(asked: Asked, response: ServerResponse): unknown {
    const { method, key, query } = asked
    if (key === '' && query.has('uploads')) return this.#listUploads(response)
    if (key === '') return this.#list(asked, response)
    if (method === 'POST' && query.has('uploads')) return this.#begin(asked, response)
    if (method === 'POST' && query.has('restore')) return response.writeHead(202).end()
    if (method === 'POST') return this.#complete(asked, response)
    if (method === 'PUT' && query.has('uploadId')) return this.#part(asked, response)
    if (method === 'PUT') return this.#put(asked, response)
    if (method === 'DELETE') {
      if (query.has('uploadId')) this.uploads.delete(query.get('uploadId') ?? '')
      else this.objects.delete(key)
      return response.writeHead(204).end()
    }
    this.#get(asked, response)
  }

  #put({ key, headers, body }: Asked, response: ServerResponse): unknown {
    if (headers['if-none-match'] === '*' && this.objects.has(key))
      return refuse(response, 412, 'PreconditionFailed')
    this.put(key, body, metaOf(headers))
    const encryption = Object.entries(headers).flatMap(([name, value]) =>
      /^x-amz-server-side-encryption(-customer-algorithm)?$/.test(name) ? [[name, String(value)]] : [],
    )
    response.writeHead(200, { etag: '"e"', ...(this.encrypts ? Object.fromEntries(encryption) : {}) }).end()
  }

  #get({ method, key, headers }: Asked, response: ServerResponse): unknown {
    const found = this.objects.get(key)
    if (found === undefined)
      return method === 'HEAD' ? void response.writeHead(404).end() : refuse(response, 404, 'NoSuchKey')
    const { bytes } = found
    const about = { etag: '"e"', 'last-modified': new Date().toUTCString(), ...found.headers }
    const range = /^bytes=(\d+)-(\d+)$/.exec(headers.range ?? '')
    if (range === null) {
      response.writeHead(200, { ...about, 'content-length': bytes.length })
      return response.end(method === 'HEAD' ? undefined : bytes)
    }
    const first = Number(range[1])
    if (first >= bytes.length) return refuse(response, 416, 'InvalidRange')
    const part = bytes.subarray(first, Number(range[2]) + 1)
    const contentRange = `bytes ${first}-${first + part.length - 1}/${bytes.length}`
    response
      .writeHead(206, { ...about, 'content-length': part.length, 'content-range': contentRange })
      .end(part)
  }

  #list({ query }: Asked, response: ServerResponse): void {
    const prefix = query.get('prefix') ?? ''
    const after = query.get('continuation-token') ?? query.get('start-after') ?? ''
    const max = Number(query.get('max-keys'))
    const keys = [...this.objects.keys()].filter((key) => key.startsWith(prefix) && key > after).sort()
    const page = keys.slice(0, max)
    const rows = page.map(
      (key) => `<Contents><Key>${key}</Key><Size>${this.objects.get(key)?.bytes.length}</Size></Contents>`,
    )
    const more = keys.length > max
    const next = more ? `<NextContinuationToken>${page.at(-1)}</NextContinuationToken>` : ''
    xml(
      response,
      `<ListBucketResult><Name>bucket</Name><IsTruncated>${more}</IsTruncated>${next}${rows.join('')}</ListBucketResult>`,
    )
  }

  #begin({ key, headers }: Asked, response: ServerResponse): void {
    this.#ids += 1
    this.uploads.set(`u${this.#ids}`, { key, parts: new Map(), meta: metaOf(headers) })
    xml(
      response,
      `<InitiateMultipartUploadResult><UploadId>u${this.#ids}</UploadId></InitiateMultipartUploadResult>`,
    )
  }

  #part({ query, body }: Asked, response: ServerResponse): void {
    this.uploads.get(query.get('uploadId') ?? '')?.parts.set(Number(query.get('partNumber')), body)
    response.writeHead(200, { etag: '"part"' }).end()
  }

  #complete({ key, query, headers }: Asked, response: ServerResponse): unknown {
    const upload = this.uploads.get(query.get('uploadId') ?? '')
    if (upload === undefined) return refuse(response, 404, 'NoSuchUpload')
    if (this.conditionalComplete && headers['if-none-match'] === '*' && this.objects.has(key))
      return refuse(response, 412, 'PreconditionFailed')
    this.uploads.delete(query.get('uploadId') ?? '')
    const parts = [...upload.parts].sort(([a], [b]) => a - b).map(([, bytes]) => bytes)
    this.put(key, Buffer.concat(parts), upload.meta)
    xml(response, '<CompleteMultipartUploadResult><ETag>"e"</ETag></CompleteMultipartUploadResult>')
  }

  #listUploads(response: ServerResponse): void {
    const rows = [...this.uploads].map(
      ([id, { key, meta }]) =>
        `<Upload><Key>${key}</Key><UploadId>${id}</UploadId><Initiated>${meta.initiated ?? new Date().toISOString()}</Initiated></Upload>`,
    )
    xml(
      response,
      `<ListMultipartUploadsResult><IsTruncated>false</IsTruncated>${rows.join('')}</ListMultipartUploadsResult>`,
    )
  }
}

function metaOf(headers: IncomingMessage['headers']): Record<string, string> {
  return Object.fromEntries(
    Object.entries(headers).flatMap(([name, value]) =>
      /^x-amz-(meta|storage|tagging|server)/.test(name) ? [[name, String(value)]] : [],
    ),
  )
}

/** An error of S3. `more`: elements beside code and message. */
export function refuse(
  response: ServerResponse,
  status: number,
  code: string,
  more = '',
  headers: Record<string, string> = {},
): void {
  response.writeHead(status, { 'content-type': 'application/xml', 'x-amz-request-id': 'r1', ...headers })
  response.end(
    `<?xml version="1.0"?><Error><Code>${code}</Code><Message>said ${code}</Message>${more}</Error>`,
  )
}

function xml(response: ServerResponse, text: string): void {
  response.writeHead(200, { 'content-type': 'application/xml' }).end(`<?xml version="1.0"?>${text}`)
}

/** Real time, but nobody waits between attempts: waiting moves the clock. */
function hastyClock(): Clock {
  const real = realClock()
  let aheadMs = 0
  return {
    nowMs: () => real.nowMs(),
    monotonicMs: () => real.monotonicMs() + aheadMs,
    setTimer: (delayMs, fire) => real.setTimer(delayMs, fire),
    sleep: async (delayMs, signal) => {
      aheadMs += delayMs
      await real.sleep(1, signal)
    },
  }
}

function testContext(): ArchiveContext {
  const logger = { debug() {}, info() {}, warn() {}, error() {}, child: () => logger }
  let count = 0
  return {
    clock: hastyClock(),
    random: {
      bytes: (length) => {
        count += 1
        return Buffer.alloc(length, count)
      },
      fraction: () => 0.5,
    },
    logger,
    disk: new MemoryDisk(),
    signal: new AbortController().signal,
    existing: false,
  }
}
