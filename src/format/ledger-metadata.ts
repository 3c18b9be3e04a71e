import { assert, unreachable } from '../model/assert.js'
import type { DigestType, Ensemble, LedgerMetadata, LedgerState } from '../model/ledger.js'
import { asBuffer, corrupt, unsupportedVersion } from './bytes.js'
import { decodeV1, encodeV1 } from './ledger-metadata-v1.js'
import type { Field, Message, Schema } from './protobuf.js'
import {
  bytes,
  decodeDelimited,
  decodeUtf8,
  encodeDelimited,
  everyValue,
  integer,
  messages,
  text,
} from './protobuf.js'
import { decodeText, encodeText } from './protobuf-text.js'

/*
 * A ledger's metadata in BookKeeper's metadata store (LedgerMetadataSerDe.java):
 *
 *   ┌───────────────────────────────┬─────┬─────────┬────┬──────────────────────────────────────────┐
 *   │ "BookieMetadataFormatVersion" │ TAB │ decimal │ LF │ version 3: varint length, protobuf       │
 *   └───────────────────────────────┴─────┴─────────┴────┤ version 2: the same message as text      │
 *                                                        │ version 1: lines (ledger-metadata-v1.ts) │
 *                                                        └──────────────────────────────────────────┘
 *
 * What was read in a version is written back in it, since older clients may still read it.
 */

const HEADER = /^BookieMetadataFormatVersion\t(\d{1,10})\n/
const HEADER_BYTES_MAX = 40
/** ZooKeeper's own limit for a node is 1 MiB unless it was raised. */
const METADATA_BYTES_MAX = 16 * 2 ** 20

const STATES = { OPEN: 1, IN_RECOVERY: 2, CLOSED: 3 } as const satisfies Record<LedgerState, number>
const DIGEST_TYPES = { CRC32: 1, HMAC: 2, CRC32C: 3, DUMMY: 4 } as const satisfies Record<DigestType, number>

const SEGMENT: Schema = [
  { no: 1, name: 'ensembleMember', kind: 'string' },
  { no: 2, name: 'firstEntryId', kind: 'int64' },
]
const CUSTOM_METADATA: Schema = [
  { no: 1, name: 'key', kind: 'string' },
  { no: 2, name: 'value', kind: 'bytes' },
]
const LEDGER_METADATA: Schema = [
  { no: 1, name: 'quorumSize', kind: 'int32' },
  { no: 2, name: 'ensembleSize', kind: 'int32' },
  { no: 3, name: 'length', kind: 'int64' },
  { no: 4, name: 'lastEntryId', kind: 'int64' },
  { no: 5, name: 'state', kind: { values: STATES } },
  { no: 6, name: 'segment', kind: { fields: SEGMENT } },
  { no: 7, name: 'digestType', kind: { values: DIGEST_TYPES } },
  { no: 8, name: 'password', kind: 'bytes' },
  { no: 9, name: 'ackQuorumSize', kind: 'int32' },
  { no: 10, name: 'ctime', kind: 'int64' },
  { no: 11, name: 'customMetadata', kind: { fields: CUSTOM_METADATA } },
  { no: 12, name: 'cToken', kind: 'int64' },
]
/**
 * What a protobuf enum that is not there means; as in BookKeeper, where a ledger has no digest type of its
 * own.
 */
const DIGEST_TYPE_DEFAULT: DigestType = 'CRC32'

/** Writes metadata in the version it was read in (`formatVersion`; 3 for a new ledger). */
export function encodeLedgerMetadata(metadata: LedgerMetadata): Uint8Array {
  const fault = faultOf(metadata)
  assert(fault === null, `ledger metadata is written with ${fault}`)
  const header = Buffer.from(`BookieMetadataFormatVersion\t${metadata.formatVersion}\n`, 'ascii')
  return Buffer.concat([header, encodeBody(metadata)])
}

function encodeBody(metadata: LedgerMetadata): Uint8Array {
  switch (metadata.formatVersion) {
    case 3:
      return encodeDelimited(LEDGER_METADATA, [...messageOf(metadata), ['cToken', metadata.cToken]])
    case 2:
      // Version 2 was closed before cToken came; a client that knows only it refuses a field it does not
      // know.
      return Buffer.from(encodeText(LEDGER_METADATA, messageOf(metadata)), 'utf8')
    case 1:
      return Buffer.from(encodeV1(metadata), 'utf8')
    default:
      return unreachable(metadata.formatVersion, 'ledger metadata version')
  }
}

/** Reads all three versions. Throws `corrupt` or `version_unsupported`. */
export function decodeLedgerMetadata(encoded: Uint8Array): LedgerMetadata {
  if (encoded.length > METADATA_BYTES_MAX) {
    throw corrupt(`ledger metadata has ${encoded.length} bytes: 16 MiB is the most there is`)
  }
  const header = HEADER.exec(asBuffer(encoded).toString('latin1', 0, HEADER_BYTES_MAX))
  if (header === null) throw corrupt('ledger metadata does not begin with its version')
  const body = encoded.subarray(header[0].length)
  const metadata = decodeBody(Number(header[1]), body)
  const fault = faultOf(metadata)
  if (fault !== null) throw corrupt(`ledger metadata has ${fault}`)
  return metadata
}

