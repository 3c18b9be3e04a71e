import { KEY_ID_DIGITS } from '../src/format/archive-names.js'
import { encodeBase32 } from '../src/format/base32.js'
import { corrupt } from '../src/format/bytes.js'
import {
  dataKeyContext,
  KEY_BYTES,
  NONCE_BYTES,
  ObjectCipher,
  type ObjectEnvelope,
  type ObjectPlace,
  openSecret,
  sealSecret,
} from '../src/format/envelope.js'
import { assert, present } from '../src/model/assert.js'
import { isStratalogError, StratalogError } from '../src/model/errors.js'
import type { Incarnation } from '../src/model/segment.js'
import type { ArchiveStore } from '../src/ports/archive-store.js'
import type { Clock } from '../src/ports/clock.js'
import type { KeyRing } from '../src/ports/key-ring.js'
import type { Random } from '../src/ports/random.js'
import { listControlKeys, putControl, readControlsOfKind } from './control-objects.js'
import type { ObjectSealing } from './segment-writer.js'
import {
  checkRingName,
  currentKeyOf,
  type StreamKeyWraps,
  streamKeyBody,
  streamKeyContext,
  streamKeysOf,
  type WrappedStreamKey,
} from './stream-keys.js'

/** Streams whose keys are remembered; those used longest ago are unwrapped again. */
const STREAMS_MAX = 10_000
const KEY_ID_BITS = BigInt(KEY_ID_DIGITS * 5)

/** What a policy says: a ring, and the key in it that wraps the keys of its streams. */
export interface EncryptionChoice {
  /** A file, or the id of the ring that was passed to `openLog`. */
  readonly ring: string
  readonly key: string
}

/** The rings of a log. */
export interface KeyRings {
  /** The ring of a policy. `key_missing` where there is none. */
  named(ring: string): Promise<KeyRing>
  /** Every ring that may have the keys of a stream; one that can't be read is left out and told of in `missing`. */
  known(
    incarnation: Incarnation,
  ): Promise<{ readonly rings: readonly KeyRing[]; readonly missing: readonly StratalogError[] }>
}

/** A key of a stream, unwrapped. */
interface StreamKey {
  readonly id: string
  readonly digestId: string
  /** Wraps data keys. */
  readonly wrapping: Uint8Array
  readonly digest: Uint8Array
}

/** What is known of the keys of one stream. */
interface KnownKeys {
  keys: readonly StreamKeyWraps[]
  readonly unwrapped: Map<string, StreamKey>
}

/** Marks the errors of keys that no ring can bring back. */
const LOST_KEY = 'lostKey'
const KEYS = new WeakMap<ArchiveStore, ArchiveKeys>()

const NO_RINGS: KeyRings = {
  named: (ring) => Promise.reject(noRing(ring)),
  known: () => Promise.resolve({ rings: [], missing: [] }),
}

/** The keys of an archive go with its store: whoever can read an object can decrypt it, in one place. */
export function attachKeys(store: ArchiveStore, keys: ArchiveKeys): void {
  KEYS.set(store, keys)
}

/** The keys of an archive; without a ring whatever is encrypted in it is `key_missing`. */
export function keysOf(store: ArchiveStore): ArchiveKeys {
  let keys = KEYS.get(store)
  if (keys === undefined) {
    keys = new ArchiveKeys({ store, rings: NO_RINGS, random: null, clock: null })
    KEYS.set(store, keys)
  }
  return keys
}

/** Whether an error says that an object can't be read with the rings as they are; of its bytes it says nothing. */
export function isKeyTrouble(error: unknown): error is StratalogError {
  return isStratalogError(error, 'key_missing') || isStratalogError(error, 'key_wrong')
}

/**
 * Whether a key is gone from the archive itself: no other ring would help, and another object of the same content may
 * have another key. Where a ring is wrong or incomplete another object must not hide it.
 */
export function isKeyLost(error: unknown): error is StratalogError {
  return isStratalogError(error, 'key_missing') && error.details[LOST_KEY] !== undefined
}

