import { createHash } from 'node:crypto'
import http from 'node:http'
import type { AddressInfo } from 'node:net'
import { HdfsChecksum } from '../../../archive/hdfs/checksum.js'

/** One request as the fake got it. */
export interface Seen {
  readonly method: string
  readonly op: string
  readonly path: string
  readonly query: URLSearchParams
  /** Whether it came to the data half. */
  readonly data: boolean
}

/** An answer instead of the usual one; null for the usual one. */
export type Twist = (seen: Seen, response: http.ServerResponse) => boolean

/** What has a name: a file, or a directory. */
export interface Node {
  readonly fileId: number
  readonly bytes: Buffer | null
}

const BLOCK_BYTES = 1024 * 1024

/**
 * A NameNode and its DataNode in one process, as much of WebHDFS as the engine uses, with the real one's answers: for
 * what a real cluster does not do on demand.
 */
export class FakeHdfs {
  readonly seen: Seen[] = []
  readonly files: Map<string, Node> = new Map([['/', { fileId: 1, bytes: null }]])
  /** Asked first at each request; true: it has answered. */
  twist: Twist = () => false
  /** A gateway passes the bytes on itself. */
  gateway = false
  /** Host of redirects, in place of our own. */
  redirectHost: string | null = null
  #nextId = 2
  readonly #server: http.Server

  private constructor() {
    this.#server = http.createServer((request, response) => {
      this.#handle(request, response).catch((error: unknown) => response.destroy(error as Error))
    })
  }

  static async start(): Promise<FakeHdfs> {
    const fake = new FakeHdfs()
    await new Promise<void>((resolve) => fake.#server.listen(0, '127.0.0.1', resolve))
    return fake
  }

  get host(): string {
    return `127.0.0.1:${(this.#server.address() as AddressInfo).port}`
  }

  ops(): string[] {
    return this.seen.map(({ op, data }) => (data ? `${op}:data` : op))
  }

  async close(): Promise<void> {
    this.#server.closeAllConnections()
    await new Promise((resolve) => this.#server.close(resolve))
  }

  async #handle(request: http.IncomingMessage, response: http.ServerResponse): Promise<void> {
    const url = new URL(request.url ?? '', `http://${this.host}`)
    const chunks: Buffer[] = []
    for await (const chunk of request) chunks.push(chunk as Buffer)
    const path = decodeURIComponent(url.pathname.replace(/^\/webhdfs\/v1/, '')).replace(/(.)\/$/, '$1')
    const query = url.searchParams
    const data = query.has('data') || query.has('namenoderpcaddress')
    const seen = {
      method: request.method ?? '',
      op: query.get('op')?.toUpperCase() ?? 'jmx',
      path,
      query,
      data,
    }
    this.seen.push(seen)
    if (this.twist(seen, response)) return
    const moves = ['OPEN', 'CREATE', 'GETFILECHECKSUM'].includes(seen.op)
    if (moves && !data && !(this.gateway && seen.op !== 'CREATE')) this.#redirect(seen, url, response)
    else this.#answer(seen, Buffer.concat(chunks), response)
  }

  #redirect({ op, path }: Seen, url: URL, response: http.ServerResponse): void {
    if (op !== 'CREATE' && this.files.get(path)?.bytes == null) {
      fail(response, 404, 'FileNotFoundException', `File does not exist: ${path}`)
      return
    }
    const target = new URL(url)
    target.host = this.redirectHost ?? this.host
    target.searchParams.set(this.gateway ? 'data' : 'namenoderpcaddress', 'true')
    response.writeHead(307, { location: target.href, 'content-length': 0 }).end()
  }

  #answer({ op, path, query }: Seen, body: Buffer, response: http.ServerResponse): unknown {
    const file = this.files.get(path)
    const absent = () => fail(response, 404, 'FileNotFoundException', `File does not exist: ${path}`)
    switch (op) {
      case 'GETFILESTATUS':
        return file === undefined ? absent() : json(response, { FileStatus: statusOf('', file) })
      case 'MKDIRS':
        for (let at = path; at !== ''; at = at.slice(0, at.lastIndexOf('/'))) this.#put(at, null)
        return json(response, { boolean: true })
      case 'CREATE':
        this.#put(path, body)
        return response.writeHead(201, { 'content-length': 0 }).end()
      case 'RENAME': {
        const to = query.get('destination') ?? ''
        const done =
          file !== undefined && !this.files.has(to) && this.files.has(to.slice(0, to.lastIndexOf('/')) || '/')
        if (done && file !== undefined) {
          this.files.set(to, file)
          this.files.delete(path)
        }
        return json(response, { boolean: done })
      }
      case 'DELETE':
        return json(response, { boolean: this.files.delete(path) })
      case 'OPEN': {
        if (file?.bytes == null) return absent()
        const offset = Number(query.get('offset'))
        const bytes = file.bytes.subarray(offset, offset + Number(query.get('length')))
        return response
          .writeHead(200, { 'content-type': 'application/octet-stream', 'content-length': bytes.length })
          .end(bytes)
      }
      case 'GETFILECHECKSUM': {
        const checksum = new HdfsChecksum(BLOCK_BYTES)
        checksum.update(file?.bytes ?? Buffer.alloc(0))
        const bytes = `000002000000000000000000${checksum.md5()}00000000`
        return json(response, { FileChecksum: { algorithm: 'MD5-of-0MD5-of-512CRC32C', bytes, length: 28 } })
      }
      case 'LISTSTATUS_BATCH':
        return file === undefined ? absent() : json(response, this.#list(path, query.get('startAfter') ?? ''))
      case 'GETSERVERDEFAULTS':
        return json(response, { FsServerDefaults: { blockSize: BLOCK_BYTES } })
      default:
        return fail(response, 400, 'IllegalArgumentException', `Invalid operation ${op}`)
    }
  }

  #put(path: string, bytes: Buffer | null): void {
    if (bytes === null && this.files.has(path)) return
    this.files.set(path, { fileId: this.#nextId++, bytes })
  }

  #list(path: string, after: string): object {
    const base = path === '/' ? '/' : `${path}/`
    const all = [...this.files]
      .filter(([name]) => name !== path && name.startsWith(base) && !name.slice(base.length).includes('/'))
      .map(([name, node]) => statusOf(name.slice(base.length), node))
      .filter(({ pathSuffix }) => pathSuffix > after)
      .sort((a, b) => (a.pathSuffix < b.pathSuffix ? -1 : 1))
    const FileStatus = all.slice(0, 100)
    return {
      DirectoryListing: {
        partialListing: { FileStatuses: { FileStatus } },
        remainingEntries: all.length - FileStatus.length,
      },
    }
  }
}

function statusOf(pathSuffix: string, { fileId, bytes }: Node) {
  return {
    pathSuffix,
    fileId,
    type: bytes === null ? 'DIRECTORY' : 'FILE',
    length: bytes?.length ?? 0,
    blockSize: bytes === null ? 0 : BLOCK_BYTES,
    replication: 1,
  }
}

/** Answers with JSON as the real one does. */
export function json(response: http.ServerResponse, value: unknown, status = 200): void {
  response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(value))
}

/** Answers with an exception as the real one does. */
export function fail(
  response: http.ServerResponse,
  status: number,
  exception: string,
  message: string,
): void {
  json(
    response,
    { RemoteException: { exception, javaClassName: `org.apache.hadoop.${exception}`, message } },
    status,
  )
}

/** Bytes that are the same in each run. */
export function someBytes(count: number): Buffer {
  return createHash('shake256', { outputLength: count }).update('hdfs').digest()
}
