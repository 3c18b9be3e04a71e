import { once } from 'node:events'
import {
  type ClientRequest,
  createServer,
  request as httpRequest,
  type IncomingMessage,
  type Server,
  type ServerResponse,
} from 'node:http'
import type { AddressInfo, Socket } from 'node:net'
import { present } from '../../src/model/assert.js'

/** Which requests a fault is for; what is absent matches all. */
export interface RequestMatch {
  readonly method?: string
  /** Against path and query as they were sent. */
  readonly path?: RegExp
  /** Only what was sent here because of a redirect that the proxy rewrote: the data of HDFS. Or only what was not. */
  readonly redirected?: boolean
  /** The first of those requests that it is for, counted from 1. @default 1 */
  readonly nth?: number
  /** For how many in a row. @default 1 */
  readonly times?: number
}

/**
 * What is done to a request. `at: 'request'` is on the way to the server, `at: 'response'` on the way back; `afterBytes`
 * counts bytes of the body there, and absent it happens before the first: before anything of the request was passed on,
 * or when the server has answered and nothing of that was.
 */
export type ProxyFault =
  /** The connection of the client is reset, and the one to the server. At the response, with nothing: a lost success. */
  | { readonly kind: 'reset'; readonly at: 'request' | 'response'; readonly afterBytes?: number }
  /** Nothing more comes, and the connection stays. */
  | { readonly kind: 'stall'; readonly at: 'request' | 'response'; readonly afterBytes?: number }
  /** The response ends in good order after fewer bytes than it stated. */
  | { readonly kind: 'cut'; readonly afterBytes: number }
  /** One bit of a byte is another. */
  | { readonly kind: 'flip'; readonly at: 'request' | 'response'; readonly atByte: number }
  /** The body of the response is longer or shorter, and its Content-Length agrees; nothing to one without a body. */
  | { readonly kind: 'resize'; readonly byBytes: number }
  /** Answered without the server: a page of some gateway with status 200, a SlowDown. */
  | {
      readonly kind: 'answer'
      readonly status: number
      readonly body: string
      readonly headers?: Readonly<Record<string, string>>
    }

/** What some gateways answer to everything. */
export const HTML_PAGE: ProxyFault = {
  kind: 'answer',
  status: 200,
  headers: { 'content-type': 'text/html' },
  body: '<!DOCTYPE html><html><body><h1>Please log in</h1></body></html>\n',
}

/** What S3 answers when it is asked too much. */
export const SLOW_DOWN: ProxyFault = {
  kind: 'answer',
  status: 503,
  headers: { 'content-type': 'application/xml' },
  body: '<?xml version="1.0" encoding="UTF-8"?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message><RequestId>1</RequestId></Error>',
}

/** The request is carried out and its answer is lost. */
export const LOST_ANSWER: ProxyFault = { kind: 'reset', at: 'response' }

/** A fault that was asked for, and how often it happened. */
export interface Injection {
  readonly hits: number
  /** Happens no more. */
  remove(): void
}

/** A request that went through the proxy. */
export interface PassedRequest {
  readonly method: string
  readonly path: string
  readonly redirected: boolean
  readonly fault: ProxyFault['kind'] | null
  /** What the client was answered; null: nothing, or not yet. */
  status: number | null
}

/**
 * Where a request is: it arrived and nothing of it was passed on; the server has answered and nothing of that was passed
 * on; the answer was passed on, to its end.
 */
export type Moment = 'arrived' | 'answered' | 'returned'

/** Sees every request without a fault at each moment; while a promise of it is pending the request stays there. */
export type Watch = (moment: Moment, request: PassedRequest) => void | Promise<void>

const REQUESTS_KEPT_MAX = 10_000
/** Headers of one connection only, and what the proxy itself answers to. */
const NOT_PASSED_ON = new Set(['connection', 'keep-alive', 'expect', 'transfer-encoding'])

/**
 * An HTTP proxy in front of one server that passes everything on as it is, signatures of S3 included, but for the faults
 * it was asked for. Redirects to other addresses (the DataNodes of HDFS) are made to lead through it too.
 *
 * @example
 * ```ts
 * import { FaultProxy, LOST_ANSWER } from '../helpers/fault-proxy.js'
 * const proxy = await FaultProxy.start('http://127.0.0.1:9000')
 * const lost = proxy.inject({ method: 'PUT', path: /key/ }, LOST_ANSWER)
 * // … requests to proxy.url …
 * console.log(lost.hits)
 * await proxy.close()
 * ```
 */
