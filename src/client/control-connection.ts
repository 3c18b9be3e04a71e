import { request as httpRequest, type IncomingMessage } from 'node:http'
import { errorFromBody } from '../model/error-body.js'
import { StratalogError } from '../model/errors.js'

/** Bytes of one answer that is not a stream. */
const ANSWER_BYTES_MAX = 256 * 1024 * 1024
/** Bytes of one line of a stream: a record of 1 MiB in base64, an entry of a dump with its records. */
const LINE_BYTES_MAX = 16 * 1024 * 1024

interface Call {
  readonly method: 'GET' | 'POST'
  readonly path: string
  readonly body?: string
  readonly signal?: AbortSignal | undefined
}

/** Requests over the control socket: one value of JSON, or a stream of lines. What is refused is an error of ours. */
export class ControlConnection {
  readonly #socket: string
  readonly #timeoutMs: number

  /** `timeoutMs`: for an answer to begin. */
  constructor(socket: string, timeoutMs: number) {
    this.#socket = socket
    this.#timeoutMs = timeoutMs
  }

  get<T>(path: string): Promise<T> {
    return this.#json({ method: 'GET', path }) as Promise<T>
  }

  post<T>(path: string, body: object): Promise<T> {
    return this.postText(path, JSON.stringify(body)) as Promise<T>
  }

  /** A body that is text already. */
  postText(path: string, body: string): Promise<unknown> {
    return this.#json({ method: 'POST', path, body })
  }

  async #json(call: Call): Promise<unknown> {
    const response = await this.#send(call)
    const chunks: Uint8Array[] = []
    let bytes = 0
    try {
      for await (const chunk of response as AsyncIterable<Buffer>) {
        bytes += chunk.length
        if (bytes > ANSWER_BYTES_MAX)
          throw new StratalogError(
            'internal',
            `the answer to ${call.path} is larger than ${ANSWER_BYTES_MAX} bytes: ask for less at a time`,
          )
        chunks.push(chunk)
      }
    } catch (error) {
      throw lost(error)
    }
    const body = parse(Buffer.concat(chunks).toString('utf8'), call.path)
    if ((response.statusCode ?? 500) >= 400) throw errorFromBody((body as { error?: unknown } | null)?.error)
    return body
  }

  /** The lines of a streamed answer, in the groups they arrive in. A line that says `error` rejects. */
  async *lines(path: string, body: object, signal?: AbortSignal): AsyncGenerator<unknown[], void, undefined> {
    const call: Call = { method: 'POST', path, body: JSON.stringify(body), signal }
    const response = await this.#send(call)
    if ((response.statusCode ?? 500) >= 400) {
      const chunks: Buffer[] = []
      for await (const chunk of response as AsyncIterable<Buffer>) chunks.push(chunk)
      throw errorFromBody(
        (parse(Buffer.concat(chunks).toString('utf8'), path) as { error?: unknown } | null)?.error,
      )
    }
    try {
      yield* splitLines(response, path)
    } catch (error) {
      if (signal?.aborted) throw signal.reason
      throw lost(error)
    } finally {
      // Whoever stops listening early tells the server so.
      response.destroy()
    }
  }

  #send(call: Call): Promise<IncomingMessage> {
    return new Promise((resolve, reject) => {
      const { method, path, body, signal } = call
      if (signal?.aborted) {
        reject(signal.reason)
        return
      }
      const headers =
        body === undefined
          ? {}
          : { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) }
      const request = httpRequest({ socketPath: this.#socket, method, path, headers, agent: false })
      const aborted = () => request.destroy(new DOMException('aborted', 'AbortError'))
      signal?.addEventListener('abort', aborted, { once: true })
      request.setTimeout(this.#timeoutMs, () => {
        request.destroy(
          new StratalogError(
            'timeout',
            `the process that has the log open did not answer within ${this.#timeoutMs} ms: is it stopped or overloaded?`,
            { retryable: true },
          ),
        )
      })
      request.on('response', (response) => {
        // From here on silence is normal: a follower waits for the next record.
        request.setTimeout(0)
        response.once('close', () => signal?.removeEventListener('abort', aborted))
        resolve(response)
      })
      request.on('error', (error) => {
        signal?.removeEventListener('abort', aborted)
        reject(signal?.aborted ? signal.reason : lost(error))
      })
      request.end(body)
    })
  }
}

async function* splitLines(
  response: IncomingMessage,
  path: string,
): AsyncGenerator<unknown[], void, undefined> {
  response.setEncoding('utf8')
  let rest = ''
  let complete = false
  for await (const chunk of response as AsyncIterable<string>) {
    const lines = (rest + chunk).split('\n')
    rest = lines.pop() ?? ''
    if (rest.length > LINE_BYTES_MAX)
      throw new StratalogError('internal', `a line of ${path} is longer than ${LINE_BYTES_MAX} characters`)
    const values = lines.map((line) => parse(line, path))
    const last = values.at(-1) as { type?: unknown; error?: unknown } | undefined
    const failed = last?.type === 'error'
    if (failed) values.pop()
    if (values.length > 0) yield values
    if (failed) throw errorFromBody(last.error)
  }
  complete = response.complete && rest === ''
  if (!complete)
    throw new StratalogError(
      'closed',
      'the process that had the log open ended under way: run the command again',
      { retryable: true },
    )
}

function parse(text: string, path: string): unknown {
  try {
    return JSON.parse(text)
  } catch (cause) {
    throw new StratalogError(
      'internal',
      `the answer to ${path} is no JSON: is it stratalog that answers on the socket?`,
      { cause, found: text.slice(0, 200) },
    )
  }
}

/** A broken connection in words; what is ours already stays. */
function lost(error: unknown): StratalogError {
  if (error instanceof StratalogError) return error
  const code = (error as NodeJS.ErrnoException).code
  if (code === 'EACCES' || code === 'EPERM') {
    return new StratalogError(
      'access_denied',
      "the log's control socket belongs to another user: run the command as the user of the process that has the log open",
      { cause: error },
    )
  }
  return new StratalogError(
    'closed',
    `the process that has the log open went away (${code ?? String(error)}): run the command again`,
    { cause: error, retryable: true },
  )
}
