import { assert } from '../model/assert.js'
import type { Incarnation } from '../model/segment.js'
import {
  decodeSegmentKey,
  incarnationOfPart,
  incarnationPart,
  type SegmentKey,
  segmentPrefix,
} from './archive-names.js'
import { decodeBase32, encodeBase32 } from './base32.js'
import { asBuffer, corrupt, unsupportedVersion } from './bytes.js'
import { crc32c } from './checksum.js'

/*
 * A summary of a thousand consecutive segments of an incarnation, version 1: which objects were committed for them.
 * docs/formats/summary-object.md describes every byte. Big-endian.
 *
 *   key      <incarnation 26>/m<first segment 13>-<attempt 13>
 *   header   magic "STRATSUM" · version u32 · count u32 · incarnation 16 bytes · firstSegment u64
 *   rows     { nameBytes u8 · name · sizeBytes u64 }* one for each segment, ascending
 *            the name is the object's key without the incarnation and the slash
 *   end      crc32c u32 (of all before it)
 */

/** The version written, and the newest one read. */
export const SUMMARY_VERSION = 1
/** Segments of one summary; the first of them is a multiple of this, plus one. */
export const SUMMARY_SEGMENTS = 1_000
const MAGIC = 'STRATSUM'
const HEADER_BYTES = 40
const NAME_BYTES_MAX = 173
/** No summary is larger: what a reader takes memory for. */
export const SUMMARY_BYTES_MAX: number = HEADER_BYTES + SUMMARY_SEGMENTS * (1 + NAME_BYTES_MAX + 8) + 4

/** What a summary's key says. */
export interface SummaryKey {
  readonly incarnation: Incarnation
  readonly firstSegment: bigint
  /** 13 base32 digits, see `attemptOf`. */
  readonly attempt: string
}

/** The object of one segment as a summary names it. */
export interface SummarizedSegment {
  readonly key: string
  readonly sizeBytes: number
  readonly parsed: SegmentKey
}

/** The first segment of the thousand that holds `segment`. */
export function summaryStart(segment: bigint): bigint {
  const size = BigInt(SUMMARY_SEGMENTS)
  return ((segment - 1n) / size) * size + 1n
}

/** Prefix of all summaries of an incarnation. */
export function summaryPrefix(incarnation: Incarnation): string {
  return `${incarnationPart(incarnation)}/m`
}

/** A string below every summary that begins with `firstSegment` and above every one before it. */
export function beforeSummary(incarnation: Incarnation, firstSegment: bigint): string {
  return summaryPrefix(incarnation) + encodeBase32(firstSegment, 13)
}

/** The key of a summary. */
export function encodeSummaryKey(key: SummaryKey): string {
  assert(key.firstSegment === summaryStart(key.firstSegment), `a summary from segment ${key.firstSegment} on`)
  assert(/^[0-9a-v]{13}$/.test(key.attempt), `"${key.attempt}" is not an attempt id`)
  return `${beforeSummary(key.incarnation, key.firstSegment)}-${key.attempt}`
}

/** What the key of a summary says; null for anything that is not one. */
export function decodeSummaryKey(key: string): SummaryKey | null {
  const match = /^([0-9a-v]{26})\/m([0-9a-v]{13})-([0-9a-v]{13})$/.exec(key)
  if (match === null) return null
  const [, part = '', digits = '', attempt = ''] = match
  const incarnation = incarnationOfPart(part)
  const firstSegment = decodeBase32(digits)
  if (incarnation === null || firstSegment < 1n || firstSegment !== summaryStart(firstSegment)) return null
  return { incarnation, firstSegment, attempt }
}

/** The bytes of a summary of a whole thousand, ascending and without a hole. */
export function encodeSummary(segments: readonly SummarizedSegment[]): Uint8Array {
  const [first] = segments
  assert(
    segments.length === SUMMARY_SEGMENTS && first !== undefined,
    `a summary of ${segments.length} segments`,
  )
  const { incarnation, segment: firstSegment } = first.parsed
  const header = Buffer.alloc(HEADER_BYTES)
  header.write(MAGIC, 0, 'latin1')
  header.writeUInt32BE(SUMMARY_VERSION, 8)
  header.writeUInt32BE(segments.length, 12)
  header.write(incarnation, 16, 'hex')
  header.writeBigUInt64BE(firstSegment, 32)
  const rows = segments.map(({ key, sizeBytes, parsed }, i) => {
    const fits = parsed.incarnation === incarnation && parsed.segment === firstSegment + BigInt(i)
    assert(fits, `segment ${parsed.segment} in a summary from ${firstSegment} on`)
    const name = Buffer.from(key.slice(partBytes(incarnation)), 'latin1')
    assert(name.length <= NAME_BYTES_MAX, `a name of ${name.length} bytes`)
    const size = Buffer.alloc(8)
    size.writeBigUInt64BE(BigInt(sizeBytes))
    return Buffer.concat([Uint8Array.of(name.length), name, size])
  })
  const end = Buffer.alloc(4)
  const body = Buffer.concat([header, ...rows])
  end.writeUInt32BE(crc32c(body))
  return Buffer.concat([body, end])
}

function partBytes(incarnation: Incarnation): number {
  return incarnationPart(incarnation).length + 1
}

/**
 * The objects that a summary names, one for each segment of its thousand. Throws `corrupt` for bytes that are not a
 * summary of the thousand its key says, `version_unsupported` for those of a newer version.
 */
export function decodeSummary(bytes: Uint8Array, key: SummaryKey, where: string): SummarizedSegment[] {
  const buffer = asBuffer(bytes)
  const bad = (why: string) => corrupt(`${where}: ${why}: list the segments instead`)
  if (buffer.length < HEADER_BYTES + 4 || buffer.toString('latin1', 0, 8) !== MAGIC)
    throw bad('not a summary')
  const version = buffer.readUInt32BE(8)
  if (version !== SUMMARY_VERSION) {
    throw unsupportedVersion(
      `${where} is a summary of version ${version}; this stratalog reads ${SUMMARY_VERSION}: list the segments instead`,
      { expected: SUMMARY_VERSION, found: version },
    )
  }
  const end = buffer.length - 4
  if (crc32c(buffer.subarray(0, end)) !== buffer.readUInt32BE(end)) throw bad('the checksum is wrong')
  const count = buffer.readUInt32BE(12)
  const firstSegment = buffer.readBigUInt64BE(32)
  const ours = buffer.toString('hex', 16, 32) === key.incarnation && firstSegment === key.firstSegment
  if (count !== SUMMARY_SEGMENTS || !ours) throw bad('it is another one than its name says')
  const part = segmentPrefix(key.incarnation).slice(0, -1)
  const segments: SummarizedSegment[] = []
  let at = HEADER_BYTES
  for (let i = 0; i < count; i += 1) {
    const nameEnd = at + 1 + (at < end ? buffer.readUInt8(at) : 0)
    if (nameEnd + 8 > end) throw bad('its rows go beyond its end')
    const name = part + buffer.toString('latin1', at + 1, nameEnd)
    const parsed = decodeSegmentKey(name)
    const sizeBytes = Number(buffer.readBigUInt64BE(nameEnd))
    if (parsed === null || parsed.segment !== firstSegment + BigInt(i))
      throw bad(`row ${i} names no such segment`)
    segments.push({ key: name, sizeBytes, parsed })
    at = nameEnd + 8
  }
  if (at !== end) throw bad('bytes follow its rows')
  return segments
}
