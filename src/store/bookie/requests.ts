import { encodeMessage, type Schema } from '../../format/protobuf.js'
import { idBytes, varintBytes, writeId, writeVarint } from './varints.js'

/*
 * Requests of BookKeeper's v3 protocol (FORMATS.md §1.2): `int32 length`, then the protobuf message
 *
 *   Request { 1 header { 1 version = 3, 2 operation, 3 txnId, 4 priority }, 100 + … one message for the operation }
 *
 * Adds and reads are encoded by hand: with a general library that alone takes three times as much of a processor.
 */

/** Operations by their number on the wire. */
export const OPERATION = {
  read: 1,
  add: 2,
  auth: 5,
  writeLac: 6,
  readLac: 7,
  info: 8,
  startTls: 9,
} as const
/** An operation of the protocol that is used here. */
export type Operation = keyof typeof OPERATION

/** The operation's name by its number. */
export const OPERATIONS: ReadonlyMap<number, Operation> = new Map(
  (Object.keys(OPERATION) as Operation[]).map((name) => [OPERATION[name], name]),
)

/** Before those that wait on the bookie, and taken by one that is read-only: recovery. */
const PRIORITY_HIGH = 100
/** Read requests' flags: one or none, not a set. */
const FLAG_FENCE = 1
const FLAG_PIGGYBACK = 2
const FLAG_RECOVERY_ADD = 1
/** The entry id that asks for the last entry a bookie has. */
export const LAST_ENTRY: bigint = -1n

const LENGTH_BYTES = 4
/** More than the bytes in front of any add's body, and than any read. */
export const HEAD_BYTES_MAX = 192
const KEY_BYTES = 20

const tag = (no: number, wire: number): number => no * 8 + wire
const HEADER = tag(1, 2)
const READ_REQUEST = tag(100, 2)
const ADD_REQUEST = tag(101, 2)
const FLAG = tag(100, 0)

/** A read of an entry, or of the last one; with a `longPoll` it waits for the LAC to advance. */
export interface ReadRequest {
  readonly ledgerId: bigint
  readonly entryId: bigint
  /** The ledger's key: fences the ledger first. */
  readonly fence?: Uint8Array
  readonly longPoll?: { readonly previousLac: bigint; readonly timeoutMs: number }
}

/** What an add says beside its body. */
export interface AddRequest {
  readonly ledgerId: bigint
  readonly entryId: bigint
  readonly masterKey: Uint8Array
  readonly bodyBytes: number
  readonly recovery: boolean
}

/** Bytes of `Request.header` without its own tag and length. */
function headerBytes(txnId: number, priority: boolean): number {
  return 2 + 2 + 1 + varintBytes(txnId) + (priority ? 2 : 0)
}

function writeHeader(
  buffer: Buffer,
  at: number,
  operation: number,
  txnId: number,
  priority: boolean,
): number {
  let end = at
  buffer[end++] = HEADER
  buffer[end++] = headerBytes(txnId, priority)
  buffer[end++] = tag(1, 0)
  buffer[end++] = 3
  buffer[end++] = tag(2, 0)
  buffer[end++] = operation
  buffer[end++] = tag(3, 0)
  end = writeVarint(buffer, end, txnId)
  if (!priority) return end
  buffer[end++] = tag(4, 0)
  buffer[end++] = PRIORITY_HIGH
  return end
}

/**
 * Writes all of an add's frame but its body, which follows as it is; returns where that goes. `buffer` has
 * HEAD_BYTES_MAX bytes from `at` on.
 */
export function writeAddHead(buffer: Buffer, at: number, txnId: number, add: AddRequest): number {
  const { ledgerId, entryId, masterKey, bodyBytes, recovery } = add
  const flag = recovery ? 3 : 0
  const inside =
    1 +
    idBytes(ledgerId) +
    1 +
    idBytes(entryId) +
    2 +
    KEY_BYTES +
    flag +
    1 +
    varintBytes(bodyBytes) +
    bodyBytes
  const whole = 2 + headerBytes(txnId, recovery) + 2 + varintBytes(inside) + inside
  let end = buffer.writeInt32BE(whole, at)
  end = writeHeader(buffer, end, OPERATION.add, txnId, recovery)
  end = writeVarint(buffer, end, ADD_REQUEST)
  end = writeVarint(buffer, end, inside)
  buffer[end++] = tag(1, 0)
  end = writeId(buffer, end, ledgerId)
  buffer[end++] = tag(2, 0)
  end = writeId(buffer, end, entryId)
  buffer[end++] = tag(3, 2)
  buffer[end++] = KEY_BYTES
  buffer.set(masterKey, end)
  end += KEY_BYTES
  // Fields of a message may come in any order: with the body last nothing has to be written behind it.
  if (recovery) {
    end = writeVarint(buffer, end, FLAG)
    buffer[end++] = FLAG_RECOVERY_ADD
  }
  buffer[end++] = tag(4, 2)
  return writeVarint(buffer, end, bodyBytes)
}