/** The keys of the streams of one archive: found in its control objects, unwrapped by the rings, remembered. */
export class ArchiveKeys {
  readonly #store: ArchiveStore
  readonly #rings: KeyRings
  readonly #random: Random | null
  readonly #clock: Pick<Clock, 'nowMs'> | null
  readonly #known = new Map<Incarnation, KnownKeys>()

  /** `random` and `clock`: null where nothing is written. */
  constructor(options: {
    readonly store: ArchiveStore
    readonly rings: KeyRings
    readonly random: Random | null
    readonly clock: Pick<Clock, 'nowMs'> | null
  }) {
    this.#store = options.store
    this.#rings = options.rings
    this.#random = options.random
    this.#clock = options.clock
  }

  /** What the parts of an object are decrypted with. `where` names it in errors. */
  async cipher(
    where: string,
    place: ObjectPlace,
    envelope: ObjectEnvelope,
    signal?: AbortSignal,
  ): Promise<ObjectCipher> {
    const { streamKeyId, wrappedKey } = envelope
    const key = await this.#key(place.incarnation, (one) => one.id === streamKeyId, streamKeyId, signal)
    const dataKey = openSecret(key.wrapping, wrappedKey, dataKeyContext(place, streamKeyId))
    // The stream's key is the right one, its ring said so: the object is not what was written under this name.
    if (dataKey === null)
      throw corrupt(`${where}: its envelope was not written under this name: somebody moved or changed it`)
    return new ObjectCipher(dataKey, place)
  }

