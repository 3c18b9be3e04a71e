import type { IncomingMessage } from 'node:http'
import { crc32c } from '../../src/format/checksum.js'
import type { Logger } from '../../src/ports/logger.js'
import { allowedMs, type Deadline, type UnderDeadline, withDeadline } from '../engine/deadline.js'
import type { Retrier } from '../engine/retry.js'
import { Blame } from './blame.js'
import { md5Told } from './checksum.js'
import { DataNodes } from './datanodes.js'
import { BodyFailure, HdfsFailure, judgeFailure, RedirectRefused } from './errors.js'
import type { RedirectRule } from './hosts.js'
import { collect, eachChunk, headOf, takeBytes, type Upload } from './http.js'
import {
  type Answered,
  type Cluster,
  checked,
  jsonAnswer,
  type NameNodes,
  type Operation,
} from './namenodes.js'

const READ_IDLE_MS = 15_000
const WRITE_IDLE_MS = 90_000
/*
 * What the first try waits for at most while nothing moves; each further one twice as long, up to the above. HDFS needs
 * a minute and more to put a DataNode that stands still out of a pipeline, while another try leaves it out at once.
 */
const FIRST_READ_IDLE_MS = 4_000
const FIRST_WRITE_IDLE_MS = 12_000
const TOTAL_MS = 600_000
const CHECKSUM_MS = 120_000
const ERROR_BYTES_MAX = 65_536
/** What a NameNode says where all who could do it are left out. */
const NOBODY_LEFT = /failed to find datanode|no active nodes|excludedatanodes/i

/** What transfers of data need beside the NameNodes. */
export interface TransferParts {
  readonly cluster: Cluster
  readonly namenodes: NameNodes
  readonly redirects: RedirectRule
  /** For calls that move data: fewer side by side than calls to NameNodes. */
  readonly retrier: Retrier
  readonly logger: Logger
}

/** Where data goes to or comes from, and whether that is the one who was asked. */
interface Place {
  readonly url: URL
  readonly direct: boolean
}

/** An answer with a file's bytes that is taken piece by piece. */
export interface Reading {
  readonly path: string
  readonly place: Place
  readonly response: IncomingMessage
  /** Whether it waited to be asked: who closed it then is not to blame. */
  rested: boolean
}

/**
 * Bytes to and from DataNodes: the NameNode is asked, and sends us on to one of them. A gateway (HttpFS) passes the
 * bytes on itself. One that fails in the middle is left out of what follows.
 */
export class Transfer {
  readonly datanodes: DataNodes
  readonly #parts: TransferParts
  readonly #blame: Blame
  #gateway: boolean

  constructor(parts: TransferParts) {
    this.#parts = parts
    this.datanodes = new DataNodes(parts.cluster.clock)
    this.#blame = new Blame({ ...parts, datanodes: this.datanodes })
    this.#gateway = parts.cluster.place.settings.gateway === true
  }

  /** Whether the location is a gateway, as was said or found out. */
  get gateway(): boolean {
    return this.#gateway
  }