/** Writes the frame of a read and returns where it ends. `buffer` has HEAD_BYTES_MAX bytes from `at` on. */
export function writeRead(buffer: Buffer, at: number, txnId: number, read: ReadRequest): number {
  const { ledgerId, entryId, fence, longPoll } = read
  const flag = fence !== undefined ? FLAG_FENCE : longPoll !== undefined ? FLAG_PIGGYBACK : null
  const priority = fence !== undefined
  let inside = 1 + idBytes(ledgerId) + 1 + idBytes(entryId)
  if (fence !== undefined) inside += 2 + KEY_BYTES
  if (longPoll !== undefined) inside += 2 + idBytes(longPoll.previousLac) + varintBytes(longPoll.timeoutMs)
  if (flag !== null) inside += 3
  const whole = 2 + headerBytes(txnId, priority) + 2 + varintBytes(inside) + inside
  let end = buffer.writeInt32BE(whole, at)
  end = writeHeader(buffer, end, OPERATION.read, txnId, priority)
  end = writeVarint(buffer, end, READ_REQUEST)
  end = writeVarint(buffer, end, inside)
  buffer[end++] = tag(1, 0)
  end = writeId(buffer, end, ledgerId)
  buffer[end++] = tag(2, 0)
  end = writeId(buffer, end, entryId)
  if (fence !== undefined) {
    buffer[end++] = tag(3, 2)
    buffer[end++] = KEY_BYTES
    buffer.set(fence, end)
    end += KEY_BYTES
  }
  if (longPoll !== undefined) {
    buffer[end++] = tag(4, 0)
    end = writeId(buffer, end, longPoll.previousLac)
    buffer[end++] = tag(5, 0)
    end = writeVarint(buffer, end, longPoll.timeoutMs)
  }
  if (flag === null) return end
  end = writeVarint(buffer, end, FLAG)
  buffer[end++] = flag
  return end
}

/** A request that is sent seldom. */
export type RareRequest =
  | {
      readonly operation: 'writeLac'
      readonly ledgerId: bigint
      readonly lac: bigint
      readonly masterKey: Uint8Array
      /** The LAC packet (FORMATS.md §2.3). */
      readonly body: Uint8Array
    }
  | { readonly operation: 'readLac'; readonly ledgerId: bigint }
  | { readonly operation: 'info' }
  | { readonly operation: 'startTls' }
  | { readonly operation: 'auth'; readonly plugin: string }

const HEADER_SCHEMA: Schema = [
  { no: 1, name: 'version', kind: 'int32' },
  { no: 2, name: 'operation', kind: 'int32' },
  { no: 3, name: 'txnId', kind: 'int64' },
]
const REQUEST_SCHEMA: Schema = [
  { no: 1, name: 'header', kind: { fields: HEADER_SCHEMA } },
  {
    no: 102,
    name: 'auth',
    kind: {
      fields: [
        { no: 1, name: 'plugin', kind: 'string' },
        { no: 2, name: 'payload', kind: 'bytes' },
      ],
    },
  },
  {
    no: 103,
    name: 'writeLac',
    kind: {
      fields: [
        { no: 1, name: 'ledgerId', kind: 'int64' },
        { no: 2, name: 'lac', kind: 'int64' },
        { no: 3, name: 'masterKey', kind: 'bytes' },
        { no: 4, name: 'body', kind: 'bytes' },
      ],
    },
  },
  { no: 104, name: 'readLac', kind: { fields: [{ no: 1, name: 'ledgerId', kind: 'int64' }] } },
  { no: 105, name: 'info', kind: { fields: [{ no: 1, name: 'requested', kind: 'int64' }] } },
  { no: 106, name: 'startTls', kind: { fields: [] } },
]
/** Total and free space of the disk. */
const INFO_WANTED = 3n

/** The whole frame of a request that is sent seldom. */
export function rareFrame(txnId: number, request: RareRequest): Buffer {
  const body = encodeMessage(REQUEST_SCHEMA, [
    [
      'header',
      [
        ['version', 3n],
        ['operation', BigInt(OPERATION[request.operation])],
        ['txnId', BigInt(txnId)],
      ],
    ],
    [request.operation, fieldsOf(request)],
  ])
  const frame = Buffer.allocUnsafe(LENGTH_BYTES + body.length)
  frame.writeInt32BE(body.length, 0)
  frame.set(body, LENGTH_BYTES)
  return frame
}

function fieldsOf(request: RareRequest): Parameters<typeof encodeMessage>[1] {
  switch (request.operation) {
    case 'writeLac':
      return [
        ['ledgerId', request.ledgerId],
        ['lac', request.lac],
        ['masterKey', request.masterKey],
        ['body', request.body],
      ]
    case 'readLac':
      return [['ledgerId', request.ledgerId]]
    case 'info':
      return [['requested', INFO_WANTED]]
    case 'auth':
      return [
        ['plugin', request.plugin],
        ['payload', new Uint8Array(0)],
      ]
    default:
      return []
  }
}
