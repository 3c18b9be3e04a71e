import http from 'node:http'
import https from 'node:https'
import { assert } from '../../src/model/assert.js'
import type { UnderDeadline } from '../engine/deadline.js'
import { BodyFailure, HdfsFailure } from './errors.js'

/** The longest answer that is not an object's bytes: a listing of 1,000 names is about half a megabyte. */
const ANSWER_BYTES_MAX = 32 * 1024 * 1024
/** Bytes handed to the socket at once, so that a slow line shows signs of life. */
const PIECE_BYTES = 1024 * 1024
/** Connections to one NameNode that are kept open. */
const KEPT_CONNECTIONS = 32

/** An answer in full. */
export interface Answer {
  readonly status: number
  readonly headers: http.IncomingHttpHeaders
  /** Address of who answered, where the connection told it. */
  readonly peer: string | null
  readonly body: Buffer
}

/** A request; its URL may hold a token and is never told to anybody. */
export interface Request {
  readonly method: 'GET' | 'PUT' | 'POST' | 'DELETE'
  readonly url: URL
  /** Connections are kept for further requests. A DataNode closes each after its answer, and says so. */
  readonly keep: boolean
  readonly headers?: http.OutgoingHttpHeaders
  readonly upload?: Upload
}

/** Bytes that go with a request. */
export interface Upload {
  readonly sizeBytes: number
  /** Chunks are the sender's until it asks for the next. */
  open(): AsyncIterable<Uint8Array>
  /** Sees each chunk once, while it is being sent. */
  sent(chunk: Uint8Array): void
}

/**
 * Requests by node:http. Not by undici or fetch: they take the `100 Continue` that a DataNode sends unasked for an
 * error.
 */
export class Http {
  readonly agents: { readonly http: http.Agent; readonly https: https.Agent }
  readonly #ca: Buffer | undefined

  constructor(ca: Buffer | undefined) {
    this.#ca = ca
    const kept = { keepAlive: true, maxSockets: KEPT_CONNECTIONS, maxFreeSockets: KEPT_CONNECTIONS }
    this.agents = {
      http: new http.Agent(kept),
      https: new https.Agent(ca === undefined ? kept : { ...kept, ca }),
    }
  }

  close(): void {
    this.agents.http.destroy()
    this.agents.https.destroy()
  }

  /** The whole answer, whatever its status. */
  async ask(request: Request, under: UnderDeadline): Promise<Answer> {
    const response = await this.send(request, under)
    // First: a kept connection is no longer the answer's once that has ended.
    const head = headOf(response)
    return { ...head, body: await collect(response, ANSWER_BYTES_MAX, under) }
  }

