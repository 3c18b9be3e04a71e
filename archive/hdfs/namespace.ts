import type { IncomingMessage } from 'node:http'
import webhdfs, { type Client, type Request } from 'webhdfs'
import type { UnderDeadline } from '../engine/deadline.js'
import { HdfsFailure, isAbsent } from './errors.js'
import { type Cluster, checked, encodePath, jsonAnswer, type NameNodes } from './namenodes.js'
import type { NameNodeAddress } from './settings.js'

/*
 * Calls that concern names alone. The three that change something go through the package webhdfs, whose URLs and verbs
 * are right; decision 0028 says why the answers are not taken from its callbacks, and why nothing else goes through it:
 *
 *   - its callbacks drop the body, in which {"boolean":false} says that nothing was done, and the name of the exception:
 *     both are taken from the request that each method returns;
 *   - it puts a path into the URL as it is: it gets an encoded one;
 *   - it has no timeouts, no tokens, and follows redirects and proxies of the environment: the options of `request`
 *     that it passes on end all four;
 *   - {"RemoteException":null} makes it throw where nobody can catch it: the reviver of the JSON takes that away.
 */

const DIRECTORY_MODE = '755'
const ANSWER_CHARS_MAX = 65_536

/** A callback it must have: without one mkdir takes the mode for it, and calls it. */
const nothing = (): void => undefined

/** What the NameNode tells of a path. */
export interface FileStatus {
  readonly type: 'FILE' | 'DIRECTORY' | 'SYMLINK'
  readonly length: number
  /** Identity of the file, whatever its name: a number that is never given again. */
  readonly fileId: number
  readonly blockSize: number
  readonly replication: number
  /** '' for the path that was asked for. */
  readonly pathSuffix: string
  /** Encrypted by HDFS, erasure-coded: such a file has another kind of checksum. */
  readonly encBit?: boolean
  readonly ecBit?: boolean
}

/** Names in HDFS: what is there, and changes to it. */
export class Namespace {
  readonly #cluster: Cluster
  readonly #namenodes: NameNodes

  constructor(cluster: Cluster, namenodes: NameNodes) {
    this.#cluster = cluster
    this.#namenodes = namenodes
  }

  /** Null: the NameNode says that nothing has that name. */
  async status(path: string, signal?: AbortSignal): Promise<FileStatus | null> {
    try {
      const operation = { method: 'GET', op: 'GETFILESTATUS', path } as const
      const answer = await this.#namenodes.ask(operation, 'looking at a name', signal)
      const status = jsonAnswer<{ FileStatus?: FileStatus }>(answer).FileStatus
      if (typeof status?.type === 'string' && Number.isSafeInteger(status.length)) return status
      throw new HdfsFailure(`${answer.url.host} told no status of a file`, { status: answer.status })
    } catch (error) {
      if (isAbsent(error)) return null
      throw error
    }
  }

  /** Makes a directory and its parents; one that is there is fine. */
  async makeDirectories(path: string, signal?: AbortSignal): Promise<void> {
    if (
      await this.#change('making a directory', signal, (client) =>
        client.mkdir(encodePath(path), DIRECTORY_MODE, nothing),
      )
    )
      return
    const found = await this.status(path, signal)
    if (found?.type === 'DIRECTORY') return
    throw new HdfsFailure(`a directory could not be made, and HDFS does not say why`)
  }

  /**
   * Gives a file another name. False: the new name is taken, the file is gone, or the directory is not there. True with
   * a directory at the new name: the file is inside it now.
   */
  rename(from: string, to: string, signal?: AbortSignal): Promise<boolean> {
    return this.#change('naming an object', signal, (client) => client.rename(encodePath(from), to, nothing))
  }

  /** Deletes a file or an empty directory. False: it was not there. */
  delete(path: string, signal?: AbortSignal): Promise<boolean> {
    return this.#change('deleting an object', signal, (client) =>
      client.unlink(encodePath(path), false, nothing),
    )
  }

  #change(
    doing: string,
    signal: AbortSignal | undefined,
    call: (client: Client) => Request,
  ): Promise<boolean> {
    return this.#namenodes.run(doing, signal, async (node, under) => {
      const { response, text } = await completed(call(this.#client(node)), under)
      const url = new URL(this.#namenodes.baseOf(node))
      const head = { status: response.statusCode ?? 0, headers: response.headers, peer: null }
      const answer = { ...head, body: Buffer.from(text) }
      const told = jsonAnswer<{ boolean?: unknown }>({
        ...checked(answer, url, this.#cluster.credentials),
        url,
      })
      if (typeof told.boolean === 'boolean') return told.boolean
      throw new HdfsFailure(`${url.host} did not say whether it was done`, { status: head.status })
    })
  }

  #client({ host, port }: NameNodeAddress): Client {
    const { place, http, credentials } = this.#cluster
    return webhdfs.createClient(
      { protocol: place.https ? 'https' : 'http', host, port, path: '/webhdfs/v1' },
      {
        agent: place.https ? http.agents.https : http.agents.http,
        timeout: place.settings.namenodeTimeoutMs ?? 20_000,
        qs: credentials.query(),
        headers: { 'x-xsrf-header': 'stratalog' },
        followRedirect: false,
        proxy: null,
        jsonReviver: (key, value) => (key === 'RemoteException' && value === null ? {} : value),
      },
    )
  }
}

/** The answer to a request of the package, whole and bounded. */
function completed(
  request: Request,
  under: UnderDeadline,
): Promise<{ response: IncomingMessage; text: string }> {
  return new Promise((resolve, reject) => {
    let chars = 0
    const abort = () => request.abort()
    under.signal.addEventListener('abort', abort, { once: true })
    const done = () => under.signal.removeEventListener('abort', abort)
    request.on('data', (chunk) => {
      chars += chunk.length
      if (chars <= ANSWER_CHARS_MAX) return
      done()
      request.abort()
      reject(new HdfsFailure(`an answer of more than ${ANSWER_CHARS_MAX} bytes`))
    })
    request.on('complete', (response, body) => {
      done()
      resolve({ response, text: typeof body === 'string' ? body : JSON.stringify(body ?? '') })
    })
    request.on('error', (error) => {
      done()
      // Its message may hold the URL, and so a token: the kind of failure is enough.
      const code = 'code' in error && typeof error.code === 'string' ? error.code : 'no answer'
      reject(new HdfsFailure(`the NameNode could not be asked: ${code}`))
    })
  })
}