function decodeBody(version: number, body: Uint8Array): LedgerMetadata {
  switch (version) {
    case 3:
      return metadataOf(3, decodeDelimited(LEDGER_METADATA, body))
    case 2: {
      const lines = decodeUtf8(body)
      // Every line has its end where nothing was cut off.
      if (!lines.endsWith('\n')) throw corrupt('ledger metadata of version 2 ends within a line')
      return metadataOf(2, decodeText(LEDGER_METADATA, lines))
    }
    case 1:
      return decodeV1(decodeUtf8(body))
    default:
      throw unsupportedVersion(`version ${version} of ledger metadata is not known: versions 1 to 3 are`, {
        found: version,
      })
  }
}

function messageOf(metadata: LedgerMetadata): Field[] {
  const closed = metadata.state === 'CLOSED'
  const message: Field[] = [
    ['quorumSize', BigInt(metadata.writeQuorum)],
    ['ensembleSize', BigInt(metadata.ensembleSize)],
    ['length', closed ? metadata.lengthBytes : 0n],
    ['lastEntryId', closed ? metadata.lastEntryId : -1n],
    ['state', metadata.state],
  ]
  for (const { members, firstEntryId } of metadata.ensembles) {
    const segment: Field[] = members.map((member): Field => ['ensembleMember', member])
    message.push(['segment', [...segment, ['firstEntryId', firstEntryId]]])
  }
  // BookKeeper believes the digest type only beside a password, even an empty one. Without one it is written
  // where it says more than the default, so that nothing is lost between two of our own.
  if (metadata.password !== null || metadata.digestType !== DIGEST_TYPE_DEFAULT) {
    message.push(['digestType', metadata.digestType])
  }
  if (metadata.password !== null) message.push(['password', metadata.password])
  message.push(['ackQuorumSize', BigInt(metadata.ackQuorum)])
  if (metadata.ctimeMs !== null) message.push(['ctime', metadata.ctimeMs])
  for (const [key, value] of metadata.customMetadata) {
    message.push([
      'customMetadata',
      [
        ['key', key],
        ['value', value],
      ],
    ])
  }
  return message
}

function metadataOf(formatVersion: 2 | 3, message: Message): LedgerMetadata {
  const state = stateOf(message)
  const closed = state === 'CLOSED'
  const writeQuorum = requiredNumber(message, 'quorumSize')
  const password = bytes(message, 'password')
  const lengthBytes = requiredInteger(message, 'length')
  return {
    formatVersion,
    ensembleSize: requiredNumber(message, 'ensembleSize'),
    writeQuorum,
    ackQuorum: Number(integer(message, 'ackQuorumSize') ?? writeQuorum),
    state,
    lengthBytes: closed ? lengthBytes : 0n,
    lastEntryId: closed ? requiredInteger(message, 'lastEntryId') : -1n,
    ensembles: messages(message, 'segment').map(ensembleOf),
    digestType: digestTypeOf(message),
    password: password ?? null,
    ctimeMs: integer(message, 'ctime') ?? null,
    customMetadata: new Map(
      messages(message, 'customMetadata').map((entry) => [
        text(entry, 'key') ?? '',
        bytes(entry, 'value') ?? new Uint8Array(0),
      ]),
    ),
    cToken: integer(message, 'cToken') ?? 0n,
  }
}

function ensembleOf(segment: Message): Ensemble {
  return {
    firstEntryId: requiredInteger(segment, 'firstEntryId'),
    members: everyValue(segment, 'ensembleMember').map(String),
  }
}

function stateOf(message: Message): LedgerState {
  const state = text(message, 'state')
  if (state === undefined) throw corrupt('ledger metadata has no state')
  assert(state === 'OPEN' || state === 'IN_RECOVERY' || state === 'CLOSED', 'a state outside its enum')
  return state
}

function digestTypeOf(message: Message): DigestType {
  const type = text(message, 'digestType') ?? DIGEST_TYPE_DEFAULT
  assert(Object.hasOwn(DIGEST_TYPES, type), 'a digest type outside its enum')
  return type as DigestType
}

function requiredInteger(message: Message, name: string): bigint {
  const value = integer(message, name)
  if (value === undefined) throw corrupt(`ledger metadata has no ${name}`)
  return value
}

function requiredNumber(message: Message, name: string): number {
  return Number(requiredInteger(message, name))
}

/** What is wrong with metadata, or null: the rules every version obeys. */
function faultOf(metadata: LedgerMetadata): string | null {
  const { ensembleSize, writeQuorum, ackQuorum, ensembles } = metadata
  if (!(ensembleSize >= writeQuorum && writeQuorum >= ackQuorum && ackQuorum >= 1)) {
    return `sizes ${ensembleSize}/${writeQuorum}/${ackQuorum}, not ensemble ≥ write quorum ≥ ack quorum ≥ 1`
  }
  if (ensembles[0]?.firstEntryId !== 0n) return 'no ensemble for entry 0'
  let previous = -1n
  for (const { firstEntryId, members } of ensembles) {
    if (firstEntryId <= previous) return `ensembles out of order at entry ${firstEntryId}`
    if (members.length !== ensembleSize) return `an ensemble of ${members.length} in place of ${ensembleSize}`
    previous = firstEntryId
  }
  if (metadata.state === 'CLOSED' && (metadata.lastEntryId < -1n || metadata.lengthBytes < 0n)) {
    return `the end at entry ${metadata.lastEntryId}, length ${metadata.lengthBytes}`
  }
  return null
}
