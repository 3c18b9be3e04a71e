import { corrupt } from '../../format/bytes.js'
import { decodeUtf8 } from '../../format/protobuf.js'
import { OPERATIONS, type Operation } from './requests.js'
import { BYTES, Fields, VARINT } from './varints.js'

/*
 * Answers of BookKeeper's v3 protocol (FORMATS.md §1.2):
 *
 *   Response { 1 header { 2 operation, 3 txnId }, 2 status, 100 + … one message for the operation, maybe absent }
 *
 * In all of these messages 1 is the status again. What a field means depends on the operation:
 *
 *            2             3             4               5
 *   read     ledgerId      entryId       body            maxLAC
 *   add      ledgerId      entryId
 *   writeLac ledgerId
 *   readLac  ledgerId      LAC packet    last entry
 *   info     total bytes   free bytes
 *   auth     (1 plugin, 2 payload: no status)
 */

/** An answer. What it does not say is null. */
export interface Response {
  readonly operation: Operation
  readonly txnId: number
  readonly status: number
  readonly ledgerId: bigint | null
  readonly entryId: bigint | null
  /** Read: the entry; readLac: the last entry. Belongs to the caller. */
  readonly body: Buffer | null
  readonly maxLac: bigint | null
  /** Explicit LAC packet. Belongs to the caller. */
  readonly lacPacket: Buffer | null
  readonly totalBytes: bigint | null
  readonly freeBytes: bigint | null
  readonly plugin: string | null
}

/** The number of the field that holds an operation's own message. */
const MESSAGE_NO: Readonly<Record<Operation, number>> = {
  read: 100,
  add: 101,
  auth: 102,
  writeLac: 103,
  readLac: 104,
  info: 105,
  startTls: 106,
}

/** The envelope of an answer: enough to tell whose it is. */
interface Envelope {
  readonly operation: Operation
  readonly txnId: number
  readonly status: number
  readonly message: Fields | null
}

/** Decodes a frame, of which bytes may be kept where it is `own`. Throws `corrupt` for anything that no bookie sends. */
export function decodeResponse(buffer: Buffer, at: number, end: number, own = false): Response {
  const { operation, txnId, status, message } = readEnvelope(new Fields(buffer, at, end))
  const response = new Answer(operation, txnId, status, own ? (end - at) / 2 : Number.POSITIVE_INFINITY)
  if (message !== null) response.read(message)
  return response
}

function readEnvelope(fields: Fields): Envelope {
  let operation = 0
  let txnId = -1
  let status = -1
  let message: Fields | null = null
  let messageNo = 0
  while (fields.next()) {
    if (fields.no === 1) {
      const header = fields.message()
      while (header.next()) {
        if (header.no === 2) operation = numberOf(header)
        else if (header.no === 3) txnId = numberOf(header)
        else header.skip()
      }
    } else if (fields.no === 2) {
      status = numberOf(fields)
    } else if (fields.no >= 100 && fields.no <= 110) {
      messageNo = fields.no
      message = fields.message()
    } else {
      fields.skip()
    }
  }
  const name = OPERATIONS.get(operation)
  if (name === undefined || txnId < 0 || status < 0) {
    throw corrupt(`an answer has operation ${operation}, transaction ${txnId} and status ${status}`)
  }
  if (message !== null && messageNo !== MESSAGE_NO[name]) {
    throw corrupt(`an answer to operation ${name} holds message ${messageNo}`)
  }
  return { operation: name, txnId, status, message }
}

class Answer implements Response {
  readonly operation: Operation
  readonly txnId: number
  status: number
  ledgerId: bigint | null = null
  entryId: bigint | null = null
  body: Buffer | null = null
  maxLac: bigint | null = null
  lacPacket: Buffer | null = null
  totalBytes: bigint | null = null
  freeBytes: bigint | null = null
  plugin: string | null = null
  readonly #viewBytesMin: number

  /** Bytes from `viewBytesMin` on are a view: with them the frame is kept, of which they are the better part. */
  constructor(operation: Operation, txnId: number, status: number, viewBytesMin: number) {
    this.#viewBytesMin = viewBytesMin
    this.operation = operation
    this.txnId = txnId
    this.status = status
  }

  read(message: Fields): void {
    while (message.next()) {
      if (this.operation === 'auth') this.#auth(message)
      else if (message.no === 1) this.#innerStatus(numberOf(message))
      else if (this.operation === 'info') this.#info(message)
      else if (message.no === 2) this.ledgerId = idOf(message)
      else if (this.operation === 'readLac') this.#lac(message)
      else this.#entry(message)
    }
  }

  /** Both agree in practice; where they don't, the one that tells of a failure counts. */
  #innerStatus(status: number): void {
    if (this.status === 0) this.status = status
  }

  #entry(message: Fields): void {
    const { no } = message
    const reads = this.operation === 'read'
    if (no === 3 && this.operation !== 'writeLac') this.entryId = idOf(message)
    else if (no === 4 && reads) this.body = this.#owned(message)
    else if (no === 5 && reads) this.maxLac = idOf(message)
    else message.skip()
  }

  #lac(message: Fields): void {
    if (message.no === 3) this.lacPacket = this.#owned(message)
    else if (message.no === 4) this.body = this.#owned(message)
    else message.skip()
  }

  /** A copy, as a rule: what came from the socket is filled anew with what comes next. */
  #owned(fields: Fields): Buffer {
    fields.expect(BYTES)
    const bytes = fields.bytes()
    return bytes.length >= this.#viewBytesMin ? bytes : Buffer.from(bytes)
  }

  #info(message: Fields): void {
    if (message.no === 2) this.totalBytes = idOf(message)
    else if (message.no === 3) this.freeBytes = idOf(message)
    else message.skip()
  }

  #auth(message: Fields): void {
    if (message.no === 1) this.plugin = decodeUtf8(message.bytes())
    else message.skip()
  }
}

function numberOf(fields: Fields): number {
  fields.expect(VARINT)
  return fields.number()
}

function idOf(fields: Fields): bigint {
  fields.expect(VARINT)
  return fields.id()
}