  /** The head of the answer; its bytes wait to be read, or the response to be destroyed. */
  send(request: Request, under: UnderDeadline): Promise<http.IncomingMessage> {
    const { url, method, keep, upload } = request
    const tls = url.protocol === 'https:'
    const options: https.RequestOptions = {
      method,
      agent: keep ? (tls ? this.agents.https : this.agents.http) : false,
      headers: {
        // A cluster guarded against forged requests of browsers wants this header, whatever it says.
        'x-xsrf-header': 'stratalog',
        ...(method === 'GET' ? {} : { 'content-length': upload?.sizeBytes ?? 0 }),
        ...request.headers,
      },
      ...(tls && !keep && this.#ca !== undefined ? { ca: this.#ca } : {}),
    }
    return new Promise((resolve, reject) => {
      const sending = tls ? https.request(url, options) : http.request(url, options)
      let answered = false
      const abort = () => sending.destroy(new Error('aborted'))
      under.signal.addEventListener('abort', abort, { once: true })
      sending.once('close', () => under.signal.removeEventListener('abort', abort))
      sending.once('response', (response) => {
        answered = true
        under.alive()
        resolve(response)
      })
      sending.on('error', (error) => reject(failed(error, url)))
      if (upload === undefined) sending.end()
      else {
        pump(sending, upload, under, () => answered).catch((error: unknown) => {
          reject(error)
          sending.destroy()
        })
      }
    })
  }
}

/** Sends the body at the pace of the connection; stops where the answer came before the end. */
async function pump(
  sending: http.ClientRequest,
  upload: Upload,
  under: UnderDeadline,
  answered: () => boolean,
): Promise<void> {
  let sentBytes = 0
  const chunks = upload.open()[Symbol.asyncIterator]()
  try {
    for (;;) {
      const { done, value: chunk } = await chunks.next().catch((cause: unknown) => {
        throw new BodyFailure('the body failed', { cause })
      })
      if (done === true) break
      assert(sentBytes + chunk.length <= upload.sizeBytes, `a body longer than its ${upload.sizeBytes} bytes`)
      for (let at = 0; at < chunk.length; at += PIECE_BYTES) {
        if (answered() || sending.destroyed) return
        const piece = chunk.subarray(at, at + PIECE_BYTES)
        // The kernel has taken it when this resolves: only then the chunk may be used again.
        const taken = write(sending, piece)
        upload.sent(piece)
        if (!(await taken)) return
        under.alive()
      }
      sentBytes += chunk.length
    }
    assert(sentBytes === upload.sizeBytes, `a body of ${sentBytes} bytes that stated ${upload.sizeBytes}`)
    sending.end()
  } finally {
    await chunks.return?.()
  }
}

/** False: the connection broke, which the request's own error or answer tells of. */
function write(sending: http.ClientRequest, piece: Uint8Array): Promise<boolean> {
  return new Promise((resolve) => {
    const closed = () => resolve(false)
    // Where the connection is never made, Node calls nobody back for what was buffered.
    sending.once('close', closed)
    sending.write(piece, (error) => {
      sending.removeListener('close', closed)
      resolve(error === null || error === undefined)
    })
  })
}

/** Status, headers and sender of an answer. */
export function headOf(response: http.IncomingMessage): Omit<Answer, 'body'> {
  return {
    status: response.statusCode ?? 0,
    headers: response.headers,
    peer: response.socket.remoteAddress ?? null,
  }
}

/** All bytes of an answer, at most `bytesMax`. An answer that ends before its end is a failure. */
export async function collect(
  response: http.IncomingMessage,
  bytesMax: number,
  under: UnderDeadline,
): Promise<Buffer> {
  const chunks: Buffer[] = []
  await eachChunk(response, bytesMax, under, (chunk) => chunks.push(chunk))
  return chunks.length === 1 && chunks[0] !== undefined ? chunks[0] : Buffer.concat(chunks)
}

/** Hands on each chunk of an answer; resolves with their number of bytes once it ended as it should. */
export function eachChunk(
  response: http.IncomingMessage,
  bytesMax: number,
  under: UnderDeadline,
  take: (chunk: Buffer) => void,
): Promise<number> {
  return new Promise((resolve, reject) => {
    let sizeBytes = 0
    const fail = (message: string) => {
      reject(new HdfsFailure(message))
      response.destroy()
    }
    response.on('data', (chunk: Buffer) => {
      under.alive()
      sizeBytes += chunk.length
      if (sizeBytes > bytesMax) fail(`an answer of more than ${bytesMax} bytes`)
      else take(chunk)
    })
    response.once('end', () => {
      if (response.complete) resolve(sizeBytes)
      else fail(`the connection was cut after ${sizeBytes} bytes of an answer`)
    })
    response.once('error', (error) => reject(new HdfsFailure(`an answer broke off: ${error.message}`)))
    response.once('close', () => reject(new HdfsFailure('the connection was closed within an answer')))
  })
}

/** Exactly so many bytes of an answer, which rests then until it is asked for more. Whoever takes them ends it. */
export function takeBytes(
  response: http.IncomingMessage,
  lengthBytes: number,
  under: UnderDeadline,
): Promise<Buffer> {
  const target = Buffer.allocUnsafe(lengthBytes)
  let filled = 0
  return new Promise((resolve, reject) => {
    const stop = () => {
      response.off('data', take).off('end', short).off('error', broken).off('close', short)
    }
    const fail = (message: string) => {
      stop()
      reject(new HdfsFailure(message))
      response.destroy()
    }
    const short = () => fail(`an answer ended ${lengthBytes - filled} bytes too early`)
    const broken = (error: Error) => fail(`an answer broke off: ${error.message}`)
    const take = (chunk: Buffer) => {
      under.alive()
      const taken = chunk.copy(target, filled)
      filled += taken
      if (filled < lengthBytes) return
      stop()
      response.pause()
      if (taken < chunk.length) response.unshift(chunk.subarray(taken))
      resolve(target)
    }
    response.on('data', take).once('end', short).once('error', broken).once('close', short)
    // One that ended while it rested tells nobody any more.
    if (response.destroyed || response.readableEnded) short()
    else response.resume()
  })
}

/** A failure of the connection, with where to and without what was asked. */
function failed(error: Error, url: URL): HdfsFailure {
  // A parser's error carries the packet it could not read, and that a URL which may hold a token.
  const { rawPacket: _, ...rest } = error as Error & { rawPacket?: unknown }
  const cause = Object.assign(new Error(error.message), rest, { stack: error.stack })
  return new HdfsFailure(`${url.host}: ${error.message}`, { cause })
}
