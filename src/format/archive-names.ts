import { assert } from '../model/assert.js'
import { StratalogError } from '../model/errors.js'
import type { Incarnation } from '../model/segment.js'
import { decodeBase32, decodeBase32Bytes, encodeBase32, encodeBase32Bytes } from './base32.js'

/*
 * Keys of archived objects. Names are the index: a listing alone tells what a segment holds. Every number is
 * base32 of fixed width (base32.ts), so byte order of keys = order of (incarnation, controls before segments,
 * number).
 *
 *   a segment, 194 bytes of the 200 that a key may have, all 200 where the object is encrypted:
 *   <incarnation 26>/s<segment 13>-<lastEntryId 13><lastSlot 4>-<recordCount 7>-<startSequenceId 13>
 *     -<firstTxid 13>-<lastTxid 13>-<completionMs 10>-<indexBytes 6>-<contentDigest 52>[-<keyId 5>]-<attempt 13>
 *   a control object of a stream:    <incarnation 26>/c<number 13>-<kind>-<attempt 13>
 *   a control object of the log:     _log/c<number 13>-<kind>-<attempt 13>
 *
 * The digest of an encrypted object is keyed, so that its name does not tell who knows the content that it is; keyId
 * names the key.
 */

/** Longest key in bytes. */
export const ARCHIVE_KEY_BYTES_MAX = 200
/** Length of a segment's key in bytes. */
export const SEGMENT_KEY_BYTES = 194
/** Digits of the id of a stream's key. */
export const KEY_ID_DIGITS = 5
/** Random bytes that name one attempt to store an object. */
export const ATTEMPT_BYTES = 8

const INT64_MAX = 2n ** 63n - 1n
const UINT64_MAX = 2n ** 64n - 1n
const WIDTHS = { int64: 13, lastSlot: 4, recordCount: 7, timeMs: 10, indexBytes: 6 }
const LOG_PART = '_log'

/** What a segment's key says. */
export interface SegmentKey {
  readonly incarnation: Incarnation
  readonly segment: bigint
  readonly lastEntryId: bigint
  readonly lastSlot: bigint
  readonly recordCount: bigint
  readonly startSequenceId: bigint
  readonly firstTxid: bigint
  readonly lastTxid: bigint
  /** When the segment was sealed. */
  readonly completionMs: number
  /** Bytes of index and footer at the end of the object. */
  readonly indexBytes: number
  /** SHA-256 over entry ids, lengths and payloads, lower-case hex; with `keyId` HMAC-SHA-256 under that key. */
  readonly contentDigest: string
  /** Of an encrypted object: id of the key its digest was made with. Digests compare under one key only. */
  readonly keyId?: string
  /** 13 base32 digits, see `attemptOf`. */
  readonly attempt: string
}

/** Whether the digests of two names were made with one key, so that they tell whether the contents are one. */
export function haveOneDigestKey(
  a: Pick<SegmentKey, 'incarnation' | 'keyId'>,
  b: Pick<SegmentKey, 'incarnation' | 'keyId'>,
): boolean {
  return a.keyId === b.keyId && (a.keyId === undefined || a.incarnation === b.incarnation)
}

/** Kinds of control objects, a closed list: an unknown kind is a key that does not parse. */
export const CONTROL_KINDS = [
  'owner',
  'name',
  'policy',
  'key',
  'gap',
  'trim',
  'hold',
  'pin',
  'release',
  'end',
  'delete',
] as const

/** What a control object says something about; part of its key. */
export type ControlKind = (typeof CONTROL_KINDS)[number]

/** What a control object's key says; without an incarnation it concerns the whole log. */
export interface ControlKey {
  readonly incarnation: Incarnation | null
  readonly number: bigint
  readonly kind: ControlKind
  readonly attempt: string
}

