import { assert } from '../model/assert.js'
import { StratalogError } from '../model/errors.js'

/*
 * Numbers as text in base32hex, lower case: digits 0-9a-v, most significant first, padded with 0 to a fixed
 * width. The alphabet ascends in ASCII, so texts of one width sort by bytes as their numbers do. That is why
 * it is not the more usual RFC 4648 alphabet (a-z2-7), where letters stand for less than digits and sort
 * after them.
 */

const BITS_PER_DIGIT = 5
/** Digits whose value fits a JavaScript number exactly: 50 bits. */
const DIGITS_EXACT = 10
const DIGITS = /^[0-9a-v]+$/

/** `value` in exactly `width` digits. Asserts that it is not negative and fits. */
export function encodeBase32(value: bigint, width: number): string {
  assert(value >= 0n, `${value} can't be written in base32`)
  const text = value.toString(32)
  assert(text.length <= width, `${value} does not fit ${width} base32 digits`)
  return text.padStart(width, '0')
}

/** The number that `text` stands for. Throws `corrupt` when it is not base32. */
export function decodeBase32(text: string): bigint {
  if (!DIGITS.test(text))
    throw new StratalogError('corrupt', `"${text}" is not base32 (0-9a-v)`, { found: text })
  let value = 0n
  for (let start = 0; start < text.length; start += DIGITS_EXACT) {
    const digits = text.slice(start, start + DIGITS_EXACT)
    value = (value << BigInt(BITS_PER_DIGIT * digits.length)) | BigInt(Number.parseInt(digits, 32))
  }
  return value
}

/** Digits that `byteCount` bytes take. */
export function base32Width(byteCount: number): number {
  return Math.ceil((byteCount * 8) / BITS_PER_DIGIT)
}

/** Bytes as one big-endian number: 16 bytes take 26 digits, 32 bytes 52. */
export function encodeBase32Bytes(bytes: Uint8Array): string {
  const hex = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('hex')
  return hex === '' ? '' : encodeBase32(BigInt(`0x${hex}`), base32Width(bytes.length))
}

/** The `byteCount` bytes that `text` stands for. Throws `corrupt` unless it has their width and fits them. */
export function decodeBase32Bytes(text: string, byteCount: number): Uint8Array {
  const width = base32Width(byteCount)
  if (text.length !== width) {
    throw new StratalogError(
      'corrupt',
      `"${text}" has ${text.length} base32 digits, ${byteCount} bytes take ${width}`,
      {
        expected: width,
        found: text.length,
      },
    )
  }
  if (byteCount === 0) return new Uint8Array(0)
  const value = decodeBase32(text)
  if (value >> BigInt(byteCount * 8) !== 0n) {
    throw new StratalogError('corrupt', `"${text}" stands for more than ${byteCount} bytes`, { found: text })
  }
  return Buffer.from(value.toString(16).padStart(byteCount * 2, '0'), 'hex')
}
