import type { IncomingMessage } from 'node:http'
import { crc32c } from '../../src/format/checksum.js'
import type { Logger } from '../../src/ports/logger.js'
import { allowedMs, type UnderDeadline, withDeadline } from '../engine/deadline.js'
import type { Retrier } from '../engine/retry.js'
import { md5Told } from './checksum.js'
import { type BlockHolder, DataNodes } from './datanodes.js'
import { BodyFailure, HdfsFailure, judgeFailure, RedirectRefused } from './errors.js'
import type { RedirectRule } from './hosts.js'
import { collect, eachChunk, headOf, type Upload } from './http.js'
import {
  type Answered,
  type Cluster,
  checked,
  jsonAnswer,
  jsonOf,
  type NameNodes,
  type Operation,
} from './namenodes.js'

const READ_IDLE_MS = 15_000
const WRITE_IDLE_MS = 90_000
const TOTAL_MS = 600_000
const CHECKSUM_MS = 120_000
const ERROR_BYTES_MAX = 65_536
/** The list of live nodes that a NameNode shows; some thousand of them are a few megabytes. */
const LIVE_NODES = '/jmx?qry=Hadoop:service=NameNode,name=NameNodeInfo'

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

/**
 * Bytes to and from DataNodes: the NameNode is asked, and sends us on to one of them. A gateway (HttpFS) passes the
 * bytes on itself. One that fails in the middle is left out of what follows.
 */
export class Transfer {
  readonly datanodes: DataNodes
  readonly #parts: TransferParts
  #gateway: boolean

  constructor(parts: TransferParts) {
    this.#parts = parts
    this.datanodes = new DataNodes(parts.cluster.clock)
    this.#gateway = parts.cluster.place.settings.gateway === true
  }

  /** Whether the location is a gateway, as was said or found out. */
  get gateway(): boolean {
    return this.#gateway
  }

  /** Makes a call again where that may help. */
  run<T>(signal: AbortSignal | undefined, work: () => Promise<T>): Promise<T> {
    return this.#parts.retrier.run({
      signal: signal ?? this.#parts.cluster.signal,
      judge: judgeFailure,
      work,
    })
  }

  /** Writes a new file, once. What it leaves when it fails may be a shorter file. */
  async create(
    path: string,
    params: Readonly<Record<string, string>>,
    upload: Upload,
    signal: AbortSignal | undefined,
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
      idleMs: settings.writeTimeoutMs ?? WRITE_IDLE_MS,
    }
    await this.#move(place, null, deadline, signal, async (under) => {
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
  ): Promise<Uint8Array> {
    const chunks: Buffer[] = []
    let target: Buffer | null = null
    let at = 0
    const sizeBytes = await this.#read(path, { offset, lengthBytes }, signal, {
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
  async readBack(path: string, lengthBytes: number, signal: AbortSignal | undefined): Promise<number> {
    let crc = 0
    const sizeBytes = await this.#read(path, { offset: 0, lengthBytes }, signal, {
      begin: () => undefined,
      take: (chunk) => {
        crc = crc32c(chunk, crc)
      },
    })
    if (sizeBytes === lengthBytes) return crc
    throw new HdfsFailure(`${sizeBytes} bytes were read back of ${lengthBytes}`)
  }

  /** The file's checksum as HDFS computes it, null if it is of another kind than ours. */
  async checksum(path: string, signal: AbortSignal | undefined): Promise<string | null> {
    const { cluster, namenodes, redirects } = this.#parts
    const operation = { method: 'GET', op: 'GETFILECHECKSUM', path } as const
    const answer = await namenodes.ask(operation, 'asking for a checksum', signal)
    if (answer.status !== 307) return md5Told(jsonAnswer(answer))
    const url = redirects.check(answer.headers.location, answer.peer, answer.url)
    const deadline = { doing: `${url.host}: asking for a checksum`, totalMs: CHECKSUM_MS }
    return await this.#move({ url, direct: false }, path, deadline, signal, async (under) => {
      const told = await cluster.http.ask({ method: 'GET', url, keep: false }, under)
      return md5Told(jsonAnswer({ ...checked(told, url, cluster.credentials), url }))
    })
  }

  async #read(
    path: string,
    { offset, lengthBytes }: { readonly offset: number; readonly lengthBytes: number },
    signal: AbortSignal | undefined,
    into: { begin(declared: number | null): void; take(chunk: Buffer): void },
  ): Promise<number> {
    const params = { offset: String(offset), length: String(lengthBytes), ...this.#excluded() }
    const operation = { method: 'GET', op: 'OPEN', path, params } as const
    const place = await this.#place(operation, 'opening an object', signal)
    const { settings } = this.#parts.cluster.place
    const deadline = {
      doing: `${place.url.host}: reading an object`,
      totalMs: allowedMs(settings.totalTimeoutMs ?? TOTAL_MS, lengthBytes),
      idleMs: settings.readTimeoutMs ?? READ_IDLE_MS,
    }
    return this.#move(place, path, deadline, signal, async (under) => {
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
      into.begin(declared === undefined ? null : Number(declared))
      return eachChunk(response, lengthBytes, under, into.take)
    })
  }

  /** Asks the NameNode where to go; a gateway is where we are already. */
  async #place(operation: Operation, doing: string, signal: AbortSignal | undefined): Promise<Place> {
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
    path: string | null,
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
      else await this.#leaveOut(place.url, path, signal)
      throw error
    }
  }

  async #leaveOut(url: URL, path: string | null, signal: AbortSignal | undefined): Promise<void> {
    const { logger, cluster } = this.#parts
    try {
      if (!this.datanodes.knows(url)) await this.#learn(path, signal)
    } catch (error) {
      // Not knowing whom to leave out is no reason to fail: the next try may be sent to another one by chance.
      logger.debug({ error, location: cluster.place.location }, 'the ports of the DataNodes are not told')
    }
    const left = this.datanodes.suspect(url)
    logger.warn({ node: url.host, left }, 'a DataNode failed and is left out for a minute')
  }

  /** Which web address belongs to which transfer address. */
  async #learn(path: string | null, signal: AbortSignal | undefined): Promise<void> {
    const { namenodes } = this.#parts
    if (path !== null) {
      const operation = { method: 'GET', op: 'GET_BLOCK_LOCATIONS', path } as const
      const told = jsonAnswer<{ LocatedBlocks?: { locatedBlocks?: { locations?: BlockHolder[] }[] } }>(
        await namenodes.ask(operation, 'asking where blocks are', signal),
      )
      for (const block of told.LocatedBlocks?.locatedBlocks ?? []) {
        for (const holder of block.locations ?? []) this.datanodes.learnHolder(holder)
      }
      return
    }
    const info = await this.nameNodeInfo(LIVE_NODES, signal)
    const live = typeof info?.LiveNodes === 'string' ? JSON.parse(info.LiveNodes) : {}
    for (const [name, node] of Object.entries(live as Record<string, object>)) {
      this.datanodes.learnLive(name, node)
    }
  }

  /** A bean of the NameNode's own figures, null where it shows none. */
  async nameNodeInfo(
    query: string,
    signal: AbortSignal | undefined,
  ): Promise<Record<string, unknown> | null> {
    const { namenodes, cluster } = this.#parts
    return namenodes.run('asking the NameNode about itself', signal, async (node, under) => {
      const url = new URL(namenodes.baseOf(node) + query)
      const answer = await cluster.http.ask({ method: 'GET', url, keep: true }, under)
      const told = answer.status === 200 ? jsonOf(answer) : null
      return (told as { beans?: Record<string, unknown>[] } | null)?.beans?.[0] ?? null
    })
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
