import { isKeyTrouble } from '../archive/keys.js'
import { verifySegmentObject } from '../archive/segment-verify.js'
import { decodeSegmentKey } from '../src/format/archive-names.js'
import { corrupt } from '../src/format/bytes.js'
import { isStratalogError, type StratalogError } from '../src/model/errors.js'
import type { ArchivedKey, ArchiveStore, ReplayableBody, StorageWishes } from '../src/ports/archive-store.js'
import type { Pace } from './pace.js'

/** What is read of an object at a time. */
const RANGE_BYTES = 4 * 2 ** 20
/** Objects that do not read back as they were written, in a row, after which the new archive is not to be trusted. */
const TRIES = 3
/** For how long a thawed object is asked to stay readable: the copy comes back for it in another round. */
const THAWED_FOR_MS = 3 * 24 * 60 * 60 * 1_000

/** The two places, and how fast it may go between them. */
export interface Moving {
  readonly source: ArchiveStore
  readonly target: ArchiveStore
  readonly pace: Pace
  readonly signal: AbortSignal
  /** Bytes that went over. */
  readonly onBytes: (bytes: number) => void
}

/** What became of one object. */
export type Moved =
  /** It is there and read back whole. */
  | { readonly kind: 'whole' }
  /** The source has it no more. */
  | { readonly kind: 'gone' }
  /** It is being made readable. */
  | { readonly kind: 'thawing' }
  /** Not as its name says in the source itself; nothing of it is in the target. */
  | { readonly kind: 'damaged'; readonly why: string }

/** How an object is stored and checked. */
export interface MoveWishes {
  /** Something is under its key in the target that nobody has read back. */
  readonly unread: boolean
  readonly storage: StorageWishes
  /** Take it with its damage: compared byte by byte with the source, and with nothing else. */
  readonly asItIs: boolean
}

/**
 * Copies one object under its own key and reads it back. What is wrong in the target is put away and written anew: it
 * is nobody's archive yet, and every object in it was put there by this migration. An object of a segment is read back as after any copy, every checksum and the digest
 * of its name (invariant 4); where its keys are not at hand, and all else, is compared with the source byte by byte.
 */
export async function moveObject(moving: Moving, object: ArchivedKey, wishes: MoveWishes): Promise<Moved> {
  const { source, target, signal } = moving
  const { key } = object
  for (let tries = 0; ; tries += 1) {
    try {
      if (tries > 0 || !wishes.unread)
        await target.putIfAbsent(key, sourceBody(moving, object), { ...wishes.storage, signal })
    } catch (error) {
      const ended = await whyUnread(moving, key, error)
      if (ended !== null) return ended
    }
    const bad = await whyBad(moving, object, wishes)
    if (bad === null) return { kind: 'whole' }
    await target.delete(key, signal)
    const damage = await damageOf(moving, object, wishes)
    if (damage !== null) return damage
    if (tries + 1 >= TRIES)
      throw corrupt(
        `${key} was written ${TRIES} times to ${target.location} and never read back as it is in ${source.location}: check that place (${bad})`,
        { details: { key } },
      )
  }
}

/** Null: the object is under its key (an answer of an earlier try was lost), look whether it is whole. */
async function whyUnread(
  { source, signal }: Moving,
  key: string,
  error: unknown,
): Promise<Exclude<Moved, { kind: 'whole' }> | null> {
  signal.throwIfAborted()
  if (isStratalogError(error, 'object_exists')) return null
  if (isStratalogError(error, 'thawing')) {
    await source.thaw?.(key, THAWED_FOR_MS, signal)
    return { kind: 'thawing' }
  }
  if (isStratalogError(error, 'object_not_found') && (await source.head(key, signal)) === null)
    return { kind: 'gone' }
  if (isStratalogError(error, 'corrupt')) return { kind: 'damaged', why: error.message }
  throw error
}

/** Null: what is in the target is what it must be. */
async function whyBad(
  { source, target, signal }: Moving,
  { key, sizeBytes }: ArchivedKey,
  { asItIs }: MoveWishes,
): Promise<string | null> {
  const found = await target.head(key, signal)
  if (found === null) return 'it is not there'
  if (found.sizeBytes !== sizeBytes) return `it has ${found.sizeBytes} bytes there, not ${sizeBytes}`
  const parsed = asItIs ? null : decodeSegmentKey(key)
  if (parsed === null) return differences(source, target, { key, sizeBytes }, signal)
  try {
    await verifySegmentObject(target, key, parsed, { signal })
    return null
  } catch (error) {
    if (isKeyTrouble(error)) return differences(source, target, { key, sizeBytes }, signal)
    if (isDamage(error)) return error.message
    throw error
  }
}

/** Whether it is the source that is bad. */
async function damageOf(
  { source, signal }: Moving,
  { key }: ArchivedKey,
  { asItIs }: MoveWishes,
): Promise<Exclude<Moved, { kind: 'whole' }> | null> {
  const parsed = asItIs ? null : decodeSegmentKey(key)
  if (parsed === null) return (await source.head(key, signal)) === null ? { kind: 'gone' } : null
  try {
    await verifySegmentObject(source, key, parsed, { signal })
    return null
  } catch (error) {
    if (isStratalogError(error, 'object_not_found')) return { kind: 'gone' }
    if (isKeyTrouble(error)) return null
    if (isDamage(error)) return { kind: 'damaged', why: error.message }
    throw error
  }
}

/** A bit that flipped in its version makes an object look like a newer one. */
function isDamage(error: unknown): error is StratalogError {
  return isStratalogError(error, 'corrupt') || isStratalogError(error, 'version_unsupported')
}

/** The bytes of an object, read anew for each try; the next range is on its way while one is taken. */
function sourceBody(moving: Moving, { key, sizeBytes }: ArchivedKey): ReplayableBody {
  const { source, pace, signal, onBytes } = moving
  const read = (offset: number) => {
    if (offset >= sizeBytes) return null
    const range = source.readRange(key, offset, Math.min(RANGE_BYTES, sizeBytes - offset), signal)
    // It is awaited one turn later; who stops before that has an error of its own to tell.
    range.catch(() => undefined)
    return range
  }
  return {
    sizeBytes,
    async *open() {
      let offset = 0
      for (let next = read(0); next !== null; ) {
        const range = await next
        const wanted = Math.min(RANGE_BYTES, sizeBytes - offset)
        if (range.length !== wanted)
          throw corrupt(`${key} ends at ${offset + range.length} and not at ${sizeBytes}, as it was listed`)
        offset += range.length
        next = read(offset)
        await pace.take(range.length, signal)
        onBytes(range.length)
        yield range
      }
    },
  }
}

/** Where two copies of an object differ; null: nowhere. */
async function differences(
  source: ArchiveStore,
  target: ArchiveStore,
  { key, sizeBytes }: ArchivedKey,
  signal: AbortSignal,
): Promise<string | null> {
  for (let offset = 0; offset < sizeBytes; offset += RANGE_BYTES) {
    const length = Math.min(RANGE_BYTES, sizeBytes - offset)
    const [there, here] = await Promise.all([
      source.readRange(key, offset, length, signal),
      target.readRange(key, offset, length, signal),
    ])
    if (Buffer.compare(there, here) !== 0) return `its bytes from ${offset} on are others`
  }
  return null
}