/** An attempt id from 8 random bytes. */
export function attemptOf(randomBytes: Uint8Array): string {
  assert(randomBytes.length === ATTEMPT_BYTES, `an attempt id takes ${ATTEMPT_BYTES} bytes`)
  return encodeBase32Bytes(randomBytes)
}

/** The part of every key that names the incarnation. */
export function incarnationPart(incarnation: Incarnation): string {
  assert(/^[0-9a-f]{32}$/.test(incarnation), `"${incarnation}" is not an incarnation (32 hexadecimal digits)`)
  return encodeBase32(BigInt(`0x${incarnation}`), 26)
}

/** The incarnation that a key's first part names, null if it names none. */
export function incarnationOfPart(part: string): Incarnation | null {
  if (!/^[0-9a-v]{26}$/.test(part) || part > '7vvvvvvvvvvvvvvvvvvvvvvvvv') return null
  return Buffer.from(decodeBase32Bytes(part, 16)).toString('hex')
}

/** Prefix of all segments of an incarnation. */
export function segmentPrefix(incarnation: Incarnation): string {
  return `${incarnationPart(incarnation)}/s`
}

/** Prefix of all control objects of an incarnation, or of the log. */
export function controlPrefix(incarnation: Incarnation | null): string {
  return `${incarnation === null ? LOG_PART : incarnationPart(incarnation)}/c`
}

/** A string below every key of `segment` and above every key of the one before it: where a listing starts. */
export function beforeSegment(incarnation: Incarnation, segment: bigint): string {
  return segmentPrefix(incarnation) + encodeBase32(segment, WIDTHS.int64)
}

/**
 * Whether a number that the data decides fits its field; overflowing silently would break the order of keys.
 */
function field(what: string, value: bigint, width: number, max: bigint): string {
  assert(value >= 0n, `${what} ${value} in an archive key`)
  if (value > max) {
    throw new StratalogError(
      'unsupported',
      `${what} ${value} does not fit a name in the archive; its limit is ${max}`,
      {
        expected: max,
        found: value,
      },
    )
  }
  return encodeBase32(value, width)
}

const int64 = (what: string, value: bigint): string => field(what, value, WIDTHS.int64, INT64_MAX)
const small = (what: string, value: bigint, width: number): string =>
  field(what, value, width, 2n ** BigInt(5 * width) - 1n)

/** The key of a segment's object. Throws `unsupported` when a number is too large for its field. */
export function encodeSegmentKey(key: SegmentKey): string {
  assert(/^[0-9a-f]{64}$/.test(key.contentDigest), 'a content digest has 64 hexadecimal digits')
  assert(isAttempt(key.attempt), `"${key.attempt}" is not an attempt id`)
  const text = [
    beforeSegmentChecked(key),
    int64('entry id', key.lastEntryId) + small('slot', key.lastSlot, WIDTHS.lastSlot),
    small('record count', key.recordCount, WIDTHS.recordCount),
    int64('sequenceId', key.startSequenceId),
    int64('first txid', key.firstTxid),
    int64('last txid', key.lastTxid),
    small('completion time', BigInt(key.completionMs), WIDTHS.timeMs),
    small('index size', BigInt(key.indexBytes), WIDTHS.indexBytes),
    encodeBase32(BigInt(`0x${key.contentDigest}`), 52),
    ...(key.keyId === undefined ? [] : [checkKeyId(key.keyId)]),
    key.attempt,
  ].join('-')
  const keyIdBytes = key.keyId === undefined ? 0 : 1 + KEY_ID_DIGITS
  assert(text.length === SEGMENT_KEY_BYTES + keyIdBytes, `a segment key of ${text.length} bytes`)
  return text
}

function beforeSegmentChecked(key: SegmentKey): string {
  return segmentPrefix(key.incarnation) + int64('segment', key.segment)
}

const D = '[0-9a-v]'
const SEGMENT_KEY = new RegExp(
  `^(${D}{26})/s(${D}{13})-(${D}{13})(${D}{4})-(${D}{7})-(${D}{13})-(${D}{13})-(${D}{13})-(${D}{10})-(${D}{6})-(${D}{52})(?:-(${D}{5}))?-(${D}{13})$`,
)

