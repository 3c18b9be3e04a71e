import { Buffer } from 'node:buffer'
import { createServer, type Server, type Socket } from 'node:net'
import { decodeMessage, encodeMessage, type Message, type Schema } from '../../src/format/protobuf.js'

const HEADER: Schema = [
  { no: 1, name: 'version', kind: 'int32' },
  { no: 2, name: 'operation', kind: 'int32' },
  { no: 3, name: 'txnId', kind: 'int64' },
  { no: 4, name: 'priority', kind: 'int32' },
]
const READ: Schema = [
  { no: 1, name: 'ledgerId', kind: 'int64' },
  { no: 2, name: 'entryId', kind: 'int64' },
  { no: 3, name: 'masterKey', kind: 'bytes' },
  { no: 4, name: 'previousLac', kind: 'int64' },
  { no: 5, name: 'timeOut', kind: 'int64' },
  { no: 100, name: 'flag', kind: 'int32' },
]
const ADD: Schema = [
  { no: 1, name: 'ledgerId', kind: 'int64' },
  { no: 2, name: 'entryId', kind: 'int64' },
  { no: 3, name: 'masterKey', kind: 'bytes' },
  { no: 4, name: 'body', kind: 'bytes' },
  { no: 100, name: 'flag', kind: 'int32' },
]
const WRITE_LAC: Schema = [
  { no: 1, name: 'ledgerId', kind: 'int64' },
  { no: 2, name: 'lac', kind: 'int64' },
  { no: 3, name: 'masterKey', kind: 'bytes' },
  { no: 4, name: 'body', kind: 'bytes' },
]
const REQUEST: Schema = [
  { no: 1, name: 'header', kind: { fields: HEADER } },
  { no: 100, name: 'read', kind: { fields: READ } },
  { no: 101, name: 'add', kind: { fields: ADD } },
  { no: 103, name: 'writeLac', kind: { fields: WRITE_LAC } },
  { no: 104, name: 'readLac', kind: { fields: [{ no: 1, name: 'ledgerId', kind: 'int64' }] } },
  { no: 105, name: 'info', kind: { fields: [{ no: 1, name: 'requested', kind: 'int64' }] } },
  { no: 106, name: 'startTls', kind: { fields: [] } },
]
const part = (varints: readonly number[], bytes: readonly number[]): Schema => [
  ...varints.map((no) => ({ no, name: `f${no}`, kind: 'int64' as const })),
  ...bytes.map((no) => ({ no, name: `f${no}`, kind: 'bytes' as const })),
]
const RESPONSE: Schema = [
  { no: 1, name: 'header', kind: { fields: HEADER } },
  { no: 2, name: 'status', kind: 'int32' },
  { no: 100, name: 'm100', kind: { fields: part([1, 2, 3, 5], [4]) } },
  { no: 101, name: 'm101', kind: { fields: part([1, 2, 3], []) } },
  { no: 103, name: 'm103', kind: { fields: part([1, 2], []) } },
  { no: 104, name: 'm104', kind: { fields: part([1, 2], [3, 4]) } },
  { no: 105, name: 'm105', kind: { fields: part([1, 2, 3], []) } },
  { no: 106, name: 'm106', kind: { fields: [] } },
]

/** A request as the fake got it, decoded by the schema and so by other code than encoded it. */
export interface FakeRequest {
  readonly operation: number
  readonly txnId: bigint
  readonly priority: bigint | null
  /** Fields of the operation's own message, by name. */
  readonly fields: ReadonlyMap<string, bigint | Uint8Array>
  readonly socket: Socket
  /** Answers with a status and fields of the operation's message by number, as a bookie does. */
  answer(status: number, fields?: Readonly<Record<number, bigint | Uint8Array>>, change?: AnswerChange): void
}

/** What is wrong with an answer. */
export interface AnswerChange {
  readonly txnId?: bigint
  readonly operation?: number
}

/** A bookie that does what the test says: a server that speaks version 3 of the protocol, or pretends to. */
export class FakeBookie {
  readonly requests: FakeRequest[] = []
  connections = 0
  readonly #server: Server
  readonly #sockets = new Set<Socket>()

  private constructor(script: (request: FakeRequest, bookie: FakeBookie) => void) {
    this.#server = createServer((socket) => {
      this.connections += 1
      this.#sockets.add(socket)
      socket.on('error', () => {})
      socket.on('close', () => this.#sockets.delete(socket))
      let rest = Buffer.alloc(0)
      socket.on('data', (chunk) => {
        rest = Buffer.concat([rest, chunk])
        while (rest.length >= 4 && rest.length >= 4 + rest.readInt32BE(0)) {
          const end = 4 + rest.readInt32BE(0)
          const request = requestOf(rest.subarray(4, end), socket)
          rest = rest.subarray(end)
          this.requests.push(request)
          script(request, this)
        }
      })
    })
  }

  static async start(script: (request: FakeRequest, bookie: FakeBookie) => void): Promise<FakeBookie> {
    const bookie = new FakeBookie(script)
    await new Promise<void>((resolve) => bookie.#server.listen(0, '127.0.0.1', resolve))
    return bookie
  }

  get port(): number {
    const address = this.#server.address()
    return typeof address === 'object' && address !== null ? address.port : 0
  }

  /** Ends all connections, as a process that dies does. */
  drop(): void {
    for (const socket of this.#sockets) socket.destroy()
  }

  async stop(): Promise<void> {
    this.drop()
    await new Promise<void>((resolve) => this.#server.close(() => resolve()))
  }
}

function requestOf(body: Uint8Array, socket: Socket): FakeRequest {
  const request = new Map(decodeMessage(REQUEST, body))
  const header = new Map(request.get('header') as Message)
  request.delete('header')
  const [inner = []] = request.values()
  const operation = Number(header.get('operation'))
  const txnId = header.get('txnId') as bigint
  const fields = new Map(inner as Message) as Map<string, bigint | Uint8Array>
  return {
    operation,
    txnId,
    priority: (header.get('priority') as bigint | undefined) ?? null,
    fields,
    socket,
    answer: (status, values = {}, change = {}) => {
      const as = change.operation ?? operation
      const message: Message = [
        [
          'header',
          [
            ['version', 3n],
            ['operation', BigInt(as)],
            ['txnId', change.txnId ?? txnId],
          ],
        ],
        ['status', BigInt(status)],
        [MESSAGES[as] ?? 'm100', Object.entries(values).map(([no, value]) => [`f${no}`, value] as const)],
      ]
      socket.write(framed(encodeMessage(RESPONSE, message)))
    },
  }
}

const MESSAGES: Readonly<Record<number, string>> = {
  1: 'm100',
  2: 'm101',
  6: 'm103',
  7: 'm104',
  8: 'm105',
  9: 'm106',
}

/** A frame around bytes. */
export function framed(bytes: Uint8Array): Buffer {
  const length = Buffer.alloc(4)
  length.writeInt32BE(bytes.length)
  return Buffer.concat([length, bytes])
}