export class FaultProxy {
  readonly url: string
  /** What came, oldest first, the last 10,000. */
  readonly requests: PassedRequest[] = []
  /** Who sees each request on its way; kills at one of them, for example. */
  watch: Watch | null = null
  readonly #listeners: Map<string, Listener>
  readonly #injections = new Set<Wanted>()
  /** Whether redirects lead through the proxy. */
  readonly #redirects: boolean

  private constructor(listener: Listener, redirects: boolean) {
    this.url = `http://127.0.0.1:${listener.port}`
    this.#listeners = new Map([[listener.target, listener]])
    this.#redirects = redirects
  }

  /** @param options.redirects false: redirects are passed on as they are @default true */
  static async start(target: string, options: { readonly redirects?: boolean } = {}): Promise<FaultProxy> {
    const { host } = new URL(target)
    let proxy: FaultProxy | null = null
    const listener = await listen(host, (request, response) =>
      present(proxy, 'the proxy').#serve(host, false, request, response),
    )
    proxy = new FaultProxy(listener, options.redirects ?? true)
    return proxy
  }

  /** Faults asked for earlier come first, and each request suffers one at most. */
  inject(match: RequestMatch, fault: ProxyFault): Injection {
    const wanted = new Wanted(match, fault, () => this.#injections.delete(wanted))
    this.#injections.add(wanted)
    return wanted
  }

  /** No more faults. */
  clear(): void {
    this.#injections.clear()
  }

  async close(): Promise<void> {
    const listeners = [...this.#listeners.values()]
    this.#listeners.clear()
    await Promise.all(listeners.map((listener) => listener.close()))
  }

  async #serve(
    target: string,
    redirected: boolean,
    request: IncomingMessage,
    response: ServerResponse,
  ): Promise<void> {
    const { method = '', url: path = '', socket } = request
    let fault: ProxyFault | null = null
    for (const one of this.#injections) fault ??= one.takes(method, path, redirected) ? one.fault : null
    const passed: PassedRequest = { method, path, redirected, fault: fault?.kind ?? null, status: null }
    this.requests.push(passed)
    if (this.requests.length > REQUESTS_KEPT_MAX) this.requests.shift()
    try {
      await this.watch?.('arrived', passed)
      const watch: Watch = (moment) => this.watch?.(moment, passed)
      const through = (location: string) => this.#through(location)
      await new Passage(target, request, response, fault, passed, through, watch).go()
    } catch {
      // The server or the client is gone: the other one learns it as it would without a proxy.
      reset(socket)
    }
  }

  /** Where a redirect leads instead: a listener of the proxy for the address it names. */
  async #through(location: string): Promise<string> {
    if (!this.#redirects) return location
    const url = new URL(location)
    let listener = this.#listeners.get(url.host)
    if (listener === undefined) {
      const { host } = url
      listener = await listen(host, (request, response) => this.#serve(host, true, request, response))
      // Another redirect may have made one meanwhile; its listener is closed with the rest.
      this.#listeners.set(this.#listeners.has(host) ? `${host} again ${listener.port}` : host, listener)
    }
    // Not through `URL`, which would write the path and query anew.
    return location.replace(url.host, `127.0.0.1:${listener.port}`)
  }
}

class Wanted implements Injection {
  readonly fault: ProxyFault
  readonly remove: () => void
  readonly #match: RequestMatch
  #seen = 0
  hits = 0

  constructor(match: RequestMatch, fault: ProxyFault, remove: () => void) {
    this.#match = match
    this.fault = fault
    this.remove = remove
  }

  takes(method: string, path: string, redirected: boolean): boolean {
    const { nth = 1, times = 1, ...match } = this.#match
    if (match.method !== undefined && match.method !== method) return false
    if (match.path !== undefined && !match.path.test(path)) return false
    if (match.redirected !== undefined && match.redirected !== redirected) return false
    this.#seen += 1
    if (this.#seen < nth || this.#seen >= nth + times) return false
    this.hits += 1
    return true
  }
}

interface Listener {
  readonly target: string
  readonly port: number
  close(): Promise<void>
}

async function listen(
  target: string,
  serve: (request: IncomingMessage, response: ServerResponse) => Promise<void>,
): Promise<Listener> {
  const sockets = new Set<Socket>()
  const server: Server = createServer({ keepAliveTimeout: 30_000, requestTimeout: 0 })
  server.on('connection', (socket) => {
    sockets.add(socket.once('close', () => sockets.delete(socket)))
  })
  const taken = (request: IncomingMessage, response: ServerResponse): void => void serve(request, response)
  server.on('request', taken).on('checkContinue', taken)
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    target,
    port: (server.address() as AddressInfo).port,
    close: async () => {
      const closed = once(server, 'close')
      server.close()
      for (const socket of sockets) socket.destroy()
      await closed
    },
  }
}

/** One request on its way to the server and back. */
class Passage {
  readonly #target: string
  readonly #request: IncomingMessage
  readonly #socket: Socket
  readonly #response: ServerResponse
  readonly #fault: ProxyFault | null
  readonly #passed: PassedRequest
  readonly #through: (location: string) => Promise<string>
  readonly #watch: Watch

  constructor(
    target: string,
    request: IncomingMessage,
    response: ServerResponse,
    fault: ProxyFault | null,
    passed: PassedRequest,
    through: (location: string) => Promise<string>,
    watch: Watch,
  ) {
    this.#target = target
    this.#request = request
    // A message forgets its socket when that is closed.
    this.#socket = request.socket
    this.#response = response
    this.#fault = fault
    this.#passed = passed
    this.#through = through
    this.#watch = watch
  }

  async go(): Promise<void> {
    const fault = this.#fault
    if (fault?.kind === 'answer') return this.#answer(fault)
    if ((fault?.kind === 'reset' || fault?.kind === 'stall') && fault.at === 'request') {
      if (fault.afterBytes === undefined) return this.#breakOff(fault.kind, null)
    }
    const upstream = this.#connect()
    const answered = once(upstream, 'response') as Promise<[IncomingMessage]>
    // A client that gives up takes its request to the server with it.
    this.#response.once('close', () => {
      if (!this.#response.writableFinished) upstream.destroy()
    })
    answered.catch(() => undefined)
    if (this.#request.headers.expect !== undefined) this.#response.writeContinue()
    // A server may answer, and refuse, before it has the body.
    const sent = this.#send(upstream)
    const [answer] = await Promise.race([answered, sent.then(() => answered)])
    await this.#back(answer, upstream)
  }

  #connect(): ClientRequest {
    const { hostname, port } = new URL(`http://${this.#target}`)
    const { method, url: path } = this.#request
    const headers = passedHeaders(this.#request.rawHeaders)
    // An array of headers is sent as it is: S3 signed them, Host included.
    const options = { hostname, port, method, path, agent: false, headers: headers as unknown as string[] }
    const upstream = httpRequest(options)
    upstream.on('error', () => reset(this.#socket))
    return upstream
  }

  /** Passes the request's body on; never resolves where a fault ends it. */
  async #send(upstream: ClientRequest): Promise<void> {
    const fault = this.#fault
    const broken =
      (fault?.kind === 'reset' || fault?.kind === 'stall') && fault.at === 'request' ? fault : null
    const limit = broken?.afterBytes ?? Number.POSITIVE_INFINITY
    const flipAt = fault?.kind === 'flip' && fault.at === 'request' ? fault.atByte : null
    let count = 0
    // Leaving the loop must not close the connection: a fault decides what becomes of it.
    for await (const chunk of this.#request.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>) {
      const bytes = flipped(chunk, flipAt, count)
      const part = bytes.subarray(0, Math.max(0, limit - count))
      count += bytes.length
      const flushed = new Promise<unknown>((resolve) => {
        if (part.length === 0) resolve(null)
        else if (upstream.write(part, resolve) && broken === null) resolve(null)
      })
      // What is to arrive before the fault has arrived then; else no more than a buffer is waiting.
      await flushed
      if (count >= limit && broken !== null) {
        this.#breakOff(broken.kind, upstream)
        return forever()
      }
    }
    upstream.end()
  }

  /** Passes the answer on. */
  async #back(answer: IncomingMessage, upstream: ClientRequest): Promise<void> {
    const fault = this.#fault
    const broken =
      (fault?.kind === 'reset' || fault?.kind === 'stall') && fault.at === 'response' ? fault : null
    if (broken !== null && broken.afterBytes === undefined) {
      // Everything is read first: the server has done what it was asked for.
      for await (const _ of answer);
      return this.#breakOff(broken.kind, upstream)
    }
    const grown = fault?.kind === 'resize' && this.#request.method !== 'HEAD' ? fault.byBytes : 0
    await this.#watch('answered', this.#passed)
    const headers = await this.#headersBack(answer, grown)
    this.#passed.status = answer.statusCode ?? null
    this.#response.writeHead(answer.statusCode ?? 502, headers)
    this.#response.flushHeaders()
    const flipAt = fault?.kind === 'flip' && fault.at === 'response' ? fault.atByte : null
    const stated = Number(answer.headers['content-length'] ?? 0)
    const cut = fault?.kind === 'cut' ? fault.afterBytes : Number.POSITIVE_INFINITY
    const limit = Math.min(broken?.afterBytes ?? cut, grown < 0 ? Math.max(0, stated + grown) : cut)
    let count = 0
    for await (const chunk of answer as AsyncIterable<Buffer>) {
      const part = flipped(chunk, flipAt, count).subarray(0, Math.max(0, limit - count))
      count += chunk.length
      if (part.length > 0 && !this.#response.write(part)) await once(this.#response, 'drain')
      if (count >= limit && grown >= 0) break
    }
    if (broken !== null) return this.#breakOff(broken.kind, upstream)
    // Ending the socket instead of the response: a connection closed in good order, with bytes missing.
    if (fault?.kind === 'cut') return void this.#socket.end()
    this.#response.end(grown > 0 ? Buffer.alloc(grown, 'x') : undefined)
    await this.#watch('returned', this.#passed)
  }

  async #headersBack(answer: IncomingMessage, grown: number): Promise<string[]> {
    const headers = passedHeaders(answer.rawHeaders)
    for (let i = 0; i < headers.length; i += 2) {
      const name = headers[i]?.toLowerCase()
      const value = headers[i + 1] ?? ''
      if (name === 'location' && /^http:/.test(value)) headers[i + 1] = await this.#through(value)
      if (name === 'content-length' && grown !== 0) headers[i + 1] = `${Math.max(0, Number(value) + grown)}`
    }
    return headers
  }

  #answer(fault: ProxyFault & { readonly kind: 'answer' }): void {
    const headers = { 'content-length': `${Buffer.byteLength(fault.body)}`, ...fault.headers }
    this.#passed.status = fault.status
    // The body that is not wanted is read, or the client would see a reset before the answer. Whether one comes that
    // was not asked for with 100 Continue is unknown: no other request on that connection.
    if (this.#request.headers.expect !== undefined) this.#response.shouldKeepAlive = false
    this.#request.resume()
    this.#response.writeHead(fault.status, headers)
    this.#response.end(this.#request.method === 'HEAD' ? undefined : fault.body)
  }

  #breakOff(how: 'reset' | 'stall', upstream: ClientRequest | null): void {
    if (how === 'stall') return
    upstream?.destroy()
    reset(this.#socket)
  }
}

function passedHeaders(raw: readonly string[]): string[] {
  const kept: string[] = []
  for (let i = 0; i < raw.length; i += 2) {
    const name = raw[i] ?? ''
    if (!NOT_PASSED_ON.has(name.toLowerCase())) kept.push(name, raw[i + 1] ?? '')
  }
  return kept
}

/** `chunk`, with a bit of byte `at` of the body turned over if that is in it. */
function flipped(chunk: Buffer, at: number | null, before: number): Buffer {
  if (at === null || at < before || at >= before + chunk.length) return chunk
  const copy = Buffer.from(chunk)
  copy[at - before] = (copy[at - before] ?? 0) ^ 1
  return copy
}

function reset(socket: Socket): void {
  if (!socket.destroyed) socket.resetAndDestroy()
}

const forever = (): Promise<never> => new Promise(() => undefined)
