import { connect, createServer, type Server, type Socket } from 'node:net'
import { realClock } from '../../src/system/clock.js'
import { silentLogger } from '../../src/system/logger.js'
import { realRandom } from '../../src/system/random.js'
import type { ZooKeeper, ZooKeeperSettings } from '../../src/zookeeper/client.js'
import { JuteWriter } from '../../src/zookeeper/jute.js'
import { openZooKeeper } from '../../src/zookeeper/open.js'
import type { ZooKeeperPorts } from '../../src/zookeeper/session.js'

export const PORTS: ZooKeeperPorts = { clock: realClock(), logger: silentLogger(), random: realRandom() }

/** Opens ZooKeeper over the socket, with times of tests. */
export function openAt(
  servers: readonly string[],
  over: Partial<ZooKeeperSettings> = {},
): Promise<ZooKeeper> {
  const times = { sessionTimeoutMs: 6_000, connectTimeoutMs: 3_000 }
  return openZooKeeper({ servers, chroot: '', ...times, ...over }, PORTS)
}

/** A chroot for one test: a node that was not there. */
export async function freshRoot(server: string): Promise<string> {
  const zk = await openAt([server])
  const root = await zk.create('/t-', new Uint8Array(0), { sequential: true })
  await zk.close()
  return root
}

/** A proxy of bytes that can lose connections and packets. */
export class Cutter {
  /** What becomes of bytes on their way. 'cut' ends both sides; 'swallow' loses them. */
  onRequest: ((bytes: Buffer) => 'pass' | 'cut' | 'swallow') | null = null
  onAnswer: ((bytes: Buffer) => 'pass' | 'cut' | 'swallow') | null = null
  /** While true new connections are ended at once. */
  refuse = false
  readonly #server: Server
  readonly #sockets = new Set<Socket>()

  private constructor(server: Server) {
    this.#server = server
  }

  static async to(target: number): Promise<Cutter> {
    const server = createServer()
    const cutter = new Cutter(server)
    server.on('connection', (socket) => cutter.#serve(socket, target))
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    return cutter
  }

  get address(): string {
    const address = this.#server.address()
    return `127.0.0.1:${typeof address === 'object' ? (address?.port ?? 0) : 0}`
  }

  cutAll(): void {
    for (const socket of this.#sockets) socket.destroy()
  }

  async close(): Promise<void> {
    const closed = new Promise((resolve) => this.#server.close(resolve))
    this.cutAll()
    await closed
  }

  #serve(socket: Socket, target: number): void {
    if (this.refuse) return void socket.destroy()
    const upstream = connect(target, '127.0.0.1')
    const pass = (from: Socket, to: Socket, rule: (bytes: Buffer) => 'pass' | 'cut' | 'swallow'): void => {
      this.#sockets.add(from)
      from.on('error', () => undefined)
      from.on('close', () => {
        this.#sockets.delete(from)
        to.destroy()
      })
      from.on('data', (bytes: Buffer) => {
        const fate = rule(bytes)
        if (fate === 'pass') to.write(bytes)
        else if (fate === 'cut') {
          from.destroy()
          to.destroy()
        }
      })
    }
    pass(socket, upstream, (bytes) => this.onRequest?.(bytes) ?? 'pass')
    pass(upstream, socket, (bytes) => this.onAnswer?.(bytes) ?? 'pass')
  }
}

/** A call as a {@link ScriptedServer} got it. `type`: see TYPE of messages.ts. */
export interface ScriptedCall {
  readonly type: number
  readonly packet: Buffer
  readonly socket: Socket
  answer(error?: number, result?: JuteWriter): void
}

/** A server that has one session and does as it is told; what it is not told it does not answer. */
export class ScriptedServer {
  /** Told of each hello: calls `greet` where it is to be answered. */
  onHello: (greet: () => void, socket: Socket) => void = (greet) => greet()
  onCall: (call: ScriptedCall) => void = () => undefined
  /** Every connection there was. */
  readonly sockets: Socket[] = []
  /** The types of all calls and pings, in their order. */
  readonly types: number[] = []
  /** How many connections said whom they are for. */
  hellos = 0
  readonly #server: Server = createServer((socket) => this.#serve(socket))
  readonly #sessionTimeoutMs: number

  private constructor(sessionTimeoutMs: number) {
    this.#sessionTimeoutMs = sessionTimeoutMs
  }

  static async start(sessionTimeoutMs: number): Promise<ScriptedServer> {
    const server = new ScriptedServer(sessionTimeoutMs)
    await new Promise<void>((resolve) => server.#server.listen(0, '127.0.0.1', resolve))
    return server
  }

  get address(): string {
    const address = this.#server.address()
    return `127.0.0.1:${typeof address === 'object' ? (address?.port ?? 0) : 0}`
  }

  cutAll(): void {
    for (const socket of this.sockets) socket.destroy()
  }

  stop(): void {
    this.#server.close()
    this.cutAll()
  }

  #serve(socket: Socket): void {
    this.sockets.push(socket)
    socket.on('error', () => undefined)
    let bytes = Buffer.alloc(0)
    let greeted = false
    socket.on('data', (more: Buffer) => {
      bytes = Buffer.concat([bytes, more])
      while (bytes.length >= 4 && bytes.length >= 4 + bytes.readInt32BE(0)) {
        const packet = bytes.subarray(4, 4 + bytes.readInt32BE(0))
        bytes = bytes.subarray(4 + packet.length)
        if (greeted) this.#called(packet, socket)
        else this.#hello(socket)
        greeted = true
      }
    })
  }

  #hello(socket: Socket): void {
    this.hellos += 1
    const welcome = new JuteWriter().int(0).int(this.#sessionTimeoutMs).long(77n)
    const greet = () => void socket.write(welcome.buffer(new Uint8Array(16)).bool(false).packet())
    this.onHello(greet, socket)
  }

  #called(packet: Buffer, socket: Socket): void {
    const [xid, type] = [packet.readInt32BE(0), packet.readInt32BE(4)]
    this.types.push(type)
    const answer = (error = 0, result?: JuteWriter): void => {
      const head = new JuteWriter().int(xid).long(1n).int(error).packet()
      const body = result?.packet().subarray(4) ?? Buffer.alloc(0)
      head.writeInt32BE(head.length - 4 + body.length, 0)
      socket.write(Buffer.concat([head, body]))
    }
    this.onCall({ type, packet, socket, answer })
  }
}

/** Waits until it holds, much longer than it takes. */
export async function until(holds: () => boolean): Promise<void> {
  const endMs = performance.now() + 20_000
  while (!holds()) {
    if (performance.now() > endMs) throw new Error(`it never came: ${String(holds)}`)
    await new Promise((resolve) => setTimeout(resolve, 2))
  }
}
