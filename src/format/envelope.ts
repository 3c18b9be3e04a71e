import { createCipheriv, createDecipheriv, createHash } from 'node:crypto'
import { assert } from '../model/assert.js'
import type { Incarnation } from '../model/segment.js'
import { asBuffer } from './bytes.js'

/*
 * Envelope encryption of archived objects: AES-256-GCM throughout. docs/formats/segment-object.md describes every byte.
 *
 *   key of a ring ──wraps──► key of a stream ──wraps──► data key of one object ──encrypts──► its blocks and its index
 *   (a file, a KMS)          (a `key` control object)   (the object's envelope)
 *
 * A data key encrypts one object and nothing else, so its nonces are counters: purpose (u32) · number (u64), the number
 * of a block being its first entry id. The key of a stream and that of a ring wrap few secrets, with random nonces.
 * Everything is bound to its place: an object that was moved, or a block or footer from elsewhere, does not open.
 */

/** Bytes of every key. */
export const KEY_BYTES = 32
/** What encryption adds to each block: its tag. */
export const TAG_BYTES = 16
export const NONCE_BYTES = 12
/** Bytes of a secret of 32 bytes once it is wrapped: nonce, secret, tag. */
export const WRAPPED_KEY_BYTES: number = NONCE_BYTES + KEY_BYTES + TAG_BYTES
/** Bytes between the index rows and the footer of an encrypted object. */
export const ENVELOPE_BYTES = 124

const ALGORITHM = 'aes-256-gcm'
const ALGORITHM_AES_256_GCM = 1
const PURPOSE_BLOCK = 1
const PURPOSE_INDEX = 2
const KEY_ID_AT = 4
const WRAPPED_AT = 16
const HEADER_HASH_AT = 76
const INDEX_TAG_AT = 108
/** Of the footer: what the index is bound to; the checksum in it covers the tag, and so can't be. */
const FOOTER_BOUND: readonly (readonly [number, number])[] = [
  [0, 12],
  [16, 84],
]

/** Where an object belongs: what its name says and can't be changed without its key. */
export interface ObjectPlace {
  readonly incarnation: Incarnation
  readonly segment: bigint
  readonly attempt: string
  /** Id of the key the digest in its name was made with. */
  readonly keyId: string
}

/** What an object says of how it is encrypted. */
export interface ObjectEnvelope {
  /** Id of the stream's key that wraps the data key. */
  readonly streamKeyId: string
  /** The data key, wrapped. */
  readonly wrappedKey: Uint8Array
  /** SHA-256 of the object's header. */
  readonly headerHash: Uint8Array
  readonly indexTag: Uint8Array
}

/** All that is needed to write one encrypted object. */
export interface ObjectSeal {
  readonly place: ObjectPlace
  readonly streamKeyId: string
  readonly wrappedKey: Uint8Array
  readonly cipher: ObjectCipher
}

/** Encrypts a secret under a key: nonce, what it encrypts to, tag. `nonce` must be random and never used before. */
export function sealSecret(
  key: Uint8Array,
  nonce: Uint8Array,
  secret: Uint8Array,
  context: string,
): Uint8Array {
  assert(key.length === KEY_BYTES && nonce.length === NONCE_BYTES, 'a key of 32 bytes and a nonce of 12')
  const cipher = createCipheriv(ALGORITHM, key, nonce)
  cipher.setAAD(Buffer.from(context, 'utf8'))
  return Buffer.concat([nonce, cipher.update(secret), cipher.final(), cipher.getAuthTag()])
}

/** The secret; null if it was wrapped by another key, for another context, or was changed. */
export function openSecret(key: Uint8Array, wrapped: Uint8Array, context: string): Uint8Array | null {
  const bytes = asBuffer(wrapped)
  if (key.length !== KEY_BYTES || bytes.length <= NONCE_BYTES + TAG_BYTES) return null
  const sealed = bytes.subarray(NONCE_BYTES)
  return opened(key, bytes.subarray(0, NONCE_BYTES), [Buffer.from(context, 'utf8')], sealed)
}

/** What a data key is bound to. */
export function dataKeyContext(place: ObjectPlace, streamKeyId: string): string {
  return `stratalog-object 2 ${placeText(place)} ${streamKeyId}`
}

function placeText({ incarnation, segment, attempt, keyId }: ObjectPlace): string {
  return `${incarnation} ${segment} ${attempt} ${keyId}`
}

/** Encrypts and decrypts the parts of one object. Holds its data key. */
export class ObjectCipher {
  readonly #dataKey: Uint8Array
  readonly #place: Buffer

  constructor(dataKey: Uint8Array, place: ObjectPlace) {
    assert(dataKey.length === KEY_BYTES, `a data key of ${dataKey.length} bytes`)
    this.#dataKey = dataKey
    this.#place = Buffer.from(placeText(place), 'utf8')
  }

  /**
   * A block's data with their tag, bound to the block's header. The same block may be encrypted again, another one
   * under the same first entry never: the nonce would be used twice.
   */
  sealBlock(header: Uint8Array, firstEntryId: bigint, data: Uint8Array): Uint8Array {
    return this.#seal(nonceOf(PURPOSE_BLOCK, firstEntryId), [header], data)
  }

