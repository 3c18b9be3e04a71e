import { StratalogError } from '../src/model/errors.js'
import type { Incarnation } from '../src/model/segment.js'
import { type ControlObject, damagedControl } from './control-objects.js'

/*
 * The keys of a stream as its `key` control objects hold them: wrapped by a key of a ring. The body of kind `key`:
 *
 *   id        5 base32 digits: of the key that wraps the data keys of objects
 *   digestId  5 base32 digits: of the key of the digests in names, which is the same in every key of a stream
 *   ring      id of the ring, ringKey: id of the key in it
 *   wrapped   base64: both keys, 64 bytes, as the ring wrapped them
 *   atMs      when
 *
 * A key is wrapped again by a new object of the same id (rotation); a new id is a new key. None is ever changed.
 */

/** One wrap of one key of a stream. */
export interface WrappedStreamKey {
  readonly id: string
  readonly digestId: string
  readonly ring: string
  readonly ringKey: string
  readonly wrapped: Uint8Array
  readonly atMs: number
}

/** A key of a stream with every wrap there is of it, oldest first. */
export interface StreamKeyWraps {
  readonly id: string
  readonly digestId: string
  readonly wraps: readonly WrappedStreamKey[]
}

/** Ids of keys of streams and of their digests. */
export const STREAM_KEY_ID: RegExp = /^[0-9a-v]{5}$/
/** Ids of rings and of their keys: they stand in configurations, control objects and messages. */
const RING_NAME = /^[0-9a-z][0-9a-z._-]{0,63}$/
const WRAPPED_BYTES_MAX = 4 * 1024

/** Checks the id of a ring or of one of its keys and returns it. Throws `invalid_argument`. */
export function checkRingName(name: string, what: string): string {
  if (RING_NAME.test(name)) return name
  throw new StratalogError(
    'invalid_argument',
    `${what} ${JSON.stringify(name)} is not one: write 1 to 64 of 0-9 a-z . _ -, beginning with a letter or digit`,
    { found: name },
  )
}

/** What a wrap is bound to: it can't be given to another stream, nor pass for another key. */
export function streamKeyContext(
  incarnation: Incarnation,
  key: Omit<WrappedStreamKey, 'wrapped' | 'atMs'>,
): string {
  return `stratalog-key 1 ${incarnation} ${key.id} ${key.digestId} ${key.ring} ${key.ringKey}`
}

/** The body of a `key` control object. */
export function streamKeyBody(key: WrappedStreamKey): object {
  return { ...key, wrapped: Buffer.from(key.wrapped).toString('base64') }
}

/** The keys of a stream, oldest first, from its `key` control objects in their order. */
export function streamKeysOf(controls: readonly ControlObject[]): StreamKeyWraps[] {
  const keys = new Map<string, { id: string; digestId: string; wraps: WrappedStreamKey[] }>()
  for (const control of controls) {
    if (control.kind !== 'key') continue
    const wrap = wrapOf(control)
    const known = keys.get(wrap.id)
    if (known === undefined) keys.set(wrap.id, { id: wrap.id, digestId: wrap.digestId, wraps: [wrap] })
    else if (known.digestId === wrap.digestId) known.wraps.push(wrap)
    else throw damagedControl(control.key, `key ${wrap.id} has digest key ${known.digestId} elsewhere`)
  }
  return [...keys.values()]
}

/**
 * The key new objects are written with: the newest of those with the first digest key. Of two agents that made the
 * first key at once one lost: digests of a stream are made with one key.
 */
export function currentKeyOf(keys: readonly StreamKeyWraps[]): StreamKeyWraps | null {
  const digestId = keys[0]?.digestId
  return keys.findLast((key) => key.digestId === digestId) ?? null
}

function wrapOf(control: ControlObject): WrappedStreamKey {
  const { id, digestId, ring, ringKey, wrapped, atMs } = control.body
  const text = (value: unknown, form: RegExp, field: string): string => {
    if (typeof value === 'string' && form.test(value)) return value
    throw damagedControl(control.key, `its field ${field} is not what it must be`)
  }
  const base64 = text(wrapped, /^[0-9A-Za-z+/]{4,}={0,2}$/, 'wrapped')
  if (base64.length > WRAPPED_BYTES_MAX * 2) throw damagedControl(control.key, 'its wrapped key is too long')
  if (typeof atMs !== 'number' || !Number.isSafeInteger(atMs))
    throw damagedControl(control.key, 'its field atMs is not what it must be')
  return {
    id: text(id, STREAM_KEY_ID, 'id'),
    digestId: text(digestId, STREAM_KEY_ID, 'digestId'),
    ring: text(ring, RING_NAME, 'ring'),
    ringKey: text(ringKey, RING_NAME, 'ringKey'),
    wrapped: Buffer.from(base64, 'base64'),
    atMs,
  }
}
