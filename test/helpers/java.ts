import { once } from 'node:events'
import { type AddressInfo, createServer, type Socket } from 'node:net'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { pathOf } from '../servers/cache.js'
import { jvm, writeLogging } from '../servers/jvm.js'
import { type Daemon, Household } from '../servers/process.js'
import type { JavaVerbs } from './java-verbs.js'

/** What Java answered a call with instead of a result. */
export class JavaError extends Error {
  /** The class of the exception, without its package: `BKLedgerFencedException`. */
  readonly type: string

  constructor(type: string, message: string) {
    super(`${type}: ${message}`)
    this.type = type
  }
}

interface Waiting {
  readonly resolve: (result: never) => void
  readonly reject: (error: Error) => void
}

interface Answer {
  readonly id: number
  readonly result?: unknown
  readonly error?: { readonly type: string; readonly message: string }
}

/**
 * The original Java clients of BookKeeper and DistributedLog, as one process that takes many calls at once; test/java has
 * its sources. Two of them are two clients that know nothing of each other.
 *
 * @example
 * ```ts
 * const java = await startJava({ zookeeper: zk.address })
 * const { handle, ledger } = await java.call('ledger.create', { ensemble: 3 })
 * const written = await java.call('ledger.add', { handle, count: 10 })
 * await java.kill() // the ledger is left open
 * ```
 */
export class JavaClient {
  readonly #house: Household
  readonly #daemon: Daemon
  readonly #socket: Socket
  readonly #waiting = new Map<number, Waiting>()
  #lastId = 0

  constructor(house: Household, daemon: Daemon, socket: Socket) {
    this.#house = house
    this.#daemon = daemon
    this.#socket = socket
    createInterface({ input: socket }).on('line', (line) => this.#answered(JSON.parse(line) as Answer))
    socket.on('error', () => undefined)
    socket.on('close', () => {
      // Where nobody waits its log may be gone already.
      if (this.#waiting.size === 0) return
      const gone = new JavaError('Gone', `the Java process ended\n${daemon.tail()}`)
      for (const { reject } of this.#waiting.values()) reject(gone)
      this.#waiting.clear()
    })
  }

  /** Fails with a `JavaError` when Java threw. */
  call<V extends keyof JavaVerbs>(verb: V, args: JavaVerbs[V][0]): Promise<JavaVerbs[V][1]> {
    const id = ++this.#lastId
    return new Promise((resolve, reject) => {
      if (this.#socket.destroyed) return reject(new JavaError('Gone', 'the Java process has ended'))
      this.#waiting.set(id, { resolve, reject })
      this.#socket.write(`${JSON.stringify({ id, verb, args })}\n`)
    })
  }

  /** kill -9: what it holds stays as it is, its session in ZooKeeper until it expires. */
  async kill(): Promise<void> {
    await this.#daemon.kill()
    await this.close()
  }

  /** SIGSTOP: a client that hangs, until `resume`. */
  pause(): void {
    this.#daemon.signal('SIGSTOP')
  }

  resume(): void {
    this.#daemon.signal('SIGCONT')
  }

  /** What it wrote to its log last. */
  log(): string {
    return this.#daemon.tail()
  }

  async close(): Promise<void> {
    this.#socket.destroy()
    await this.#house.close()
  }

  #answered(answer: Answer): void {
    const waiting = this.#waiting.get(answer.id)
    this.#waiting.delete(answer.id)
    if (answer.error === undefined) waiting?.resolve(answer.result as never)
    else waiting?.reject(new JavaError(answer.error.type, answer.error.message))
  }
}

/** Starts the Java clients: under a second, and another one for the first call. Needs `skipWithout('java-clients')`. */
export async function startJava(settings: {
  /** Where ZooKeeper is: `127.0.0.1:PORT`. */
  readonly zookeeper: string
  /** @default '/ledgers' */
  readonly ledgersPath?: string
  /** Compiles hot code thoroughly, with more memory, for benchmarks. @default false */
  readonly optimize?: boolean
}): Promise<JavaClient> {
  const [jars, classes] = await Promise.all([pathOf('bookkeeper'), pathOf('java-clients')])
  const house = new Household('java')
  const server = createServer().listen(0, '127.0.0.1')
  try {
    await once(server, 'listening')
    const { port } = server.address() as AddressInfo
    const options = { classPath: [classes, join(jars, '*')], logging: writeLogging(house.directory) }
    const { zookeeper, ledgersPath = '/ledgers', optimize = false } = settings
    const room = optimize ? 1_024 : 256
    const command = jvm({ ...options, heapMb: room, directMb: room, level: 'ERROR', optimize })
    const daemon = house.start('java', [...command, 'Main', String(port), zookeeper, ledgersPath])
    let socket: Socket | undefined
    server.once('connection', (connected) => {
      socket = connected
    })
    await house.until('the Java clients', async () => socket !== undefined)
    if (socket === undefined) throw new Error('no connection')
    return new JavaClient(house, daemon, socket)
  } catch (error) {
    await house.close()
    throw error
  } finally {
    server.close()
  }
}