  /** Makes a call again where that may help; `work` hears the number of the try, 1 for the first. */
  run<T>(signal: AbortSignal | undefined, work: (attempt: number) => Promise<T>): Promise<T> {
    return this.#parts.retrier.run({
      signal: signal ?? this.#parts.cluster.signal,
      judge: judgeFailure,
      work: ({ number }) => work(number),
    })
  }

  /** Writes a new file, once. What it leaves when it fails may be a shorter file. */
  async create(
    path: string,
    params: Readonly<Record<string, string>>,
    upload: Upload,
    signal: AbortSignal | undefined,
    attempt: number,
  ): Promise<void> {
    const operation: Operation = {
      method: 'PUT',
      op: 'CREATE',
      path,
      params: { ...params, overwrite: 'false', createparent: 'false', ...this.#excluded() },
      headers: { 'content-type': 'application/octet-stream' },
    }
    const place = await this.#place(operation, 'beginning a file', signal)
    const { settings } = this.#parts.cluster.place
    const deadline = {
      doing: `${place.url.host}: writing an object`,
      totalMs: allowedMs(settings.totalTimeoutMs ?? TOTAL_MS, upload.sizeBytes),
      idleMs: patienceMs(FIRST_WRITE_IDLE_MS, settings.writeTimeoutMs ?? WRITE_IDLE_MS, attempt),
    }
    await this.#move(place, path, deadline, signal, async (under) => {
      const { http } = this.#parts.cluster
      const headers = operation.headers ?? {}
      const sent = { method: 'PUT', url: place.url, keep: false, headers, upload } as const
      const response = await http.send(sent, under)
      const answer = await this.#checkedAnswer(response, place.url, under)
      // Anything else, 200 included, is not what a DataNode says of a file that is written and closed.
      if (answer.status !== 201) {
        throw new HdfsFailure(`${place.url.host} answered ${answer.status} to an upload`, {
          status: answer.status,
        })
      }
    })
  }

  /**
   * Bytes of a file from `offset` on, once: those that the DataNode says there are, at most `lengthBytes`. A connection
   * that ends before that is a failure.
   */
  async open(
    path: string,
    offset: number,
    lengthBytes: number,
    signal: AbortSignal | undefined,
    attempt: number,
  ): Promise<Uint8Array> {
    const chunks: Buffer[] = []
    let target: Buffer | null = null
    let at = 0
    const sizeBytes = await this.#read(path, { offset, lengthBytes, attempt }, signal, {
      begin: (declared) => {
        target = declared === null ? null : Buffer.allocUnsafe(declared)
      },
      take: (chunk) => {
        if (target === null) chunks.push(chunk)
        else at += chunk.copy(target, at)
      },
    })
    const whole: Buffer = target ?? Buffer.concat(chunks)
    return whole.subarray(0, sizeBytes)
  }

  /** CRC32C of a whole file as it reads back, and its length. */
  async readBack(
    path: string,
    lengthBytes: number,
    signal: AbortSignal | undefined,
    attempt: number,
  ): Promise<number> {
    let crc = 0
    const sizeBytes = await this.#read(path, { offset: 0, lengthBytes, attempt }, signal, {
      begin: () => undefined,
      take: (chunk) => {
        crc = crc32c(chunk, crc)
      },
    })
    if (sizeBytes === lengthBytes) return crc
    throw new HdfsFailure(`${sizeBytes} bytes were read back of ${lengthBytes}`)
  }

  /** The file's checksum as HDFS computes it, null if it is of another kind than ours. */
  async checksum(path: string, signal: AbortSignal | undefined, attempt: number): Promise<string | null> {
    const { cluster, namenodes, redirects } = this.#parts
    const operation = { method: 'GET', op: 'GETFILECHECKSUM', path } as const
    const answer = await namenodes.ask(operation, 'asking for a checksum', signal)
    if (answer.status !== 307) return md5Told(jsonAnswer(answer))
    const url = redirects.check(answer.headers.location, answer.peer, answer.url)
    const { settings } = cluster.place
    const deadline = {
      doing: `${url.host}: asking for a checksum`,
      totalMs: Math.min(CHECKSUM_MS, settings.totalTimeoutMs ?? TOTAL_MS),
      idleMs: patienceMs(FIRST_READ_IDLE_MS, settings.readTimeoutMs ?? READ_IDLE_MS, attempt),
    }
    return await this.#move({ url, direct: false }, path, deadline, signal, async (under) => {
      const told = await cluster.http.ask({ method: 'GET', url, keep: false }, under)
      return md5Told(jsonAnswer({ ...checked(told, url, cluster.credentials), url }))
    })
  }

  async #read(
    path: string,
    { offset, lengthBytes, attempt }: { offset: number; lengthBytes: number; attempt: number },
    signal: AbortSignal | undefined,
    into: { begin(declared: number | null): void; take(chunk: Buffer): void },
  ): Promise<number> {
    const params = { offset: String(offset), length: String(lengthBytes), ...this.#excluded() }
    const operation = { method: 'GET', op: 'OPEN', path, params } as const
    const place = await this.#place(operation, 'opening an object', signal)
    const deadline = this.#readDeadline(place, lengthBytes, attempt)
    return this.#move(place, path, deadline, signal, async (under) => {
      const response = await this.#opened(place, lengthBytes, under)
      const declared = response.headers['content-length']
      into.begin(declared === undefined ? null : Number(declared))
      return eachChunk(response, lengthBytes, under, into.take)
    })
  }

  /** An answer with bytes of an object, which wait to be read. */
  async #opened(place: Place, lengthBytes: number, under: UnderDeadline): Promise<IncomingMessage> {
    const get = { method: 'GET', url: place.url, keep: place.direct } as const
    const response = await this.#parts.cluster.http.send(get, under)
    const { host } = place.url
    if (response.statusCode !== 200 || /html|json/i.test(response.headers['content-type'] ?? '')) {
      const { status } = await this.#checkedAnswer(response, place.url, under)
      throw new HdfsFailure(`${host} answered ${status} with something that is no object`)
    }
    const declared = response.headers['content-length']
    if (declared !== undefined && Number(declared) > lengthBytes) {
      response.destroy()
      throw new HdfsFailure(`${host} has ${declared} bytes for a range of ${lengthBytes}`)
    }
    return response
  }

  /** Begins to read a range, once, whose bytes are taken by `goOn`. It is the caller's to end the answer. */
  async begin(
    path: string,
    offset: number,
    lengthBytes: number,
    signal: AbortSignal | undefined,
  ): Promise<Reading> {
    const params = { offset: String(offset), length: String(lengthBytes), ...this.#excluded() }
    const place = await this.#place({ method: 'GET', op: 'OPEN', path, params }, 'opening an object', signal)
    const response = await this.#move(place, path, this.#readDeadline(place, 0, 1), signal, (under) =>
      this.#opened(place, lengthBytes, under),
    )
    // It may break off while nobody takes its bytes: who asks for more finds it ended.
    response.on('error', () => undefined)
    return { path, place, response, rested: false }
  }

  /** The next bytes of an answer; null if it was closed while it rested. */
  goOn(reading: Reading, lengthBytes: number, signal: AbortSignal | undefined): Promise<Uint8Array | null> {
    const { path, place, response, rested } = reading
    const deadline = this.#readDeadline(place, lengthBytes, 1)
    return this.#move(place, path, deadline, signal, async (under) => {
      try {
        return await takeBytes(response, lengthBytes, under)
      } catch (error) {
        if (rested && error instanceof HdfsFailure) return null
        throw error
      }
    })
  }

  #readDeadline(place: Place, lengthBytes: number, attempt: number): Deadline {
    const { settings } = this.#parts.cluster.place
    return {
      doing: `${place.url.host}: reading an object`,
      totalMs: allowedMs(settings.totalTimeoutMs ?? TOTAL_MS, lengthBytes),
      idleMs: patienceMs(FIRST_READ_IDLE_MS, settings.readTimeoutMs ?? READ_IDLE_MS, attempt),
    }
  }

  /** Where to go. Where nobody is left to go to, those left out may have the only copies: they are asked again. */
  async #place(operation: Operation, doing: string, signal: AbortSignal | undefined): Promise<Place> {
    try {
      return await this.#placeOf(operation, doing, signal)
    } catch (error) {
      if (error instanceof HdfsFailure && NOBODY_LEFT.test(error.message)) this.datanodes.forgive()
      throw error
    }
  }

  /** Asks the NameNode where to go; a gateway is where we are already. */
  async #placeOf(operation: Operation, doing: string, signal: AbortSignal | undefined): Promise<Place> {
    const { cluster, namenodes, redirects } = this.#parts
    const data: Operation =
      operation.op === 'CREATE' ? { ...operation, params: { ...operation.params, data: 'true' } } : operation
    if (this.#gateway) return { url: namenodes.urlOf(namenodes.active, data), direct: true }
    return namenodes.once(doing, signal, async (node, under) => {
      const url = namenodes.urlOf(node, operation)
      const { method, headers = {} } = operation
      const response = await cluster.http.send({ method, url, keep: true, headers }, under)
      if (response.statusCode === 200 && jsonKind(response) === false) {
        // Nobody but a gateway sends the bytes at once: from now on it is asked as one.
        response.destroy()
        this.#gateway = true
        return { url: namenodes.urlOf(node, data), direct: true }
      }
      const head = headOf(response)
      const body = await collect(response, ERROR_BYTES_MAX, under)
      const answer = checked({ ...head, body }, url, cluster.credentials)
      return {
        url: redirects.check(redirectOf(answer.headers.location, { ...answer, url }), answer.peer, url),
        direct: false,
      }
    })
  }

  /** Moves data under a deadline; a DataNode that failed is left out of what follows. */
  async #move<T>(
    place: Place,
    path: string,
    deadline: { doing: string; totalMs: number; idleMs?: number },
    signal: AbortSignal | undefined,
    work: (under: UnderDeadline) => Promise<T>,
  ): Promise<T> {
    const { cluster, namenodes } = this.#parts
    try {
      return await withDeadline(cluster.clock, deadline, [signal, cluster.signal], work)
    } catch (error) {
      const ours = error instanceof BodyFailure || error instanceof RedirectRefused
      const ended = signal?.aborted === true || cluster.signal.aborted
      if (ours || ended || judgeFailure(error).verdict === 'throw') throw error
      if (place.direct) namenodes.leave()
      else await this.#blame.after(place.url, path, signal)
      throw error
    }
  }

  #excluded(): Record<string, string> {
    const excluded = this.datanodes.excluded()
    return excluded === '' ? {} : { excludedatanodes: excluded }
  }

  async #checkedAnswer(response: IncomingMessage, url: URL, under: UnderDeadline): Promise<Answered> {
    const head = headOf(response)
    const body = await collect(response, ERROR_BYTES_MAX, under)
    return { ...checked({ ...head, body }, url, this.#parts.cluster.credentials), url }
  }
}

function patienceMs(firstMs: number, mostMs: number, attempt: number): number {
  return Math.min(mostMs, firstMs * 2 ** (attempt - 1))
}

/** Whether an answer is JSON; null if it does not say what it is. */
function jsonKind(response: IncomingMessage): boolean | null {
  const kind = response.headers['content-type']
  return kind === undefined ? null : /json|html/i.test(kind)
}

/** Where to go: as a header, or as the JSON that one answers who was told not to redirect. */
function redirectOf(header: string | undefined, answer: Answered): string | undefined {
  if (answer.status === 307) return header
  const { Location } = jsonAnswer<{ Location?: unknown }>(answer)
  return typeof Location === 'string' ? Location : undefined
}