  /** The key of a digest in a name. */
  async digestKey(incarnation: Incarnation, digestId: string, signal?: AbortSignal): Promise<Uint8Array> {
    return (await this.#key(incarnation, (one) => one.digestId === digestId, digestId, signal)).digest
  }

  /**
   * Keys for one new object of a stream, which gets its first key here. The key is in the archive, wrapped by the key
   * of the policy, before an object needs it.
   */
  async seal(
    incarnation: Incarnation,
    segment: bigint,
    attempt: string,
    choice: EncryptionChoice,
    signal?: AbortSignal,
  ): Promise<ObjectSealing> {
    const ring = await this.#rings.named(choice.ring)
    if ((await this.#keys(incarnation, signal)).keys.length === 0)
      await this.#make(incarnation, ring, choice.key, null, signal)
    const known = await this.#keys(incarnation, signal)
    const current = present(currentKeyOf(known.keys), 'a key that was just made')
    await this.#wrapFor(incarnation, current, ring, choice.key, signal)
    const key = await this.#unwrapped(incarnation, known, current)
    const place = { incarnation, segment, attempt, keyId: key.digestId }
    const dataKey = this.#bytes(KEY_BYTES)
    const context = dataKeyContext(place, key.id)
    return {
      place,
      streamKeyId: key.id,
      wrappedKey: sealSecret(key.wrapping, this.#bytes(NONCE_BYTES), dataKey, context),
      cipher: new ObjectCipher(dataKey, place),
      digestKey: key.digest,
    }
  }

  /**
   * Wraps every key of a stream by the key of the policy, so that the ring's older keys are not needed any more for
   * what is read through the new wraps. Returns how many were wrapped again. Idempotent; a crash leaves less to do.
   */
  async rotate(incarnation: Incarnation, choice: EncryptionChoice, signal?: AbortSignal): Promise<number> {
    const ring = await this.#rings.named(choice.ring)
    this.#known.delete(incarnation)
    const { keys } = await this.#keys(incarnation, signal)
    let wrapped = 0
    for (const key of keys) if (await this.#wrapFor(incarnation, key, ring, choice.key, signal)) wrapped += 1
    return wrapped
  }

  /** Makes a new key for what is written from now on; digests go on under the key they were made with. */
  async renew(incarnation: Incarnation, choice: EncryptionChoice, signal?: AbortSignal): Promise<string> {
    const ring = await this.#rings.named(choice.ring)
    this.#known.delete(incarnation)
    const known = await this.#keys(incarnation, signal)
    const current = currentKeyOf(known.keys)
    const before = current === null ? null : await this.#unwrapped(incarnation, known, current)
    return this.#make(incarnation, ring, choice.key, before, signal)
  }

  /** The keys of a stream and by what they are wrapped. */
  async describe(incarnation: Incarnation, signal?: AbortSignal): Promise<readonly StreamKeyWraps[]> {
    return streamKeysOf(await readControlsOfKind(this.#store, incarnation, 'key', signal))
  }

  async #keys(incarnation: Incarnation, signal?: AbortSignal): Promise<KnownKeys> {
    const known = this.#known.get(incarnation)
    this.#known.delete(incarnation)
    const keys = known ?? { keys: await this.describe(incarnation, signal), unwrapped: new Map() }
    this.#known.set(incarnation, keys)
    for (const oldest of this.#known.keys()) {
      if (this.#known.size <= STREAMS_MAX) break
      this.#known.delete(oldest)
    }
    return keys
  }

  /** The first key that is meant; the archive is looked at again before it counts as missing. */
  async #key(
    incarnation: Incarnation,
    meant: (key: StreamKeyWraps) => boolean,
    id: string,
    signal?: AbortSignal,
  ): Promise<StreamKey> {
    let known = await this.#keys(incarnation, signal)
    let found = known.keys.find(meant)
    if (found === undefined) {
      this.#known.delete(incarnation)
      known = await this.#keys(incarnation, signal)
      found = known.keys.find(meant)
    }
    if (found !== undefined) return this.#unwrapped(incarnation, known, found)
    throw new StratalogError(
      'key_missing',
      `${this.#store.location} has no control object of key ${id} of ${incarnation}: put it back from a copy of the archive`,
      { expected: id, found: known.keys.map((key) => key.id), details: { [LOST_KEY]: id } },
    )
  }

  async #unwrapped(incarnation: Incarnation, known: KnownKeys, key: StreamKeyWraps): Promise<StreamKey> {
    const there = known.unwrapped.get(key.id)
    if (there !== undefined) return there
    const secret = await this.#secret(incarnation, key)
    if (secret.length !== 2 * KEY_BYTES)
      throw corrupt(
        `key ${key.id} of ${incarnation} has ${secret.length} bytes: use the stratalog that made it`,
      )
    const wrapping = secret.slice(0, KEY_BYTES)
    const digest = secret.slice(KEY_BYTES)
    const unwrapped = { id: key.id, digestId: key.digestId, wrapping, digest }
    known.unwrapped.set(key.id, unwrapped)
    return unwrapped
  }

  /** Newest wrap first: the ring may have its newer keys only. Of several failures the most telling one is told. */
  async #secret(incarnation: Incarnation, key: StreamKeyWraps): Promise<Uint8Array> {
    const { rings, missing } = await this.#rings.known(incarnation)
    const failures: StratalogError[] = [...missing]
    for (const wrap of [...key.wraps].reverse()) {
      for (const ring of rings) {
        if (ring.id !== wrap.ring) continue
        try {
          return await ring.unwrap(wrap.ringKey, wrap.wrapped, streamKeyContext(incarnation, wrap))
        } catch (error) {
          if (!isStratalogError(error)) throw error
          failures.push(error)
        }
      }
    }
    // Another process may have wrapped it again meanwhile: the next try looks.
    this.#known.delete(incarnation)
    const telling = failures.find((error) => error.code !== 'key_missing')
    throw telling ?? missingKey(this.#store.location, incarnation, key, rings, failures[0])
  }

  /** Whether a wrap was added. */
  async #wrapFor(
    incarnation: Incarnation,
    key: StreamKeyWraps,
    ring: KeyRing,
    ringKey: string,
    signal?: AbortSignal,
  ): Promise<boolean> {
    if (key.wraps.some((wrap) => wrap.ring === ring.id && wrap.ringKey === ringKey)) return false
    const { wrapping, digest } = await this.#unwrapped(
      incarnation,
      await this.#keys(incarnation, signal),
      key,
    )
    await this.#put(incarnation, key, Buffer.concat([wrapping, digest]), ring, ringKey, signal)
    return true
  }

  /** A new key; the first of a stream gets a key for digests as well. */
  async #make(
    incarnation: Incarnation,
    ring: KeyRing,
    ringKey: string,
    before: StreamKey | null,
    signal?: AbortSignal,
  ): Promise<string> {
    const { keys } = await this.#keys(incarnation, signal)
    const taken = new Set(keys.flatMap(({ id, digestId }) => [id, digestId]))
    const id = this.#freshId(taken)
    const digestId = before?.digestId ?? this.#freshId(taken.add(id))
    const secret = Buffer.concat([this.#bytes(KEY_BYTES), before?.digest ?? this.#bytes(KEY_BYTES)])
    await this.#put(incarnation, { id, digestId }, secret, ring, ringKey, signal)
    return id
  }

  async #put(
    incarnation: Incarnation,
    { id, digestId }: Pick<WrappedStreamKey, 'id' | 'digestId'>,
    secret: Uint8Array,
    ring: KeyRing,
    ringKey: string,
    signal?: AbortSignal,
  ): Promise<void> {
    const { random, clock } = this.#writing()
    const named = { id, digestId, ring: checkRingName(ring.id, 'the id of a ring'), ringKey }
    checkRingName(ringKey, 'the id of a key')
    const wrapped = await ring.wrap(ringKey, secret, streamKeyContext(incarnation, named))
    const body = streamKeyBody({ ...named, wrapped, atMs: clock.nowMs() })
    const controls = await listControlKeys(this.#store, incarnation, signal)
    const number = controls.reduce((highest, one) => (one.number > highest ? one.number : highest), 0n) + 1n
    await putControl(this.#store, incarnation, number, 'key', body, random)
    // Looked at again: another agent may have been as quick.
    this.#known.delete(incarnation)
  }

  #freshId(taken: ReadonlySet<string>): string {
    for (;;) {
      const bits = BigInt(`0x${Buffer.from(this.#bytes(4)).toString('hex')}`) % 2n ** KEY_ID_BITS
      const id = encodeBase32(bits, KEY_ID_DIGITS)
      if (!taken.has(id)) return id
    }
  }

  #bytes(count: number): Uint8Array {
    return this.#writing().random.bytes(count)
  }

  #writing(): { readonly random: Random; readonly clock: Pick<Clock, 'nowMs'> } {
    assert(
      this.#random !== null && this.#clock !== null,
      'keys are made only in an archive that is written to',
    )
    return { random: this.#random, clock: this.#clock }
  }
}

/** The error of a policy that names a ring nobody knows. */
export function noRing(ring: string, cause?: unknown): StratalogError {
  return new StratalogError(
    'key_missing',
    `there is no key ring ${ring}: make it with "stratalog key add ID --key-ring ${ring}", or put it back from its backup`,
    { expected: ring, cause },
  )
}

function missingKey(
  location: string,
  incarnation: Incarnation,
  key: StreamKeyWraps,
  rings: readonly KeyRing[],
  cause: StratalogError | undefined,
): StratalogError {
  const wraps = key.wraps.map((wrap) => `"${wrap.ringKey}" of ring ${wrap.ring}`).join(' or ')
  const found = rings.map((ring) => `ring ${ring.id} (${ring.location})`).join(', ')
  const given = rings.length > 0 ? `what could be read is ${found}` : 'no ring could be read'
  return new StratalogError(
    'key_missing',
    `${location}: ${incarnation} is encrypted and needs key ${wraps}; ${given}: name the ring under encryption.ring or with --key-ring`,
    { expected: key.wraps.map(({ ring, ringKey }) => `${ring}/${ringKey}`), cause },
  )
}