/**
 * What the key of a segment says; null for anything that is not one (never an error: listings hold other
 * keys).
 */
export function decodeSegmentKey(key: string): SegmentKey | null {
  const match = SEGMENT_KEY.exec(key)
  if (match === null) return null
  const text = (group: number): string => match[group] ?? ''
  const number = (group: number): bigint => decodeBase32(text(group))
  const incarnation = incarnationOfPart(text(1))
  const longs = [2, 3, 6, 7, 8].map(number)
  const digest = number(11)
  if (incarnation === null || longs.some((value) => value > INT64_MAX)) return null
  if (digest >> 256n !== 0n || !isAttempt(text(13))) return null
  const [segment, lastEntryId, startSequenceId, firstTxid, lastTxid] = longs as [
    bigint,
    bigint,
    bigint,
    bigint,
    bigint,
  ]
  return {
    incarnation,
    segment,
    lastEntryId,
    lastSlot: number(4),
    recordCount: number(5),
    startSequenceId,
    firstTxid,
    lastTxid,
    completionMs: Number(number(9)),
    indexBytes: Number(number(10)),
    contentDigest: digest.toString(16).padStart(64, '0'),
    ...(match[12] === undefined ? {} : { keyId: match[12] }),
    attempt: text(13),
  }
}

function checkKeyId(text: string): string {
  assert(/^[0-9a-v]{5}$/.test(text), `"${text}" is not the id of a key`)
  return text
}

function isAttempt(text: string): boolean {
  return /^[0-9a-v]{13}$/.test(text) && decodeBase32(text) <= UINT64_MAX
}

/** The key of a control object. */
export function encodeControlKey(key: ControlKey): string {
  assert(isAttempt(key.attempt), `"${key.attempt}" is not an attempt id`)
  return `${controlPrefix(key.incarnation)}${int64('number', key.number)}-${key.kind}-${key.attempt}`
}

/** What the key of a control object says; null for anything that is not one. */
export function decodeControlKey(key: string): ControlKey | null {
  const match = /^(_log|[0-9a-v]{26})\/c([0-9a-v]{13})-([a-z]{1,16})-([0-9a-v]{13})$/.exec(key)
  if (match === null) return null
  const [, part = '', digits = '', kindText = '', attempt = ''] = match
  const incarnation = part === LOG_PART ? null : incarnationOfPart(part)
  const number = decodeBase32(digits)
  const kind = CONTROL_KINDS.find((known) => known === kindText)
  if (incarnation === null && part !== LOG_PART) return null
  if (kind === undefined || number > INT64_MAX || !isAttempt(attempt)) return null
  return { incarnation, number, kind, attempt }
}

/**
 * Checks that a key may be given to an archive and returns it: 1 to 200 bytes of `[0-9a-z_~/.-]`, parts
 * divided by single slashes, none empty or starting with a dot. Engines call it first. Throws
 * `invalid_argument`.
 */
export function checkArchiveKey(key: string): string {
  const refuse = (why: string): StratalogError =>
    new StratalogError('invalid_argument', `${JSON.stringify(key)} can't be a key in an archive: ${why}`, {
      found: key,
    })
  if (key.length === 0) throw refuse('it is empty')
  if (key.length > ARCHIVE_KEY_BYTES_MAX) throw refuse(`it has more than ${ARCHIVE_KEY_BYTES_MAX} bytes`)
  if (!/^[0-9a-z_~/.-]+$/.test(key)) throw refuse('only 0-9 a-z _ ~ / . - are allowed')
  for (const part of key.split('/')) {
    if (part === '') throw refuse('a "/" stands neither first, last nor twice')
    if (part.startsWith('.')) throw refuse(`the part "${part}" starts with a dot`)
  }
  return key
}
