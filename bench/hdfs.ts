import { once } from 'node:events'
import { Agent, type IncomingMessage, request } from 'node:http'
import { join } from 'node:path'
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
import type { Bench, BenchMember, BenchResult } from './result.js'

const ROOT = '/bench'

export const HDFS_MEMBERS: readonly BenchMember[] = [
  {
    names: ['hdfs.copy', 'hdfs.read'],
    what: 'a backlog of 64 MiB segments into HDFS with one DataNode, every byte read back; catch-up of 1 KiB records from it',
    run: copyAndRead,
  },
]

/**
 * One cluster for both, which takes long to start; each has an archive and a log of its own. One DataNode, for
 * replication on one machine is writing thrice to the same disk.
 */
async function copyAndRead(bench: Bench): Promise<BenchResult[]> {
  await requireServer('hdfs')
  const { startHdfs } = await fromSources(() => import('../test/servers/hdfs.js'))
  const server = await startHdfs({ optimize: true })
  const agent = new Agent({ keepAlive: true })
  const remote = (root: string): Remote => ({
    archive: hdfsArchive(`hdfs://${server.namenode}${root}`, { user: server.user }),
    plain: new HdfsPlain(server.webhdfs, server.user, agent, root),
  })
  const below = (name: string): Bench => ({ ...bench, directory: join(bench.directory, name) })
  try {
    return [
      ...(await copyAgainstPlain(below('copy'), 'hdfs.copy', remote(`${ROOT}/copy`))),
      ...(await readAgainstPlain(below('read'), 'hdfs.read', remote(`${ROOT}/read`))),
    ]
  } finally {
    agent.destroy()
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
  readonly #agent: Agent
  readonly #root: string

  constructor(webhdfs: string, user: string, agent: Agent, root: string) {
    this.#webhdfs = webhdfs
    this.#user = user
    this.#agent = agent
    this.#root = root
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
    for (const { pathSuffix: stream, type } of await this.#list(this.#root)) {
      if (type !== 'DIRECTORY') continue
      for (const { pathSuffix, length } of await this.#list(`${this.#root}/${stream}`))
        if (decodeSegmentKey(`${stream}/${pathSuffix}`) !== null)
          found.push({ key: `${this.#root}/${stream}/${pathSuffix}`, sizeBytes: length })
    }
    return found
  }

  async #list(path: string): Promise<readonly FileStatus[]> {
    const listed = await this.#call('GET', this.#url(path, 'op=LISTSTATUS'))
    if (listed.statusCode === 404) {
      // Before the first copy there is nothing.
      listed.resume()
      return []
    }
    const answer = await json(listed)
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
    const path = key.startsWith('/') ? key : `${ROOT}/${key}`
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
