import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'
import { parentPort, Worker, workerData } from 'node:worker_threads'

/*
 * A line to a server that gives each connection so many bytes a second and answers so many milliseconds late, as S3 does;
 * and counts requests. In a thread of its own, so that it takes no turn of what is measured.
 */

/** What a line does to each connection. */
export interface SlowLineOptions {
  readonly target: { readonly host: string; readonly port: number }
  /** Bytes a second towards the client; 0: as many as there are. */
  readonly bytesPerSecond: number
  /** From a request to the first byte of its answer, beside what the server takes. */
  readonly latencyMs: number
}

/** Bytes that may lie in the line, beside those that are under way for the latency. */
const QUEUE_BYTES = 256 * 1024
const REQUEST = / HTTP\/1\.1\r\n/g
const LIST = /GET [^ ]*list-type=2[^ ]* HTTP\/1\.1\r\n/g
const REQUESTS = 0
const LISTS = 1

/** A line that runs. */
export class SlowLine implements AsyncDisposable {
  readonly url: string
  readonly #worker: Worker
  readonly #counts: Int32Array

  private constructor(worker: Worker, port: number, counts: Int32Array) {
    this.url = `http://127.0.0.1:${port}`
    this.#worker = worker
    this.#counts = counts
  }

  static async open(url: string, speed: Omit<SlowLineOptions, 'target'>): Promise<SlowLine> {
    const { hostname: host, port } = new URL(url)
    const counts = new Int32Array(new SharedArrayBuffer(8))
    const workerData: LineData = { line: { ...speed, target: { host, port: Number(port) } }, counts }
    const worker = new Worker(new URL(import.meta.url), { workerData })
    const [listening] = (await once(worker, 'message')) as [number]
    worker.unref()
    return new SlowLine(worker, listening, counts)
  }

  /** Requests since it was opened. */
  get requests(): number {
    return Atomics.load(this.#counts, REQUESTS)
  }

  /** Those of them that list names. */
  get lists(): number {
    return Atomics.load(this.#counts, LISTS)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#worker.terminate()
  }
}

interface LineData {
  readonly line: SlowLineOptions
  readonly counts: Int32Array
}

/** Bytes of one connection on their way to the client, each piece let go when its time has come. */
class Paced {
  readonly #to: Socket
  readonly #from: Socket
  readonly #bytesPerMs: number
  readonly #latencyMs: number
  readonly #bytesMax: number
  readonly #queue: { readonly piece: Buffer; readonly atMs: number }[] = []
  #queuedBytes = 0
  #freeMs = 0
  #timer: NodeJS.Timeout | null = null

  constructor(from: Socket, to: Socket, { bytesPerSecond, latencyMs }: SlowLineOptions) {
    this.#from = from
    this.#to = to
    this.#bytesPerMs = bytesPerSecond === 0 ? Number.POSITIVE_INFINITY : bytesPerSecond / 1e3
    this.#latencyMs = latencyMs
    this.#bytesMax = QUEUE_BYTES + (bytesPerSecond * latencyMs) / 1e3
  }

  take(piece: Buffer): void {
    const nowMs = performance.now()
    // A connection that had nothing to do saves nothing up.
    this.#freeMs = Math.max(this.#freeMs, nowMs + this.#latencyMs) + piece.length / this.#bytesPerMs
    this.#queue.push({ piece, atMs: this.#freeMs })
    this.#queuedBytes += piece.length
    if (this.#queuedBytes > this.#bytesMax) this.#from.pause()
    this.#letGo()
  }

  #letGo(): void {
    if (this.#timer !== null) return
    const nowMs = performance.now()
    for (let [first] = this.#queue; first !== undefined && first.atMs <= nowMs; [first] = this.#queue) {
      this.#queue.shift()
      this.#queuedBytes -= first.piece.length
      this.#to.write(first.piece)
    }
    if (this.#queuedBytes <= this.#bytesMax) this.#from.resume()
    const [next] = this.#queue
    if (next === undefined) return
    this.#timer = setTimeout(
      () => {
        this.#timer = null
        this.#letGo()
      },
      Math.max(1, next.atMs - nowMs),
    )
  }
}

/** Finds requests in what a client sends, whose bodies have no such lines. */
class Counter {
  readonly #counts: Int32Array
  #rest = ''

  constructor(counts: Int32Array) {
    this.#counts = counts
  }

  take(piece: Buffer): void {
    // A body is bytes; what a request begins with is within one or two pieces.
    const text = this.#rest + piece.toString('latin1')
    const end = text.lastIndexOf('\r\n\r\n')
    if (end < 0) {
      this.#rest = text.slice(-65_536)
      return
    }
    const heads = text.slice(0, end + 4)
    this.#rest = text.slice(end + 4)
    Atomics.add(this.#counts, REQUESTS, heads.match(REQUEST)?.length ?? 0)
    Atomics.add(this.#counts, LISTS, heads.match(LIST)?.length ?? 0)
  }
}

function serve({ line, counts }: LineData): void {
  const server = createServer({ noDelay: true }, (client) => {
    const upstream = connect({ ...line.target, noDelay: true })
    const counter = new Counter(counts)
    const paced = new Paced(upstream, client, line)
    client.on('data', (piece: Buffer) => {
      counter.take(piece)
      if (!upstream.write(piece)) {
        client.pause()
        upstream.once('drain', () => client.resume())
      }
    })
    upstream.on('data', (piece: Buffer) => paced.take(piece))
    for (const [one, other] of [
      [client, upstream],
      [upstream, client],
    ] as const)
      one.on('error', () => other.destroy()).on('close', () => other.destroy())
  })
  server.listen(0, '127.0.0.1', () => parentPort?.postMessage((server.address() as AddressInfo).port))
}

const data = workerData as LineData | null
if (parentPort !== null && data !== null && 'line' in data) serve(data)
