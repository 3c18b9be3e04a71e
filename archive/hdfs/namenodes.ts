import { present } from '../../src/model/assert.js'
import { isStratalogError } from '../../src/model/errors.js'
import type { Clock } from '../../src/ports/clock.js'
import { type UnderDeadline, withDeadline } from '../engine/deadline.js'
import type { Retrier } from '../engine/retry.js'
import type { Credentials } from './credentials.js'
import { HdfsFailure, isDenied, isStandby, judgeFailure, markSpent } from './errors.js'
import type { Answer, Http } from './http.js'
import type { HdfsPlace, NameNodeAddress } from './settings.js'

const TIMEOUT_MS = 20_000
/** Text of somebody else in a message of ours. */
const TOLD_CHARS_MAX = 300
/** Names of Java classes: anything else is no exception of HDFS. */
const CLASS = /^[A-Z][A-Za-z]{0,99}$/

/** What an engine's parts share. */
export interface Cluster {
  readonly place: HdfsPlace
  readonly clock: Clock
  readonly http: Http
  readonly credentials: Credentials
  /** For calls to NameNodes, which are many and small. */
  readonly retrier: Retrier
  /** Ends everything. */
  readonly signal: AbortSignal
}

/** One operation of WebHDFS. */
export interface Operation {
  readonly method: 'GET' | 'PUT' | 'POST' | 'DELETE'
  readonly op: string
  /** Absolute, '' for the root. */
  readonly path: string
  readonly params?: Readonly<Record<string, string>>
  readonly headers?: Readonly<Record<string, string>>
}

/** An answer, and the URL that was asked. */
export interface Answered extends Answer {
  readonly url: URL
}

/**
 * The NameNodes of a cluster: one, or a pair of which one is active. The one that answered last is asked first; where
 * it says that it is on standby, or does not answer, the other is.
 */
export class NameNodes {
  readonly #cluster: Cluster
  #active = 0

  constructor(cluster: Cluster) {
    this.#cluster = cluster
  }

