import type { StratalogError } from '../model/errors.js'
import type { DigestType } from '../model/ledger.js'
import type { Incarnation, TxidMode } from '../model/segment.js'
import { corrupt } from './bytes.js'

/*
 * The JSON part of a segment object's header: one flat object, keys in the order of FIELDS, no white space,
 * numbers that may exceed 2^53 as decimal strings. Text, so that an object can be understood with `strings`.
 */

/** What the header says of the segment. */
export interface SegmentObjectMeta {
  readonly incarnation: Incarnation
  readonly streamName: string
  readonly segment: bigint
  readonly epoch: bigint
  readonly txidMode: TxidMode
  readonly openedMs: number
  readonly sealedMs: number
  readonly firstTxid: bigint
  readonly lastTxid: bigint
  readonly startSequenceId: bigint
  readonly recordCount: bigint
  /** Entry and slot of the last user record. The ledger may end later, with control records. */
  readonly lastEntryId: bigint
  readonly lastSlot: bigint
  /** Sum of entry payload bytes: the ledger's length. */
  readonly lengthBytes: number
  readonly digestType: DigestType
  /** BookKeeper's serialised form. Without its password: an archive is read by more people than a ledger. */
  readonly ledgerMetadata: Uint8Array
}

type JsonMeta = Omit<SegmentObjectMeta, 'ledgerMetadata'>
type Field = keyof JsonMeta

const BIGINTS = [
  'segment',
  'epoch',
  'firstTxid',
  'lastTxid',
  'startSequenceId',
  'recordCount',
  'lastEntryId',
  'lastSlot',
] as const satisfies readonly Field[]
const NUMBERS = ['openedMs', 'sealedMs', 'lengthBytes'] as const satisfies readonly Field[]
const FIELDS: readonly Field[] = [
  'incarnation',
  'streamName',
  'txidMode',
  'digestType',
  ...BIGINTS,
  ...NUMBERS,
]
const DIGEST_TYPES: readonly DigestType[] = ['CRC32', 'HMAC', 'CRC32C', 'DUMMY']

/** The header's JSON as UTF-8. Equal metadata give equal bytes. */
export function encodeHeaderJson(meta: SegmentObjectMeta): Uint8Array {
  const json = Object.fromEntries(
    FIELDS.map((name) => [name, typeof meta[name] === 'bigint' ? meta[name].toString() : meta[name]]),
  )
  return Buffer.from(JSON.stringify(json), 'utf8')
}

/** What the header's JSON says; fields that this version does not know are left alone. */
export function decodeHeaderJson(bytes: Uint8Array, where: string): JsonMeta {
  let json: Record<string, unknown>
  try {
    const parsed: unknown = JSON.parse(Buffer.from(bytes).toString('utf8'))
    if (typeof parsed !== 'object' || parsed === null) throw new TypeError('not an object')
    json = parsed as Record<string, unknown>
  } catch (cause) {
    throw corrupt(`${where}: the header is not JSON: read another copy`, { cause })
  }
  const bad = (name: string): StratalogError =>
    corrupt(`${where}: the header's "${name}" is not valid: read another copy`, { found: json[name] })
  const text = (name: Field, allowed: RegExp): string => {
    const value = json[name]
    if (typeof value !== 'string' || !allowed.test(value)) throw bad(name)
    return value
  }
  const big = (name: (typeof BIGINTS)[number]): bigint => BigInt(text(name, /^(-1|\d{1,19})$/))
  const number = (name: (typeof NUMBERS)[number]): number => {
    const value = json[name]
    if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < 0) throw bad(name)
    return value
  }
  const digestType = DIGEST_TYPES.find((known) => known === json.digestType)
  if (digestType === undefined) throw bad('digestType')
  return {
    incarnation: text('incarnation', /^[0-9a-f]{32}$/),
    streamName: text('streamName', /^[\s\S]{1,255}$/),
    txidMode: text('txidMode', /^(ms|custom)$/) === 'ms' ? 'ms' : 'custom',
    digestType,
    segment: big('segment'),
    epoch: big('epoch'),
    firstTxid: big('firstTxid'),
    lastTxid: big('lastTxid'),
    startSequenceId: big('startSequenceId'),
    recordCount: big('recordCount'),
    lastEntryId: big('lastEntryId'),
    lastSlot: big('lastSlot'),
    openedMs: number('openedMs'),
    sealedMs: number('sealedMs'),
    lengthBytes: number('lengthBytes'),
  }
}