  /** Null: these are not the data that were written with that header into this object. */
  openBlock(header: Uint8Array, firstEntryId: bigint, sealed: Uint8Array): Uint8Array | null {
    return this.#open(nonceOf(PURPOSE_BLOCK, firstEntryId), [header], sealed)
  }

  /** Index rows with their tag, bound to the envelope before its tag and to the footer. */
  sealIndex(rows: Uint8Array, envelope: Uint8Array, footer: Uint8Array): Uint8Array {
    return this.#seal(nonceOf(PURPOSE_INDEX, 0n), indexBound(envelope, footer), rows)
  }

  /** Null: rows, envelope or footer are not those of this object. */
  openIndex(sealed: Uint8Array, envelope: Uint8Array, footer: Uint8Array): Uint8Array | null {
    return this.#open(nonceOf(PURPOSE_INDEX, 0n), indexBound(envelope, footer), sealed)
  }

  #seal(nonce: Uint8Array, bound: readonly Uint8Array[], data: Uint8Array): Uint8Array {
    const cipher = createCipheriv(ALGORITHM, this.#dataKey, nonce)
    cipher.setAAD(Buffer.concat([this.#place, ...bound]))
    const sealed = cipher.update(data)
    cipher.final()
    return Buffer.concat([sealed, cipher.getAuthTag()])
  }

  #open(nonce: Uint8Array, bound: readonly Uint8Array[], sealed: Uint8Array): Uint8Array | null {
    return opened(this.#dataKey, nonce, [this.#place, ...bound], asBuffer(sealed))
  }
}

function opened(
  key: Uint8Array,
  nonce: Uint8Array,
  bound: readonly Uint8Array[],
  sealed: Buffer,
): Uint8Array | null {
  if (sealed.length < TAG_BYTES) return null
  const decipher = createDecipheriv(ALGORITHM, key, nonce, { authTagLength: TAG_BYTES })
  decipher.setAAD(Buffer.concat(bound))
  decipher.setAuthTag(sealed.subarray(sealed.length - TAG_BYTES))
  const plain = decipher.update(sealed.subarray(0, sealed.length - TAG_BYTES))
  try {
    decipher.final()
  } catch {
    // The only way it fails: the tag is another one. Nothing of `plain` may be looked at.
    return null
  }
  return plain
}

function indexBound(envelope: Uint8Array, footer: Uint8Array): Uint8Array[] {
  return [
    envelope.subarray(0, INDEX_TAG_AT),
    ...FOOTER_BOUND.map(([from, until]) => footer.subarray(from, until)),
  ]
}

function nonceOf(purpose: number, number: bigint): Uint8Array {
  const nonce = Buffer.allocUnsafe(NONCE_BYTES)
  nonce.writeUInt32BE(purpose, 0)
  nonce.writeBigUInt64BE(number, 4)
  return nonce
}

/** SHA-256 of an object's header: through it the header is bound to the index. */
export function headerHash(header: Uint8Array): Uint8Array {
  return createHash('sha256').update(header).digest()
}

/** The bytes of an envelope; its tag is zero until the index was encrypted. */
export function encodeEnvelope(envelope: ObjectEnvelope): Uint8Array {
  const { streamKeyId, wrappedKey, headerHash: hash, indexTag } = envelope
  assert(/^[0-9a-v]{5}$/.test(streamKeyId), `"${streamKeyId}" is not the id of a key`)
  assert(wrappedKey.length === WRAPPED_KEY_BYTES, `a wrapped key of ${wrappedKey.length} bytes`)
  const bytes = Buffer.alloc(ENVELOPE_BYTES)
  bytes.writeUInt8(ALGORITHM_AES_256_GCM, 0)
  bytes.write(streamKeyId, KEY_ID_AT, 'latin1')
  bytes.set(wrappedKey, WRAPPED_AT)
  bytes.set(hash, HEADER_HASH_AT)
  bytes.set(indexTag, INDEX_TAG_AT)
  return bytes
}

/** Null for bytes that are no envelope of this version. */
export function decodeEnvelope(bytes: Uint8Array): ObjectEnvelope | null {
  const buffer = asBuffer(bytes)
  const streamKeyId = buffer.toString('latin1', KEY_ID_AT, KEY_ID_AT + 5)
  const zeros = [...buffer.subarray(1, KEY_ID_AT), ...buffer.subarray(KEY_ID_AT + 5, WRAPPED_AT)]
  const known = buffer.length === ENVELOPE_BYTES && buffer.readUInt8(0) === ALGORITHM_AES_256_GCM
  if (!known || zeros.some((byte) => byte !== 0) || !/^[0-9a-v]{5}$/.test(streamKeyId)) return null
  return {
    streamKeyId,
    wrappedKey: buffer.subarray(WRAPPED_AT, WRAPPED_AT + WRAPPED_KEY_BYTES),
    headerHash: buffer.subarray(HEADER_HASH_AT, INDEX_TAG_AT),
    indexTag: buffer.subarray(INDEX_TAG_AT, ENVELOPE_BYTES),
  }
}