  /** The one that is asked first. */
  get active(): NameNodeAddress {
    const { namenodes } = this.#cluster.place
    return present(namenodes[this.#active], 'the active NameNode')
  }

  /** The active one failed at something else than an answer: the next call asks the other first. */
  leave(): void {
    this.#active = (this.#active + 1) % this.#cluster.place.namenodes.length
  }

  /** The answer of the active one: 200, 201 or 307, and no exception. */
  ask(operation: Operation, doing: string, signal?: AbortSignal): Promise<Answered> {
    return this.run(doing, signal, (node, under) => this.askOne(node, operation, under))
  }

  /** Asks one NameNode once. */
  async askOne(node: NameNodeAddress, operation: Operation, under: UnderDeadline): Promise<Answered> {
    const { http, credentials } = this.#cluster
    const url = this.urlOf(node, operation)
    const headers = operation.headers ?? {}
    const answer = await http.ask({ method: operation.method, url, keep: true, headers }, under)
    return { ...checked(answer, url, credentials), url }
  }

  /** A bean of the NameNode's own figures, null where it shows none. */
  figures(query: string, signal: AbortSignal | undefined): Promise<Record<string, unknown> | null> {
    return this.run('asking the NameNode about itself', signal, async (node, under) => {
      const url = new URL(this.baseOf(node) + query)
      const answer = await this.#cluster.http.ask({ method: 'GET', url, keep: true }, under)
      const told = answer.status === 200 ? jsonOf(answer) : null
      return (told as { beans?: Record<string, unknown>[] } | null)?.beans?.[0] ?? null
    })
  }

  urlOf(node: NameNodeAddress, { op, path, params }: Operation): URL {
    const url = new URL(`${this.baseOf(node)}/webhdfs/v1${encodePath(path === '' ? '/' : path)}`)
    const query = { op, ...this.#cluster.credentials.query(), ...params }
    url.search = new URLSearchParams(query).toString()
    return url
  }

  baseOf({ host, port }: NameNodeAddress): string {
    const scheme = this.#cluster.place.https ? 'https' : 'http'
    return `${scheme}://${host.includes(':') ? `[${host}]` : host}:${port}`
  }

  /**
   * Runs `work` with the active NameNode, again where that may help. What has an effect must be one that can be
   * repeated, or whose success its caller recognises: a lost answer is followed by another request.
   */
  async run<T>(
    doing: string,
    signal: AbortSignal | undefined,
    work: (node: NameNodeAddress, under: UnderDeadline) => Promise<T>,
  ): Promise<T> {
    try {
      return await this.#cluster.retrier.run({
        signal: signal ?? this.#cluster.signal,
        judge: judgeFailure,
        work: () => this.once(doing, signal, work),
      })
    } catch (error) {
      // Six tries of a transfer that asks six times are 36, and as many timeouts.
      markSpent(error)
      throw error
    }
  }

  /** The same without trying again: a part of something that is tried again as a whole. */
  async once<T>(
    doing: string,
    signal: AbortSignal | undefined,
    work: (node: NameNodeAddress, under: UnderDeadline) => Promise<T>,
  ): Promise<T> {
    try {
      return await this.#round(doing, signal, work)
    } catch (error) {
      // A token is renewed by writing its file anew.
      if (!isDenied(error) || !(await this.#cluster.credentials.refresh())) throw error
      return this.#round(doing, signal, work)
    }
  }

  async #round<T>(
    doing: string,
    signal: AbortSignal | undefined,
    work: (node: NameNodeAddress, under: UnderDeadline) => Promise<T>,
  ): Promise<T> {
    const { place, clock } = this.#cluster
    const totalMs = place.settings.namenodeTimeoutMs ?? TIMEOUT_MS
    const first = this.#active
    let failure: unknown
    for (let i = 0; i < place.namenodes.length; i += 1) {
      const index = (first + i) % place.namenodes.length
      const node = present(place.namenodes[index], 'a NameNode')
      const deadline = { totalMs, doing: `${node.host}:${node.port}: ${doing}` }
      try {
        const found = await withDeadline(clock, deadline, [signal, this.#cluster.signal], (under) =>
          work(node, under),
        )
        this.#active = index
        return found
      } catch (error) {
        if (!mayBeOther(error)) throw error
        // That one is on standby says less than why the other did not answer.
        if (failure === undefined || isStandby(failure)) failure = error
      }
    }
    throw failure
  }
}

/** Whether another NameNode may be the one to ask. */
function mayBeOther(error: unknown): boolean {
  if (isStandby(error)) return true
  if (isStratalogError(error, 'timeout')) return true
  if (!(error instanceof HdfsFailure)) return false
  const { exception, status } = error
  if (exception !== null) return exception === 'RetriableException'
  return status === null || status >= 500 || status === 404
}

/** Each part encoded by itself: names of any script pass, and none is taken for a query. */
export function encodePath(path: string): string {
  return path
    .split('/')
    .map((part) => encodeURIComponent(part))
    .join('/')
}

/** The answer, if it is one of WebHDFS and tells of no failure. */
export function checked(answer: Answer, url: URL, credentials: Credentials): Answer {
  const { status, body } = answer
  if (status === 307 || status === 201) return answer
  const told = jsonOf(answer)
  const remote = (told as { RemoteException?: RemoteException | null } | null)?.RemoteException
  if (remote !== null && typeof remote === 'object') throw remoteFailure(remote, status, url, credentials)
  if (status === 200) return answer
  // Before it is cut: what is left of a token would not be known for one.
  const text = credentials.redact(body.toString('utf8').trim()).slice(0, TOLD_CHARS_MAX)
  const shown = text.startsWith('<') || text === '' ? '' : `: ${text}`
  throw new HdfsFailure(`${url.host} answered ${status}${shown}`, { status })
}

interface RemoteException {
  readonly exception?: unknown
  readonly message?: unknown
}

/** A failure that HDFS told itself: the exception's name and the first line of its message. */
function remoteFailure(
  { exception, message }: RemoteException,
  status: number,
  url: URL,
  credentials: Credentials,
): HdfsFailure {
  const name = typeof exception === 'string' && CLASS.test(exception) ? exception : 'unknown exception'
  const line = typeof message === 'string' ? (message.split('\n')[0] ?? '') : ''
  const text = credentials.redact(line).slice(0, TOLD_CHARS_MAX)
  return new HdfsFailure(`${url.host}: ${name}: ${text}`, { status, exception: name })
}

/** The answer as JSON, null if it is none. */
export function jsonOf({ body, headers }: Pick<Answer, 'body' | 'headers'>): unknown {
  if (!/json/i.test(headers['content-type'] ?? '')) return null
  try {
    return JSON.parse(body.toString('utf8'))
  } catch {
    return null
  }
}

/** The answer as JSON; a page or nothing where JSON belongs is a failure, whatever its status. */
export function jsonAnswer<T>(answer: Answered): T {
  const told = jsonOf(answer)
  if (told !== null && typeof told === 'object') return told as T
  const { status } = answer
  throw new HdfsFailure(`${answer.url.host} answered ${status} with something that is not WebHDFS`, {
    status,
  })
}
