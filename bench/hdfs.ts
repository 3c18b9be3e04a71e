import { once } from 'node:events'
import { Agent, type IncomingMessage, request } from 'node:http'
import { hdfsArchive } from '../archive/hdfs/engine.js'
import { decodeSegmentKey } from '../src/format/archive-names.js'
import {
  copyAgainstPlain,
  fromSources,
  type PlainObject,
  type PlainStore,
  type Remote,
  readAgainstPlain,
  requireServer,
} from './remote.js'
import type { BenchMember, BenchResult } from './result.js'

const ROOT = '/bench/log'

export const HDFS_MEMBERS: readonly BenchMember[] = [
  {
    names: ['hdfs.copy'],
    what: 'a backlog of 64 MiB segments into HDFS with one DataNode, every byte read back',
    run: (bench) => withHdfs((hdfs) => copyAgainstPlain(bench, 'hdfs.copy', hdfs)),
  },
  {
    names: ['hdfs.read'],
    what: 'catch-up of 1 KiB records from HDFS with one DataNode',
    run: (bench) => withHdfs((hdfs) => readAgainstPlain(bench, 'hdfs.read', hdfs)),
  },
]

/** One DataNode, for replication on one machine is writing thrice to the same disk. */
async function withHdfs(run: (hdfs: Remote) => Promise<BenchResult[]>): Promise<BenchResult[]> {
  await requireServer('hdfs')
  const { startHdfs } = await fromSources(() => import('../test/servers/hdfs.js'))
  const server = await startHdfs({ optimize: true })
  const plain = new HdfsPlain(server.webhdfs, server.user)
  try {
    const archive = hdfsArchive(`hdfs://${server.namenode}${ROOT}`, { user: server.user })
    return await run({ archive, plain })
  } finally {
    plain.close()
    await server.close()
  }
}

interface FileStatus {
  readonly pathSuffix: string
  readonly type: 'FILE' | 'DIRECTORY'
  readonly length: number
}

/** WebHDFS over node:http: a call, a redirect, the bytes. */
class HdfsPlain implements PlainStore {
  readonly #webhdfs: string
  readonly #user: string
  readonly #agent = new Agent({ keepAlive: true })

  constructor(webhdfs: string, user: string) {
    this.#webhdfs = webhdfs
    this.#user = user
  }

  async put(key: string, body: Buffer): Promise<void> {
    const to = await this.#redirect('PUT', key, 'op=CREATE&overwrite=true')
    const headers = { 'content-length': body.length, 'content-type': 'application/octet-stream' }
    const sent = request(to, { method: 'PUT', headers })
    sent.end(body)
    const [answer] = (await once(sent, 'response')) as [IncomingMessage]
    answer.resume()
    if (answer.statusCode !== 201) throw new Error(`CREATE of ${key}: ${answer.statusCode}`)
  }

  async get(key: string, offset: number, lengthBytes: number): Promise<number> {
    const from = await this.#redirect('GET', key, `op=OPEN&offset=${offset}&length=${lengthBytes}`)
    const answer = await this.#call('GET', from)
    if (answer.statusCode !== 200) throw new Error(`OPEN of ${key}: ${answer.statusCode}`)
    let bytes = 0
    for await (const chunk of answer as AsyncIterable<Buffer>) bytes += chunk.length
    return bytes
  }

  async remove(key: string): Promise<void> {
    await json(await this.#call('DELETE', this.#url(key, 'op=DELETE')))
  }

  async segments(): Promise<PlainObject[]> {
    const found: PlainObject[] = []
    for (const { pathSuffix: stream, type } of await this.#list(ROOT)) {
      if (type !== 'DIRECTORY') continue
      for (const { pathSuffix, length } of await this.#list(`${ROOT}/${stream}`))
        if (decodeSegmentKey(`${stream}/${pathSuffix}`) !== null)
          found.push({ key: `${ROOT}/${stream}/${pathSuffix}`, sizeBytes: length })
    }
    return found
  }

  close(): void {
    this.#agent.destroy()
  }

  async #list(path: string): Promise<readonly FileStatus[]> {
    const answer = await json(await this.#call('GET', this.#url(path, 'op=LISTSTATUS')))
    return (answer as { FileStatuses: { FileStatus: FileStatus[] } }).FileStatuses.FileStatus
  }

  async #redirect(method: string, key: string, query: string): Promise<string> {
    const answer = await this.#call(method, this.#url(key, query))
    answer.resume()
    const { location } = answer.headers
    if (location === undefined) throw new Error(`${query} of ${key}: ${answer.statusCode} without a redirect`)
    return location
  }

  #url(key: string, query: string): string {
    const path = key.startsWith('/') ? key : `/bench/${key}`
    return `${this.#webhdfs}${path}?${query}&user.name=${this.#user}`
  }

  async #call(method: string, url: string): Promise<IncomingMessage> {
    const sent = request(url, { method, agent: this.#agent }).end()
    const [answer] = (await once(sent, 'response')) as [IncomingMessage]
    return answer
  }
}

async function json(answer: IncomingMessage): Promise<unknown> {
  let text = ''
  for await (const chunk of answer as AsyncIterable<Buffer>) text += chunk.toString()
  if (answer.statusCode !== 200) throw new Error(`${answer.statusCode}: ${text}`)
  return JSON.parse(text)
}
