import { decodeSegmentKey, type SegmentKey } from '../src/format/archive-names.js'
import { corrupt } from '../src/format/bytes.js'
import type { BlockRow } from '../src/format/segment-block.js'
import {
  decodeObjectEnvelope,
  decodeObjectIndex,
  isIndexSize,
  type ObjectAccess,
  type SegmentObjectFooter,
} from '../src/format/segment-object.js'
import type { ArchivedObject } from '../src/model/segment.js'
import type { ArchiveStore } from '../src/ports/archive-store.js'
import { keysOf } from './keys.js'
import { type ContentDigest, contentDigest } from './restore-digest.js'

/** The end of an object, decrypted, and what the rest of it is decrypted with. */
export interface ObjectIndex {
  readonly rows: readonly BlockRow[]
  readonly footer: SegmentObjectFooter
  /** Null: it is not encrypted. */
  readonly access: ObjectAccess | null
}

/** A part of an object. */
export interface ObjectRange {
  readonly key: string
  readonly offset: number
  readonly lengthBytes: number
}

/** How the index of an object is read. */
export interface ObjectIndexOptions {
  readonly signal?: AbortSignal | undefined
  /** What the object's name says, where the caller knows it already. */
  readonly named?: SegmentKey
  /** How bytes are had, where not straight from the store. */
  readonly fetch?: (range: ObjectRange) => Promise<Uint8Array>
}

/**
 * Index and footer of an object with one request, and its keys: the one way to them for everybody who reads objects.
 * `key_missing` or `key_wrong` where it is encrypted and its key is not to be had: such an object is unread, never
 * damaged.
 */
export async function readObjectIndex(
  store: ArchiveStore,
  object: ArchivedObject,
  { signal, named: known, fetch }: ObjectIndexOptions = {},
): Promise<ObjectIndex> {
  const { key, sizeBytes, indexBytes } = object
  const named = known ?? decodeSegmentKey(key)
  const keyId = named?.keyId
  // A row states these sizes; refuse what no writer makes before memory is taken for it.
  if (!isIndexSize(indexBytes, sizeBytes, keyId !== undefined)) {
    throw corrupt(
      `${key}: an index of ${indexBytes} bytes can't be right: rebuild the index from the archive`,
    )
  }
  const range = { key, offset: sizeBytes - indexBytes, lengthBytes: indexBytes }
  const tail = await (fetch?.(range) ?? store.readRange(key, range.offset, indexBytes, signal))
  const envelope = decodeObjectEnvelope(tail, key)
  if (named === null || keyId === undefined)
    return { ...checkedContent(named, key, decodeObjectIndex(tail, sizeBytes, key)), access: null }
  // The name decides: an object that is not encrypted must not pass for one that is.
  if (envelope === null) throw corrupt(`${key} is not encrypted and its name says it is: read another copy`)
  const { incarnation, segment, attempt } = named
  const place = { incarnation, segment, attempt, keyId }
  const access = { envelope, cipher: await keysOf(store).cipher(key, place, envelope, signal) }
  return { ...checkedContent(named, key, decodeObjectIndex(tail, sizeBytes, key, access)), access }
}

/** An object that is whole and another one's would pass every checksum: what is under a name must be what it names. */
function checkedContent<T extends { readonly footer: SegmentObjectFooter }>(
  named: SegmentKey | null,
  key: string,
  index: T,
): T {
  const expected = named?.contentDigest
  const found = index.footer.contentDigest
  if (expected === undefined || expected === found) return index
  throw corrupt(`${key} holds another segment than its name says: read another copy`, { expected, found })
}

/** Begins the digest that the name of an object states: keyed where the object is encrypted. */
export async function contentDigestOf(
  store: ArchiveStore,
  named: Pick<SegmentKey, 'incarnation' | 'keyId'>,
  signal?: AbortSignal,
): Promise<ContentDigest> {
  if (named.keyId === undefined) return contentDigest(null)
  return contentDigest(await keysOf(store).digestKey(named.incarnation, named.keyId, signal))
}
